//! The promise itself: clients work, the capacity changes every second, and nobody notices.
//!
//! Each storm lasts `SCALEPOINT_STORM_SECONDS` (a minute). What is asked of it: no client sees an error, every
//! transaction that was acknowledged is there, and whatever a session had is there after every statement.

use std::process::Output;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, Client, NoTls, Statement};

use crate::harness::storm::{Storm, at_full_speed, breath, duration};
use crate::harness::tls_client::Tls;
use crate::harness::{PATIENCE, Server, stderr, stdout};

/// pgbench's table of accounts has 100,000 rows a unit.
const SCALE: &str = "8";

/// Transactions a second of each pgbench.
const RATE: &str = "120";

/// One pgbench: how its clients speak and how many there are, and whether over TLS.
type Bench = (&'static [&'static str], &'static str);

/// Runs pgbench's own transactions (TPC-B-like) in a storm, all `benches` at once, and counts them.
fn bench(name: &str, benches: &[Bench]) {
    let server = Arc::new(Server::start());
    let fill = server.client("pgbench", 2 * PATIENCE).args(["-i", "-q", "-s", SCALE]).output().unwrap();
    assert!(fill.status.success(), "{}", stderr(&fill));
    let logs = server.path().join("logs");
    std::fs::create_dir(&logs).unwrap();
    let seconds = duration().as_secs();
    let storm = Storm::over(&server);
    let run = |number: usize| {
        let (words, sslmode) = benches[number];
        let mut pgbench = server.client("pgbench", Duration::from_secs(seconds) + 2 * PATIENCE);
        pgbench
            .env("PGSSLMODE", sslmode)
            .args(["--no-vacuum", "--jobs=2", "--log", "--verbose-errors", &format!("--time={seconds}")])
            .arg(format!("--log-prefix={}", logs.join(number.to_string()).display()))
            .args(words);
        if !(at_full_speed() || words.contains(&"-R")) {
            pgbench.args(["-R", RATE]);
        }
        pgbench.output().unwrap()
    };
    let run = &run;
    let ran: Vec<Output> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..benches.len()).map(|number| scope.spawn(move || run(number))).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    storm.end(name);
    let processed: usize = ran.iter().map(|one| undisturbed(one, &server)).sum();
    // pgbench writes a line for each transaction whose end it saw.
    let acknowledged: usize = std::fs::read_dir(&logs)
        .unwrap()
        .map(|log| std::fs::read_to_string(log.unwrap().path()).unwrap().lines().count())
        .sum();
    assert_eq!(acknowledged, processed);
    balance(&server, processed);
    eprintln!("{name}: {processed} transactions");
}

/// pgbench's own check: what was processed is there, once, and nothing else.
fn balance(server: &Server, processed: usize) {
    let sums = server.sql(
        "SELECT (SELECT count(*) FROM pgbench_history), (SELECT coalesce(sum(delta), 0) FROM pgbench_history), \
         (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers), \
         (SELECT sum(bbalance) FROM pgbench_branches)",
    );
    let sums: Vec<i64> = sums.split('|').map(|sum| sum.parse().unwrap()).collect();
    assert_eq!(
        sums[0],
        i64::try_from(processed).unwrap(),
        "transactions that were acknowledged are not there"
    );
    assert!(sums[1..].iter().all(|sum| *sum == sums[1]), "the balances do not agree: {sums:?}");
}

/// pgbench saw no error of any kind; how many transactions it counted.
fn undisturbed(ran: &Output, server: &Server) -> usize {
    let (out, errors) = (stdout(ran), stderr(ran));
    let all = format!("{out}\n{errors}\n{}", server.log());
    assert!(ran.status.success(), "{all}");
    for bad in ["ERROR", "FATAL", "aborted", "error:", "WARNING"] {
        assert!(!errors.contains(bad), "{all}");
    }
    assert!(out.contains("number of failed transactions: 0 (") || !out.contains("failed"), "{all}");
    let processed =
        out.lines().find_map(|line| line.strip_prefix("number of transactions actually processed: "));
    let processed: usize = processed.unwrap().split('/').next().unwrap().parse().unwrap();
    assert!(processed > 0, "{all}");
    processed
}

#[test]
fn pgbench_simple_extended_and_prepared() {
    let simple: Bench = (&["-M", "simple", "-c", "16"], "verify-full");
    let extended: Bench = (&["-M", "extended", "-c", "16"], "disable");
    let prepared: Bench = (&["-M", "prepared", "-c", "16"], "verify-full");
    bench("simple, extended and prepared", &[simple, extended, prepared]);
}

#[test]
fn two_hundred_mostly_idle_clients() {
    bench("idle", &[(&["-M", "prepared", "-c", "200", "-R", "60"], "verify-full")]);
}

/// What a session of the Rust driver has, and looks for after every statement.
struct Keeper {
    number: i32,
    client: Client,
    notes: mpsc::Receiver<(String, String)>,
    statement: Statement,
    memory: i32,
}

const KEEPERS: i32 = 8;

impl Keeper {
    async fn connect(server: &Server, number: i32) -> Keeper {
        let mut config = server.rust_client();
        let (noted, notes) = mpsc::channel(1000);
        let client = if number % 2 == 0 {
            config.ssl_mode(tokio_postgres::config::SslMode::Require);
            let (client, connection) = config.connect(Tls::new(&server.ca())).await.unwrap();
            tokio::spawn(listen(connection, noted));
            client
        } else {
            let (client, connection) = config.connect(NoTls).await.unwrap();
            tokio::spawn(listen(connection, noted));
            client
        };
        let own = format!(
            "LISTEN channel_{number}; SET my.number = '{number}'; SELECT pg_advisory_lock({number}); \
             PREPARE own (int) AS SELECT $1 + {number}"
        );
        client.batch_execute(&own).await.unwrap();
        let statement = "SELECT $1::int4 * 2, current_setting('my.number')::int4, pg_backend_pid()";
        let statement = client.prepare(statement).await.unwrap();
        Keeper { number, client, notes, statement, memory: 4096 }
    }

    /// Works until `end`; returns itself, because its lock is looked for until all have ended, and how many of its rows
    /// were acknowledged.
    async fn work(mut self, end: Instant) -> (Keeper, i32) {
        let mut round = 0;
        self.set_memory(4096).await;
        while Instant::now() < end {
            round += 1;
            let row = format!("INSERT INTO kept VALUES ({}, {round})", self.number);
            match round % 3 {
                0 => self.run(&format!("BEGIN; {row}; COMMIT")).await,
                1 => self.run(&row).await,
                _ => {
                    self.run("BEGIN").await;
                    self.run(&row).await;
                    self.run("COMMIT").await;
                }
            }
            self.set_memory(4096 + round % 100).await;
            self.is_notified(round).await;
            tokio::time::sleep(breath()).await;
        }
        (self, round)
    }

    async fn run(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        self.is_whole().await;
    }

    async fn set_memory(&mut self, memory: i32) {
        self.memory = memory;
        self.run(&format!("SET work_mem = {memory}")).await;
    }

    /// Everything that it had is there.
    async fn is_whole(&self) {
        let number = self.number;
        let row = self.client.query_one(&self.statement, &[&21]).await.unwrap();
        assert_eq!((row.get::<_, i32>(0), row.get::<_, i32>(1)), (42, number));
        let other = (number + 1) % KEEPERS;
        let state = format!(
            "SELECT current_setting('work_mem'), \
             (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objid = {number} \
              AND pid = pg_backend_pid()), \
             (SELECT string_agg(channel, ',') FROM pg_listening_channels() AS channel), \
             (SELECT count(*) FROM pg_prepared_statements WHERE name = 'own'), pg_try_advisory_lock({other})"
        );
        let found = self.client.simple_query(&state).await.unwrap();
        let row = found.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let row: Vec<Option<&str>> = (0..5).map(|column| row.unwrap().get(column)).collect();
        let memory = if self.memory % 1024 == 0 {
            format!("{}MB", self.memory / 1024)
        } else {
            format!("{}kB", self.memory)
        };
        let channel = format!("channel_{number}");
        // The last: the neighbour never loses its lock, not for a moment.
        assert_eq!(row, [Some(&*memory), Some("1"), Some(&*channel), Some("1"), Some("f")]);
        let sum = self.client.simple_query("EXECUTE own(100)").await.unwrap();
        let sum = sum.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        assert_eq!(sum, Some(&*(100 + number).to_string()));
    }

    /// Its subscription is alive.
    async fn is_notified(&mut self, round: i32) {
        let channel = format!("channel_{}", self.number);
        self.run(&format!("NOTIFY {channel}, '{round}'")).await;
        let note = tokio::time::timeout(PATIENCE, self.notes.recv()).await.expect("a notification").unwrap();
        assert_eq!(note, (channel, round.to_string()));
    }
}

/// Passes on what the server says besides answers.
async fn listen<S, T>(mut connection: tokio_postgres::Connection<S, T>, noted: mpsc::Sender<(String, String)>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
        match message {
            AsyncMessage::Notification(note) => {
                noted.send((note.channel().to_owned(), note.payload().to_owned())).await.unwrap();
            }
            AsyncMessage::Notice(notice) => panic!("{notice}"),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_keep_what_they_have() {
    let server = Arc::new(Server::start());
    server.sql("CREATE TABLE kept (keeper int, round int, PRIMARY KEY (keeper, round))");
    let mut keepers = Vec::new();
    for number in 0..KEEPERS {
        keepers.push(Keeper::connect(&server, number).await);
    }
    let storm = Storm::over(&server);
    let end = Instant::now() + duration();
    let work: Vec<_> = keepers.into_iter().map(|keeper| tokio::spawn(keeper.work(end))).collect();
    let mut rounds = Vec::new();
    for keeper in work {
        rounds.push(keeper.await.unwrap());
    }
    tokio::task::spawn_blocking(|| storm.end("sessions")).await.unwrap();
    for (keeper, round) in rounds {
        let number = keeper.number;
        let kept = format!("SELECT count(*), coalesce(max(round), 0) FROM kept WHERE keeper = {number}");
        assert_eq!(server.sql(&kept), format!("{round}|{round}"), "keeper {number}");
    }
}
