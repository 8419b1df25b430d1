//! What real clients and servers have said to each other, behind the log in. A file's first line has the capabilities that
//! held; then one line for each read, `C` of the client and `S` of the server. The clients: PyMySQL, MySQL's connector for
//! Python with prepared statements, a script of raw packets (cursors, long data, options, a pipeline), and the product's
//! own command line.

use super::*;

const RECORDED: [(Product, &[&str]); 3] = [
    (
        Product::MariaDb,
        &[
            include_str!("recorded/mariadb-0.txt"),
            include_str!("recorded/mariadb-1.txt"),
            include_str!("recorded/mariadb-2.txt"),
            include_str!("recorded/mariadb-3.txt"),
        ],
    ),
    (
        Product::MySql,
        &[
            include_str!("recorded/mysql9-0.txt"),
            include_str!("recorded/mysql9-1.txt"),
            include_str!("recorded/mysql9-2.txt"),
            include_str!("recorded/mysql9-3.txt"),
        ],
    ),
    (
        Product::MySql56,
        &[
            include_str!("recorded/mysql56-0.txt"),
            include_str!("recorded/mysql56-1.txt"),
            include_str!("recorded/mysql56-2.txt"),
            include_str!("recorded/mysql56-3.txt"),
        ],
    ),
];

/// Lets past what may go to the server.
fn say(tracker: &mut Tracker, client: &mut BytesMut) -> Rest {
    let scan = tracker.client_bytes(client, Admission::All);
    let _passed = client.split_to(scan.forward);
    scan.rest
}

/// Plays a recording, `size` bytes at a time. Returns what the tracker let past to the client.
fn play(product: Product, recorded: &str, size: usize) -> (Tracker, Vec<u8>) {
    let mut lines = recorded.lines();
    let capabilities = u64::from_str_radix(lines.next().unwrap(), 16).unwrap();
    let mut tracker = with(capabilities, product);
    let (mut client, mut server, mut out) = (BytesMut::new(), BytesMut::new(), Vec::new());
    for (number, line) in lines.enumerate() {
        let bytes = hex::decode(&line[2..]).unwrap();
        for part in bytes.chunks(size) {
            if line.starts_with('C') {
                client.extend_from_slice(part);
                let rest = say(&mut tracker, &mut client);
                let goes_on = matches!(rest, Rest::Incomplete | Rest::Draining | Rest::Goodbye);
                assert!(goes_on, "{product:?} line {number}: {rest:?}");
                continue;
            }
            // Commands that were held back go on when those before them are answered.
            let size = if client.is_empty() { part.len() } else { 1 };
            for part in part.chunks(size) {
                server.extend_from_slice(part);
                let scan = tracker.server_bytes(&mut server, &|_| None);
                assert!(!scan.violation && !scan.farewell, "{product:?} line {number}: {line}");
                out.extend_from_slice(&server.split_to(scan.forward));
                say(&mut tracker, &mut client);
            }
        }
        let whole = line.starts_with('S') && server.is_empty();
        if whole && tracker.pending.is_empty() {
            assert_eq!(tracker.answer.phase, answer::Phase::First, "{product:?} line {number}");
        }
    }
    assert!(server.is_empty());
    (tracker, out)
}

#[test]
fn real_conversations_are_followed_to_their_end() {
    for (product, recordings) in RECORDED {
        for (number, recorded) in recordings.iter().enumerate() {
            let (whole, passed) = play(product, recorded, usize::MAX);
            assert!(whole.is_answered() && whole.is_quiet(), "{product:?} {number}: {:?}", whole.pending);
            let said: usize =
                recorded.lines().filter(|line| line.starts_with('S')).map(|line| (line.len() - 2) / 2).sum();
            assert_eq!(passed.len(), said, "{product:?} {number}");
            for size in [1, 7, 100] {
                let (parts, passed_in_parts) = play(product, recorded, size);
                assert_eq!(parts.wire(), whole.wire(), "{product:?} {number}, {size} bytes at a time");
                assert!(passed_in_parts == passed);
            }
        }
    }
}

#[test]
fn what_the_wire_knows_after_real_conversations() {
    for (product, recordings) in RECORDED {
        let (tracker, _) = play(product, recordings[0], usize::MAX);
        let wire = tracker.wire();
        assert_eq!(wire.user_variables, ["a"]);
        assert_eq!((wire.creates, wire.prepares, wire.deallocations), (1, 1, 1));
        assert!(wire.called && wire.statements.is_empty() && wire.named_statements.is_empty());
        assert_eq!(wire.context.database.as_deref(), Some(&b"app"[..]));
        assert_eq!(wire.row_count, -1);
        let (tracker, _) = play(product, recordings[2], usize::MAX);
        let left = tracker.wire().statements.len();
        // A reset of the connection forgets the statement of the pipeline; the oldest product has none.
        assert_eq!(left, usize::from(product == Product::MySql56));
    }
}
