//! Makes a fresh backend the session that was captured.
//!
//! Everything goes out in one write, every step with a `Sync` of its own, so that one failure does not skip the rest:
//!
//! ```text
//! encoding → libraries → settings → session user → role → statements (each under the settings it was parsed under)
//!   → advisory locks → LISTEN → sequences → time-outs and transaction defaults
//! ```
//!
//! A statement that cannot be parsed under the session's present `search_path` and role is tried once more under those
//! of the log in: the old session had it, whatever was changed since. One whose result has changed is restored as one
//! that answers so, as on the old server (0A000). One whose objects are gone is left out: running it would be an error
//! on the old server too (42P01 there, 26000 here). What else fails is said, never passed over.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::capture::RESERVED;
use super::log_in::{LoggedIn, refused, unexpected};
use super::message::{self, Message};
use super::state::State;
use super::statements::{PARSE_SETTINGS, ParseContext};
use crate::engine::{Dialogue, DialogueError};

mod ahead;
mod write;

pub use ahead::{Ahead, rest};
pub(super) use write::LAST;

/// The longest answer that is read: a `Describe` of very many columns.
const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// What the next `ReadyForQuery` ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Must succeed; the text names it if it does not.
    Must(&'static str),
    /// May fail.
    May,
    /// Must succeed and answer `t`.
    Lock,
    /// As a named statement: one that does not parse any more would not run on the old server either.
    Unnamed,
    Statement {
        at: usize,
        again: bool,
    },
}

/// What a finished restore has to say.
#[derive(Debug, Default)]
pub struct Restored {
    /// Parameters that the server reported on the way, latest last.
    pub parameters: Vec<(String, Bytes)>,
    /// Messages that are the client's (notifications).
    pub aside: BytesMut,
}

impl Restored {
    /// This, and what came after it.
    #[must_use]
    pub fn and(mut self, later: Restored) -> Restored {
        self.parameters.extend(later.parameters);
        self.aside.extend_from_slice(&later.aside);
        self
    }
}

/// See the module.
pub struct Restore {
    state: State,
    /// The parse settings that the session ends up with.
    context: ParseContext,
    nonce: String,
    steps: VecDeque<Step>,
    failed: Option<String>,
    answered_true: bool,
    description: BytesMut,
    again: Vec<usize>,
    /// Statements whose result is not what it was: better none than one with other columns.
    changed: Vec<usize>,
    failed_code: String,
    restored: Restored,
    /// What may fail must not fail, either.
    strict: bool,
    /// It completes a session that was made ahead.
    completes: bool,
}

/// The parse settings that a backend has once the session's own are restored; `current`: those of the session.
pub(super) fn context(current: &ParseContext, state: &State, logged_in: &LoggedIn) -> ParseContext {
    let mut context = current.clone();
    for (value, name) in context.iter_mut().zip(PARSE_SETTINGS) {
        // The cluster's defaults may have changed since: then the new backend has another value than the old one had.
        if !state.settings.iter().any(|setting| setting.name.eq_ignore_ascii_case(name.as_bytes())) {
            *value = Bytes::copy_from_slice(logged_in.parameter(name));
        }
    }
    context
}

impl Restore {
    /// `context`: the parse settings that the new backend will have once the session's own are restored.
    pub fn new(state: State, context: ParseContext, nonce: u64) -> Restore {
        Restore {
            state,
            context,
            nonce: format!("{RESERVED}{nonce:016x}"),
            steps: VecDeque::new(),
            failed: None,
            answered_true: false,
            description: BytesMut::new(),
            again: Vec::new(),
            changed: Vec::new(),
            failed_code: String::new(),
            restored: Restored::default(),
            strict: false,
            completes: false,
        }
    }

    /// What may fail must not fail, either.
    #[must_use]
    pub fn strictly(self) -> Restore {
        Restore { strict: true, ..self }
    }

    /// The session was made ahead: the server is asked for what it has to report, even if there is nothing to be restored, and
    /// the statements are there already.
    #[must_use]
    pub fn completing(self) -> Restore {
        Restore { completes: true, ..self }
    }

    fn statement_answered(&mut self, at: usize, again: bool) {
        let description = std::mem::take(&mut self.description).freeze();
        let prepared = &self.state.prepared[at];
        let name = String::from_utf8_lossy(&prepared.name).into_owned();
        let changed = prepared.description.as_ref().is_some_and(|old| *old != description);
        match self.failed.take() {
            Some(_) if !again => self.again.push(at),
            // Its objects changed under it: the old server would refuse to run it, and so will the new one.
            Some(_) if is_stale(&self.failed_code) => {}
            Some(text) => self.failed = Some(format!("prepared statement {name:?}: {text}")),
            None if changed => self.changed.push(at),
            None => {}
        }
    }

    fn ready(&mut self, out: &mut BytesMut) -> Result<bool, DialogueError> {
        let step = self.steps.pop_front();
        if self.strict
            && let Some(text) = self.failed.take()
        {
            return Err(DialogueError::Unfaithful(text));
        }
        match step {
            Some(Step::May) => self.failed = None,
            Some(Step::Statement { at, again }) => self.statement_answered(at, again),
            Some(Step::Lock) if self.failed.is_none() && !self.answered_true => {
                self.failed = Some("an advisory lock is somebody else's now".into());
            }
            Some(Step::Unnamed) if is_stale(&self.failed_code) => self.failed = None,
            Some(Step::Must(what)) => self.failed = self.failed.take().map(|text| format!("{what}: {text}")),
            Some(Step::Lock | Step::Unnamed) | None => {}
        }
        if let Some(text) = self.failed.take() {
            return Err(DialogueError::Unfaithful(text));
        }
        if self.steps.is_empty() {
            for at in std::mem::take(&mut self.changed) {
                self.put_changed(out, at);
            }
        }
        if self.steps.is_empty() && !self.again.is_empty() {
            for at in std::mem::take(&mut self.again) {
                self.put_statement(out, at, true);
            }
        }
        Ok(self.steps.is_empty())
    }

    fn take(&mut self, message: &Message, out: &mut BytesMut) -> Result<bool, DialogueError> {
        let describing = matches!(self.steps.front(), Some(Step::Statement { .. }));
        match message.kind {
            b'D' => {
                let row = message::row(&message.body).unwrap_or_default();
                self.answered_true = row.first() == Some(&Some(&b"true"[..]));
            }
            b'E' if message::is_fatal(&message.body) => return Err(refused(message)),
            b'E' => {
                let DialogueError::Refused { text, code, .. } = refused(message) else { return Ok(false) };
                if self.failed.is_none() {
                    (self.failed, self.failed_code) = (Some(text), code);
                }
            }
            b'A' => message::put(&mut self.restored.aside, b'A', |out| out.extend_from_slice(&message.body)),
            b'S' => {
                let mut rest: &[u8] = &message.body;
                if let (Some(name), Some(value)) =
                    (message::take_text(&mut rest), message::take_text(&mut rest))
                {
                    let name = String::from_utf8_lossy(name).into_owned();
                    self.restored.parameters.push((name, Bytes::copy_from_slice(value)));
                }
            }
            b't' | b'T' | b'n' if describing => {
                message::put_description(&mut self.description, message);
            }
            b'Z' => return self.ready(out),
            b'1' | b'2' | b'3' | b'C' | b'I' | b'N' | b's' | b't' | b'T' | b'n' => {}
            kind => return Err(unexpected(kind)),
        }
        Ok(false)
    }
}

/// Errors that say that an object, a column or a right is not there any more (classes 42 and 3F).
fn is_stale(code: &str) -> bool {
    code.starts_with("42") && code != "42P05" || code.starts_with("3F")
}

impl Dialogue for Restore {
    type Output = Restored;

    fn open(&mut self, out: &mut BytesMut) {
        self.write_all(out);
    }

    fn receive(
        &mut self,
        input: &mut BytesMut,
        out: &mut BytesMut,
    ) -> Result<Option<Restored>, DialogueError> {
        if self.steps.is_empty() {
            return Ok(Some(std::mem::take(&mut self.restored)));
        }
        while let Some(message) =
            message::take(input, MAX_ANSWER).map_err(|e| DialogueError::Protocol(e.into()))?
        {
            if self.take(&message, out)? {
                return Ok(Some(std::mem::take(&mut self.restored)));
            }
        }
        Ok(None)
    }
}
