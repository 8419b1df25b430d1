//! Making a fresh backend the session that was captured.
//!
//! Everything goes out in one write, and every answer is read:
//!
//! ```text
//! roles → statements (each where it was prepared) → database → user variables → session variables → fixed time, seeds,
//!   LAST_INSERT_ID → (looked at, and compared) → FOUND_ROWS, ROW_COUNT → what was said of the next transaction
//!   → what was told since the look
//! ```
//!
//! One refused variable fails the whole `SET`: then they are set one by one, and what follows is done once more. A variable
//! that only some may set and this user may not came with the log in; it stays as the new log in has it. A statement whose
//! objects are gone is left out, and the router answers for it with the server's error: that is what running it would
//! bring on the old server too. One that yields other columns than
//! before is kept, as the server itself prepares it anew without a word when a table has changed; not one that takes
//! another number of parameters.

use bytes::{Bytes, BytesMut};

use super::answer::{Answer, Prepared, Script};
use super::capability::{Product, bit};
use super::log_in::{LoggedIn, refused};
use super::save::{self, Saved};
use super::state::{State, Wire};
use crate::engine::{Dialogue, DialogueError};

mod write;

pub(super) use write::UTF8;

/// What a restore has to tell the tracker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restored {
    /// The id that the new backend gave each statement: the client's id, the backend's id. One that is missing could not
    /// be prepared again.
    pub statements: Vec<(u32, u32)>,
    /// What the server said of those that name something that is not there any more: the client's id, the error.
    pub gone: Vec<(u32, Bytes)>,
    /// How many `CREATE TABLE` and `PREPARE` the backend has counted by now (the restore's own).
    pub creates: u64,
    /// See above.
    pub prepares: u64,
    /// The rows of `SHOW WARNINGS` that the router must answer with, until a statement clears them.
    pub warnings: Vec<[Bytes; 3]>,
    /// What `FOUND_ROWS()` is, if it is too much for the server to be told; likewise.
    pub found_rows: Option<u64>,
}

/// What an answer is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Must succeed; the text names it if it does not.
    Must(&'static str),
    /// May fail.
    May,
    /// The current database.
    Database,
    /// The statement at this place.
    Statement(usize),
    /// The named statement at this place.
    Named(usize),
    /// All variables.
    Settings,
    /// The variable at this place.
    Setting(usize),
    /// The session is looked at.
    Save,
}

/// How the variables are set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settings {
    /// In one statement.
    Together,
    /// That was refused.
    Refused,
    /// Each in a statement of its own.
    OneByOne,
}

/// See the module.
pub struct Restore {
    state: State,
    wire: Wire,
    product: Product,
    multi_statements: bool,
    script: Script<Step>,
    restored: Restored,
    saved: Option<Saved>,
    settings: Settings,
    /// The roles have been seen to twice.
    without_role: bool,
    /// Variables that stay as the log in has them.
    inherited: Vec<Bytes>,
    /// All is as it was captured, and compared; what was told since is on its way.
    telling: bool,
}

/// An object, a column or a right is not there any more.
const GONE: [u64; 16] =
    [1044, 1046, 1049, 1051, 1054, 1109, 1142, 1143, 1146, 1227, 1305, 1356, 1370, 1449, 1630, 4061];
/// `ER_BAD_DB_ERROR`
pub(super) const UNKNOWN_DATABASE: u64 = 1049;
/// Access denied: the variable is for some users only.
const DENIED: u64 = 1227;
/// Whoever has switched this off must not have it on without knowing.
const NEVER_INHERITED: [&[u8]; 2] = [b"sql_log_bin", b"wsrep_on"];

impl Restore {
    /// `wire`: what only the wire knows.
    pub fn new(wire: &Wire, logged_in: &LoggedIn, state: &State) -> Restore {
        Restore {
            state: state.clone(),
            wire: wire.clone(),
            product: logged_in.product(),
            multi_statements: wire
                .multi_statements
                .unwrap_or(logged_in.capabilities & bit::MULTI_STATEMENTS != 0),
            script: Script::new(logged_in.capabilities),
            restored: Restored {
                warnings: state.warnings.clone(),
                found_rows: state.found_rows.filter(|&rows| rows > save::MOST_FOUND_ROWS),
                ..Restored::default()
            },
            saved: None,
            settings: Settings::Together,
            without_role: false,
            inherited: Vec::new(),
            telling: false,
        }
    }

    fn answered(&mut self, step: Step, answer: Answer) -> Result<(), DialogueError> {
        match (step, answer) {
            (Step::Save, Answer::Rows { rows, status, .. }) => {
                self.saved = rows.first().and_then(|row| save::read(self.product, row, status));
            }
            (Step::Statement(at), Answer::Prepared(prepared)) => self.prepared(at, &prepared),
            (_, Answer::Failed(body)) => return self.failed(step, &body),
            (Step::Named(_), _) => self.restored.prepares += 1,
            _ => {}
        }
        Ok(())
    }

    fn prepared(&mut self, at: usize, prepared: &Prepared) {
        let Some(statement) = self.state.statements.get(at) else { return };
        if statement.parameters == prepared.parameters {
            self.restored.statements.push((statement.id, prepared.id));
        }
    }

    fn failed(&mut self, step: Step, body: &Bytes) -> Result<(), DialogueError> {
        let error = refused(body, 0);
        let DialogueError::Refused { code, text, .. } = &error else { return Err(error) };
        let number = code.parse().unwrap_or(0);
        // The server stops, or has ended the session: another try may succeed.
        if matches!(number, 1053 | 1077 | 1079 | 1317 | 1927) {
            return Err(error);
        }
        let unfaithful = |what: &str| Err(DialogueError::Unfaithful(format!("{what}: {text}")));
        match step {
            Step::May => Ok(()),
            Step::Must(what) => unfaithful(what),
            // Another session has dropped it: the old one still says its name, but nothing is in it.
            Step::Database if number == UNKNOWN_DATABASE => {
                self.state.database = None;
                Ok(())
            }
            Step::Database => unfaithful("database"),
            Step::Statement(at) if GONE.contains(&number) => {
                let id = self.state.statements.get(at).map(|statement| statement.id);
                self.restored.gone.extend(id.map(|id| (id, body.clone())));
                Ok(())
            }
            Step::Named(_) if GONE.contains(&number) => {
                self.restored.prepares += 1;
                Ok(())
            }
            Step::Statement(_) | Step::Named(_) => unfaithful("prepared statement"),
            Step::Settings => {
                self.settings = Settings::Refused;
                Ok(())
            }
            Step::Setting(at) => match self.state.variables.get(at) {
                Some((name, _)) if number == DENIED && !NEVER_INHERITED.contains(&name.as_ref()) => {
                    self.inherited.push(name.clone());
                    Ok(())
                }
                Some((name, _)) => unfaithful(&String::from_utf8_lossy(name)),
                None => unfaithful("setting"),
            },
            Step::Save => unfaithful("comparison"),
        }
    }

    /// All is answered: what is left to do. `true`: nothing.
    fn next(&mut self, out: &mut BytesMut) -> Result<bool, DialogueError> {
        if self.telling {
            return Ok(true);
        }
        let Some(saved) = self.saved.take() else {
            return Err(DialogueError::Protocol("malformed save row".into()));
        };
        let role = self.state.role.is_none() && saved.role.is_some() && !self.without_role;
        let settings = self.settings == Settings::Refused;
        if !role && !settings {
            self.compare(&saved)?;
            self.telling = true;
            self.put_told(out);
            return Ok(self.script.is_done());
        }
        if role {
            self.without_role = true;
            self.script.query(out, b"SET ROLE NONE", Step::Must("roles"));
        }
        if settings {
            self.settings = Settings::OneByOne;
            self.put_settings_one_by_one(out);
        }
        self.put_rest(out);
        Ok(false)
    }

    fn compare(&self, saved: &Saved) -> Result<(), DialogueError> {
        let state = &self.state;
        let wanted = |name: &Bytes| {
            let known = state.variables.iter().find(|(known, _)| known == name);
            known.filter(|_| !self.inherited.contains(name))
        };
        let other = saved
            .variables
            .iter()
            .find(|(name, value)| wanted(name).is_some_and(|(_, wanted)| wanted != value));
        let what = if let Some((name, _)) = other {
            String::from_utf8_lossy(name).into_owned()
        } else if state.database != saved.database {
            "database".into()
        } else if state.role != saved.role {
            "roles".into()
        } else if state.last_insert_id.is_some_and(|id| id != saved.last_insert_id) {
            "last insert id".into()
        } else if state.timestamp.as_ref().is_some_and(|fixed| *fixed != saved.timestamp) {
            "timestamp".into()
        } else if state.insert_id.unwrap_or(0) != saved.insert_id {
            "insert id".into()
        } else {
            return Ok(());
        };
        Err(DialogueError::Unfaithful(format!("{what} is not as it was")))
    }
}

impl Dialogue for Restore {
    type Output = Restored;

    fn open(&mut self, out: &mut BytesMut) {
        if self.state.captured {
            self.write_all(out);
        } else {
            // It is as a log in makes it, but for what the wire tells.
            self.telling = true;
            self.put_told(out);
        }
    }

    fn receive(
        &mut self,
        input: &mut BytesMut,
        out: &mut BytesMut,
    ) -> Result<Option<Restored>, DialogueError> {
        while !self.script.is_done() {
            let Some((step, answer)) = self.script.take(input)? else { return Ok(None) };
            self.answered(step, answer)?;
            if self.script.is_done() && !self.next(out)? {
                return Ok(None);
            }
        }
        Ok(Some(std::mem::take(&mut self.restored)))
    }
}
