//! One at a time works on the copy.

use std::sync::{Mutex, PoisonError};

use tokio::sync::SemaphorePermit;

use super::copies::Standby;

/// The copy, in the hands of one who works on it. It is put back when this is dropped.
pub(super) struct Turn<'a> {
    standby: Standby,
    place: &'a Mutex<Standby>,
    _permit: Option<SemaphorePermit<'a>>,
}

impl<'a> Turn<'a> {
    /// `permit`: that it is one's turn.
    pub(super) fn new(place: &'a Mutex<Standby>, permit: Option<SemaphorePermit<'a>>) -> Self {
        let standby = std::mem::take(&mut *place.lock().unwrap_or_else(PoisonError::into_inner));
        Self { standby, place, _permit: permit }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.place.lock().unwrap_or_else(PoisonError::into_inner) = std::mem::take(&mut self.standby);
    }
}

impl std::ops::Deref for Turn<'_> {
    type Target = Standby;

    fn deref(&self) -> &Standby {
        &self.standby
    }
}

impl std::ops::DerefMut for Turn<'_> {
    fn deref_mut(&mut self) -> &mut Standby {
        &mut self.standby
    }
}
