//! The statements of `COM_STMT_PREPARE`: the ids that the client knows, and what the wire alone knows of each.
//!
//! The client's ids are this module's own and are never given out twice, so a server that counts otherwise after a move is
//! not noticed.

use bytes::{Bytes, BytesMut};

use crate::engine::mysql::sql::Scan;
use crate::engine::mysql::state::{Statement, Wire};

/// MariaDB: the statement that was prepared last.
pub(super) const LAST: u32 = u32::MAX;
/// No server gives out this one.
const NONE: u32 = u32::MAX - 1;
/// More than this of a session's texts is not kept.
const MAX_TEXTS: usize = 64 << 20;

/// What is known of a statement apart from [`Statement`]; in the same order.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "findings that do not exclude each other")]
pub(super) struct Live {
    /// The server's id.
    pub(super) backend: u32,
    /// What its text tells.
    pub(super) scan: Scan,
    /// Its parameters' types as the client last sent them, and how many there were.
    pub(super) types: Vec<u8>,
    /// See above.
    pub(super) typed: usize,
    /// The server does not know the types yet: it has just prepared the statement anew.
    pub(super) untyped: bool,
    /// The types were too many to be kept.
    pub(super) types_lost: bool,
    /// It has an open cursor.
    pub(super) cursor: bool,
    /// A part of a parameter was sent ahead.
    pub(super) long_data: bool,
    /// What it names was not there when it was to be prepared again: the server's error.
    pub(super) gone: Option<Bytes>,
    /// Its text was not kept: it cannot be prepared again.
    pub(super) lost: bool,
    /// What the settings of its context were called when it was prepared.
    pub(super) keys: [u64; 3],
}

/// A statement on its way to the server.
#[derive(Debug, Default)]
pub(super) struct Preparing {
    /// Its text, as far as it was seen.
    pub(super) text: BytesMut,
    /// The text was too long.
    pub(super) lost: bool,
    /// What it tells.
    pub(super) scan: Scan,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Statements {
    live: Vec<Live>,
    next: u32,
    texts: usize,
    /// One of them may have a cursor or data sent ahead. It is asked at every command, of hundreds perhaps.
    may_hold: bool,
    /// The client's id of the one that was prepared last.
    pub(super) last: Option<u32>,
}

impl Statements {
    /// An id that the client has not seen.
    pub(super) fn next_id(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    /// Counts on where the statements before `COM_CHANGE_USER` left off, as a server does: drivers close what they had
    /// prepared before only later, and must not hit a new one.
    pub(super) fn count_on(&mut self, former: &Statements) {
        self.next = former.next;
    }

    /// `statement` is prepared.
    pub(super) fn add(&mut self, wire: &mut Wire, mut statement: Statement, mut live: Live) {
        self.last = Some(statement.id);
        if self.texts + statement.text.len() > MAX_TEXTS {
            statement.text = Bytes::new();
            live.lost = true;
        }
        self.texts += statement.text.len();
        wire.statements.push(statement);
        self.live.push(live);
    }

    /// Where the statement of a client's id is; [`LAST`] is the one prepared last.
    pub(super) fn find(&self, wire: &Wire, id: u32) -> Option<usize> {
        let id = if id == LAST { self.last? } else { id };
        wire.statements.binary_search_by_key(&id, |statement| statement.id).ok()
    }

    /// What is known of it.
    pub(super) fn get(&self, wire: &Wire, id: u32) -> Option<&Live> {
        self.find(wire, id).map(|at| &self.live[at])
    }

    /// By its place.
    pub(super) fn at(&mut self, at: usize) -> Option<&mut Live> {
        self.live.get_mut(at)
    }

    /// See [`get`](Statements::get).
    pub(super) fn get_mut(&mut self, wire: &Wire, id: u32) -> Option<&mut Live> {
        self.find(wire, id).map(|at| &mut self.live[at])
    }

    /// The server's id for a client's id. One that the client does not have must not hit another statement.
    pub(super) fn translate(&self, wire: &Wire, id: u32) -> u32 {
        match self.get(wire, id) {
            Some(live) => live.backend,
            None if id == LAST || self.live.iter().any(|live| live.backend == id) => NONE,
            None => id,
        }
    }

    /// The client closes it.
    pub(super) fn close(&mut self, wire: &mut Wire, id: u32) {
        let Some(at) = self.find(wire, id) else { return };
        let closed = wire.statements.remove(at);
        self.live.remove(at);
        self.texts -= closed.text.len();
        if self.last == Some(closed.id) {
            self.last = None;
        }
    }

    /// The server has dropped all of them.
    pub(super) fn clear(&mut self, wire: &mut Wire) {
        wire.statements.clear();
        self.live.clear();
        (self.texts, self.last, self.may_hold) = (0, None, false);
    }

    /// All of them, with what is known.
    pub(super) fn all<'a>(
        &'a mut self,
        wire: &'a mut Wire,
    ) -> impl Iterator<Item = (&'a mut Statement, &'a mut Live)> {
        wire.statements.iter_mut().zip(&mut self.live)
    }

    /// See [`all`](Statements::all).
    pub(super) fn any(&self, test: impl Fn(&Live) -> bool) -> bool {
        self.live.iter().any(test)
    }

    /// One of them has a cursor or data sent ahead, perhaps.
    pub(super) fn holds(&mut self) {
        self.may_hold = true;
    }

    /// As [`any`](Statements::any), of what only a statement with a cursor or with data sent ahead can be.
    pub(super) fn any_holding(&self, test: impl Fn(&Live) -> bool) -> bool {
        self.may_hold && self.any(test)
    }

    /// The command is done.
    pub(super) fn settle(&mut self) {
        self.may_hold = self.any_holding(|live| live.cursor || live.long_data);
    }

    /// Another server has prepared them: the client's id and the server's.
    pub(super) fn renumber(&mut self, wire: &mut Wire, ids: &[(u32, u32)], gone: &[(u32, Bytes)]) {
        for (statement, live) in self.all(wire) {
            let found = ids.iter().find(|(id, _)| *id == statement.id);
            live.backend = found.map_or(NONE, |(_, backend)| *backend);
            live.gone = gone.iter().find(|(id, _)| *id == statement.id).map(|(_, error)| error.clone());
            live.untyped = statement.parameters > 0;
            (live.cursor, live.long_data) = (false, false);
        }
    }

    /// Cursors and data sent ahead are gone.
    pub(super) fn forget_open(&mut self) {
        self.may_hold = false;
        for live in &mut self.live {
            (live.cursor, live.long_data) = (false, false);
        }
    }
}
