//! Letting a client in.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use zeroize::Zeroizing;

use super::Mysql;
use super::capability::{Compression, Contract};
use super::log_in::LoggedIn;
use crate::engine::{Arrival, Farewell, Greet, Refusal};

/// What makes it possible to log in again as the client.
#[derive(Clone)]
pub enum Proof {
    /// `SHA1(password)`, as good as the password for `mysql_native_password`; `None`: the account has no password.
    Native(Option<Zeroizing<[u8; 20]>>),
    /// The password itself, in memory only: a server with a cold cache wants it.
    Clear(Zeroizing<String>),
}

impl std::fmt::Debug for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Proof")
    }
}

/// What a client asked for when it connected; replayed at every log in.
#[derive(Debug, Clone)]
pub struct Startup {
    /// The account's name.
    pub user: String,
    /// The database it asked for; `None`: none.
    pub database: Option<String>,
    /// The client's capabilities, cut down to what was offered.
    pub capabilities: u64,
    /// The collation id of its handshake.
    pub collation: u8,
    /// Its connection attributes, as they came (without the length before them).
    pub attributes: Bytes,
    /// Where it comes from.
    pub address: IpAddr,
    /// What makes it possible to log in as this client.
    pub proof: Proof,
    /// What its packets are compressed by once it is let in.
    pub compression: Option<Compression>,
    /// The connection id that the client knows.
    pub id: u32,
    /// The sequence number of the next packet to the client.
    pub sequence: u8,
    /// What clients of the cluster are told.
    pub contract: Arc<Contract>,
}

impl Startup {
    /// Writes the `OK` that ends the handshake.
    pub fn put_welcome(&self, _logged_in: &LoggedIn, _out: &mut BytesMut) {}

    /// The last message to a client that was let in and has no session.
    pub fn turn_away(&self, _why: &Farewell) -> Vec<u8> {
        Vec::new()
    }

    /// Account and database, for operators.
    pub fn describe(&self) -> (&str, &str) {
        (&self.user, self.database.as_deref().unwrap_or_default())
    }
}

/// How an account proves itself: its rows in the server's own tables.
pub struct Account;

/// Passwords that were proved, for the life of the process.
#[derive(Default)]
pub struct Vault;

/// See the module.
pub struct Greeting;

impl Greeting {
    /// A client that has just connected.
    pub fn new(_arrival: &Arrival<'_, Mysql>) -> Greeting {
        Greeting
    }

    /// `COM_CHANGE_USER`: `request` is the packet's body.
    pub fn again(_arrival: &Arrival<'_, Mysql>, _startup: &Startup, _request: Bytes) -> Greeting {
        Greeting
    }
}

impl crate::engine::Greeting<Mysql> for Greeting {
    fn open(&mut self, _out: &mut BytesMut) {}

    fn receive(&mut self, _input: &mut BytesMut, _out: &mut BytesMut) -> Greet<Mysql> {
        Greet::Refused(Refusal::Unsupported)
    }

    fn secured(&mut self, _end_point: Option<Arc<[u8]>>) {}

    fn account(
        &mut self,
        _account: Option<Account>,
        _random: [u8; 24],
        _vault: &Arc<Vault>,
        _out: &mut BytesMut,
    ) -> Greet<Mysql> {
        Greet::Refused(Refusal::Unsupported)
    }

    fn farewell(&self, _why: &Farewell) -> Vec<u8> {
        Vec::new()
    }
}
