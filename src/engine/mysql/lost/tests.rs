use super::*;
use crate::engine::mysql::tracker::tests::{framed, tracker};
use crate::engine::{Admission, LostTransaction as _, Tracker as _};

const ABORTED: &str = "The last transaction was aborted due to Seamless Scaling. Please retry.";

fn query(text: &str) -> Vec<u8> {
    framed(0, &[b"\x03", text.as_bytes()].concat())
}

fn aborted(sequence: u8) -> Vec<u8> {
    framed(sequence, &[b"\xff\x51\x04#HY000", ABORTED.as_bytes()].concat())
}

/// In a transaction, and `text` was sent last, if any.
fn in_transaction(text: Option<&str>) -> Tracker {
    let mut tracker = tracker();
    let mut heard = BytesMut::from(&framed(1, b"\0\x01\0\x03\0\0\0")[..]);
    tracker.client_bytes(&mut BytesMut::from(&query("UPDATE t SET a = 1")[..]), Admission::All);
    tracker.server_bytes(&mut heard, &|_| None);
    if let Some(text) = text {
        tracker.client_bytes(&mut BytesMut::from(&query(text)[..]), Admission::All);
    }
    tracker
}

#[track_caller]
fn check(lost: &mut LostTransaction, input: &[u8], expected: &[Vec<u8>], over: bool) -> Vec<u8> {
    let (mut input, mut out) = (BytesMut::from(input), BytesMut::new());
    assert_eq!(lost.receive(&mut input, &mut out), over);
    assert_eq!(out, expected.concat());
    input.to_vec()
}

#[test]
fn the_next_statement_pays_the_debt() {
    for text in ["COMMIT", "ROLLBACK", "BEGIN", "SELECT 1"] {
        let mut lost = LostTransaction::new(&in_transaction(None));
        check(&mut lost, b"", &[], false);
        check(&mut lost, &query(text), &[aborted(1)], true);
    }
    for command in
        [&b"\x16SELECT 1"[..], b"\x17\x01\0\0\0\0\x01\0\0\0", b"\x1c\x01\0\0\0\x01\0\0\0", b"\x02d"]
    {
        check(&mut LostTransaction::new(&in_transaction(None)), &framed(0, command), &[aborted(1)], true);
    }
}

#[test]
fn what_came_with_it_is_refused_too() {
    let burst =
        [query("INSERT INTO t VALUES (1)"), query("INSERT INTO t VALUES (2)"), query("COMMIT")].concat();
    let mut lost = LostTransaction::new(&in_transaction(None));
    check(&mut lost, &burst, &[aborted(1), aborted(1), aborted(1)], true);
    // The last one is cut off.
    let mut lost = LostTransaction::new(&in_transaction(None));
    let (front, back) = burst.split_at(burst.len() - 3);
    check(&mut lost, front, &[aborted(1), aborted(1)], false);
    check(&mut lost, back, &[aborted(1)], true);
}

#[test]
fn what_is_no_statement_pays_nothing() {
    let mut lost = LostTransaction::new(&in_transaction(None));
    let ok = framed(1, b"\0\0\0\x02\0\0\0");
    check(&mut lost, &framed(0, b"\x0e"), &[ok], false);
    check(&mut lost, &framed(0, b"\x09"), &[framed(1, b"Uptime: 0")], false);
    check(&mut lost, &framed(0, b"\x18\x01\0\0\0\0\0data"), &[], false);
    let close = framed(0, b"\x19\x01\0\0\0");
    check(&mut lost, &close, &[], false);
    let goodbye = framed(0, b"\x01");
    assert_eq!(check(&mut lost, &goodbye, &[], false), goodbye);
    check(&mut lost, &query("COMMIT"), &[aborted(1)], true);
    assert_eq!(lost.outlasting(), close);
    let mut lost = LostTransaction::new(&in_transaction(None));
    let reset = framed(0, b"\x1f");
    assert_eq!(check(&mut lost, &reset, &[], true), reset);
}

#[test]
fn answers_that_are_owed_come_first() {
    let mut lost = LostTransaction::new(&in_transaction(Some("SELECT 1")));
    check(&mut lost, b"", &[aborted(1)], true);
    let mut lost = LostTransaction::new(&in_transaction(Some("SELECT 1")));
    check(&mut lost, &query("COMMIT"), &[aborted(1), aborted(1)], true);
}

#[test]
fn a_file_is_swallowed_before_the_error() {
    let mut tracker = in_transaction(Some("LOAD DATA LOCAL INFILE 'x' INTO TABLE t"));
    tracker.server_bytes(&mut BytesMut::from(&framed(1, b"\xfbx")[..]), &|_| None);
    let mut lost = LostTransaction::new(&tracker);
    let file = [framed(2, b"rows"), framed(3, b"more rows"), framed(4, b"")].concat();
    let (mut input, mut out) = (BytesMut::new(), BytesMut::new());
    for (at, byte) in file.iter().enumerate() {
        input.put_u8(*byte);
        assert_eq!(lost.receive(&mut input, &mut out), at + 1 == file.len());
    }
    assert_eq!(out, aborted(5));
}

#[test]
fn a_long_statement_need_not_fit_into_a_buffer() {
    let mut lost = LostTransaction::new(&in_transaction(None));
    let mut long = vec![0xff, 0xff, 0xff, 0, 3];
    long.resize(4 + SPLIT, b'x');
    long.extend(framed(1, b"end"));
    let (last, parts) = (long.len() - 1, &long[..long.len() - 1]);
    for part in parts.chunks(100_000) {
        check(&mut lost, part, &[], false);
    }
    check(&mut lost, &long[last..], &[aborted(2)], true);
}

#[test]
fn who_was_told_is_not_told_again() {
    let mut tracker = in_transaction(Some("UPDATE t SET a = 2"));
    tracker.forcing(true);
    tracker.server_bytes(&mut BytesMut::from(&framed(1, b"\xff\x25\x05#70100interrupted")[..]), &|_| None);
    let mut lost = LostTransaction::new(&tracker);
    check(&mut lost, b"", &[], true);
    // Sent before it could read that.
    let mut lost = LostTransaction::new(&tracker);
    check(&mut lost, &query("COMMIT"), &[aborted(1)], true);
}
