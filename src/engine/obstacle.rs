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
    /// An online backup was started in this session, or it holds what one takes (MariaDB's BACKUP STAGE and BACKUP LOCK,
    /// MySQL's LOCK INSTANCE FOR BACKUP).
    Backup,
    /// A temporary replication slot or replication origin belongs to the session.
    Replication,
    /// The session drew a value from a sequence a moment ago and may ask for it.
    SequenceValue,
    /// The session holds tables or the whole server locked (LOCK TABLES, FLUSH TABLES WITH READ LOCK).
    TableLock,
    /// The session holds a lock by name (GET_LOCK).
    NamedLock,
    /// A table is open for reading by position (HANDLER).
    Handler,
    /// A cursor of a prepared statement is open.
    Cursor,
    /// A part of a parameter was sent ahead, and the statement not run yet.
    LongData,
    /// A table that is kept in memory only has rows; it is the server's, not the session's.
    MemoryTable,
    /// The account cannot be logged in to any more as it was.
    Account,
    /// The session's state could not be asked for.
    Unknown,
}

impl Obstacle {
    /// All of them, for metrics.
    pub const ALL: [Obstacle; 18] = [
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
        Obstacle::TableLock,
        Obstacle::NamedLock,
        Obstacle::Handler,
        Obstacle::Cursor,
        Obstacle::LongData,
        Obstacle::MemoryTable,
        Obstacle::Account,
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
            Obstacle::TableLock => "table_lock",
            Obstacle::NamedLock => "named_lock",
            Obstacle::Handler => "handler",
            Obstacle::Cursor => "cursor",
            Obstacle::LongData => "long_data",
            Obstacle::MemoryTable => "memory_table",
            Obstacle::Account => "account",
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
