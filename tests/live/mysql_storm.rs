//! The promise for MySQL and MariaDB: clients work, the capacity changes every second or two, and nobody notices.
//!
//! Each storm lasts half of `SCALEPOINT_STORM_SECONDS`, because there are two servers; all of sysbench's tests run in one.
//! What is asked of it: no client sees an error, and whatever a session had is there after every statement.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Statement};
use sqlx::mysql::{MySqlConnectOptions, MySqlSslMode};
use sqlx::{ConnectOptions as _, Connection as _, MySqlConnection, Row as _};

use crate::harness::mysql::Product;
use crate::harness::storm::{Storm, at_full_speed, breath, duration};
use crate::harness::{PATIENCE, Server, eventually};

fn half() -> Duration {
    duration() / 2
}

/// sysbench's own tests, with the rate (transactions a second): few and many threads, with and without prepared statements.
const BENCHES: [(&str, &str, &[&str]); 4] = [
    ("oltp_read_write", "--rate=15", &["--threads=16"]),
    ("oltp_read_write", "--rate=15", &["--threads=64", "--db-ps-mode=disable"]),
    ("oltp_point_select", "--rate=200", &["--threads=16", "--db-ps-mode=disable"]),
    ("oltp_point_select", "--rate=200", &["--threads=64"]),
];

/// Runs all of them at once in a storm.
fn sysbench(product: Product) {
    // Of 80 transactions of twenty statements on two busy cores some last for seconds, and the usual budget is half of one.
    let server = Arc::new(Server::of(&product.cluster("orders", "stall_budget_ms = 10000")));
    server.sysbench("oltp_read_write", &["--threads=2", "prepare"], 2 * PATIENCE, || ());
    let started = AtomicUsize::new(0);
    // A bench gives up if its threads do not work within half a minute, whoever is to blame.
    let storm = benches(&server, &started, || {
        eventually("all threads work", || started.load(Ordering::Relaxed) == BENCHES.len());
        Storm::over(&server)
    });
    // On a busy machine a round may pass with hardly a change.
    for _ in 0..3 {
        if storm.changes() < 2 {
            benches(&server, &started, || ());
        }
    }
    storm.end(&format!("{product:?} sysbench"));
}

/// One round of all of them, beside `meanwhile`; counts those that have started.
fn benches<T>(server: &Server, started: &AtomicUsize, meanwhile: impl FnOnce() -> T) -> T {
    let time = format!("--time={}", half().as_secs());
    std::thread::scope(|scope| {
        for (test, rate, words) in BENCHES {
            let rate = (!at_full_speed()).then_some(rate);
            let more = [&*time, "--report-interval=0", "run"];
            let all: Vec<&str> = words.iter().copied().chain(rate).chain(more).collect();
            let count = || _ = started.fetch_add(1, Ordering::Relaxed);
            scope.spawn(move || undisturbed(&server.sysbench(test, &all, half() + PATIENCE, count)));
        }
        meanwhile()
    })
}

/// sysbench lost no connection, and worked. Deadlocks are the server's own, and it runs such a transaction again.
fn undisturbed(printed: &str) {
    let figure = |name: &str| -> u64 {
        let line = printed.lines().find(|line| line.trim_start().starts_with(name));
        let figure = line.and_then(|line| line.split_whitespace().nth(name.split(' ').count()));
        figure.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{name}: {printed}"))
    };
    assert_eq!(figure("reconnects:"), 0, "{printed}");
    assert!(figure("transactions:") > 0, "{printed}");
}

#[test]
fn mariadb_sysbench() {
    sysbench(Product::MariaDb);
}

#[test]
fn mysql9_sysbench() {
    sysbench(Product::MySql9);
}

const KEEPERS: u32 = 8;

/// What a session of mysql_async has, and looks for after every statement.
struct Keeper {
    number: u32,
    conn: Conn,
    statement: Statement,
    id: u64,
    note: Vec<u8>,
    inserted: u64,
}

impl Keeper {
    async fn connect(server: &Server, number: u32) -> Keeper {
        let mut conn = Conn::new(server.mysql_options(number.is_multiple_of(2))).await.unwrap();
        let own =
            format!("SET SESSION sort_buffer_size = {}, time_zone = '+0{number}:00'", 65_536 + 1024 * number);
        conn.query_drop(own).await.unwrap();
        conn.query_drop(format!("PREPARE own FROM 'SELECT ? + {number}'")).await.unwrap();
        conn.query_drop("SET @hundred = 100").await.unwrap();
        let statement = "SELECT ? * 2, @@time_zone, @@sort_buffer_size, CAST(@note AS BINARY), @round";
        let statement = conn.prep(statement).await.unwrap();
        let id: u64 = conn.query_first("SELECT CONNECTION_ID()").await.unwrap().unwrap();
        assert_eq!(id, u64::from(conn.id()));
        Keeper { number, conn, statement, id, note: Vec::new(), inserted: 0 }
    }

    /// Works until `end`; returns how many of its rows were acknowledged.
    async fn work(mut self, end: Instant) -> u64 {
        let mut round = 0;
        while Instant::now() < end {
            round += 1;
            self.note = format!("keeper {} round {round} \u{e4}\0\\'", self.number).into_bytes();
            let note = hex::encode(&self.note);
            self.run(&format!("SET @note = X'{note}', @round = {round}"), round).await;
            let row = format!("INSERT INTO kept (keeper, round) VALUES ({}, {round})", self.number);
            match round % 3 {
                0 => {
                    self.conn.query_drop("BEGIN").await.unwrap();
                    self.insert(&row, round).await;
                    self.run("COMMIT", round).await;
                }
                1 => self.insert(&row, round).await,
                _ => {
                    self.run("SET autocommit = 0", round).await;
                    self.insert(&row, round).await;
                    self.run("COMMIT", round).await;
                    self.run("SET autocommit = 1", round).await;
                }
            }
            tokio::time::sleep(breath()).await;
        }
        self.conn.disconnect().await.unwrap();
        round
    }

    async fn insert(&mut self, row: &str, round: u64) {
        self.conn.query_drop(row).await.unwrap_or_else(|error| panic!("{row}: {error}"));
        self.inserted = self.conn.last_insert_id().unwrap();
        self.is_whole(round).await;
    }

    async fn run(&mut self, sql: &str, round: u64) {
        self.conn.query_drop(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        self.is_whole(round).await;
    }

    /// Everything that it had is there.
    async fn is_whole(&mut self, round: u64) {
        type Own = (i64, String, u64, Vec<u8>, u64);
        let row: Option<Own> = self.conn.exec_first(&self.statement, (21,)).await.unwrap();
        let zone = format!("+0{}:00", self.number);
        let memory = u64::from(65_536 + 1024 * self.number);
        assert_eq!(row, Some((42, zone, memory, self.note.clone(), round)));
        let id: Option<u64> = self.conn.query_first("SELECT CONNECTION_ID()").await.unwrap();
        assert_eq!(id, Some(self.id));
        let last: Option<u64> = self.conn.query_first("SELECT LAST_INSERT_ID()").await.unwrap();
        assert_eq!(last, Some(self.inserted));
        let sum: Option<u64> = self.conn.query_first("EXECUTE own USING @hundred").await.unwrap();
        assert_eq!(sum, Some(u64::from(100 + self.number)));
    }
}

/// The same with sqlx, which prepares nearly everything.
async fn sqlx_keeper(mut conn: MySqlConnection, number: u32, end: Instant) -> u64 {
    let mut round = 0;
    sqlx::query("SET @own = ?").bind(number).execute(&mut conn).await.unwrap();
    let id: u64 = sqlx::query("SELECT CONNECTION_ID()").fetch_one(&mut conn).await.unwrap().get(0);
    while Instant::now() < end {
        round += 1;
        let insert = "INSERT INTO kept (keeper, round) VALUES (?, ?)";
        let done = sqlx::query(insert).bind(number).bind(round).execute(&mut conn).await.unwrap();
        let row =
            sqlx::query("SELECT LAST_INSERT_ID(), CAST(@own AS UNSIGNED), ? + 1, @@sql_mode LIKE '%PIPES%'")
                .bind(round)
                .fetch_one(&mut conn)
                .await
                .unwrap();
        let found = (row.get::<u64, _>(0), row.get::<u64, _>(1), row.get::<u64, _>(2), row.get::<i64, _>(3));
        // sqlx asks for PIPES_AS_CONCAT when it connects.
        assert_eq!(found, (done.last_insert_id(), u64::from(number), round + 1, 1));
        let again: u64 = sqlx::query("SELECT CONNECTION_ID()").fetch_one(&mut conn).await.unwrap().get(0);
        assert_eq!(again, id);
        tokio::time::sleep(breath()).await;
    }
    conn.close().await.unwrap();
    round
}

async fn sessions_keep_what_they_have(product: Product) {
    let server = Arc::new(product.start());
    let table = "CREATE TABLE kept (id INT PRIMARY KEY AUTO_INCREMENT, keeper INT, round INT, UNIQUE (keeper, round))";
    server.mysql_run(&[table]).await;
    let end = Instant::now() + half();
    let mut work = Vec::new();
    let storm = Storm::over(&server);
    for number in 1..=KEEPERS {
        let keeper = Keeper::connect(&server, number).await;
        work.push((number, tokio::spawn(keeper.work(end))));
    }
    let options = MySqlConnectOptions::new()
        .host(&server.address().ip().to_string())
        .port(server.address().port())
        .username("admin")
        .password(&server.password("orders"))
        .database("app")
        .ssl_mode(MySqlSslMode::Disabled);
    for number in 100..104 {
        let conn = options.connect().await.unwrap();
        work.push((number, tokio::spawn(sqlx_keeper(conn, number, end))));
    }
    let mut rounds = Vec::new();
    for (number, keeper) in work {
        rounds.push((number, keeper.await.unwrap()));
    }
    tokio::task::spawn_blocking(move || storm.end("sessions")).await.unwrap();
    let mut conn = Conn::new(server.mysql_options(false)).await.unwrap();
    for (number, round) in rounds {
        let kept = format!("SELECT COUNT(*), COALESCE(MAX(round), 0) FROM kept WHERE keeper = {number}");
        let kept: Option<(u64, u64)> = conn.query_first(kept).await.unwrap();
        assert_eq!(kept, Some((round, round)), "keeper {number}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_sessions_keep_what_they_have() {
    sessions_keep_what_they_have(Product::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql9_sessions_keep_what_they_have() {
    sessions_keep_what_they_have(Product::MySql9).await;
}
