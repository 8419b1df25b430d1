//! Speaking in the client's stead.

use bytes::{Bytes, BytesMut};

use super::tracker::Tracker;
use crate::engine::{Dialogue, DialogueError};

/// See the module.
pub struct Interlude;

impl Interlude {
    /// Rolls the open transaction back.
    pub fn roll_back(_tracker: &Tracker) -> Interlude {
        Interlude
    }

    /// Repeats what outlasts a lost transaction.
    pub fn repeat(_tracker: &mut Tracker, _requests: &Bytes) -> Interlude {
        Interlude
    }
}

impl Dialogue for Interlude {
    type Output = BytesMut;

    fn open(&mut self, _out: &mut BytesMut) {}

    fn receive(&mut self, _: &mut BytesMut, _: &mut BytesMut) -> Result<Option<BytesMut>, DialogueError> {
        Err(DialogueError::Protocol("not built".into()))
    }
}
