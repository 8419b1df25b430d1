//! A bare switchover between two servers of MariaDB or MySQL, by the fastest recipe known: sessions are open on the replica
//! already; the old server takes no writes any more, the replica has to have its last transaction, and is told to take writes. That
//! it still follows is ended afterwards, outside of what is measured, and the old one follows it in turn.

use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, OptsBuilder};

use crate::mysql::MySql;
use crate::restart::{PATIENCE, Restart};
use crate::stage::engine::Product;
use crate::stage::mysql::ROOT;
use crate::stage::{DATABASE, PASSWORD, Stage, USER, free_port};
use crate::subject::Subject;

const LOOK: Duration = Duration::from_millis(20);

/// What the two products call the same things.
struct Words {
    options: &'static [&'static str],
    follow: &'static str,
    settle: [&'static str; 2],
    /// Where the old one is to be taken up.
    place: &'static str,
    shut: &'static str,
    position: &'static str,
    wait: &'static str,
    open: &'static str,
}

const MARIADB: Words = Words {
    options: &["--log-slave-updates"],
    follow: "CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {port}, MASTER_USER = '{user}', \
             MASTER_PASSWORD = '{password}', MASTER_USE_GTID = slave_pos; START SLAVE",
    settle: ["STOP SLAVE", "RESET SLAVE ALL"],
    place: "SET GLOBAL gtid_slave_pos = @@global.gtid_current_pos",
    shut: "SET GLOBAL read_only = 1",
    position: "SELECT @@global.gtid_binlog_pos",
    wait: "SELECT MASTER_GTID_WAIT('{position}', 10)",
    open: "SET GLOBAL read_only = 0",
};

const MYSQL: Words = Words {
    options: &["--gtid-mode=ON", "--enforce-gtid-consistency=ON"],
    follow: "CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = {port}, SOURCE_USER = '{user}', \
             SOURCE_PASSWORD = '{password}', SOURCE_AUTO_POSITION = 1, GET_SOURCE_PUBLIC_KEY = 1; START REPLICA",
    settle: ["STOP REPLICA", "RESET REPLICA ALL"],
    place: "DO 0",
    shut: "SET GLOBAL super_read_only = 1",
    position: "SELECT @@global.gtid_executed",
    wait: "SELECT WAIT_FOR_EXECUTED_GTID_SET('{position}', 10)",
    open: "SET GLOBAL super_read_only = 0, GLOBAL read_only = 0",
};

/// One server.
struct Node {
    socket: String,
    port: u16,
    server: Child,
}

impl Node {
    fn start(stage: &Stage, words: &Words, number: u32) -> Node {
        let home = stage.server_folder(&format!("twin{number}"));
        let (data, port) = (home.join("volume"), free_port());
        stage.engine.make_volume(stage, &home, &data);
        let log =
            std::fs::File::options().create(true).append(true).open(stage.path("twins.log")).expect("a log");
        let mut server = stage.engine.server(stage, &home, &data, port);
        server.args(["--log-bin=binlog", "--binlog-format=ROW", "--relay-log=relay", "--sync-binlog=1"]);
        server.arg(format!("--server-id={number}")).args(words.options);
        server.stderr(log.try_clone().expect("a log")).stdout(log);
        let server = server.spawn().expect("a server");
        let socket = stage.engine.socket(&home, port).to_string_lossy().into_owned();
        Node { socket, port, server }
    }

    async fn connect(&self, user: &str) -> Conn {
        let password = (user != ROOT).then_some(PASSWORD);
        let database = (user != ROOT).then_some(DATABASE);
        let options = OptsBuilder::default().socket(Some(&self.socket)).user(Some(user));
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Conn::new(options.clone().pass(password).db_name(database)).await {
                Ok(conn) => return conn,
                Err(error) => assert!(Instant::now() < deadline, "a server of the pair: {error}"),
            }
            thread::sleep(LOOK);
        }
    }

    async fn run(&self, statements: &[&str]) {
        let mut conn = self.connect(ROOT).await;
        for statement in statements {
            conn.query_drop(*statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
        conn.disconnect().await.expect("an end");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Two servers, of which one follows the other.
pub(crate) struct Twins {
    words: &'static Words,
    runtime: tokio::runtime::Runtime,
    primary: Node,
    replica: Node,
}

impl Twins {
    /// Makes both. What the first is filled with, the second gets by following.
    pub(crate) fn make(stage: &Stage, product: Product, scale: u32) -> Twins {
        let words = if product == Product::MariaDb { &MARIADB } else { &MYSQL };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (primary, replica) = (Node::start(stage, words, 1), Node::start(stage, words, 2));
        runtime.block_on(async {
            primary.run(&["DO 0"]).await;
            replica.run(&[words.shut]).await;
        });
        stage.engine.set_up(stage, &stage.path("twin1"), primary.port);
        MySql { lead: None, ticks: false }.fill(stage, primary.port, scale);
        let twins = Twins { words, runtime, primary, replica };
        twins.runtime.block_on(twins.follow());
        twins
    }

    async fn follow(&self) {
        let text = self.words.follow.replace("{port}", &self.primary.port.to_string());
        let text = text.replace("{user}", USER).replace("{password}", PASSWORD);
        let statements: Vec<&str> = text.split("; ").collect();
        self.replica.run(&[&[self.words.place], &statements[..]].concat()).await;
        self.arrived(&mut self.primary.connect(ROOT).await, &mut self.replica.connect(ROOT).await).await;
    }

    /// Waits until the replica has all that the primary has.
    async fn arrived(&self, there: &mut Conn, here: &mut Conn) {
        let position: Option<String> = there.query_first(self.words.position).await.expect("a position");
        let wait = self.words.wait.replace("{position}", &position.expect("a position").replace('\n', ""));
        let reached: Option<i64> = here.query_first(wait).await.expect("an answer");
        assert_eq!(reached, Some(0), "the replica does not get there");
    }

    /// Switches over to the replica, on which so many sessions are open.
    pub(crate) fn promote(&mut self, connections: usize) -> Restart {
        let measured = self.runtime.block_on(self.switch(connections));
        std::mem::swap(&mut self.primary, &mut self.replica);
        self.runtime.block_on(async {
            self.primary.run(&self.words.settle).await;
            self.follow().await;
        });
        measured
    }

    async fn switch(&self, connections: usize) -> Restart {
        let warm = "SELECT SUM(LENGTH(filler)) FROM accounts";
        let mut open = Vec::new();
        for _ in 0..connections {
            open.push(self.replica.connect(USER).await);
        }
        open[0].query_drop(warm).await.expect("a warm cache");
        let (mut there, mut here) = (self.primary.connect(ROOT).await, self.replica.connect(ROOT).await);
        self.arrived(&mut there, &mut here).await;
        let begun = Instant::now();
        let since = || begun.elapsed().as_secs_f64() * 1000.0;
        there.query_drop(self.words.shut).await.expect("no writes");
        self.arrived(&mut there, &mut here).await;
        let gone = since();
        here.query_drop(self.words.open).await.expect("writes");
        let ready = since();
        let write = async |(number, mut conn): (usize, Conn)| {
            let update = format!("UPDATE accounts SET abalance = abalance + 1 WHERE aid = {}", number + 1);
            conn.query_drop(update).await.expect("a write");
            since()
        };
        let mut answered = join_all(open.into_iter().enumerate().map(write)).await;
        answered.sort_by(f64::total_cmp);
        Restart { gone, ready, first: answered[0], all: answered[answered.len() - 1] }
    }
}
