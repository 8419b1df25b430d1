//! Logging in to a backend, as a client asked or as the master user.
//!
//! ```text
//! StartupMessage ──► AuthenticationOk ──► ParameterStatus* BackendKeyData ──► ReadyForQuery
//! ```
//!
//! Backends listen on a private socket that only the router can reach and trust whoever comes through it, so there is
//! no password to send: the router has verified the client against the same server's own accounts.

use bytes::{Bytes, BytesMut};

use super::greet::Startup;
use super::message::{self, Message, error_field};
use crate::engine::{Cause, Dialogue, DialogueError};

/// The longest message that a log in is answered with.
const MAX_ANSWER: usize = 64 * 1024;
/// Protocol 3.0: the router hands out its own cancel keys, so it needs none of what 3.2 added.
const PROTOCOL_3_0: u32 = 196_608;

/// What a backend said when it let us in.
#[derive(Debug, Clone, Default)]
pub struct LoggedIn {
    /// `ParameterStatus` values in the order they came.
    pub parameters: Vec<(String, Bytes)>,
    /// Process id of the backend.
    pub backend_id: u32,
    /// Its cancel secret.
    pub secret: Bytes,
    /// Notices of the log in (login triggers, `session_preload_libraries`), framed.
    pub notices: BytesMut,
}

impl LoggedIn {
    /// A reported parameter; empty if the server did not report it.
    pub fn parameter(&self, name: &str) -> &[u8] {
        self.parameters.iter().find(|(n, _)| n == name).map_or(&[], |(_, value)| value)
    }

    /// Major version of the server: 15 for "15.20 (Debian …)" or "15beta1". 0 if it cannot be read.
    pub fn major_version(&self) -> u32 {
        let digits: String = self
            .parameter("server_version")
            .iter()
            .map(|&b| char::from(b))
            .take_while(char::is_ascii_digit)
            .collect();
        digits.parse().unwrap_or(0)
    }
}

/// The log in conversation.
pub struct LogIn {
    startup: Startup,
    so_far: LoggedIn,
}

impl LogIn {
    /// Logs in with a client's start-up parameters.
    pub fn new(startup: &Startup) -> LogIn {
        LogIn { startup: startup.clone(), so_far: LoggedIn::default() }
    }

    fn take(&mut self, message: &Message) -> Result<Option<LoggedIn>, DialogueError> {
        match message.kind {
            b'R' if message.body.as_ref() == [0, 0, 0, 0] => {}
            b'R' => return Err(DialogueError::Protocol("the server asked the router for a password".into())),
            b'S' => {
                let mut rest: &[u8] = &message.body;
                let (Some(name), Some(value)) =
                    (message::take_text(&mut rest), message::take_text(&mut rest))
                else {
                    return Err(DialogueError::Protocol("malformed ParameterStatus".into()));
                };
                let name = String::from_utf8_lossy(name).into_owned();
                self.so_far.parameters.push((name, message.body.slice_ref(value)));
            }
            b'K' if message.body.len() >= 8 => {
                let id = [message.body[0], message.body[1], message.body[2], message.body[3]];
                self.so_far.backend_id = u32::from_be_bytes(id);
                self.so_far.secret = message.body.slice(4..);
            }
            b'N' => message::put(&mut self.so_far.notices, b'N', |out| out.extend_from_slice(&message.body)),
            b'E' => return Err(refused(message)),
            b'Z' => return Ok(Some(std::mem::take(&mut self.so_far))),
            b'v' => {}
            kind => return Err(unexpected(kind)),
        }
        Ok(None)
    }
}

/// The server's refusal, kept in the bytes that a client can be given.
pub(super) fn refused(message: &Message) -> DialogueError {
    let text = |field| String::from_utf8_lossy(error_field(&message.body, field)).into_owned();
    let mut framed = BytesMut::new();
    message::put(&mut framed, b'E', |out| out.extend_from_slice(&message.body));
    let code = text(b'C');
    // admin_shutdown, crash_shutdown; cannot_connect_now; too_many_connections ("PostgreSQL Error Codes", appendix A). A
    // role's or a database's CONNECTION LIMIT has the same code as the server's; where it is checked is the field `R`.
    let cause = match code.as_str() {
        "57P01" | "57P02" => Cause::Stopping,
        "57P03" => Cause::Starting,
        "53300" if text(b'R') == "InitializeSessionUserId" || text(b'R') == "CheckMyDatabase" => {
            Cause::Limited
        }
        "53300" => Cause::Full,
        _ => Cause::Final,
    };
    DialogueError::Refused { cause, code, text: text(b'M'), message: framed.to_vec() }
}

pub(super) fn unexpected(kind: u8) -> DialogueError {
    DialogueError::Protocol(format!("type {:?}", char::from(kind)))
}

impl Dialogue for LogIn {
    type Output = LoggedIn;

    fn open(&mut self, out: &mut BytesMut) {
        let mut body = BytesMut::new();
        body.extend_from_slice(&PROTOCOL_3_0.to_be_bytes());
        for (name, value) in self.startup.parameters() {
            message::put_text(&mut body, name);
            message::put_text(&mut body, value);
        }
        body.extend_from_slice(&[0]);
        let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&body);
    }

    fn receive(
        &mut self,
        input: &mut BytesMut,
        _out: &mut BytesMut,
    ) -> Result<Option<LoggedIn>, DialogueError> {
        while let Some(message) =
            message::take(input, MAX_ANSWER).map_err(|e| DialogueError::Protocol(e.into()))?
        {
            if let Some(logged_in) = self.take(&message)? {
                return Ok(Some(logged_in));
            }
        }
        Ok(None)
    }
}
