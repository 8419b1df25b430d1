//! The router's own questions on its own connections: one statement, text results.

use bytes::{BufMut, BytesMut};

pub use account::AccountQuery;

use super::log_in::{LogIn, LoggedIn, refused, unexpected};
use super::packet::{self, Packet, take_lenenc, take_string};
use crate::engine::{Dialogue, DialogueError, MAX_ROWS, RouterLogin};

mod account;

/// The longest row that an administrative statement may answer with.
const MAX_ROW: usize = 1024 * 1024;
/// "Text Protocol", the first byte of a request.
const COM_QUERY: u8 = 3;
const COM_QUIT: u8 = 1;
/// `SERVER_MORE_RESULTS_EXISTS`.
const MORE_RESULTS: u16 = 8;

/// A row of text columns.
pub type Row = Vec<Option<String>>;

/// Where in the answer it is.
enum Phase {
    /// The column count, an `OK` or an `ERR` is next.
    Head,
    /// So many column definitions are to come.
    Columns(u64),
    /// What stands before the rows, where both sides know `EOF`, or already a row.
    Edge,
    /// Rows.
    Rows,
}

/// Runs one statement.
pub struct AdminQuery {
    sql: String,
    phase: Phase,
    rows: Vec<Row>,
}

impl AdminQuery {
    /// A statement; each `?` is replaced by a quoted parameter.
    pub fn with(sql: &str, parameters: &[&str]) -> AdminQuery {
        let mut parts = sql.split('?');
        let mut text = parts.next().unwrap_or_default().to_owned();
        let mut parameters = parameters.iter();
        for part in parts {
            match parameters.next() {
                // Hexadecimal digits mean the same in every SQL mode.
                Some(value) => text.push_str(&format!("_utf8mb4 X'{}'", hex::encode(value))),
                None => text.push('?'),
            }
            text.push_str(part);
        }
        AdminQuery { sql: text, phase: Phase::Head, rows: Vec::new() }
    }

    /// `true`: the answer is complete.
    fn take(&mut self, packet: &Packet) -> Result<bool, DialogueError> {
        let body = &packet.body[..];
        let kind = body.first().copied().unwrap_or_default();
        match self.phase {
            Phase::Head | Phase::Edge | Phase::Rows if kind == 0xff => Err(refused(body, 0)),
            Phase::Head if kind == 0xfb => Err(unexpected("a request for a file")),
            Phase::Head if kind == 0 => {
                let mut rest = &body[1..];
                let _affected = take_lenenc(&mut rest);
                let _id = take_lenenc(&mut rest);
                Ok(!has_more(rest))
            }
            Phase::Head => {
                let columns =
                    take_lenenc(&mut &body[..]).ok_or_else(|| unexpected("a malformed column count"))?;
                self.phase = Phase::Columns(columns);
                Ok(false)
            }
            Phase::Columns(left) => {
                self.phase = if left > 1 { Phase::Columns(left - 1) } else { Phase::Edge };
                Ok(false)
            }
            // An EOF has five bytes, an OK in its place seven or more, a row that begins like them is far longer.
            Phase::Edge if kind == 0xfe && body.len() == 5 => {
                self.phase = Phase::Rows;
                Ok(false)
            }
            Phase::Edge | Phase::Rows if kind == 0xfe && body.len() < packet::SPLIT => self.end_of_rows(body),
            Phase::Edge | Phase::Rows => {
                if self.rows.len() < MAX_ROWS {
                    self.rows.push(row(body).ok_or_else(|| unexpected("a malformed row"))?);
                }
                self.phase = Phase::Rows;
                Ok(false)
            }
        }
    }

    fn end_of_rows(&mut self, body: &[u8]) -> Result<bool, DialogueError> {
        let mut rest = &body[1..];
        let more = if body.len() == 5 {
            has_more(&rest[2..])
        } else {
            let _affected = take_lenenc(&mut rest);
            let _id = take_lenenc(&mut rest);
            has_more(rest)
        };
        self.phase = Phase::Head;
        Ok(!more)
    }
}

/// Whether the status at the front says that another result follows.
fn has_more(rest: &[u8]) -> bool {
    rest.first_chunk::<2>().is_some_and(|status| u16::from_le_bytes(*status) & MORE_RESULTS != 0)
}

fn row(mut body: &[u8]) -> Option<Row> {
    let mut row = Row::new();
    while let Some(&first) = body.first() {
        if first == 0xfb {
            body = &body[1..];
            row.push(None);
        } else {
            row.push(Some(String::from_utf8_lossy(take_string(&mut body)?).into_owned()));
        }
    }
    Some(row)
}

fn put_query(out: &mut BytesMut, sql: &str) {
    packet::put(out, 0, |out| {
        out.put_u8(COM_QUERY);
        out.put_slice(sql.as_bytes());
    });
}

impl Dialogue for AdminQuery {
    type Output = Vec<Row>;

    fn open(&mut self, out: &mut BytesMut) {
        put_query(out, &self.sql);
    }

    fn receive(
        &mut self,
        input: &mut BytesMut,
        _out: &mut BytesMut,
    ) -> Result<Option<Vec<Row>>, DialogueError> {
        while let Some(packet) = packet::take(input, MAX_ROW).map_err(unexpected)? {
            if self.take(&packet)? {
                return Ok(Some(std::mem::take(&mut self.rows)));
            }
        }
        Ok(None)
    }
}

/// `KILL QUERY` on a connection of its own, as the router.
#[derive(Clone)]
pub struct Cancel {
    log_in: LogIn,
    id: u32,
    is_asked: bool,
}

impl Cancel {
    /// Cancels what runs on that backend.
    pub fn of(logged_in: &LoggedIn, router: &RouterLogin) -> Cancel {
        Cancel { log_in: LogIn::of_router(router), id: logged_in.connection_id, is_asked: false }
    }
}

impl Dialogue for Cancel {
    type Output = ();

    fn open(&mut self, out: &mut BytesMut) {
        self.log_in.open(out);
    }

    fn receive(&mut self, input: &mut BytesMut, out: &mut BytesMut) -> Result<Option<()>, DialogueError> {
        if self.id == 0 {
            return Ok(Some(()));
        }
        if !self.is_asked {
            if self.log_in.receive(input, out)?.is_none() {
                return Ok(None);
            }
            self.is_asked = true;
            put_query(out, &format!("KILL QUERY {}", self.id));
            // The server reads on when it has asked; so its log is not told of a lost connection.
            packet::put(out, 0, |out| out.put_u8(COM_QUIT));
        }
        match packet::take(input, MAX_ROW).map_err(unexpected)? {
            Some(answer) if answer.body.first() == Some(&0xff) => Err(refused(&answer.body, 0)),
            answer => Ok(answer.map(|_| ())),
        }
    }
}

/// Nothing is sent by a server unasked, so there is nothing to fetch.
pub struct Drain;

impl Dialogue for Drain {
    type Output = BytesMut;

    fn open(&mut self, _out: &mut BytesMut) {}

    fn receive(&mut self, _: &mut BytesMut, _: &mut BytesMut) -> Result<Option<BytesMut>, DialogueError> {
        Ok(Some(BytesMut::new()))
    }
}

#[cfg(test)]
mod tests;
