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
//! of the log in: the old session had it, whatever was changed since. One whose objects are gone, or whose result has
//! changed, is left out: running it would be an error on the old server too (0A000 there, 26000 here). What else fails
//! is said, never passed over.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::capture::RESERVED;
use super::log_in::{refused, unexpected};
use super::message::{self, Message};
use super::state::{LockKey, Prepared, State};
use super::statements::{PARSE_SETTINGS, ParseContext};
use crate::engine::{Dialogue, DialogueError};

/// The longest answer that is read: a `Describe` of very many columns.
const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// Set last: before, they could get in the way of the restore itself.
const LAST: [&[u8]; 8] = [
    b"default_transaction_isolation",
    b"default_transaction_read_only",
    b"default_transaction_deferrable",
    b"statement_timeout",
    b"lock_timeout",
    b"transaction_timeout",
    b"idle_in_transaction_session_timeout",
    b"idle_session_timeout",
];
const TEXT: u32 = 25;
/// The most settings in one statement (the server's limit is 1664 result columns).
const SETTINGS_AT_ONCE: usize = 500;

/// What the next `ReadyForQuery` ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Must succeed; the text names it if it does not.
    Must(&'static str),
    /// May fail.
    May,
    /// Must succeed and answer `t`.
    Lock,
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
    stale: Vec<Bytes>,
    failed_code: String,
    restored: Restored,
}

impl Restore {
    /// `context`: the parse settings in force in the session.
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
            stale: Vec::new(),
            failed_code: String::new(),
            restored: Restored::default(),
        }
    }

    fn run(&self, out: &mut BytesMut, sql: &[u8], parameters: &[&[u8]]) {
        let types = vec![TEXT; parameters.len()];
        message::put_close(out, &self.nonce);
        message::put_parse(out, &self.nonce, sql, &types);
        message::put_bind(out, &self.nonce, parameters);
        message::put_execute(out);
        message::put_close(out, &self.nonce);
    }

    fn end(&mut self, out: &mut BytesMut, step: Step) {
        message::put_sync(out);
        self.steps.push_back(step);
    }

    /// Parameters instead of literals, one column a setting: nothing needs quoting, in whatever client encoding.
    fn put_settings(&mut self, out: &mut BytesMut, settings: &[(Bytes, Bytes)], what: &'static str) {
        for chunk in settings.chunks(SETTINGS_AT_ONCE) {
            let columns: Vec<String> = (0..chunk.len())
                .map(|i| format!("pg_catalog.set_config(${}, ${}, false)", 2 * i + 1, 2 * i + 2))
                .collect();
            let values: Vec<&[u8]> =
                chunk.iter().flat_map(|(name, value)| [name.as_ref(), value.as_ref()]).collect();
            self.run(out, format!("SELECT {}", columns.join(", ")).as_bytes(), &values);
            self.end(out, Step::Must(what));
        }
    }

    /// Values that came with the log in are set only where they differ (`ALTER ROLE … SET` since then).
    fn put_inherited(&mut self, out: &mut BytesMut) {
        let inherited: Vec<(Bytes, Bytes)> = self
            .state
            .settings
            .iter()
            .filter(|s| !s.own)
            .map(|s| (s.name.clone(), s.value.clone()))
            .collect();
        for chunk in inherited.chunks(SETTINGS_AT_ONCE) {
            let column = |i: usize| {
                let (name, value) = (2 * i + 1, 2 * i + 2);
                format!(
                    "CASE WHEN pg_catalog.current_setting(${name}) OPERATOR(pg_catalog.=) ${value} THEN '' \
                     ELSE pg_catalog.set_config(${name}, ${value}, false) END"
                )
            };
            let columns: Vec<String> = (0..chunk.len()).map(column).collect();
            let values: Vec<&[u8]> =
                chunk.iter().flat_map(|(name, value)| [name.as_ref(), value.as_ref()]).collect();
            self.run(out, format!("SELECT {}", columns.join(", ")).as_bytes(), &values);
            // What only a superuser may set came from a superuser's ALTER ROLE and is the new session's as well.
            self.end(out, Step::May);
        }
    }

    fn own_settings(&self, wanted: impl Fn(&[u8]) -> bool) -> Vec<(Bytes, Bytes)> {
        let own = self.state.settings.iter().filter(|s| s.own && wanted(&s.name));
        own.map(|s| (s.name.clone(), s.value.clone())).collect()
    }

    fn put_identity(&mut self, out: &mut BytesMut) {
        for (setting, value) in
            [("session_authorization", self.state.session_user.clone()), ("role", self.state.role.clone())]
        {
            if let Some(value) = value {
                self.put_settings(out, &[(Bytes::from_static(setting.as_bytes()), value)], setting);
            }
        }
    }

    /// Settings that hold to the end of this segment's implicit transaction only.
    fn put_context(&self, out: &mut BytesMut, context: &ParseContext) {
        let differing: Vec<usize> =
            (0..PARSE_SETTINGS.len()).filter(|&i| context[i] != self.context[i]).collect();
        if differing.is_empty() {
            return;
        }
        let columns: Vec<String> = (0..differing.len())
            .map(|i| format!("pg_catalog.set_config(${}, ${}, true)", 2 * i + 1, 2 * i + 2))
            .collect();
        let values: Vec<&[u8]> =
            differing.iter().flat_map(|&i| [PARSE_SETTINGS[i].as_bytes(), context[i].as_ref()]).collect();
        self.run(out, format!("SELECT {}", columns.join(", ")).as_bytes(), &values);
    }

    fn put_statement(&mut self, out: &mut BytesMut, at: usize, again: bool) {
        let Prepared { name, sql, types, by_sql, context, .. } = self.state.prepared[at].clone();
        if again {
            self.run(
                out,
                b"SELECT pg_catalog.set_config('role', 'none', true), pg_catalog.set_config('search_path', \
                  (SELECT s.reset_val FROM pg_catalog.pg_settings AS s \
                   WHERE s.name OPERATOR(pg_catalog.=) 'search_path'), true)",
                &[],
            );
        }
        if let Some(context) = &context {
            self.put_context(out, context);
        }
        if by_sql {
            self.run(out, &sql, &[]);
        } else {
            message::put(out, b'P', |out| {
                message::put_text(out, &name);
                message::put_text(out, &sql);
                out.extend_from_slice(&u16::try_from(types.len()).unwrap_or(0).to_be_bytes());
                types.iter().for_each(|oid| out.extend_from_slice(&oid.to_be_bytes()));
            });
        }
        message::put(out, b'D', |out| {
            out.extend_from_slice(b"S");
            message::put_text(out, &name);
        });
        self.end(out, Step::Statement { at, again });
    }

    fn put_statements(&mut self, out: &mut BytesMut) {
        for at in 0..self.state.prepared.len() {
            self.put_statement(out, at, false);
        }
        if let Some((body, context)) = self.state.unnamed.clone() {
            self.put_context(out, &context);
            message::put(out, b'P', |out| out.extend_from_slice(&body));
            self.end(out, Step::Must("the unnamed statement"));
        }
    }

    fn put_visible(&mut self, out: &mut BytesMut) {
        for lock in std::mem::take(&mut self.state.locks) {
            let form = if lock.shared { "_shared" } else { "" };
            let arguments = match lock.key {
                LockKey::One(key) => format!("CAST('{key}' AS pg_catalog.int8)"),
                LockKey::Two(a, b) => {
                    format!("CAST('{a}' AS pg_catalog.int4), CAST('{b}' AS pg_catalog.int4)")
                }
            };
            let sql =
                format!("SELECT CAST(pg_catalog.pg_try_advisory_lock{form}({arguments}) AS pg_catalog.text)");
            self.run(out, sql.as_bytes(), &[]);
            self.end(out, Step::Lock);
        }
        for channel in std::mem::take(&mut self.state.channels) {
            let mut sql = b"LISTEN \"".to_vec();
            for &byte in &channel {
                sql.extend_from_slice(if byte == b'"' { b"\"\"" } else { std::slice::from_ref(&byte) });
            }
            sql.push(b'"');
            self.run(out, &sql, &[]);
            self.end(out, Step::Must("LISTEN"));
        }
    }

    /// Draws the value again from a sequence that is restarted there, and takes all of it back: what stays is what
    /// `currval()` and `lastval()` say.
    fn put_sequences(&mut self, out: &mut BytesMut) {
        for sequence in std::mem::take(&mut self.state.sequences).iter().filter(|s| s.restorable) {
            let mut restart = b"ALTER SEQUENCE ".to_vec();
            restart.extend_from_slice(&sequence.name);
            restart.extend_from_slice(format!(" RESTART WITH {}", sequence.value).as_bytes());
            self.run(out, b"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE", &[]);
            self.run(out, b"SET LOCAL lock_timeout = '500ms'", &[]);
            self.run(out, &restart, &[]);
            self.run(out, b"SELECT pg_catalog.nextval(CAST($1 AS pg_catalog.regclass))", &[&sequence.name]);
            self.end(out, Step::May);
            self.run(out, b"ROLLBACK", &[]);
            self.end(out, Step::May);
        }
    }

    fn put_loads(&mut self, out: &mut BytesMut) {
        for library in std::mem::take(&mut self.state.loads) {
            let mut sql = b"LOAD '".to_vec();
            sql.extend_from_slice(&library);
            sql.push(b'\'');
            self.run(out, &sql, &[]);
            // Loading is a hint from the text; the statement may have failed for the client, too.
            self.end(out, Step::May);
        }
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
            None if changed => self.stale.push(prepared.name.clone()),
            None => {}
        }
    }

    fn ready(&mut self, out: &mut BytesMut) -> Result<bool, DialogueError> {
        let step = self.steps.pop_front();
        match step {
            Some(Step::May) => self.failed = None,
            Some(Step::Statement { at, again }) => self.statement_answered(at, again),
            Some(Step::Lock) if self.failed.is_none() && !self.answered_true => {
                self.failed = Some("an advisory lock is somebody else's now".into());
            }
            Some(Step::Must(what)) => self.failed = self.failed.take().map(|text| format!("{what}: {text}")),
            Some(Step::Lock) | None => {}
        }
        if let Some(text) = self.failed.take() {
            return Err(DialogueError::Unfaithful(text));
        }
        if self.steps.is_empty() && !self.stale.is_empty() {
            for name in std::mem::take(&mut self.stale) {
                message::put(out, b'C', |out| {
                    out.extend_from_slice(b"S");
                    message::put_text(out, &name);
                });
            }
            self.end(out, Step::May);
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
                message::put(&mut self.description, message.kind, |out| out.extend_from_slice(&message.body));
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
        let encoding = self.own_settings(|name| name == b"client_encoding");
        self.put_settings(out, &encoding, "client_encoding");
        self.put_loads(out);
        self.put_inherited(out);
        let settings = self.own_settings(|name| name != b"client_encoding" && !LAST.contains(&name));
        self.put_settings(out, &settings, "settings");
        let custom = std::mem::take(&mut self.state.custom);
        self.put_settings(out, &custom, "custom settings");
        self.put_identity(out);
        self.put_statements(out);
        self.put_visible(out);
        self.put_sequences(out);
        let last = self.own_settings(|name| LAST.contains(&name));
        self.put_settings(out, &last, "settings");
        // The common case, a session that is as it logged in, costs no round trip.
        if !self.steps.is_empty() {
            // Everything that was reported comes before this answer.
            self.end(out, Step::May);
        }
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
