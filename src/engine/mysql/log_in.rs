//! Opening a backend, as a client asked or as the router itself.
//!
//! ```text
//! (PROXY header) ──► Hello ──response──► [AuthSwitchRequest ──answer──► [AuthMoreData]*]* ──► OK
//! ```
//!
//! A MariaDB is told the client's address by a PROXY header (version 1), so that its grants and `USER()` see it; it must
//! be configured to believe connections from its own machine (`proxy-protocol-networks=localhost`). A MySQL sees
//! `localhost`; that it will choose the account that the client proved is checked when the client is let in.

use core::net::IpAddr;

use bytes::{BufMut, Bytes, BytesMut};
use zeroize::Zeroizing;

use super::auth::{key, reply, sha2};
use super::capability::{Contract, Product, bit};
use super::hello::{Hello, Response};
use super::packet::{self, Packet, take_text};
use super::startup::{Proof, Startup};
use crate::engine::{Cause, Dialogue, DialogueError, RouterLogin};

/// The longest packet that a log in is answered with.
const MAX_ANSWER: usize = 64 * 1024;
/// `utf8mb4_general_ci`, which every server has.
const UTF8MB4: u16 = 45;
/// Capabilities that are between the client and the router.
const OF_THE_LEG: u64 = bit::SSL | bit::COMPRESS | bit::ZSTD;
/// Capabilities that are the router's own in every log in.
const OF_THE_ROUTER: u64 =
    bit::PROTOCOL_41 | bit::SECURE_CONNECTION | bit::PLUGIN_AUTH | bit::PLUGIN_AUTH_LENENC;

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

#[derive(Clone)]
enum Phase {
    /// The server speaks first.
    Greeted,
    /// By this plugin the last challenge was answered.
    Answered { plugin: String, salt: Vec<u8> },
}

/// See the module.
#[derive(Clone)]
pub struct LogIn {
    /// What the server is told; `answer` and `plugin` are made for its challenge.
    response: Response,
    proof: Proof,
    /// Written before everything else.
    header: Bytes,
    /// The sequence number that the client's next packet has.
    client_sequence: u8,
    phase: Phase,
    so_far: LoggedIn,
}

impl LogIn {
    /// As the client asked, with its capabilities.
    pub fn new(startup: &Startup) -> LogIn {
        let header = match startup.contract.product {
            Product::MariaDb => proxy_header(startup.address),
            Product::MySql | Product::MySql56 => Bytes::new(),
        };
        let response = Response {
            capabilities: startup.capabilities & !OF_THE_LEG,
            collation: u16::from(startup.collation),
            user: startup.user.clone(),
            database: startup.database.clone(),
            attributes: startup.attributes.clone(),
            ..Response::default()
        };
        LogIn::of(response, startup.proof.clone(), header, startup.sequence)
    }

    /// For a session that is restored. If its database is known (`captured`), the restore enters it: the one of the first
    /// log in may be gone, and nothing leaves a database again.
    pub fn again(startup: &Startup, captured: bool) -> LogIn {
        let mut log_in = LogIn::new(startup);
        if captured {
            log_in.response.database = None;
            log_in.response.capabilities &= !bit::CONNECT_WITH_DB;
        }
        log_in
    }

    /// As the router itself.
    pub fn of_router(login: &RouterLogin) -> LogIn {
        let response = Response {
            capabilities: bit::LONG_PASSWORD | bit::LONG_FLAG | bit::TRANSACTIONS,
            collation: UTF8MB4,
            user: login.user.clone(),
            database: Some(login.database.clone()).filter(|name| !name.is_empty()),
            ..Response::default()
        };
        let password = Zeroizing::new(login.password.as_bytes().to_vec());
        LogIn::of(response, Proof::Clear(password), Bytes::new(), 0)
    }

    fn of(mut response: Response, proof: Proof, header: Bytes, client_sequence: u8) -> LogIn {
        response.capabilities |= OF_THE_ROUTER;
        match response.database {
            Some(_) => response.capabilities |= bit::CONNECT_WITH_DB,
            None => response.capabilities &= !bit::CONNECT_WITH_DB,
        }
        let so_far = LoggedIn::default();
        LogIn { response, proof, header, client_sequence, phase: Phase::Greeted, so_far }
    }

    fn take(&mut self, packet: &Packet, out: &mut BytesMut) -> Result<Option<LoggedIn>, DialogueError> {
        let sequence = packet.sequence.wrapping_add(1);
        match (&self.phase, packet.body.first()) {
            (_, Some(0xff)) => Err(refused(&packet.body, self.client_sequence)),
            (Phase::Greeted, _) => self.greeted(&packet.body, out, sequence).map(|()| None),
            (Phase::Answered { .. }, Some(0x00)) => {
                self.so_far.ok = packet.body.clone();
                Ok(Some(std::mem::take(&mut self.so_far)))
            }
            (Phase::Answered { .. }, Some(0xfe)) => {
                let mut rest = &packet.body[1..];
                let plugin =
                    take_text(&mut rest).ok_or_else(|| unexpected("a malformed AuthSwitchRequest"))?;
                let plugin = String::from_utf8_lossy(plugin).into_owned();
                let salt = rest.strip_suffix(&[0]).unwrap_or(rest).to_vec();
                let answer = Zeroizing::new(reply::answer(&self.proof, &plugin, &salt));
                packet::put(out, sequence, |out| out.put_slice(&answer));
                self.phase = Phase::Answered { plugin, salt };
                Ok(None)
            }
            (Phase::Answered { plugin, salt }, Some(0x01)) => {
                let answer = self.more(plugin, salt, &packet.body[1..])?;
                if let Some(answer) = answer {
                    packet::put(out, sequence, |out| out.put_slice(&answer));
                }
                Ok(None)
            }
            (Phase::Answered { .. }, kind) => Err(unexpected(&format!("type {kind:?} during the log in"))),
        }
    }

    fn greeted(&mut self, body: &[u8], out: &mut BytesMut, sequence: u8) -> Result<(), DialogueError> {
        let hello = Hello::read(body).ok_or_else(|| unexpected("a greeting that is not protocol 10"))?;
        self.so_far.connection_id = hello.id;
        self.so_far.server = hello.contract();
        // What was offered to the client and this server lacks cannot be had; the router's own bits all servers know.
        self.response.capabilities &= hello.capabilities | bit::LONG_PASSWORD;
        self.so_far.capabilities = self.response.capabilities;
        let plugin = reply::first_plugin(&self.proof, &hello.plugin).to_owned();
        self.response.answer = reply::answer(&self.proof, &plugin, &hello.salt).into();
        self.response.plugin.clone_from(&plugin);
        self.response.put(out, sequence);
        self.phase = Phase::Answered { plugin, salt: hello.salt.to_vec() };
        Ok(())
    }

    /// The rest of the exchange of the SHA-256 plugins.
    fn more(
        &self,
        plugin: &str,
        salt: &[u8],
        data: &[u8],
    ) -> Result<Option<Zeroizing<Vec<u8>>>, DialogueError> {
        let Proof::Clear(password) = &self.proof else {
            return Err(unexpected("a question for a password that is not known"));
        };
        match (plugin, data) {
            // The server knows the password from another log in; an OK follows.
            (sha2::CACHING, [3]) => Ok(None),
            // It does not. A Unix socket counts as secure.
            (sha2::CACHING, [4]) => {
                let mut clear = Zeroizing::new(Vec::with_capacity(password.len() + 1));
                clear.extend_from_slice(password);
                clear.push(0);
                Ok(Some(clear))
            }
            (sha2::PLAIN, pem) => {
                let sealed = key::seal(pem, password, salt);
                sealed
                    .map(|sealed| Some(Zeroizing::new(sealed)))
                    .ok_or_else(|| unexpected("a key that is none"))
            }
            _ => Err(unexpected("more of an unknown authentication")),
        }
    }
}

impl Dialogue for LogIn {
    type Output = LoggedIn;

    fn open(&mut self, out: &mut BytesMut) {
        out.put_slice(&self.header);
    }

    fn receive(
        &mut self,
        input: &mut BytesMut,
        out: &mut BytesMut,
    ) -> Result<Option<LoggedIn>, DialogueError> {
        while let Some(packet) = packet::take(input, MAX_ANSWER).map_err(unexpected)? {
            if let Some(logged_in) = self.take(&packet, out)? {
                return Ok(Some(logged_in));
            }
        }
        Ok(None)
    }
}

/// Only the client's address says anything; ports and the server's address are there because they must be.
fn proxy_header(address: IpAddr) -> Bytes {
    match address.to_canonical() {
        IpAddr::V4(address) => format!("PROXY TCP4 {address} 127.0.0.1 1 3306\r\n").into(),
        IpAddr::V6(address) => format!("PROXY TCP6 {address} ::1 1 3306\r\n").into(),
    }
}

/// The server's refusal, kept in the bytes that a client can be given; `sequence` is that of the client's next packet.
pub fn refused(body: &[u8], sequence: u8) -> DialogueError {
    let (code, text) = body.get(1..).and_then(|rest| rest.split_first_chunk::<2>()).unwrap_or((&[0; 2], &[]));
    let code = u16::from_le_bytes(*code);
    // A server that refuses before its greeting may leave the state away.
    let (state, text) = match text.split_first_chunk::<6>() {
        Some((state, text)) if state[0] == b'#' => (String::from_utf8_lossy(&state[1..]), text),
        _ => ("HY000".into(), text),
    };
    let text = String::from_utf8_lossy(text).into_owned();
    // ER_CON_COUNT_ERROR, ER_TOO_MANY_USER_CONNECTIONS, ER_USER_LIMIT_REACHED; ER_SERVER_SHUTDOWN, ER_NORMAL_SHUTDOWN, ER_GOT_SIGNAL, ER_SHUTDOWN_COMPLETE; MariaDB's
    // ER_CONNECTION_KILLED ("Server Error Message Reference").
    let cause = match code {
        1040 => Cause::Full,
        1203 | 1226 => Cause::Limited,
        1053 | 1077..=1079 | 1927 => Cause::Stopping,
        _ => Cause::Final,
    };
    let mut message = BytesMut::new();
    packet::put_error(&mut message, sequence, code, &state, &text);
    DialogueError::Refused { cause, code: code.to_string(), text, message: message.to_vec() }
}

pub(super) fn unexpected(text: &str) -> DialogueError {
    DialogueError::Protocol(text.to_owned())
}

#[cfg(test)]
mod tests;
