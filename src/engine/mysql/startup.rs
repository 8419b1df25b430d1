//! What a client asked for when it connected.

use core::net::IpAddr;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use zeroize::Zeroizing;

use super::capability::{Compression, Contract};
use super::farewell::farewell;
use super::log_in::LoggedIn;
use super::packet;
use crate::engine::Farewell;

/// What makes it possible to log in again as the client.
#[derive(Clone)]
pub enum Proof {
    /// `SHA1(password)`, as good as the password for `mysql_native_password`; `None`: the account has no password.
    Native(Option<Zeroizing<[u8; 20]>>),
    /// The password itself, in memory only: a server with a cold cache wants it.
    Clear(Zeroizing<Vec<u8>>),
}

impl Proof {
    /// There is no password.
    pub fn is_empty(&self) -> bool {
        match self {
            Proof::Native(secret) => secret.is_none(),
            Proof::Clear(password) => password.is_empty(),
        }
    }
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
    /// The client's capabilities, cut down to what was offered; [`LONG_PASSWORD`](super::capability::bit) as it came.
    pub capabilities: u64,
    /// The collation id of its handshake.
    pub collation: u8,
    /// Its connection attributes, as they came (without the length before them).
    pub attributes: Bytes,
    /// How its leg is packed from the end of the handshake on.
    pub compression: Option<Compression>,
    /// Where it comes from.
    pub address: IpAddr,
    /// What makes it possible to log in as this client.
    pub proof: Proof,
    /// The connection id that the client knows.
    pub id: u32,
    /// The sequence number of the next packet to the client.
    pub sequence: u8,
    /// What clients of the cluster are told.
    pub contract: Arc<Contract>,
    /// What its log in depends on, summed up ([`Account`](super::auth::account::Account)).
    pub mark: u64,
}

impl Startup {
    /// Writes the `OK` that ends the handshake: the backend's own, because what it says of status and session state is
    /// said for the same capabilities.
    pub fn put_welcome(&self, logged_in: &LoggedIn, out: &mut BytesMut) {
        packet::put(out, self.sequence, |out| match logged_in.ok.is_empty() {
            false => out.extend_from_slice(&logged_in.ok),
            // No rows, no id; autocommit; no warnings.
            true => out.put_slice(&[0, 0, 0, 2, 0, 0, 0]),
        });
    }

    /// The last message to a client that was let in and has no session.
    pub fn turn_away(&self, why: &Farewell) -> Vec<u8> {
        farewell(self.sequence, self.contract.product, why)
    }

    /// Whether the client is known to read frames of the compressed protocol as a stream, so that a packet may be cut
    /// anywhere: the C libraries do, and nobody else speaks zstd.
    pub fn takes_cut_packets(&self) -> bool {
        const READ_STREAMS: [&[u8]; 2] = [b"libmysql", b"libmariadb"];
        let name = self.attribute(b"_client_name");
        matches!(self.compression, Some(Compression::Zstd(_)))
            || name.is_some_and(|name| READ_STREAMS.contains(&name))
    }

    fn attribute(&self, name: &[u8]) -> Option<&[u8]> {
        let mut rest = &self.attributes[..];
        while let (Some(key), Some(value)) = (packet::take_string(&mut rest), packet::take_string(&mut rest))
        {
            if key == name {
                return Some(value);
            }
        }
        None
    }

    /// Account and database, for operators.
    pub fn describe(&self) -> (&str, &str) {
        (&self.user, self.database.as_deref().unwrap_or_default())
    }
}
