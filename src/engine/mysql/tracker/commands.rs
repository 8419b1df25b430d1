//! What commands do to the session: when they are sent, and when they are answered.

use bytes::{Bytes, BytesMut};

use super::answer::{self, AUTOCOMMIT, Answer, IN_TRANSACTION, Prepared, Shape, Status};
use super::client::command;
use super::effects::{is_told, obstacle_of};
use super::statements::{LAST, Live, Preparing};
use super::{MAX_NAMES, MAX_PENDING, Pending, Standing, Tracker};
use crate::engine::Drift;
use crate::engine::mysql::capability::Product;
use crate::engine::mysql::literal;
use crate::engine::mysql::sql::{self, Effect, Scan, Traits};
use crate::engine::mysql::state::Statement;

/// The longest text that can be prepared anew.
const MAX_TEXT: usize = 4 << 20;
/// More is not said of a transaction that is to come.
const MAX_CHARACTERISTICS: usize = 8;

/// How a command came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// With status flags.
    Done(Status),
    /// Without (a statement that was prepared, a text).
    Said,
    /// With an error of this number.
    Failed(u16),
}

/// Errors of the parser: nothing has run. (1064, 1149: syntax; 1065: no statement.)
fn is_of_parser(code: u16) -> bool {
    matches!(code, 1064 | 1065 | 1149)
}

impl Tracker {
    /// A command is about to be forwarded.
    pub(super) fn forwarded(&mut self, kind: u8) {
        (self.passing, self.told) = (None, false);
        if !matches!(kind, command::PING | command::STATISTICS) {
            self.drift = self.drift.max(Drift::Benign);
        }
        let asks = self.pending.back().is_some_and(|pending| pending.traits.has(Traits::ASKS_DIAGNOSTICS));
        if !asks && !matches!(kind, command::STATISTICS | command::CLOSE | command::LONG_DATA) {
            self.found_rows_lost |= self.echo.as_ref().is_some_and(|echo| echo.found_rows.is_some());
            // What it leaves, the server can be asked for again.
            (self.echo, self.failure) = (None, None);
        }
    }

    /// A text is about to run.
    pub(super) fn runs(
        &mut self,
        kind: u8,
        shape: Shape,
        id: u32,
        mut traits: Traits,
        mut effects: Vec<Effect>,
    ) {
        if let [Effect::Run(name)] = &effects[..]
            && let Some(scan) = self.scan_named(&name.clone())
        {
            traits = scan.traits;
            effects = scan.effects;
        }
        let is_told = is_told(traits, &effects);
        self.names_variables(is_told, &effects);
        if traits.has(Traits::SUSPECT) {
            self.suspect(is_told, &effects);
        }
        self.wire.called |= traits.has(Traits::CALLS);
        self.seen.add(traits);
        self.push(kind, shape, id, traits, effects);
    }

    /// A variable that is only read tells its name, which on the oldest server nobody else does.
    fn names_variables(&mut self, is_told: bool, effects: &[Effect]) {
        for effect in effects {
            if let Effect::Variable(name) = effect
                && self.name_variable(name)
                && self.product == Product::MySql56
                && !is_told
            {
                self.drift = Drift::Possible;
                self.wire.user_variables_known = false;
            }
        }
    }

    fn suspect(&mut self, is_told: bool, effects: &[Effect]) {
        if !is_told {
            self.drift = Drift::Possible;
        }
        let of_tables = |effect: &Effect| {
            matches!(
                effect,
                Effect::CreateTable | Effect::MakeTemporary(_) | Effect::Drop(_) | Effect::Rename(..)
            )
        };
        if effects.is_empty() || !effects.iter().all(of_tables) {
            (self.wire.variables_known, self.wire.user_variables_known) = (false, false);
        }
        for effect in effects {
            match effect {
                Effect::Hold(hold) => self.wire.suspicion = Some(obstacle_of(*hold)),
                Effect::EndXa => self.xa = None,
                _ => {}
            }
        }
    }

    /// `true`: it was not known.
    fn name_variable(&mut self, name: &Bytes) -> bool {
        if self.wire.user_variables.contains(name) {
            return false;
        }
        match self.wire.user_variables.len() {
            ..MAX_NAMES => self.wire.user_variables.push(name.clone()),
            _ => self.names_overflown = true,
        }
        true
    }

    fn scan_named(&self, name: &Bytes) -> Option<Scan> {
        let known = self.wire.named_statements.iter().find(|statement| statement.name == name)?;
        (!known.text.is_empty()).then(|| sql::scan(&known.text, self.mode()))
    }

    pub(super) fn prepares(&mut self, text: BytesMut, scan: Scan, whole: bool) {
        if !self.wire.context.is_known() {
            // A look will say under which settings it was prepared.
            self.drift = Drift::Possible;
        }
        let text = if whole { text } else { BytesMut::new() };
        self.push(command::PREPARE, Shape::Prepared, 0, Traits::KEEPS, Vec::new());
        if let Some(pending) = self.pending.back_mut() {
            pending.preparing = Some(Box::new(Preparing { text, lost: false, scan }));
        }
        self.collect_from = usize::from(!whole);
    }

    /// More of the text that is being prepared; its first byte is the command.
    pub(super) fn collect(&mut self, part: &[u8]) {
        let from = self.collect_from.min(part.len());
        self.collect_from -= from;
        let Some(preparing) = self.pending.back_mut().and_then(|pending| pending.preparing.as_mut()) else {
            return;
        };
        if preparing.text.len() + part.len() > MAX_TEXT {
            (preparing.lost, preparing.text) = (true, BytesMut::new());
        } else if !preparing.lost {
            preparing.text.extend_from_slice(&part[from..]);
        }
    }

    /// `found`: the statement's place, if the client has it.
    pub(super) fn executes(&mut self, kind: u8, id: u32, found: Option<usize>) {
        let on_its_way = match self.means_pending(id) {
            true => self.pending.iter().rev().find_map(|pending| pending.preparing.as_ref()),
            false => None,
        };
        let scan = if let Some(live) = found.and_then(|at| self.statements.at(at)) {
            (live.cursor, live.long_data) = (false, false);
            Some((live.scan.traits, live.scan.effects.clone()))
        } else {
            on_its_way.map(|preparing| (preparing.scan.traits, preparing.scan.effects.clone()))
        };
        if let Some(text) = found.and_then(|at| self.wire.statements.get(at)).map(|s| s.text.clone()) {
            self.show(&text);
        }
        let (traits, effects) = scan.unwrap_or((Traits::ANYTHING, Vec::new()));
        self.runs(kind, Shape::Execution, id, traits, effects);
    }

    /// A command without a text, or with a name.
    pub(super) fn other(&mut self, body: &[u8], kind: u8) {
        let single = |tracker: &mut Tracker, traits| tracker.push(kind, Shape::Single, 0, traits, Vec::new());
        match kind {
            command::PING => single(self, Traits::KEEPS),
            command::STATISTICS => self.push(kind, Shape::Text, 0, Traits::KEEPS, Vec::new()),
            command::FIELD_LIST => self.push(kind, Shape::Fields, 0, Traits::KEEPS, Vec::new()),
            command::PROCESS_INFO => {
                let traits = Traits::KEEPS | Traits::SERVER_NUMBERS;
                self.runs(kind, Shape::Results, 0, traits, Vec::new());
            }
            command::INIT_DB => {
                let name = Bytes::copy_from_slice(body.get(1..).unwrap_or_default());
                let mut text = b"USE ".to_vec();
                literal::name(&mut text, &name);
                let mut effects = vec![Effect::Use(name)];
                if text.is_ascii() {
                    effects.push(Effect::Tells(text.into()));
                }
                self.runs(kind, Shape::Single, 0, Traits::KEEPS | Traits::SUSPECT, effects);
            }
            command::SET_OPTION => {
                let option = body.get(1).copied().unwrap_or(0);
                self.push(kind, Shape::Single, u32::from(option), Traits::KEEPS, Vec::new());
            }
            command::RESET_CONNECTION => {
                self.drift = Drift::Possible;
                single(self, Traits::WRITES);
            }
            _ => {
                self.drift = Drift::Possible;
                single(self, Traits::ANYTHING);
            }
        }
    }

    /// One result of several has ended.
    pub(super) fn one_result(&mut self, status: Status) {
        self.status = status.flags;
        self.wire.warnings = status.warnings;
        self.wire.failed = false;
        self.wire.row_count =
            status.affected.map_or(-1, |affected| i64::try_from(affected).unwrap_or(i64::MAX));
        self.found_rows_lost &= status.affected.is_some();
        let is_told = self.pending.front().is_some_and(Pending::is_told);
        if status.flags & answer::STATE_CHANGED != 0 && !is_told {
            self.drift = Drift::Possible;
            (self.wire.variables_known, self.wire.user_variables_known) = (false, false);
        }
    }

    /// The command at the front is answered.
    pub(super) fn answered(&mut self, outcome: Outcome) {
        self.answer = Answer::default();
        let Some(pending) = self.pending.front() else { return };
        let traits = pending.traits;
        if let Outcome::Done(status) = outcome {
            let left = self.wire.warnings.max(u16::from(self.wire.failed));
            let row_count = self.wire.row_count;
            self.one_result(status);
            let asks = traits.has(Traits::ASKS_DIAGNOSTICS);
            let shows = traits.has(Traits::SPECIAL | Traits::KEEPS);
            if asks || shows && !traits.has(Traits::WRITES) {
                // SHOW WARNINGS does not clear what it shows.
                self.wire.warnings = left;
            }
            if asks {
                self.wire.row_count = row_count;
            }
        }
        let Some(pending) = self.pending.pop_front() else { return };
        match outcome {
            Outcome::Done(status) => self.done(pending, status),
            Outcome::Said => self.said(pending),
            Outcome::Failed(code) => self.failed(pending, code),
        }
        if self.pending.is_empty() && self.pending.capacity() > MAX_PENDING / 64 {
            self.pending = std::collections::VecDeque::new();
        }
    }

    fn done(&mut self, pending: Pending, status: Status) {
        match pending.command {
            command::SET_OPTION => self.wire.multi_statements = Some(pending.id == 0),
            command::RESET_CONNECTION if self.product != Product::MySql56 => self.reset(),
            command::EXECUTE | command::FETCH => {
                let id = if pending.id == LAST { self.statements.last } else { Some(pending.id) };
                if let Some(live) = id.and_then(|id| self.statements.get_mut(&self.wire, id)) {
                    live.cursor = status.flags & (answer::CURSOR | answer::LAST_ROW) == answer::CURSOR;
                    if live.cursor {
                        self.statements.holds();
                    }
                }
                self.statements.settle();
            }
            _ => {}
        }
        self.transaction_after(&pending, status.flags);
        if pending.traits.has(Traits::CALLS) {
            self.forget_context_of(pending.traits.has(Traits::SEVERAL));
        }
        for effect in pending.effects {
            self.apply(effect);
        }
    }

    fn transaction_after(&mut self, pending: &Pending, flags: u16) {
        let keeps = pending.traits.has(Traits::KEEPS);
        let said = pending.effects.iter().rev().find_map(|effect| match effect {
            Effect::Begin(text) | Effect::Characteristic(text) => Some(text.clone()),
            _ => None,
        });
        let several = pending.traits.has(Traits::SEVERAL);
        let begins = !several && pending.effects.iter().any(|effect| matches!(effect, Effect::Begin(_)));
        let open = flags & IN_TRANSACTION != 0;
        self.standing = Standing::Free;
        if open && begins {
            if self.wire.begun {
                self.wire.characteristics.clear();
            }
            self.wire.begun = true;
        } else if open && !(self.wire.begun && keeps) {
            self.standing = Standing::Open;
            self.forget_begun();
        } else if !open && (self.wire.begun || !keeps) {
            self.forget_begun();
        }
        if let Some(text) = said
            && !several
            && self.standing == Standing::Free
            && (!begins || open)
        {
            self.wire.characteristics.push(text);
            if self.wire.characteristics.len() > MAX_CHARACTERISTICS {
                self.wire.characteristics.remove(0);
            }
        }
    }

    fn forget_begun(&mut self) {
        self.wire.begun = false;
        self.wire.characteristics.clear();
    }

    /// At rest without a transaction. What was begun and has done nothing is begun again.
    pub(super) fn settle(&mut self) {
        if self.standing != Standing::Free {
            self.forget_begun();
        }
        self.standing = Standing::Free;
        self.status &= !IN_TRANSACTION;
        self.xa = None;
    }

    /// The server was asked for its status flags.
    pub(super) fn asked(&mut self, flags: u16) {
        self.status = flags;
        let open = flags & IN_TRANSACTION != 0;
        self.standing = if open && !self.wire.begun { Standing::Open } else { Standing::Free };
        if !open && self.wire.begun {
            self.forget_begun();
        }
    }

    fn said(&mut self, pending: Pending) {
        let Some(preparing) = pending.preparing else { return };
        let Some((id, prepared)) = self.prepared.take() else { return };
        let Prepared { columns, parameters, .. } = prepared;
        let definitions = self.definitions.split().freeze();
        let statement = Statement {
            id,
            text: preparing.text.freeze(),
            context: self.wire.context.clone(),
            parameters,
            columns,
            definitions,
        };
        let live = Live {
            backend: prepared.id,
            scan: preparing.scan,
            lost: preparing.lost,
            keys: self.known.keys,
            ..Live::default()
        };
        self.statements.add(&mut self.wire, statement, live);
    }

    fn failed(&mut self, pending: Pending, code: u16) {
        (self.wire.failed, self.wire.row_count, self.wire.warnings) = (true, -1, 0);
        (self.prepared, self.definitions) = (None, BytesMut::new());
        if pending.shape == Shape::Prepared {
            self.statements.last = None;
        }
        let runs = matches!(pending.shape, Shape::Results | Shape::Execution | Shape::Single);
        let several = pending.traits.has(Traits::SEVERAL);
        if !runs || is_of_parser(code) && !several {
            if self.wire.begun {
                // The next look would see it open.
                self.standing = Standing::Open;
                self.forget_begun();
            }
            return;
        }
        let may_open = pending.traits.has(Traits::BEGINS) || self.status & AUTOCOMMIT == 0;
        if self.standing != Standing::Free || self.wire.begun || may_open {
            self.standing = Standing::Unsure;
            self.forget_begun();
        }
        if pending.is_told() {
            // A part of it may have been done.
            self.drift = Drift::Possible;
        }
        for effect in pending.effects {
            match effect {
                // Counted by the server when it begins to run them.
                Effect::CreateTable => self.apply(effect),
                // The first of several may have been done.
                _ if several => self.apply_perhaps(effect),
                _ => {}
            }
        }
    }
}
