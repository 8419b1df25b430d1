//! The server's side of the exchange in which a client shows that it knows its password.
//!
//! ```text
//! begin ──► answer (made for the challenge of the greeting, if the plugin is right)
//!   └─AuthSwitchRequest─► answer ──┬── native, ed25519: Proved or wrong
//!                                  ├── caching_sha2, known to the vault: 01 03, Proved
//!                                  ├── caching_sha2: 01 04 ─► password in the clear (TLS): Proved or wrong
//!                                  │                       └► 02: key ─► password sealed: Proved or wrong
//!                                  └── sha256: password in the clear (TLS), or 01: key ─► …
//! wrong ──► the account's next method, by another AuthSwitchRequest, or Failed
//! ```
//!
//! Source: MySQL "Connection Phase", "Caching_sha2_password information", "sha256"; MariaDB "Connecting: authentication".

use std::sync::Arc;

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::account::Method;
use super::vault::Vault;
use super::{ed25519, native, sha2 as password};
use crate::engine::mysql::hello::SALT;
use crate::engine::mysql::startup::Proof;

/// Challenges are text without the bytes that end or part what is stored.
pub fn salt<const N: usize>(random: &[u8]) -> [u8; N] {
    let mut salt = [b'x'; N];
    for (byte, random) in salt.iter_mut().zip(random) {
        *byte = match random & 0x7f {
            letter @ (0 | b'$') => letter + 1,
            letter => letter,
        };
    }
    salt
}

/// What comes next.
pub enum Verdict {
    /// Send this body; the exam goes on with the client's answer.
    Ask(Vec<u8>),
    /// The client is who it says it is. This body, if there is one, goes before the `OK`.
    Proved(Proof, Option<&'static [u8]>),
    /// It is not.
    Failed,
    /// Whoever it is, it cannot be let in, for this reason.
    Hopeless(String),
}

enum Step {
    /// The client answers the challenge.
    Answer,
    /// It shows its password, or asks for the key to seal it with.
    Password,
    /// It shows its password sealed.
    Sealed,
}

/// See the module.
pub struct Exam {
    /// What is still to be tried; the first is being tried.
    methods: Vec<Method>,
    step: Step,
    salt: [u8; SALT],
    random: [u8; 24],
    is_secure: bool,
    vault: Arc<Vault>,
}

impl Exam {
    /// Of an account with these `methods`; `is_secure`: nobody can listen.
    pub fn new(mut methods: Vec<Method>, random: [u8; 24], is_secure: bool, vault: &Arc<Vault>) -> Exam {
        let is_usable = |method: &Method| matches!(method, Method::Native(_) | Method::Sha2(..));
        if methods.iter().any(is_usable) {
            methods.retain(is_usable);
        }
        let vault = Arc::clone(vault);
        Exam { methods, step: Step::Answer, salt: salt(&random), random, is_secure, vault }
    }

    /// The next answer, or the one with which the exam begins, may take long: RSA, and thousands of rounds of SHA-256.
    pub fn takes_long(&self) -> bool {
        let shows_password = matches!(self.methods.first(), Some(Method::Sha2(password::PLAIN, _)));
        shows_password || matches!(self.step, Step::Password | Step::Sealed)
    }

    /// Leaves only what a client can do that knows no plugins. `false`: there is nothing left.
    pub fn keep_oldest(&mut self) -> bool {
        self.methods.retain(|method| matches!(method, Method::Native(_)));
        !self.methods.is_empty()
    }

    /// The client has answered the challenge `salt` by `plugin`, before anybody knew what it should answer by.
    pub fn begin(&mut self, plugin: &str, salt: [u8; SALT], answer: &[u8]) -> Verdict {
        match self.methods.first() {
            Some(Method::Native(_) | Method::Sha2(..)) if self.plugin() == plugin => {
                self.salt = salt;
                self.receive(answer)
            }
            _ => self.ask(),
        }
    }

    /// Asks for an answer by the first of the methods that are left.
    pub fn ask(&mut self) -> Verdict {
        self.step = Step::Answer;
        let Some(method) = self.methods.first() else { return Verdict::Failed };
        if let Method::Unknown(plugin) = method {
            return Verdict::Hopeless(format!(
                "accounts that authenticate by '{plugin}' cannot be used through the router"
            ));
        }
        let mut body = vec![0xfe];
        body.extend_from_slice(method.plugin().as_bytes());
        body.push(0);
        match method {
            // The only one that does not want a zero byte after it.
            Method::Ed25519(_) => body.extend_from_slice(&self.long_salt()),
            Method::Native(_) | Method::Sha2(..) | Method::Unknown(_) => {
                body.extend_from_slice(&self.salt);
                body.push(0);
            }
        }
        Verdict::Ask(body)
    }

    /// The client has answered.
    pub fn receive(&mut self, body: &[u8]) -> Verdict {
        let verdict = match self.step {
            Step::Answer => self.answer(body),
            Step::Password if body == [2] => self.give_key(),
            Step::Password if self.is_secure => self.password(body),
            Step::Password | Step::Sealed => self.sealed(body),
        };
        match verdict {
            Verdict::Failed if self.methods.len() > 1 => {
                self.methods.remove(0);
                self.ask()
            }
            verdict => verdict,
        }
    }

    fn plugin(&self) -> &str {
        self.methods.first().map_or("", Method::plugin)
    }

    fn long_salt(&self) -> [u8; ed25519::SALT] {
        salt(&Sha256::digest(self.random))
    }

    fn answer(&mut self, body: &[u8]) -> Verdict {
        let is_empty = matches!(body, [] | [0]);
        match self.methods.first() {
            Some(Method::Native(kept)) if kept.is_empty() && body.is_empty() => {
                Verdict::Proved(Proof::Native(None), None)
            }
            Some(Method::Native(kept)) => kept
                .iter()
                .find_map(|stored| native::verify(stored, &self.salt, body))
                .map_or(Verdict::Failed, |secret| Verdict::Proved(Proof::Native(Some(secret)), None)),
            Some(Method::Sha2(_, kept)) if kept.is_empty() || is_empty => match kept.is_empty() && is_empty {
                true => Verdict::Proved(Proof::Clear(Zeroizing::default()), None),
                false => Verdict::Failed,
            },
            Some(Method::Sha2(password::PLAIN, _)) if body == [1] => self.give_key(),
            Some(Method::Sha2(password::PLAIN, _)) if self.is_secure => self.password(body),
            Some(Method::Sha2(password::PLAIN, _)) => self.sealed(body),
            Some(Method::Sha2(_, kept)) => {
                let known = kept.iter().find_map(|(_, text)| self.vault.recognise(text, &self.salt, body));
                if let Some(password) = known {
                    return Verdict::Proved(Proof::Clear(password), Some(&[1, 3]));
                }
                self.step = Step::Password;
                Verdict::Ask(vec![1, 4])
            }
            Some(Method::Ed25519(stored)) if stored.verify(&self.long_salt(), body) => Verdict::Hopeless(
                "the router cannot log in again for an account that authenticates by ed25519 alone: add \
                 OR mysql_native_password USING PASSWORD('...') to its IDENTIFIED VIA"
                    .to_owned(),
            ),
            Some(Method::Ed25519(_) | Method::Unknown(_)) | None => Verdict::Failed,
        }
    }

    fn give_key(&mut self) -> Verdict {
        self.step = Step::Sealed;
        match self.vault.key(&self.random) {
            Some(key) => Verdict::Ask([&[1], key.pem.as_bytes()].concat()),
            None => Verdict::Failed,
        }
    }

    /// The password as it is, with a zero byte at its end.
    fn password(&mut self, body: &[u8]) -> Verdict {
        let Some(clear) = body.strip_suffix(&[0]) else { return Verdict::Failed };
        self.check(Zeroizing::new(clear.to_vec()))
    }

    fn sealed(&mut self, body: &[u8]) -> Verdict {
        // Whoever has the server's own key from elsewhere did not ask for this one, and sealed it for that.
        let key = self.vault.key(&self.random);
        match key.and_then(|key| key.open(body, &self.salt, &self.random)) {
            Some(clear) => self.check(clear),
            None => Verdict::Failed,
        }
    }

    fn check(&self, clear: Zeroizing<Vec<u8>>) -> Verdict {
        let Some(Method::Sha2(_, kept)) = self.methods.first() else { return Verdict::Failed };
        match kept.iter().find(|(stored, _)| stored.fits(&clear)) {
            Some((_, text)) => {
                self.vault.keep(text, &clear);
                Verdict::Proved(Proof::Clear(clear), None)
            }
            None => Verdict::Failed,
        }
    }
}

#[cfg(test)]
mod tests;
