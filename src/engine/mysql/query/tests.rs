use proptest::prelude::*;

use super::*;

fn packets(bodies: &[&[u8]]) -> BytesMut {
    let mut out = BytesMut::new();
    for (sequence, body) in (1..).zip(bodies) {
        packet::put(&mut out, sequence, |out| out.put_slice(body));
    }
    out
}

const COLUMN: &[u8] = b"\x03def\0\0\0\x01a\0\x0c\x2d\0\x04\0\0\0\xfd\0\0\0\0\0";
const EOF: &[u8] = b"\xfe\0\0\x02\0";
const OK_EOF: &[u8] = b"\xfe\0\0\x02\0\0\0";

/// Receives in pieces of `size` bytes.
fn receive(bytes: &BytesMut, size: usize) -> Result<Option<Vec<Row>>, DialogueError> {
    let mut query = AdminQuery::with("SELECT a, b", &[]);
    let (mut input, mut out) = (BytesMut::new(), BytesMut::new());
    for piece in bytes.chunks(size) {
        input.extend_from_slice(piece);
        if let Some(rows) = query.receive(&mut input, &mut out)? {
            return Ok(Some(rows));
        }
    }
    Ok(None)
}

#[test]
fn parameters_are_quoted() {
    let query = AdminQuery::with("SELECT ? = ?, 'x'", &["a'", ""]);
    assert_eq!(query.sql, "SELECT _utf8mb4 X'6127' = _utf8mb4 X'', 'x'");
    let mut out = BytesMut::new();
    AdminQuery::with("DO 0", &[]).open(&mut out);
    assert_eq!(&out[..], b"\x05\0\0\0\x03DO 0");
}

#[test]
fn rows_of_both_kinds() {
    let expected = vec![vec![Some("x".to_owned()), None], vec![Some(String::new()), Some("y".to_owned())]];
    let rows: [&[u8]; 2] = [b"\x01x\xfb", b"\0\x01y"];
    let old = packets(&[b"\x02", COLUMN, COLUMN, EOF, rows[0], rows[1], EOF]);
    let new = packets(&[b"\x02", COLUMN, COLUMN, rows[0], rows[1], OK_EOF]);
    for size in [1, 3, 1000] {
        assert_eq!(receive(&old, size).unwrap().unwrap(), expected);
        assert_eq!(receive(&new, size).unwrap().unwrap(), expected);
    }
    for none in [packets(&[b"\x01", COLUMN, EOF, EOF]), packets(&[b"\x01", COLUMN, OK_EOF])] {
        assert_eq!(receive(&none, 1).unwrap().unwrap().len(), 0);
    }
}

#[test]
fn several_results_and_errors() {
    let several = packets(&[
        b"\0\0\0\x0a\0\0\0",
        b"\x01",
        COLUMN,
        EOF,
        b"\x01x",
        b"\xfe\0\0\x0a\0",
        b"\0\0\0\x02\0\0\0",
    ]);
    assert_eq!(receive(&several, 1).unwrap().unwrap().len(), 1);
    let failed = packets(&[b"\x01", COLUMN, EOF, b"\xff\x7a\x04#42S02gone"]);
    let error = receive(&failed, 1).unwrap_err();
    assert!(matches!(error, DialogueError::Refused { code, text, .. } if code == "1146" && text == "gone"));
    assert!(receive(&packets(&[b"\xfbfile"]), 1).is_err());
}

#[test]
fn a_cancel_of_nothing_is_done_at_once() {
    let router = RouterLogin { user: "r".into(), password: String::new().into(), database: String::new() };
    let mut cancel = Cancel::of(&LoggedIn::default(), &router);
    let mut out = BytesMut::new();
    cancel.open(&mut out);
    assert_eq!(cancel.receive(&mut BytesMut::new(), &mut out), Ok(Some(())));
    assert!(out.is_empty());
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        drop(receive(&BytesMut::from(&bytes[..]), 7));
        drop(receive(&packets(&[b"\x01", COLUMN, &bytes]), 7));
    }
}
