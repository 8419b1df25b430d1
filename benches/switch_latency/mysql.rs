//! MariaDB and MySQL: a table like pgbench's largest, mysql_async.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Error, Row, Statement};

use crate::clients::Kind;
use crate::mysql_wire;
use crate::stage::Stage;
use crate::stage::mysql::{address, execute};
use crate::subject::{ROWS, Session, Subject};

const TABLE: &str =
    "CREATE TABLE accounts (aid INT PRIMARY KEY, abalance INT NOT NULL, filler CHAR(84) NOT NULL)";

/// See [`Subject`].
pub(crate) struct MySql {
    /// See [`Subject::lead`].
    pub(crate) lead: Option<Duration>,
    /// Whether its stop waits for a thread that sleeps a second at a time.
    pub(crate) ticks: bool,
}

#[async_trait]
impl Subject for MySql {
    fn fill(&self, _stage: &Stage, port: u16, scale: u32) {
        let digits = "CREATE TABLE digits (n INT PRIMARY KEY)";
        let ten = "INSERT INTO digits VALUES (0), (1), (2), (3), (4), (5), (6), (7), (8), (9)";
        let mut statements = [TABLE, digits, ten].map(str::to_owned).to_vec();
        statements.extend((0..scale).map(|part| {
            let first = part * ROWS + 1;
            format!(
                "INSERT INTO accounts SELECT {first} + a.n * 10000 + b.n * 1000 + c.n * 100 + d.n * 10 + e.n, 0, '' \
                 FROM digits a, digits b, digits c, digits d, digits e ORDER BY 1"
            )
        }));
        execute(address(port), &statements);
    }

    fn warm(&self, _stage: &Stage, port: u16) {
        execute(address(port), &["SELECT SUM(LENGTH(filler)) FROM accounts".to_owned()]);
    }

    fn before_stop(&self, _stage: &Stage, _port: u16) {
        // Nobody writes to the bare server, so nothing is left to flush.
    }

    fn lead(&self) -> Option<Duration> {
        self.lead
    }

    fn await_moment(&self, pid: u32) {
        if !self.ticks {
            return;
        }
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("threads").flatten();
        let is_master = |task: &PathBuf| {
            std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "ib_src_main")
        };
        let master = tasks.map(|task| task.path()).find(is_master).expect("InnoDB's master thread");
        let ran = || std::fs::read_to_string(master.join("schedstat")).expect("a thread");
        let asleep = ran();
        while ran() == asleep {
            thread::sleep(Duration::from_millis(1));
        }
        // A second later it looks again; 20 ms are for the signal.
        thread::sleep(Duration::from_millis(980));
    }

    fn greet(&self, socket: &Path) -> UnixStream {
        mysql_wire::greet(socket)
    }

    async fn connect(&self, port: u16, work: Option<Kind>) -> Result<Box<dyn Session>, String> {
        let open = Open::connect(port, work).await.map_err(|error| error.to_string())?;
        Ok(Box::new(open))
    }
}

struct Open {
    conn: Conn,
    work: Work,
}

/// The statements of one client.
enum Work {
    Simple,
    Prepared { select: Statement, update: Statement, together: bool },
}

impl Open {
    async fn connect(port: u16, kind: Option<Kind>) -> Result<Open, Error> {
        let mut conn = Conn::new(address(port)).await?;
        let together = match kind {
            None | Some(Kind::Simple) => return Ok(Open { conn, work: Work::Simple }),
            Some(kind) => kind == Kind::Write,
        };
        let select = conn.prep("SELECT abalance FROM accounts WHERE aid = ?").await?;
        let update = conn.prep("UPDATE accounts SET abalance = abalance + 1 WHERE aid = ?").await?;
        Ok(Open { conn, work: Work::Prepared { select, update, together } })
    }

    async fn transact(&mut self, row: i32, reads: bool) -> Result<(), Error> {
        let conn = &mut self.conn;
        match &self.work {
            Work::Simple if reads => {
                let text = format!("SELECT abalance FROM accounts WHERE aid = {row}");
                conn.query_first::<Row, _>(text).await.map(drop)
            }
            Work::Simple => {
                let text = format!("UPDATE accounts SET abalance = abalance + 1 WHERE aid = {row}");
                conn.query_drop(text).await
            }
            Work::Prepared { select, update, together: true } => {
                conn.query_drop("BEGIN").await?;
                conn.exec_drop(update, (row,)).await?;
                conn.exec_first::<Row, _, _>(select, (row,)).await?;
                conn.query_drop("COMMIT").await
            }
            Work::Prepared { select, .. } if reads => {
                conn.exec_first::<Row, _, _>(select, (row,)).await.map(drop)
            }
            Work::Prepared { update, .. } => conn.exec_drop(update, (row,)).await,
        }
    }
}

#[async_trait]
impl Session for Open {
    async fn run(&mut self, row: i32, reads: bool) -> Result<(), String> {
        self.transact(row, reads).await.map_err(|error| error.to_string())
    }

    async fn ask(&mut self) -> Result<(), String> {
        self.conn.query_drop("SELECT 1").await.map_err(|error| error.to_string())
    }
}
