//! PostgreSQL messages: framing, building, and reading the few whose contents matter.
//!
//! Source: PostgreSQL documentation, chapter "Frontend/Backend Protocol", sections "Message Formats" and
//! "Error and Notice Message Fields".

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The longest message that either side may send (the server's own `PQ_LARGE_MESSAGE_LIMIT`).
pub const MAX_MESSAGE: usize = 0x3fff_ffff;
/// Type byte and length word.
pub const HEADER: usize = 5;

/// One message of a backend or a client, type byte apart from its contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The type byte.
    pub kind: u8,
    /// The contents, without type and length.
    pub body: Bytes,
}

/// The length of the whole message at the front of `bytes`, type byte included. `Ok(None)`: the header is incomplete.
pub fn frame_length(bytes: &[u8]) -> Result<Option<usize>, &'static str> {
    let Some(header) = bytes.get(..HEADER) else { return Ok(None) };
    let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
    match length {
        4..=MAX_MESSAGE => Ok(Some(length + 1)),
        _ => Err("invalid message length"),
    }
}

/// Takes the message at the front of `input`. `Ok(None)`: it is not complete. `limit`: longest contents accepted.
pub fn take(input: &mut BytesMut, limit: usize) -> Result<Option<Message>, &'static str> {
    let Some(length) = frame_length(input)? else { return Ok(None) };
    if length > limit {
        return Err("message too long");
    }
    if input.len() < length {
        return Ok(None);
    }
    let mut frame = input.split_to(length);
    let kind = frame[0];
    frame.advance(HEADER);
    Ok(Some(Message { kind, body: frame.freeze() }))
}

/// Appends a message whose contents `write` makes.
pub fn put(out: &mut BytesMut, kind: u8, write: impl FnOnce(&mut BytesMut)) {
    out.put_u8(kind);
    let start = out.len();
    out.put_u32(0);
    write(out);
    let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// Appends a zero-terminated string.
pub fn put_text(out: &mut BytesMut, text: &[u8]) {
    out.put_slice(text);
    out.put_u8(0);
}

/// Splits a zero-terminated string off the front.
pub fn take_text<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = bytes.iter().position(|&b| b == 0)?;
    let (text, rest) = bytes.split_at(end);
    *bytes = &rest[1..];
    Some(text)
}

/// `Parse` with no parameter types given.
pub fn put_parse(out: &mut BytesMut, name: &str, sql: &[u8], types: &[u32]) {
    put(out, b'P', |out| {
        put_text(out, name.as_bytes());
        put_text(out, sql);
        out.put_u16(u16::try_from(types.len()).unwrap_or(0));
        types.iter().for_each(|&oid| out.put_u32(oid));
    });
}

/// `Bind` of the unnamed portal with parameters and results as text.
pub fn put_bind(out: &mut BytesMut, statement: &str, parameters: &[&[u8]]) {
    put(out, b'B', |out| {
        put_text(out, b"");
        put_text(out, statement.as_bytes());
        out.put_u16(0);
        out.put_u16(u16::try_from(parameters.len()).unwrap_or(0));
        for parameter in parameters {
            out.put_u32(u32::try_from(parameter.len()).unwrap_or(0));
            out.put_slice(parameter);
        }
        out.put_u16(0);
    });
}

/// `Execute` of the unnamed portal, all rows.
pub fn put_execute(out: &mut BytesMut) {
    put(out, b'E', |out| {
        put_text(out, b"");
        out.put_u32(0);
    });
}

/// `Close` of a prepared statement.
pub fn put_close(out: &mut BytesMut, statement: &str) {
    put(out, b'C', |out| {
        out.put_u8(b'S');
        put_text(out, statement.as_bytes());
    });
}

/// `Describe` of a prepared statement.
pub fn put_describe(out: &mut BytesMut, statement: &str) {
    put(out, b'D', |out| {
        out.put_u8(b'S');
        put_text(out, statement.as_bytes());
    });
}

/// `Sync`.
pub fn put_sync(out: &mut BytesMut) {
    put(out, b'S', |_| {});
}

/// `ReadyForQuery`.
pub fn put_ready(out: &mut BytesMut, status: u8) {
    put(out, b'Z', |out| out.put_u8(status));
}

/// `CommandComplete`.
pub fn put_complete(out: &mut BytesMut, tag: &str) {
    put(out, b'C', |out| put_text(out, tag.as_bytes()));
}

/// `ParameterStatus`.
pub fn put_parameter_status(out: &mut BytesMut, name: &str, value: &[u8]) {
    put(out, b'S', |out| {
        put_text(out, name.as_bytes());
        put_text(out, value);
    });
}

/// `ErrorResponse` in the order in which the server sends the fields: S, V, C, M.
pub fn put_error(out: &mut BytesMut, severity: &str, code: &str, text: &str) {
    put(out, b'E', |out| {
        for (field, value) in [(b'S', severity), (b'V', severity), (b'C', code), (b'M', text)] {
            out.put_u8(field);
            put_text(out, value.as_bytes());
        }
        out.put_u8(0);
    });
}

/// One field of an `ErrorResponse` or `NoticeResponse`; empty if it is not there.
pub fn error_field(body: &[u8], field: u8) -> &[u8] {
    let mut rest = body;
    while let Some((&kind, tail)) = rest.split_first() {
        if kind == 0 {
            break;
        }
        rest = tail;
        let Some(value) = take_text(&mut rest) else { break };
        if kind == field {
            return value;
        }
    }
    &[]
}

/// True for an `ErrorResponse` after which the server closes the connection. `V` (9.6+) is never translated, `S` is.
pub fn is_fatal(body: &[u8]) -> bool {
    matches!(error_field(body, b'V'), b"FATAL" | b"PANIC")
}

/// The columns of a `DataRow`. `None`: malformed.
pub fn row(body: &[u8]) -> Option<Vec<Option<&[u8]>>> {
    let mut rest = body;
    if rest.remaining() < 2 {
        return None;
    }
    let count = rest.get_u16();
    let mut columns = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        if rest.remaining() < 4 {
            return None;
        }
        let length = rest.get_i32();
        if length < 0 {
            columns.push(None);
            continue;
        }
        let (value, tail) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        columns.push(Some(value));
        rest = tail;
    }
    Some(columns)
}

/// Frames what `Describe` answered, for comparison. Which table a column comes from is left out: it is not part of
/// the result's type (`src/backend/utils/cache/plancache.c`, `equalTupleDescs`), and the same text may find another.
pub fn put_description(out: &mut BytesMut, message: &Message) {
    const NAMED: usize = 6;
    const TYPED: usize = 12;
    let mut body = message.body.to_vec();
    let mut at = 2;
    while message.kind == b'T' && at < body.len() {
        let Some(name) = body[at..].iter().position(|&byte| byte == 0) else { break };
        at += name + 1;
        let Some(origin) = body.get_mut(at..at + NAMED) else { break };
        origin.fill(0);
        at += NAMED + TYPED;
    }
    put(out, message.kind, |out| out.extend_from_slice(&body));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_framed_to_the_byte() {
        let mut out = BytesMut::new();
        put_error(&mut out, "ERROR", "57014", "canceling statement due to user request");
        assert_eq!(
            &out[..],
            b"E\x00\x00\x00\x43SERROR\0VERROR\0C57014\0Mcanceling statement due to user request\0\0"
        );
        let message = take(&mut out, 1000).unwrap().unwrap();
        assert_eq!(error_field(&message.body, b'C'), b"57014");
        assert!(!is_fatal(&message.body));
        assert!(out.is_empty());
    }

    #[test]
    fn incomplete_messages_stay() {
        let mut input = BytesMut::from(&b"Z\x00\x00\x00\x05"[..]);
        assert_eq!(take(&mut input, 100), Ok(None));
        assert_eq!(input.len(), 5);
        input.put_u8(b'I');
        assert_eq!(take(&mut input, 100).unwrap().unwrap().body.as_ref(), b"I");
        assert!(take(&mut BytesMut::from(&b"Z\x00\x00\x00\x01I"[..]), 100).is_err());
    }

    #[test]
    fn rows_with_nulls() {
        let body = b"\x00\x02\x00\x00\x00\x01a\xff\xff\xff\xff";
        assert_eq!(row(body), Some(vec![Some(&b"a"[..]), None]));
        assert_eq!(row(&body[..6]), None);
    }

    #[test]
    fn a_description_does_not_tell_tables_apart() {
        let described = |table: u8, kind: u8| {
            let mut body = b"\0\x01a\0".to_vec();
            body.extend_from_slice(&[
                0, 0, 0, table, 0, table, 0, 0, 0, kind, 0, 4, 255, 255, 255, 255, 0, 0,
            ]);
            let mut out = BytesMut::new();
            put_description(&mut out, &Message { kind: b'T', body: body.into() });
            out
        };
        assert_eq!(described(1, 23), described(2, 23));
        assert_ne!(described(1, 23), described(1, 25));
    }
}
