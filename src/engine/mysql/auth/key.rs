//! The RSA exchange of the SHA-256 plugins: a client that would have to show its password on an unencrypted connection
//! asks for a public key and shows it sealed.
//!
//! This protects the password from those who listen, and nothing else; whoever can change the bytes puts a key of their
//! own in the place of this one. With TLS it is not used.

use rsa::pkcs8::{DecodePublicKey, EncodePublicKey, LineEnding};
use rsa::rand_core::{TryCryptoRng, TryRng};
use rsa::{Oaep, RsaPrivateKey, RsaPublicKey};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

/// Of the keys that servers make for themselves.
const BITS: usize = 2048;

/// A key pair.
pub struct Key {
    private: RsaPrivateKey,
    /// The public half, as servers hand it out.
    pub pem: String,
}

impl Key {
    /// Makes a pair. Takes a good part of a second. `None`: it cannot be made.
    pub fn new(random: &[u8]) -> Option<Key> {
        let private = RsaPrivateKey::new(&mut Stream::new(b"key", random), BITS).ok()?;
        let pem = private.to_public_key().to_public_key_pem(LineEnding::LF).ok()?;
        Some(Key { private, pem })
    }

    /// What was sealed for this key and this challenge, without the zero byte at its end. `None`: nothing was.
    pub fn open(&self, sealed: &[u8], salt: &[u8], random: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let mut blinding = Stream::new(b"blinding", random);
        let opened = self.private.decrypt_blinded(&mut blinding, Oaep::<Sha1>::new(), sealed).ok()?;
        let mut opened = Zeroizing::new(opened);
        mask(&mut opened, salt);
        (opened.pop() == Some(0)).then_some(opened)
    }
}

/// Seals a password for a server's key. `None`: it is no key.
pub fn seal(pem: &[u8], password: &[u8], salt: &[u8]) -> Option<Vec<u8>> {
    let key = RsaPublicKey::from_public_key_pem(std::str::from_utf8(pem).ok()?.trim()).ok()?;
    let mut clear = Zeroizing::new(Vec::with_capacity(password.len() + 1));
    clear.extend_from_slice(password);
    clear.push(0);
    mask(&mut clear, salt);
    // Not random, but different for every challenge and password: this goes over a Unix socket, over which the other
    // plugin's passwords go as they are.
    let mut padding = Stream::new(password, salt);
    key.encrypt(&mut padding, Oaep::<Sha1>::new(), &clear).ok()
}

fn mask(text: &mut [u8], salt: &[u8]) {
    text.iter_mut().zip(salt.iter().cycle()).for_each(|(byte, salt)| *byte ^= salt);
}

/// Randomness drawn out of a seed: SHA-256 in counter mode.
struct Stream {
    seed: [u8; 32],
    counter: u64,
}

impl Stream {
    fn new(purpose: &[u8], random: &[u8]) -> Stream {
        Stream {
            seed: Sha256::new().chain_update(random).chain_update(purpose).finalize().into(),
            counter: 0,
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.seed.zeroize();
    }
}

impl TryRng for Stream {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, into: &mut [u8]) -> Result<(), Self::Error> {
        for part in into.chunks_mut(32) {
            let block =
                Sha256::new().chain_update(self.seed).chain_update(self.counter.to_le_bytes()).finalize();
            part.copy_from_slice(&block[..part.len()]);
            self.counter += 1;
        }
        Ok(())
    }
}

impl TryCryptoRng for Stream {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_is_opened() {
        let key = Key::new(b"not random at all").unwrap();
        assert!(key.pem.starts_with("-----BEGIN PUBLIC KEY-----\n"));
        let salt = b"12345678901234567890";
        let sealed = seal(key.pem.as_bytes(), b"a password that is longer than the salt", salt).unwrap();
        assert_eq!(
            key.open(&sealed, salt, b"x").unwrap().as_slice(),
            b"a password that is longer than the salt"
        );
        assert!(key.open(&sealed[1..], salt, b"x").is_none());
        assert!(seal(b"no key", b"x", salt).is_none());
    }
}
