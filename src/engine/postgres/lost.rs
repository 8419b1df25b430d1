//! Answers a client whose transaction a forced change or a crash has taken away.
//!
//! ```text
//!          anything but an end: 40001, Z 'E'
//!  Lost ─────────────────────────────────────► Failed ──ROLLBACK: tag──► over
//!   │ ├─ROLLBACK: tag ROLLBACK ──► over            ├───COMMIT, END, CHAIN: 40001, Z 'I'──► over
//!   │ └─COMMIT, END, CHAIN: 40001, Z 'I' ──► over  └───ROLLBACK TO: 40001, Z 'E'; the rest: 25P02, Z 'E'
//!   └─(an answer is owed: 40001, Z 'E' at once) ──► Failed
//! ```
//!
//! 40001 means "certainly not committed, begin again". A COMMIT is never answered with a tag: most drivers take even
//! the tag `ROLLBACK` for success. `ROLLBACK TO SAVEPOINT` never succeeds: it would let half a transaction commit.

use std::collections::HashMap;

use bytes::{Buf as _, Bytes, BytesMut};

use super::lexer;
use super::message::{self, Message};
use super::sql::{self, TransactionCommand};

pub(super) const LOST: (&str, &str) =
    ("40001", "could not serialize access: transaction lost in server move");
const FAILED: (&str, &str) =
    ("25P02", "current transaction is aborted, commands ignored until end of transaction block");
/// Longest message that is taken while a transaction is lost.
const MAX_REQUEST: usize = message::MAX_MESSAGE;
/// Of a longer message only this much is looked at, and the rest thrown away as it comes: it need not fit anywhere.
const INSPECTED: usize = super::tracker::INSPECTED;
/// Longest requests that are kept to be repeated.
const MAX_OUTLASTING: usize = 64 * 1024;

/// Where the transaction stands as the client sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It takes it for open.
    Open,
    /// The client was told; only an end of the transaction helps.
    Failed,
    /// The transaction is over.
    Over,
}

/// See the module.
pub struct LostTransaction {
    phase: Standing,
    /// After an error in the extended protocol everything is skipped up to `Sync`.
    skipping: bool,
    /// A segment of the extended protocol has begun.
    in_segment: bool,
    /// Texts of statements that end transactions, by name: pgjdbc and asyncpg send `COMMIT` so.
    enders: HashMap<Bytes, TransactionCommand>,
    /// What the portal that is bound now would run.
    bound: Option<TransactionCommand>,
    /// An answer that is owed from before goes out with the first call.
    owed: Owed,
    /// How much is still to come of a message that was answered already.
    to_drop: usize,
    /// See [`outlasting`](crate::engine::LostTransaction::outlasting).
    outlasting: BytesMut,
}

/// What the client still expects for what it sent before the transaction was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owed {
    /// Nothing.
    Nothing,
    /// An answer to a whole request.
    Answer,
    /// The client is in the middle of a segment: an error now, `ReadyForQuery` at its `Sync`.
    UntilSync,
    /// The client has had an error in the middle of a segment: `ReadyForQuery` at its `Sync`.
    Ready,
}

impl LostTransaction {
    /// `enders`: statements that the client has prepared and that end a transaction.
    pub fn new(phase: Standing, owed: Owed, enders: HashMap<Bytes, TransactionCommand>) -> LostTransaction {
        LostTransaction {
            phase,
            skipping: owed == Owed::Ready,
            in_segment: owed == Owed::Ready,
            enders,
            bound: None,
            owed,
            to_drop: 0,
            outlasting: BytesMut::new(),
        }
    }

    /// Decides what one statement is answered; `None`: nothing may be answered with success but a rollback.
    fn run(&mut self, command: Option<TransactionCommand>, out: &mut BytesMut) -> bool {
        let (phase, error) = match (self.phase, command) {
            // It ended earlier in this segment; what follows belongs to the same failure.
            (Standing::Over, _) => (Standing::Over, Some(LOST)),
            (_, Some(TransactionCommand::Rollback)) => (Standing::Over, None),
            (
                _,
                Some(TransactionCommand::Commit | TransactionCommand::Prepare | TransactionCommand::Chain),
            ) => (Standing::Over, Some(LOST)),
            (Standing::Open, _) | (_, Some(TransactionCommand::RollbackTo)) => (Standing::Failed, Some(LOST)),
            (_, None) => (Standing::Failed, Some(FAILED)),
        };
        self.phase = phase;
        match error {
            Some((code, text)) => message::put_error(out, "ERROR", code, text),
            None => message::put_complete(out, "ROLLBACK"),
        }
        error.is_none()
    }

    /// The first statement decides, and the rest is discarded: therefore nothing of it may be answered with success.
    fn query(&mut self, body: &[u8], out: &mut BytesMut) {
        let text = body.strip_suffix(b"\0").unwrap_or(body);
        let command = match sql::transaction_command(text) {
            Some(TransactionCommand::Rollback)
                if self.to_drop > 0 || lexer::statements(text, true).len() > 1 =>
            {
                Some(TransactionCommand::Chain)
            }
            other => other,
        };
        self.run(command, out);
        self.ready(out);
    }

    fn ready(&self, out: &mut BytesMut) {
        message::put_ready(out, if self.phase == Standing::Over { b'I' } else { b'E' });
    }

    fn fail(&mut self, command: Option<TransactionCommand>, out: &mut BytesMut) {
        self.skipping = !self.run(command, out);
    }

    fn parse(&mut self, body: &[u8], out: &mut BytesMut) {
        let mut rest = body;
        let (Some(name), Some(text)) = (message::take_text(&mut rest), message::take_text(&mut rest)) else {
            return self.fail(None, out);
        };
        match sql::transaction_command(text) {
            // Only what ends a transaction may be prepared in a failed one; anything else is the first failure.
            None | Some(TransactionCommand::RollbackTo) => self.fail(sql::transaction_command(text), out),
            Some(command) if name.is_empty() || self.keep(b'P', body) => {
                self.enders.insert(Bytes::copy_from_slice(name), command);
                message::put(out, b'1', |_| {});
            }
            Some(_) => self.fail(None, out),
        }
    }

    /// Named statements may also be closed in a failed transaction.
    fn close(&mut self, body: &[u8], out: &mut BytesMut) {
        let name =
            body.strip_prefix(b"S").and_then(|rest| rest.strip_suffix(b"\0")).filter(|n| !n.is_empty());
        if let Some(name) = name {
            if !self.keep(b'C', body) {
                return self.fail(None, out);
            }
            self.enders.remove(name);
        }
        message::put(out, b'3', |_| {});
    }

    /// Remembers a request to be repeated. `false`: that is too much.
    fn keep(&mut self, kind: u8, body: &[u8]) -> bool {
        let fits = self.to_drop == 0 && self.outlasting.len() + body.len() <= MAX_OUTLASTING;
        if fits {
            message::put(&mut self.outlasting, kind, |out| out.extend_from_slice(body));
        }
        fits
    }

    fn bind(&mut self, body: &[u8], out: &mut BytesMut) {
        let mut rest = body;
        message::take_text(&mut rest);
        let name = message::take_text(&mut rest).unwrap_or_default();
        match self.enders.get(name) {
            Some(&command) => {
                self.bound = Some(command);
                message::put(out, b'2', |_| {});
            }
            None => self.fail(None, out),
        }
    }

    fn extended(&mut self, message: &Message, out: &mut BytesMut) {
        if self.skipping {
            return;
        }
        match message.kind {
            b'P' => self.parse(&message.body, out),
            b'B' => self.bind(&message.body, out),
            b'D' if self.bound.is_some() || self.describes_ender(&message.body) => {
                if message.body.first() == Some(&b'S') {
                    message::put(out, b't', |out| out.extend_from_slice(&[0, 0]));
                }
                message::put(out, b'n', |_| {});
            }
            b'E' if self.bound.is_some() => {
                let command = self.bound.take();
                self.fail(command, out);
            }
            b'C' => self.close(&message.body, out),
            _ => self.fail(None, out),
        }
    }

    fn describes_ender(&self, body: &[u8]) -> bool {
        let name = body.get(1..).and_then(|rest| rest.strip_suffix(b"\0"));
        name.is_some_and(|name| self.enders.contains_key(name))
    }

    fn drop_rest(&mut self, input: &mut BytesMut) {
        let dropped = self.to_drop.min(input.len());
        input.advance(dropped);
        self.to_drop -= dropped;
    }

    /// The next message, the end of a long one cut off. What cannot be framed stays; the tracker refuses it.
    fn next(&mut self, input: &mut BytesMut) -> Option<Message> {
        let length = message::frame_length(input).ok()??;
        if input.len() >= length || input.len() < INSPECTED {
            return message::take(input, MAX_REQUEST).ok()?;
        }
        self.to_drop = length - input.len();
        let mut front = input.split();
        let kind = front[0];
        front.advance(message::HEADER);
        Some(Message { kind, body: front.freeze() })
    }

    fn pay(&mut self, out: &mut BytesMut) {
        match std::mem::replace(&mut self.owed, Owed::Nothing) {
            Owed::Nothing | Owed::Ready => {}
            Owed::Answer => {
                self.run(None, out);
                self.ready(out);
            }
            Owed::UntilSync => {
                self.in_segment = true;
                self.fail(None, out);
            }
        }
    }
}

impl crate::engine::LostTransaction for LostTransaction {
    fn receive(&mut self, input: &mut BytesMut, out: &mut BytesMut) -> bool {
        self.pay(out);
        loop {
            self.drop_rest(input);
            if self.phase == Standing::Over && !self.in_segment && self.to_drop == 0 {
                return true;
            }
            let Some(message) = self.next(input) else { return false };
            match message.kind {
                b'Q' => {
                    self.query(&message.body, out);
                }
                b'F' => {
                    self.run(None, out);
                    self.ready(out);
                }
                b'S' => {
                    (self.skipping, self.in_segment, self.bound) = (false, false, None);
                    self.ready(out);
                }
                // What is left of a COPY that has failed; the server drops it as well.
                b'd' | b'c' | b'f' => {}
                // Everything is answered at once. Behind a `Sync` it begins nothing.
                b'H' => {}
                b'X' => return false,
                _ => {
                    self.in_segment = true;
                    self.extended(&message, out);
                }
            }
        }
    }

    fn outlasting(&mut self) -> BytesMut {
        self.outlasting.split()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::LostTransaction as _;

    fn query(sql: &str) -> Vec<u8> {
        let mut out = BytesMut::new();
        message::put(&mut out, b'Q', |out| message::put_text(out, sql.as_bytes()));
        out.to_vec()
    }

    fn extended(name: &str, sql: &str) -> Vec<u8> {
        let mut out = BytesMut::new();
        message::put_parse(&mut out, name, sql.as_bytes(), &[]);
        message::put_bind(&mut out, name, &[]);
        message::put_execute(&mut out);
        message::put_sync(&mut out);
        out.to_vec()
    }

    const E40001: &[u8] =
        b"E\0\0\0\x57SERROR\0VERROR\0C40001\0Mcould not serialize access: transaction lost in server move\0\0";
    const E25P02: &[u8] = b"E\0\0\0\x6bSERROR\0VERROR\0C25P02\0Mcurrent transaction is aborted, \
commands ignored until end of transaction block\0\0";
    const ROLLBACK: &[u8] = b"C\0\0\0\x0dROLLBACK\0";
    const ZI: &[u8] = b"Z\0\0\0\x05I";
    const ZE: &[u8] = b"Z\0\0\0\x05E";

    #[track_caller]
    fn check(lost: &mut LostTransaction, request: &[u8], expected: &[&[u8]], over: bool) {
        let (mut input, mut out) = (BytesMut::from(request), BytesMut::new());
        assert_eq!(lost.receive(&mut input, &mut out), over);
        assert_eq!(out, expected.concat());
        assert!(input.is_empty());
    }

    fn fresh() -> LostTransaction {
        LostTransaction::new(Standing::Open, Owed::Nothing, HashMap::new())
    }

    #[test]
    fn the_end_of_a_lost_transaction() {
        check(&mut fresh(), &query("ROLLBACK"), &[ROLLBACK, ZI], true);
        for sql in [
            "COMMIT",
            "end",
            "PREPARE TRANSACTION 'x'",
            "COMMIT AND CHAIN",
            "ROLLBACK AND CHAIN",
            "COMMIT; SELECT 1",
        ] {
            check(&mut fresh(), &query(sql), &[E40001, ZI], true);
        }
    }

    #[test]
    fn a_statement_then_every_end() {
        for (sql, expected, over) in [
            ("ROLLBACK TO s", [E40001, ZE], false),
            ("SELECT 1", [E25P02, ZE], false),
            ("COMMIT", [E40001, ZI], true),
            ("ROLLBACK", [ROLLBACK, ZI], true),
        ] {
            let mut lost = fresh();
            check(&mut lost, &query("INSERT INTO t VALUES (1)"), &[E40001, ZE], false);
            check(&mut lost, &query(sql), &expected, over);
        }
    }

    #[test]
    fn the_extended_protocol_fails_up_to_sync() {
        let mut lost = fresh();
        check(&mut lost, &extended("", "SELECT 1"), &[E40001, ZE], false);
        check(&mut lost, &extended("", "SELECT 1"), &[E25P02, ZE], false);
        check(&mut lost, &extended("x", "COMMIT"), &[b"1\0\0\0\x04", b"2\0\0\0\x04", E40001, ZI], true);
        let mut lost = fresh();
        check(&mut lost, &extended("", "ROLLBACK"), &[b"1\0\0\0\x04", b"2\0\0\0\x04", ROLLBACK, ZI], true);
    }

    #[test]
    fn what_is_owed_is_paid_first() {
        let mut lost = LostTransaction::new(Standing::Open, Owed::Answer, HashMap::new());
        check(&mut lost, b"", &[E40001, ZE], false);
        check(&mut lost, b"d\0\0\0\x05xc\0\0\0\x04", &[], false);
        let mut lost = LostTransaction::new(Standing::Open, Owed::UntilSync, HashMap::new());
        check(&mut lost, b"", &[E40001], false);
        check(&mut lost, b"S\0\0\0\x04", &[ZE], false);
    }

    #[test]
    fn a_long_message_need_not_fit_into_a_buffer() {
        let mut lost = fresh();
        let mut out = BytesMut::new();
        let long = query(&format!("INSERT INTO t VALUES ('{}')", "x".repeat(1 << 20)));
        let mut input = BytesMut::new();
        for part in long.chunks(50_000) {
            input.extend_from_slice(part);
            assert!(!lost.receive(&mut input, &mut out));
            assert!(input.len() < 2 * INSPECTED);
        }
        assert_eq!(out, [E40001, ZE].concat());
        check(&mut lost, &query("ROLLBACK"), &[ROLLBACK, ZI], true);
        // An end that is followed by a long text is over when the text is. It may hold another statement.
        let mut lost = fresh();
        let end = query(&format!("ROLLBACK /*{}*/", "x".repeat(100_000)));
        check(&mut lost, &end[..70_000], &[E40001, ZI], false);
        check(&mut lost, &end[70_000..], &[], true);
    }

    #[test]
    fn a_segment_that_has_failed_is_ended() {
        for (phase, expected, over) in [(Standing::Over, ZI, true), (Standing::Failed, ZE, false)] {
            let mut lost = LostTransaction::new(phase, Owed::Ready, HashMap::new());
            check(&mut lost, b"d\0\0\0\x05xf\0\0\0\x05\0", &[], false);
            check(&mut lost, b"S\0\0\0\x04", &[expected], over);
        }
    }

    #[test]
    fn a_flush_begins_nothing() {
        let mut lost = fresh();
        check(&mut lost, b"S\0\0\0\x04H\0\0\0\x04", &[ZE], false);
        check(&mut lost, &query("ROLLBACK"), &[ROLLBACK, ZI], true);
    }

    #[test]
    fn what_follows_a_rollback_is_not_believed() {
        check(&mut fresh(), &query("ROLLBACK; INSERT INTO t VALUES (1)"), &[E40001, ZI], true);
        check(&mut fresh(), &query("ROLLBACK;"), &[ROLLBACK, ZI], true);
        let mut segment = extended("", "ROLLBACK");
        segment.truncate(segment.len() - 5);
        segment.extend_from_slice(&extended("", "INSERT INTO t VALUES (1)"));
        check(&mut fresh(), &segment, &[b"1\0\0\0\x04", b"2\0\0\0\x04", ROLLBACK, E40001, ZI], true);
    }

    #[test]
    fn statements_prepared_and_closed_outlast_the_transaction() {
        let mut lost = fresh();
        let mut requests = BytesMut::new();
        message::put_parse(&mut requests, "r", b"ROLLBACK", &[]);
        message::put_close(&mut requests, "old");
        let mut segment = requests.to_vec();
        segment.extend_from_slice(b"S\0\0\0\x04");
        check(&mut lost, &segment, &[b"1\0\0\0\x04", b"3\0\0\0\x04", ZE], false);
        check(&mut lost, &query("ROLLBACK"), &[ROLLBACK, ZI], true);
        assert_eq!(crate::engine::LostTransaction::outlasting(&mut lost), requests);
    }

    #[test]
    fn statements_prepared_before_are_known() {
        let enders = HashMap::from([(Bytes::from("c"), TransactionCommand::Commit)]);
        let mut lost = LostTransaction::new(Standing::Open, Owed::Nothing, enders);
        let mut request = BytesMut::new();
        message::put_bind(&mut request, "c", &[]);
        message::put_execute(&mut request);
        message::put_sync(&mut request);
        check(&mut lost, &request, &[b"2\0\0\0\x04", E40001, ZI], true);
    }

    #[test]
    fn a_failed_transaction_cannot_be_revived() {
        let mut lost = LostTransaction::new(Standing::Failed, Owed::Nothing, HashMap::new());
        check(&mut lost, &query("ROLLBACK TO SAVEPOINT s"), &[E40001, ZE], false);
        check(&mut lost, &query("SELECT 1"), &[E25P02, ZE], false);
    }
}
