//! Making a fresh backend the session that was captured.

use bytes::BytesMut;

use super::log_in::LoggedIn;
use super::state::{State, Wire};
use crate::engine::{Dialogue, DialogueError};

/// What a restore has to tell the tracker.
#[derive(Debug, Clone, Default)]
pub struct Restored {
    /// The id that the new backend gave each statement: the client's id, the backend's id.
    pub statements: Vec<(u32, u32)>,
    /// How many `CREATE TABLE` and `PREPARE` the backend has counted by now (the restore's own).
    pub creates: u64,
    /// See above.
    pub prepares: u64,
    /// The rows of `SHOW WARNINGS` that the router must answer with, until a statement clears them.
    pub warnings: Vec<[bytes::Bytes; 3]>,
}

/// See the module.
pub struct Restore;

impl Restore {
    /// `wire`: what only the wire knows.
    pub fn new(_wire: &Wire, _logged_in: &LoggedIn, _state: &State) -> Restore {
        Restore
    }
}

impl Dialogue for Restore {
    type Output = Restored;

    fn open(&mut self, _out: &mut BytesMut) {}

    fn receive(&mut self, _: &mut BytesMut, _: &mut BytesMut) -> Result<Option<Restored>, DialogueError> {
        Err(DialogueError::Protocol("not built".into()))
    }
}
