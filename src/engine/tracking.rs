//! Watching a session's bytes go by: what a tracker is asked, and what it answers.

use bytes::{Bytes, BytesMut};

use super::{Admission, Farewell, Obstacle};

/// What a tracker found in the bytes that a client sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientScan {
    /// This many more bytes at the front may go to the backend now.
    pub forward: usize,
    /// What to do with the rest.
    pub rest: Rest,
}

/// Why a tracker stopped scanning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// All is scanned, or an incomplete message needs more bytes.
    Incomplete,
    /// A new request waits for the gate.
    Held,
    /// The next request waits until the running one is answered (only while the gate is shut).
    Draining,
    /// The next request is for the router to look at, once all before it is answered.
    Intercept,
    /// The client says goodbye.
    Goodbye,
    /// The client broke the protocol; close with this text.
    Violation(&'static str),
}

/// What a tracker found in the bytes that a backend sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerScan {
    /// This many more bytes at the front may go to the client now.
    pub forward: usize,
    /// The backend says it is going away; its last message was not forwarded and stays at `forward`.
    pub farewell: bool,
    /// The backend broke the protocol.
    pub violation: bool,
}

/// How sure it is that a session's state is still what the last capture saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Drift {
    /// Nothing was sent since.
    None,
    /// Only statements that cannot change what a session is made of.
    Benign,
    /// Also some that have changed it, in a way that the wire tells exactly: it is to be asked, and nothing is lost if it
    /// cannot be.
    Known,
    /// It must be asked.
    Possible,
}

impl Drift {
    /// The session should look at itself before long.
    pub fn calls_for_a_look(self) -> bool {
        self >= Drift::Known
    }
}

/// What becomes of a session whose backend is gone or must go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Nothing was under way: restore it.
    Carried,
    /// Its transaction is certainly not committed; the session lives.
    TransactionAborted,
    /// A statement was running and its answer is owed; the transaction is certainly not committed.
    StatementAborted,
    /// A statement outside a transaction has failed, and the end of its request has not come from the client: restore
    /// it, and answer that end.
    StatementFailed,
    /// A statement outside a transaction was cancelled for the change, and the client was told that it was aborted: restore
    /// the session, and refuse what was sent before that could be read.
    StatementCancelled,
    /// A COMMIT was sent and not answered: nobody knows.
    CommitUnknown,
    /// A statement outside a transaction was sent and not answered: nobody knows.
    StatementUnknown,
}

/// What became of the server, as far as its last words to one session tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Only this session was ended, and the client is to be told in the server's words.
    Session,
    /// The server is gone or starts anew.
    Server,
    /// One or the other.
    Unclear,
}

/// Where a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whereabouts {
    /// There is no session of this id.
    Unknown,
    /// It has no backend.
    Detached,
    /// It is on the backend of this number.
    At(u32),
}

/// The lowest number that a client may know its connection by: beyond what an operating system or a server gives out, so
/// that none is ever mistaken for a process or a connection of the server's.
pub const FIRST_CONNECTION_ID: u32 = 1 << 30;

/// Knows the sessions by the ids that clients know.
pub trait Directory {
    /// Where a session is.
    fn find(&self, id: u32) -> Whereabouts;
}

/// What becomes of a request that the router looks at itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Intercepted {
    /// It stays at the front, perhaps changed, and may pass.
    Pass,
    /// It was taken and answered.
    Answered,
    /// It stays at the front and may pass; it will end the sessions of these ids, if it succeeds.
    Ends(Vec<u32>),
    /// It stays at the front, and names a session that has no backend: it must have one first.
    Wakes(u32),
    /// It was taken: the client authenticates anew.
    Reauthenticate(Bytes),
}

/// What is under way is one transaction, and so can be answered once it is known what became of that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubt {
    /// The rest of the answer if it committed; `None`: more than that is lost, and the client must be told `unknown`.
    pub committed: Option<Bytes>,
    /// The rest of the answer if it did not.
    pub aborted: Bytes,
    /// What the client is told if it cannot be known.
    pub unknown: Farewell,
}

/// Watches the bytes of one session go by.
pub trait Tracker: Send {
    /// Scans what the client sent and was not scanned before, and may change what it clears; what the client may not
    /// begin is held.
    fn client_bytes(&mut self, bytes: &mut BytesMut, admission: Admission) -> ClientScan;

    /// Scans what the backend sent and was not scanned before, and may change what it clears. `names` maps a backend's
    /// number to the connection id that clients know.
    fn server_bytes(&mut self, bytes: &mut BytesMut, names: &dyn Fn(u32) -> Option<u32>) -> ServerScan;

    /// Looks at the request at the front of `input` that was not let past ([`Rest::Intercept`]). Nothing is under way.
    /// May write an answer to `out`.
    fn intercept(
        &mut self,
        input: &mut BytesMut,
        directory: &dyn Directory,
        out: &mut BytesMut,
    ) -> Intercepted;

    /// What keeps the session from being moved at this moment, as far as the wire tells.
    fn obstacle(&self) -> Option<Obstacle>;

    /// True when the router may speak to the backend in its own name.
    fn is_quiet(&self) -> bool;

    /// A statement is running, so a cancel request makes sense.
    fn is_running(&self) -> bool;

    /// How many requests, or groups of requests with one answer, wait for theirs.
    fn unanswered(&self) -> usize;

    /// Nothing is running, and neither side is in the middle of a message.
    fn is_answered(&self) -> bool;

    /// The client has been given the front of a message whose rest has not come from the backend.
    fn is_mid_answer(&self) -> bool;

    /// What the client did since [`captured`](Tracker::captured) was last called.
    fn drift(&self) -> Drift;

    /// The session was just captured.
    fn captured(&mut self);

    /// The start of the latest statement's text, for operators.
    fn shown(&self) -> &[u8];

    /// What becomes of the session if its backend is lost now.
    fn fate(&self) -> Fate;

    /// What would have to be known to answer what is under way; `None`: no knowledge helps.
    fn doubt(&self) -> Option<Doubt> {
        None
    }

    /// The session has sent what may keep some of its writes out of the server's log.
    fn is_unlogged(&self) -> bool {
        false
    }

    /// The session starts anew on another backend, at rest.
    fn reattached(&mut self);

    /// The client has authenticated anew on the connection that `former` watched: what must not be given out twice on
    /// one connection goes on from there.
    fn succeeds(&mut self, _former: &Self)
    where
        Self: Sized,
    {
    }

    /// The router has rolled the open transaction back: at rest, and to be looked at anew.
    fn rolled_back(&mut self);

    /// If the server waits for bulk data of the client: the bytes that make it stop waiting, with an error.
    fn abort_copy(&mut self) -> Option<&'static [u8]>;

    /// A forced change has what is running cancelled (`true`), or is done: a cancelled statement is answered in the
    /// words of a forced change where the engine has such words.
    fn forcing(&mut self, forced: bool);

    /// The last message to this client.
    fn farewell(&self, why: &Farewell) -> Vec<u8>;
}

/// Answers a client whose transaction is gone, until it has ended it. See each engine for the table of answers.
pub trait LostTransaction: Send {
    /// Takes whole messages from the front of `input`, writes answers to `out`. `true`: the transaction is over and
    /// the session may go on with what is left in `input`.
    fn receive(&mut self, input: &mut BytesMut, out: &mut BytesMut) -> bool;

    /// Requests of the client's that were answered with success and outlast the transaction (a statement prepared or
    /// closed), to be repeated on the session's backend.
    fn outlasting(&mut self) -> BytesMut;
}
