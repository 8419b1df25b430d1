//! Results that have connections' numbers in them: clients are told those that they know.
//!
//! A column is known by its definition: that of `SHOW PROCESSLIST`, those of the server's own tables, and the functions
//! that yield such a number. What a statement computes of one is the server's number still.

use std::ops::Range;

use bytes::{BufMut, BytesMut};

use super::answer::{Phase, Shape};
use super::attributes::skip_value;
use super::changed::splice_packet;
use super::{Pending, Tracker};
use crate::engine::mysql::lexer::{Mode, Token, Tokens};
use crate::engine::mysql::packet::{self, HEADER};
use crate::engine::mysql::sql::Traits;

/// `MYSQL_TYPE_LONG`, `MYSQL_TYPE_LONGLONG`
const LONG: u8 = 3;
const LONG_LONG: u8 = 8;
/// No result of a server has more.
const MAX_COLUMNS: usize = 4096;

/// A column of the result that is coming in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    kind: u8,
    numbers: bool,
}

impl Column {
    /// Reads a definition. `shows`: the statement is a `SHOW`.
    fn read(mut rest: &[u8], shows: bool) -> Column {
        let mut strings = [&[][..]; 6];
        for string in &mut strings {
            *string = packet::take_string(&mut rest).unwrap_or_default();
        }
        let [_, _, _, table, name, original] = strings;
        let kind = kind(rest).unwrap_or(0);
        let lower = original.to_ascii_lowercase();
        let numbers = match &lower[..] {
            b"processlist_id" | b"trx_mysql_thread_id" | b"conn_id" => true,
            b"id" => table.eq_ignore_ascii_case(b"processlist"),
            b"thread_id" => table.eq_ignore_ascii_case(b"metadata_lock_info"),
            b"" => table.is_empty() && (shows && name == b"Id" || is_call(name)),
            _ => false,
        };
        Column { kind, numbers }
    }
}

/// The type, behind the strings of a definition.
fn kind(rest: &[u8]) -> Option<u8> {
    // What MariaDB adds stands before the fixed part, of this length and what it says itself.
    let mut rest = rest;
    if rest.first() != Some(&0x0c) {
        packet::take_string(&mut rest)?;
    }
    rest.get(7).copied()
}

/// The column is nothing but a function that yields such a number.
fn is_call(name: &[u8]) -> bool {
    let tokens: Vec<Token<'_>> = Tokens::new(name, Mode::default()).take(5).collect();
    match tokens[..] {
        [name, Token::Symbol(b'('), Token::Symbol(b')')] => name.is("connection_id"),
        [name, Token::Symbol(b'('), Token::Literal(_) | Token::Variable(_), Token::Symbol(b')')] => {
            name.is("is_used_lock")
        }
        _ => false,
    }
}

impl Pending {
    /// Its result may have such numbers in it.
    pub(super) fn has_numbers(&self) -> bool {
        self.traits.has(Traits::SERVER_NUMBERS) && matches!(self.shape, Shape::Results | Shape::Execution)
    }
}

impl Tracker {
    /// A packet ahead of the rows of such a result has come.
    pub(super) fn learn_columns(&mut self, phase: Phase, body: &[u8], shows: bool) {
        match phase {
            Phase::First => self.columns.clear(),
            Phase::Columns(_) if self.columns.len() < MAX_COLUMNS => {
                self.columns.push(Column::read(body, shows));
            }
            _ => {}
        }
    }

    /// The row at `at`, of which so much is `here`; how much it is then.
    pub(super) fn translate_row(
        &self,
        bytes: &mut BytesMut,
        at: usize,
        here: usize,
        names: &dyn Fn(u32) -> Option<u32>,
    ) -> usize {
        let binary = self.pending.front().is_some_and(|pending| pending.shape == Shape::Execution);
        let mut here = here;
        if self.columns.iter().any(|column| column.numbers) {
            let body = &bytes[at + HEADER..at + HEADER + here];
            let edits = if binary { self.in_binary(body, names) } else { self.in_text(body, names) };
            for (range, with) in edits.unwrap_or_default().into_iter().rev() {
                let change = (range.len(), with.len());
                if splice_packet(bytes, at, range, &with) {
                    here = here + change.1 - change.0;
                }
            }
        }
        here
    }

    fn in_text(
        &self,
        body: &[u8],
        names: &dyn Fn(u32) -> Option<u32>,
    ) -> Option<Vec<(Range<usize>, BytesMut)>> {
        let mut edits = Vec::new();
        let mut rest = body;
        for column in &self.columns {
            let start = body.len() - rest.len();
            if rest.first() == Some(&0xfb) {
                rest = &rest[1..];
                continue;
            }
            // Of a row that is too long to be there whole, what is there.
            let Some(value) = packet::take_string(&mut rest) else { break };
            let number = || std::str::from_utf8(value).ok()?.parse().ok();
            if column.numbers
                && let Some(name) = number().and_then(names)
            {
                let mut with = BytesMut::new();
                packet::put_string(&mut with, name.to_string().as_bytes());
                edits.push((start..body.len() - rest.len(), with));
            }
        }
        Some(edits)
    }

    fn in_binary(
        &self,
        body: &[u8],
        names: &dyn Fn(u32) -> Option<u32>,
    ) -> Option<Vec<(Range<usize>, BytesMut)>> {
        let mut edits = Vec::new();
        let nulls = body.get(1..)?;
        let mut rest = body.get(1 + (self.columns.len() + 9) / 8..)?;
        for (index, column) in self.columns.iter().enumerate() {
            if nulls.get((index + 2) / 8)? >> ((index + 2) % 8) & 1 == 1 {
                continue;
            }
            let start = body.len() - rest.len();
            if skip_value(column.kind, &mut rest).is_none() {
                break;
            }
            let value = &body[start..body.len() - rest.len()];
            if !column.numbers || !matches!(column.kind, LONG | LONG_LONG) {
                continue;
            }
            let number = value.first_chunk().map(|low| u32::from_le_bytes(*low));
            if let Some(name) = number.filter(|_| value[4..].iter().all(|&byte| byte == 0)).and_then(names) {
                let mut with = BytesMut::new();
                with.put_u32_le(name);
                with.put_bytes(0, value.len() - 4);
                edits.push((start..start + value.len(), with));
            }
        }
        Some(edits)
    }
}
