//! Conversations: with a client that is not let in yet, and with a backend in the router's own name.

use core::net::IpAddr;
use std::sync::Arc;

use bytes::BytesMut;
use zeroize::Zeroizing;

use super::{Engine, Farewell};

/// A conversation with a backend that the router leads itself.
///
/// Call [`open`](Dialogue::open) once and send what it wrote, then [`receive`](Dialogue::receive) whenever bytes have
/// come, until it returns `Ok(Some(_))`. Partial messages stay in `input`.
pub trait Dialogue: Send {
    /// What the conversation yields.
    type Output;

    /// Writes the first bytes to send.
    fn open(&mut self, out: &mut BytesMut);

    /// Takes whole messages from the front of `input`; may write more to send to `out`. `Ok(None)`: more bytes needed.
    fn receive(
        &mut self,
        input: &mut BytesMut,
        out: &mut BytesMut,
    ) -> Result<Option<Self::Output>, DialogueError>;
}

/// A conversation that never takes place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Never {}

impl Dialogue for Never {
    type Output = ();

    fn open(&mut self, _: &mut BytesMut) {
        match *self {}
    }

    fn receive(&mut self, _: &mut BytesMut, _: &mut BytesMut) -> Result<Option<()>, DialogueError> {
        match *self {}
    }
}

/// Whether an account is as it was when a client logged in to it, by what the server keeps of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing that a log in depends on has changed.
    Unchanged,
    /// Something has; only a log in tells what it means. The number is another one for another change.
    Changed(u64),
}

/// Why a conversation with a backend failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DialogueError {
    /// The server answered with an error. `message` holds it in the client's protocol, ready to be passed on.
    #[error("the server refused ({code}): {text}")]
    Refused {
        /// What it means for the next try.
        cause: Cause,
        /// SQLSTATE or the engine's error number.
        code: String,
        /// The server's own words.
        text: String,
        /// The error message as the client's protocol frames it.
        message: Vec<u8>,
    },
    /// The server sent something that the protocol does not allow here.
    #[error("unexpected message from the server: {0}")]
    Protocol(String),
    /// The state that was put on the new backend is not the state that was taken from the old one.
    #[error("session state cannot be restored: {0}")]
    Unfaithful(String),
}

/// Why a server refuses, as far as it matters for the next try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It is starting, and will be there in a moment.
    Starting,
    /// It is stopping, or has just stopped.
    Stopping,
    /// It has no place for another connection.
    Full,
    /// It has no place for another connection of this account or to this database.
    Limited,
    /// Anything else: the same try would end the same way.
    Final,
}

impl Cause {
    /// The server may answer otherwise soon, because it comes or goes.
    pub fn is_passing(self) -> bool {
        matches!(self, Cause::Starting | Cause::Stopping)
    }

    /// It will answer otherwise when another connection has ended.
    pub fn is_crowd(self) -> bool {
        matches!(self, Cause::Full | Cause::Limited)
    }
}

/// As whom the router itself logs in to a cluster's database.
pub struct RouterLogin {
    /// The account.
    pub user: String,
    /// Its password; empty where the private socket is trusted.
    pub password: Zeroizing<String>,
    /// The database that administrative statements run in.
    pub database: String,
}

/// A client that has just connected.
pub struct Arrival<'a, E: Engine> {
    /// Seeds what unknown accounts are answered with.
    pub secret: [u8; 32],
    /// The connection id that the client will know.
    pub id: u32,
    /// Fresh randomness, for a challenge.
    pub random: [u8; 24],
    /// Where it comes from.
    pub address: IpAddr,
    /// What it may be told of the servers behind this address; one for each cluster, and none for an engine whose
    /// clients speak first.
    pub contracts: &'a [Arc<E::Contract>],
}

/// What a greeting wants next.
#[derive(Debug)]
pub enum Greet<E: Engine> {
    /// Send what is in `out`, then give it more bytes.
    More,
    /// Have this done where it keeps no session waiting, then call [`Greeting::receive`] without more bytes.
    Compute(Work),
    /// Send what is in `out`, then do the TLS handshake; go on with the decrypted bytes.
    UpgradeTls,
    /// Look up how this account proves itself, then call [`Greeting::account`].
    LookUp {
        /// The account's name.
        user: String,
    },
    /// The client wants another session's statement cancelled; nothing is answered.
    Cancel(CancelClaim),
    /// The client is who it says it is.
    Welcome(E::Startup),
    /// Send what is in `out` and close. The text is for the log.
    Refused(Refusal),
}

/// What a greeting has to compute for longer than a session may be kept waiting: milliseconds up to a second.
pub struct Work(Box<dyn FnOnce() + Send>);

impl Work {
    /// `work` leaves its result where the greeting finds it.
    pub fn new(work: impl FnOnce() + Send + 'static) -> Work {
        Work(Box::new(work))
    }

    /// Does it, on the thread that calls.
    pub fn run(self) {
        (self.0)();
    }
}

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Work").finish_non_exhaustive()
    }
}

/// Why a client was not let in. Partitions the refusals for the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Wrong password or unknown account; the client is not told which.
    Authentication,
    /// The bytes are not the protocol's.
    Malformed,
    /// Well-formed, but not offered here (replication, old protocol versions).
    Unsupported,
    /// The client asked for something that needs TLS, or the other way round.
    Tls,
}

impl Refusal {
    /// The name in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Refusal::Authentication => "authentication",
            Refusal::Malformed => "malformed",
            Refusal::Unsupported => "unsupported",
            Refusal::Tls => "tls",
        }
    }
}

/// The conversation with a client before it has a session.
pub trait Greeting<E: Engine>: Send {
    /// Writes what the server says before the client has spoken, if anything.
    fn open(&mut self, out: &mut BytesMut);

    /// Takes whole messages from the front of `input`, writes answers to `out`.
    fn receive(&mut self, input: &mut BytesMut, out: &mut BytesMut) -> Greet<E>;

    /// The TLS handshake is done. `end_point` is the hash of the router's certificate for channel binding, if it has one.
    fn secured(&mut self, end_point: Option<Arc<[u8]>>);

    /// The answer to [`Greet::LookUp`]: the account's secret, or `None` when there is no such account (then the
    /// conversation goes on to a refusal that cannot be told from a wrong password). `vault` is the cluster's.
    fn account(
        &mut self,
        account: Option<E::Account>,
        random: [u8; 24],
        vault: &Arc<E::Vault>,
        out: &mut BytesMut,
    ) -> Greet<E>;

    /// The last message to this client.
    fn farewell(&self, why: &Farewell) -> Vec<u8>;
}

/// A key that lets a client cancel its own statement. Made by the router, constant over swaps.
#[derive(Clone, Copy)]
pub struct CancelKey {
    /// The connection id that the client sees.
    pub id: u32,
    /// The secret; protocols with shorter secrets use the front of it.
    pub secret: [u8; 32],
}

impl std::fmt::Debug for CancelKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CancelKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A cancel request as it came over the wire, not yet believed.
#[derive(Clone)]
pub struct CancelClaim {
    /// The connection id that the client names.
    pub id: u32,
    /// The secret that it shows.
    pub secret: Vec<u8>,
}

impl std::fmt::Debug for CancelClaim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CancelClaim").field("id", &self.id).finish_non_exhaustive()
    }
}
