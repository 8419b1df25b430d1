//! A few commands in the client's stead, at rest: their answers are swallowed.

use bytes::{BufMut, Bytes, BytesMut};

use super::packet;
use super::tracker::{Tracker, command};
use crate::engine::{Cause, Dialogue, DialogueError};

/// The longest answer to a ROLLBACK.
const MAX_ANSWER: usize = 64 * 1024;
/// Whatever `completion_type` says.
const ROLL_BACK: &[u8] = b"ROLLBACK AND NO CHAIN NO RELEASE";

/// See the module.
pub struct Interlude {
    requests: BytesMut,
}

impl Interlude {
    /// Rolls the open transaction back.
    pub fn roll_back(tracker: &Tracker) -> Interlude {
        let mut requests = BytesMut::new();
        packet::put(&mut requests, 0, |out| {
            out.put_u8(command::QUERY);
            tracker.put_attributes(out);
            out.extend_from_slice(ROLL_BACK);
        });
        Interlude { requests }
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
        Interlude { requests: closed }
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
        let answer = packet::take(input, MAX_ANSWER).map_err(|e| DialogueError::Protocol(e.into()))?;
        let Some(answer) = answer else { return Ok(None) };
        match answer.body.first() {
            Some(0xff) => Err(refused(&answer)),
            // OK, or the text of the statistics.
            _ => Ok(Some(BytesMut::new())),
        }
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
    use crate::engine::mysql::tracker::tests::tracker;

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
}
