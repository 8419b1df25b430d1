//! What nobody can set on another server, and a client may still ask for right after a move: warnings, `ROW_COUNT()`. The
//! router answers in the server's place until another statement has run.
//!
//! Source: MySQL "Text Resultset", "Column Definition".

use bytes::{BufMut, BytesMut};

use super::Tracker;
use super::answer::{AUTOCOMMIT, NO_BACKSLASH};
use crate::engine::mysql::literal;
use crate::engine::mysql::packet;
use crate::engine::mysql::sql::diagnostics::{Item, diagnostics};
use crate::engine::mysql::sql::special::Special;

/// Why a question about the last statement is not answered.
pub(super) const LOST: &str = "What the last statement left is not known any more: the session was looked at or moved since. Ask for \
                    it at once, or by SHOW WARNINGS";
/// `MYSQL_TYPE_LONGLONG`
const LONG_LONG: u8 = 8;
/// `MYSQL_TYPE_LONG`
const LONG: u8 = 3;
/// `MYSQL_TYPE_VAR_STRING`
const TEXT: u8 = 253;
/// `NOT_NULL`, `UNSIGNED`, `BINARY`
const NUMBER_FLAGS: u16 = 1 | 32 | 128;
const SIGNED_FLAGS: u16 = 1 | 128;

/// A column of an answer.
struct Column<'a> {
    name: &'a [u8],
    kind: u8,
    length: u32,
    flags: u16,
}

impl Column<'_> {
    fn number(name: &[u8], flags: u16) -> Column<'_> {
        Column { name, kind: LONG_LONG, length: 21, flags }
    }

    fn put(&self, out: &mut BytesMut) {
        packet::put_string(out, b"def");
        for _ in 0..3 {
            packet::put_string(out, b"");
        }
        packet::put_string(out, self.name);
        packet::put_string(out, b"");
        out.put_u8(0x0c);
        // 63 is `binary`, of numbers; 45 `utf8mb4_general_ci`.
        out.put_u16_le(if self.kind == TEXT { 45 } else { 63 });
        out.put_u32_le(self.length);
        out.put_u8(self.kind);
        out.put_u16_le(self.flags);
        out.put_u8(if self.kind == TEXT { 31 } else { 0 });
        out.put_u16_le(0);
    }
}

impl Tracker {
    /// The server would say something else for `FOUND_ROWS()` than what the client's last statement left.
    pub(super) fn misses_found_rows(&self) -> bool {
        self.found_rows_lost || self.echo.as_ref().is_some_and(|echo| echo.found_rows.is_some())
    }

    /// Answers, if there is something to answer.
    pub(super) fn say(&mut self, question: &Special, out: &mut BytesMut) -> bool {
        let Some(echo) = &self.echo else { return false };
        let is_error = |row: &&[bytes::Bytes; 3]| row[0].eq_ignore_ascii_case(b"error");
        let number = |name: &[u8], value: String, out: &mut BytesMut, flags| {
            self.put_result(&[Column::number(name, flags)], &[&[value.as_bytes()]], out);
        };
        match question {
            Special::Warnings(limit) | Special::Errors(limit) => {
                let errors_only = matches!(question, Special::Errors(_));
                let rows: Vec<[&[u8]; 3]> = echo
                    .warnings
                    .iter()
                    .filter(|row| !errors_only || is_error(row))
                    .skip(limit.skip)
                    .take(limit.take)
                    .map(|row| [&row[0][..], &row[1][..], &row[2][..]])
                    .collect();
                let rows: Vec<&[&[u8]]> = rows.iter().map(|row| &row[..]).collect();
                let columns = [
                    Column { name: b"Level", kind: TEXT, length: 28, flags: 1 },
                    Column { name: b"Code", kind: LONG, length: 4, flags: NUMBER_FLAGS },
                    Column { name: b"Message", kind: TEXT, length: 2048, flags: 1 },
                ];
                self.put_result(&columns, &rows, out);
            }
            Special::WarningCount(name) => number(name, echo.warnings.len().to_string(), out, NUMBER_FLAGS),
            Special::ErrorCount(name) => {
                number(name, echo.warnings.iter().filter(is_error).count().to_string(), out, NUMBER_FLAGS);
            }
            Special::RowCount(name) => number(name, echo.row_count.to_string(), out, SIGNED_FLAGS),
            Special::FoundRows(name) => {
                let Some(rows) = echo.found_rows else { return false };
                number(name, rows.to_string(), out, SIGNED_FLAGS);
                // It has left a row itself.
                self.echo.as_mut().map(|echo| echo.found_rows.replace(1));
            }
        }
        self.wire.row_count = -1;
        if let Some(echo) = &mut self.echo {
            echo.row_count = -1;
        }
        true
    }

    /// `GET DIAGNOSTICS` as a `SET` of the same variables. `Err`: what it is answered with instead.
    pub(super) fn say_diagnostics(&self, text: &[u8]) -> Result<Vec<u8>, (u16, &'static str, &'static str)> {
        let unknown = (1105, "HY000", LOST);
        let Some(echo) = &self.echo else { return Err(unknown) };
        let asked = diagnostics(text, self.mode()).ok_or(unknown)?;
        let row = match asked.condition {
            None => None,
            Some(number) => {
                let row = number.checked_sub(1).and_then(|at| echo.warnings.get(at));
                Some(row.ok_or((1758, "35000", "Invalid condition number"))?)
            }
        };
        let mut out = b"SET ".to_vec();
        for (index, (variable, item)) in asked.items.iter().enumerate() {
            out.extend_from_slice(if index == 0 { b"" } else { b", " });
            out.extend_from_slice(variable);
            out.extend_from_slice(b" = ");
            match (item, row) {
                (Item::Number, _) => out.extend(format!("CAST({} AS UNSIGNED)", echo.warnings.len()).bytes()),
                (Item::RowCount, _) => out.extend(echo.row_count.to_string().bytes()),
                (Item::Code, Some([_, code, _])) if literal::is_number(code) => {
                    out.extend([b"CAST(", &code[..], b" AS UNSIGNED)"].concat());
                }
                (Item::Message, Some([_, _, message])) if std::str::from_utf8(message).is_ok() => {
                    literal::text(&mut out, b"utf8", message);
                }
                (Item::State, Some(row)) => {
                    literal::text(&mut out, b"utf8", &self.state_of(row).ok_or(unknown)?);
                }
                _ => return Err(unknown),
            }
        }
        Ok(out)
    }

    /// Of the error that the client was told its state is known. Of a warning nobody says it any more.
    fn state_of(&self, row: &[bytes::Bytes; 3]) -> Option<[u8; 5]> {
        let (code, state) = self.failure?;
        let is_it = |row: &&[bytes::Bytes; 3]| {
            row[0].eq_ignore_ascii_case(b"error") && row[1] == code.to_string().as_bytes()
        };
        let echo = self.echo.as_ref()?;
        (is_it(&row) && echo.warnings.iter().filter(is_it).count() == 1).then_some(state)
    }

    fn put_result(&self, columns: &[Column<'_>], rows: &[&[&[u8]]], out: &mut BytesMut) {
        let mut sequence = 1;
        let mut put = |out: &mut BytesMut, write: &dyn Fn(&mut BytesMut)| {
            packet::put(out, sequence, write);
            sequence = sequence.wrapping_add(1);
        };
        let status = self.status & (AUTOCOMMIT | NO_BACKSLASH) | if self.wire.begun { 1 } else { 0 };
        let end = |out: &mut BytesMut, no_eof: bool| {
            out.put_u8(0xfe);
            if no_eof {
                out.put_u16(0);
                out.put_u16_le(status);
                out.put_u16_le(0);
            } else {
                out.put_u16_le(0);
                out.put_u16_le(status);
            }
        };
        put(out, &|out| packet::put_lenenc(out, columns.len() as u64));
        for column in columns {
            put(out, &|out| column.put(out));
        }
        if !self.form.no_eof {
            put(out, &|out| end(out, false));
        }
        for row in rows {
            put(out, &|out| row.iter().for_each(|value| packet::put_string(out, value)));
        }
        put(out, &|out| end(out, self.form.no_eof));
    }
}
