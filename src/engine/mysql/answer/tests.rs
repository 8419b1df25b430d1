use super::*;

fn packets(bodies: &[&[u8]]) -> BytesMut {
    let mut out = BytesMut::new();
    for (at, body) in bodies.iter().enumerate() {
        packet::put(&mut out, u8::try_from(at + 1).unwrap(), |out| out.extend_from_slice(body));
    }
    out
}

fn definition(kind: u8, flags: u16) -> Vec<u8> {
    let mut out = BytesMut::new();
    for text in ["def", "", "", "", "@a", ""] {
        packet::put_string(&mut out, text.as_bytes());
    }
    out.put_u8(0x0c);
    out.put_u16_le(63);
    out.put_u32_le(20);
    out.put_u8(kind);
    out.put_u16_le(flags);
    out.put_bytes(0, 3);
    out.to_vec()
}

/// Fed byte by byte, as the wire may cut it.
fn read(capabilities: u64, ask: impl FnOnce(&mut Script<u8>, &mut BytesMut), bytes: &[u8]) -> Vec<Answer> {
    let mut script = Script::new(capabilities);
    ask(&mut script, &mut BytesMut::new());
    let (mut input, mut answers) = (BytesMut::new(), Vec::new());
    for byte in bytes {
        input.put_u8(*byte);
        while let Some((_, answer)) = script.take(&mut input).unwrap() {
            answers.push(answer);
        }
    }
    assert!(script.is_done() && input.is_empty());
    answers
}

#[test]
fn rows_are_read_with_either_kind_of_end() {
    let (column, rows) = (definition(8, 0x20), [&b"\x0218"[..], b"\xfb"]);
    let old = packets(&[b"\x01", &column, b"\xfe\0\0\x02\0", rows[0], rows[1], b"\xfe\0\0\x03\0"]);
    let new = packets(&[b"\x01", &column, rows[0], rows[1], b"\xfe\0\0\x03\0\0\0"]);
    for (capabilities, bytes) in [(0, old), (bit::DEPRECATE_EOF, new)] {
        let answers = read(capabilities, |script, out| script.query(out, b"SELECT", 1), &bytes);
        let columns = vec![Column { kind: 8, unsigned: true }];
        let rows = vec![vec![Some(Bytes::from_static(b"18"))], vec![None]];
        assert_eq!(answers, [Answer::Rows { columns, rows, status: 3 }]);
    }
}

#[test]
fn what_comes_before_the_columns_depends_on_the_product() {
    let (column, end) = (definition(253, 0), b"\xfe\0\0\x02\0\0\0");
    let with = |capability: u64, head: &[u8]| {
        let bytes = packets(&[head, &column, b"\x01x", end]);
        read(bit::DEPRECATE_EOF | capability, |script, out| script.query(out, b"SELECT", 1), &bytes).len()
    };
    assert_eq!(with(bit::MARIADB_CACHE_METADATA, b"\x01\x01"), 1);
    assert_eq!(with(bit::OPTIONAL_METADATA, b"\x01\x01"), 1);
    let bytes = packets(&[b"\0\x01", b"\x01x", end]);
    let capabilities = bit::DEPRECATE_EOF | bit::OPTIONAL_METADATA;
    assert_eq!(read(capabilities, |script, out| script.query(out, b"SELECT", 1), &bytes).len(), 1);
}

#[test]
fn answers_come_in_the_order_of_the_commands() {
    let ask = |script: &mut Script<u8>, out: &mut BytesMut| {
        script.prepare(out, b"SELECT ?", 1);
        script.prepare(out, b"DO 1", 2);
        script.set_option(out, false, 3);
        script.ping(out, 4);
        script.query(out, b"x", 5);
    };
    let column = definition(253, 0);
    let bytes = packets(&[
        b"\0\x07\0\0\0\x01\0\x01\0\0\0\0",
        &column,
        b"\xfe\0\0\x02\0",
        &column,
        b"\xfe\0\0\x02\0",
        b"\0\x08\0\0\0\0\0\0\0\0\0\0",
        b"\xfe\0\0\x02\0",
        b"\0\0\0\x03\0\0\0",
        b"\xff\x48\x04#HY000no",
    ]);
    let answers = read(0, ask, &bytes);
    assert_eq!(
        answers,
        [
            Answer::Prepared(Prepared { id: 7, parameters: 1, columns: 1 }),
            Answer::Prepared(Prepared { id: 8, parameters: 0, columns: 0 }),
            Answer::Done { status: 2 },
            Answer::Done { status: 3 },
            Answer::Failed(Bytes::from_static(b"\xff\x48\x04#HY000no")),
        ]
    );
}

#[test]
fn a_progress_report_is_no_answer() {
    let bytes = packets(&[b"\xff\xff\xff\x01\x02\x01\x01\x00", b"\0\0\0\x02\0\0\0"]);
    let answers = read(bit::MARIADB_PROGRESS, |script, out| script.query(out, b"x", 1), &bytes);
    assert_eq!(answers, [Answer::Done { status: 2 }]);
}

#[test]
fn a_long_command_goes_out_in_several_packets() {
    for (length, packets) in [(10, 1), (SPLIT - 2, 1), (SPLIT - 1, 2), (2 * SPLIT - 1, 3)] {
        let (mut script, mut out) = (Script::new(0), BytesMut::new());
        script.query(&mut out, &vec![b' '; length], ());
        assert_eq!(out.len(), length + 1 + packets * HEADER);
        assert_eq!(take_body(&mut out.clone()).unwrap().unwrap().len(), length + 1);
        out.truncate(out.len() - 1);
        assert_eq!(take_body(&mut out), Ok(None));
    }
}

#[test]
fn what_is_not_an_answer_is_an_error() {
    let mut script: Script<()> = Script::new(0);
    script.query(&mut BytesMut::new(), b"x", ());
    assert!(script.take(&mut packets(&[b"\xfb file"])).is_err());
    let mut script: Script<()> = Script::new(0);
    script.query(&mut BytesMut::new(), b"x", ());
    let truncated = packets(&[b"\x01", b"\x03def"]);
    let mut input = truncated;
    assert!(script.take(&mut input).is_err());
}

#[test]
fn ascii_is_read_in_wide_character_sets() {
    assert_eq!(ascii(b"\0l\0a\0t"), "lat");
    assert_eq!(ascii(b"\0\0\0l\0\0\0a"), "la");
    assert_eq!(ascii(b"lat"), "lat");
}
