//! Asking an idle backend what its session is made of.
//!
//! ```text
//! Probing ──no transaction──► Asking ──(the client's own limits, an unknown release: mended)──► Reading ──► done
//!    └──a transaction is open: nothing more is asked
//! ```
//!
//! Each state is one write: its questions go out together. What they disturb is put back by the last of them, or
//! answered by the tracker in the server's stead until the client's next statement:
//!
//! | disturbed | put back |
//! |---|---|
//! | `FOUND_ROWS()` | by a statement that finds as many rows, up to some thousands |
//! | `ROW_COUNT()` | by the last command: a `COM_PING` leaves 0, a `COM_SET_OPTION` leaves -1; else the tracker |
//! | the list of warnings | read first, kept in the state: the tracker |
//! | the client's own limits | by a `SET` |
//!
//! `LAST_INSERT_ID()`, a `SET TRANSACTION` for the next transaction only, and an `insert_id` are not disturbed.

use bytes::{Bytes, BytesMut};

use super::Mysql;
use super::answer::{Answer, IN_TRANSACTION, Script, ascii};
use super::capability::{Product, bit};
use super::log_in::{LoggedIn, refused};
use super::save::{self, Saved};
use super::state::{State, Wire};
use crate::engine::{Captured, Dialogue, DialogueError, Drift, Inquiry, Obstacle, Tracker as _};

mod ask;
mod evidence;
mod finish;
mod user_variables;
mod variables;

use evidence::{Counters, Observed};
use user_variables::Kinds;

pub use evidence::{observable, observation};

/// What an answer is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Probe,
    Warnings,
    Save,
    /// The time once more: if it stands still, it was set.
    Clock,
    Counters,
    /// Which variables differ, as a row of bits.
    Differing,
    /// Which variables differ, as rows.
    Listed,
    Values,
    UserNames,
    UserKinds,
    UserValues,
    Locks,
    /// Must succeed, or the session is not what it was.
    PutBack,
    /// Tells the status only.
    Last,
}

/// What goes on; see the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Probing,
    Asking,
    Reading,
}

/// How the variables are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// By the list of those that are known.
    Bits,
    /// The list does not fit this server.
    Unfit,
    /// As the server lists them.
    Rows,
}

/// See the module.
pub struct Capture {
    stage: Stage,
    logged_in: LoggedIn,
    multi_statements: bool,
    wire: Wire,
    last: State,
    /// Only what every statement changes is asked for.
    brief: bool,
    observed: Observed,
    script: Script<Step>,
    /// The client's limits are lifted.
    unlimited: bool,
    by: By,
    saved: Option<Saved>,
    /// The time a moment later.
    clock: Bytes,
    counters: Option<Counters>,
    /// Variables that differ and whose values are not known yet.
    differing: Vec<&'static str>,
    settings: Vec<(Bytes, Option<Bytes>)>,
    names: Vec<Bytes>,
    kinds: Vec<Kinds>,
    state: State,
    error: Option<DialogueError>,
}

impl Capture {
    /// Goes by what the wire knows (`inquiry.tracker.wire()`).
    pub fn new(inquiry: &Inquiry<'_, Mysql>) -> Capture {
        let startup_multi = inquiry.startup.capabilities & bit::MULTI_STATEMENTS != 0;
        let drift = inquiry.tracker.drift();
        Capture::of(inquiry.tracker.wire(), drift, inquiry.logged_in, inquiry.last, inquiry.observed)
            .with_multi_statements(startup_multi)
            .with_names(inquiry.names)
    }

    /// The same from its parts.
    pub fn of(
        wire: &Wire,
        drift: Drift,
        logged_in: &LoggedIn,
        last: &State,
        observed: &[Vec<Option<String>>],
    ) -> Capture {
        Capture {
            stage: Stage::Probing,
            logged_in: logged_in.clone(),
            multi_statements: wire
                .multi_statements
                .unwrap_or(logged_in.capabilities & bit::MULTI_STATEMENTS != 0),
            brief: drift <= Drift::Benign && last.captured && last.obstacle.is_none(),
            wire: wire.clone(),
            last: last.clone(),
            observed: Observed::read(observed),
            script: Script::new(logged_in.capabilities),
            unlimited: false,
            by: By::Bits,
            saved: None,
            clock: Bytes::new(),
            counters: None,
            differing: Vec::new(),
            settings: Vec::new(),
            names: Vec::new(),
            kinds: Vec::new(),
            state: State { captured: true, ..State::default() },
            error: None,
        }
    }

    fn with_multi_statements(mut self, at_login: bool) -> Capture {
        self.multi_statements = self.wire.multi_statements.unwrap_or(at_login);
        self
    }

    /// Names of user variables that stored routines use.
    fn with_names(mut self, names: &[String]) -> Capture {
        self.wire.user_variables.extend(names.iter().map(|name| Bytes::copy_from_slice(name.as_bytes())));
        self
    }

    fn product(&self) -> Product {
        self.logged_in.product()
    }

    /// All is answered that was asked: what comes next. `true`: nothing.
    fn next(&mut self, out: &mut BytesMut) -> bool {
        let mended = self.stage == Stage::Asking && self.mend(out);
        match self.stage {
            Stage::Probing if self.status_has(IN_TRANSACTION) && !self.wire.begun => {
                self.give_up();
                return true;
            }
            Stage::Probing => self.ask_all(out),
            Stage::Asking if mended => {}
            Stage::Asking => {
                self.stage = Stage::Reading;
                self.read_values(out);
                self.put_back(out);
            }
            Stage::Reading => return true,
        }
        false
    }

    fn status_has(&self, bits: u16) -> bool {
        self.state.status.is_some_and(|status| status & bits != 0)
    }

    /// A transaction is open after all: the session stays as it was known.
    fn give_up(&mut self) {
        let status = self.state.status;
        let obstacle = self.last.obstacle.or(Some(Obstacle::OpenTransaction));
        self.state = State { status, obstacle, ..self.last.clone() };
    }

    fn answered(&mut self, step: Step, answer: Answer) -> Result<(), DialogueError> {
        if let Some(status) = answer.status() {
            self.state.status = Some(status);
        }
        let rows = match answer {
            Answer::Rows { columns, rows, status } => {
                if step == Step::UserKinds {
                    self.kinds.extend(columns.iter().map(Kinds::of));
                    return Ok(());
                }
                if step == Step::Save {
                    self.state.results = columns.get(save::TEXT).map_or(0, |column| column.collation);
                    self.saved = rows.first().and_then(|row| save::read(self.product(), row, status));
                    return self.saved.as_ref().map(|_| ()).ok_or_else(|| unexpected("save row"));
                }
                rows
            }
            Answer::Failed(body) => return self.failed(step, &body),
            Answer::Done { .. } | Answer::Prepared(_) => return Ok(()),
        };
        self.rows(step, rows).ok_or_else(|| unexpected("answer"))
    }

    fn failed(&mut self, step: Step, body: &Bytes) -> Result<(), DialogueError> {
        match step {
            Step::PutBack => return Err(unexpected("refusal to put a setting back")),
            // A variable that this server does not know.
            Step::Differing if self.by == By::Bits => self.by = By::Unfit,
            // The plugin is not there.
            Step::Locks => {}
            _ => self.error = self.error.take().or_else(|| Some(refused(body, 0))),
        }
        Ok(())
    }

    fn rows(&mut self, step: Step, rows: Vec<Vec<Option<Bytes>>>) -> Option<()> {
        match step {
            Step::Warnings => {
                let rows: Option<Vec<[Bytes; 3]>> = rows.into_iter().map(warning).collect();
                self.state.set_warnings(rows?);
            }
            Step::Clock => self.clock = ascii(rows.first()?.first()?.as_deref()?),
            Step::Counters => self.counters = Counters::read(&rows),
            Step::Differing => {
                let bits = ascii(rows.first()?.first()?.as_deref()?);
                let names = variables::names(self.product(), &self.logged_in.server.version)?;
                (bits.len() == names.len()).then_some(())?;
                let differing = names.into_iter().zip(bits).filter(|(_, bit)| *bit == b'0');
                self.differing = differing.map(|(name, _)| name).collect();
            }
            Step::Listed => self.settings = variables::read_listed(self.product(), &rows)?,
            Step::Values => {
                let values = rows.first()?.iter().map(|value| match value {
                    Some(value) => Some(Some(Bytes::from(hex::decode(ascii(value)).ok()?))),
                    None => Some(None),
                });
                let values: Vec<Option<Bytes>> = values.collect::<Option<_>>()?;
                let names = self.differing.iter().map(|name| Bytes::from_static(name.as_bytes()));
                self.settings = names.zip(values).collect();
            }
            Step::UserNames => self.names = user_variables::read_names(&rows)?,
            Step::UserValues => self.user_values(rows.first()?)?,
            Step::Locks => self.observed.locks_of_mariadb(&rows),
            Step::Probe | Step::Save | Step::UserKinds | Step::PutBack | Step::Last => {}
        }
        Some(())
    }

    fn user_values(&mut self, row: &[Option<Bytes>]) -> Option<()> {
        let kinds = std::mem::take(&mut self.kinds);
        let at = self.state.user_variables.len();
        let values = user_variables::read(&kinds, row)?;
        let names = self.names.get(at..)?.iter().cloned();
        self.state.user_variables.extend(names.zip(values));
        Some(())
    }
}

fn unexpected(what: &str) -> DialogueError {
    DialogueError::Protocol(format!("unexpected {what} from the server"))
}

/// Level, code, message.
fn warning(row: Vec<Option<Bytes>>) -> Option<[Bytes; 3]> {
    let values: Vec<Bytes> = row.into_iter().map(Option::unwrap_or_default).collect();
    values.try_into().ok()
}

impl Dialogue for Capture {
    type Output = Captured<State>;

    fn open(&mut self, out: &mut BytesMut) {
        if self.wire.failed {
            self.script.set_option(out, self.multi_statements, Step::Probe);
        } else {
            self.ask_all(out);
        }
    }

    fn receive(
        &mut self,
        input: &mut BytesMut,
        out: &mut BytesMut,
    ) -> Result<Option<Captured<State>>, DialogueError> {
        while let Some((step, answer)) = self.script.take(input)? {
            self.answered(step, answer)?;
            if self.script.is_done() && self.next(out) {
                if let Some(error) = self.error.take() {
                    return Err(error);
                }
                return Ok(Some(Captured { state: self.finish(), aside: BytesMut::new() }));
            }
        }
        Ok(None)
    }
}
