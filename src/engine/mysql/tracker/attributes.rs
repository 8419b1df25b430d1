//! Parameters: of a `COM_QUERY` with attributes, and of `COM_STMT_EXECUTE`.
//!
//! Source: MySQL "`COM_QUERY`", "`COM_STMT_EXECUTE`", "Binary Protocol Value".

use std::ops::Range;

use crate::engine::mysql::packet;

/// `PARAMETER_COUNT_AVAILABLE`
const COUNTED: u8 = 8;
/// Where the parameters of a `COM_STMT_EXECUTE` begin: command, id, flags, iterations.
const PARAMETERS: usize = 10;

/// Where the text begins in the body of a `COM_QUERY` of a client that sends attributes. What cannot be read is taken for
/// the text.
pub(super) fn text_at(body: &[u8]) -> usize {
    let mut rest = body.get(1..).unwrap_or_default();
    skip_attributes(&mut rest).map_or(1, |()| body.len() - rest.len())
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (front, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(front)
}

fn skip_attributes(rest: &mut &[u8]) -> Option<()> {
    let count = usize::try_from(packet::take_lenenc(rest)?).ok()?;
    packet::take_lenenc(rest)?;
    if count == 0 {
        return Some(());
    }
    let nulls = take(rest, count.div_ceil(8))?;
    if take(rest, 1)? != [1] {
        return None;
    }
    let mut types = *rest;
    for _ in 0..count {
        take(rest, 2)?;
        packet::take_string(rest)?;
    }
    for index in 0..count {
        let kind = take(&mut types, 2)?[0];
        packet::take_string(&mut types)?;
        if nulls[index / 8] & (1 << (index % 8)) == 0 {
            skip_value(kind, rest)?;
        }
    }
    Some(())
}

/// Skips a value in its binary form.
pub(super) fn skip_value(kind: u8, rest: &mut &[u8]) -> Option<()> {
    let length = match kind {
        6 => 0,
        1 => 1,
        2 | 13 => 2,
        3 | 4 | 9 => 4,
        5 | 8 => 8,
        7 | 10 | 11 | 12 => usize::from(take(rest, 1)?[0]),
        _ => return packet::take_string(rest).map(|_| ()),
    };
    take(rest, length).map(|_| ())
}

/// What the front of a `COM_STMT_EXECUTE` says of types.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Types {
    /// It has no parameters.
    None,
    /// More of it is needed.
    More,
    /// Too many to be looked at.
    Many,
    /// Not the protocol; the server will say so.
    Malformed,
    /// They are sent: how many, and where in the body.
    Sent(usize, Range<usize>),
    /// They are not, and the byte that says so is here.
    Left(usize, usize),
}

/// `parameters`: how many the statement has; `attributes`: the client may send more.
pub(super) fn types(body: &[u8], parameters: u16, attributes: bool, limit: usize) -> Types {
    let Some(&flags) = body.get(5) else { return Types::More };
    let counted = attributes && flags & COUNTED != 0;
    if parameters == 0 && !counted {
        return Types::None;
    }
    let mut at = PARAMETERS;
    let mut count = usize::from(parameters);
    if counted {
        let mut rest = body.get(at..).unwrap_or_default();
        let before = rest.len();
        let Some(said) = packet::take_lenenc(&mut rest) else { return short(body, limit) };
        let Ok(said) = usize::try_from(said) else { return Types::Malformed };
        (at, count) = (at + before - rest.len(), said);
        if count == 0 {
            return Types::None;
        }
    }
    at += count.div_ceil(8);
    let Some(&bound) = body.get(at) else { return short(body, limit) };
    if bound != 1 {
        return Types::Left(count, at);
    }
    let start = at + 1;
    if !attributes {
        let end = start + 2 * count;
        return if end <= body.len() { Types::Sent(count, start..end) } else { short(body, limit) };
    }
    let mut rest = body.get(start..).unwrap_or_default();
    for _ in 0..count {
        if take(&mut rest, 2).is_none() || packet::take_string(&mut rest).is_none() {
            return short(body, limit);
        }
    }
    Types::Sent(count, start..body.len() - rest.len())
}

fn short(body: &[u8], limit: usize) -> Types {
    if body.len() >= limit { Types::Many } else { Types::More }
}

/// The types of a bulk execution (MariaDB): its flags say whether they are sent.
pub(super) fn bulk_types(body: &[u8], parameters: u16, limit: usize) -> Types {
    let Some(flags) = body.get(5..7) else { return Types::More };
    let count = usize::from(parameters);
    if u16::from_le_bytes([flags[0], flags[1]]) & 128 == 0 {
        return Types::Left(count, 5);
    }
    let end = 7 + 2 * count;
    if end <= body.len() { Types::Sent(count, 7..end) } else { short(body, limit) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_found_behind_attributes() {
        assert_eq!(text_at(b"\x03\x00\x01SELECT 1"), 3);
        assert_eq!(text_at(b"\x03\x01\x01\x00\x01\x0f\x00\x04name\x05valueSELECT 1"), 18);
        assert_eq!(text_at(b"\x03\x02\x01\x01\x01\x08\x00\x01a\x08\x00\x01b12345678SELECT 1"), 21);
        assert_eq!(text_at(b"\x03\x02"), 1);
    }

    #[test]
    fn types_are_found() {
        let body = b"\x17\x01\0\0\0\0\x01\0\0\0\x00\x01\x08\x00\x0f\x00values";
        assert_eq!(types(body, 2, false, 100), Types::Sent(2, 12..16));
        assert_eq!(types(&body[..14], 2, false, 100), Types::More);
        assert_eq!(types(&body[..14], 2, false, 14), Types::Many);
        assert_eq!(types(body, 0, false, 100), Types::None);
        let body = b"\x17\x01\0\0\0\0\x01\0\0\0\x00\x00values";
        assert_eq!(types(body, 2, false, 100), Types::Left(2, 11));
        let body = b"\x17\x01\0\0\0\x08\x01\0\0\0\x02\x00\x01\x08\x00\x01a\x0f\x00\x00values";
        assert_eq!(types(body, 1, true, 100), Types::Sent(2, 13..20));
        assert_eq!(bulk_types(b"\xfa\x01\0\0\0\x80\0\x08\0rest", 1, 100), Types::Sent(1, 7..9));
        assert_eq!(bulk_types(b"\xfa\x01\0\0\0\0\0rest", 1, 100), Types::Left(1, 5));
    }
}
