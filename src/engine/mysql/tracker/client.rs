//! Finds the commands in what the client sends.

use bytes::BytesMut;

use super::answer::Phase;
use super::attributes::{self, Types};
use super::statements::LAST;
use super::{INSPECTED, MAX_PENDING, Pending, Shape, Tracker};
use crate::engine::mysql::capability::bit;
use crate::engine::mysql::packet::{HEADER, SPLIT, packet_length};
use crate::engine::mysql::sql::{self, Traits};
use crate::engine::{Admission, ClientScan, Rest};

/// The commands (MySQL "Command Phase").
pub(crate) mod command {

    pub(crate) const QUIT: u8 = 0x01;
    pub(crate) const INIT_DB: u8 = 0x02;
    pub(crate) const QUERY: u8 = 0x03;
    pub(crate) const FIELD_LIST: u8 = 0x04;
    pub(crate) const STATISTICS: u8 = 0x09;
    pub(crate) const PROCESS_INFO: u8 = 0x0a;
    pub(crate) const PROCESS_KILL: u8 = 0x0c;
    pub(crate) const PING: u8 = 0x0e;
    pub(crate) const CHANGE_USER: u8 = 0x11;
    pub(crate) const BINLOG_DUMP: u8 = 0x12;
    pub(crate) const TABLE_DUMP: u8 = 0x13;
    pub(crate) const REGISTER_REPLICA: u8 = 0x15;
    pub(crate) const PREPARE: u8 = 0x16;
    pub(crate) const EXECUTE: u8 = 0x17;
    pub(crate) const LONG_DATA: u8 = 0x18;
    pub(crate) const CLOSE: u8 = 0x19;
    pub(crate) const RESET_STATEMENT: u8 = 0x1a;
    pub(crate) const SET_OPTION: u8 = 0x1b;
    pub(crate) const FETCH: u8 = 0x1c;
    pub(crate) const BINLOG_DUMP_GTID: u8 = 0x1e;
    pub(crate) const RESET_CONNECTION: u8 = 0x1f;
    pub(crate) const BULK_EXECUTE: u8 = 0xfa;
}

/// A command whose first packet begins at `at`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packet {
    /// Where its header begins.
    pub(super) at: usize,
    /// The length of its body.
    pub(super) length: usize,
    /// How much of the body is there to be looked at.
    pub(super) here: usize,
}

impl Packet {
    /// All of the command is there.
    pub(super) fn is_whole(self) -> bool {
        self.here == self.length && self.length < SPLIT
    }

    /// What is there of its body.
    pub(super) fn body(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.at + HEADER..self.at + HEADER + self.here]
    }

    /// So much of the body is there, or all of it.
    pub(super) fn holds(self, length: usize) -> bool {
        self.here >= self.length.min(length)
    }
}

/// The command is to pass, or why it is not.
pub(super) type Passes = Result<(), Rest>;

impl Tracker {
    pub(super) fn scan_client(&mut self, bytes: &mut BytesMut, admission: Admission) -> ClientScan {
        let mut at = 0;
        let rest = loop {
            at = self.pass(bytes, at);
            if self.client_skip > 0 {
                break Rest::Incomplete;
            }
            let Some(length) = packet_length(&bytes[at..]) else { break Rest::Incomplete };
            let length = length - HEADER;
            // What is found must not hang on how much has come at once.
            let here = (bytes.len() - at - HEADER).min(length).min(INSPECTED);
            if self.client_more || self.awaits_file() {
                self.goes_on(bytes[at + 3], length);
            } else {
                let packet = Packet { at, length, here };
                if let Err(rest) = self.command(bytes, packet, admission) {
                    break rest;
                }
            }
            // The packet may have been changed.
            let length = packet_length(&bytes[at..]).map_or(0, |length| length - HEADER);
            (self.client_skip, self.client_more) = (length, length == SPLIT);
            at += HEADER;
        };
        ClientScan { forward: at, rest }
    }

    /// Lets what belongs to a packet that has begun pass.
    fn pass(&mut self, bytes: &[u8], at: usize) -> usize {
        let part = self.client_skip.min(bytes.len() - at);
        if part > 0 && self.collecting {
            self.collect(&bytes[at..at + part]);
        }
        self.client_skip -= part;
        self.collecting &= self.client_skip > 0 || self.client_more;
        at + part
    }

    /// A packet that is no command: it goes on with one, or belongs to a file.
    fn goes_on(&mut self, sequence: u8, length: usize) {
        let next = sequence.wrapping_add(1);
        if self.client_more {
            // A command that is not answered does not stand at the back.
            let answered = self.splitting || self.awaits_file();
            if let Some(pending) = self.pending.back_mut().filter(|_| answered) {
                pending.sequence = next;
            }
            return;
        }
        if let Some(pending) = self.pending.front_mut() {
            pending.sequence = next;
        }
        if length == 0 {
            self.answer.phase = Phase::First;
        }
    }

    fn command(&mut self, bytes: &mut BytesMut, packet: Packet, admission: Admission) -> Passes {
        if packet.length > 0 && packet.here == 0 {
            return Err(Rest::Incomplete);
        }
        if bytes[packet.at + 3] != 0 {
            return Err(Rest::Violation("Got packets out of order"));
        }
        let kind = packet.body(bytes).first().copied().unwrap_or(0);
        if kind == command::QUIT {
            return Err(Rest::Goodbye);
        }
        self.admit(admission)?;
        let passes = self.inspect(bytes, packet, kind);
        if passes.is_ok() {
            self.splitting = packet.length == SPLIT && !matches!(kind, command::LONG_DATA | command::CLOSE);
        }
        passes
    }

    fn admit(&self, admission: Admission) -> Passes {
        if admission != Admission::All && self.at_rest() && !self.is_open() {
            return Err(Rest::Held);
        }
        // The server would run what is sent behind a statement even if that is cancelled: a COMMIT that was sent before
        // the client could know would end a transaction that it has been told is gone. And what follows may be the file
        // that the server asks for.
        let runs = |pending: &Pending| matches!(pending.shape, Shape::Results | Shape::Execution);
        let behind = self.pending.iter().any(runs);
        match admission {
            Admission::Nothing => Err(Rest::Held),
            Admission::OpenTransaction if !self.pending.is_empty() => Err(Rest::Draining),
            _ if self.pending.len() >= MAX_PENDING || behind => Err(Rest::Draining),
            _ => Ok(()),
        }
    }

    fn inspect(&mut self, bytes: &mut BytesMut, packet: Packet, kind: u8) -> Passes {
        use command::{
            BINLOG_DUMP, BINLOG_DUMP_GTID, BULK_EXECUTE, CHANGE_USER, CLOSE, EXECUTE, FETCH, INIT_DB,
            LONG_DATA, PREPARE, PROCESS_KILL, QUERY, REGISTER_REPLICA, RESET_STATEMENT, SET_OPTION,
            TABLE_DUMP,
        };
        let needed = match kind {
            QUERY | PREPARE | INIT_DB | CHANGE_USER => INSPECTED,
            BINLOG_DUMP | BINLOG_DUMP_GTID | REGISTER_REPLICA | TABLE_DUMP => INSPECTED,
            EXECUTE | BULK_EXECUTE | FETCH | RESET_STATEMENT | CLOSE | LONG_DATA | PROCESS_KILL => 5,
            SET_OPTION => 3,
            _ => 1,
        };
        if !packet.holds(needed) {
            return Err(Rest::Incomplete);
        }
        match kind {
            QUERY => self.query(bytes, packet)?,
            PREPARE => self.prepare(bytes, packet)?,
            EXECUTE | BULK_EXECUTE => self.execute(bytes, packet, kind)?,
            FETCH | RESET_STATEMENT | CLOSE | LONG_DATA => self.of_statement(bytes, packet, kind),
            // They must not pass, and the rest of it would be waited for in vain.
            CHANGE_USER | BINLOG_DUMP | BINLOG_DUMP_GTID | REGISTER_REPLICA | TABLE_DUMP => {
                let too_long = Rest::Violation("the command is too long");
                return Err(if packet.length > INSPECTED { too_long } else { Rest::Intercept });
            }
            PROCESS_KILL => self.process_kill(bytes, packet)?,
            _ => self.other(packet.body(bytes), kind),
        }
        self.forwarded(kind);
        Ok(())
    }

    fn execute(&mut self, bytes: &mut BytesMut, packet: Packet, kind: u8) -> Passes {
        let id = statement_id(packet.body(bytes));
        let bulk = kind == command::BULK_EXECUTE;
        let found = self.statements.find(&self.wire, id).filter(|_| !self.means_pending(id));
        let live = self.statements.get(&self.wire, id);
        let asks = live.is_some_and(|live| live.scan.traits.has(Traits::ASKS_FOUND_ROWS));
        if self.passing.is_none()
            && (live.is_some_and(|live| live.gone.is_some()) || asks && self.misses_found_rows())
        {
            return Err(Rest::Intercept);
        }
        if let Some(index) = found {
            let body = packet.body(bytes);
            let parameters = self.wire.statements.get(index).map_or(0, |s| s.parameters);
            let limit = packet.length.min(INSPECTED);
            let types = match bulk {
                true => attributes::bulk_types(body, parameters, limit),
                false => attributes::types(body, parameters, self.has(bit::QUERY_ATTRIBUTES), limit),
            };
            if types == Types::More && !packet.holds(limit) {
                return Err(Rest::Incomplete);
            }
            self.types_pass(bytes, packet.at, index, &types, bulk).map_err(Rest::Violation)?;
        }
        self.put_id(bytes, packet, id);
        self.executes(kind, id, found);
        Ok(())
    }

    /// MariaDB: a statement that is still on its way.
    pub(super) fn means_pending(&self, id: u32) -> bool {
        id == LAST && self.pending.iter().any(|pending| pending.shape == Shape::Prepared)
    }

    /// The server's id in the place of the client's.
    fn put_id(&self, bytes: &mut BytesMut, packet: Packet, id: u32) {
        if self.means_pending(id) {
            return;
        }
        let start = packet.at + HEADER + 1;
        if let Some(place) = bytes.get_mut(start..start + 4)
            && packet.here >= 5
        {
            place.copy_from_slice(&self.statements.translate(&self.wire, id).to_le_bytes());
        }
    }

    fn of_statement(&mut self, bytes: &mut BytesMut, packet: Packet, kind: u8) {
        let id = statement_id(packet.body(bytes));
        self.put_id(bytes, packet, id);
        let live = self.statements.get_mut(&self.wire, id);
        match (kind, live) {
            (command::CLOSE, _) => self.statements.close(&mut self.wire, id),
            (command::LONG_DATA, Some(live)) => live.long_data = true,
            (command::RESET_STATEMENT, Some(live)) => (live.long_data, live.cursor) = (false, false),
            _ => {}
        }
        if kind == command::LONG_DATA {
            self.statements.holds();
        }
        match kind {
            command::FETCH => self.push(kind, Shape::Fetched, id, Traits::KEEPS, Vec::new()),
            command::RESET_STATEMENT => self.push(kind, Shape::Single, id, Traits::KEEPS, Vec::new()),
            _ => {}
        }
    }

    fn process_kill(&mut self, bytes: &mut BytesMut, packet: Packet) -> Passes {
        let Some(edits) = &self.passing else { return Err(Rest::Intercept) };
        if let Some((_, id)) = edits.first()
            && packet.here >= 5
        {
            let start = packet.at + HEADER + 1;
            bytes[start..start + 4].copy_from_slice(id);
        }
        self.push(command::PROCESS_KILL, Shape::Single, 0, Traits::WRITES, Vec::new());
        Ok(())
    }

    /// A command is about to be answered.
    pub(super) fn push(
        &mut self,
        command: u8,
        shape: Shape,
        id: u32,
        traits: Traits,
        effects: Vec<sql::Effect>,
    ) {
        let pending = Pending { shape, command, traits, sequence: 1, id, effects, preparing: None };
        self.pending.push_back(pending);
    }
}

/// The id in a command that is about a statement.
pub(super) fn statement_id(body: &[u8]) -> u32 {
    body.get(1..5).and_then(|id| id.try_into().ok()).map_or(0, u32::from_le_bytes)
}
