//! Opening a backend.

use bytes::{Bytes, BytesMut};

use super::capability::{Contract, Product};
use super::greet::Startup;
use crate::engine::{Dialogue, DialogueError, RouterLogin};

/// What a backend said when it let us in.
#[derive(Debug, Clone, Default)]
pub struct LoggedIn {
    /// The number that the server gave the connection.
    pub connection_id: u32,
    /// What the server is and can.
    pub server: Contract,
    /// The capabilities that hold on this connection.
    pub capabilities: u64,
    /// The body of the `OK` that ended the handshake.
    pub ok: Bytes,
}

impl LoggedIn {
    /// What clients are told.
    pub fn contract(&self) -> Contract {
        self.server.clone()
    }

    /// Which server it is.
    pub fn product(&self) -> Product {
        self.server.product
    }
}

/// See the module.
pub struct LogIn;

impl LogIn {
    /// As the client asked, with its capabilities.
    pub fn new(_startup: &Startup) -> LogIn {
        LogIn
    }

    /// As the router itself.
    pub fn of_router(_login: &RouterLogin) -> LogIn {
        LogIn
    }
}

impl Dialogue for LogIn {
    type Output = LoggedIn;

    fn open(&mut self, _out: &mut BytesMut) {}

    fn receive(&mut self, _: &mut BytesMut, _: &mut BytesMut) -> Result<Option<LoggedIn>, DialogueError> {
        Err(DialogueError::Protocol("not built".into()))
    }
}
