//! How the router verifies a PostgreSQL client against the database's own accounts.
//!
//! The database keeps no passwords but *verifiers* (`pg_authid.rolpassword`). The router reads them and plays the
//! server's side of the exchange itself, as the `md5` method of `pg_hba.conf` would:
//!
//! ```text
//! rolpassword               challenge                      decided by
//! SCRAM-SHA-256$…           AuthenticationSASL             scram::ScramServer
//! md5<32 hex digits>        AuthenticationMD5Password      md5_matches
//! NULL, or no such role     AuthenticationSASL, a decoy    scram::ScramServer, always Denied
//! ```
//!
//! Everything here is bytes in, bytes out: randomness is an argument, framing is the caller's.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

mod attributes;
pub mod scram;

/// Length of a SHA-256 key, bytes.
pub const KEY_LENGTH: usize = 32;

/// PostgreSQL's default iteration count; a decoy must look like an ordinary role.
const DEFAULT_ITERATIONS: u32 = 4096;

/// PostgreSQL's default salt length, bytes.
const DEFAULT_SALT_LENGTH: usize = 16;

/// No verifier PostgreSQL can store comes near it; it bounds what a broken catalogue can make the router hold.
const MAX_SALT_LENGTH: usize = 1024;

/// What `pg_authid.rolpassword` says about one role.
///
/// Secrets are wiped when it is dropped, and `Debug` never shows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verifier {
    /// `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`.
    Scram(ScramVerifier),
    /// `md5` and 32 hexadecimal digits. The digits are as good as the password for an md5 login.
    Md5(Md5Verifier),
    /// No password, or one in a form that cannot be verified: nobody can log in with a password.
    None,
}

/// A SCRAM-SHA-256 verifier (RFC 5803, in PostgreSQL's notation).
#[derive(Clone, PartialEq, Eq)]
pub struct ScramVerifier {
    /// PBKDF2 iterations, at least 1.
    pub iterations: u32,
    /// Salt, decoded.
    pub salt: Vec<u8>,
    /// `H(ClientKey)`.
    pub stored_key: [u8; KEY_LENGTH],
    /// Proves the server to the client.
    pub server_key: [u8; KEY_LENGTH],
    /// Set on decoys only: the exchange runs to its end and is denied whatever the client proves.
    decoy: bool,
}

/// The 32 hexadecimal digits of `md5(password || role)`.
#[derive(Clone, PartialEq, Eq)]
pub struct Md5Verifier(pub [u8; 32]);

impl Verifier {
    /// Reads `pg_authid.rolpassword`; `None` stands for NULL.
    ///
    /// Text in no known form becomes [`Verifier::None`], as PostgreSQL treats it.
    pub fn parse(rolpassword: Option<&str>) -> Verifier {
        let Some(text) = rolpassword else { return Verifier::None };
        if let Some(verifier) = ScramVerifier::parse(text) {
            return Verifier::Scram(verifier);
        }
        if let Some(verifier) = Md5Verifier::parse(text) {
            return Verifier::Md5(verifier);
        }
        Verifier::None
    }

    /// A stand-in for a role that does not exist or has no password.
    ///
    /// It is the same at every attempt (PostgreSQL's `mock_scram_secret` does likewise), so that an unknown role and a
    /// wrong password look alike on the wire. `cluster_secret` is random, secret, and should outlive restarts: a salt
    /// that changes gives the decoy away. On a cluster whose roles all use md5 a decoy stands out, as it does in
    /// PostgreSQL with `password_encryption = scram-sha-256`.
    pub fn decoy(user: &str, cluster_secret: &[u8]) -> Verifier {
        Verifier::Scram(ScramVerifier::decoy(user, cluster_secret))
    }

    /// Itself, or the decoy for `user` if there is nothing to verify against.
    pub fn or_decoy(self, user: &str, cluster_secret: &[u8]) -> Verifier {
        match self {
            Verifier::None => Verifier::decoy(user, cluster_secret),
            verifier => verifier,
        }
    }
}

impl ScramVerifier {
    /// Reads `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`; `None` if it is anything else.
    pub fn parse(text: &str) -> Option<ScramVerifier> {
        let rest = text.strip_prefix("SCRAM-SHA-256$")?;
        let (parameters, keys) = rest.split_once('$')?;
        let (iterations, salt) = parameters.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let iterations = iterations.parse::<u32>().ok().filter(|count| *count > 0)?;
        let salt = BASE64.decode(salt).ok().filter(|salt| salt.len() <= MAX_SALT_LENGTH)?;
        Some(ScramVerifier {
            iterations,
            salt,
            stored_key: decoded_key(stored_key)?,
            server_key: decoded_key(server_key)?,
            decoy: false,
        })
    }

    /// See [`Verifier::decoy`].
    pub fn decoy(user: &str, cluster_secret: &[u8]) -> ScramVerifier {
        let derive = |label: &[u8]| hmac_sha256(cluster_secret, &[label, b"\0", user.as_bytes()]);
        ScramVerifier {
            iterations: DEFAULT_ITERATIONS,
            salt: derive(b"decoy salt")[..DEFAULT_SALT_LENGTH].to_vec(),
            stored_key: derive(b"decoy stored key"),
            server_key: derive(b"decoy server key"),
            decoy: true,
        }
    }

    /// Whether it is a stand-in that never grants (for logs; never tell the client).
    pub fn is_decoy(&self) -> bool {
        self.decoy
    }
}

impl Md5Verifier {
    /// Reads `md5` and 32 lower-case hexadecimal digits; `None` if it is anything else.
    pub fn parse(text: &str) -> Option<Md5Verifier> {
        let digits: [u8; 32] = text.strip_prefix("md5")?.as_bytes().try_into().ok()?;
        let hexadecimal = digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        hexadecimal.then_some(Md5Verifier(digits))
    }
}

/// Whether `response` answers `AuthenticationMD5Password` with `salt`: `md5 || hex(md5(verifier || salt))`.
///
/// `response` is the payload of the client's PasswordMessage, with or without its closing NUL. The digits are compared
/// in constant time.
pub fn md5_matches(verifier: &Md5Verifier, salt: [u8; 4], response: &[u8]) -> bool {
    let response = response.strip_suffix(&[0]).unwrap_or(response);
    let mut expected = *b"md5................................";
    let digest = Md5::new().chain_update(verifier.0).chain_update(salt).finalize();
    let encoded = hex::encode_to_slice(digest, &mut expected[3..]);
    let matches = encoded.is_ok() & bool::from(expected.ct_eq(response));
    expected.zeroize();
    matches
}

impl Drop for ScramVerifier {
    fn drop(&mut self) {
        self.stored_key.zeroize();
        self.server_key.zeroize();
        self.salt.zeroize();
    }
}

impl Drop for Md5Verifier {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for ScramVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScramVerifier").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

impl fmt::Debug for Md5Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Md5Verifier(..)")
    }
}

fn decoded_key(text: &str) -> Option<[u8; KEY_LENGTH]> {
    let mut bytes = BASE64.decode(text).ok()?;
    let key = bytes.as_slice().try_into().ok();
    bytes.zeroize();
    key
}

#[expect(clippy::expect_used, reason = "HMAC hashes keys that are longer than a block")]
fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; KEY_LENGTH] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests;
