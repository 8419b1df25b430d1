//! Why a session cannot be moved now: a reason, never a boolean.

/// What keeps a session on its backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Obstacle {
    /// A transaction is open (also a failed one).
    OpenTransaction,
    /// A statement or a pipeline has not been answered in full.
    StatementInProgress,
    /// The session owns temporary tables or other temporary objects.
    TemporaryTable,
    /// A cursor outlives its transaction.
    HeldCursor,
    /// A prepared statement cannot be prepared again as it was.
    PreparedStatement,
    /// A setting cannot be set again by this user.
    Setting,
    /// A procedural language or extension may keep state in this session.
    LoadedLibrary,
    /// An online backup was started in this session.
    Backup,
    /// A temporary replication slot or replication origin belongs to the session.
    Replication,
    /// The session drew a value from a sequence a moment ago and may ask for it.
    SequenceValue,
    /// The session's state could not be asked for.
    Unknown,
}

impl Obstacle {
    /// All of them, for metrics.
    pub const ALL: [Obstacle; 11] = [
        Obstacle::OpenTransaction,
        Obstacle::StatementInProgress,
        Obstacle::TemporaryTable,
        Obstacle::HeldCursor,
        Obstacle::PreparedStatement,
        Obstacle::Setting,
        Obstacle::LoadedLibrary,
        Obstacle::Backup,
        Obstacle::Replication,
        Obstacle::SequenceValue,
        Obstacle::Unknown,
    ];

    /// The name that operators, metrics and JSON see.
    pub fn as_str(self) -> &'static str {
        match self {
            Obstacle::OpenTransaction => "open_transaction",
            Obstacle::StatementInProgress => "statement_in_progress",
            Obstacle::TemporaryTable => "temporary_table",
            Obstacle::HeldCursor => "held_cursor",
            Obstacle::PreparedStatement => "prepared_statement",
            Obstacle::Setting => "setting",
            Obstacle::LoadedLibrary => "loaded_library",
            Obstacle::Backup => "backup",
            Obstacle::Replication => "replication",
            Obstacle::SequenceValue => "sequence_value",
            Obstacle::Unknown => "unknown",
        }
    }

    /// True for what ends with the transaction that is under way, so that a short hold may outlast it.
    pub fn is_passing(self) -> bool {
        matches!(self, Obstacle::OpenTransaction | Obstacle::StatementInProgress | Obstacle::SequenceValue)
    }
}

impl std::fmt::Display for Obstacle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
