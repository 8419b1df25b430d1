//! How the router answers a backend's challenge in a client's name, or in its own.

use super::{native, sha2};
use crate::engine::mysql::startup::Proof;

/// By which plugin to answer first, given the server's default.
pub fn first_plugin<'a>(proof: &Proof, default: &'a str) -> &'a str {
    match (proof, default) {
        (Proof::Clear(_), sha2::CACHING | sha2::PLAIN) => default,
        (Proof::Clear(_) | Proof::Native(_), _) => native::PLUGIN,
    }
}

/// The answer to a challenge. Empty where the plugin is none of those that the proof is for: then the server denies, or
/// goes on to the account's next one.
pub fn answer(proof: &Proof, plugin: &str, salt: &[u8]) -> Vec<u8> {
    match (plugin, proof) {
        (native::PLUGIN, Proof::Native(Some(secret))) => native::answer(secret, salt).to_vec(),
        (native::PLUGIN, Proof::Clear(password)) if !password.is_empty() => {
            native::answer(&native::secret(password), salt).to_vec()
        }
        // No password is said by a zero byte.
        (sha2::CACHING | sha2::PLAIN, Proof::Clear(password)) if password.is_empty() => vec![0],
        (sha2::CACHING, Proof::Clear(password)) => sha2::answer(password, salt).to_vec(),
        // Asks for the server's public key: to this plugin a Unix socket is not secure.
        (sha2::PLAIN, Proof::Clear(_)) => vec![1],
        _ => Vec::new(),
    }
}
