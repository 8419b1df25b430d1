//! Asking an idle backend what its session is made of.

use bytes::BytesMut;

use super::Mysql;
use super::log_in::LoggedIn;
use super::state::State;
use crate::engine::{Captured, Dialogue, DialogueError, Inquiry};

/// What the router asks in its own name, because the session's user may not see it.
pub fn observation(_logged_in: &LoggedIn) -> Option<String> {
    None
}

/// See the module.
pub struct Capture;

impl Capture {
    /// Goes by what the wire knows (`inquiry.tracker.wire()`).
    pub fn new(_inquiry: &Inquiry<'_, Mysql>) -> Capture {
        Capture
    }
}

impl Dialogue for Capture {
    type Output = Captured<State>;

    fn open(&mut self, _out: &mut BytesMut) {}

    fn receive(
        &mut self,
        _: &mut BytesMut,
        _: &mut BytesMut,
    ) -> Result<Option<Captured<State>>, DialogueError> {
        Err(DialogueError::Protocol("not built".into()))
    }
}
