//! What the messages of a segment ask for, and so whether all of it is answered, and what is left to be answered when its
//! backend is lost.

use bytes::BytesMut;

use super::Tracker;
use crate::engine::postgres::lost::LOST;
use crate::engine::postgres::message;
use crate::engine::{Doubt, Farewell};

/// Segments with more messages than this are not answered in the server's stead.
const MOST: usize = 8;

/// The kinds of a segment's messages, as far as they are answered; a `Describe` of a statement is `d`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Asked {
    kinds: [u8; MOST],
    /// More than [`MOST`]: not known.
    count: u8,
}

impl Asked {
    /// What was asked is not known.
    pub(super) const UNKNOWN: Asked = Asked { kinds: [0; MOST], count: u8::MAX };

    /// A message of the client; `body` may be only its first part.
    pub(super) fn add(&mut self, kind: u8, body: &[u8]) {
        let kind = match kind {
            // The data of a `COPY` and its end are answered by nothing of their own; those of a `Query` come behind it.
            b'S' | b'd' | b'c' | b'f' => return,
            b'D' if body.first() == Some(&b'S') => b'd',
            other => other,
        };
        if let Some(place) = self.kinds.get_mut(usize::from(self.count)) {
            *place = kind;
        }
        self.count = self.count.saturating_add(1);
    }

    fn known(&self) -> Option<&[u8]> {
        self.kinds.get(..usize::from(self.count))
    }

    /// Statements were only prepared, described and closed, and these are all the answers to that.
    pub(super) fn is_preparation_answered_by(&self, answers: u32) -> bool {
        let Some(kinds) = self.known() else { return false };
        let expected = kinds.iter().try_fold(0, |sum, kind| match kind {
            b'P' | b'C' => Some(sum + 1),
            b'd' => Some(sum + 2),
            b'H' => Some(sum),
            _ => None,
        });
        expected.is_some_and(|expected| expected > 0 && expected == answers)
    }

    /// One statement is run, and no other bound.
    fn is_one_run(&self) -> bool {
        let count =
            |wanted: &[u8]| self.known().map(|kinds| kinds.iter().filter(|k| wanted.contains(k)).count());
        count(b"QE") == Some(1) && count(b"B") <= Some(1)
    }

    /// What the server would have answered to a `COMMIT` after the first `given` messages.
    fn committed(&self, given: u32) -> Option<BytesMut> {
        let kinds = self.known()?;
        let mut answers: Vec<(u8, &[u8])> = Vec::new();
        for kind in kinds {
            match kind {
                b'P' => answers.push((b'1', b"")),
                b'B' => answers.push((b'2', b"")),
                b'D' => answers.push((b'n', b"")),
                b'd' => answers.extend([(b't', &[0, 0][..]), (b'n', b"")]),
                b'C' => answers.push((b'3', b"")),
                b'Q' | b'E' => answers.push((b'C', b"COMMIT\0")),
                b'H' => {}
                _ => return None,
            }
        }
        let mut out = BytesMut::new();
        for (kind, body) in answers.get(usize::try_from(given).ok()?..)? {
            message::put(&mut out, *kind, |out| out.extend_from_slice(body));
        }
        message::put_ready(&mut out, b'I');
        Some(out)
    }
}

impl Tracker {
    /// The open segment has so far only prepared statements, and all of it is answered: its `Sync` would end nothing.
    /// asyncpg leaves a session so after `prepare()`, which ends in a `Flush`.
    pub(super) fn only_prepares(&self) -> bool {
        !self.skipping && self.open.asked.is_preparation_answered_by(self.answered)
    }

    /// See [`doubt`](crate::engine::Tracker::doubt).
    pub(super) fn one_transaction(&self) -> Option<Doubt> {
        let halfway = self.unsynced || self.copy_in || self.client_skip > 0 || self.server_skip > 0;
        let segment = self.waiting.front().filter(|_| self.waiting.len() == 1 && !halfway)?;
        let is_commit = self.status == b'T' && segment.is_commit && segment.asked.is_one_run();
        if !is_commit && (self.status != b'I' || segment.several) {
            return None;
        }
        let mut aborted = BytesMut::new();
        message::put_error(&mut aborted, "ERROR", LOST.0, LOST.1);
        message::put_ready(&mut aborted, b'I');
        Some(Doubt {
            // The results of any other statement are lost with its server.
            committed: segment.asked.committed(self.answered).filter(|_| is_commit).map(BytesMut::freeze),
            aborted: aborted.freeze(),
            unknown: if is_commit { Farewell::CommitUnknown } else { Farewell::StatementUnknown },
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::engine::{Admission, Tracker as _};

    fn framed(messages: &[(u8, &[u8])]) -> BytesMut {
        let mut out = BytesMut::new();
        for (kind, body) in messages {
            message::put(&mut out, *kind, |out| out.extend_from_slice(body));
        }
        out
    }

    fn sends(tracker: &mut Tracker, messages: &[(u8, &[u8])]) {
        let mut bytes = framed(messages);
        let length = bytes.len();
        assert_eq!(tracker.client_bytes(&mut bytes, Admission::All).forward, length);
    }

    fn hears(tracker: &mut Tracker, messages: &[(u8, &[u8])]) {
        let mut bytes = framed(messages);
        let length = bytes.len();
        assert_eq!(tracker.server_bytes(&mut bytes, &|_| None).forward, length);
    }

    fn in_transaction() -> Tracker {
        let mut tracker = Tracker::new(Vec::new(), Vec::new());
        sends(&mut tracker, &[(b'P', b"c\0COMMIT\0\0\0"), (b'S', b"")]);
        hears(&mut tracker, &[(b'1', b""), (b'Z', b"I")]);
        sends(&mut tracker, &[(b'Q', b"BEGIN\0")]);
        hears(&mut tracker, &[(b'C', b"BEGIN\0"), (b'Z', b"T")]);
        tracker
    }

    const BIND_C: &[u8] = b"\0c\0\0\0\0\0\0\0";
    const BIND: &[u8] = b"\0\0\0\0\0\0\0\0";
    const RUN: (u8, &[u8]) = (b'E', b"\0\0\0\0\0");
    const SYNC: (u8, &[u8]) = (b'S', b"");
    const COMMITTED: (u8, &[u8]) = (b'C', b"COMMIT\0");
    const READY: (u8, &[u8]) = (b'Z', b"I");

    fn committed(tracker: &Tracker) -> Option<Bytes> {
        tracker.doubt().and_then(|doubt| doubt.committed)
    }

    #[test]
    fn a_commit_is_answered_as_the_server_would_have() {
        let mut tracker = in_transaction();
        sends(&mut tracker, &[(b'Q', b"COMMIT\0")]);
        let doubt = tracker.doubt().unwrap();
        assert_eq!(doubt.committed.unwrap(), framed(&[COMMITTED, READY]));
        assert!(doubt.aborted.ends_with(b"Z\0\0\0\x05I"));
        assert_eq!(doubt.unknown, Farewell::CommitUnknown);

        // pgjdbc
        let mut tracker = in_transaction();
        sends(&mut tracker, &[(b'B', BIND_C), RUN, SYNC]);
        assert_eq!(committed(&tracker).unwrap(), framed(&[(b'2', b""), COMMITTED, READY]));

        // A notice makes the server send what it has.
        let mut tracker = in_transaction();
        sends(&mut tracker, &[(b'P', b"\0COMMIT\0\0\0"), (b'B', BIND), (b'D', b"P\0"), RUN, SYNC]);
        hears(&mut tracker, &[(b'1', b""), (b'2', b""), (b'N', b"\0")]);
        assert_eq!(committed(&tracker).unwrap(), framed(&[(b'n', b""), COMMITTED, READY]));
        hears(&mut tracker, &[(b'n', b""), COMMITTED]);
        assert_eq!(committed(&tracker).unwrap(), framed(&[READY]));
    }

    #[test]
    fn the_data_of_a_copy_is_no_part_of_what_follows() {
        let ends: [(u8, &[u8]); 2] = [(b'c', b""), (b'f', b"no\0")];
        for (end, answer) in ends.into_iter().zip([(b'C', &b"COPY 1\0"[..]), (b'E', b"SERROR\0VERROR\0\0")]) {
            let mut tracker = in_transaction();
            sends(&mut tracker, &[(b'Q', b"COPY t FROM STDIN\0")]);
            hears(&mut tracker, &[(b'G', &[0, 0, 1, 0, 0])]);
            sends(&mut tracker, &[(b'd', b"1\n"), end]);
            hears(&mut tracker, &[answer, (b'Z', b"T")]);
            sends(&mut tracker, &[(b'Q', b"COMMIT\0")]);
            assert_eq!(committed(&tracker).unwrap(), framed(&[COMMITTED, READY]));
        }
    }

    #[test]
    fn what_is_not_one_transaction_cannot_be_asked_for() {
        for sql in [
            &b"COMMIT AND CHAIN\0"[..],
            b"COMMIT; INSERT INTO t VALUES (1)\0",
            b"INSERT INTO t VALUES (1); COMMIT\0",
            b"PREPARE TRANSACTION 'x'\0",
            b"SELECT 1\0",
        ] {
            let mut tracker = in_transaction();
            sends(&mut tracker, &[(b'Q', sql)]);
            assert!(tracker.doubt().is_none(), "{}", String::from_utf8_lossy(sql));
        }
        let mut tracker = in_transaction();
        sends(&mut tracker, &[(b'Q', b"COMMIT\0"), (b'Q', b"SELECT 1\0")]);
        assert!(tracker.doubt().is_none());
        let mut tracker = in_transaction();
        sends(&mut tracker, &[(b'B', BIND_C), RUN, (b'B', BIND_C), RUN, SYNC]);
        assert!(tracker.doubt().is_none());
        let mut tracker = in_transaction();
        sends(&mut tracker, &[(b'B', BIND_C), RUN]);
        assert!(tracker.doubt().is_none());
        for sql in [&b"CALL p()\0"[..], b"VACUUM t\0", b"BEGIN; SELECT 1\0"] {
            let mut tracker = Tracker::new(Vec::new(), Vec::new());
            sends(&mut tracker, &[(b'Q', sql)]);
            assert!(tracker.doubt().is_none());
        }
    }

    #[test]
    fn the_results_of_a_statement_are_lost() {
        let mut tracker = Tracker::new(Vec::new(), Vec::new());
        sends(&mut tracker, &[(b'P', b"\0INSERT INTO t VALUES (1)\0\0\0"), (b'B', BIND), RUN, SYNC]);
        let doubt = tracker.doubt().unwrap();
        assert!(doubt.committed.is_none());
        assert_eq!(doubt.unknown, Farewell::StatementUnknown);
    }

    #[test]
    fn a_statement_that_is_only_prepared_is_a_rest() {
        let prepare: [(u8, &[u8]); 3] = [(b'P', b"s\0SELECT 1\0\0\0"), (b'D', b"Ss\0"), (b'H', b"")];
        let answers: [(u8, &[u8]); 3] = [(b'1', b""), (b't', b"\0\0"), (b'T', b"\0\0")];
        let mut tracker = Tracker::new(Vec::new(), Vec::new());
        sends(&mut tracker, &prepare);
        for answer in &answers {
            assert!(!tracker.is_quiet());
            hears(&mut tracker, std::slice::from_ref(answer));
        }
        assert!(tracker.is_quiet() && tracker.is_answered());
        assert_eq!(tracker.fate(), crate::engine::Fate::Carried);
        assert_eq!(tracker.drift(), crate::engine::Drift::Possible);
        tracker.captured();
        assert!(tracker.is_quiet());
        assert_eq!(tracker.drift(), crate::engine::Drift::None);
        // What comes next is a segment like any other.
        sends(&mut tracker, &[(b'B', b"\0s\0\0\0\0\0\0\0"), RUN, (b'H', b"")]);
        hears(&mut tracker, &[(b'2', b""), (b'D', b"\0\0"), (b'C', b"SELECT 1\0")]);
        assert!(!tracker.is_quiet());
        sends(&mut tracker, &[SYNC]);
        hears(&mut tracker, &[READY]);
        assert!(tracker.is_quiet());
        // Not if anything was bound, and not if it failed.
        sends(&mut tracker, &[(b'P', b"\0SELECT 1\0\0\0"), (b'B', BIND), (b'H', b"")]);
        hears(&mut tracker, &[(b'1', b""), (b'2', b"")]);
        assert!(!tracker.is_quiet());
        let mut tracker = Tracker::new(Vec::new(), Vec::new());
        sends(&mut tracker, &[(b'P', b"\0SELECT x\0\0\0"), (b'H', b"")]);
        hears(&mut tracker, &[(b'E', b"SERROR\0VERROR\0C42703\0Mx\0\0")]);
        assert!(!tracker.is_quiet());
    }

    #[test]
    fn a_statement_prepared_behind_a_setting_was_parsed_under_nobody_knows_which() {
        use crate::engine::postgres::state::{Prepared, State};
        let view = || vec![("DateStyle".to_owned(), Bytes::from_static(b"ISO, MDY"))];
        let prepared = |name: &'static [u8]| Prepared {
            name: Bytes::from_static(name),
            sql: Bytes::from_static(b"SELECT 1"),
            types: Vec::new(),
            by_sql: false,
            description: None,
            context: None,
            surroundings: None,
        };
        for (set, name, unsure) in [
            (&b"SET DateStyle = 'ISO, DMY'\0"[..], &b"s1"[..], true),
            (b"SET DateStyle = 'ISO, DMY'\0", b"", true),
            (b"SET DateStyle = 'ISO, MDY'\0", b"s1", false),
        ] {
            let mut tracker = Tracker::new(view(), Vec::new());
            let parse = [name, b"\0SELECT 1\0\0\0"].concat();
            let describe = [b"S", name, b"\0"].concat();
            sends(&mut tracker, &[(b'Q', set), (b'P', &parse), (b'D', &describe), (b'H', b"")]);
            let parameter: (u8, &[u8]) = (b'S', b"DateStyle\0ISO, DMY\0");
            hears(&mut tracker, &[(b'C', b"SET\0")]);
            hears(&mut tracker, if unsure { std::slice::from_ref(&parameter) } else { &[] });
            hears(&mut tracker, &[READY, (b'1', b""), (b't', b"\0\0"), (b'T', b"\0\0")]);
            assert!(tracker.is_quiet());
            let named = if name.is_empty() { Vec::new() } else { vec![prepared(b"s1")] };
            let mut state = State { prepared: named, ..tracker.wire_state() };
            tracker.complete(&mut state);
            tracker.captured();
            assert_eq!(state.obstacle.is_some(), unsure);
            assert!(state.prepared.iter().all(|prepared| prepared.context.is_none() == unsure));
        }
    }
}
