//! Why a session is not parked although it could be moved: a reason, never a boolean.

/// What ties a session to its backend while other sessions run. A hand-over holds everybody and restores this before
/// anyone runs; a session that is parked alone would be seen to lack it, or could not be given it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tie {
    /// It is told of notifications (`LISTEN`).
    Listening,
    /// It holds advisory locks.
    AdvisoryLock,
    /// A sequence gave it a value that it may ask for (`lastval`, `currval`). To make that anew takes a lock which
    /// waits for everybody's open transactions.
    SequenceValue,
}

impl Tie {
    /// The name that operators and JSON see.
    pub fn as_str(self) -> &'static str {
        match self {
            Tie::Listening => "listening",
            Tie::AdvisoryLock => "advisory_lock",
            Tie::SequenceValue => "sequence_value",
        }
    }
}
