//! TLS towards the clients: which certificate, which protocol versions, and what to say when a handshake fails.
//!
//! ```text
//! files ──TlsIdentity::load──► identity ──Tls::load──► Tls ──offer()──► acceptor + channel-binding hash
//!                                                       ▲
//!                                                       └── reload(): the old identity serves on if the new one is bad
//! ```
//!
//! TLS 1.3 and 1.2 only; older clients get the alert `protocol_version` (see [`TlsOffer::accept`]). Handshake deadlines
//! are the caller's. The name that a client asked for (SNI) is `server_name()` of the finished connection.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use rustls::crypto::CryptoProvider;
use rustls::server::ServerSessionMemoryCache;
use rustls::sign::SingleCertAndKey;
use rustls::{ServerConfig, ServerConnection};
use thiserror::Error;
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

mod accept;
mod development;
mod end_point;
mod identity;
mod refusal;

pub use development::DevelopmentCertificates;
pub use identity::TlsIdentity;
pub use refusal::TlsRefusal;

/// The ALPN name of PostgreSQL's protocol (registered with IANA; PostgreSQL 17's direct TLS insists on it).
pub const POSTGRESQL_ALPN: &[u8] = b"postgresql";

/// Sessions remembered for TLS 1.2 clients that know no tickets.
const REMEMBERED_SESSIONS: usize = 1024;

/// Longest PEM file taken, bytes; a chain of certificates is a hundredth of it.
const MAX_PEM_BYTES: u64 = 1 << 20;

/// What is wrong with the certificates. The text names the file and what to do about it.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}; check the path in [tls] and that this user may read it", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}: {source}; check that data_dir exists, has space and belongs to this user", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file holds something else than it should.
    #[error("{}: {problem}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// Certificate and key do not belong together.
    #[error("{} is not the key of {}; give the pair that was issued together", key.display(), certificate.display())]
    KeyMismatch {
        /// The certificate file.
        certificate: PathBuf,
        /// The key file.
        key: PathBuf,
    },
    /// A development certificate cannot be made.
    #[error("cannot make the development certificate: {0}; give your own in [tls]")]
    Issue(String),
    /// The TLS library refuses to work (no randomness, usually).
    #[error("TLS cannot be set up: {0}")]
    Library(#[from] rustls::Error),
}

/// What one client is offered. Take it once per connection: [`Tls::reload`] may come in between.
#[derive(Clone)]
pub struct TlsOffer {
    /// The plain acceptor; [`TlsOffer::accept`] is clearer towards old clients and in the log.
    pub acceptor: TlsAcceptor,
    /// The `tls-server-end-point` hash of the certificate that this acceptor shows; `None` if it has none, and then
    /// channel binding must not be offered.
    pub end_point_hash: Option<Arc<[u8]>>,
}

/// The router's TLS server side: one certificate, exchangeable while clients are connected.
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    current: RwLock<Arc<Served>>,
}

struct Served {
    config: Arc<ServerConfig>,
    end_point_hash: Option<Arc<[u8]>>,
    expires: SystemTime,
}

impl Tls {
    /// Reads the PEM files `certificate` (leaf first, then its chain) and `key`.
    ///
    /// # Errors
    /// [`TlsError`], for files that are missing, unreadable or no pair.
    pub fn load(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Result<Tls, TlsError> {
        let (certificate, key) = (certificate.into(), key.into());
        let served = Served::load(&certificate, &key)?;
        Ok(Tls { certificate, key, current: RwLock::new(Arc::new(served)) })
    }

    /// Acceptor and channel-binding hash of the same certificate.
    pub fn offer(&self) -> TlsOffer {
        let served = self.served();
        TlsOffer {
            acceptor: TlsAcceptor::from(Arc::clone(&served.config)),
            end_point_hash: served.end_point_hash.clone(),
        }
    }

    /// The acceptor of this moment; where SCRAM may follow, use [`Tls::offer`].
    pub fn acceptor(&self) -> TlsAcceptor {
        self.offer().acceptor
    }

    /// The `tls-server-end-point` hash of this moment; see [`Tls::offer`].
    pub fn end_point_hash(&self) -> Option<Arc<[u8]>> {
        self.served().end_point_hash.clone()
    }

    /// When the certificate in use ceases to be valid.
    pub fn expires(&self) -> SystemTime {
        self.served().expires
    }

    /// Reads the files again, for clients that connect from now on; sessions cannot be resumed across it.
    ///
    /// Blocks for as long as reading two small files takes.
    ///
    /// # Errors
    /// [`TlsError`]; the identity in use stays.
    pub fn reload(&self) -> Result<(), TlsError> {
        let served = Arc::new(Served::load(&self.certificate, &self.key)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = served;
        Ok(())
    }

    fn served(&self) -> Arc<Served> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Served {
    fn load(certificate: &Path, key: &Path) -> Result<Served, TlsError> {
        let identity = TlsIdentity::load(certificate, key)?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(identity.certified_key)));
        // A client that offers ALPN must offer this name; one that offers none (libpq before 17, every MySQL client)
        // is served as well.
        config.alpn_protocols = vec![POSTGRESQL_ALPN.to_vec()];
        config.session_storage = ServerSessionMemoryCache::new(REMEMBERED_SESSIONS);
        config.ticketer = rustls::crypto::ring::Ticketer::new()?;
        Ok(Served {
            config: Arc::new(config),
            end_point_hash: identity.end_point_hash,
            expires: identity.expires,
        })
    }
}

/// Whether the client agreed on ALPN `postgresql`. A client that starts TLS directly, without SSLRequest, must have:
/// otherwise bytes meant for another protocol could be passed off as PostgreSQL's.
pub fn agreed_on_postgresql(connection: &ServerConnection) -> bool {
    connection.alpn_protocol() == Some(POSTGRESQL_ALPN)
}

/// Named, because the process-wide default depends on what other crates switch on.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Reads a PEM file whole; wiped after use, as it may hold a key.
fn read_pem(path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let failed = |source| TlsError::Read { path: path.to_owned(), source };
    let mut bytes = Zeroizing::new(Vec::new());
    File::open(path).and_then(|file| file.take(MAX_PEM_BYTES + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > MAX_PEM_BYTES {
        return Err(content(path, "larger than 1 MiB: this is no PEM file; check the path in [tls]"));
    }
    Ok(bytes)
}

fn content(path: &Path, problem: impl Into<String>) -> TlsError {
    TlsError::Content { path: path.to_owned(), problem: problem.into() }
}

#[cfg(test)]
mod tests;
