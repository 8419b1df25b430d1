//! The command line against a running server: JSON, exit codes, signals, and what is said when something is wrong.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdin, Output, Stdio};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{PATIENCE, Server, cluster, eventually, folder, scalepoint, stderr, stdout, within};

/// The command ended with this exit code and one line that says this.
fn ends_with(output: &Output, code: i32, words: &str) {
    let said = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{}{said}", stdout(output));
    assert!(said.contains(words), "{said}");
    assert_eq!(said.trim_end().lines().count(), 1, "{said}");
}

/// The names of an object's members, sorted.
fn names(object: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

/// Runs `scalepoint` on a file of its own in `folder`.
fn with_file(folder: &Path, words: &[&str], text: &str) -> Output {
    let file = folder.join("scalepoint.toml");
    std::fs::write(&file, text).unwrap();
    within(PATIENCE, scalepoint()).args(words).arg("--config").arg(file).output().unwrap()
}

/// A psql that stays, and what it answered last.
struct Session {
    process: Child,
    input: ChildStdin,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Session {
    fn open(server: &Server) -> Session {
        let mut command = server.psql();
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = process.stdin.take().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Session { process, input, lines }
    }

    /// Runs SQL that yields one line.
    fn ask(&mut self, sql: &str) -> String {
        writeln!(self.input, "{sql};").unwrap();
        self.lines.next().expect("an answer").unwrap()
    }

    /// Ends it; `true` if psql saw no error.
    fn close(mut self) -> bool {
        drop(self.input);
        self.process.wait().unwrap().success()
    }
}

#[test]
fn status_and_sessions_in_json() {
    let server = Server::start();
    let status = server.json(&["status", "--json"]);
    let row = &status["clusters"][0];
    for (name, value) in [("name", "orders"), ("engine", "postgres"), ("state", "available")] {
        assert_eq!(row[name], value, "{row}");
    }
    assert_eq!(row["listen"], server.address().to_string());
    assert_eq!(
        (&row["capacity"], &row["min_capacity"], &row["max_capacity"]),
        (&2.into(), &2.into(), &16.into())
    );
    assert_eq!(
        (&row["sessions"], &row["paused"], &row["last_change"]),
        (&0.into(), &false.into(), &Value::Null)
    );
    let version = server.sql("SHOW server_version");
    assert!(version.starts_with(row["version"].as_str().unwrap()), "{version} {row}");
    assert!(Path::new(&format!("/proc/{}", row["backend_pid"])).exists(), "{row}");

    let mut session = Session::open(&server);
    assert_eq!(session.ask("SELECT 1"), "1");
    let sessions = server.json(&["sessions", "orders", "--json"]);
    let row = &sessions["sessions"][0];
    let expected = [
        "age_ms",
        "client",
        "database",
        "id",
        "obstacle",
        "obstacle_since_ms",
        "state",
        "statement",
        "tie",
        "tls",
        "user",
    ];
    assert_eq!(names(row), expected);
    assert_eq!(
        (&row["user"], &row["database"], &row["state"]),
        (&"admin".into(), &"app".into(), &"idle".into())
    );
    assert!(row["tls"].as_str().unwrap().contains("1.3") && row["obstacle"].is_null(), "{row}");
    assert!(session.close());
}

#[test]
fn a_change_in_json() {
    let mut server = Server::start();
    let first_pid = server.json(&["status", "--json"])["clusters"][0]["backend_pid"].clone();
    let mut session = Session::open(&server);
    assert_eq!(session.ask("SELECT 1"), "1");
    let report = server.scale(4);
    let expected = [
        "cluster",
        "from",
        "handover_ms",
        "hold_ms",
        "obstacles",
        "outcome",
        "sessions",
        "stall_ms",
        "to",
        "waited_ms",
    ];
    assert_eq!(names(&report), expected);
    assert_eq!(names(&report["sessions"]), ["aborted", "carried", "closed"]);
    assert_eq!(
        (&report["from"], &report["to"], &report["sessions"]["carried"]),
        (&2.into(), &4.into(), &1.into())
    );
    let row = server.json(&["status", "orders", "--json"])["clusters"][0].clone();
    assert_eq!((&row["capacity"], &row["sessions"], &row["last_change"]), (&4.into(), &1.into(), &report));
    assert_ne!(row["backend_pid"], first_pid);

    // The same capacity again is a restart: how new settings of a parameter group are applied.
    let again = server.scale(4);
    assert_eq!((&again["from"], &again["to"]), (&4.into(), &4.into()));
    assert_ne!(server.json(&["status", "--json"])["clusters"][0]["backend_pid"], row["backend_pid"]);
    assert_eq!(session.ask("SELECT 2"), "2");
    assert!(session.close());

    let events = server.json(&["events", "orders", "--json"]);
    let ids: Vec<&str> =
        events["events"].as_array().unwrap().iter().filter_map(|e| e["event_id"].as_str()).collect();
    assert_eq!(ids, ["RDS-EVENT-0141", "RDS-EVENT-0142", "RDS-EVENT-0141", "RDS-EVENT-0142"]);
    let table = stdout(&server.ask(&["status"]));
    assert!(
        table.starts_with("CLUSTER") && table.contains("orders") && table.contains("4 → 4 scaled"),
        "{table}"
    );

    server.signal(Signal::SIGINT);
    assert!(server.wait().success());
    assert_eq!(server.left(), []);
}

#[test]
fn exit_codes() {
    let server = Server::start();
    ends_with(&server.ask(&["status", "nobody"]), 2, "there is no cluster `nobody`");
    ends_with(&server.ask(&["sessions", "nobody"]), 2, "there is no cluster `nobody`");
    ends_with(&server.ask(&["events", "nobody", "--follow"]), 2, "there is no cluster `nobody`");
    ends_with(&server.ask(&["scale", "nobody", "4"]), 2, "there is no cluster `nobody`");
    ends_with(&server.ask(&["scale", "orders", "5"]), 2, "the nearest capacities are 4 and 8");
    ends_with(&server.ask(&["scale", "orders", "1"]), 2, "is not a capacity of this engine");
    ends_with(&server.ask(&["scale", "orders", "32"]), 2, "capacity 32 is not between 2 and 16");
    assert_eq!(server.ask(&["scale", "orders"]).status.code(), Some(2));
    assert_eq!(server.ask(&["explode"]).status.code(), Some(2));

    let mut session = Session::open(&server);
    assert_eq!(session.ask("BEGIN; SELECT 'in a transaction'"), "in a transaction");
    let search = ["scale", "orders", "4", "--seconds-before-timeout", "10", "--json"];
    let seeking = server.command(&search).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let state = || server.json(&["status", "--json"])["clusters"][0]["state"].as_str().unwrap().to_owned();
    eventually("a search", || state() == "seeking");
    ends_with(&server.ask(&["scale", "orders", "8"]), 4, "a change to capacity 4 is under way");
    let table = stdout(&server.ask(&["sessions", "orders"]));
    assert!(table.contains("open_transaction") && table.contains("in_transaction"), "{table}");
    let output = seeking.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(stderr(&output).contains("no scaling point within"), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["outcome"], "rolled_back");
    let obstacle = &report["obstacles"][0];
    assert_eq!(names(obstacle), ["reason", "session", "since_ms", "statement", "user"]);
    assert_eq!((&obstacle["reason"], &obstacle["user"]), (&"open_transaction".into(), &"admin".into()));
    assert_eq!(server.json(&["status", "--json"])["clusters"][0]["capacity"], 2);
    assert_eq!(session.ask("SELECT 'still in it'"), "still in it");

    let begun = server.json(&["scale", "orders", "4", "--no-wait", "--json"]);
    assert_eq!(begun["outcome"], "started");
    assert_eq!(session.ask("COMMIT; SELECT 'out'"), "out");
    let capacity = || server.json(&["status", "--json"])["clusters"][0]["capacity"].clone();
    eventually("the change", || capacity() == 4);
    assert!(session.close());

    let address = server.admin.to_string();
    assert!(server.stop().success());
    let gone = within(PATIENCE, scalepoint()).args(["status", "--admin", &address]).output().unwrap();
    ends_with(&gone, 5, "cannot be reached");
}

#[test]
fn a_change_that_fails_keeps_the_capacity() {
    let server = Server::of(&cluster("orders", ""));
    let mut session = Session::open(&server);
    assert_eq!(session.ask("SET my.own = 'kept'; SELECT 1"), "1");
    // From now on no server starts: the next one reads this line, the one that runs does not.
    let settings = server.path().join("data/orders/volume/postgresql.auto.conf");
    let sound = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, format!("{sound}\nno_such_setting = 1\n")).unwrap();
    let output = server.ask(&["scale", "orders", "4"]);
    assert_eq!(output.status.code(), Some(1), "{}{}\n{}", stdout(&output), stderr(&output), server.log());
    assert!(stderr(&output).contains("the change failed"), "{}", stderr(&output));
    std::fs::write(&settings, sound).unwrap();
    eventually("a cluster that serves", || {
        server.json(&["status", "--json"])["clusters"][0]["state"] == "available"
    });
    assert_eq!(session.ask("SELECT current_setting('my.own')"), "kept");
    assert!(session.close());
}

#[test]
fn events_as_they_come() {
    let server = Server::start();
    let mut command = server.command(&["events", "orders", "--follow", "--json"]);
    let mut follower = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    server.scale(8);
    let mut kinds = Vec::new();
    while kinds.last().is_none_or(|kind| kind != "scaled") {
        let event: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(event["cluster"], "orders");
        kinds.push(event["kind"].as_str().unwrap().to_owned());
    }
    assert!(kinds.ends_with(&["scaling".to_owned(), "scaled".to_owned()]), "{kinds:?}");
    let mut words = BufReader::new(
        server.command(&["events", "orders"]).stdout(Stdio::piped()).spawn().unwrap().stdout.unwrap(),
    )
    .lines();
    assert!(words.any(|line| {
        line.unwrap().ends_with("The DB cluster has scaled from 2 capacity units to 8 capacity units.")
    }));
    // The stream ends with the server, and the follower with it.
    assert!(server.stop().success());
    let ended = follower.wait().unwrap();
    assert!([Some(0), Some(5)].contains(&ended.code()), "{ended}");
}

#[test]
fn every_error_of_a_file_with_its_line() {
    let folder = folder();
    let text = "colour = 1\n[admin]\nlisten = \"here\"\n[[cluster]]\nname = \"Orders\"\nengine = \"postgres\"\n\
                min_capacity = 3\nseconds_before_timeout = 5\n";
    for command in ["check", "serve"] {
        let output = with_file(folder.path(), &[command], text);
        assert_eq!(output.status.code(), Some(2));
        let said = stderr(&output);
        for (line, words) in [
            (1, "unknown key `colour`"),
            (3, "`here` is not an address"),
            (5, "`Orders` is not a DNS label"),
            (7, "3 is not a capacity of this engine"),
            (8, "seconds_before_timeout"),
        ] {
            let wanted = format!("scalepoint.toml:{line}: ");
            assert!(
                said.lines().any(|l| l.contains(&wanted) && l.contains(words)),
                "{wanted}{words}\n{said}"
            );
        }
    }
    let output = with_file(folder.path(), &["check"], &cluster("orders", ""));
    assert!(output.status.success() && stdout(&output).ends_with("fine, 1 cluster\n"), "{}", stderr(&output));
    let nothing =
        within(PATIENCE, scalepoint()).args(["check", "--config", "/no/such/file"]).output().unwrap();
    assert_eq!(nothing.status.code(), Some(2));
    assert!(stderr(&nothing).contains("cannot be read"), "{}", stderr(&nothing));
}

#[test]
fn what_keeps_it_from_starting() {
    let folder = folder();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let admin = format!("data_dir = \"data\"\n[admin]\nlisten = \"{address}\"\n{}", cluster("orders", ""));
    let at_cluster =
        format!("data_dir = \"data\"\n[admin]\nlisten = \"127.0.0.1:0\"\n{}", cluster("orders", ""));
    let at_cluster = at_cluster.replacen(
        "listen = \"127.0.0.1:0\"\nmin_capacity",
        &format!("listen = \"{address}\"\nmin_capacity"),
        1,
    );
    for text in [admin, at_cluster] {
        let output = with_file(folder.path(), &["serve"], &text);
        assert_eq!(output.status.code(), Some(1));
        let said = stderr(&output);
        let holder = format!("pid {} has it", std::process::id());
        assert!(said.contains(&format!("cannot listen on {address}")) && said.contains(&holder), "{said}");
    }
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let text = format!(
        "data_dir = \"data2\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[[cluster]]\nname = \"orders\"\n\
         engine = \"postgres\"\nlisten = \"127.0.0.1:0\"\nserver = \"{}\"\n",
        empty.display()
    );
    let output = with_file(folder.path(), &["serve"], &text);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("postgresql"), "{}", stderr(&output));
}

#[test]
fn it_ends_while_a_transaction_is_open() {
    let mut server = Server::start();
    server.sql("CREATE TABLE kept (id int); INSERT INTO kept VALUES (1)");
    let mut session = Session::open(&server);
    assert_eq!(session.ask("BEGIN; INSERT INTO kept VALUES (2); SELECT 'open'"), "open");
    server.signal(Signal::SIGTERM);
    assert!(server.wait().success(), "{}", server.log());
    assert_eq!(server.left(), []);
    session.close();
}

#[test]
fn the_data_outlive_the_server() {
    let server = Server::start();
    server.sql("CREATE TABLE kept AS SELECT 42 AS id");
    server.scale(8);
    let password = server.password("orders");
    let folder = server.stop_and_keep();
    let server = Server::in_folder(folder, &cluster("orders", ""));
    assert_eq!(server.password("orders"), password);
    assert_eq!(server.sql("SELECT id FROM kept"), "42");
    assert_eq!(server.json(&["status", "--json"])["clusters"][0]["capacity"], 8);
}

#[test]
fn health_and_metrics() {
    let server = Server::start();
    server.scale(4);
    assert_eq!(server.sql("SELECT 1"), "1");
    let (status, body) = server.get("/healthz");
    assert_eq!((status, serde_json::from_str::<Value>(&body).unwrap()["status"].as_str()), (200, Some("ok")));
    let (status, text) = server.get("/metrics");
    assert_eq!(status, 200);
    for (name, _, meaning) in scalepoint::telemetry::NAMES {
        assert!(text.contains(meaning), "{name} has no help: {text}");
    }
    for line in [
        "scalepoint_capacity{cluster=\"orders\"} 4",
        "scalepoint_capacity_changes_total{cluster=\"orders\",outcome=\"scaled\"} 1",
        "scalepoint_stall_seconds_count{cluster=\"orders\"} 1",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(text.ends_with("# EOF\n"));
    assert_eq!(server.get("/nothing").0, 404);
}

/// `examples/survive_a_scale.rs`, which is built beside the program.
#[test]
fn the_example_runs() {
    let server = Server::start();
    let example = Path::new(scalepoint()).with_file_name("examples").join("survive_a_scale");
    assert!(example.exists(), "`cargo build --examples` makes {}", example.display());
    let output = within(PATIENCE, example)
        .envs([("SCALEPOINT_ADMIN", server.admin.to_string()), ("SCALEPOINT_CLUSTER", "orders".to_owned())])
        .envs([("PGHOST", "127.0.0.1"), ("PGUSER", "admin"), ("PGDATABASE", "app")])
        .envs([("PGPORT", server.address().port().to_string()), ("PGPASSWORD", server.password("orders"))])
        .output()
        .unwrap();
    let said = stdout(&output);
    assert!(output.status.success(), "{said}{}\n{}", stderr(&output), server.log());
    assert!(said.ends_with("one connection, one prepared statement, 5 databases\n"), "{said}");
    let kept = "my.answer = 42, TimeZone = Antarctica/Troll; shared_buffers = ";
    let buffers: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix(kept)).collect();
    assert_eq!(buffers, ["512MB", "1GB", "2GB", "1GB", "512MB"], "{said}");
}

/// With no file it runs what the machine has, which is both; here it cannot, for want of a port.
#[test]
fn without_a_file() {
    // If somebody else has it: just as well.
    let taken = TcpListener::bind("127.0.0.1:5432");
    let folder = folder();
    let output = within(PATIENCE, scalepoint()).arg("serve").current_dir(folder.path()).output().unwrap();
    drop(taken);
    let said = stdout(&output);
    assert!(said.contains("cluster    postgres: PostgreSQL of /"), "{said}");
    assert!(said.contains("cluster    mysql: M"), "{said}");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("cannot listen on 127.0.0.1:"), "{}", stderr(&output));
}
