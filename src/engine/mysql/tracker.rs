//! Watching a session's bytes go by.

use bytes::BytesMut;

use super::greet::Startup;
use super::log_in::LoggedIn;
use super::restore::Restored;
use super::state::{State, Wire};
use crate::engine::{
    Admission, ClientScan, Directory, Drift, Farewell, Fate, Intercepted, Loss, Obstacle, Rest, ServerScan,
};

/// See the module.
pub struct Tracker {
    wire: Wire,
}

/// What a backend that went away said last tells about the server.
pub fn loss(_bytes: &[u8]) -> Loss {
    Loss::Unclear
}

impl Tracker {
    /// A session that has just logged in; `id` is the connection id that the client knows.
    pub fn new(_startup: &Startup, _logged_in: &LoggedIn, _id: u32) -> Tracker {
        Tracker { wire: Wire::default() }
    }

    /// What only the wire knows.
    pub fn wire(&self) -> &Wire {
        &self.wire
    }

    /// A capture is done: adds to it what only the wire knows, and learns what it says of the present context.
    pub fn complete(&mut self, _state: &mut State) {}

    /// The session goes on on another backend.
    pub fn restored(&mut self, _logged_in: &LoggedIn, _restored: Restored) {}
}

impl crate::engine::Tracker for Tracker {
    fn client_bytes(&mut self, _bytes: &mut BytesMut, _admission: Admission) -> ClientScan {
        ClientScan { forward: 0, rest: Rest::Goodbye }
    }

    fn server_bytes(&mut self, _bytes: &mut BytesMut, _names: &dyn Fn(u32) -> Option<u32>) -> ServerScan {
        ServerScan { forward: 0, farewell: false, violation: true }
    }

    fn intercept(&mut self, _: &mut BytesMut, _: &dyn Directory, _: &mut BytesMut) -> Intercepted {
        Intercepted::Pass
    }

    fn obstacle(&self) -> Option<Obstacle> {
        None
    }

    fn is_quiet(&self) -> bool {
        true
    }

    fn is_running(&self) -> bool {
        false
    }

    fn is_answered(&self) -> bool {
        true
    }

    fn is_mid_answer(&self) -> bool {
        false
    }

    fn drift(&self) -> Drift {
        Drift::Possible
    }

    fn captured(&mut self) {}

    fn shown(&self) -> &[u8] {
        &[]
    }

    fn fate(&self) -> Fate {
        Fate::Carried
    }

    fn reattached(&mut self) {}

    fn rolled_back(&mut self) {}

    fn abort_copy(&mut self) -> Option<&'static [u8]> {
        None
    }

    fn forcing(&mut self, _forced: bool) {}

    fn farewell(&self, _why: &Farewell) -> Vec<u8> {
        Vec::new()
    }
}
