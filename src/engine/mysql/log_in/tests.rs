use super::*;
use crate::engine::mysql::auth::native;

fn startup() -> Startup {
    Startup {
        user: "u".into(),
        database: Some("db".into()),
        capabilities: bit::DEPRECATE_EOF | bit::SSL | bit::COMPRESS | bit::CONNECT_ATTRS | bit::LONG_PASSWORD,
        collation: 33,
        attributes: Bytes::from_static(b"\x01k\x01v"),
        compression: None,
        address: [10, 1, 2, 3].into(),
        proof: Proof::Native(Some(native::secret(b"pw"))),
        id: 4711,
        sequence: 4,
        contract: Contract::default().into(),
        mark: 0,
    }
}

fn hello(version: &str, plugin: &str) -> BytesMut {
    let capabilities = !(bit::LONG_PASSWORD | 0xff << 32);
    let (version, plugin, salt) = (version.into(), plugin.into(), *b"ABCDEFGHIJKLMNOPQRST");
    let mut out = BytesMut::new();
    Hello { id: 31, salt, capabilities, version, collation: 45, plugin }.put(&mut out);
    out
}

fn body(out: &mut BytesMut) -> Packet {
    packet::take(out, 1000).unwrap().unwrap()
}

/// Feeds bytes one by one.
fn feed(log_in: &mut LogIn, bytes: &[u8], out: &mut BytesMut) -> Result<Option<LoggedIn>, DialogueError> {
    let mut input = BytesMut::new();
    let mut result = Ok(None);
    for byte in bytes {
        input.extend_from_slice(&[*byte]);
        result = log_in.receive(&mut input, out);
    }
    assert!(input.is_empty());
    result
}

#[test]
fn as_a_client() {
    let mut log_in = LogIn::new(&startup());
    let mut out = BytesMut::new();
    log_in.open(&mut out);
    assert_eq!(&out.split()[..], b"PROXY TCP4 10.1.2.3 127.0.0.1 1 3306\r\n");
    feed(&mut log_in, &hello("5.5.5-10.11.1-MariaDB", native::PLUGIN), &mut out).unwrap();
    let packet = body(&mut out);
    assert_eq!(packet.sequence, 1);
    let super::super::hello::First::Response(read) = super::super::hello::First::read(&packet.body, u64::MAX)
    else {
        panic!("no response")
    };
    assert_eq!(read.capabilities & (bit::SSL | bit::COMPRESS), 0);
    assert_ne!(read.capabilities & bit::DEPRECATE_EOF, 0);
    assert_eq!((&*read.user, read.database.as_deref(), read.collation), ("u", Some("db"), 33));
    assert_eq!(&read.answer[..], native::answer(&native::secret(b"pw"), b"ABCDEFGHIJKLMNOPQRST"));

    // Another challenge, which cannot be met; then one that can.
    feed(&mut log_in, b"\x10\0\0\x02\xfeclient_ed25519\0", &mut out).unwrap();
    assert_eq!((body(&mut out).sequence, out.len()), (3, 0));
    feed(&mut log_in, b"\x2c\0\0\x04\xfemysql_native_password\x00abcdefghijklmnopqrst\0", &mut out).unwrap();
    let answer = body(&mut out);
    let expected = native::answer(&native::secret(b"pw"), b"abcdefghijklmnopqrst");
    assert_eq!((answer.sequence, &answer.body[..]), (5, &expected[..]));
    let logged_in = feed(&mut log_in, b"\x07\0\0\x06\0\0\0\x02\0\0\0", &mut out).unwrap().unwrap();
    assert_eq!((logged_in.connection_id, &logged_in.ok[..]), (31, &b"\0\0\0\x02\0\0\0"[..]));

    startup().put_welcome(&logged_in, &mut out);
    assert_eq!(&out[..], b"\x07\0\0\x04\0\0\0\x02\0\0\0");
}

#[test]
fn who_logs_in_again_enters_no_database() {
    for (captured, database) in [(true, None), (false, Some("db"))] {
        let mut log_in = LogIn::again(&startup(), captured);
        let mut out = BytesMut::new();
        feed(&mut log_in, &hello("5.5.5-10.11.1-MariaDB", native::PLUGIN), &mut out).unwrap();
        let super::super::hello::First::Response(read) =
            super::super::hello::First::read(&body(&mut out).body, u64::MAX)
        else {
            panic!("no response")
        };
        assert_eq!((read.database.as_deref(), &*read.user), (database, "u"));
        assert_eq!(read.capabilities & bit::CONNECT_WITH_DB != 0, !captured);
    }
}

#[test]
fn a_refusal_is_framed_for_the_client() {
    for (bytes, expected, wanted) in [
        (&b"\x10\0\0\0\xff\x10\x04Too many conn"[..], Cause::Full, "1040"),
        (b"\x0f\0\0\0\xff\xb3\x04#42000User u", Cause::Limited, "1203"),
        (b"\x0f\0\0\0\xff\x1d\x04#08S01Server", Cause::Stopping, "1053"),
        (b"\x0d\0\0\0\xff\x19\x04#42000Unkn", Cause::Final, "1049"),
    ] {
        let mut log_in = LogIn::new(&startup());
        let refused = feed(&mut log_in, bytes, &mut BytesMut::new()).unwrap_err();
        let DialogueError::Refused { cause, code, message, .. } = refused else { panic!("{refused:?}") };
        assert_eq!((cause, &*code, message[3], message[4], message[7]), (expected, wanted, 4, 0xff, b'#'));
    }
}

#[test]
fn by_the_password_itself() {
    let mut startup = startup();
    startup.proof = Proof::Clear(Zeroizing::new(b"pw".to_vec()));
    let contract = Contract { product: Product::MySql, ..Contract::default() };
    startup.contract = contract.into();
    let mut log_in = LogIn::new(&startup);
    let mut out = BytesMut::new();
    log_in.open(&mut out);
    assert!(out.is_empty());
    feed(&mut log_in, &hello("9.7.4", sha2::CACHING), &mut out).unwrap();
    out.clear();
    // The server's cache is cold.
    feed(&mut log_in, b"\x02\0\0\x02\x01\x04", &mut out).unwrap();
    assert_eq!(&out.split()[..], b"\x03\0\0\x03pw\0");
    // And warm.
    assert!(feed(&mut log_in, b"\x02\0\0\x04\x01\x03", &mut out).unwrap().is_none() && out.is_empty());
    assert!(feed(&mut log_in, b"\x07\0\0\x05\0\0\0\x02\0\0\0", &mut out).unwrap().is_some());
}

#[test]
fn what_a_server_must_not_say() {
    for bytes in [&b"\x03\0\0\0\x0aab"[..], b"\x01\0\0\0\x00"] {
        let mut log_in = LogIn::new(&startup());
        let error = feed(&mut log_in, bytes, &mut BytesMut::new()).unwrap_err();
        assert!(matches!(error, DialogueError::Protocol(_)));
    }
}

#[test]
fn who_takes_packets_in_pieces() {
    let with = |compression, attributes: &'static [u8]| Startup {
        compression: Some(compression),
        attributes: Bytes::from_static(attributes),
        ..startup()
    };
    use crate::engine::mysql::capability::Compression;
    for (attributes, takes) in [
        (&b"\x04_pid\x011\x0c_client_name\x08libmysql"[..], true),
        (b"\x0c_client_name\x16mysql-connector-python", false),
        (b"\x0c_client_name\x08libm", false),
        (b"", false),
    ] {
        assert_eq!(with(Compression::Zlib, attributes).takes_cut_packets(), takes);
        assert!(with(Compression::Zstd(3), attributes).takes_cut_packets());
    }
}
