//! Watches the messages of one session go by and knows when it may be moved.
//!
//! A *segment* is what the server answers with one `ReadyForQuery`: a `Query`, a `FunctionCall`, or everything up to a
//! `Sync`. The status byte alone is not enough for a safe point (`Parse` without `Sync` opens an implicit transaction),
//! so segments are counted:
//!
//! ```text
//!            client: P,B,D,E,C,H          client: S
//!   quiet ───────────────────► unsynced ───────────► segment open ──Z 'I'──► quiet
//!     │                                                  ▲     │
//!     └──────────client: Q, F────────────────────────────┘     └──Z 'T','E'──► in transaction
//! ```
//!
//! `COPY … FROM STDIN` inside the extended protocol swallows the `Sync` that follows it
//! (`src/backend/commands/copyfromparse.c`, `CopyGetData`): the segment is open again until the next one.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::lost::Standing;
use super::message;
use super::sql::{self, Hints, TransactionCommand};
use super::state::State;
use super::statements::Statements;
use crate::engine::{Drift, Obstacle};

mod copy;
mod doubt;
mod portals;
mod scan;
mod view;

use doubt::Asked;
use portals::Portals;
use view::View;

/// Messages up to this length are read whole; of longer ones only this much is looked at.
pub const INSPECTED: usize = 64 * 1024;
/// How many custom setting names one session may contribute.
const MAX_SETTING_NAMES: usize = 256;
/// How many segments may be in flight before the client must read answers.
const MAX_SEGMENTS: usize = 4096;
/// How much of a statement operators are shown.
const SHOWN: usize = 160;

/// What the server will answer with one `ReadyForQuery`.
#[derive(Debug, Clone, Copy, Default)]
#[expect(clippy::struct_excessive_bools, reason = "findings that do not exclude each other")]
struct Segment {
    extended: bool,
    may_commit: bool,
    suspect: bool,
    /// A statement in it ends a transaction.
    ended: bool,
    /// A statement follows that one: what it does commits by itself.
    runs_on: bool,
    /// It may be more than one transaction.
    several: bool,
    /// It is one `COMMIT`.
    is_commit: bool,
    asked: Asked,
    /// Ends of bulk data that the client sent before the server asked for the data (pgx does).
    copy_ended: u32,
    /// How many `Parse` messages had been forwarded when it ended.
    parses: u64,
}

/// The tracker of a PostgreSQL session.
#[expect(
    clippy::struct_excessive_bools,
    reason = "what was seen; the states proper are `status`, `open` and `waiting`"
)]
pub struct Tracker {
    status: u8,
    open: Segment,
    unsynced: bool,
    /// The open segment has failed: the server discards everything up to its `Sync`.
    skipping: bool,
    waiting: VecDeque<Segment>,
    /// How many messages of the answer to the oldest segment have come, besides those that may come at any time.
    answered: u32,
    copy_in: bool,
    client_skip: usize,
    server_skip: usize,
    drift: Drift,
    /// What the client believes of the reported parameters.
    view: View,
    pub(super) statements: Statements,
    portals: Portals,
    pub(super) setting_names: Vec<String>,
    pub(super) loads: Vec<Vec<u8>>,
    /// A setting that shapes parsing and is not reported was touched.
    pub(super) parse_context_unsure: bool,
    names_overflown: bool,
    backup: bool,
    origin: bool,
    shown: Vec<u8>,
}

impl Tracker {
    /// A session that has just logged in; `setting_names` come from its start-up packet.
    pub fn new(view: Vec<(String, Bytes)>, setting_names: Vec<String>) -> Tracker {
        let view = View::of(view);
        let statements = Statements::new(view.all());
        Tracker {
            status: b'I',
            open: Segment::default(),
            unsynced: false,
            skipping: false,
            waiting: VecDeque::new(),
            answered: 0,
            copy_in: false,
            client_skip: 0,
            server_skip: 0,
            drift: Drift::None,
            view,
            statements,
            portals: Portals::default(),
            setting_names,
            loads: Vec::new(),
            parse_context_unsure: false,
            names_overflown: false,
            backup: false,
            origin: false,
            shown: Vec::new(),
        }
    }

    fn at_rest(&self) -> bool {
        let begun = self.unsynced && !self.only_prepares();
        !begun && self.waiting.is_empty() && !self.copy_in && self.client_skip == 0
    }

    /// What the client believes of a reported parameter.
    pub fn parameter(&self, name: &str) -> &[u8] {
        self.view.value(name)
    }

    /// Remembers a parameter that the client is about to be told.
    pub fn learn(&mut self, name: &str, value: Bytes) {
        self.statements.parameter_changed(name, &value);
        self.view.learn(name, value);
    }

    fn standard_strings(&self) -> bool {
        self.parameter("standard_conforming_strings") != b"off"
    }

    /// What the wire alone knows of the session's state.
    pub(super) fn wire_state(&self) -> State {
        let unnamed = self.statements.unnamed();
        let obstacle = match unnamed {
            Some(Err(())) => Some(Obstacle::PreparedStatement),
            _ => self.names_overflown.then_some(Obstacle::Setting),
        };
        let unnamed = unnamed.and_then(Result::ok);
        State {
            unnamed: unnamed.map(|(body, context)| (Bytes::copy_from_slice(body), context.clone())),
            loads: self.loads.clone(),
            obstacle,
            ..State::default()
        }
    }

    /// Adds to a captured state under which settings its statements were parsed.
    pub(super) fn complete(&mut self, state: &mut State) {
        // The session is at rest, perhaps without a `Sync`: what settings did before is all known by now.
        self.statements.settled();
        if matches!(self.statements.unnamed(), Some(Err(()))) {
            state.unnamed = None;
            state.obstacle = state.obstacle.or(Some(Obstacle::PreparedStatement));
        }
        for prepared in &mut state.prepared {
            prepared.context = self.statements.context(&prepared.name).cloned();
            let unsure = prepared.context.is_none() || self.parse_context_unsure;
            if unsure && !prepared.is_changed() {
                state.obstacle = state.obstacle.or(Some(Obstacle::PreparedStatement));
            }
        }
        self.statements.retain(|name| state.prepared.iter().any(|p| p.name.as_ref() == name));
        // With no statement left, nothing hangs on what those settings were.
        self.parse_context_unsure &= !state.prepared.is_empty();
    }

    /// Nothing is begun.
    fn begins_anew(&mut self) {
        self.open = Segment::default();
        (self.unsynced, self.skipping, self.answered) = (false, false, 0);
        self.portals = Portals::default();
    }

    /// The client's segment has begun and its `Sync` has not come.
    pub fn is_between_syncs(&self) -> bool {
        self.unsynced
    }

    /// The open segment has failed, and the client knows.
    pub(crate) fn is_skipping(&self) -> bool {
        self.skipping && self.waiting.is_empty()
    }

    /// What the client knows of the transaction that is lost.
    pub(crate) fn standing(&self) -> Standing {
        match self.status {
            b'I' if self.is_skipping() => Standing::Over,
            b'T' if !self.is_skipping() => Standing::Open,
            b'T' | b'E' => Standing::Failed,
            _ => Standing::Open,
        }
    }

    /// Messages of the extended protocol are about to be sent in the client's stead, who has had the answers already.
    pub(crate) fn repeated(&mut self, requests: &[u8]) {
        let mut rest = BytesMut::from(requests);
        while let Ok(Some(message)) = message::take(&mut rest, message::MAX_MESSAGE) {
            match message.kind {
                b'P' => {
                    self.parse(&message.body, true);
                    self.statements.parse_complete();
                }
                b'C' => self.statements.close(&message.body),
                _ => {}
            }
        }
        self.unsynced = false;
        self.open = Segment::default();
        self.drift = Drift::Possible;
    }

    fn show(&mut self, text: &[u8]) {
        self.shown.clear();
        self.shown.extend_from_slice(&text[..text.len().min(SHOWN)]);
    }

    /// A message of the client is about to be forwarded; `body` may be only its first part.
    fn client_message(&mut self, kind: u8, body: &[u8], whole: bool) {
        self.open.asked.add(kind, body);
        match kind {
            b'Q' => self.query(body, whole),
            b'F' => {
                (self.open.suspect, self.open.several) = (true, true);
                self.end_segment(false);
            }
            b'P' => self.parse(body, whole),
            b'B' => self.bind(body),
            b'C' => {
                self.unsynced = true;
                self.statements.close(body);
            }
            b'D' => self.unsynced = true,
            b'E' => {
                self.unsynced = true;
                // It may have been bound before the last `Sync`.
                self.open.may_commit |= self.portals.may_commit(body);
            }
            b'S' if !self.copy_in => self.end_segment(true),
            b'c' | b'f' => self.copy_ends(),
            _ => {}
        }
    }

    fn end_segment(&mut self, extended: bool) {
        let segment =
            Segment { extended, parses: self.statements.parses(), ..std::mem::take(&mut self.open) };
        self.drift = self.drift.max(if segment.suspect { Drift::Possible } else { Drift::Benign });
        self.waiting.push_back(segment);
        (self.unsynced, self.skipping) = (false, false);
    }

    fn query(&mut self, body: &[u8], whole: bool) {
        let text = body.strip_suffix(b"\0").unwrap_or(body);
        self.show(text);
        let hints = sql::hints(text, self.standard_strings());
        for name in &hints.prepares {
            // The same text may have changed settings before.
            self.statements.prepared_by_sql(name, true);
        }
        self.statements.query();
        self.portals.query();
        let is_commit = hints.ended && hints.commits && !hints.runs_on && whole;
        self.open.is_commit = is_commit && sql::transaction_command(text) == Some(TransactionCommand::Commit);
        self.note(hints, whole);
        self.end_segment(false);
    }

    fn parse(&mut self, body: &[u8], whole: bool) {
        self.unsynced = true;
        let mut rest = body;
        let Some(name) = message::take_text(&mut rest) else { return };
        let text = message::take_text(&mut rest).unwrap_or(rest);
        self.show(text);
        let hints = sql::hints(text, self.standard_strings());
        let unsure = self.open.suspect || self.waiting.iter().any(|s| s.suspect);
        self.statements.parse(name, whole.then_some(body), &hints, unsure);
        // Parsing changes only the set of statements, and an unnamed one is remembered here whole.
        if !name.is_empty() {
            self.open.suspect = true;
        }
        self.gather(hints, whole);
    }

    fn bind(&mut self, body: &[u8]) {
        self.unsynced = true;
        let Some(bound) = self.statements.bind(body) else { return };
        self.portals.bound(body, bound.commits || bound.ends.is_some());
        self.open.suspect |= bound.suspect;
        self.open.may_commit |= bound.commits;
        self.open.runs_on |= self.open.ended;
        self.open.ended |= bound.ends.is_some();
        self.open.several |= bound.several;
        self.open.is_commit = bound.ends == Some(TransactionCommand::Commit);
        for name in bound.names {
            self.add_name(name);
        }
    }

    /// What a text that is about to run tells.
    fn note(&mut self, hints: Hints, whole: bool) {
        self.open.suspect |= hints.suspect || !whole;
        self.open.may_commit |= hints.commits || !whole;
        self.open.runs_on |= hints.runs_on || !whole;
        self.open.several |= hints.several || !whole;
        self.gather(hints, whole);
    }

    /// What a text tells even if it never runs.
    fn gather(&mut self, hints: Hints, whole: bool) {
        self.parse_context_unsure |= hints.sets_parse_context || !whole && hints.other_verb;
        self.backup = hints.backup.unwrap_or(self.backup);
        self.origin = hints.origin.unwrap_or(self.origin);
        for library in hints.loads {
            if !self.loads.contains(&library) && self.loads.len() < MAX_SETTING_NAMES {
                self.loads.push(library);
            }
        }
        for name in hints.setting_names {
            self.add_name(name);
        }
    }

    fn add_name(&mut self, name: String) {
        if self.setting_names.contains(&name) {
            return;
        }
        // A routine may have given it a value.
        self.open.suspect = true;
        match self.setting_names.len() {
            ..MAX_SETTING_NAMES => self.setting_names.push(name),
            // What is not remembered cannot be asked for, and so not be carried.
            _ => self.names_overflown = true,
        }
    }

    /// A whole message of the backend is about to be forwarded.
    fn server_message(&mut self, kind: u8, body: &[u8]) {
        match kind {
            b'Z' => {
                self.status = body.first().copied().unwrap_or(b'I');
                self.copy_in = false;
                self.answered = 0;
                if let Some(segment) = self.waiting.pop_front() {
                    self.statements.answered(segment.parses);
                }
                if self.at_rest() {
                    self.statements.settled();
                    self.portals.outlast(self.status);
                }
            }
            b'1' => self.statements.parse_complete(),
            b'S' => {
                let mut rest = body;
                if let (Some(name), Some(value)) =
                    (message::take_text(&mut rest), message::take_text(&mut rest))
                {
                    self.learn(&String::from_utf8_lossy(name), Bytes::copy_from_slice(value));
                }
            }
            b'G' => self.copy_in_begins(),
            b'E' => {
                self.copy_in = false;
                self.skipping = self.unsynced && self.waiting.is_empty();
            }
            _ => {}
        }
    }
}
