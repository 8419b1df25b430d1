//! Finds the messages in the bytes that go by, and says what a session's state at this moment allows.

use bytes::BytesMut;

use super::{INSPECTED, MAX_SEGMENTS, Tracker};
use crate::engine::postgres::farewell;
use crate::engine::postgres::message::{self, HEADER};
use crate::engine::{
    Admission, ClientScan, Directory, Doubt, Drift, Farewell, Fate, Intercepted, Obstacle, Rest, ServerScan,
};

/// How the contents of a message matter to the tracker.
fn is_inspected_from_client(kind: u8) -> bool {
    matches!(kind, b'Q' | b'P' | b'B' | b'C')
}

fn is_inspected_from_server(kind: u8) -> bool {
    matches!(kind, b'Z' | b'S' | b'A' | b'E' | b'N' | b'1' | b'G')
}

impl crate::engine::Tracker for Tracker {
    fn client_bytes(&mut self, bytes: &mut BytesMut, admission: Admission) -> ClientScan {
        let mut at = self.client_skip.min(bytes.len());
        self.client_skip -= at;
        let rest = loop {
            if self.client_skip > 0 {
                break Rest::Incomplete;
            }
            let Some(&kind) = bytes.get(at) else { break Rest::Incomplete };
            if !matches!(
                kind,
                b'Q' | b'P' | b'B' | b'E' | b'D' | b'C' | b'S' | b'H' | b'F' | b'X' | b'd' | b'c' | b'f'
            ) {
                break Rest::Violation("invalid frontend message type");
            }
            let length = match message::frame_length(&bytes[at..]) {
                Ok(Some(length)) => length,
                Ok(None) => break Rest::Incomplete,
                Err(text) => break Rest::Violation(text),
            };
            let here = &bytes[at + HEADER..bytes.len().min(at + length)];
            let whole = here.len() + HEADER == length;
            if is_inspected_from_client(kind) && !whole && here.len() < INSPECTED {
                break Rest::Incomplete;
            }
            if kind == b'X' {
                break Rest::Goodbye;
            }
            if admission != Admission::All && self.at_rest() && self.status == b'I' {
                break Rest::Held;
            }
            let starts_segment = !self.unsynced && !self.copy_in && !matches!(kind, b'd' | b'c' | b'f');
            let one_at_a_time = admission == Admission::OpenTransaction && !self.waiting.is_empty();
            match starts_segment {
                true if admission == Admission::Nothing => break Rest::Held,
                true if one_at_a_time || self.waiting.len() >= MAX_SEGMENTS => break Rest::Draining,
                _ => {}
            }
            self.client_message(kind, here, whole);
            let present = here.len() + HEADER;
            at += present;
            self.client_skip = length - present;
        };
        ClientScan { forward: at, rest }
    }

    fn server_bytes(&mut self, bytes: &mut BytesMut, names: &dyn Fn(u32) -> Option<u32>) -> ServerScan {
        let mut at = self.server_skip.min(bytes.len());
        self.server_skip -= at;
        let (mut farewell, mut violation) = (false, false);
        while self.server_skip == 0 && at < bytes.len() {
            let kind = bytes[at];
            let length = match message::frame_length(&bytes[at..]) {
                Ok(Some(length)) => length,
                Ok(None) => break,
                Err(_) => {
                    violation = true;
                    break;
                }
            };
            let end = bytes.len().min(at + length);
            let whole = end - at == length;
            let inspected = is_inspected_from_server(kind) && length <= INSPECTED;
            if inspected && !whole {
                break;
            }
            if inspected && is_farewell(kind, &bytes[at + HEADER..end]) {
                farewell = true;
                break;
            }
            self.answered = self.answered.wrapping_add(u32::from(!matches!(kind, b'N' | b'S' | b'A')));
            if inspected {
                let body = &mut bytes[at + HEADER..end];
                if kind == b'A' {
                    rename_notifier(body, names);
                }
                self.server_message(kind, body);
            }
            self.server_skip = length - (end - at);
            at = end;
        }
        ServerScan { forward: at, farewell, violation }
    }

    fn intercept(&mut self, _: &mut BytesMut, _: &dyn Directory, _: &mut BytesMut) -> Intercepted {
        // Nothing that a client says names another session; a cancel request is a connection of its own.
        Intercepted::Pass
    }

    fn obstacle(&self) -> Option<Obstacle> {
        if !self.at_rest() {
            return Some(Obstacle::StatementInProgress);
        }
        match () {
            () if self.status != b'I' => Some(Obstacle::OpenTransaction),
            () if self.backup => Some(Obstacle::Backup),
            () if self.origin => Some(Obstacle::Replication),
            () => None,
        }
    }

    fn is_quiet(&self) -> bool {
        self.at_rest() && self.status == b'I' && self.server_skip == 0
    }

    fn is_running(&self) -> bool {
        self.unsynced && !self.skipping && !self.only_prepares() || !self.waiting.is_empty()
    }

    fn unanswered(&self) -> usize {
        self.waiting.len()
    }

    fn is_answered(&self) -> bool {
        !self.is_running() && self.client_skip == 0 && self.server_skip == 0
    }

    fn is_mid_answer(&self) -> bool {
        self.server_skip > 0
    }

    fn drift(&self) -> Drift {
        match () {
            () if self.open.suspect => Drift::Possible,
            () if self.unsynced && !self.only_prepares() => self.drift.max(Drift::Benign),
            () => self.drift,
        }
    }

    fn captured(&mut self) {
        self.drift = Drift::None;
        if self.only_prepares() {
            // Looking at the session has ended what was begun, with nothing in it.
            self.begins_anew();
            self.statements.settled();
        }
        self.statements.all_settled();
    }

    fn shown(&self) -> &[u8] {
        &self.shown
    }

    fn fate(&self) -> Fate {
        let in_transaction = self.status != b'I';
        let may_commit = self.open.may_commit || self.waiting.iter().any(|segment| segment.may_commit);
        match () {
            // The client is in the middle of a message or a message of the server in the middle of the client: nothing
            // can be said between.
            () if self.client_skip > 0 || self.server_skip > 0 => Fate::StatementUnknown,
            () if self.at_rest() && in_transaction => Fate::TransactionAborted,
            () if self.at_rest() => Fate::Carried,
            () if self.is_skipping() && in_transaction => Fate::TransactionAborted,
            () if self.is_skipping() => Fate::StatementFailed,
            // More than one answer is owed.
            () if self.waiting.len() + usize::from(self.unsynced) > 1 && !may_commit => {
                Fate::StatementUnknown
            }
            () if !in_transaction => Fate::StatementUnknown,
            // What follows the end of a transaction commits by itself, even if that end was a rollback.
            () if self.open.runs_on || self.waiting.iter().any(|segment| segment.runs_on) => {
                Fate::CommitUnknown
            }
            // In a failed transaction nothing but its end can succeed, and that end is a rollback.
            () if may_commit && !(self.status == b'E' && self.waiting.len() <= 1) => Fate::CommitUnknown,
            () => Fate::StatementAborted,
        }
    }

    fn doubt(&self) -> Option<Doubt> {
        self.one_transaction()
    }

    fn abort_copy(&mut self) -> Option<&'static [u8]> {
        if !self.copy_in || self.client_skip > 0 {
            return None;
        }
        self.copy_in = false;
        Some(b"f\x00\x00\x00\x29terminating due to a capacity change\0")
    }

    fn forcing(&mut self, _forced: bool) {
        // A cancelled statement is answered in the server's own words: 57014.
    }

    fn farewell(&self, why: &Farewell) -> Vec<u8> {
        farewell(why)
    }

    fn reattached(&mut self) {
        self.status = b'I';
        self.begins_anew();
        self.waiting.clear();
        self.copy_in = false;
        (self.backup, self.origin) = (false, false);
        self.server_skip = 0;
        self.drift = Drift::None;
    }

    fn rolled_back(&mut self) {
        self.status = b'I';
        self.begins_anew();
        self.drift = Drift::Possible;
    }
}

/// A crash of the server is announced as a warning (`src/backend/tcop/postgres.c`, `quickdie`), everything else that
/// ends a connection as a fatal error.
fn is_farewell(kind: u8, body: &[u8]) -> bool {
    match kind {
        b'E' => message::is_fatal(body),
        b'N' => {
            // Anybody may raise a warning with this code; only the server words it so.
            matches!(message::error_field(body, b'C'), b"57P01" | b"57P02")
                && message::error_field(body, b'V') == b"WARNING"
                && message::error_field(body, b'M').starts_with(b"terminating connection")
        }
        _ => false,
    }
}

/// Clients skip their own notifications by the process id they know, which is the router's.
fn rename_notifier(body: &mut [u8], names: &dyn Fn(u32) -> Option<u32>) {
    if let Some(id) = body.first_chunk_mut::<4>()
        && let Some(known) = names(u32::from_be_bytes(*id))
    {
        *id = known.to_be_bytes();
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::engine::Tracker as _;

    fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut out = BytesMut::new();
        message::put(&mut out, kind, |out| out.extend_from_slice(body));
        out.to_vec()
    }

    fn tracker() -> Tracker {
        Tracker::new(Vec::new(), Vec::new())
    }

    fn sends(tracker: &mut Tracker, messages: &[(u8, &[u8])]) {
        let mut bytes: BytesMut = messages.iter().flat_map(|(kind, body)| framed(*kind, body)).collect();
        let length = bytes.len();
        assert_eq!(tracker.client_bytes(&mut bytes, Admission::All).forward, length);
    }

    fn hears(tracker: &mut Tracker, messages: &[(u8, &[u8])]) {
        let mut bytes: BytesMut = messages.iter().flat_map(|(kind, body)| framed(*kind, body)).collect();
        let length = bytes.len();
        assert_eq!(tracker.server_bytes(&mut bytes, &|_| None).forward, length);
    }

    #[test]
    fn a_copy_may_end_before_the_server_has_asked_for_it() {
        let mut tracker = tracker();
        sends(&mut tracker, &[(b'Q', b"COPY t FROM STDIN\0"), (b'd', b"1\n"), (b'c', b"")]);
        assert!(!tracker.is_quiet());
        hears(&mut tracker, &[(b'G', &[0, 0, 1, 0, 0]), (b'C', b"COPY 1\0"), (b'Z', b"I")]);
        assert!(tracker.is_quiet());
        // The next Sync counts.
        sends(&mut tracker, &[(b'S', b"")]);
        assert!(!tracker.is_quiet());
        hears(&mut tracker, &[(b'Z', b"I")]);
        assert!(tracker.is_quiet());
    }

    #[test]
    fn a_copy_in_the_extended_protocol_swallows_its_sync() {
        let mut tracker = tracker();
        let begun: [(u8, &[u8]); 4] = [
            (b'P', b"\0COPY t FROM STDIN\0\0\0"),
            (b'B', b"\0\0\0\0\0\0\0\0"),
            (b'E', b"\0\0\0\0\0"),
            (b'S', b""),
        ];
        sends(&mut tracker, &begun);
        hears(&mut tracker, &[(b'1', b""), (b'2', b""), (b'G', &[0, 0, 1, 0, 0])]);
        sends(&mut tracker, &[(b'd', b"1\n"), (b'c', b"")]);
        hears(&mut tracker, &[(b'C', b"COPY 1\0")]);
        assert!(!tracker.is_quiet());
        sends(&mut tracker, &[(b'S', b"")]);
        hears(&mut tracker, &[(b'Z', b"I")]);
        assert!(tracker.is_quiet());
    }

    #[test]
    fn what_follows_the_end_of_a_transaction_may_have_committed() {
        for (sql, fate) in [
            (&b"INSERT INTO t VALUES (1)\0"[..], Fate::StatementAborted),
            (b"COMMIT\0", Fate::CommitUnknown),
            (b"ROLLBACK\0", Fate::StatementAborted),
            (b"ROLLBACK; INSERT INTO t VALUES (1)\0", Fate::CommitUnknown),
        ] {
            let mut tracker = tracker();
            sends(&mut tracker, &[(b'Q', b"BEGIN\0")]);
            hears(&mut tracker, &[(b'C', b"BEGIN\0"), (b'Z', b"T")]);
            sends(&mut tracker, &[(b'Q', sql)]);
            assert_eq!(tracker.fate(), fate, "{}", String::from_utf8_lossy(sql));
        }
    }

    #[test]
    fn a_portal_that_commits_may_be_executed_behind_the_sync() {
        let run = |portal: &'static [u8], executed: &'static [u8], between: &[(u8, &[u8])]| {
            let mut tracker = tracker();
            sends(&mut tracker, &[(b'Q', b"BEGIN\0")]);
            hears(&mut tracker, &[(b'C', b"BEGIN\0"), (b'Z', b"T")]);
            let bind = [portal, b"\0c\0\0\0\0\0\0\0"].concat();
            sends(&mut tracker, &[(b'P', b"c\0COMMIT\0\0\0"), (b'B', &bind), (b'S', b"")]);
            hears(&mut tracker, &[(b'1', b""), (b'2', b""), (b'Z', b"T")]);
            sends(&mut tracker, between);
            for _ in between {
                hears(&mut tracker, &[(b'Z', b"T")]);
            }
            let execute = [executed, b"\0\0\0\0\0"].concat();
            sends(&mut tracker, &[(b'E', &execute), (b'S', b"")]);
            tracker
        };
        assert_eq!(run(b"p", b"p", &[]).fate(), Fate::CommitUnknown);
        assert_eq!(run(b"", b"", &[]).fate(), Fate::CommitUnknown);
        assert_eq!(run(b"p", b"", &[]).fate(), Fate::StatementAborted);
        // A query drops the unnamed portal and leaves the named one.
        let query: (u8, &[u8]) = (b'Q', b"SELECT 1\0");
        assert_eq!(run(b"p", b"p", &[query]).fate(), Fate::CommitUnknown);
        assert_eq!(run(b"", b"", &[query]).fate(), Fate::StatementAborted);
        // The end of the transaction drops them all.
        let mut tracker = run(b"p", b"p", &[]);
        hears(&mut tracker, &[(b'C', b"COMMIT\0"), (b'Z', b"I")]);
        sends(&mut tracker, &[(b'Q', b"BEGIN\0")]);
        hears(&mut tracker, &[(b'C', b"BEGIN\0"), (b'Z', b"T")]);
        sends(&mut tracker, &[(b'E', b"p\0\0\0\0\0"), (b'S', b"")]);
        assert_eq!(tracker.fate(), Fate::StatementAborted);
    }

    #[test]
    fn parsing_without_a_sync_is_no_quiet_moment() {
        let mut tracker = tracker();
        sends(&mut tracker, &[(b'P', b"\0SELECT 1\0\0\0")]);
        assert_eq!(tracker.obstacle(), Some(Obstacle::StatementInProgress));
        let mut held = BytesMut::from(&framed(b'Q', b"SELECT 1\0")[..]);
        let mut quiet = super::tests::tracker();
        assert_eq!(quiet.client_bytes(&mut held, Admission::OpenTransaction).rest, Rest::Held);
    }
}
