//! Values and names as SQL text that means the same under every `sql_mode` and every character set of the client.
//!
//! Strings are hexadecimal with an introducer; everything is ASCII but the names, which are in UTF-8.

use bytes::Bytes;

use super::state::Value;

/// A name in backticks.
pub fn name(out: &mut Vec<u8>, name: &[u8]) {
    out.push(b'`');
    for &byte in name {
        if byte == b'`' {
            out.push(b'`');
        }
        out.push(byte);
    }
    out.push(b'`');
}

/// `_charset X'…'`
pub fn text(out: &mut Vec<u8>, charset: &[u8], bytes: &[u8]) {
    out.push(b'_');
    out.extend_from_slice(charset);
    out.extend_from_slice(b" X'");
    out.extend_from_slice(hex::encode(bytes).as_bytes());
    out.push(b'\'');
}

/// Only what may be written as it is: names of character sets, collations and variables.
pub fn is_plain(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_' || *byte == b'.')
}

/// The number that a text is. A number must not be written as a string, or most variables refuse it.
pub fn is_number(text: &[u8]) -> bool {
    text.first().is_some_and(|first| first.is_ascii_digit() || *first == b'-')
        && std::str::from_utf8(text).is_ok_and(|text| text.parse::<f64>().is_ok_and(f64::is_finite))
}

/// What a variable is set to.
pub fn setting(out: &mut Vec<u8>, value: Option<&Bytes>) {
    match value {
        None => out.extend_from_slice(b"NULL"),
        Some(value) if is_number(value) => out.extend_from_slice(value),
        Some(value) => text(out, b"utf8mb4", value),
    }
}

/// `name=value`
pub fn assigned(name: &[u8], value: Option<&Bytes>) -> Vec<u8> {
    let mut out = [name, b"="].concat();
    setting(&mut out, value);
    out
}

/// The character set that a collation belongs to.
pub fn charset_of(collation: &[u8]) -> &[u8] {
    collation.split(|&byte| byte == b'_').next().unwrap_or_default()
}

/// The longest string that is written in one piece; longer ones are put together, as a statement may not be longer than
/// the server's `max_allowed_packet`.
const PIECE: usize = 128 * 1024;

/// Assignments of a user variable, in as many statements as it takes. Each is what follows `SET `.
pub fn assignments(variable: &[u8], value: &Value) -> Vec<Vec<u8>> {
    let mut to = vec![b'@'];
    name(&mut to, variable);
    let whole = |text: &dyn Fn(&mut Vec<u8>)| {
        let mut out = [&to[..], b"="].concat();
        text(&mut out);
        vec![out]
    };
    match value {
        Value::Null => whole(&|out| out.extend_from_slice(b"NULL")),
        Value::Int(number) => {
            whole(&|out| out.extend_from_slice(format!("CAST({number} AS SIGNED)").as_bytes()))
        }
        Value::Unsigned(number) => {
            whole(&|out| out.extend_from_slice(format!("CAST({number} AS UNSIGNED)").as_bytes()))
        }
        Value::Double(text) => whole(&|out| {
            out.extend_from_slice(text);
            if !text.contains(&b'e') {
                out.extend_from_slice(b"e0");
            }
        }),
        Value::Decimal(text) => whole(&|out| decimal(out, text)),
        Value::Binary(bytes) if bytes.len() <= PIECE => whole(&|out| text(out, b"binary", bytes)),
        Value::Text { bytes, collation } if bytes.len() <= PIECE => whole(&|out| {
            text(out, charset_of(collation), bytes);
            out.extend_from_slice(b" COLLATE ");
            out.extend_from_slice(collation);
        }),
        Value::Binary(bytes) => in_pieces(&to, bytes),
        Value::Text { bytes, collation } => {
            let mut all = in_pieces(&to, bytes);
            let parts: [&[u8]; 8] =
                [&to, b"=CONVERT(", &to, b" USING ", charset_of(collation), b") COLLATE ", collation, b""];
            all.push(parts.concat());
            all
        }
    }
}

fn in_pieces(to: &[u8], bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for piece in bytes.chunks(PIECE) {
        let mut out = [to, b"="].concat();
        if all.is_empty() {
            text(&mut out, b"binary", piece);
        } else {
            out.extend_from_slice(&[b"CONCAT(", to, b","].concat());
            text(&mut out, b"binary", piece);
            out.push(b')');
        }
        all.push(out);
    }
    all
}

/// With the precision and scale that the text shows.
fn decimal(out: &mut Vec<u8>, text: &[u8]) {
    let digits = text.iter().filter(|byte| byte.is_ascii_digit()).count();
    let scale = text.iter().rev().position(|&byte| byte == b'.').unwrap_or(0);
    out.extend_from_slice(b"CAST(");
    out.extend_from_slice(text);
    out.extend_from_slice(format!(" AS DECIMAL({},{scale}))", digits.max(1)).as_bytes());
}

/// A statement's text as a string literal in the client's own character set: `PREPARE` takes no other.
pub fn quoted(text: &[u8], charset: &[u8], sql_mode: &[u8]) -> Vec<u8> {
    let backslash = !sql_mode.split(|&byte| byte == b',').any(|mode| mode == b"NO_BACKSLASH_ESCAPES");
    // Their second bytes may look like a quote's escape.
    let pairs = matches!(charset, b"big5" | b"cp932" | b"gbk" | b"sjis" | b"gb18030");
    let is_lead =
        |byte: u8| byte >= 0x81 && !(matches!(charset, b"sjis" | b"cp932") && (0xa0..=0xdf).contains(&byte));
    let mut out = vec![b'\''];
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\'' => out.extend_from_slice(b"''"),
            b'\\' if backslash => out.extend_from_slice(b"\\\\"),
            _ => out.push(byte),
        }
        if pairs && is_lead(byte) {
            out.extend(bytes.next());
        }
    }
    out.push(b'\'');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assigned(value: &Value) -> String {
        String::from_utf8(assignments(b"a`b", value).concat()).unwrap()
    }

    #[test]
    fn a_value_keeps_its_type() {
        let bytes = Bytes::from_static;
        assert_eq!(assigned(&Value::Null), "@`a``b`=NULL");
        assert_eq!(assigned(&Value::Int(i64::MIN)), "@`a``b`=CAST(-9223372036854775808 AS SIGNED)");
        assert_eq!(assigned(&Value::Unsigned(u64::MAX)), "@`a``b`=CAST(18446744073709551615 AS UNSIGNED)");
        assert_eq!(assigned(&Value::Double(bytes(b"0.1"))), "@`a``b`=0.1e0");
        assert_eq!(assigned(&Value::Double(bytes(b"1e300"))), "@`a``b`=1e300");
        assert_eq!(assigned(&Value::Decimal(bytes(b"-1.500"))), "@`a``b`=CAST(-1.500 AS DECIMAL(4,3))");
        assert_eq!(assigned(&Value::Binary(bytes(b"\0'"))), "@`a``b`=_binary X'0027'");
        let text = Value::Text { bytes: bytes(b"\xe9"), collation: bytes(b"latin1_swedish_ci") };
        assert_eq!(assigned(&text), "@`a``b`=_latin1 X'e9' COLLATE latin1_swedish_ci");
    }

    #[test]
    fn a_long_text_is_put_together() {
        let bytes = Bytes::from(vec![b'x'; PIECE + 1]);
        let long = Value::Text { bytes, collation: Bytes::from_static(b"utf8mb4_bin") };
        let all = assignments(b"a", &long);
        assert_eq!(all.len(), 3);
        assert_eq!(all[1], b"@`a`=CONCAT(@`a`,_binary X'78')");
        assert_eq!(all[2], b"@`a`=CONVERT(@`a` USING utf8mb4) COLLATE utf8mb4_bin");
    }

    #[test]
    fn settings_are_numbers_or_strings() {
        let set = |value: Option<&'static [u8]>| {
            let mut out = Vec::new();
            setting(&mut out, value.map(Bytes::from_static).as_ref());
            String::from_utf8(out).unwrap()
        };
        assert_eq!(set(None), "NULL");
        assert_eq!(set(Some(b"10.500000")), "10.500000");
        assert_eq!(set(Some(b"+01:00")), "_utf8mb4 X'2b30313a3030'");
        assert_eq!(set(Some(b"1e5,x")), "_utf8mb4 X'3165352c78'");
        assert_eq!(set(Some(b"nan")), "_utf8mb4 X'6e616e'");
    }

    #[test]
    fn a_literal_is_read_as_the_client_wrote_it() {
        assert_eq!(quoted(b"a'b\\c", b"latin1", b""), b"'a''b\\\\c'");
        assert_eq!(quoted(b"a'b\\c", b"latin1", b"ANSI,NO_BACKSLASH_ESCAPES"), b"'a''b\\c'");
        assert_eq!(quoted(b"\x95\x5c'", b"sjis", b""), b"'\x95\x5c'''");
        assert_eq!(quoted(b"\xb1\x5c", b"sjis", b""), b"'\xb1\\\\'");
    }
}
