//! A few commands in the client's stead, at rest: their answers are swallowed.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};

use super::packet;
use super::tracker::{Tracker, command};
use crate::engine::{Cause, Dialogue, DialogueError};

/// The longest answer to a ROLLBACK.
const MAX_ANSWER: usize = 64 * 1024;
/// Whatever `completion_type` says.
const ROLL_BACK: &[u8] = b"ROLLBACK AND NO CHAIN NO RELEASE";

/// How a command must come out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Success,
    Failure,
    Either,
}

/// See the module.
pub struct Interlude {
    requests: BytesMut,
    expected: VecDeque<Expected>,
}

impl Interlude {
    /// Rolls the open transaction back. A statement that waits for the client's file must have been cancelled before: then
    /// the file's end has it fail, and what was in the file does not matter.
    pub fn roll_back(tracker: &Tracker) -> Interlude {
        let mut interlude = Interlude { requests: BytesMut::new(), expected: VecDeque::new() };
        if tracker.awaits_file() {
            interlude.end_file(tracker);
        }
        match tracker.xa() {
            Some(name) => {
                // It may have ended already.
                interlude.query(tracker, &[b"XA END ", name].concat(), Expected::Either);
                interlude.query(tracker, &[b"XA ROLLBACK ", name].concat(), Expected::Success);
            }
            None => interlude.query(tracker, ROLL_BACK, Expected::Success),
        }
        interlude
    }

    fn query(&mut self, tracker: &Tracker, text: &[u8], expected: Expected) {
        packet::put(&mut self.requests, 0, |out| {
            out.put_u8(command::QUERY);
            tracker.put_attributes(out);
            out.extend_from_slice(text);
        });
        self.expected.push_back(expected);
    }

    /// What is missing of the client's packet, a row, and the empty packet. Without that row the server would not look
    /// whether the statement was cancelled, and load what it has.
    fn end_file(&mut self, tracker: &Tracker) {
        let sequence = tracker.owed().next().unwrap_or_default();
        self.requests.put_bytes(0, tracker.rest_of_packet().0);
        packet::put(&mut self.requests, sequence, |out| out.extend_from_slice(b"\0\n"));
        packet::put(&mut self.requests, sequence.wrapping_add(1), |_| {});
        self.expected.push_back(Expected::Failure);
    }

    /// Repeats what outlasts a lost transaction: statements that were closed. That is never answered, so a
    /// question stands behind it.
    pub fn repeat(tracker: &mut Tracker, requests: &Bytes) -> Interlude {
        let mut closed = BytesMut::new();
        let mut rest = BytesMut::from(requests.as_ref());
        while let Ok(Some(request)) = packet::take(&mut rest, MAX_ANSWER) {
            let id = request.body.get(1..5).and_then(|id| id.try_into().ok()).map(u32::from_le_bytes);
            if let Some(backend) = id.and_then(|id| tracker.closed_meanwhile(id)) {
                packet::put(&mut closed, 0, |out| {
                    out.put_u8(command::CLOSE);
                    out.put_u32_le(backend);
                });
            }
        }
        // The one command that is answered and disturbs nothing.
        packet::put(&mut closed, 0, |out| out.put_u8(command::STATISTICS));
        Interlude { requests: closed, expected: [Expected::Success].into() }
    }
}

impl Dialogue for Interlude {
    type Output = BytesMut;

    fn open(&mut self, out: &mut BytesMut) {
        out.unsplit(std::mem::take(&mut self.requests));
    }

    fn receive(
        &mut self,
        input: &mut BytesMut,
        _out: &mut BytesMut,
    ) -> Result<Option<BytesMut>, DialogueError> {
        while let Some(expected) = self.expected.front() {
            let answer = packet::take(input, MAX_ANSWER).map_err(|e| DialogueError::Protocol(e.into()))?;
            let Some(answer) = answer else { return Ok(None) };
            let failed = answer.body.first() == Some(&0xff);
            if failed && answer.body.starts_with(&[0xff; 3]) {
                // A report of progress.
                continue;
            }
            match (failed, *expected) {
                (true, Expected::Success) => return Err(refused(&answer)),
                (false, Expected::Failure) => {
                    return Err(DialogueError::Protocol("a cancelled statement has succeeded".into()));
                }
                // OK, or the text of the statistics.
                _ => self.expected.pop_front(),
            };
        }
        Ok(Some(BytesMut::new()))
    }
}

fn refused(answer: &packet::Packet) -> DialogueError {
    let code = answer.body.get(1..3).map_or(0, |code| u16::from_le_bytes([code[0], code[1]]));
    let text = answer.body.get(9..).unwrap_or_default();
    let mut message = BytesMut::new();
    packet::put(&mut message, answer.sequence, |out| out.extend_from_slice(&answer.body));
    DialogueError::Refused {
        cause: Cause::Final,
        code: code.to_string(),
        text: String::from_utf8_lossy(text).into_owned(),
        message: message.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::mysql::tracker::tests::{framed, tracker};
    use crate::engine::{Admission, Tracker as _};

    #[test]
    fn a_rollback_is_answered_with_ok() {
        let mut interlude = Interlude::roll_back(&tracker());
        let mut out = BytesMut::new();
        interlude.open(&mut out);
        assert_eq!(&out[..], b"\x21\0\0\0\x03ROLLBACK AND NO CHAIN NO RELEASE");
        let mut input = BytesMut::from(&b"\x07\0\0\x01\0\0\0\x02\0\0"[..]);
        assert_eq!(interlude.receive(&mut input, &mut out), Ok(None));
        input.put_u8(0);
        assert_eq!(interlude.receive(&mut input, &mut out), Ok(Some(BytesMut::new())));
        let mut input = BytesMut::from(&b"\x0a\0\0\x01\xff\x51\x04#HY000x"[..]);
        assert!(matches!(
            Interlude::roll_back(&tracker()).receive(&mut input, &mut out),
            Err(DialogueError::Refused { .. })
        ));
    }

    #[test]
    fn an_xa_transaction_is_ended_first() {
        let mut tracker = tracker();
        say(&mut tracker, b"\x03xa  Start 'x','y'", b"\0\0\0\x03\0\0\0");
        let mut interlude = Interlude::roll_back(&tracker);
        let mut out = BytesMut::new();
        interlude.open(&mut out);
        assert_eq!(&out[..], b"\x0f\0\0\0\x03XA END 'x','y'\x14\0\0\0\x03XA ROLLBACK 'x','y'");
        // It had ended.
        let mut input = BytesMut::from(&b"\x0a\0\0\x01\xff\x77\x05#XAE07x\x07\0\0\x01\0\0\0\x02\0\0\0"[..]);
        assert_eq!(interlude.receive(&mut input, &mut out), Ok(Some(BytesMut::new())));
        say(&mut tracker, b"\x03XA PREPARE 'x'", b"\0\0\0\x02\0\0\0");
        assert_eq!(tracker.xa(), None);
    }

    #[test]
    fn a_file_that_is_not_all_there_is_ended() {
        let mut tracker = tracker();
        say(&mut tracker, b"\x03LOAD DATA LOCAL INFILE 'x' INTO TABLE t", b"\xfbx");
        let mut part = BytesMut::from(&b"\x05\0\0\x02abc"[..]);
        assert_eq!(tracker.client_bytes(&mut part, Admission::Nothing).forward, 7);
        let mut interlude = Interlude::roll_back(&tracker);
        let mut out = BytesMut::new();
        interlude.open(&mut out);
        assert!(out.starts_with(b"\0\0\x02\0\0\x03\0\n\0\0\0\x04\x21\0\0\0\x03ROLLBACK"), "{out:?}");
        // It was not cancelled.
        let mut input = BytesMut::from(&b"\x07\0\0\x05\0\0\0\x02\0\0\0"[..]);
        assert!(interlude.receive(&mut input, &mut out).is_err());
    }

    fn say(tracker: &mut Tracker, request: &[u8], answer: &[u8]) {
        tracker.client_bytes(&mut BytesMut::from(&framed(0, request)[..]), Admission::All);
        tracker.server_bytes(&mut BytesMut::from(&framed(1, answer)[..]), &|_| None);
    }
}
