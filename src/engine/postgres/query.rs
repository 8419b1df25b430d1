//! The router's own questions on its own connections: one statement, text results.

use bytes::BytesMut;

use super::log_in::{LoggedIn, refused, unexpected};
use super::message;
use crate::engine::{Dialogue, DialogueError};

mod account;

pub use account::{Account, AccountQuery, access};

/// The longest row that an administrative statement may answer with.
const MAX_ROW: usize = 1024 * 1024;
/// The most rows that are kept.
const MAX_ROWS: usize = 100_000;

/// A row of text columns.
pub type Row = Vec<Option<String>>;

/// Runs one statement with text parameters by the extended protocol.
pub struct AdminQuery {
    sql: String,
    parameters: Vec<String>,
    rows: Vec<Row>,
    error: Option<DialogueError>,
}

impl AdminQuery {
    /// A statement without parameters.
    pub fn new(sql: &str) -> AdminQuery {
        AdminQuery::with(sql, &[])
    }

    /// A statement with text parameters `$1`, `$2`, …
    pub fn with(sql: &str, parameters: &[&str]) -> AdminQuery {
        let parameters = parameters.iter().map(|&p| p.to_owned()).collect();
        AdminQuery { sql: sql.to_owned(), parameters, rows: Vec::new(), error: None }
    }
}

impl Dialogue for AdminQuery {
    type Output = Vec<Row>;

    fn open(&mut self, out: &mut BytesMut) {
        let parameters: Vec<&[u8]> = self.parameters.iter().map(String::as_bytes).collect();
        message::put_parse(out, "", self.sql.as_bytes(), &[]);
        message::put_bind(out, "", &parameters);
        message::put_execute(out);
        message::put_sync(out);
    }

    fn receive(
        &mut self,
        input: &mut BytesMut,
        _out: &mut BytesMut,
    ) -> Result<Option<Vec<Row>>, DialogueError> {
        let protocol = |e: &str| DialogueError::Protocol(e.to_owned());
        while let Some(message) = message::take(input, MAX_ROW).map_err(protocol)? {
            match message.kind {
                b'D' if self.rows.len() < MAX_ROWS => {
                    let row = message::row(&message.body).ok_or_else(|| protocol("malformed DataRow"))?;
                    let text = |value: Option<&[u8]>| value.map(|v| String::from_utf8_lossy(v).into_owned());
                    self.rows.push(row.into_iter().map(text).collect());
                }
                b'E' => self.error = Some(refused(&message)),
                b'Z' => {
                    return self.error.take().map_or_else(|| Ok(Some(std::mem::take(&mut self.rows))), Err);
                }
                b'1' | b'2' | b'3' | b'C' | b'D' | b'I' | b'N' | b'S' | b'T' | b'A' | b'n' | b's' => {}
                kind => return Err(unexpected(kind)),
            }
        }
        Ok(None)
    }
}

/// Asks for the transaction that a backend is in: its number as `txid_status` takes it, which counts on where the
/// 32 bits of `backend_xid` wrap around.
///
/// A crash would take back a number that is nowhere in the log yet, and give it to somebody else's transaction later.
/// So the question is a transaction itself, with a later number, and its end puts the log on disk up to there.
pub fn transaction_of(backend_id: u32) -> String {
    format!(
        "SELECT CASE WHEN y.behind < 2147483648 THEN y.latest - y.behind END, \
          pg_catalog.set_config('synchronous_commit', 'local', true), \
          pg_catalog.pg_logical_emit_message(true, 'scalepoint', '') \
         FROM (SELECT x.latest, (x.latest % 4294967296 - x.id + 4294967296) % 4294967296 AS behind \
          FROM (SELECT pg_catalog.txid_current() AS latest, CAST(CAST(a.backend_xid AS text) AS bigint) AS id \
           FROM pg_catalog.pg_stat_activity AS a WHERE a.pid = {backend_id} OFFSET 0) AS x OFFSET 0) AS y"
    )
}

/// Asks what became of it.
pub fn outcome_of(transaction: u64) -> String {
    format!("SELECT pg_catalog.txid_status({transaction})")
}

/// Reads that.
pub fn outcome(answer: &str) -> Option<bool> {
    match answer {
        "committed" => Some(true),
        "aborted" => Some(false),
        // In progress, or so old that it is forgotten.
        _ => None,
    }
}

/// A bare `Sync`: the server sends the notifications that are pending before it answers. The queue does not outlive the
/// server, so this is asked of every listener once nobody can notify any more.
#[derive(Debug, Default)]
pub struct Drain {
    notifications: BytesMut,
}

impl Dialogue for Drain {
    type Output = BytesMut;

    fn open(&mut self, out: &mut BytesMut) {
        message::put_sync(out);
    }

    fn receive(
        &mut self,
        input: &mut BytesMut,
        _out: &mut BytesMut,
    ) -> Result<Option<BytesMut>, DialogueError> {
        while let Some(message) =
            message::take(input, MAX_ROW).map_err(|e| DialogueError::Protocol(e.to_owned()))?
        {
            match message.kind {
                b'A' | b'S' | b'N' => {
                    message::put(&mut self.notifications, message.kind, |out| {
                        out.extend_from_slice(&message.body);
                    });
                }
                b'Z' => return Ok(Some(std::mem::take(&mut self.notifications))),
                b'E' => return Err(refused(&message)),
                kind => return Err(unexpected(kind)),
            }
        }
        Ok(None)
    }
}

/// A `CancelRequest` on a connection of its own; the server closes it when the signal is sent ("Protocol Flow",
/// canceling requests in progress).
#[derive(Clone)]
pub struct Cancel {
    request: Vec<u8>,
}

impl Cancel {
    /// Cancels what runs on that backend.
    pub fn of(logged_in: &LoggedIn) -> Cancel {
        const CANCEL: u32 = 80_877_102;
        let mut request = Vec::with_capacity(16);
        let length = u32::try_from(12 + logged_in.secret.len()).unwrap_or(0);
        for word in [length, CANCEL, logged_in.backend_id] {
            request.extend_from_slice(&word.to_be_bytes());
        }
        request.extend_from_slice(&logged_in.secret);
        Cancel { request }
    }
}

impl Dialogue for Cancel {
    type Output = ();

    fn open(&mut self, out: &mut BytesMut) {
        out.extend_from_slice(&self.request);
    }

    fn receive(&mut self, _: &mut BytesMut, _: &mut BytesMut) -> Result<Option<()>, DialogueError> {
        Ok(None)
    }
}
