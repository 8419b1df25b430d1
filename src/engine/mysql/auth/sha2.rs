//! `caching_sha2_password` and `sha256_password`: what is kept is the SHA-256 variant of SHA-crypt, with a longer salt
//! than other users of it have.
//!
//! Sources: MySQL "Caching SHA-2 Pluggable Authentication" and "`caching_sha2_password` information" in its protocol
//! documentation; U. Drepper, "Unix crypt using SHA-256 and SHA-512".

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// The plugins' names.
pub const CACHING: &str = "caching_sha2_password";
/// See above.
pub const PLAIN: &str = "sha256_password";

/// Length of a digest, bytes.
pub const LENGTH: usize = 32;
/// The longest password that a server takes (`MAX_PLAINTEXT_LENGTH`): the work grows with it.
const MAX_PASSWORD: usize = 256;
/// Length of a salt, and of an encoded digest.
const SALT: usize = 20;
const ENCODED: usize = 43;
/// SHA-crypt's own default.
const ROUNDS: u32 = 5000;
/// No server can be told more (`0xFFF` times 1000).
const MAX_ROUNDS: u32 = 4_095_000;

/// What the server keeps.
#[derive(Clone, PartialEq, Eq)]
pub struct Stored {
    rounds: u32,
    salt: Vec<u8>,
    digest: Vec<u8>,
}

impl Stored {
    /// Reads `$A$005$` (hexadecimal thousands of rounds) or `$5$`, then salt and digest. `None`: something else.
    pub fn parse(text: &str) -> Option<Stored> {
        let (rounds, rest) = if let Some(rest) = text.strip_prefix("$A$") {
            let (thousands, rest) = rest.split_once('$')?;
            (u32::from_str_radix(thousands, 16).ok()?.checked_mul(1000)?, rest.as_bytes())
        } else {
            (ROUNDS, text.strip_prefix("$5$")?.as_bytes())
        };
        let (salt, digest) = rest.split_at_checked(SALT)?;
        // One kind has a `$` between the two, the other has not.
        let digest = digest.strip_prefix(b"$").unwrap_or(digest);
        let sound = digest.len() == ENCODED && (1..=MAX_ROUNDS).contains(&rounds);
        sound.then(|| Stored { rounds, salt: salt.to_vec(), digest: digest.to_vec() })
    }

    /// Something that no password fits, and that takes as long to find out.
    pub fn decoy(salt: [u8; SALT]) -> Stored {
        Stored { rounds: ROUNDS, salt: salt.to_vec(), digest: vec![b'!'; ENCODED] }
    }

    /// Whether it was made from this password. Takes some milliseconds, as it should.
    pub fn fits(&self, password: &[u8]) -> bool {
        password.len() <= MAX_PASSWORD
            && bool::from(encode(&crypt(password, &self.salt, self.rounds))[..].ct_eq(&self.digest))
    }
}

/// What a client shows that knows the password: `SHA256(p) ⊕ SHA256(SHA256(SHA256(p)) ‖ nonce)`.
pub fn answer(password: &[u8], nonce: &[u8]) -> [u8; LENGTH] {
    let once = Zeroizing::new(<[u8; LENGTH]>::from(Sha256::digest(password)));
    let twice = Sha256::digest(*once);
    let mut answer: [u8; LENGTH] = Sha256::new().chain_update(twice).chain_update(nonce).finalize().into();
    answer.iter_mut().zip(once.iter()).for_each(|(byte, secret)| *byte ^= secret);
    answer
}

/// SHA-crypt's digest before it is encoded.
fn crypt(password: &[u8], salt: &[u8], rounds: u32) -> Zeroizing<[u8; LENGTH]> {
    let inner = Sha256::new().chain_update(password).chain_update(salt).chain_update(password).finalize();
    let mut sum = Sha256::new().chain_update(password).chain_update(salt);
    repeated(&inner, password.len(), |part| sum.update(part));
    let mut length = password.len();
    while length > 0 {
        sum.update(if length & 1 == 1 { &inner[..] } else { password });
        length >>= 1;
    }
    let mut digest = Zeroizing::new(<[u8; LENGTH]>::from(sum.finalize()));

    let mut sum = Sha256::new();
    (0..password.len()).for_each(|_| sum.update(password));
    let mut of_password = Zeroizing::new(Vec::with_capacity(password.len()));
    repeated(&sum.finalize(), password.len(), |part| of_password.extend_from_slice(part));
    let mut sum = Sha256::new();
    (0..16 + usize::from(digest[0])).for_each(|_| sum.update(salt));
    let mut of_salt = Vec::with_capacity(salt.len());
    repeated(&sum.finalize(), salt.len(), |part| of_salt.extend_from_slice(part));

    for round in 0..rounds {
        let odd = round & 1 == 1;
        let mut sum = Sha256::new();
        sum.update(if odd { &of_password[..] } else { &digest[..] });
        if round % 3 != 0 {
            sum.update(&of_salt);
        }
        if round % 7 != 0 {
            sum.update(&of_password[..]);
        }
        sum.update(if odd { &digest[..] } else { &of_password[..] });
        digest.copy_from_slice(&sum.finalize());
    }
    digest
}

/// Gives out `length` bytes of `block`, over and over.
fn repeated(block: &[u8], mut length: usize, mut give: impl FnMut(&[u8])) {
    while length > 0 {
        let part = length.min(block.len());
        give(&block[..part]);
        length -= part;
    }
}

/// SHA-crypt's own order of bytes and alphabet.
fn encode(digest: &[u8; LENGTH]) -> [u8; ENCODED] {
    const ALPHABET: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut encoded = [0; ENCODED];
    let mut at = 0;
    let mut put = |mut bits: u32, digits: usize| {
        for _ in 0..digits {
            encoded[at] = ALPHABET[(bits & 0x3f) as usize];
            bits >>= 6;
            at += 1;
        }
    };
    let byte = |index: usize| u32::from(digest[index]);
    for group in 0..10 {
        // 0 10 20, 21 1 11, 12 22 2, …
        let mut indices = [group, group + 10, group + 20];
        indices.rotate_right(group % 3);
        put(byte(indices[0]) << 16 | byte(indices[1]) << 8 | byte(indices[2]), 4);
    }
    put(byte(31) << 8 | byte(30), 3);
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_others() {
        // What crypt(3) of the GNU C library makes of them; its salts are shorter than a server's.
        let long = "we have a short salt string but not a short password";
        for (password, salt, rounds, encoded) in [
            ("Hello world!", "saltstring", 5000, "5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5"),
            ("Hello world!", "saltstringsaltst", 10_000, "3xv.VbSHBb41AL9AvLeujZkZRBAwqFMz2.opqey6IcA"),
            (long, "short", 77_777, "JiO1O3ZpDAxGJeaDIuqCoEFysAe1mZNJRs3pw0KQRd/"),
        ] {
            let digest = encode(&crypt(password.as_bytes(), salt.as_bytes(), rounds));
            assert_eq!(std::str::from_utf8(&digest), Ok(encoded));
        }
    }

    #[test]
    fn stored_forms() {
        let encoded = "5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEl8";
        let salt = "12345678901234567890";
        let parse = |text: String| Stored::parse(&text);
        assert_eq!(parse(format!("$A$005${salt}{encoded}")).unwrap().rounds, 5000);
        assert_eq!(parse(format!("$A$00A${salt}{encoded}")).unwrap().rounds, 10_000);
        assert!(parse(format!("$5${salt}${encoded}")).is_some());
        for text in [String::new(), format!("$A$000${salt}{encoded}"), format!("$A$005${salt}{encoded}x")] {
            assert!(parse(text).is_none());
        }
        assert!(!Stored::decoy([7; 20]).fits(b""));
    }
}
