//! A certificate authority and a wildcard certificate for development, made on first start.
//!
//! ```text
//! <dir>         0755    so that a client on this machine can read ca.pem, if the folders above allow it
//!   ca.pem      0644    what clients trust (sslrootcert)
//!   ca.key      0600
//!   server.pem  0644    what the router shows
//!   server.key  0600
//! ```
//!
//! The test for "still good" is a client's: would it, thirty days from now, accept the server's certificate under
//! `ca.pem` for every name? If not, the server's certificate is made anew; the authority only if it cannot sign one.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use x509_cert::der::Decode;
use zeroize::Zeroizing;

use super::identity::read_chain;
use super::{TlsError, TlsIdentity, provider, read_pem};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Renewed when less than this is left, so that a router that runs for weeks does not outlive its certificate.
const RENEW_BEFORE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

const CA_DAYS: u32 = 3650;

/// Some clients refuse server certificates that live longer.
const SERVER_DAYS: u32 = 397;

/// Covers clocks that run behind.
const BACKDATED_DAYS: u32 = 1;

const PUBLIC_MODE: u32 = 0o644;
const PRIVATE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o755;

/// The files of the development authority, and what was done about them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevelopmentCertificates {
    /// What clients trust.
    pub ca: PathBuf,
    /// The router's certificate.
    pub certificate: PathBuf,
    /// The router's key.
    pub key: PathBuf,
    /// A new authority was made: clients must be given the new `ca.pem`.
    pub made_authority: bool,
    /// A new server certificate was made.
    pub made_certificate: bool,
}

impl DevelopmentCertificates {
    /// Makes what is missing, broken or about to expire in `dir`; see [`DevelopmentCertificates::ensure_at`].
    ///
    /// # Errors
    /// [`TlsError`], if a file cannot be written or a certificate cannot be made.
    pub fn ensure(dir: &Path) -> Result<DevelopmentCertificates, TlsError> {
        DevelopmentCertificates::ensure_at(dir, SystemTime::now())
    }

    /// Like [`DevelopmentCertificates::ensure`], at another time than now. Every file is replaced in one step; a crash
    /// between two of them leaves a pair that does not match and is made anew at the next start.
    ///
    /// # Errors
    /// As [`DevelopmentCertificates::ensure`].
    pub fn ensure_at(dir: &Path, now: SystemTime) -> Result<DevelopmentCertificates, TlsError> {
        make_folder(dir)?;
        let folder = Folder { dir: dir.to_owned(), names: names() };
        let mut done = DevelopmentCertificates {
            ca: folder.file("ca.pem"),
            certificate: folder.file("server.pem"),
            key: folder.file("server.key"),
            made_authority: false,
            made_certificate: false,
        };
        folder.close_keys()?;
        if folder.is_good(now) {
            return Ok(done);
        }
        done.made_certificate = true;
        if folder.authority_lasts(now)
            && let Ok(authority) = folder.read_authority()
        {
            folder.issue(&authority, now)?;
            if folder.is_good(now) {
                return Ok(done);
            }
        }
        let authority = folder.make_authority(now)?;
        done.made_authority = true;
        folder.issue(&authority, now)?;
        Ok(done)
    }
}

struct Folder {
    dir: PathBuf,
    names: Vec<String>,
}

impl Folder {
    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Keys copied about may have become readable for others.
    fn close_keys(&self) -> Result<(), TlsError> {
        for name in ["ca.key", "server.key"] {
            let path = self.file(name);
            match fs::set_permissions(&path, Permissions::from_mode(PRIVATE_MODE)) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(TlsError::Write { path, source });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether a client that trusts `ca.pem` will accept the router under each of its names for a while yet.
    fn is_good(&self, now: SystemTime) -> bool {
        let pair = TlsIdentity::load(&self.file("server.pem"), &self.file("server.key"));
        pair.is_ok() && self.authority_lasts(now) && self.accepted(now) && self.accepted(now + RENEW_BEFORE)
    }

    fn accepted(&self, at: SystemTime) -> bool {
        let (Ok(roots), Ok(chain)) = (read_chain(&self.file("ca.pem")), read_chain(&self.file("server.pem")))
        else {
            return false;
        };
        let Some(verifier) = verifier(&roots[0]) else { return false };
        let Ok(since_epoch) = at.duration_since(UNIX_EPOCH) else { return false };
        let at = UnixTime::since_unix_epoch(since_epoch);
        self.names.iter().all(|name| {
            let asked = name.replace("*.", "any.");
            // Some libraries, this verifier's among them, want two labels after a wildcard; others use `*.localhost`.
            asked == "any.localhost"
                || ServerName::try_from(asked)
                    .is_ok_and(|asked| verifier.verify_server_cert(&chain[0], &[], &asked, &[], at).is_ok())
        })
    }

    /// The dates of `ca.pem`; verifiers look at those of the server's certificate only.
    fn authority_lasts(&self, now: SystemTime) -> bool {
        let Ok(chain) = read_chain(&self.file("ca.pem")) else { return false };
        x509_cert::Certificate::from_der(&chain[0]).is_ok_and(|ca| {
            let validity = ca.tbs_certificate().validity();
            validity.not_before.to_system_time() <= now
                && validity.not_after.to_system_time() >= now + RENEW_BEFORE
        })
    }

    fn read_authority(&self) -> Result<Issuer<'static, KeyPair>, TlsError> {
        let pem = read_pem(&self.file("ca.key"))?;
        let text = str::from_utf8(&pem).map_err(|error| TlsError::Issue(error.to_string()))?;
        let key = KeyPair::from_pem(text).map_err(issue)?;
        // The name is always the same, so the key is all that has to be read; a foreign ca.pem shows when the
        // certificate made here is checked against it.
        Ok(Issuer::new(authority_parameters(UNIX_EPOCH), key))
    }

    fn make_authority(&self, now: SystemTime) -> Result<Issuer<'static, KeyPair>, TlsError> {
        let key = KeyPair::generate().map_err(issue)?;
        let parameters = authority_parameters(now);
        let certificate = parameters.self_signed(&key).map_err(issue)?;
        let pem = Zeroizing::new(key.serialize_pem());
        replace(&self.file("ca.key"), pem.as_bytes(), PRIVATE_MODE)?;
        replace(&self.file("ca.pem"), certificate.pem().as_bytes(), PUBLIC_MODE)?;
        Ok(Issuer::new(parameters, key))
    }

    fn issue(&self, authority: &Issuer<'_, KeyPair>, now: SystemTime) -> Result<(), TlsError> {
        let key = KeyPair::generate().map_err(issue)?;
        let mut parameters = CertificateParams::new(self.names.clone()).map_err(issue)?;
        parameters.distinguished_name.push(DnType::CommonName, "Scalepoint development server");
        parameters.use_authority_key_identifier_extension = true;
        parameters.is_ca = IsCa::ExplicitNoCa;
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        set_validity(&mut parameters, now, SERVER_DAYS);
        let certificate = parameters.signed_by(&key, authority).map_err(issue)?;
        let pem = Zeroizing::new(key.serialize_pem());
        replace(&self.file("server.key"), pem.as_bytes(), PRIVATE_MODE)?;
        replace(&self.file("server.pem"), certificate.pem().as_bytes(), PUBLIC_MODE)
    }
}

fn authority_parameters(now: SystemTime) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, "Scalepoint development CA (not for production)");
    // It signs servers, not other authorities.
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut parameters, now, CA_DAYS);
    parameters
}

fn set_validity(parameters: &mut CertificateParams, now: SystemTime, days: u32) {
    let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = date_time_ymd(1970, 1, 1) + since_epoch;
    parameters.not_before = now - DAY * BACKDATED_DAYS;
    parameters.not_after = now + DAY * days;
}

/// The names under which clients on this machine and its network may call.
fn names() -> Vec<String> {
    let mut names: Vec<String> =
        ["*.cluster.localhost", "localhost", "*.localhost", "127.0.0.1", "::1"].map(String::from).to_vec();
    let host = nix::unistd::gethostname().ok().and_then(|host| host.into_string().ok()).unwrap_or_default();
    if !names.contains(&host) && ServerName::try_from(host.as_str()).is_ok() {
        names.push(host);
    }
    names
}

fn verifier(root: &CertificateDer<'static>) -> Option<std::sync::Arc<WebPkiServerVerifier>> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).ok()?;
    WebPkiServerVerifier::builder_with_provider(roots.into(), provider()).build().ok()
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn issue(error: rcgen::Error) -> TlsError {
    TlsError::Issue(error.to_string())
}

fn make_folder(dir: &Path) -> Result<(), TlsError> {
    let failed = |source| TlsError::Write { path: dir.to_owned(), source };
    if dir.is_dir() {
        return Ok(());
    }
    // Folders above it hold the data: made here only in a hurry, and then for nobody else.
    if let Some(above) = dir.parent().filter(|above| !above.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(above).map_err(failed)?;
    }
    DirBuilder::new().mode(FOLDER_MODE).create(dir).map_err(failed)
}

/// Readers see the old file or the new one, never half of it; a key is never on disk with open permissions.
fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), TlsError> {
    let failed = |source| TlsError::Write { path: path.to_owned(), source };
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    match fs::remove_file(&draft) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(failed(source)),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&draft).map_err(failed)?;
    file.set_permissions(Permissions::from_mode(mode)).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&draft, path).map_err(failed)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}

#[cfg(test)]
mod tests;
