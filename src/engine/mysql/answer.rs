//! Commands in the router's own words on a session's backend, pipelined, and their answers.
//!
//! Several commands go out in one write; the server answers them one after the other. [`Script`] remembers what was asked
//! and reads each answer whole, as the capabilities of the connection have it framed (MySQL "Protocol::COM_QUERY
//! Response", "Protocol::COM_STMT_PREPARE Response").

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::capability::bit;
use super::packet::{self, HEADER, SPLIT, take_lenenc, take_string};
use crate::engine::DialogueError;

mod read;

use read::Reader;
pub use read::{Answer, Column, Prepared, ascii};

/// The status bit of an open transaction.
pub const IN_TRANSACTION: u16 = 1;

/// The most that one answer may be: the largest value that a client is likely to keep in a user variable, some times.
const MAX_ANSWER: usize = 256 * 1024 * 1024;

/// What kind of answer a command gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `OK`, `ERR`, or a result set.
    Query,
    /// What a prepared statement is made of.
    Prepare,
    /// `OK`, `EOF` or `ERR`.
    Plain,
}

/// Commands that were written and are not answered yet; `S` says what each is for.
#[derive(Debug)]
pub struct Script<S> {
    capabilities: u64,
    /// `COM_QUERY` carries attributes.
    attributes: bool,
    waiting: VecDeque<(Kind, S)>,
    reader: Reader,
}

impl<S> Script<S> {
    /// `capabilities`: those that hold on the connection.
    pub fn new(capabilities: u64) -> Script<S> {
        Script {
            capabilities,
            attributes: capabilities & bit::QUERY_ATTRIBUTES != 0,
            waiting: VecDeque::new(),
            reader: Reader::default(),
        }
    }

    /// Everything is answered.
    pub fn is_done(&self) -> bool {
        self.waiting.is_empty()
    }

    /// `COM_QUERY`.
    pub fn query(&mut self, out: &mut BytesMut, sql: &[u8], step: S) {
        let prefix: &[u8] = if self.attributes { &[3, 0, 1] } else { &[3] };
        self.command(out, prefix, sql, Kind::Query, step);
    }

    /// `COM_INIT_DB`.
    pub fn init_database(&mut self, out: &mut BytesMut, name: &[u8], step: S) {
        self.command(out, &[2], name, Kind::Plain, step);
    }

    /// `COM_PING`.
    pub fn ping(&mut self, out: &mut BytesMut, step: S) {
        self.command(out, &[0x0e], &[], Kind::Plain, step);
    }

    /// `COM_SET_OPTION`: multi-statements on or off; tells the status, and disturbs nothing but `ROW_COUNT()`.
    pub fn set_option(&mut self, out: &mut BytesMut, multi_statements: bool, step: S) {
        self.command(out, &[0x1b, u8::from(!multi_statements), 0], &[], Kind::Plain, step);
    }

    /// `COM_STMT_PREPARE`.
    pub fn prepare(&mut self, out: &mut BytesMut, text: &[u8], step: S) {
        self.command(out, &[0x16], text, Kind::Prepare, step);
    }

    /// `COM_STMT_CLOSE`, which is not answered.
    pub fn close(out: &mut BytesMut, statement: u32) {
        packet::put(out, 0, |out| {
            out.put_u8(0x19);
            out.put_u32_le(statement);
        });
    }

    fn command(&mut self, out: &mut BytesMut, prefix: &[u8], body: &[u8], kind: Kind, step: S) {
        put_command(out, prefix, body);
        self.waiting.push_back((kind, step));
    }

    /// Takes the next answer if it is there whole.
    pub fn take(&mut self, input: &mut BytesMut) -> Result<Option<(S, Answer)>, DialogueError> {
        while let Some(&(kind, _)) = self.waiting.front() {
            let Some(body) = take_body(input).map_err(|text| DialogueError::Protocol(text.into()))? else {
                return Ok(None);
            };
            if is_progress(&body, self.capabilities) {
                continue;
            }
            let malformed = || DialogueError::Protocol("malformed answer".into());
            if let Some(answer) = self.reader.packet(kind, body, self.capabilities).ok_or_else(malformed)? {
                let step = self.waiting.pop_front().map(|(_, step)| step);
                return Ok(step.map(|step| (step, answer)));
            }
        }
        Ok(None)
    }
}

/// Appends a command, in as many packets as it needs.
fn put_command(out: &mut BytesMut, prefix: &[u8], body: &[u8]) {
    let first = body.len().min(SPLIT - prefix.len());
    packet::put(out, 0, |out| {
        out.extend_from_slice(prefix);
        out.extend_from_slice(&body[..first]);
    });
    let (mut rest, mut sequence, mut full) = (&body[first..], 0_u8, prefix.len() + first == SPLIT);
    while full {
        sequence = sequence.wrapping_add(1);
        let (piece, tail) = rest.split_at(rest.len().min(SPLIT));
        packet::put(out, sequence, |out| out.extend_from_slice(piece));
        (rest, full) = (tail, piece.len() == SPLIT);
    }
}

/// Takes a body whole, also one of several packets; nothing is taken before all of it is there.
fn take_body(input: &mut BytesMut) -> Result<Option<Bytes>, &'static str> {
    let (mut end, mut pieces) = (0, 0);
    loop {
        let Some(length) = packet::packet_length(&input[end..]) else { return Ok(None) };
        end += length;
        pieces += 1;
        if end > MAX_ANSWER {
            return Err("an answer is too long");
        }
        if input.len() < end {
            return Ok(None);
        }
        if length - HEADER < SPLIT {
            break;
        }
    }
    let mut whole = input.split_to(end);
    if pieces == 1 {
        whole.advance(HEADER);
        return Ok(Some(whole.freeze()));
    }
    let mut body = BytesMut::with_capacity(end);
    while let Some(length) = packet::packet_length(&whole) {
        body.extend_from_slice(&whole.split_to(length)[HEADER..]);
    }
    Ok(Some(body.freeze()))
}

/// MariaDB tells of the progress of long statements in what looks like an error (65535).
fn is_progress(body: &[u8], capabilities: u64) -> bool {
    capabilities & bit::MARIADB_PROGRESS != 0 && body.starts_with(&[0xff, 0xff, 0xff])
}

#[cfg(test)]
mod tests;
