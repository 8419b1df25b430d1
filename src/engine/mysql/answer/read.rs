//! One answer, packet by packet.

use super::{Buf, Bytes, BytesMut, Kind, bit, take_lenenc, take_string};

/// A column of a result set, as far as its values need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// The type's number.
    pub kind: u8,
    /// The flag for numbers without a sign is set.
    pub unsigned: bool,
}

/// What the server says of a statement that it has prepared.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Prepared {
    /// Its id on this backend.
    pub id: u32,
    /// How many parameters it has.
    pub parameters: u16,
    /// How many columns.
    pub columns: u16,
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// `OK` or `EOF`; the status is kept.
    Done {
        /// The status bits.
        status: u16,
    },
    /// `ERR`, whole.
    Failed(Bytes),
    /// A result set.
    Rows {
        /// What the columns are.
        columns: Vec<Column>,
        /// The rows; `None` is NULL.
        rows: Vec<Vec<Option<Bytes>>>,
        /// The status bits at its end.
        status: u16,
    },
    /// A prepared statement.
    Prepared(Prepared),
}

impl Answer {
    /// The status bits, where the answer has them.
    pub fn status(&self) -> Option<u16> {
        match self {
            Answer::Done { status } | Answer::Rows { status, .. } => Some(*status),
            Answer::Failed(_) | Answer::Prepared(_) => None,
        }
    }
}

/// Where in an answer the next packet is.
#[derive(Debug, Default)]
enum Place {
    #[default]
    First,
    /// This many column definitions are to come.
    Columns(u64),
    /// The `EOF` after the column definitions is to come.
    ColumnsEnd,
    Rows,
    /// This many packets are to come that only need to be passed over.
    Skip(u64, Prepared),
}

/// Reads one answer after the other.
#[derive(Debug, Default)]
pub(super) struct Reader {
    place: Place,
    columns: Vec<Column>,
    rows: Vec<Vec<Option<Bytes>>>,
}

impl Reader {
    /// Takes the next packet of an answer. The outer `None`: malformed; the inner: there is more to come.
    pub(super) fn packet(&mut self, kind: Kind, body: Bytes, capabilities: u64) -> Option<Option<Answer>> {
        let old_ends = capabilities & bit::DEPRECATE_EOF == 0;
        if body.first() == Some(&0xff) {
            *self = Reader::default();
            return Some(Some(Answer::Failed(body)));
        }
        match std::mem::take(&mut self.place) {
            Place::First => self.first(kind, &body, capabilities),
            Place::Columns(left) => {
                self.columns.push(column(&body, capabilities)?);
                self.place = match (left, old_ends) {
                    (2.., _) => Place::Columns(left - 1),
                    (_, true) => Place::ColumnsEnd,
                    (_, false) => Place::Rows,
                };
                Some(None)
            }
            Place::ColumnsEnd => {
                self.place = Place::Rows;
                Some(None)
            }
            Place::Rows if is_end(&body, old_ends) => {
                let Answer::Done { status } = done(&body)? else { return None };
                let (columns, rows) = (std::mem::take(&mut self.columns), std::mem::take(&mut self.rows));
                Some(Some(Answer::Rows { columns, rows, status }))
            }
            Place::Rows => {
                self.rows.push(row(&body)?);
                self.place = Place::Rows;
                Some(None)
            }
            Place::Skip(1, prepared) => Some(Some(Answer::Prepared(prepared))),
            Place::Skip(left, prepared) => {
                self.place = Place::Skip(left.checked_sub(1)?, prepared);
                Some(None)
            }
        }
    }

    fn first(&mut self, kind: Kind, body: &Bytes, capabilities: u64) -> Option<Option<Answer>> {
        // An `OK` has seven bytes or more, and a head that says that no definitions follow has few.
        let optional = capabilities & bit::OPTIONAL_METADATA != 0;
        match (kind, body.first()?) {
            (Kind::Prepare, 0) => self.prepared(body, capabilities),
            (Kind::Query, 0) if optional && body.len() < 7 => self.head(body, capabilities),
            (Kind::Plain | Kind::Query, 0) | (Kind::Plain, 0xfe) => done(body).map(Some),
            (Kind::Query, 1..=0xfa | 0xfc) => self.head(body, capabilities),
            _ => None,
        }
    }

    /// How many columns there are. MySQL puts the byte that says whether their definitions follow in front, MariaDB
    /// behind.
    fn head(&mut self, body: &[u8], capabilities: u64) -> Option<Option<Answer>> {
        let mut rest = body;
        let in_front = capabilities & bit::OPTIONAL_METADATA != 0;
        let follows = if in_front { rest.get_u8() } else { 1 };
        let count = take_lenenc(&mut rest)?;
        let follows = rest.first().copied().unwrap_or(follows);
        self.place = match (follows, capabilities & bit::DEPRECATE_EOF == 0) {
            (0, true) => Place::ColumnsEnd,
            (0, false) => Place::Rows,
            _ => Place::Columns(count),
        };
        Some(None)
    }

    fn prepared(&mut self, body: &[u8], capabilities: u64) -> Option<Option<Answer>> {
        let mut rest = body.get(1..9)?;
        let prepared =
            Prepared { id: rest.get_u32_le(), columns: rest.get_u16_le(), parameters: rest.get_u16_le() };
        let (columns, parameters) = (u64::from(prepared.columns), u64::from(prepared.parameters));
        let ends = u64::from(capabilities & bit::DEPRECATE_EOF == 0);
        let cached = capabilities & bit::OPTIONAL_METADATA != 0 && body.get(12) == Some(&0);
        let section = |count: u64| if count > 0 { count + ends } else { 0 };
        match section(columns) + section(parameters) {
            0 => Some(Some(Answer::Prepared(prepared))),
            _ if cached => Some(Some(Answer::Prepared(prepared))),
            left => {
                self.place = Place::Skip(left, prepared);
                Some(None)
            }
        }
    }
}

/// The packet that ends the rows: a short one that begins like a very long value.
fn is_end(body: &[u8], old_ends: bool) -> bool {
    body.first() == Some(&0xfe) && if old_ends { body.len() < 9 } else { body.len() < super::SPLIT }
}

/// `OK`, or `EOF` in either of its forms.
fn done(body: &[u8]) -> Option<Answer> {
    let mut rest = body.get(1..)?;
    if body.first() == Some(&0xfe) && rest.len() == 4 {
        // Warnings, status.
        rest.advance(2);
    } else {
        take_lenenc(&mut rest)?;
        take_lenenc(&mut rest)?;
    }
    Some(Answer::Done { status: rest.get(..2)?.get_u16_le() })
}

fn column(body: &[u8], capabilities: u64) -> Option<Column> {
    let mut rest = body;
    // Catalog, schema, table, original table, name, original name.
    for _ in 0..6 {
        take_string(&mut rest)?;
    }
    if capabilities & bit::MARIADB_METADATA_TYPES != 0 {
        take_string(&mut rest)?;
    }
    // Length of the fixed part, collation, length, type, flags.
    let kind = *rest.get(7)?;
    let unsigned = rest.get(8)? & 0x20 != 0;
    Some(Column { kind, unsigned })
}

fn row(body: &Bytes) -> Option<Vec<Option<Bytes>>> {
    let mut rest: &[u8] = body;
    let mut values = Vec::new();
    while let Some(&first) = rest.first() {
        if first == 0xfb {
            rest.advance(1);
            values.push(None);
        } else {
            values.push(Some(body.slice_ref(take_string(&mut rest)?)));
        }
    }
    Some(values)
}

/// A text that holds nothing but ASCII, in whatever character set the client wants its results: those of two and four
/// bytes a character fill up with zeros.
pub fn ascii(value: &[u8]) -> Bytes {
    if !value.contains(&0) {
        return Bytes::copy_from_slice(value);
    }
    let mut text = BytesMut::with_capacity(value.len());
    text.extend(value.iter().filter(|&&byte| byte != 0));
    text.freeze()
}
