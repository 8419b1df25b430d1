//! Captures sessions on real servers, restores them on other connections, and compares: what the router asks afterwards,
//! what the client would see afterwards, and what the old connection looks like after it was asked.
//!
//! Needs `SCALEPOINT_MARIADB_BIN`, `SCALEPOINT_MYSQL9_BIN` and `SCALEPOINT_MYSQL56_BIN` (`scripts/install-test-servers`).

use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use scalepoint::engine::mysql::answer::{Answer, Script};
use scalepoint::engine::mysql::capability::{Contract, Product, bit};
use scalepoint::engine::mysql::capture::{Capture, observable, observation};
use scalepoint::engine::mysql::log_in::LoggedIn;
use scalepoint::engine::mysql::packet;
use scalepoint::engine::mysql::restore::{Restore, Restored};
use scalepoint::engine::mysql::state::{Context, NamedStatement, Names, State, Statement, Value, Wire};
use scalepoint::engine::{Dialogue, DialogueError, Drift, Obstacle};

const PRODUCTS: [Product; 3] = [Product::MariaDb, Product::MySql, Product::MySql56];
/// The capabilities that every client of the day has, but for those that change how answers are framed.
const PLAIN: u64 = bit::LONG_PASSWORD
    | bit::LONG_FLAG
    | bit::PROTOCOL_41
    | bit::TRANSACTIONS
    | bit::SECURE_CONNECTION
    | bit::PLUGIN_AUTH
    | bit::MULTI_RESULTS
    | bit::PS_MULTI_RESULTS;
const MODERN: u64 = PLAIN | bit::DEPRECATE_EOF | bit::SESSION_TRACK | bit::QUERY_ATTRIBUTES;

/// A server in a folder of its own.
struct Server {
    product: Product,
    folder: tempfile::TempDir,
    process: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}

fn environment(name: &str) -> PathBuf {
    std::env::var_os(name).unwrap_or_else(|| panic!("{name} is not set")).into()
}

fn run(command: &mut Command, input: Option<&str>) {
    let mut said = tempfile::tempfile().unwrap();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(said.try_clone().unwrap())
        .stderr(said.try_clone().unwrap())
        .spawn()
        .expect("the program starts");
    // A program that has failed reads no more; what it said tells why.
    let written = child.stdin.take().unwrap().write_all(input.unwrap_or_default().as_bytes());
    let status = child.wait().unwrap();
    let mut text = String::new();
    said.rewind().unwrap();
    said.read_to_string(&mut text).unwrap();
    assert!(status.success(), "{command:?}: {status}, {written:?}\n{text}");
}

impl Server {
    fn start(product: Product) -> Server {
        let folder = tempfile::tempdir().unwrap();
        own(folder.path());
        let data = folder.path().join("data");
        let program = match product {
            Product::MariaDb => prepare_mariadb(&data),
            Product::MySql => prepare_mysql(&data),
            Product::MySql56 => prepare_mysql_56(&data),
        };
        let mut command = program;
        // A server that starts clears other servers' temporary tables out of a folder that they share.
        command.env("TMPDIR", folder.path());
        command.arg("--skip-networking").arg("--innodb-buffer-pool-size=32M");
        command.arg(format!("--socket={}", folder.path().join("s").display()));
        command.arg(format!("--pid-file={}", folder.path().join("p").display()));
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let process =
            command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let mut server = Server { product, folder, process };
        server.await_ready();
        let mut root = server.connect("root", "", PLAIN);
        for sql in [
            "CREATE DATABASE app",
            "CREATE DATABASE other DEFAULT CHARACTER SET latin1",
            "CREATE DATABASE `dätä` DEFAULT CHARACTER SET utf8mb4",
            "CREATE USER app@localhost",
            "GRANT ALL ON app.* TO app@localhost",
            "GRANT ALL ON other.* TO app@localhost",
            "GRANT ALL ON `dätä`.* TO app@localhost",
            "CREATE TABLE app.t (a INT PRIMARY KEY AUTO_INCREMENT, b VARCHAR(20)) ENGINE=InnoDB",
            "INSERT INTO app.t (b) VALUES ('x'),('y'),('z')",
            "CREATE TABLE other.t (c INT) ENGINE=InnoDB",
            "CREATE PROCEDURE app.hidden_lock() DO GET_LOCK('hidden', 1)",
            "CREATE PROCEDURE app.hidden_table() CREATE TEMPORARY TABLE hidden_t (a INT)",
            "CREATE PROCEDURE app.hidden_statement() PREPARE hidden_s FROM 'SELECT 1'",
            "CREATE PROCEDURE app.hidden_variable() SET @hidden = 5",
        ] {
            root.run(sql);
        }
        if product != Product::MySql56 {
            for sql in ["CREATE ROLE reader", "GRANT reader TO app@localhost"] {
                root.run(sql);
            }
        }
        server
    }

    fn await_ready(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while UnixStream::connect(self.folder.path().join("s")).is_err() {
            assert!(self.process.try_wait().unwrap().is_none(), "the server has ended");
            assert!(Instant::now() < deadline, "the server does not answer");
            #[expect(clippy::disallowed_methods, reason = "no runtime here")]
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn connect(&self, user: &str, database: &str, wanted: u64) -> Connection {
        Connection::open(self, user, database, wanted)
    }
}

fn own(path: &std::path::Path) {
    if nix::unistd::geteuid().is_root() {
        run(Command::new("chown").arg("-R").arg("mysql").arg(path), None);
    }
}

fn as_mysql(command: &mut Command) -> &mut Command {
    if nix::unistd::geteuid().is_root() { command.arg("--user=mysql") } else { command }
}

fn prepare_mariadb(data: &std::path::Path) -> Command {
    let folder = environment("SCALEPOINT_MARIADB_BIN");
    let client = environment("SCALEPOINT_MARIADB_CLIENT_BIN");
    let mut install = Command::new(client.join("mariadb-install-db"));
    install.env("TMPDIR", data.parent().unwrap());
    install.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
    run(as_mysql(&mut install).arg(format!("--datadir={}", data.display())), None);
    let mut command = Command::new(folder.join("mariadbd"));
    command.arg("--no-defaults").arg(format!("--datadir={}", data.display()));
    as_mysql(&mut command).args(["--plugin-load-add=metadata_lock_info", "--session-track-state-change=1"]);
    command
}

fn prepare_mysql(data: &std::path::Path) -> Command {
    let folder = environment("SCALEPOINT_MYSQL9_BIN");
    let base = folder.parent().unwrap().to_owned();
    let command = || {
        let mut command = Command::new(folder.join("mysqld"));
        command.env("TMPDIR", data.parent().unwrap());
        command.arg("--no-defaults").arg(format!("--datadir={}", data.display()));
        command.arg(format!("--basedir={}", base.display()));
        command.arg(format!("--lc-messages-dir={}/share/mysql", base.display()));
        command.arg(format!("--plugin-dir={}/lib/mysql/plugin", base.display()));
        command.arg(format!("--character-sets-dir={}/share/mysql/charsets", base.display()));
        command.args(["--secure-file-priv=NULL", "--innodb-redo-log-capacity=8M"]);
        as_mysql(&mut command);
        command
    };
    run(command().arg("--initialize-insecure"), None);
    let mut server = command();
    server.args(["--mysqlx=OFF", "--session-track-state-change=1"]);
    server
}

fn prepare_mysql_56(data: &std::path::Path) -> Command {
    let folder = environment("SCALEPOINT_MYSQL56_BIN");
    let share = folder.join("share");
    for part in ["mysql", "test"] {
        std::fs::create_dir_all(data.join(part)).unwrap();
    }
    own(data);
    let command = || {
        let mut command = Command::new(folder.join("mysqld"));
        command.env("TMPDIR", data.parent().unwrap());
        command.env("LD_LIBRARY_PATH", &folder).arg("--no-defaults");
        command.arg(format!("--basedir={}", folder.display()));
        command.arg(format!("--lc-messages-dir={}", share.display()));
        command.arg(format!("--datadir={}", data.display()));
        as_mysql(&mut command);
        command
    };
    let read = |name: &str| std::fs::read_to_string(share.join(name)).unwrap();
    let sql = format!(
        "use mysql;\n{}{}delete from mysql.user where user='';\n",
        read("mysql_system_tables.sql"),
        read("mysql_system_tables_data.sql")
    );
    run(command().arg("--bootstrap").arg("--innodb-buffer-pool-size=32M"), Some(&sql));
    command()
}

/// One logged-in connection, and what a tracker would know of it.
struct Connection {
    stream: UnixStream,
    input: BytesMut,
    logged_in: LoggedIn,
    wire: Wire,
}

impl Connection {
    fn open(server: &Server, user: &str, database: &str, wanted: u64) -> Connection {
        let mut stream = UnixStream::connect(server.folder.path().join("s")).unwrap();
        let mut input = BytesMut::new();
        let hello = take(&mut stream, &mut input);
        let mut rest = &hello.body[1..];
        let version = String::from_utf8(packet::take_text(&mut rest).unwrap().to_vec()).unwrap();
        let connection_id = rest.get_u32_le();
        rest.advance(9);
        let mut offered = u64::from(rest.get_u16_le());
        let collation = rest.get_u8();
        rest.advance(2);
        offered |= u64::from(rest.get_u16_le()) << 16;
        rest.advance(1 + 10 + 13);
        let plugin = packet::take_text(&mut rest).unwrap();
        let capabilities =
            (wanted | if database.is_empty() { 0 } else { bit::CONNECT_WITH_DB }) & offered & 0xffff_ffff;
        let mut out = BytesMut::new();
        packet::put(&mut out, hello.sequence + 1, |out| {
            out.put_u32_le(u32::try_from(capabilities).unwrap());
            out.put_u32_le(1 << 24);
            out.put_u8(if collation == 255 { 45 } else { 33 });
            out.put_bytes(0, 23);
            out.extend_from_slice(user.as_bytes());
            out.put_u16_le(0);
            if !database.is_empty() {
                out.extend_from_slice(database.as_bytes());
                out.put_u8(0);
            }
            out.extend_from_slice(plugin);
            out.put_u8(0);
        });
        stream.write_all(&out).unwrap();
        let ok = take(&mut stream, &mut input);
        assert_eq!(ok.body[0], 0, "not let in: {:?}", ok.body);
        let server =
            Contract { product: server.product, version, capabilities: offered, ..Contract::default() };
        let logged_in = LoggedIn { connection_id, server, capabilities, ok: ok.body };
        let mut connection = Connection { stream, input, logged_in, wire: Wire::default() };
        connection.wire.row_count = 0;
        connection
    }

    fn drive<D: Dialogue>(&mut self, mut dialogue: D) -> Result<D::Output, DialogueError> {
        let mut out = BytesMut::new();
        dialogue.open(&mut out);
        loop {
            if let Some(output) = dialogue.receive(&mut self.input, &mut out)? {
                assert!(self.input.is_empty(), "an answer is left over");
                return Ok(output);
            }
            self.stream.write_all(&out.split()).unwrap();
            read_some(&mut self.stream, &mut self.input);
        }
    }

    fn answer(&mut self, write: impl FnOnce(&mut Script<()>, &mut BytesMut)) -> Answer {
        let (mut script, mut out) = (Script::new(self.logged_in.capabilities), BytesMut::new());
        write(&mut script, &mut out);
        self.stream.write_all(&out).unwrap();
        loop {
            if let Some(((), answer)) = script.take(&mut self.input).unwrap() {
                return answer;
            }
            read_some(&mut self.stream, &mut self.input);
        }
    }

    /// As the client; the wire learns what a tracker would.
    fn query(&mut self, sql: &str) -> Answer {
        self.query_bytes(sql.as_bytes())
    }

    fn query_bytes(&mut self, sql: &[u8]) -> Answer {
        let answer = self.answer(|script, out| script.query(out, sql, ()));
        self.wire.failed = matches!(answer, Answer::Failed(_));
        self.wire.row_count = if matches!(answer, Answer::Done { .. }) { 0 } else { -1 };
        self.wire.warnings = 1;
        answer
    }

    fn run(&mut self, sql: &str) {
        let answer = self.query(sql);
        assert!(!matches!(answer, Answer::Failed(_)), "{sql}: {answer:?}");
    }

    /// Values as texts.
    fn values(&mut self, sql: &str) -> Vec<Vec<Option<Bytes>>> {
        match self.query(sql) {
            Answer::Rows { rows, .. } => rows,
            other => panic!("{sql}: {other:?}"),
        }
    }

    /// `COM_STMT_PREPARE`; the client's id is the backend's.
    fn prepare(&mut self, text: &[u8], context: Context) -> u32 {
        let Answer::Prepared(prepared) = self.answer(|script, out| script.prepare(out, text, ())) else {
            panic!("not prepared")
        };
        self.wire.statements.push(Statement {
            id: prepared.id,
            text: Bytes::copy_from_slice(text),
            context,
            parameters: prepared.parameters,
            columns: prepared.columns,
            definitions: Bytes::new(),
        });
        prepared.id
    }

    /// `COM_STMT_EXECUTE` of a statement without parameters: the first packet of the answer, and the rows raw.
    fn execute(&mut self, id: u32) -> Vec<u8> {
        let mut out = BytesMut::new();
        packet::put(&mut out, 0, |out| {
            out.put_u8(0x17);
            out.put_u32_le(id);
            out.put_u8(0);
            out.put_u32_le(1);
        });
        self.stream.write_all(&out).unwrap();
        let (mut all, mut ends) = (Vec::new(), 0);
        let old = self.logged_in.capabilities & bit::DEPRECATE_EOF == 0;
        loop {
            let packet = take(&mut self.stream, &mut self.input);
            let end = packet.body[0] == 0xfe || packet.body[0] == 0xff;
            if !end {
                all.extend_from_slice(&packet.body);
            }
            ends += usize::from(end);
            if packet.body[0] == 0xff || ends == if old { 2 } else { 1 } {
                return all;
            }
        }
    }

    fn capture(&mut self, server: &Server) -> Result<State, DialogueError> {
        self.capture_after(server, Drift::Possible, &State::default())
    }

    fn capture_after(&mut self, server: &Server, drift: Drift, last: &State) -> Result<State, DialogueError> {
        let text = |value: Option<Bytes>| value.map(|value| String::from_utf8(value.to_vec()).unwrap());
        let observed: Vec<Vec<Option<String>>> = observable(&self.logged_in)
            .map(|id| server.connect("root", "", MODERN).values(&observation(&[id])))
            .unwrap_or_default()
            .into_iter()
            .map(|row| row.into_iter().map(text).collect())
            .collect();
        let capture = Capture::of(&self.wire, drift, &self.logged_in, last, &observed);
        self.drive(capture).map(|captured| captured.state)
    }

    fn restore(&mut self, wire: &Wire, state: &State) -> Result<Restored, DialogueError> {
        let restored = self.drive(Restore::new(wire, &self.logged_in, state))?;
        self.wire = Wire { prepares: restored.prepares, creates: restored.creates, ..wire.clone() };
        self.wire.failed = false;
        self.wire.warnings = 0;
        (self.wire.temporary_creates, self.wire.deallocations) = (0, 0);
        Ok(restored)
    }
}

fn read_some(stream: &mut UnixStream, input: &mut BytesMut) {
    let mut buffer = vec![0; 65536];
    let read = stream.read(&mut buffer).unwrap();
    assert!(read > 0, "the server has closed the connection");
    input.extend_from_slice(&buffer[..read]);
}

fn take(stream: &mut UnixStream, input: &mut BytesMut) -> packet::Packet {
    loop {
        if let Some(packet) = packet::take(input, packet::SPLIT).unwrap() {
            return packet;
        }
        read_some(stream, input);
    }
}

/// What differs between any two connections, or cannot be set.
fn comparable(mut state: State) -> State {
    state.status = None;
    (state.warnings, state.errors) = (Vec::new(), 0);
    // Of one character set's collations `SET NAMES … COLLATE …` may have chosen another than the restore can.
    state.results = 0;
    for context in state
        .statements
        .iter_mut()
        .map(|one| &mut one.context)
        .chain(state.named_statements.iter_mut().map(|one| &mut one.context))
    {
        context.era = 0;
    }
    state
}

/// A session in the words of a client, and what it must see afterwards as before.
struct Case {
    not_on: &'static [Product],
    statements: &'static [&'static str],
    probes: &'static [&'static str],
}

const EVERYWHERE: &[Product] = &[];
const fn case(statements: &'static [&'static str], probes: &'static [&'static str]) -> Case {
    Case { not_on: EVERYWHERE, statements, probes }
}

const FOUND: &str = "SELECT FOUND_ROWS()";
const INSERTED: &str = "SELECT LAST_INSERT_ID(), @@insert_id";

const CASES: &[Case] = &[
    case(
        &[],
        &[FOUND, INSERTED, "SELECT DATABASE()", "SELECT @@character_set_client, @@collation_connection"],
    ),
    case(&["SELECT 1"], &[FOUND]),
    case(&["SELECT b FROM t"], &[FOUND]),
    case(&["SELECT SQL_CALC_FOUND_ROWS 1 FROM t x, t y, t z, t u, t v LIMIT 1"], &[FOUND]),
    case(&["SELECT 1 FROM t WHERE a < 0"], &[FOUND]),
    case(&["INSERT INTO t (b) VALUES ('new')"], &[INSERTED, "SELECT ROW_COUNT() >= -1"]),
    case(&["SET insert_id = 1000"], &[INSERTED]),
    case(&["SET timestamp = 1234567890.25"], &["SELECT NOW(6), @@timestamp"]),
    case(
        &[
            "SET NAMES latin1",
            "SET sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES'",
            "SET time_zone = '+05:30'",
        ],
        &["SELECT @@sql_mode, @@time_zone, @@character_set_results, @@character_set_connection"],
    ),
    case(&["SET NAMES utf8 COLLATE utf8_bin"], &["SELECT @@collation_connection"]),
    case(&["SET character_set_results = NULL"], &["SELECT @@character_set_results IS NULL"]),
    case(&["SET character_set_results = utf16", "SET @a = 'x'"], &["SELECT HEX(@a), @@autocommit"]),
    case(&["SET character_set_connection = ucs2", "SET @a = 'x', @b = 12"], &["SELECT HEX(@a), @b + 1"]),
    case(&["SET character_set_connection = utf32, character_set_results = ucs2"], &["SELECT @@sql_mode"]),
    case(&["SET sql_mode = 'ANSI,PIPES_AS_CONCAT,IGNORE_SPACE'"], &["SELECT @@sql_mode"]),
    case(
        &["SET autocommit = 0, foreign_key_checks = 0, unique_checks = 0, sql_auto_is_null = 1"],
        &["SELECT @@autocommit, @@foreign_key_checks, @@unique_checks, @@sql_auto_is_null"],
    ),
    case(
        &["SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED", "SET SESSION TRANSACTION READ ONLY"],
        &["SHOW VARIABLES WHERE Variable_name IN ('tx_isolation', 'transaction_isolation', 'tx_read_only')"],
    ),
    case(
        &[
            "SET sort_buffer_size = 300000, join_buffer_size = 300000, wait_timeout = 77, long_query_time = 0.25",
            "SET lc_time_names = 'de_DE', group_concat_max_len = 7, optimizer_switch = 'mrr=off'",
            "SET optimizer_trace = 'enabled=on', div_precision_increment = 9, max_sort_length = 2000",
        ],
        &[
            "SELECT @@sort_buffer_size, @@join_buffer_size, @@wait_timeout, @@long_query_time",
            "SELECT @@lc_time_names, @@group_concat_max_len, @@optimizer_switch, @@optimizer_trace, 1/3",
        ],
    ),
    // The client's own limits are in the way of the questions.
    case(
        &["SET sql_select_limit = 1", "SET @a = 1, @b = 2, @c = 3", "SELECT b FROM t"],
        &[FOUND, "SELECT @@sql_select_limit, @a, @b, @c"],
    ),
    case(
        &["SET sql_select_limit = 1000, max_join_size = 1, sql_big_selects = 0", "SELECT 1"],
        &[FOUND, "SELECT @@sql_select_limit, @@max_join_size, @@sql_big_selects"],
    ),
    case(&["USE other"], &["SELECT DATABASE(), @@character_set_database", "SELECT c FROM t"]),
    case(&["USE `dätä`"], &["SELECT HEX(DATABASE())"]),
    case(
        &[
            "SET @a = 5, @d = 0.1e0 + 0.2e0, @e = -1.5e300, @s = _utf8mb4'x\u{e9}\u{1f600}', @b = _binary X'00FF27'",
            "SET @u = CAST(18446744073709551615 AS UNSIGNED), @c = CAST(1.5 AS DECIMAL(10,3)), @n = NULL",
            "SET @l = _latin1 X'E9' COLLATE latin1_german1_ci, @m = -9223372036854775808, @z = ''",
            "SET @w = _utf16 X'00410042', @i = CAST(7 AS DECIMAL(5,0)), @t = NOW(), @`q``'\" x` = 'it''s'",
        ],
        &[
            "SELECT HEX(@a), @d, @e, HEX(@s), COLLATION(@s), HEX(@b), COLLATION(@b), @u, @c, @n",
            "SELECT HEX(@l), COLLATION(@l), @m, @z, HEX(@w), COLLATION(@w), @i, @t, @`q``'\" x`, @b = @l",
        ],
    ),
    case(
        &["SET @big = REPEAT(_latin1 X'E9', 600000), @bin = REPEAT(X'00FF', 200000)"],
        &["SELECT CRC32(@big), LENGTH(@big), COLLATION(@big), CRC32(@bin), COLLATION(@bin)"],
    ),
    case(&["SELECT @a := 7", "SELECT 3 INTO @b"], &["SELECT @a, @b"]),
    Case {
        not_on: &[Product::MySql56],
        statements: &["SET ROLE reader"],
        probes: &["SELECT CURRENT_ROLE()"],
    },
    Case {
        not_on: &[Product::MySql, Product::MySql56],
        statements: &["SET rand_seed1 = 5, rand_seed2 = 6", "SELECT RAND()"],
        probes: &["SELECT RAND(), RAND()"],
    },
];

/// The names after an `@`, as a tracker would find them.
fn user_variables(sql: &str) -> Vec<Bytes> {
    let mut names = Vec::new();
    let mut rest = sql;
    while let Some(at) = rest.find('@') {
        rest = &rest[at + 1..];
        if let Some(tail) = rest.strip_prefix('@') {
            rest = tail;
            continue;
        }
        let name = if let Some(quoted) = rest.strip_prefix('`') {
            quoted.replace("``", "\u{1}").split('`').next().unwrap().replace('\u{1}', "`")
        } else {
            rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
        };
        names.push(Bytes::from(name.to_lowercase()));
    }
    names
}

fn check_cases(server: &Server, capabilities: u64) {
    for case in CASES.iter().filter(|case| !case.not_on.contains(&server.product)) {
        let mut old = server.connect("app", "app", capabilities);
        for sql in case.statements {
            old.run(sql);
            old.wire.user_variables.extend(user_variables(sql));
        }
        let what = format!("{:?} {:x} {:?}", server.product, capabilities, case.statements);
        let state = old.capture(server).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(state.obstacle, None, "{what}");
        // The old session is as it was.
        let again = old.capture(server).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(comparable(again), comparable(state.clone()), "{what}: the capture left a trace");
        let mut new = server.connect("app", "app", capabilities);
        let wire = old.wire.clone();
        new.restore(&wire, &state).unwrap_or_else(|error| panic!("{what}: {error}"));
        let restored = new.capture(server).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(comparable(restored), comparable(state), "{what}: not restored");
        for probe in case.probes {
            let rows = |answer: Answer| match answer {
                // As above: the bytes are the same, in whichever collation they say they are.
                Answer::Rows { columns, rows, .. } => {
                    (columns.iter().map(|column| (column.kind, column.unsigned)).collect::<Vec<_>>(), rows)
                }
                other => panic!("{what}: {probe}: {other:?}"),
            };
            let (before, after) = (rows(old.query(probe)), rows(new.query(probe)));
            assert_eq!(before, after, "{what}: {probe}");
        }
    }
}

fn here(state: &State, database: &'static str) -> Context {
    Context {
        database: Some(database.into()),
        sql_mode: state.variable(b"sql_mode").cloned(),
        character_set: state.variable(b"character_set_client").cloned(),
        collation: state.variable(b"collation_connection").cloned(),
        names: Names::default(),
        era: 0,
    }
}

/// Statements keep the database, the mode and the character set that they were prepared in.
fn check_statements(server: &Server, capabilities: u64) {
    let mut old = server.connect("app", "app", capabilities);
    let unknown = Context { database: Some("app".into()), ..Context::default() };
    let mut ids = vec![
        old.prepare(b"SELECT * FROM t LIMIT 2", unknown.clone()),
        old.prepare(b"SELECT 'a' \"b\", ?", unknown),
    ];
    let first = old.capture(server).unwrap();
    assert_eq!((first.obstacle, first.statements[0].context.is_known()), (None, true));
    old.run("SET NAMES latin1");
    old.run("SET sql_mode = 'ANSI_QUOTES'");
    let second = old.capture_after(server, Drift::Possible, &first).unwrap();
    let latin = here(&second, "app");
    ids.push(old.prepare(b"SELECT 'caf\xe9' AS \"caf\xe9\", HEX('\xe9')", latin.clone()));
    old.query_bytes(b"PREPARE named FROM 'SELECT HEX(''\xe9''), ''it''''s \\\\\\\\'''");
    let text = Bytes::from_static(b"SELECT HEX('\xe9'), 'it''s \\\\'");
    old.wire.named_statements.push(NamedStatement { name: "named".into(), text, context: latin });
    old.wire.prepares = 1;
    old.run("USE other");
    old.run("SET NAMES utf8mb4");
    let third = here(&old.capture_after(server, Drift::Possible, &second).unwrap(), "other");
    ids.push(old.prepare(b"SELECT * FROM t", third));
    let state = old.capture_after(server, Drift::Possible, &second).unwrap();
    assert_eq!(state.obstacle, None);

    let mut new = server.connect("app", "app", capabilities);
    let wire = old.wire.clone();
    let restored = new.restore(&wire, &state).unwrap();
    assert_eq!(restored.statements.len(), 4);
    for id in [ids[0], ids[2], ids[3]] {
        let (_, backend) = restored.statements.iter().find(|(client, _)| *client == id).unwrap();
        assert_eq!(old.execute(id), new.execute(*backend), "statement {id}");
    }
    assert_eq!(old.values("EXECUTE named"), new.values("EXECUTE named"));
    let again = new.capture_after(server, Drift::Possible, &state).unwrap();
    assert_eq!(again.obstacle, None);
    // What is gone is left out.
    let mut root = server.connect("root", "app", MODERN);
    root.run("CREATE TABLE gone (a INT)");
    old.run("USE app");
    let id = old.prepare(b"SELECT * FROM gone", here(&state, "app"));
    let state = old.capture_after(server, Drift::Possible, &state).unwrap();
    root.run("DROP TABLE gone");
    let mut new = server.connect("app", "app", capabilities);
    let restored = new.restore(&old.wire.clone(), &state).unwrap();
    assert!(restored.statements.iter().all(|(client, _)| *client != id));
    assert_eq!(restored.statements.len(), 4);
}

/// After an error the status is asked for first, and nothing else in an open transaction.
fn check_errors(server: &Server) {
    let mut old = server.connect("app", "app", MODERN);
    old.query("SELECT * FROM nowhere");
    let state = old.capture(server).unwrap();
    assert_eq!((state.obstacle, state.errors, state.warnings.len()), (None, 1, 1));
    assert_eq!(state.warnings[0][1], "1146");
    old.run("BEGIN");
    old.run("INSERT INTO t (b) VALUES ('lost')");
    old.query("SELECT * FROM nowhere");
    let blocked = old.capture_after(server, Drift::Possible, &state).unwrap();
    assert_eq!(blocked.obstacle, Some(Obstacle::OpenTransaction));
    assert_eq!(blocked.variables, state.variables);
    assert_eq!(old.values("SHOW WARNINGS").len(), 1);
    old.run("ROLLBACK");
    old.run("SELECT CAST('a' AS SIGNED)");
    let state = old.capture(server).unwrap();
    assert_eq!((state.obstacle, state.errors, state.warnings.len()), (None, 0, 1));
    // What was said of the next transaction is still said, here and there.
    old.run("SET TRANSACTION READ ONLY");
    let state = old.capture(server).unwrap();
    let mut new = server.connect("app", "app", MODERN);
    let wire = Wire { characteristics: vec!["SET TRANSACTION READ ONLY".into()], ..old.wire.clone() };
    new.restore(&wire, &state).unwrap();
    for connection in [&mut old, &mut new] {
        let answer = connection.query("INSERT INTO t (b) VALUES ('refused')");
        assert!(matches!(answer, Answer::Failed(_)));
        connection.run("COMMIT");
        connection.run("INSERT INTO t (b) VALUES ('taken')");
    }
}

/// A transaction that was begun and has done nothing is begun again.
fn check_begun(server: &Server) {
    let mut old = server.connect("app", "app", MODERN);
    let begin = "START TRANSACTION READ ONLY";
    old.run(begin);
    (old.wire.characteristics, old.wire.begun) = (vec![begin.into()], true);
    let state = old.capture(server).unwrap();
    assert_eq!((state.obstacle, state.status.map(|status| status & 1)), (None, Some(1)));
    let mut new = server.connect("app", "app", MODERN);
    new.restore(&old.wire.clone(), &state).unwrap();
    for connection in [&mut old, &mut new] {
        assert!(matches!(connection.query("INSERT INTO t (b) VALUES ('no')"), Answer::Failed(_)));
        let Answer::Rows { status, .. } = connection.query("SELECT COUNT(*) FROM t") else {
            panic!("no rows")
        };
        assert_eq!(status & 1, 1);
    }
}

/// What only a statement's end changes is asked for alone when nothing else can have changed.
fn check_brief(server: &Server) {
    let mut old = server.connect("app", "app", MODERN);
    for sql in ["SET @a = 5, sort_buffer_size = 300000, sql_select_limit = 2", "SELECT 1"] {
        old.run(sql);
        old.wire.user_variables.extend(user_variables(sql));
    }
    let full = old.capture(server).unwrap();
    old.run("SELECT b FROM t");
    let brief = old.capture_after(server, Drift::Benign, &full).unwrap();
    assert_eq!((full.found_rows, brief.found_rows), (Some(1), Some(2)));
    assert_eq!(comparable(State { found_rows: Some(1), ..brief.clone() }), comparable(full));
    let mut weak = brief;
    weak.weaken();
    server.connect("app", "app", MODERN).restore(&old.wire.clone(), &weak).unwrap();
    assert_eq!(old.values(FOUND), [[Some(Bytes::from_static(b"2"))]]);
    // A session that was never asked is as a log in makes it.
    let mut new = server.connect("app", "app", MODERN);
    let mut restore = Restore::new(&Wire::default(), &new.logged_in, &State::default());
    let mut out = BytesMut::new();
    restore.open(&mut out);
    assert!(out.is_empty() && restore.receive(&mut new.input, &mut out).unwrap().is_some());
}

/// What keeps a session where it is.
fn check_obstacles(server: &Server) {
    use Obstacle::{
        Backup, Handler, NamedLock, OpenTransaction, PreparedStatement, Replication, TableLock,
        TemporaryTable,
    };
    let (mariadb, mysql) = (Product::MariaDb, Product::MySql);
    let table: &[(&[Product], &[&str], Obstacle)] = &[
        (&PRODUCTS, &["BEGIN", "SELECT * FROM t"], OpenTransaction),
        (&PRODUCTS, &["XA START 'x'"], OpenTransaction),
        (&PRODUCTS, &["CREATE TEMPORARY TABLE x (a INT)"], TemporaryTable),
        (&PRODUCTS, &["CREATE TEMPORARY TABLE x SELECT * FROM t"], TemporaryTable),
        (&PRODUCTS, &["CALL hidden_table()"], TemporaryTable),
        (&PRODUCTS, &["CALL hidden_statement()"], PreparedStatement),
        (&PRODUCTS, &["HANDLER t OPEN"], Handler),
        (&[mariadb, mysql], &["LOCK TABLES t READ"], TableLock),
        (&[mariadb, mysql], &["LOCK TABLES t WRITE"], TableLock),
        (&[mariadb, mysql], &["FLUSH TABLES t WITH READ LOCK"], TableLock),
        (&[mariadb, mysql], &["FLUSH TABLES WITH READ LOCK"], TableLock),
        (&[mysql], &["LOCK INSTANCE FOR BACKUP"], TableLock),
        (&[mariadb], &["BACKUP STAGE START"], Backup),
        (&[mariadb], &["BACKUP LOCK app.t"], TableLock),
        (&[mariadb, mysql], &["DO GET_LOCK('x', 1)"], NamedLock),
        (&[mariadb, mysql], &["CALL hidden_lock()"], NamedLock),
        (&[mariadb], &["SET gtid_seq_no = 100"], Replication),
    ];
    for (products, statements, obstacle) in table {
        if !products.contains(&server.product) {
            continue;
        }
        let mut session = server.connect("root", "app", MODERN);
        for sql in *statements {
            session.run(sql);
        }
        let state = session.capture(server).unwrap();
        assert_eq!(state.obstacle, Some(*obstacle), "{:?} {statements:?}", server.product);
    }
    check_no_obstacles(server);
}

/// What is over, or was seen by the wire, is none.
fn check_no_obstacles(server: &Server) {
    let mut session = server.connect("root", "app", MODERN);
    let mut statements = vec!["HANDLER t OPEN", "HANDLER t CLOSE", "LOCK TABLES t READ", "UNLOCK TABLES"];
    statements.extend(["DO GET_LOCK('x', 1)", "DO RELEASE_LOCK('x')", "BEGIN", "SELECT * FROM t", "COMMIT"]);
    statements.extend(["CREATE TEMPORARY TABLE x (a INT)", "DROP TEMPORARY TABLE x"]);
    statements.extend(["PREPARE p FROM 'SELECT 1'", "DEALLOCATE PREPARE p"]);
    for sql in statements {
        session.run(sql);
    }
    (session.wire.creates, session.wire.temporary_creates) = (1, 1);
    (session.wire.prepares, session.wire.deallocations) = (1, 1);
    assert_eq!(session.capture(server).unwrap().obstacle, None);
    // A suspicion where the server could be asked is none.
    session.wire.suspicion = Some(Obstacle::NamedLock);
    let suspected = (server.product == Product::MySql56).then_some(Obstacle::NamedLock);
    assert_eq!(session.capture(server).unwrap().obstacle, suspected);
    // What a routine has set is found where the server can be asked.
    let mut session = server.connect("app", "app", MODERN);
    session.run("CALL hidden_variable()");
    let found = session.capture(server).unwrap().user_variables;
    let expected: &[(Bytes, Value)] = &[("hidden".into(), Value::Int(5))];
    assert_eq!(found, if server.product == Product::MySql56 { &[] } else { expected });
}

/// A variable that only some may set and that this user may not set.
fn check_privileges(server: &Server) {
    let mut old = server.connect("app", "app", MODERN);
    let state = old.capture(server).unwrap();
    let with = |name: &'static str, value: &'static str| {
        let mut state = state.clone();
        state.variables.push((name.into(), Some(value.into())));
        let mut new = server.connect("app", "app", MODERN);
        new.restore(&old.wire, &state)
    };
    with("binlog_format", "ROW").unwrap();
    assert!(matches!(with("sql_log_bin", "0"), Err(DialogueError::Unfaithful(_))));
    assert!(matches!(with("no_such_variable", "0"), Err(DialogueError::Unfaithful(_))));
}

/// A release that nobody has made a list of variables for is asked for its own.
fn check_listed(server: &Server) {
    let mut old = server.connect("app", "app", MODERN);
    let mut new = server.connect("app", "app", MODERN);
    for connection in [&mut old, &mut new] {
        connection.logged_in.server.version = "0.0".into();
    }
    old.run("SET sort_buffer_size = 300000, sql_notes = 0, long_query_time = 0.5, sql_select_limit = 3");
    let state = old.capture(server).unwrap();
    assert_eq!(state.variable(b"sort_buffer_size").map(|value| &value[..]), Some(&b"300000"[..]));
    new.restore(&old.wire.clone(), &state).unwrap();
    assert_eq!(comparable(new.capture(server).unwrap()), comparable(state));
}

/// Without the plugin, MariaDB is judged by what its counters and the client's statements tell.
fn check_without_plugin(server: &Server) {
    server.connect("root", "", MODERN).run("UNINSTALL SONAME 'metadata_lock_info'");
    let mut session = server.connect("app", "app", MODERN);
    assert_eq!(session.capture(server).unwrap().obstacle, None);
    session.wire.suspicion = Some(Obstacle::NamedLock);
    assert_eq!(session.capture(server).unwrap().obstacle, Some(Obstacle::NamedLock));
    session.run("HANDLER t OPEN");
    assert_eq!(session.capture(server).unwrap().obstacle, Some(Obstacle::Handler));
}

fn check(product: Product) {
    let server = Server::start(product);
    for capabilities in [PLAIN, MODERN] {
        check_cases(&server, capabilities);
        check_statements(&server, capabilities);
    }
    check_errors(&server);
    check_begun(&server);
    check_brief(&server);
    check_obstacles(&server);
    check_privileges(&server);
    check_listed(&server);
    if product == Product::MariaDb {
        check_without_plugin(&server);
    }
}

#[test]
fn mariadb_sessions_are_the_same_afterwards() {
    check(Product::MariaDb);
}

#[test]
fn mysql_sessions_are_the_same_afterwards() {
    check(Product::MySql);
}

#[test]
fn mysql_56_sessions_are_the_same_afterwards() {
    check(Product::MySql56);
}
