//! The channel binding `tls-server-end-point` (RFC 5929 section 4): a hash of the server's certificate.
//!
//! The hash function is the one in the certificate's signature algorithm, except that MD5 and SHA-1 become SHA-256.
//! Where the algorithm names no single hash function (Ed25519, Ed448) the binding is undefined.

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use x509_cert::Certificate;
use x509_cert::der::asn1::{AnyRef, ContextSpecific, ObjectIdentifier};
use x509_cert::der::{Decode, Encode, Reader, SliceReader, TagNumber};
use x509_cert::spki::AlgorithmIdentifierOwned;

const RSA_PSS: &str = "1.2.840.113549.1.1.10";

/// The binding for the certificate `leaf`, whose encoding is `der`.
pub(super) fn hash(leaf: &Certificate, der: &[u8]) -> Option<Vec<u8>> {
    let digest = match hash_name(leaf.signature_algorithm())? {
        Hash::Sha224 => Sha224::digest(der).to_vec(),
        Hash::Sha256 => Sha256::digest(der).to_vec(),
        Hash::Sha384 => Sha384::digest(der).to_vec(),
        Hash::Sha512 => Sha512::digest(der).to_vec(),
    };
    Some(digest)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hash {
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

fn hash_name(algorithm: &AlgorithmIdentifierOwned) -> Option<Hash> {
    match algorithm.oid.to_string().as_str() {
        // MD5 and SHA-1 with RSA, SHA-1 with ECDSA; then RSA and ECDSA with SHA-256
        "1.2.840.113549.1.1.4" | "1.2.840.113549.1.1.5" | "1.2.840.10045.4.1" => Some(Hash::Sha256),
        "1.2.840.113549.1.1.11" | "1.2.840.10045.4.3.2" => Some(Hash::Sha256),
        "1.2.840.113549.1.1.14" | "1.2.840.10045.4.3.1" => Some(Hash::Sha224),
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => Some(Hash::Sha384),
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => Some(Hash::Sha512),
        RSA_PSS => pss_hash_name(algorithm),
        _ => None,
    }
}

/// RSASSA-PSS names its hash in the parameters (RFC 4055): `SEQUENCE { [0] hashAlgorithm DEFAULT sha1, … }`.
fn pss_hash_name(algorithm: &AlgorithmIdentifierOwned) -> Option<Hash> {
    let encoded = algorithm.parameters.as_ref()?.to_der().ok()?;
    let parameters = AnyRef::from_der(&encoded).ok()?;
    let mut reader = SliceReader::new(parameters.value()).ok()?;
    if reader.is_finished() {
        return Some(Hash::Sha256);
    }
    let named =
        ContextSpecific::<AlgorithmIdentifierOwned>::decode_explicit(&mut reader, TagNumber(0)).ok()?;
    let Some(named) = named else { return Some(Hash::Sha256) };
    digest_name(named.value.oid)
}

fn digest_name(oid: ObjectIdentifier) -> Option<Hash> {
    match oid.to_string().as_str() {
        "1.2.840.113549.2.5" | "1.3.14.3.2.26" | "2.16.840.1.101.3.4.2.1" => Some(Hash::Sha256),
        "2.16.840.1.101.3.4.2.2" => Some(Hash::Sha384),
        "2.16.840.1.101.3.4.2.3" => Some(Hash::Sha512),
        "2.16.840.1.101.3.4.2.4" => Some(Hash::Sha224),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_cert::der::asn1::Any;

    fn algorithm(oid: &str, parameters: Option<&[u8]>) -> AlgorithmIdentifierOwned {
        AlgorithmIdentifierOwned {
            oid: ObjectIdentifier::new_unwrap(oid),
            parameters: parameters.map(|der| Any::from_der(der).unwrap()),
        }
    }

    #[test]
    fn follows_the_signature_algorithm() {
        for (oid, expected) in [
            ("1.2.840.113549.1.1.5", Some(Hash::Sha256)),
            ("1.2.840.113549.1.1.11", Some(Hash::Sha256)),
            ("1.2.840.113549.1.1.12", Some(Hash::Sha384)),
            ("1.2.840.10045.4.3.4", Some(Hash::Sha512)),
            ("1.3.101.112", None),
            ("1.3.101.113", None),
            (RSA_PSS, None),
        ] {
            assert_eq!(hash_name(&algorithm(oid, None)), expected, "{oid}");
        }
    }

    #[test]
    fn reads_the_hash_of_pss() {
        let sha384 = hex::decode("3011a00f300d06096086480165030402020500").unwrap();
        assert_eq!(hash_name(&algorithm(RSA_PSS, Some(&sha384))), Some(Hash::Sha384));
        assert_eq!(hash_name(&algorithm(RSA_PSS, Some(&[0x30, 0]))), Some(Hash::Sha256));
    }
}
