//! `mysql_native_password`: a challenge and SHA-1.
//!
//! The server keeps `H2 = SHA1(SHA1(p))`; the client shows `SHA1(p) ⊕ SHA1(salt ‖ H2)`. Whoever knows `H2` and has seen
//! one answer knows `SHA1(p)`, and can answer any challenge (MySQL "Native Authentication").

use sha1::{Digest, Sha1};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// The plugin's name.
pub const PLUGIN: &str = "mysql_native_password";

/// Length of a digest, bytes.
const LENGTH: usize = 20;

/// What the server keeps.
pub type Stored = [u8; LENGTH];

/// Reads `*` and 40 hexadecimal digits. `None`: something else.
pub fn parse(text: &str) -> Option<Stored> {
    let mut stored = [0; LENGTH];
    hex::decode_to_slice(text.strip_prefix('*')?, &mut stored).ok()?;
    Some(stored)
}

/// `SHA1(password)`.
pub fn secret(password: &[u8]) -> Zeroizing<[u8; LENGTH]> {
    Zeroizing::new(Sha1::digest(password).into())
}

/// Whether `secret` is of the password behind one of these.
pub fn fits(kept: &[Stored], secret: &[u8; LENGTH]) -> bool {
    let found: Stored = Sha1::digest(secret).into();
    kept.iter().any(|stored| bool::from(found.ct_eq(stored)))
}

/// Whether `answer` shows the password behind `stored`; if it does, `SHA1(password)`.
pub fn verify(stored: &Stored, salt: &[u8], answer: &[u8]) -> Option<Zeroizing<[u8; LENGTH]>> {
    let answer: &[u8; LENGTH] = answer.try_into().ok()?;
    let mut secret = Zeroizing::new(mask(stored, salt));
    secret.iter_mut().zip(answer).for_each(|(byte, shown)| *byte ^= shown);
    let found: Stored = Sha1::digest(*secret).into();
    bool::from(found.ct_eq(stored)).then_some(secret)
}

/// Answers a challenge.
pub fn answer(secret: &[u8; LENGTH], salt: &[u8]) -> [u8; LENGTH] {
    let mut answer = mask(&Sha1::digest(secret).into(), salt);
    answer.iter_mut().zip(secret).for_each(|(byte, secret)| *byte ^= secret);
    answer
}

fn mask(stored: &Stored, salt: &[u8]) -> [u8; LENGTH] {
    Sha1::new().chain_update(salt).chain_update(stored).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_gives_the_secret_away() {
        // PASSWORD('pw') of MariaDB 10.11.
        let stored = parse("*D821809F681A40A6E379B50D0463EFAE20BDD122").unwrap();
        assert_eq!(<Stored>::from(Sha1::digest(*secret(b"pw"))), stored);
        let salt = b"01234567890123456789";
        let shown = answer(&secret(b"pw"), salt);
        assert_eq!(verify(&stored, salt, &shown), Some(secret(b"pw")));
        assert_eq!(verify(&stored, b"another challenge...", &shown), None);
        assert_eq!(verify(&stored, salt, b""), None);
    }

    #[test]
    fn stored_forms() {
        for text in [
            "",
            "*",
            "D821809F681A40A6E379B50D0463EFAE20BDD122",
            "*D8",
            "*THISISNOTAVALIDPASSWORDTHATCANBEUSEDHERE",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
