//! MariaDB's `ed25519`: the client signs the challenge. Its key is made from the password in a way of MariaDB's own, but
//! the signature is an ordinary one, and the server keeps an ordinary public key.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD};
use ring::signature::{ED25519, UnparsedPublicKey};

/// The plugin's name on the server, and what clients know it by.
pub const PLUGIN: &str = "ed25519";
/// See above.
pub const CLIENT_PLUGIN: &str = "client_ed25519";
/// Length of its challenge, bytes.
pub const SALT: usize = 32;

const BASE64: GeneralPurpose = GeneralPurpose::new(&STANDARD, NO_PAD);

/// What the server keeps.
#[derive(Clone, PartialEq, Eq)]
pub struct Stored([u8; 32]);

impl Stored {
    /// Reads 43 digits of base 64. `None`: something else.
    pub fn parse(text: &str) -> Option<Stored> {
        BASE64.decode(text).ok()?.try_into().ok().map(Stored)
    }

    /// Whether `signature` is of `salt`.
    pub fn verify(&self, salt: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(salt, signature).is_ok()
    }
}
