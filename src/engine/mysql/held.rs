//! Commands that wait for a place on the server: answered without having been run.

use bytes::BytesMut;

use super::packet::{self, HEADER, SPLIT, packet_length};
use super::tracker::command;

/// Answers all commands that are there as a server answers that has no place, so that what was sent behind the first
/// one does not run without it. `false`: that cannot be done, because a command is not there whole, or is one of those
/// whose loss the client would not be told of.
pub(super) fn refuse(input: &mut BytesMut, out: &mut BytesMut) -> bool {
    let Some(commands) = commands(input) else { return false };
    let mut kept = BytesMut::new();
    for (kind, length) in commands {
        let packet = input.split_to(length);
        match kind {
            // They are not answered, and harm nobody later.
            command::CLOSE | command::QUIT => kept.extend_from_slice(&packet),
            _ => packet::put_error(out, 1, 1040, "08004", "Too many connections"),
        }
    }
    kept.unsplit(input.split());
    *input = kept;
    true
}

/// The kind and length of each command, if all of them may be refused.
fn commands(input: &[u8]) -> Option<Vec<(u8, usize)>> {
    let mut commands = Vec::new();
    let mut at = 0;
    while at < input.len() {
        let length = packet_length(&input[at..])?;
        let kind = *input.get(at + HEADER)?;
        match kind {
            // A statement would run without its data, or a pool would take a session for a fresh one.
            command::LONG_DATA | command::CHANGE_USER | command::RESET_CONNECTION => return None,
            _ if length - HEADER == SPLIT || input.len() < at + length => return None,
            _ => commands.push((kind, length)),
        }
        at += length;
    }
    Some(commands)
}

#[cfg(test)]
mod tests {
    use bytes::BufMut as _;

    use super::*;

    fn sent(kinds: &[u8]) -> BytesMut {
        let mut bytes = BytesMut::new();
        for kind in kinds {
            packet::put(&mut bytes, 0, |out| {
                out.put_u8(*kind);
                out.put_slice(b"text");
            });
        }
        bytes
    }

    #[test]
    fn all_that_was_sent_is_refused() {
        use command::{CLOSE, EXECUTE, QUERY};
        let (mut input, mut out) = (sent(&[QUERY, CLOSE, EXECUTE]), BytesMut::new());
        assert!(refuse(&mut input, &mut out));
        assert_eq!(input, sent(&[CLOSE]));
        for _ in 0..2 {
            let answer = packet::take(&mut out, SPLIT).unwrap().unwrap();
            assert_eq!((answer.sequence, &answer.body[..9]), (1, &b"\xff\x10\x04#08004"[..]));
        }
        assert!(out.is_empty());
    }

    #[test]
    fn what_the_client_would_not_know_to_be_lost_is_not_refused() {
        use command::{CHANGE_USER, LONG_DATA, QUERY, RESET_CONNECTION};
        for kinds in [&[LONG_DATA, QUERY][..], &[CHANGE_USER], &[QUERY, RESET_CONNECTION]] {
            let (mut input, mut out) = (sent(kinds), BytesMut::new());
            assert!(!refuse(&mut input, &mut out) && out.is_empty());
            assert_eq!(input, sent(kinds));
        }
        let mut half = sent(&[QUERY, QUERY]);
        half.truncate(half.len() - 1);
        assert!(!refuse(&mut half, &mut BytesMut::new()));
    }
}
