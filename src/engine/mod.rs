//! Database protocols as pure functions and state machines: bytes in, bytes out. No sockets, no clock, no tasks.
//!
//! The router drives four kinds of machine for every engine:
//!
//! * a [`Greeting`] talks to a client until it is authenticated,
//! * a [`Dialogue`] talks to a backend in the router's own name (log in, capture, restore, admin queries),
//! * a [`Tracker`] watches a session's bytes go by and knows when the session may be moved,
//! * a [`LostTransaction`] answers a client whose transaction a forced change or a crash has taken away.

use bytes::{Bytes, BytesMut};

pub mod conversation;
pub mod framing;
pub mod mysql;
pub mod obstacle;
pub mod postgres;
pub mod replicating;
pub mod tie;
pub mod tracking;

pub use conversation::{
    Access, Arrival, CancelClaim, CancelKey, Cause, Dialogue, DialogueError, Greet, Greeting, Never, Refusal,
    RouterLogin, Work,
};
pub use framing::{BadFrame, Framing};
pub use obstacle::Obstacle;
pub use replicating::{LogEnd, Objection, Replicating};
pub use tie::Tie;
pub use tracking::{
    ClientScan, Directory, Doubt, Drift, FIRST_CONNECTION_ID, Fate, Intercepted, Loss, LostTransaction, Rest,
    ServerScan, Tracker, Whereabouts,
};

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

/// The most rows that are kept of the answer to a question in the router's own name. So many are not all there are.
pub const MAX_ROWS: usize = 100_000;

/// Everything the router needs to know of a database's protocol.
pub trait Engine: Sized + Send + Sync + std::fmt::Debug + 'static {
    /// The server speaks first, so a client cannot be greeted before the server's [`Contract`](Engine::Contract) is
    /// known.
    const SERVER_SPEAKS_FIRST: bool;
    /// A server of this engine stops quickly only if every connection was closed before.
    const STOPS_WHEN_EMPTY: bool;
    /// Settings of the server can be changed while it runs, and a restart loses that.
    const VOLATILE_SETTINGS: bool;
    /// The name that a client must agree on (ALPN) that begins with a TLS handshake; `None`: it cannot.
    const DIRECT_TLS: Option<&'static [u8]>;

    /// What clients are told of a server, the same for each of them.
    type Contract: Send + Sync;
    /// What is kept in memory of the accounts that have proved themselves, for the life of the process.
    type Vault: Default + Send + Sync;
    /// What a client asked for when it connected; replayed at every log in.
    type Startup: Clone + Send + Sync + std::fmt::Debug;
    /// How an account proves itself.
    type Account: Send + Sync;
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
    /// Has what runs on a backend cancelled, on a connection of its own; the server closes it, or the dialogue ends.
    type Cancel: Dialogue<Output = ()> + Clone + Sync + 'static;
    /// Asks an idle backend what its session is made of.
    type Capture: Dialogue<Output = Captured<Self::State>>;
    /// Makes a fresh backend the session that was captured.
    type Restore: Dialogue<Output = Self::Restored>;
    /// What a restore has to tell the client.
    type Restored: Send + 'static;
    /// What of a session can be made ahead on a server that takes no writes yet.
    type Ahead: Clone + PartialEq + Send + Sync + 'static;
    /// Fetches what the server has for the client and has not sent yet.
    type Drain: Dialogue<Output = BytesMut>;
    /// Reads one account's secret.
    type AccountQuery: Dialogue<Output = Option<Self::Account>>;
    /// Runs one administrative statement; yields its rows.
    type AdminQuery: Dialogue<Output = Vec<Vec<Option<String>>>>;
    /// Enters what a restored session will be in, on a backend that has just let its account in.
    type Entry: Dialogue<Output = ()>;
    /// See [`LostTransaction`].
    type Lost: LostTransaction;
    /// Speaks in the client's stead; yields what came in between and is the client's.
    type Interlude: Dialogue<Output = BytesMut>;

    /// Starts the conversation with a client.
    fn greet(arrival: &Arrival<'_, Self>) -> Self::Greeting;
    /// A client that has a session authenticates anew with this `request` ([`Intercepted::Reauthenticate`]).
    /// `secret` is an [`Arrival`]'s. Give it no bytes before it has asked for some.
    fn greet_again(startup: &Self::Startup, request: Bytes, secret: [u8; 32]) -> Self::Greeting;
    /// What a server that the router has logged in to may be announced as.
    fn contract(logged_in: &Self::LoggedIn) -> Self::Contract;
    /// Logs in as the client asked.
    fn log_in(startup: &Self::Startup) -> Self::LogIn;
    /// Logs in as the same client for a session that is to become what it was.
    fn log_in_again(startup: &Self::Startup, _state: &Self::State) -> Self::LogIn {
        Self::log_in(startup)
    }
    /// Logs in as the router itself.
    fn log_in_as_router(login: &RouterLogin) -> Self::LogIn;
    /// Starts watching a session that has just logged in; writes the client's welcome to `out`.
    fn welcome(
        startup: &Self::Startup,
        logged_in: &Self::LoggedIn,
        key: CancelKey,
        out: &mut BytesMut,
    ) -> Self::Tracker;
    /// What the client's bytes are wrapped in from its welcome on; `None`: nothing.
    fn framing(startup: &Self::Startup) -> Option<Box<dyn Framing>>;
    /// How many bytes of its cancel secret this client was given.
    fn secret_length(startup: &Self::Startup) -> usize;
    /// The id of a session of which the router must ask in its own name before [`capture`](Engine::capture), because the
    /// session's user may not see it.
    fn observable(logged_in: &Self::LoggedIn) -> Option<u32>;
    /// What is asked then, for several sessions at once; one statement. Each row begins with the id.
    fn observation(ids: &[u32]) -> String;
    /// Captures a session at rest.
    fn capture(inquiry: &Inquiry<'_, Self>) -> Self::Capture;
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
    /// What can be made of a session before the server that is to take over does so, to be
    /// [completed](Engine::complete) then; `None`: it is better made as a whole.
    fn ahead(_tracker: &Self::Tracker, _state: &Self::State) -> Option<Self::Ahead> {
        None
    }
    /// Makes that, on a backend that has just let us in, or fails: half of it is of no use.
    fn rehearse(ahead: &Self::Ahead, logged_in: &Self::LoggedIn, nonce: u64) -> Self::Restore;
    /// Makes the rest, when the server has taken over.
    fn complete(
        tracker: &Self::Tracker,
        logged_in: &Self::LoggedIn,
        state: &Self::State,
        nonce: u64,
    ) -> Self::Restore {
        Self::restore(tracker, logged_in, state, nonce)
    }
    /// What both have to tell the client.
    fn joined(_ahead: Self::Restored, rest: Self::Restored) -> Self::Restored {
        rest
    }
    /// The session goes on after a restore; writes what the client must be told first.
    fn reattach(
        tracker: &mut Self::Tracker,
        logged_in: &Self::LoggedIn,
        restored: Self::Restored,
        out: &mut BytesMut,
    );
    /// What in the captured state keeps the session where it is.
    fn state_obstacle(state: &Self::State) -> Option<Obstacle>;
    /// If the session has not changed, the next capture on this backend can tell by a brief answer.
    fn is_known_again(_state: &Self::State) -> bool {
        true
    }
    /// Whether a library that the backend's process has loaded keeps the session where it is.
    fn library_obstacle(paths: &[String]) -> Option<Obstacle>;
    /// The state can be seen by other sessions (a lock, a subscription): restore it before anybody runs.
    fn is_visible(state: &Self::State) -> bool;
    /// What keeps the session on its backend while other sessions run; `None`: it can be parked.
    fn tie(state: &Self::State) -> Option<Tie>;
    /// What must be fetched from a backend before it is given up while nobody can write; `None`: nothing.
    fn drain(state: &Self::State) -> Option<Self::Drain>;
    /// Takes out of a state what statements that were sent since may have changed, however harmless: what is not known
    /// any more must not be restored as if it were.
    fn weaken(state: &mut Self::State);
    /// Reads an account's secret, on a connection of the router's own.
    fn account_query(router: &Self::LoggedIn, user: &str) -> Self::AccountQuery;
    /// The same for sessions that were let in: what another log in of theirs depends on.
    fn standing_query(router: &Self::LoggedIn, user: &str) -> Self::AccountQuery {
        Self::account_query(router, user)
    }
    /// Whether a client's account is as it was when it logged in; `account` as a
    /// [`standing_query`](Engine::standing_query) has it.
    fn access(startup: &Self::Startup, account: Option<&Self::Account>) -> Access;
    /// Why the account would not let the client in again with what it has proved, as far as that can be seen without a
    /// log in (failed ones may be counted by the server). May take some milliseconds.
    fn objection(_startup: &Self::Startup, _account: Option<&Self::Account>) -> Option<String> {
        None
    }
    /// What a log in alone does not show of the rights that a session needs to be restored; `None`: nothing.
    /// `logged_in`: the session's backend.
    fn entry(_logged_in: &Self::LoggedIn, _state: &Self::State) -> Option<Self::Entry> {
        None
    }
    /// Runs an administrative statement with text parameters.
    fn admin_query(sql: &str, parameters: &[&str]) -> Self::AdminQuery;
    /// What writes dirty data to disk ahead of a stop, so that the stop is short.
    fn flush() -> &'static Flush;
    /// What of the server itself a restart loses, however its sessions fare; a statement that yields a row if there is
    /// such a thing.
    fn server_obstacle() -> Option<(Obstacle, &'static str)>;
    /// A statement that yields name and value of every setting of the server that can be changed while it runs. Asked
    /// only where [`VOLATILE_SETTINGS`](Engine::VOLATILE_SETTINGS) says that a restart loses them.
    fn volatile_settings(router: &Self::LoggedIn) -> &'static str;
    /// Sets such a setting; `None`: it is not ours to carry over (capacity governs it, or it cannot be set).
    fn set_volatile(name: &str, value: &str) -> Option<String>;
    /// Makes a database that does not exist: whether it does (a row), and how to make it. `name` is a plain identifier.
    fn database_statements(name: &str) -> (String, String);
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
    /// How a server is copied, and the copy kept up with it; `None`: this engine's are not. `router`: a connection of the
    /// router's own to a server of that kind.
    fn replicating(_router: &Self::LoggedIn) -> Option<&'static Replicating> {
        None
    }
    /// Reads the answer to [`Replicating::written`].
    fn written(_row: &[Option<String>]) -> Option<LogEnd> {
        None
    }
    /// Reads the answer to [`Replicating::repeated`]: how far the copy has come. `history`: the server's. `None`: it does not
    /// follow that server, or has something of its own.
    fn repeated(row: &[Option<String>], _history: &str) -> Option<u64> {
        row.first()?.as_deref()?.parse().ok()
    }
    /// Statements that have a copy follow the server which it reaches at this port of 127.0.0.1. `since`: up to where a
    /// new copy has that server's log.
    fn follow(
        _router: &Self::LoggedIn,
        _port: u16,
        _since: Option<&str>,
        _login: &RouterLogin,
    ) -> Vec<String> {
        Vec::new()
    }
    /// A statement by which the server copies its files into a new folder.
    fn clone_to(_folder: &str) -> String {
        String::new()
    }
    /// Answers a client whose transaction is gone.
    fn lost_transaction(tracker: &Self::Tracker) -> Self::Lost;
    /// Rolls the open transaction back and ends the request that has failed, if there is one.
    fn roll_back(tracker: &Self::Tracker) -> Self::Interlude;
    /// Repeats what [`outlasting`](LostTransaction::outlasting) gave.
    fn repeat(tracker: &mut Self::Tracker, requests: &Bytes) -> Self::Interlude;
    /// Has what runs on a backend cancelled.
    fn cancel(logged_in: &Self::LoggedIn, router: &RouterLogin) -> Self::Cancel;
    /// The number by which the server and its messages name a backend.
    fn backend_id(logged_in: &Self::LoggedIn) -> u32;
    /// The backend's operating system process, where it has one of its own.
    fn process_id(logged_in: &Self::LoggedIn) -> Option<u32>;
    /// Answers the request at the front of `input`, which was never forwarded, as cancelled. `false`: there is none.
    fn cancel_held(input: &mut BytesMut, out: &mut BytesMut) -> bool;
    /// Answers the requests in `input`, none of which was forwarded, with the server's own error for too many clients,
    /// and takes them out. `false`: that would not be true to what the client has sent; nothing was done.
    fn refuse_held(input: &mut BytesMut, out: &mut BytesMut) -> bool;
    /// The last message to a client that was let in and has no session.
    fn turn_away(startup: &Self::Startup, why: &Farewell) -> Vec<u8>;
    /// What a backend that went away said last (`bytes` may be empty) tells about the server.
    fn loss(bytes: &[u8]) -> Loss;
    /// The bytes that end a backend connection politely.
    fn goodbye() -> &'static [u8];
    /// The account and database of a session, for operators.
    fn describe(startup: &Self::Startup) -> (&str, &str);
}

/// How dirty data is written to disk while clients run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flush {
    /// Statements that do it, or begin it.
    pub begin: &'static [&'static str],
    /// A statement that yields how much is left, as a number in its last column, and how much of it a stop does in no
    /// time.
    pub left: Option<(&'static str, u64)>,
    /// A question for the settings that these statements change, as names and values: to be put back if the server is to go
    /// on after all.
    pub changes: Option<&'static str>,
}

/// What a capture goes by.
pub struct Inquiry<'a, E: Engine> {
    /// What the client asked for when it connected.
    pub startup: &'a E::Startup,
    /// The backend.
    pub logged_in: &'a E::LoggedIn,
    /// What the wire knows.
    pub tracker: &'a E::Tracker,
    /// What was captured before.
    pub last: &'a E::State,
    /// Setting names that other sessions of the database are known to use.
    pub names: &'a [String],
    /// The answer to [`Engine::observation`].
    pub observed: &'a [Vec<Option<String>>],
    /// The session is to be known again when it is asked the next time, if it has not changed.
    pub again: bool,
    /// Makes names that no client can guess.
    pub nonce: u64,
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
