//! Passwords that were proved, in memory for the life of the process: what servers call the cache of
//! `caching_sha2_password`.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use zeroize::Zeroizing;

use super::key::Key;
use super::sha2;

/// See the module. Wiped when it is dropped.
#[derive(Default)]
pub struct Vault {
    /// By what the server keeps of the password, so that a changed password is another entry.
    proved: Mutex<HashMap<String, Zeroizing<Vec<u8>>>>,
    key: OnceLock<Option<Key>>,
}

/// Past this many, all are forgotten, and must be shown again: passwords that were changed are not missed otherwise.
const MANY: usize = 10_000;

impl Vault {
    /// The password behind `stored`, if it was proved before and `answer` shows that the client knows it.
    pub fn recognise(&self, stored: &str, nonce: &[u8], answer: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        use subtle::ConstantTimeEq as _;
        let proved = self.proved.lock().unwrap_or_else(PoisonError::into_inner);
        let password = proved.get(stored)?;
        bool::from(sha2::answer(password, nonce)[..].ct_eq(answer)).then(|| password.clone())
    }

    /// Remembers a password that was proved.
    pub fn keep(&self, stored: &str, password: &Zeroizing<Vec<u8>>) {
        let mut proved = self.proved.lock().unwrap_or_else(PoisonError::into_inner);
        if proved.len() >= MANY {
            proved.clear();
        }
        proved.insert(stored.to_owned(), password.clone());
    }

    /// The key pair of this process, made when it is first asked for.
    pub fn key(&self, random: &[u8]) -> Option<&Key> {
        self.key.get_or_init(|| Key::new(random)).as_ref()
    }
}
