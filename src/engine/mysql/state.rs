//! What a session is made of.

use bytes::Bytes;

use super::answer::ascii;
use crate::engine::Obstacle;

/// How a context came by its character set and its collation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Names {
    /// Nobody knows.
    #[default]
    Unknown,
    /// The log in made them.
    LogIn,
    /// `SET NAMES` with the character set's default collation.
    Default,
}

/// Where a statement was prepared: the server freezes these in it ("catalogue": they matter at PREPARE time, not at
/// EXECUTE).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Context {
    /// The current database; `None`: there was none.
    pub database: Option<Bytes>,
    /// `@@sql_mode`; `None`: not known (yet).
    pub sql_mode: Option<Bytes>,
    /// `@@character_set_client`; `None`: not known (yet).
    pub character_set: Option<Bytes>,
    /// `@@collation_connection`; `None`: not known (yet).
    pub collation: Option<Bytes>,
    /// How the last two can be made again without being known.
    pub names: Names,
    /// What is not known of two contexts of one era is the same in both.
    pub era: u32,
}

impl Context {
    /// It can be made again.
    pub fn is_known(&self) -> bool {
        self.sql_mode.is_some() && (self.has_values() || self.is_of_log_in() || self.is_of_names().is_some())
    }

    fn has_values(&self) -> bool {
        self.character_set.is_some() && self.collation.is_some()
    }

    /// Another log in is all that makes it again.
    pub fn is_of_log_in(&self) -> bool {
        self.names == Names::LogIn && !self.has_values()
    }

    /// The character set that `SET NAMES` makes it again with.
    pub fn is_of_names(&self) -> Option<&Bytes> {
        let plain = |name: &&Bytes| name.iter().all(|byte| byte.is_ascii_alphanumeric());
        self.character_set
            .as_ref()
            .filter(|_| self.names == Names::Default && !self.has_values())
            .filter(plain)
    }
}

/// A statement that the client prepared by `COM_STMT_PREPARE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// The id that the client knows.
    pub id: u32,
    /// Its text, in the character set of its context.
    pub text: Bytes,
    /// Where it was prepared.
    pub context: Context,
    /// How many parameters and columns the server found in it.
    pub parameters: u16,
    /// See above.
    pub columns: u16,
    /// The column definitions of its parameters and columns, as they came (packet bodies), to be compared with.
    pub definitions: Bytes,
}

/// A statement prepared by SQL's `PREPARE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedStatement {
    /// Its name.
    pub name: Bytes,
    /// Its text.
    pub text: Bytes,
    /// Where it was prepared.
    pub context: Context,
}

/// The value of a user variable, exact in bytes, type and collation.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// NULL.
    Null,
    /// A whole number.
    Int(i64),
    /// A whole number above `i64::MAX`, or of an unsigned type.
    Unsigned(u64),
    /// A float, as text of 17 digits.
    Double(Bytes),
    /// A decimal, as text.
    Decimal(Bytes),
    /// A string with its character set and collation.
    Text {
        /// Its bytes, in that character set.
        bytes: Bytes,
        /// The collation, which implies the character set.
        collation: Bytes,
    },
    /// A binary string.
    Binary(Bytes),
}

/// A session's state.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    /// The session was asked; if not, it is as a log in makes it, as far as is known.
    pub captured: bool,
    /// The status bits at the time. With the bit of an open transaction the session was not asked for more: the rest is
    /// what was known before, and [`obstacle`](State::obstacle) says so.
    pub status: Option<u16>,
    /// Session variables to be set, with the values as text; `None` is NULL. Always with `character_set_client`,
    /// `character_set_results`, `collation_connection` (which implies `character_set_connection`) and `sql_mode`, and
    /// without what cannot be set.
    pub variables: Vec<(Bytes, Option<Bytes>)>,
    /// The number of the collation that results say they have. A log in makes it, or `character_set_results`; which of one
    /// character set's, only the log in can say.
    pub results: u16,
    /// The current database.
    pub database: Option<Bytes>,
    /// The active roles as `CURRENT_ROLE()` has them; `None`: none.
    pub role: Option<Bytes>,
    /// User variables: name and value.
    pub user_variables: Vec<(Bytes, Value)>,
    /// Statements of `COM_STMT_PREPARE`, in the order they were prepared.
    pub statements: Vec<Statement>,
    /// Statements of `PREPARE`.
    pub named_statements: Vec<NamedStatement>,
    /// `LAST_INSERT_ID()`; `None`: not known.
    pub last_insert_id: Option<u64>,
    /// `FOUND_ROWS()`; `None`: not known.
    pub found_rows: Option<u64>,
    /// `SET TIMESTAMP` in force, as text.
    pub timestamp: Option<Bytes>,
    /// `SET insert_id` in force.
    pub insert_id: Option<u64>,
    /// MariaDB's `rand_seed1` and `rand_seed2`.
    pub rand_seeds: Option<(u64, u64)>,
    /// The rows of `SHOW WARNINGS` (level, code, message), in the character set of the client's results.
    pub warnings: Vec<[Bytes; 3]>,
    /// How many of them are errors.
    pub errors: u16,
    /// What keeps the session where it is.
    pub obstacle: Option<Obstacle>,
}

impl State {
    /// Forgets what statements that were sent since may have changed, however harmless.
    pub fn weaken(&mut self) {
        (self.last_insert_id, self.found_rows, self.insert_id, self.rand_seeds) = (None, None, None, None);
        self.warnings.clear();
        self.errors = 0;
    }

    /// The rows of `SHOW WARNINGS`.
    pub fn set_warnings(&mut self, rows: Vec<[Bytes; 3]>) {
        let errors = rows.iter().filter(|row| ascii(&row[0]).as_ref() == b"Error");
        self.errors = u16::try_from(errors.count()).unwrap_or(u16::MAX);
        self.warnings = rows;
    }

    /// A session variable's value; `None`: it is NULL, or as a log in makes it.
    pub fn variable(&self, name: &[u8]) -> Option<&Bytes> {
        self.variables.iter().find(|(known, _)| known == name)?.1.as_ref()
    }

    /// Notes an obstacle; the first one stays.
    pub fn block(&mut self, obstacle: Option<Obstacle>) {
        self.obstacle = self.obstacle.or(obstacle);
    }
}

/// What only the wire knows of a session; the tracker keeps it, capture and restore go by it.
#[derive(Debug, Clone, Default, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "findings that do not exclude each other")]
pub struct Wire {
    /// Statements of `COM_STMT_PREPARE` that are open, in the order they were prepared.
    pub statements: Vec<Statement>,
    /// Statements of `PREPARE` that were seen, by name.
    pub named_statements: Vec<NamedStatement>,
    /// Where a statement would be prepared now. What is not known of it the next capture says.
    pub context: Context,
    /// The number of the collation that the client has logged in with.
    pub collation: u8,
    /// The last answer was an error.
    pub failed: bool,
    /// The warning count of the last answer.
    pub warnings: u16,
    /// What `ROW_COUNT()` says; nobody can set it.
    pub row_count: i64,
    /// `COM_SET_OPTION` has switched multi-statements on or off.
    pub multi_statements: Option<bool>,
    /// What was set since the last capture by statements whose texts say all that they did to the session; repeated behind a
    /// restore.
    pub told: Vec<Bytes>,
    /// What was said of the transaction that is to come (`SET TRANSACTION …`), or that was begun and has done nothing
    /// (`START TRANSACTION …`): repeated as the last of a restore.
    pub characteristics: Vec<Bytes>,
    /// The last of these has begun a transaction: it is open, and has done nothing.
    pub begun: bool,
    /// Names of user variables that were seen (without the `@`), lower case.
    pub user_variables: Vec<Bytes>,
    /// Temporary tables that were seen to be made and not to be dropped (`name` or `db.name`, as written).
    pub temporary_tables: Vec<Bytes>,
    /// How many `CREATE TABLE`, temporary or not, were seen since the backend was logged in to.
    pub creates: u64,
    /// How many of these were `CREATE TEMPORARY TABLE`.
    pub temporary_creates: u64,
    /// How many `PREPARE` were seen since then.
    pub prepares: u64,
    /// How many `DEALLOCATE PREPARE` (or `DROP PREPARE`) were seen since then.
    pub deallocations: u64,
    /// Nothing that was sent since the last capture can have changed a session variable.
    pub variables_known: bool,
    /// Nothing that was sent since the last capture can have changed a user variable.
    pub user_variables_known: bool,
    /// A `CALL` was seen, or another statement that may run a routine with effects of its own.
    pub called: bool,
    /// A lock or another state that the server cannot be asked for may be held, by the text of a statement.
    pub suspicion: Option<Obstacle>,
}
