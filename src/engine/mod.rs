//! Database protocols as pure functions and state machines: bytes in, bytes out. No sockets, no clock, no tasks.
//!
//! The router drives four kinds of machine for every engine:
//!
//! * a [`Greeting`] talks to a client until it is authenticated,
//! * a [`Dialogue`] talks to a backend in the router's own name (log in, capture, restore, admin queries),
//! * a [`Tracker`] watches a session's bytes go by and knows when the session may be moved,
//! * a [`LostTransaction`] answers a client whose transaction a forced change or a crash has taken away.

use bytes::{Bytes, BytesMut};

pub mod obstacle;
pub mod postgres;
pub mod tracking;

pub use obstacle::Obstacle;
pub use tracking::{ClientScan, Doubt, Drift, Fate, Loss, LostTransaction, Rest, ServerScan, Tracker};

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

/// Why a conversation with a backend failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DialogueError {
    /// The server answered with an error. `message` holds it in the client's protocol, ready to be passed on.
    #[error("the server refused ({code}): {text}")]
    Refused {
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

/// What a greeting wants next.
#[derive(Debug)]
pub enum Greet<E: Engine> {
    /// Send what is in `out`, then give it more bytes.
    More,
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
    /// Takes whole messages from the front of `input`, writes answers to `out`.
    fn receive(&mut self, input: &mut BytesMut, out: &mut BytesMut) -> Greet<E>;

    /// The TLS handshake is done. `end_point` is the hash of the router's certificate for channel binding, if it has one.
    fn secured(&mut self, end_point: Option<std::sync::Arc<[u8]>>);

    /// The answer to [`Greet::LookUp`]: the account's secret, or `None` when there is no such account (then the
    /// conversation goes on to a refusal that cannot be told from a wrong password).
    fn account(&mut self, account: Option<E::Account>, random: [u8; 24], out: &mut BytesMut) -> Greet<E>;
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

/// What a client may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Anything.
    All,
    /// What belongs to a transaction that is open, one request at a time.
    OpenTransaction,
    /// Nothing: what has begun may end.
    Nothing,
}

/// Everything the router needs to know of a database's protocol.
pub trait Engine: Sized + Send + Sync + std::fmt::Debug + 'static {
    /// What a client asked for when it connected; replayed at every log in.
    type Startup: Clone + Send + Sync + std::fmt::Debug;
    /// How an account proves itself.
    type Account: Send;
    /// See [`Greeting`].
    type Greeting: Greeting<Self>;
    /// See [`Tracker`].
    type Tracker: Tracker;
    /// What a backend said when it let us in.
    type LoggedIn: Send + Sync;
    /// Logs in to a backend.
    type LogIn: Dialogue<Output = Self::LoggedIn>;
    /// What a session is made of. The default is a session that has just logged in.
    type State: Default + Send + Sync;
    /// Asks an idle backend what its session is made of.
    type Capture: Dialogue<Output = Captured<Self::State>>;
    /// Makes a fresh backend the session that was captured.
    type Restore: Dialogue<Output = Self::Restored>;
    /// What a restore has to tell the client.
    type Restored: Send;
    /// Fetches what the server has for the client and has not sent yet.
    type Drain: Dialogue<Output = BytesMut>;
    /// Reads one account's secret.
    type AccountQuery: Dialogue<Output = Option<Self::Account>>;
    /// Runs one administrative statement; yields its rows.
    type AdminQuery: Dialogue<Output = Vec<Vec<Option<String>>>>;
    /// See [`LostTransaction`].
    type Lost: LostTransaction;
    /// Speaks in the client's stead; yields what came in between and is the client's.
    type Interlude: Dialogue<Output = BytesMut>;

    /// Starts the conversation with a client. `secret` seeds what unknown accounts are answered with.
    fn greet(secret: [u8; 32]) -> Self::Greeting;
    /// Logs in as the client asked.
    fn log_in(startup: &Self::Startup) -> Self::LogIn;
    /// Logs in as the cluster's master user.
    fn log_in_as_master(user: &str, database: &str) -> Self::LogIn;
    /// Starts watching a session that has just logged in; writes the client's welcome to `out`.
    fn welcome(
        startup: &Self::Startup,
        logged_in: &Self::LoggedIn,
        key: CancelKey,
        out: &mut BytesMut,
    ) -> Self::Tracker;
    /// How many bytes of its cancel secret this client was given.
    fn secret_length(startup: &Self::Startup) -> usize;
    /// Captures a session at rest. `last`: what was captured before. `names`: setting names that other sessions of the
    /// database are known to use.
    fn capture(
        startup: &Self::Startup,
        logged_in: &Self::LoggedIn,
        tracker: &Self::Tracker,
        last: &Self::State,
        names: &[String],
        nonce: u64,
    ) -> Self::Capture;
    /// A capture is done: adds what only the wire knows.
    fn captured(tracker: &mut Self::Tracker, state: &mut Self::State);
    /// Statements that yield the texts stored in a database that may name settings, one a row.
    fn stored_texts(logged_in: &Self::LoggedIn) -> Vec<String>;
    /// Setting names in such a text.
    fn stored_names(text: &str) -> Vec<String>;
    /// Setting names that this session has used and others should ask for too.
    fn setting_names(tracker: &Self::Tracker) -> &[String];
    /// Restores `state` on a backend that has just let us in.
    fn restore(
        tracker: &Self::Tracker,
        logged_in: &Self::LoggedIn,
        state: &Self::State,
        nonce: u64,
    ) -> Self::Restore;
    /// The session goes on after a restore; writes what the client must be told first.
    fn reattach(
        tracker: &mut Self::Tracker,
        logged_in: &Self::LoggedIn,
        restored: Self::Restored,
        out: &mut BytesMut,
    );
    /// What in the captured state keeps the session where it is.
    fn state_obstacle(state: &Self::State) -> Option<Obstacle>;
    /// Whether a library that the backend's process has loaded keeps the session where it is.
    fn library_obstacle(paths: &[String]) -> Option<Obstacle>;
    /// The state can be seen by other sessions (a lock, a subscription): restore it before anybody runs.
    fn is_visible(state: &Self::State) -> bool;
    /// What must be fetched from a backend before it is given up while nobody can write; `None`: nothing.
    fn drain(state: &Self::State) -> Option<Self::Drain>;
    /// Takes out of a state what statements that were sent since may have changed, however harmless: what is not known
    /// any more must not be restored as if it were.
    fn weaken(state: &mut Self::State);
    /// Reads an account's secret.
    fn account_query(user: &str) -> Self::AccountQuery;
    /// Runs an administrative statement with text parameters.
    fn admin_query(sql: &str, parameters: &[&str]) -> Self::AdminQuery;
    /// What writes dirty data to disk ahead of a stop, so that the stop is short.
    fn flush_statement() -> Option<&'static str>;
    /// An administrative statement that yields the number of the transaction that a backend is in, so that it can be
    /// asked for after a crash as well; no row or no value: it has none. `None`: this engine has no such numbers.
    fn transaction_query(_logged_in: &Self::LoggedIn) -> Option<String> {
        None
    }
    /// An administrative statement that yields what became of a transaction.
    fn outcome_query(_transaction: u64) -> Option<String> {
        None
    }
    /// Reads that: whether it committed; `None`: not decided (yet).
    fn outcome(_answer: &str) -> Option<bool> {
        None
    }
    /// Answers a client whose transaction is gone.
    fn lost_transaction(tracker: &Self::Tracker) -> Self::Lost;
    /// Rolls the open transaction back and ends the request that has failed, if there is one.
    fn roll_back(tracker: &Self::Tracker) -> Self::Interlude;
    /// Repeats what [`outlasting`](LostTransaction::outlasting) gave.
    fn repeat(tracker: &mut Self::Tracker, requests: &Bytes) -> Self::Interlude;
    /// The bytes that ask a backend to cancel what runs there, to be sent on a connection of its own.
    fn cancel_request(logged_in: &Self::LoggedIn) -> Vec<u8>;
    /// The process id of a backend, as its notifications name it.
    fn backend_id(logged_in: &Self::LoggedIn) -> u32;
    /// Answers the request at the front of `input`, which was never forwarded, as cancelled. `false`: there is none.
    fn cancel_held(input: &mut BytesMut, out: &mut BytesMut) -> bool;
    /// The last message of a connection that is closed, in the client's protocol.
    fn farewell(why: &Farewell) -> Vec<u8>;
    /// What a backend that went away said last (`bytes` may be empty) tells about the server.
    fn loss(bytes: &[u8]) -> Loss;
    /// The bytes that end a backend connection politely.
    fn goodbye() -> &'static [u8];
    /// The account and database of a session, for operators.
    fn describe(startup: &Self::Startup) -> (&str, &str);
}

/// What a capture yields.
#[derive(Debug)]
pub struct Captured<S> {
    /// What the session is made of.
    pub state: S,
    /// Messages that came in between and are the client's (notifications, changed parameters).
    pub aside: BytesMut,
}

/// Why a connection is closed by the router. Texts are allowlisted: nothing internal reaches a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Farewell {
    /// A forced change took the session (the original's words).
    ForcedChange,
    /// State that cannot be carried was lost with the server; says which.
    StateLost(String),
    /// A COMMIT was under way when the server was lost.
    CommitUnknown,
    /// A statement was under way when the server was lost.
    StatementUnknown,
    /// The router is shutting down.
    ShuttingDown,
    /// No database process, and none came up in time.
    NotAvailable,
    /// The router serves as many sessions as it may.
    TooManySessions,
    /// No such cluster behind this listener.
    UnknownCluster,
    /// The client broke the protocol.
    Violation(&'static str),
    /// The handshake took too long.
    TooSlow,
}
