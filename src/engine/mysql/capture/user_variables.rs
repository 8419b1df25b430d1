//! User variables: their values exact in bytes, type and collation.
//!
//! The type is that of the column that the server gives the variable; the bytes are asked for as binary, which no
//! character set of the client's changes.

use bytes::Bytes;

use super::super::answer::{Column, ascii};
use super::super::literal;
use super::super::state::Value;

/// How many variables one statement asks for.
pub(super) const AT_ONCE: usize = 200;

/// What a column's type says of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kinds {
    Int,
    Unsigned,
    Double,
    Decimal,
    Text,
}

impl Kinds {
    pub(super) fn of(column: &Column) -> Kinds {
        match (column.kind, column.unsigned) {
            (1..=3 | 8 | 9 | 13, true) => Kinds::Unsigned,
            (1..=3 | 8 | 9 | 13, false) => Kinds::Int,
            (4 | 5, _) => Kinds::Double,
            (0 | 246, _) => Kinds::Decimal,
            _ => Kinds::Text,
        }
    }
}

fn select(names: &[Bytes], column: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let mut sql = b"SELECT ".to_vec();
    for (at, name) in names.iter().enumerate() {
        if at > 0 {
            sql.push(b',');
        }
        let mut quoted = vec![b'@'];
        literal::name(&mut quoted, name);
        sql.extend(column(&quoted));
    }
    sql
}

/// Asks for the types: columns, and no row.
pub(super) fn kinds(names: &[Bytes]) -> Vec<u8> {
    let mut sql = select(names, <[u8]>::to_vec);
    sql.extend_from_slice(b" LIMIT 0");
    sql
}

/// Asks for the bytes and the collations.
pub(super) fn values(names: &[Bytes]) -> Vec<u8> {
    select(names, |name| [b"CAST(", name, b" AS BINARY),COLLATION(", name, b")"].concat())
}

/// The names that a question in hexadecimal yields.
pub(super) fn read_names(rows: &[Vec<Option<Bytes>>]) -> Option<Vec<Bytes>> {
    let name =
        |row: &Vec<Option<Bytes>>| Some(Bytes::from(hex::decode(ascii(row.first()?.as_deref()?)).ok()?));
    rows.iter().map(name).collect()
}

/// The answer to [`values`].
pub(super) fn read(kinds: &[Kinds], row: &[Option<Bytes>]) -> Option<Vec<Value>> {
    (row.len() == 2 * kinds.len()).then_some(())?;
    kinds.iter().zip(row.chunks(2)).map(|(kind, columns)| value(*kind, columns)).collect()
}

fn value(kind: Kinds, columns: &[Option<Bytes>]) -> Option<Value> {
    let [bytes, collation] = columns else { return None };
    let Some(bytes) = bytes.clone() else { return Some(Value::Null) };
    // CAST of a number is in the character set of the connection.
    let digits = || ascii(&bytes);
    let text = || std::str::from_utf8(&bytes).ok().map(|text| text.replace('\0', ""));
    Some(match kind {
        Kinds::Int => Value::Int(text()?.parse().ok()?),
        Kinds::Unsigned => Value::Unsigned(text()?.parse().ok()?),
        Kinds::Double => Value::Double(digits()),
        Kinds::Decimal => Value::Decimal(digits()),
        Kinds::Text => match ascii(collation.as_deref()?) {
            binary if binary.as_ref() == b"binary" => Value::Binary(bytes),
            collation if literal::is_plain(&collation) => Value::Text { bytes, collation },
            _ => return None,
        },
    })
}
