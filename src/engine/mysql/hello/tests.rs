use proptest::prelude::*;

use super::*;

/// The first packet of MariaDB 10.11, without its header.
const MARIADB: &[u8] =
    b"\x0a5.5.5-10.11.19-MariaDB-0+deb12u1\0\x1f\0\0\0abcdefgh\0\xfe\xf7\x2d\x02\0\xff\x81\x15\
    \0\0\0\0\0\0\x1d\0\0\0ijklmnopqrst\0mysql_native_password\0";

fn full(capabilities: u64) -> Response {
    Response {
        capabilities: capabilities
            | bit::PROTOCOL_41
            | bit::PLUGIN_AUTH
            | bit::PLUGIN_AUTH_LENENC
            | bit::SECURE_CONNECTION,
        collation: 45,
        user: "u".into(),
        answer: Bytes::from_static(&[9; 20]),
        database: Some("db".into()),
        plugin: "mysql_native_password".into(),
        attributes: Bytes::from_static(b"\x01k\x01v"),
        compression: None,
    }
}

fn written(response: &Response) -> Bytes {
    let mut out = BytesMut::new();
    response.put(&mut out, 1);
    packet::take(&mut out, 1 << 20).unwrap().unwrap().body
}

#[test]
fn greetings_are_read_as_they_are_written() {
    let hello = Hello::read(MARIADB).unwrap();
    assert_eq!((hello.id, &hello.salt, hello.collation), (31, b"abcdefghijklmnopqrst", 45));
    assert_eq!(hello.capabilities, 0x1d_81ff_f7fe);
    assert_eq!(hello.plugin, "mysql_native_password");
    let contract = hello.contract();
    assert_eq!(contract.product, Product::MariaDb);
    assert_eq!(contract.capabilities & (bit::MARIADB_CACHE_METADATA | bit::MARIADB_PROGRESS), 0);
    assert_ne!(contract.capabilities & bit::MARIADB_BULK, 0);

    let own = Hello::of(&contract, 4711, *b"ABCDEFGHIJKLMNOPQRST");
    let mut out = BytesMut::new();
    own.put(&mut out);
    assert_eq!(Hello::read(&packet::take(&mut out, 1000).unwrap().unwrap().body), Some(own));
    for length in 0..MARIADB.len() - 23 {
        assert_eq!(Hello::read(&MARIADB[..length]), None, "{length}");
    }
}

#[test]
fn responses_are_read_as_they_are_written() {
    let every = bit::CONNECT_WITH_DB | bit::CONNECT_ATTRS;
    for extended in [0, bit::MARIADB_BULK] {
        let mut response = full(every | extended);
        let body = written(&response);
        if extended == 0 {
            response.capabilities |= bit::LONG_PASSWORD;
        }
        assert_eq!(First::read(&body, u64::MAX), First::Response(Box::new(response)));
    }
}

#[test]
fn flags_that_were_not_offered_mean_nothing() {
    let mut response = full(bit::CONNECT_WITH_DB | bit::QUERY_ATTRIBUTES | bit::MULTI_FACTOR | bit::ZSTD);
    response.attributes = Bytes::new();
    let offer = !(bit::QUERY_ATTRIBUTES | bit::MULTI_FACTOR | bit::ZSTD | bit::CONNECT_ATTRS);
    let First::Response(read) = First::read(&written(&response), offer) else { panic!("no response") };
    assert_eq!(read.capabilities & !offer, 0);
    assert_eq!((read.database.as_deref(), read.compression), (Some("db"), None));
}

#[test]
fn the_kinds_of_first_packets() {
    let read = |body: &[u8]| First::read(&Bytes::copy_from_slice(body), u64::MAX);
    let mut tls = [0; 32];
    tls[..4].copy_from_slice(&u32::try_from(bit::PROTOCOL_41 | bit::SSL).unwrap().to_le_bytes());
    assert_eq!(read(&tls), First::Tls);
    assert_eq!(read(&tls[..31]), First::Malformed);
    tls[1] = 0x08;
    assert_eq!(read(&tls), First::Old);
    assert_eq!(read(b"\x85\x04\0\0\0root\0"), First::Old);
    assert_eq!(read(b""), First::Malformed);
    let mut zstd = written(&full(bit::ZSTD | bit::CONNECT_WITH_DB)).to_vec();
    zstd.push(7);
    let First::Response(read) = read(&zstd) else { panic!("no response") };
    assert_eq!(read.compression, Some(Compression::Zstd(7)));
}

#[test]
fn a_change_of_user() {
    let body = Bytes::from_static(b"\x11u\0\x03abcdb\0\x2d\0caching_sha2_password\0\x04\x01k\x01v");
    let read = Response::read_change(&body, bit::PLUGIN_AUTH | bit::CONNECT_ATTRS).unwrap();
    assert_eq!((&*read.user, &read.answer[..], read.database.as_deref()), ("u", &b"abc"[..], Some("db")));
    assert_eq!(
        (read.collation, &*read.plugin, &read.attributes[..]),
        (45, "caching_sha2_password", &b"\x01k\x01v"[..])
    );
    let short = Response::read_change(&Bytes::from_static(b"\x11u\0\0"), u64::MAX).unwrap();
    assert_eq!((short.database, short.collation), (None, 0));
    assert!(Response::read_change(&Bytes::from_static(b"\x11u"), 0).is_none());
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200), offer: u64) {
        let body = Bytes::from(bytes);
        First::read(&body, offer);
        Response::read_change(&body, offer);
        Hello::read(&body);
    }

    #[test]
    fn cut_responses_are_survived(length in 0_usize..100, bits: u64) {
        let body = written(&full(bits));
        First::read(&body.slice(..length.min(body.len())), bits);
    }
}
