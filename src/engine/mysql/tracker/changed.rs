//! Packets that do not pass as they came.

use std::ops::Range;

use bytes::{BufMut, BytesMut};

use super::Tracker;
use super::attributes::Types;
use crate::engine::mysql::farewell;
use crate::engine::mysql::packet::{self, HEADER, SPLIT};

/// Replaces a part of the bytes.
pub(super) fn splice(bytes: &mut BytesMut, range: Range<usize>, with: &[u8]) {
    let tail = bytes.split_off(range.end);
    bytes.truncate(range.start);
    bytes.extend_from_slice(with);
    bytes.unsplit(tail);
}

/// Replaces a part of the body of the packet at `at`, and corrects its length. `false`: it would be too long.
pub(super) fn splice_packet(bytes: &mut BytesMut, at: usize, range: Range<usize>, with: &[u8]) -> bool {
    let Some(length) = packet::packet_length(&bytes[at..]) else { return false };
    let length = length - HEADER + with.len() - range.len();
    if length >= SPLIT {
        return false;
    }
    let start = at + HEADER;
    splice(bytes, start + range.start..start + range.end, with);
    let length = u32::try_from(length).unwrap_or(0).to_le_bytes();
    bytes[at..at + 3].copy_from_slice(&length[..3]);
    true
}

impl Tracker {
    /// The answer at `at`, which is there whole, becomes the one of a forced change.
    pub(super) fn say_aborted(&self, bytes: &mut BytesMut, range: Range<usize>) -> usize {
        let mut error = BytesMut::new();
        let sequence = bytes[range.start + 3];
        packet::put_error(&mut error, sequence, 1105, "HY000", farewell::aborted(self.product));
        splice(bytes, range, &error);
        error.len()
    }

    /// The first execution after a move says the types again: the server has not seen them. `None`: they cannot be said.
    pub(super) fn say_types(
        &mut self,
        bytes: &mut BytesMut,
        at: usize,
        place: usize,
        types: &[u8],
        bulk: bool,
    ) -> Option<()> {
        let mut with = BytesMut::new();
        let end = if bulk {
            let flags = bytes.get(at + HEADER + place..at + HEADER + place + 2)?;
            with.put_u16_le(u16::from_le_bytes([flags[0], flags[1]]) | 128);
            place + 2
        } else {
            with.put_u8(1);
            place + 1
        };
        with.extend_from_slice(types);
        splice_packet(bytes, at, place..end, &with).then_some(())
    }

    /// Remembers the types that an execution sends, or sends those that it leaves out. `Err`: that cannot be done.
    pub(super) fn types_pass(
        &mut self,
        bytes: &mut BytesMut,
        at: usize,
        index: usize,
        types: &Types,
        bulk: bool,
    ) -> Result<(), &'static str> {
        let Some(live) = self.statements.at(index) else { return Ok(()) };
        match types {
            Types::Sent(count, range) => {
                live.types.clear();
                live.types.extend_from_slice(&bytes[at + HEADER + range.start..at + HEADER + range.end]);
                (live.typed, live.untyped, live.types_lost) = (*count, false, false);
                Ok(())
            }
            Types::Left(count, place) if live.untyped && live.typed == *count && *count > 0 => {
                let types = std::mem::take(&mut live.types);
                live.untyped = false;
                let said = self.say_types(bytes, at, *place, &types, bulk);
                if let Some(live) = self.statements.at(index) {
                    live.types = types;
                }
                said.ok_or("the statement is too long to be run after a move")
            }
            Types::Many => {
                live.types_lost = true;
                Ok(())
            }
            Types::None | Types::More | Types::Malformed | Types::Left(..) => Ok(()),
        }
    }
}
