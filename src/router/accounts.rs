//! The accounts of a cluster's sessions as its server last had them: read for all sessions at once while a capacity change
//! is sought, so that those whose account is not as it was at their log in can find out what that means for them
//! ([`super::session::account`]).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

use super::admin::Admin;
use super::fleet::Fleet;
use crate::engine::Engine;

/// How many sessions log in on trial at the same time.
const TRIALS: usize = 4;

/// What a server keeps of the accounts of one name; `None`: there is none any more.
pub type Kept<E> = Arc<Option<<E as Engine>::Account>>;

/// See the module.
pub struct Accounts<E: Engine> {
    known: Mutex<HashMap<String, Kept<E>>>,
    trials: Arc<Semaphore>,
}

impl<E: Engine> Default for Accounts<E> {
    fn default() -> Self {
        Accounts { known: Mutex::default(), trials: Arc::new(Semaphore::new(TRIALS)) }
    }
}

impl<E: Engine> Accounts<E> {
    /// Reads those of all sessions. What cannot be read stays unknown.
    ///
    /// # Cancel safety
    /// When it is dropped half-way, what was known before is still known.
    pub async fn read(&self, fleet: &Fleet, admin: &Admin<E>) {
        let mut read = HashMap::new();
        for user in fleet.users() {
            if let Ok(account) = admin.standing(&user).await {
                read.insert(user, Arc::new(account));
            }
        }
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = read;
    }

    /// The accounts of that name; `None`: not known.
    pub fn of(&self, user: &str) -> Option<Kept<E>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(user).map(Arc::clone)
    }

    /// Trials take turns, so that they do not fill the server.
    pub(super) fn trials(&self) -> Arc<Semaphore> {
        Arc::clone(&self.trials)
    }
}
