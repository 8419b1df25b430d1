//! What the server says to one command, packet by packet.
//!
//! ```text
//!  First ──OK, ERR──────────────────────────────► done      (MORE_RESULTS: First again)
//!   │ ├──0xfb──► File ──(the client's file)──► First
//!   │ └──column count──► Columns ──► Rows ──EOF, OK, ERR──► done
//!   └ PREPARE: OK ──► parameters' and columns' definitions ──► done
//! ```
//!
//! Source: MySQL "Command Phase", MariaDB "2 - Text Protocol", "3 - Binary Protocol".

use crate::engine::mysql::packet;

/// `SERVER_STATUS_IN_TRANS`
pub(super) const IN_TRANSACTION: u16 = 1;
/// `SERVER_STATUS_AUTOCOMMIT`
pub(super) const AUTOCOMMIT: u16 = 2;
/// `SERVER_MORE_RESULTS_EXISTS`
const MORE_RESULTS: u16 = 8;
/// `SERVER_STATUS_CURSOR_EXISTS`
pub(super) const CURSOR: u16 = 0x40;
/// `SERVER_STATUS_LAST_ROW_SENT`
pub(super) const LAST_ROW: u16 = 0x80;
/// `SERVER_STATUS_NO_BACKSLASH_ESCAPES`
pub(super) const NO_BACKSLASH: u16 = 0x200;
/// `SERVER_SESSION_STATE_CHANGED`
pub(super) const STATE_CHANGED: u16 = 0x4000;
/// `SERVER_STATUS_ANSI_QUOTES` (MariaDB)
pub(super) const ANSI_QUOTES: u16 = 0x8000;

/// This much of a packet is looked at: the longest fixed part of an `OK`.
pub(super) const HEAD: usize = 24;

/// How a command is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// `OK`, `ERR`, a result set, or a request for a file.
    Results,
    /// The same, and the result may be a cursor.
    Execution,
    /// A statement's id and definitions.
    Prepared,
    /// Rows without definitions.
    Fetched,
    /// Definitions without rows.
    Fields,
    /// One packet without a form.
    Text,
    /// `OK`, `EOF` or `ERR`.
    Single,
}

/// Where in an answer the server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Phase {
    /// The first packet is to come.
    #[default]
    First,
    /// The server waits for the client's file.
    File,
    /// So many definitions are to come.
    Columns(u64),
    /// The `EOF` behind the definitions is to come.
    ColumnsEnd,
    /// So many definitions of parameters are to come, and of columns behind them.
    Parameters(u64, u64),
    /// The `EOF` behind the parameters is to come, and so many columns' definitions.
    ParametersEnd(u64),
    /// So many definitions of a statement's columns are to come.
    Results(u64),
    /// The `EOF` behind them is to come.
    ResultsEnd,
    /// Rows are to come.
    Rows,
}

/// What `OK` and `EOF` say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Status {
    /// Rows affected; `None`: `EOF`, which does not say.
    pub(super) affected: Option<u64>,
    /// The status flags.
    pub(super) flags: u16,
    /// How many warnings there are.
    pub(super) warnings: u16,
}

/// A statement has been prepared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Prepared {
    /// The server's id.
    pub(super) id: u32,
    /// How many columns and parameters it has.
    pub(super) columns: u16,
    /// See above.
    pub(super) parameters: u16,
    /// How many warnings there are.
    pub(super) warnings: u16,
}

/// What one packet was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// The middle of an answer.
    Part,
    /// A definition of a prepared statement.
    Definition,
    /// A row.
    Row,
    /// The end of one result; `true`: another follows.
    End(Status, bool),
    /// The end of what has no status.
    EndOfText,
    /// A prepared statement, and whether that is all of the answer.
    Prepared(Prepared, bool),
    /// The last definition.
    EndOfPrepared,
    /// An error: its number.
    Error(u16),
    /// The server wants a file.
    File,
    /// Not the protocol.
    Nonsense,
}

/// The capabilities that shape answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Form {
    /// No `EOF` behind definitions, `OK` behind rows.
    pub(super) no_eof: bool,
    /// Errors of number 65535 are reports of progress.
    pub(super) progress: bool,
}

/// The answer that is coming in.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Answer {
    /// Where it is.
    pub(super) phase: Phase,
}

impl Answer {
    /// An error may come next in place of what the client waits for (behind its file, if it is sending one).
    pub(super) fn may_fail(self) -> bool {
        matches!(self.phase, Phase::First | Phase::Rows | Phase::File)
    }

    /// A packet: `length` is its body's, `head` the front of its body.
    pub(super) fn packet(&mut self, shape: Shape, form: Form, head: &[u8], length: usize) -> Found {
        let first = head.first().copied().unwrap_or(0);
        if first == 0xff && shape != Shape::Text {
            return self.error(form, head);
        }
        match self.phase {
            Phase::First => self.first(shape, form, head, length),
            // While the file is on its way the server may only fail.
            Phase::File => Found::Nonsense,
            Phase::Columns(left) => {
                self.phase = match left {
                    2.. => Phase::Columns(left - 1),
                    _ if form.no_eof => Phase::Rows,
                    _ => Phase::ColumnsEnd,
                };
                Found::Part
            }
            Phase::ColumnsEnd => self.columns_end(shape, head),
            Phase::Parameters(..) | Phase::ParametersEnd(_) | Phase::Results(_) | Phase::ResultsEnd => {
                self.definition(form)
            }
            Phase::Rows => self.row(shape, form, head, length),
        }
    }

    fn error(&mut self, form: Form, head: &[u8]) -> Found {
        let code = head.get(1..3).map_or(0, |code| u16::from_le_bytes([code[0], code[1]]));
        if code == u16::MAX && form.progress {
            return Found::Part;
        }
        self.phase = Phase::First;
        Found::Error(code)
    }

    fn first(&mut self, shape: Shape, form: Form, head: &[u8], length: usize) -> Found {
        match (shape, head.first().copied()) {
            (Shape::Text, _) => Found::EndOfText,
            (_, None) => Found::Nonsense,
            (Shape::Prepared, Some(0)) => self.prepared(head),
            (Shape::Prepared, _) => Found::Nonsense,
            (Shape::Fetched, _) => {
                self.phase = Phase::Rows;
                self.row(shape, form, head, length)
            }
            (Shape::Fields, Some(0xfe)) if length < 9 || form.no_eof => self.end(eof_or_ok(form, head)),
            (Shape::Fields, _) => Found::Part,
            (_, Some(0)) => self.end(ok(head)),
            (Shape::Single, Some(0xfe)) => self.end(eof_or_ok(form, head)),
            (Shape::Single, _) => Found::Nonsense,
            (_, Some(0xfb)) => {
                self.phase = Phase::File;
                Found::File
            }
            _ => match packet::take_lenenc(&mut &head[..]) {
                Some(columns) => {
                    self.phase = Phase::Columns(columns);
                    Found::Part
                }
                None => Found::Nonsense,
            },
        }
    }

    /// With a cursor open no rows follow, and this is the end.
    fn columns_end(&mut self, shape: Shape, head: &[u8]) -> Found {
        let Some(status) = eof(head) else { return Found::Nonsense };
        if shape == Shape::Execution && status.flags & CURSOR != 0 {
            return self.end(Some(status));
        }
        self.phase = Phase::Rows;
        Found::Part
    }

    fn row(&mut self, shape: Shape, form: Form, head: &[u8], length: usize) -> Found {
        // A row may begin with this byte too: a first value of 16 MiB or more, so the packet is as long as can be.
        let ends =
            head.first() == Some(&0xfe) && if form.no_eof { length < packet::SPLIT } else { length < 9 };
        if !ends {
            return Found::Row;
        }
        let status = eof_or_ok(form, head);
        debug_assert!(shape != Shape::Text);
        self.end(status.map(|status| Status { affected: None, ..status }))
    }

    fn end(&mut self, status: Option<Status>) -> Found {
        self.phase = Phase::First;
        match status {
            Some(status) => Found::End(status, status.flags & MORE_RESULTS != 0),
            None => Found::Nonsense,
        }
    }

    fn prepared(&mut self, head: &[u8]) -> Found {
        let Some(head) = head.first_chunk::<9>() else { return Found::Nonsense };
        let prepared = Prepared {
            id: u32::from_le_bytes([head[1], head[2], head[3], head[4]]),
            columns: u16::from_le_bytes([head[5], head[6]]),
            parameters: u16::from_le_bytes([head[7], head[8]]),
            warnings: 0,
        };
        let columns = u64::from(prepared.columns);
        self.phase = match prepared.parameters {
            0 => results(columns),
            _ => Phase::Parameters(u64::from(prepared.parameters), columns),
        };
        Found::Prepared(prepared, self.phase == Phase::First)
    }

    fn definition(&mut self, form: Form) -> Found {
        let (found, phase) = match self.phase {
            Phase::Parameters(left @ 2.., columns) => {
                (Found::Definition, Phase::Parameters(left - 1, columns))
            }
            Phase::Parameters(_, columns) if form.no_eof => (Found::Definition, results(columns)),
            Phase::Parameters(_, columns) => (Found::Definition, Phase::ParametersEnd(columns)),
            Phase::ParametersEnd(columns) => (Found::Part, results(columns)),
            Phase::Results(left @ 2..) => (Found::Definition, Phase::Results(left - 1)),
            Phase::Results(_) if form.no_eof => (Found::Definition, Phase::First),
            Phase::Results(_) => (Found::Definition, Phase::ResultsEnd),
            _ => (Found::Part, Phase::First),
        };
        self.phase = phase;
        match found {
            // The last definition belongs to the statement, so it is told apart by the phase.
            Found::Part if phase == Phase::First => Found::EndOfPrepared,
            found => found,
        }
    }
}

fn results(columns: u64) -> Phase {
    if columns == 0 { Phase::First } else { Phase::Results(columns) }
}

fn ok(head: &[u8]) -> Option<Status> {
    let mut rest = head.get(1..)?;
    let affected = packet::take_lenenc(&mut rest)?;
    packet::take_lenenc(&mut rest)?;
    let [a, b, c, d] = *rest.first_chunk::<4>()?;
    Some(Status {
        affected: Some(affected),
        flags: u16::from_le_bytes([a, b]),
        warnings: u16::from_le_bytes([c, d]),
    })
}

fn eof(head: &[u8]) -> Option<Status> {
    let &[0xfe, a, b, c, d] = head.first_chunk::<5>()? else { return None };
    Some(Status { affected: None, flags: u16::from_le_bytes([c, d]), warnings: u16::from_le_bytes([a, b]) })
}

/// Behind rows: which of the two it is hangs on what was negotiated.
fn eof_or_ok(form: Form, head: &[u8]) -> Option<Status> {
    // MySQL answers COM_SET_OPTION with an EOF of five bytes whatever was negotiated; an OK has seven at least.
    match form.no_eof && head.len() > 5 {
        true => ok(head),
        false => eof(head),
    }
}
