//! A certificate and its key, as read from two PEM files.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_cert::Certificate;
use x509_cert::der::Decode;

use super::{TlsError, content, end_point, provider, read_pem};

/// Who the router is towards its clients.
pub struct TlsIdentity {
    pub(super) certified_key: CertifiedKey,
    pub(super) end_point_hash: Option<Arc<[u8]>>,
    pub(super) expires: SystemTime,
}

impl TlsIdentity {
    /// Reads a chain (leaf first) and its key: PKCS#8, SEC 1 or PKCS#1, not encrypted.
    ///
    /// # Errors
    /// [`TlsError`], naming the file at fault.
    pub fn load(certificate: &Path, key: &Path) -> Result<TlsIdentity, TlsError> {
        let chain = read_chain(certificate)?;
        let leaf = Certificate::from_der(&chain[0])
            .map_err(|error| content(certificate, format!("the first certificate is malformed: {error}")))?;
        let end_point_hash = end_point::hash(&leaf, &chain[0]).map(Arc::from);
        let expires = leaf.tbs_certificate().validity().not_after.to_system_time();
        let signer = provider().key_provider.load_private_key(read_key(key)?).map_err(|error| {
            content(key, format!("the key cannot be used ({error}); give an RSA, ECDSA or Ed25519 key"))
        })?;
        let certified_key = CertifiedKey::new(chain, signer);
        match certified_key.keys_match() {
            Ok(()) => Ok(TlsIdentity { certified_key, end_point_hash, expires }),
            Err(rustls::Error::InconsistentKeys(_)) => {
                Err(TlsError::KeyMismatch { certificate: certificate.to_owned(), key: key.to_owned() })
            }
            Err(error) => Err(content(certificate, format!("the first certificate cannot be used: {error}"))),
        }
    }

    /// The `tls-server-end-point` channel binding (RFC 5929); `None` where it is undefined.
    pub fn end_point_hash(&self) -> Option<&[u8]> {
        self.end_point_hash.as_deref()
    }

    /// When the certificate ceases to be valid.
    pub fn expires(&self) -> SystemTime {
        self.expires
    }
}

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsIdentity").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// At least one certificate.
pub(super) fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read_pem(path)?;
    let chain = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| content(path, format!("not well-formed PEM: {error}")))?;
    if chain.is_empty() {
        return Err(content(path, "no certificate in it; expected -----BEGIN CERTIFICATE-----"));
    }
    Ok(chain)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let pem = read_pem(path)?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| {
        let encrypted = [b"BEGIN ENCRYPTED PRIVATE KEY".as_slice(), b"Proc-Type: 4,ENCRYPTED"];
        if encrypted.iter().any(|mark| pem.windows(mark.len()).any(|window| window == *mark)) {
            return content(
                path,
                "the key is encrypted; decrypt it with: openssl pkey -in KEY -out PLAIN_KEY",
            );
        }
        match error {
            rustls::pki_types::pem::Error::NoItemsFound => {
                content(path, "no private key in it; expected -----BEGIN PRIVATE KEY-----")
            }
            error => content(path, format!("not well-formed PEM: {error}")),
        }
    })
}
