mod recorded;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::engine::mysql::capability::Contract;
use crate::engine::mysql::greet::Proof;
use crate::engine::mysql::packet;
use crate::engine::mysql::restore::Restored;
use crate::engine::mysql::state::State;
use crate::engine::{Directory, Rest, Tracker as _, Whereabouts};

pub(crate) fn with(capabilities: u64, product: Product) -> Tracker {
    let contract = Contract { product, ..Contract::default() };
    let startup = Startup {
        user: "u".into(),
        database: Some("d".into()),
        capabilities,
        collation: 8,
        attributes: Bytes::new(),
        compression: None,
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        proof: Proof::Native(None),
        id: 7,
        sequence: 2,
        contract: Arc::new(contract.clone()),
        mark: 0,
    };
    let logged_in = LoggedIn { server: contract, ..LoggedIn::default() };
    Tracker::new(&startup, &logged_in, 7)
}

pub(crate) fn tracker() -> Tracker {
    with(bit::PROTOCOL_41 | bit::LOCAL_FILES, Product::MariaDb)
}

pub(crate) fn framed(sequence: u8, body: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    packet::put(&mut out, sequence, |out| out.extend_from_slice(body));
    out.to_vec()
}

fn query(text: &str) -> Vec<u8> {
    framed(0, &[b"\x03", text.as_bytes()].concat())
}

fn ok(flags: u16) -> Vec<u8> {
    framed(1, &[&[0, 1, 0][..], &flags.to_le_bytes(), &[0, 0]].concat())
}

fn eof(sequence: u8, flags: u16) -> Vec<u8> {
    framed(sequence, &[&[0xfe, 0, 0][..], &flags.to_le_bytes()].concat())
}

fn error(code: u16) -> Vec<u8> {
    framed(1, &[&[0xff][..], &code.to_le_bytes(), b"#HY000text"].concat())
}

/// One column, so many rows.
fn rows(count: u8, flags: u16) -> Vec<u8> {
    let mut out = [framed(1, &[1]), framed(2, b"\x03def..."), eof(3, flags)].concat();
    for row in 0..count {
        out.extend(framed(4 + row, b"\x01x"));
    }
    [out, eof(4 + count, flags)].concat()
}

fn prepared(id: u32, parameters: u16, columns: u16) -> Vec<u8> {
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32_le(id);
    body.put_u16_le(columns);
    body.put_u16_le(parameters);
    body.put_bytes(0, 3);
    let mut out = framed(1, &body);
    for count in [parameters, columns] {
        for _ in 0..count {
            out.extend(framed(2, b"\x03def"));
        }
        if count > 0 {
            out.extend(eof(3, 2));
        }
    }
    out
}

#[track_caller]
fn sends(tracker: &mut Tracker, bytes: &[u8]) -> Vec<u8> {
    let mut input = BytesMut::from(bytes);
    let scan = tracker.client_bytes(&mut input, Admission::All);
    assert_eq!((scan.forward, scan.rest), (input.len(), Rest::Incomplete));
    input.to_vec()
}

#[track_caller]
fn hears(tracker: &mut Tracker, bytes: &[u8]) -> Vec<u8> {
    let mut input = BytesMut::from(bytes);
    let scan = tracker.server_bytes(&mut input, &|_| None);
    assert_eq!((scan.forward, scan.farewell, scan.violation), (input.len(), false, false));
    input.to_vec()
}

#[track_caller]
fn asks(tracker: &mut Tracker, text: &str, answer: &[u8]) {
    sends(tracker, &query(text));
    assert!(!tracker.is_quiet());
    hears(tracker, answer);
}

#[test]
fn a_session_is_quiet_between_commands() {
    let mut tracker = tracker();
    for (text, answer) in [
        ("SELECT 1", rows(3, 2)),
        ("INSERT INTO t VALUES (1)", ok(2)),
        ("NONSENSE", error(1064)),
        ("CALL p()", [rows(1, 2 | 8), ok(2)].concat()),
        ("SELECT 1; SELECT 2", [rows(1, 2 | 8), rows(0, 2)].concat()),
    ] {
        asks(&mut tracker, text, &answer);
        assert!(tracker.is_quiet(), "{text}");
    }
}

#[test]
fn a_transaction_is_open_until_the_server_says_otherwise() {
    let mut tracker = tracker();
    asks(&mut tracker, "BEGIN", &ok(3));
    // Nothing was done in it: it can be begun elsewhere.
    assert!(tracker.is_quiet() && tracker.wire().begun);
    assert_eq!(tracker.wire().characteristics, ["BEGIN"]);
    asks(&mut tracker, "INSERT INTO t VALUES (1)", &ok(3));
    assert_eq!((tracker.is_quiet(), tracker.obstacle()), (false, Some(Obstacle::OpenTransaction)));
    assert_eq!(tracker.fate(), Fate::TransactionAborted);
    asks(&mut tracker, "NONSENSE", &error(1064));
    assert!(!tracker.is_quiet());
    // A deadlock rolls back, other errors do not: the server has to be asked.
    asks(&mut tracker, "UPDATE t SET a = 1", &error(1213));
    assert!(tracker.is_quiet() && tracker.drift() == Drift::Possible);
    assert_eq!(tracker.fate(), Fate::TransactionAborted);
    let mut state = State { status: Some(3), ..State::default() };
    tracker.complete(&mut state);
    assert_eq!((tracker.is_quiet(), state.obstacle), (false, Some(Obstacle::OpenTransaction)));
    asks(&mut tracker, "ROLLBACK", &ok(2));
    assert!(tracker.is_quiet());
}

#[test]
fn what_is_said_of_the_next_transaction_holds_until_it_is_there() {
    let mut tracker = tracker();
    let text = "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE";
    asks(&mut tracker, text, &ok(2));
    asks(&mut tracker, "SET @x = 1", &ok(2));
    asks(&mut tracker, "START TRANSACTION READ ONLY", &ok(0x2003));
    assert_eq!(tracker.wire().characteristics, [text, "START TRANSACTION READ ONLY"]);
    asks(&mut tracker, "COMMIT", &ok(2));
    assert!(tracker.wire().characteristics.is_empty() && !tracker.wire().begun);
}

#[test]
fn statement_ids_are_the_routers_own() {
    let mut tracker = tracker();
    sends(&mut tracker, &framed(0, b"\x16SELECT ?"));
    let told = hears(&mut tracker, &prepared(800, 1, 1));
    assert_eq!(told[5..9], 1u32.to_le_bytes());
    let statement = &tracker.wire().statements[0];
    assert_eq!((&statement.text[..], statement.parameters, statement.columns), (&b"SELECT ?"[..], 1, 1));
    assert_eq!(&statement.definitions[..], b"\x03def\x03def");
    let execute = framed(0, b"\x17\x01\0\0\0\0\x01\0\0\0\x00\x01\x08\x0012345678");
    let passed = sends(&mut tracker, &execute);
    assert_eq!(passed[5..9], 800u32.to_le_bytes());
    hears(&mut tracker, &rows(1, 2));
    // After a move the types are said again, once.
    let restored = Restored { statements: vec![(1, 3)], ..Restored::default() };
    tracker.restored(&LoggedIn::default(), restored);
    let again = framed(0, b"\x17\x01\0\0\0\0\x01\0\0\0\x00\x0012345678");
    let expected = framed(0, b"\x17\x03\0\0\0\0\x01\0\0\0\x00\x01\x08\x0012345678");
    assert_eq!(sends(&mut tracker, &again), expected);
    hears(&mut tracker, &rows(1, 2));
    let expected = framed(0, b"\x17\x03\0\0\0\0\x01\0\0\0\x00\x0012345678");
    assert_eq!(sends(&mut tracker, &again), expected);
    hears(&mut tracker, &rows(1, 2));
    // One that the client does not have must not hit the server's own of that number.
    let passed = sends(&mut tracker, &framed(0, b"\x17\x03\0\0\0\0\x01\0\0\0"));
    assert_ne!(passed[5..9], 3u32.to_le_bytes());
    hears(&mut tracker, &error(1243));
    let passed = sends(&mut tracker, &framed(0, b"\x19\x01\0\0\0"));
    assert_eq!(passed, framed(0, b"\x19\x03\0\0\0"));
    assert!(tracker.is_quiet() && tracker.wire().statements.is_empty());
}

#[test]
fn the_last_prepared_statement_may_be_meant() {
    let mut tracker = tracker();
    let execute = framed(0, b"\x17\xff\xff\xff\xff\0\x01\0\0\0");
    let both = [framed(0, b"\x16SELECT 1"), execute.clone()].concat();
    assert_eq!(sends(&mut tracker, &both), both);
    assert_eq!(tracker.fate(), Fate::StatementAborted);
    hears(&mut tracker, &prepared(5, 0, 1));
    hears(&mut tracker, &rows(1, 2));
    assert_eq!(sends(&mut tracker, &execute)[5..9], 5u32.to_le_bytes());
}

#[test]
fn a_cursor_and_long_data_keep_a_session() {
    let mut tracker = tracker();
    sends(&mut tracker, &framed(0, b"\x16SELECT 1"));
    hears(&mut tracker, &prepared(5, 0, 1));
    sends(&mut tracker, &framed(0, b"\x17\x01\0\0\0\x01\x01\0\0\0"));
    let open = [framed(1, &[1]), framed(2, b"\x03def"), eof(3, 0x42)].concat();
    hears(&mut tracker, &open);
    assert_eq!((tracker.is_quiet(), tracker.obstacle()), (false, Some(Obstacle::Cursor)));
    sends(&mut tracker, &framed(0, b"\x1c\x01\0\0\0\x02\0\0\0"));
    hears(&mut tracker, &[framed(1, b"\0\0\x01"), eof(2, 0x42)].concat());
    assert_eq!(tracker.obstacle(), Some(Obstacle::Cursor));
    sends(&mut tracker, &framed(0, b"\x1c\x01\0\0\0\x02\0\0\0"));
    hears(&mut tracker, &eof(1, 0xc2));
    assert_eq!(tracker.obstacle(), None);
    assert_eq!(sends(&mut tracker, &framed(0, b"\x18\x01\0\0\0\0\0data"))[5..9], 5u32.to_le_bytes());
    assert_eq!((tracker.is_quiet(), tracker.obstacle()), (false, Some(Obstacle::LongData)));
    sends(&mut tracker, &framed(0, b"\x1a\x01\0\0\0"));
    hears(&mut tracker, &ok(2));
    assert!(tracker.is_quiet());
}

#[test]
fn nothing_goes_on_behind_what_runs() {
    let mut tracker = tracker();
    let mut burst = BytesMut::from(&[query("SELECT 1"), query("COMMIT")].concat()[..]);
    let scan = tracker.client_bytes(&mut burst, Admission::All);
    assert_eq!((scan.forward, scan.rest), (query("SELECT 1").len(), Rest::Draining));
    let _passed = burst.split_to(scan.forward);
    tracker.forcing(true);
    hears(&mut tracker, &error(1317));
    assert_eq!((tracker.is_told(), tracker.fate()), (true, Fate::StatementCancelled));
    tracker.reattached();
    assert_eq!(tracker.fate(), Fate::Carried);
    assert_eq!(tracker.client_bytes(&mut burst, Admission::All).forward, burst.len());
}

#[test]
fn a_file_is_no_command() {
    let mut tracker = tracker();
    sends(&mut tracker, &query("LOAD DATA LOCAL INFILE 'x' INTO TABLE t"));
    let mut early = BytesMut::from(&query("SELECT 1")[..]);
    assert_eq!(tracker.client_bytes(&mut early, Admission::All).rest, Rest::Draining);
    hears(&mut tracker, &framed(1, b"\xfbx"));
    sends(&mut tracker, &framed(2, b"\x01looks like a goodbye"));
    sends(&mut tracker, &framed(3, b""));
    hears(&mut tracker, &framed(4, b"\0\0\0\x02\0\0\0"));
    assert!(tracker.is_quiet());
}

#[test]
fn long_packets_are_followed() {
    let mut tracker = tracker();
    let mut bytes = vec![0xff, 0xff, 0xff, 0, 3];
    bytes.extend_from_slice(b"INSERT INTO t VALUES ('");
    bytes.resize(4 + packet::SPLIT, b'x');
    sends(&mut tracker, &bytes);
    assert!(!tracker.is_answered());
    sends(&mut tracker, &framed(1, b"\x01x')"));
    hears(&mut tracker, &framed(2, b"\0\x01\0\x02\0\0\0"));
    assert!(tracker.is_quiet());
    // A row whose first value is as long begins like the end of the rows.
    sends(&mut tracker, &query("SELECT a"));
    hears(&mut tracker, &[framed(1, &[1]), framed(2, b"\x03def"), eof(3, 2)].concat());
    let mut row = vec![0xff, 0xff, 0xff, 4, 0xfe];
    row.resize(4 + packet::SPLIT, 0);
    hears(&mut tracker, &row);
    hears(&mut tracker, &framed(5, b"\xfe\0\0\x02\0"));
    assert!(!tracker.is_quiet());
    hears(&mut tracker, &eof(6, 2));
    assert!(tracker.is_quiet());
}

struct Everybody;

impl Directory for Everybody {
    fn find(&self, id: u32) -> Whereabouts {
        match id {
            5 => Whereabouts::At(12345),
            6 => Whereabouts::Detached,
            _ => Whereabouts::Unknown,
        }
    }
}

#[track_caller]
fn looked_at(tracker: &mut Tracker, bytes: &[u8], expected: &Intercepted) -> (Vec<u8>, Vec<u8>) {
    let mut input = BytesMut::from(bytes);
    assert_eq!(tracker.client_bytes(&mut input, Admission::All).rest, Rest::Intercept);
    let mut out = BytesMut::new();
    assert_eq!(&tracker.intercept(&mut input, &Everybody, &mut out), expected);
    (input.to_vec(), out.to_vec())
}

#[test]
fn kills_name_the_backend() {
    let mut tracker = tracker();
    let (input, _) = looked_at(&mut tracker, &query("KILL 5"), &Intercepted::Ends(vec![5]));
    assert_eq!(sends(&mut tracker, &input), query("KILL 12345"));
    hears(&mut tracker, &ok(2));
    let (input, _) = looked_at(&mut tracker, &query("KILL /*!50000 QUERY */ 5;"), &Intercepted::Pass);
    assert_eq!(sends(&mut tracker, &input), query("KILL /*!50000 QUERY */ 12345;"));
    hears(&mut tracker, &ok(2));
    looked_at(&mut tracker, &query("KILL 6"), &Intercepted::Wakes(6));
    // Of a number as high as those that clients know the server says itself that there is none.
    let (input, _) = looked_at(&mut tracker, &query("KILL 1073741900"), &Intercepted::Pass);
    assert_eq!(sends(&mut tracker, &input), query("KILL 1073741900"));
    hears(&mut tracker, &error(1094));
    let (input, _) = looked_at(&mut tracker, &framed(0, b"\x0c\x05\0\0\0"), &Intercepted::Ends(vec![5]));
    assert_eq!(sends(&mut tracker, &input), framed(0, b"\x0c\x39\x30\0\0"));
    hears(&mut tracker, &ok(2));
    // What was looked up before a move is looked up again.
    looked_at(&mut tracker, &query("KILL 5"), &Intercepted::Ends(vec![5]));
    tracker.reattached();
    looked_at(&mut tracker, &query("KILL 5"), &Intercepted::Ends(vec![5]));
}

#[test]
fn kills_among_other_statements_name_the_backend() {
    let mut tracker = tracker();
    let ends = Intercepted::Ends(vec![5]);
    let (input, _) = looked_at(&mut tracker, &query("KILL QUERY 5; SELECT 1; KILL 5"), &ends);
    assert_eq!(sends(&mut tracker, &input), query("KILL QUERY 12345; SELECT 1; KILL 12345"));
    hears(&mut tracker, &[ok(8 | 2), rows(1, 8 | 2), ok(2)].concat());
    looked_at(&mut tracker, &query("SELECT 1; KILL 5; KILL 6"), &Intercepted::Wakes(6));
}

#[test]
fn a_kill_that_may_hit_somebody_else_is_refused() {
    let mut tracker = tracker();
    let refused = |tracker: &mut Tracker, sent: &[u8], code: u16| {
        let (input, out) = looked_at(tracker, sent, &Intercepted::Answered);
        assert_eq!((input.len(), &out[4..7]), (0, &[&[0xff][..], &code.to_le_bytes()].concat()[..]));
    };
    refused(&mut tracker, &query("KILL 9"), 1094);
    refused(&mut tracker, &query("KILL @a"), 1094);
    refused(&mut tracker, &framed(0, b"\x0c\x09\0\0\0"), 1094);
    refused(&mut tracker, &framed(0, b"\x16KILL QUERY 5"), 1295);
    refused(&mut tracker, &query("PREPARE s FROM 'KILL 5'"), 1295);
    refused(&mut tracker, &query("EXECUTE IMMEDIATE \"KILL 5\""), 1295);
    // Whoever has asked this server may speak of it in its own numbers.
    asks(&mut tracker, "SHOW PROCESSLIST", &rows(0, 2));
    for text in ["KILL 9", "KILL @a", "KILL QUERY ID 5"] {
        let (input, _) = looked_at(&mut tracker, &query(text), &Intercepted::Pass);
        assert_eq!(sends(&mut tracker, &input), query(text));
        hears(&mut tracker, &error(1094));
    }
    tracker.reattached();
    refused(&mut tracker, &query("KILL 9"), 1094);
}

#[test]
fn the_connection_id_is_the_one_that_clients_know() {
    let mut tracker = tracker();
    assert_eq!(
        sends(&mut tracker, &query("select connection_id(), @@x")),
        query("select CAST(7 AS UNSIGNED) AS `connection_id()`, @@x")
    );
    hears(&mut tracker, &rows(1, 2));
    let passed = sends(&mut tracker, &framed(0, b"\x16SELECT CONNECTION_ID() AS id"));
    assert_eq!(passed, framed(0, b"\x16SELECT CAST(7 AS UNSIGNED) AS id"));
    hears(&mut tracker, &prepared(1, 0, 1));
    assert_eq!(&tracker.wire().statements[0].text[..], b"SELECT CAST(7 AS UNSIGNED) AS id");
    let named = query("PREPARE s FROM 'DO CONNECTION_ID()'");
    assert_eq!(sends(&mut tracker, &named), query("PREPARE s FROM 'DO CAST(7 AS UNSIGNED)'"));
    hears(&mut tracker, &ok(2));
    // So that it is the same where it is prepared again.
    assert_eq!(&tracker.wire().named_statements[0].text[..], b"DO CAST(7 AS UNSIGNED)");
    let mut old = with(bit::PROTOCOL_41, Product::MySql56);
    assert_eq!(sends(&mut old, &query("DO CONNECTION_ID()")), query("DO (7|0)"));
    let mut in_schema = super::tests::tracker();
    asks(&mut in_schema, "USE performance_schema", &ok(2));
    let own = query("SELECT * FROM threads WHERE x = CONNECTION_ID()");
    assert_eq!(sends(&mut in_schema, &own), own);
}

#[test]
fn a_number_that_the_server_is_asked_about_is_the_servers() {
    let mut tracker = tracker();
    struct High;
    impl Directory for High {
        fn find(&self, id: u32) -> Whereabouts {
            if id == 1 << 30 { Whereabouts::At(5) } else { Whereabouts::Unknown }
        }
    }
    let sent = query("SELECT 1 FROM information_schema.processlist WHERE id IN (1073741824, 1073741825)");
    let mut input = BytesMut::from(&sent[..]);
    assert_eq!(tracker.client_bytes(&mut input, Admission::All).rest, Rest::Intercept);
    assert_eq!(tracker.intercept(&mut input, &High, &mut BytesMut::new()), Intercepted::Pass);
    let expected = query("SELECT 1 FROM information_schema.processlist WHERE id IN (5, 1073741825)");
    assert_eq!(sends(&mut tracker, &input), expected);
}

/// A definition of a column.
fn definition(sequence: u8, table: &str, name: &str, original: &str, kind: u8) -> Vec<u8> {
    let mut body = BytesMut::new();
    for text in ["def", "", table, table, name, original] {
        packet::put_string(&mut body, text.as_bytes());
    }
    body.extend_from_slice(&[0x0c, 63, 0, 10, 0, 0, 0, kind, 0, 0, 0, 0, 0]);
    framed(sequence, &body)
}

/// The answer as the client gets it, where backend 5 is session 1073741824.
fn told(tracker: &mut Tracker, bytes: &[u8]) -> Vec<u8> {
    let names = |id| (id == 5).then_some(1 << 30);
    pieces(bytes, &[3, 50], |input| {
        let scan = tracker.server_bytes(input, &names);
        assert!(!scan.violation && !scan.farewell);
        scan.forward
    })
}

#[test]
fn a_list_of_processes_has_the_numbers_that_clients_know() {
    let mut tracker = tracker();
    let head = |first| [framed(1, &[2]), first, definition(3, "", "User", "", 253), eof(4, 2)].concat();
    let shown = || head(definition(2, "", "Id", "", 8));
    sends(&mut tracker, &query("SHOW PROCESSLIST"));
    let answer = [shown(), framed(5, b"\x015\x01u"), framed(6, b"\x016\xfb"), eof(7, 2)].concat();
    let expected = [shown(), framed(5, b"\x0a1073741824\x01u"), framed(6, b"\x016\xfb"), eof(7, 2)].concat();
    assert_eq!(told(&mut tracker, &answer), expected);
    assert!(tracker.is_quiet());
    // Such a name says nothing in another statement.
    sends(&mut tracker, &query("SELECT 5 AS Id, user FROM information_schema.processlist"));
    assert_eq!(told(&mut tracker, &answer), answer);
    let listed = || head(definition(2, "PROCESSLIST", "x", "ID", 8));
    sends(&mut tracker, &query("SELECT id AS x, user FROM information_schema.processlist"));
    let answer = [listed(), framed(5, b"\x015\x01u"), eof(6, 2)].concat();
    let expected = [listed(), framed(5, b"\x0a1073741824\x01u"), eof(6, 2)].concat();
    assert_eq!(told(&mut tracker, &answer), expected);
    sends(&mut tracker, &framed(0, b"\x16SHOW PROCESSLIST"));
    hears(&mut tracker, &prepared(1, 0, 2));
    sends(&mut tracker, &framed(0, b"\x17\x01\0\0\0\0\x01\0\0\0"));
    let row = |id: u8, high: u8| framed(5, &[&[0, 0, id, 0, 0, high, 0, 0, 0, 0][..], b"\x01u"].concat());
    let null = framed(6, b"\0\x0c");
    let answer = [shown(), row(5, 0), null.clone(), eof(7, 2)].concat();
    assert_eq!(told(&mut tracker, &answer), [shown(), row(0, 0x40), null, eof(7, 2)].concat());
}

#[test]
fn replication_and_other_users_are_the_routers_business() {
    let mut tracker = tracker();
    let (input, out) = looked_at(&mut tracker, &framed(0, b"\x12dump"), &Intercepted::Answered);
    assert!(input.is_empty() && out[4..7] == [0xff, 0xd3, 4]);
    let request = Intercepted::Reauthenticate(Bytes::from_static(b"\x11user\0"));
    looked_at(&mut tracker, &framed(0, b"\x11user\0"), &request);
    let mut goodbye = BytesMut::from(&framed(0, b"\x01")[..]);
    assert_eq!(tracker.client_bytes(&mut goodbye, Admission::Nothing).rest, Rest::Goodbye);
}

#[test]
fn what_a_move_cannot_carry_is_answered_until_a_statement_runs() {
    let mut tracker = tracker();
    asks(&mut tracker, "INSERT INTO t VALUES (1)", &framed(1, b"\0\x03\0\x02\0\x01\0"));
    let warning = ["Warning", "1265", "cut"].map(|text| Bytes::from_static(text.as_bytes()));
    tracker.reattached();
    let restored = Restored { warnings: vec![warning], ..Restored::default() };
    tracker.restored(&LoggedIn::default(), restored);
    let (_, out) = looked_at(&mut tracker, &query("SHOW WARNINGS"), &Intercepted::Answered);
    assert!(out.windows(17).any(|row| row == b"\x07Warning\x041265\x03cut"), "{out:?}");
    let mut second = BytesMut::from(&query("SELECT ROW_COUNT()")[..]);
    assert_eq!(tracker.client_bytes(&mut second, Admission::All).rest, Rest::Intercept);
    let mut out = BytesMut::new();
    tracker.intercept(&mut second, &Everybody, &mut out);
    // SHOW WARNINGS has left -1.
    assert!(out.windows(3).any(|row| row == b"\x02-1"), "{out:?}");
    asks(&mut tracker, "SELECT 1", &rows(1, 2));
    asks(&mut tracker, "SHOW WARNINGS", &rows(0, 2));
}

#[test]
fn what_a_look_disturbs_is_answered_until_a_statement_runs() {
    let mut tracker = tracker();
    let warned = |warnings: u8| framed(1, &[0, 3, 0, 2, 0, warnings, 0]);
    asks(&mut tracker, "INSERT INTO t VALUES (1)", &warned(1));
    asks(&mut tracker, "SHOW WARNINGS", &rows(1, 2));
    // Shown, they are there still.
    assert_eq!(tracker.wire().warnings, 1);
    let warning = ["Error", "1265", "cut"].map(|text| Bytes::from_static(text.as_bytes()));
    let mut state = State { captured: true, warnings: vec![warning.clone()], ..State::default() };
    tracker.complete(&mut state);
    // The next look cannot see them any more, and need not.
    assert_eq!((tracker.wire().warnings, tracker.wire().failed), (0, false));
    let mut second = State { captured: true, ..State::default() };
    tracker.complete(&mut second);
    assert_eq!((second.warnings, second.errors), (vec![warning], 1));
    let (_, out) = looked_at(&mut tracker, &query("SHOW WARNINGS LIMIT 1"), &Intercepted::Answered);
    assert!(out.windows(15).any(|row| row == b"\x05Error\x041265\x03cut"), "{out:?}");
    let (_, out) = looked_at(&mut tracker, &query("SHOW ERRORS LIMIT 1, 5"), &Intercepted::Answered);
    assert!(!out.windows(4).any(|row| row == b"1265"), "{out:?}");
    asks(&mut tracker, "SELECT 1", &rows(1, 2));
    let mut third = State { captured: true, ..State::default() };
    tracker.complete(&mut third);
    assert_eq!(third.warnings.len(), 0);
}

#[test]
fn a_session_found_in_a_transaction_is_looked_at_behind_it() {
    let mut tracker = tracker();
    asks(&mut tracker, "BEGIN", &ok(3));
    asks(&mut tracker, "INSERT INTO t VALUES (1)", &ok(3));
    asks(&mut tracker, "SELECT nothing", &error(1054));
    let mut state = State { captured: true, status: Some(3), ..State::default() };
    tracker.complete(&mut state);
    assert_eq!((state.obstacle, tracker.is_quiet()), (Some(Obstacle::OpenTransaction), false));
    asks(&mut tracker, "ROLLBACK", &ok(2));
    // Else it would be taken for one that has a transaction open until something else has changed it.
    assert_eq!((tracker.drift(), tracker.is_quiet()), (Drift::Possible, true));
}

#[test]
fn a_cancelled_statement_is_answered_in_the_words_of_a_forced_change() {
    let mut tracker = tracker();
    asks(&mut tracker, "BEGIN", &ok(3));
    sends(&mut tracker, &query("UPDATE t SET a = 1"));
    tracker.forcing(true);
    let told = hears(&mut tracker, &error(1317));
    assert_eq!(told[..13], *b"\x50\0\0\x01\xff\x51\x04#HY000");
    assert_eq!((tracker.is_told(), tracker.fate()), (true, Fate::TransactionAborted));
}

#[test]
fn fates() {
    for (before, text, fate) in [
        (None, "SELECT a FROM t", Fate::StatementAborted),
        (None, "SELECT f()", Fate::StatementUnknown),
        (None, "INSERT INTO t VALUES (1)", Fate::StatementUnknown),
        (None, "COMMIT", Fate::StatementUnknown),
        (Some(3), "INSERT INTO t VALUES (1)", Fate::StatementAborted),
        (Some(3), "COMMIT", Fate::CommitUnknown),
        (Some(3), "ROLLBACK", Fate::StatementAborted),
        (Some(3), "ROLLBACK; INSERT INTO t VALUES (1)", Fate::CommitUnknown),
        (Some(3), "CREATE TABLE x (a int)", Fate::CommitUnknown),
        (Some(0), "INSERT INTO t VALUES (1)", Fate::StatementAborted),
    ] {
        let mut tracker = tracker();
        if let Some(flags) = before {
            asks(&mut tracker, "INSERT INTO t VALUES (0)", &ok(flags));
        }
        sends(&mut tracker, &query(text));
        assert_eq!(tracker.fate(), fate, "{before:?} {text}");
    }
}

#[test]
fn the_servers_last_words_are_told_apart() {
    let mut tracker = tracker();
    let words = framed(0, b"\xff\xbf\x0f#HY000too long idle");
    let mut input = BytesMut::from(&words[..]);
    let scan = tracker.server_bytes(&mut input, &|_| None);
    assert_eq!((scan.forward, scan.farewell), (0, true));
    assert_eq!(loss(&words), Loss::Session);
    assert_eq!(loss(&error(1053)), Loss::Unclear);
    assert_eq!(loss(b""), Loss::Unclear);
    sends(&mut tracker, &query("SELECT 1"));
    let mut input = BytesMut::from(&error(1927)[..]);
    assert!(tracker.server_bytes(&mut input, &|_| None).farewell);
}

#[test]
fn at_a_shut_gate_only_what_is_open_goes_on() {
    let mut tracker = tracker();
    let mut begin = BytesMut::from(&query("BEGIN")[..]);
    assert_eq!(tracker.client_bytes(&mut begin, Admission::OpenTransaction).rest, Rest::Held);
    asks(&mut tracker, "INSERT INTO t VALUES (1)", &ok(1));
    let mut two = BytesMut::from(&[query("SELECT 1"), query("COMMIT")].concat()[..]);
    let scan = tracker.client_bytes(&mut two, Admission::OpenTransaction);
    assert_eq!((scan.forward, scan.rest), (query("SELECT 1").len(), Rest::Draining));
    let mut more = BytesMut::from(&query("COMMIT")[..]);
    assert_eq!(tracker.client_bytes(&mut more, Admission::Nothing).rest, Rest::Held);
}

#[test]
fn diagnostics_are_said_again_or_refused_after_a_look() {
    let mut tracker = tracker();
    let failing = |tracker: &mut Tracker| {
        asks(tracker, "SELECT * FROM nix", &framed(1, b"\xff\x7a\x04#42S02text"));
    };
    failing(&mut tracker);
    // The server knows it still.
    let asked = query("GET DIAGNOSTICS @n = NUMBER");
    assert_eq!(sends(&mut tracker, &asked), asked);
    hears(&mut tracker, &ok(2));
    assert_eq!((tracker.wire().warnings, tracker.wire().row_count), (1, -1));
    failing(&mut tracker);
    let row = |level: &'static str, code: &'static str, message: &'static str| {
        [level, code, message].map(|text| Bytes::from_static(text.as_bytes()))
    };
    let warnings = vec![row("Warning", "1264", "far"), row("Error", "1146", "gone")];
    let mut state = State { warnings, ..State::default() };
    tracker.complete(&mut state);
    for (text, said) in [
        ("GET DIAGNOSTICS @n = NUMBER, @r = ROW_COUNT", "SET @n = CAST(2 AS UNSIGNED), @r = -1"),
        (
            "GET DIAGNOSTICS CONDITION 2 @s = RETURNED_SQLSTATE, @e = MYSQL_ERRNO",
            "SET @s = _utf8 X'3432533032', @e = CAST(1146 AS UNSIGNED)",
        ),
        ("GET DIAGNOSTICS CONDITION 1 @m = MESSAGE_TEXT", "SET @m = _utf8 X'666172'"),
    ] {
        let (input, _) = looked_at(&mut tracker, &query(text), &Intercepted::Pass);
        assert_eq!(sends(&mut tracker, &input), query(said));
        hears(&mut tracker, &ok(2));
    }
    for (text, code) in [
        ("GET DIAGNOSTICS CONDITION 1 @s = RETURNED_SQLSTATE", 1105u16),
        ("GET DIAGNOSTICS CONDITION 1 @s = CLASS_ORIGIN", 1105),
        ("GET DIAGNOSTICS @n = NUMBER; SELECT 1", 1105),
        ("GET DIAGNOSTICS CONDITION 3 @m = MESSAGE_TEXT", 1758),
        ("PREPARE s FROM 'GET DIAGNOSTICS @n = NUMBER'", 1295),
    ] {
        let (_, out) = looked_at(&mut tracker, &query(text), &Intercepted::Answered);
        assert_eq!(out[4..7], [&[0xff][..], &code.to_le_bytes()].concat(), "{text}");
    }
    // It is as it was for the next question.
    looked_at(&mut tracker, &query("SHOW WARNINGS"), &Intercepted::Answered);
    asks(&mut tracker, "DO 1", &ok(2));
    assert_eq!(sends(&mut tracker, &asked), asked);
}

#[test]
fn the_context_of_a_statement_is_learnt() {
    let mut tracker = tracker();
    asks(&mut tracker, "SET NAMES utf8mb4", &ok(2));
    sends(&mut tracker, &framed(0, b"\x16SELECT 1"));
    hears(&mut tracker, &prepared(1, 0, 1));
    assert_eq!(tracker.drift(), Drift::Possible);
    asks(&mut tracker, "SET sql_mode = 'ANSI'", &ok(2));
    asks(&mut tracker, "SET NAMES utf8mb4", &ok(2));
    asks(&mut tracker, "USE e", &ok(2));
    let text = |text: &'static str| Bytes::from_static(text.as_bytes());
    let variables = [
        ("sql_mode", "REAL_AS_FLOAT,ANSI"),
        ("character_set_client", "utf8mb4"),
        ("collation_connection", "c"),
    ];
    let variables = variables.map(|(name, value)| (text(name), Some(text(value)))).to_vec();
    let mut state = State { variables, database: Some(text("e")), ..State::default() };
    tracker.complete(&mut state);
    let context = &state.statements[0].context;
    assert_eq!((&context.character_set, &context.collation), (&Some(text("utf8mb4")), &Some(text("c"))));
    // What sql_mode was before it was set, nobody has said.
    assert_eq!((&context.sql_mode, state.obstacle), (&None, Some(Obstacle::PreparedStatement)));
    assert_eq!(context.database, Some(text("d")));
    assert_eq!(tracker.wire().context.database, Some(text("e")));
}

#[test]
fn a_context_that_can_be_made_again_need_not_be_learnt() {
    let mut tracker = tracker();
    let prepare = |tracker: &mut Tracker, id: u32| {
        sends(tracker, &framed(0, b"\x16SELECT 1"));
        hears(tracker, &prepared(id, 0, 1));
    };
    asks(&mut tracker, "SET sql_mode = ''", &ok(2));
    prepare(&mut tracker, 1);
    asks(&mut tracker, "SET NAMES latin1", &ok(2));
    prepare(&mut tracker, 2);
    asks(&mut tracker, "SET NAMES utf8mb4", &ok(2));
    let text = |text: &'static str| Bytes::from_static(text.as_bytes());
    let variables = [("sql_mode", ""), ("character_set_client", "utf8mb4"), ("collation_connection", "c")];
    let variables = variables.map(|(name, value)| (text(name), Some(text(value)))).to_vec();
    let state = State { captured: true, variables, database: Some(text("d")), ..State::default() };
    let mut first = state.clone();
    tracker.complete(&mut first);
    assert_eq!(first.obstacle, None);
    assert!(first.statements[0].context.is_of_log_in());
    assert_eq!(first.statements[1].context.is_of_names(), Some(&text("latin1")));
    // A role whose name has to be written in UTF-8 comes first and is the end of what the log in made.
    let mut second = State { role: Some(text("rôle")), ..state };
    tracker.complete(&mut second);
    assert_eq!(second.obstacle, Some(Obstacle::PreparedStatement));
}

#[test]
fn a_statement_whose_table_is_gone_is_answered_with_the_servers_error() {
    let mut tracker = tracker();
    sends(&mut tracker, &framed(0, b"\x16SELECT 1"));
    hears(&mut tracker, &prepared(5, 0, 1));
    tracker.reattached();
    let gone = Bytes::from_static(b"\xff\x7a\x04#42S02no table");
    let restored = Restored { gone: vec![(1, gone.clone())], ..Restored::default() };
    tracker.restored(&LoggedIn::default(), restored);
    let execute = framed(0, b"\x17\x01\0\0\0\0\x01\0\0\0");
    let (_, out) = looked_at(&mut tracker, &execute, &Intercepted::Answered);
    assert_eq!(out, framed(1, &gone));
    // It may be there again at the next move.
    tracker.reattached();
    tracker.restored(&LoggedIn::default(), Restored { statements: vec![(1, 9)], ..Restored::default() });
    assert_eq!(sends(&mut tracker, &execute), framed(0, b"\x17\x09\0\0\0\0\x01\0\0\0"));
}

/// A command and its answer.
fn exchange() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let flags = prop_oneof![Just(2u16), Just(3), Just(0)];
    (0..8u8, flags, 0..4u8).prop_map(|(kind, flags, count)| match kind {
        0 => (query("SELECT a FROM t"), rows(count, flags)),
        1 => (query("INSERT INTO t VALUES (1)"), ok(flags)),
        2 => (query("CALL p()"), [rows(count, flags | 8), ok(flags)].concat()),
        3 => (framed(0, b"\x16SELECT ?"), prepared(100 + u32::from(count), u16::from(count), 1)),
        4 => (framed(0, b"\x17\x01\0\0\0\0\x01\0\0\0\x00\x01\x08\x00\x08\x00"), error(1243)),
        5 => (framed(0, b"\x0e"), ok(flags)),
        6 => (framed(0, b"\x09"), framed(1, b"Uptime: 5")),
        _ => (query("BEGIN"), error(1213)),
    })
}

/// Gives the bytes piece by piece, as the relay does.
fn pieces(bytes: &[u8], sizes: &[usize], mut scan: impl FnMut(&mut BytesMut) -> usize) -> Vec<u8> {
    let (mut input, mut out) = (BytesMut::new(), Vec::new());
    let mut rest = bytes;
    for size in sizes.iter().cycle() {
        let (front, tail) = rest.split_at((*size).min(rest.len()));
        rest = tail;
        input.extend_from_slice(front);
        let forward = scan(&mut input);
        out.extend_from_slice(&input.split_to(forward));
        if rest.is_empty() {
            break;
        }
    }
    assert!(input.is_empty());
    out
}

proptest! {
    #[test]
    fn any_chunks_come_to_the_same(
        exchanges in proptest::collection::vec(exchange(), 1..12),
        sizes in proptest::collection::vec(1..40usize, 1..6),
        pipelined: bool,
    ) {
        let (mut one, mut other) = (tracker(), tracker());
        let mut groups: Vec<(Vec<u8>, Vec<u8>)> = exchanges.clone();
        if pipelined {
            // Nothing goes on behind what runs before that is answered.
            let exchanges = exchanges.iter().filter(|(sent, _)| !matches!(sent[4], 0x03 | 0x17));
            groups = vec![(
                exchanges.clone().flat_map(|(sent, _)| sent.clone()).collect(),
                exchanges.flat_map(|(_, heard)| heard.clone()).collect(),
            )];
        }
        for (sent, heard) in groups {
            let whole = (sends(&mut one, &sent), hears(&mut one, &heard));
            let parts = (
                pieces(&sent, &sizes, |input| other.client_bytes(input, Admission::All).forward),
                pieces(&heard, &sizes, |input| {
                    let scan = other.server_bytes(input, &|_| None);
                    assert!(!scan.violation && !scan.farewell);
                    scan.forward
                }),
            );
            prop_assert_eq!(whole, parts);
            prop_assert!(one.is_answered() && other.is_answered());
        }
        prop_assert_eq!(one.wire(), other.wire());
        prop_assert_eq!((one.fate(), one.drift(), one.is_quiet()), (other.fate(), other.drift(), other.is_quiet()));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), heard in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut tracker = tracker();
        let mut input = BytesMut::from(&bytes[..]);
        let scan = tracker.client_bytes(&mut input, Admission::All);
        prop_assert!(scan.forward <= input.len());
        let mut input = BytesMut::from(&heard[..]);
        let scan = tracker.server_bytes(&mut input, &|_| None);
        prop_assert!(scan.forward <= input.len());
    }
}

/// Asks in order: text, answer, and what is known then.
#[track_caller]
fn drifts(tracker: &mut Tracker, steps: &[(&str, Vec<u8>, Drift)]) {
    for (text, answer, drift) in steps {
        asks(tracker, text, answer);
        assert_eq!(tracker.drift(), *drift, "{text}");
    }
}

#[test]
fn what_texts_tell_is_known_without_a_look() {
    let mut tracker = tracker();
    drifts(
        &mut tracker,
        &[
            ("SELECT 1", rows(1, 2), Drift::Benign),
            ("SET NAMES utf8mb4", ok(2), Drift::Known),
            ("SET @a = 5", ok(2), Drift::Known),
            ("SELECT @a, @b", rows(1, 2), Drift::Known),
            ("SET autocommit = 0", ok(0), Drift::Known),
            ("INSERT INTO t VALUES (@a)", ok(1), Drift::Known),
        ],
    );
    assert_eq!(tracker.wire().told, ["SET NAMES utf8mb4", "SET @a = 5", "SET autocommit = 0"]);
    // Behind a crash they are repeated, and still not looked at.
    tracker.reattached();
    assert_eq!((tracker.drift(), tracker.wire().told.len()), (Drift::Known, 3));
    sends(&mut tracker, &query("SET @a = 6"));
    assert_eq!(tracker.drift(), Drift::Possible);
    hears(&mut tracker, &ok(0x4002));
    assert_eq!(tracker.drift(), Drift::Known);
    tracker.complete(&mut State { status: Some(2), ..State::default() });
    assert_eq!((tracker.drift(), tracker.wire().told.len()), (Drift::None, 0));
}

#[test]
fn what_is_not_all_told_must_be_asked() {
    for (text, answer) in [
        ("SET @a = 5, time_zone = 'nowhere'", error(1298)),
        ("SET @a = @b", ok(2)),
        ("SELECT @a := 5", rows(1, 2)),
        ("SELECT 1 INTO @a", ok(2)),
        ("SELECT 1, 2 INTO @a, @b", ok(2)),
        ("LOAD DATA LOCAL INFILE 'x' INTO TABLE t (@a)", error(1148)),
        ("SET @a = 5; SET @b = 6", [ok(2 | 8), ok(2)].concat()),
        ("SET NAMES utf8mb4; CALL p()", [ok(2 | 8), ok(2)].concat()),
    ] {
        let mut tracker = tracker();
        drifts(&mut tracker, &[(text, answer, Drift::Possible)]);
    }
    let mut tracker = tracker();
    for _ in 0..MAX_TOLD {
        drifts(&mut tracker, &[("SET @a = 5", ok(2), Drift::Known)]);
    }
    drifts(&mut tracker, &[("SET @a = 5", ok(2), Drift::Possible)]);
}

#[test]
fn the_oldest_server_does_not_know_variables_by_name() {
    let mut tracker = with(bit::PROTOCOL_41, Product::MySql56);
    drifts(
        &mut tracker,
        &[
            ("SET @a = 5", ok(2), Drift::Known),
            ("SELECT @a", rows(1, 2), Drift::Known),
            // A routine may have set it.
            ("SELECT @b", rows(1, 2), Drift::Possible),
        ],
    );
}

#[test]
fn more_found_rows_than_the_server_can_be_told_are_the_routers_to_say() {
    let mut tracker = tracker();
    let found = |rows| State { status: Some(2), found_rows: Some(rows), ..State::default() };
    asks(&mut tracker, "SELECT SQL_CALC_FOUND_ROWS 1 FROM t LIMIT 1", &rows(1, 2));
    tracker.complete(&mut found(2_000_000));
    let ask = |tracker: &mut Tracker, text: &str| looked_at(tracker, &query(text), &Intercepted::Answered).1;
    assert_eq!(ask(&mut tracker, "SELECT FOUND_ROWS() + 1")[4], 0xff);
    assert!(ask(&mut tracker, "SELECT FOUND_ROWS()").windows(7).any(|text| text == b"2000000"));
    // That was a row, too.
    assert!(ask(&mut tracker, "SELECT FOUND_ROWS()").windows(2).any(|text| text == b"\x011"));
    // What lets the server's own number be seen is refused until a statement with rows has made it right.
    asks(&mut tracker, "SET @a = 5", &ok(2));
    assert_eq!(ask(&mut tracker, "SELECT FOUND_ROWS()")[4], 0xff);
    // A look in between does not make it known.
    let mut state = found(1);
    tracker.complete(&mut state);
    assert_eq!(state.found_rows, None);
    assert_eq!(ask(&mut tracker, "SELECT FOUND_ROWS()")[4], 0xff);
    asks(&mut tracker, "SELECT 1", &rows(1, 2));
    asks(&mut tracker, "SELECT FOUND_ROWS()", &rows(1, 2));
}
