//! Connections of the router's own, which count where a database is to stop only when nobody is connected to it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Fleet;

/// A connection of the router's own, counted from before it is made until this is dropped, after it.
pub struct Aide(Arc<Fleet>);

impl Aide {
    /// A connection is about to be made.
    pub fn new(fleet: &Arc<Fleet>) -> Aide {
        fleet.aides.fetch_add(1, Ordering::Relaxed);
        fleet.progress.notify_waiters();
        Aide(Arc::clone(fleet))
    }
}

impl Drop for Aide {
    fn drop(&mut self) {
        self.0.aides.fetch_sub(1, Ordering::Relaxed);
        self.0.progress.notify_waiters();
    }
}
