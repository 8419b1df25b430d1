//! Connection ids as clients know them: unique over all clusters of the process, and constant over swaps.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::engine::FIRST_CONNECTION_ID as FIRST;

/// Gives out ids; see the module.
#[derive(Debug)]
pub struct Ids {
    taken: Mutex<Taken>,
}

#[derive(Debug)]
struct Taken {
    next: u32,
    ids: HashSet<u32>,
}

/// An id that nobody else has until this is dropped.
#[derive(Debug)]
pub struct ConnectionId {
    id: u32,
    ids: Arc<Ids>,
}

impl Default for Ids {
    fn default() -> Ids {
        Ids { taken: Mutex::new(Taken { next: FIRST, ids: HashSet::new() }) }
    }
}

impl Ids {
    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next free id. They rise, and start again where they began after the last one that fits a signed number.
    pub fn reserve(self: &Arc<Self>) -> ConnectionId {
        let mut taken = self.taken();
        loop {
            let id = taken.next;
            // All of them fit a signed number of 32 bits, which some clients keep them in.
            taken.next = if id >= i32::MAX as u32 { FIRST } else { id + 1 };
            if taken.ids.insert(id) {
                drop(taken);
                return ConnectionId { id, ids: Arc::clone(self) };
            }
        }
    }
}

impl ConnectionId {
    /// The number itself.
    pub fn number(&self) -> u32 {
        self.id
    }
}

impl Drop for ConnectionId {
    fn drop(&mut self) {
        self.ids.taken().ids.remove(&self.id);
    }
}
