//! PostgreSQL: pgbench's tables, tokio-postgres.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use tokio_postgres::{Client, Error, NoTls, Statement};

use crate::clients::Kind;
use crate::restart::PATIENCE;
use crate::stage::postgres::client;
use crate::stage::{DATABASE, PASSWORD, Stage, USER, postgres, run};
use crate::subject::{Session, Subject};

/// See [`Subject`].
pub(crate) struct Postgres;

#[async_trait]
impl Subject for Postgres {
    fn fill(&self, stage: &Stage, port: u16, scale: u32) {
        postgres::fill(stage, port, scale);
    }

    fn warm(&self, stage: &Stage, port: u16) {
        let touch = "select pg_prewarm('pgbench_accounts'), pg_prewarm('pgbench_accounts_pkey')";
        run(client(stage, "psql", port).args(["-qX", "-c", touch]));
    }

    fn before_stop(&self, stage: &Stage, port: u16) {
        run(client(stage, "psql", port).args(["-qX", "-c", "checkpoint"]));
    }

    fn lead(&self) -> Option<Duration> {
        None
    }

    fn await_moment(&self, _pid: u32) {}

    fn greet(&self, socket: &Path) -> UnixStream {
        let mut stream = UnixStream::connect(socket).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        let mut body = 196_608_u32.to_be_bytes().to_vec();
        body.extend_from_slice(format!("user\0{USER}\0database\0{DATABASE}\0\0").as_bytes());
        let mut startup = u32::try_from(body.len() + 4).expect("short").to_be_bytes().to_vec();
        startup.extend_from_slice(&body);
        stream.write_all(&startup).expect("a server that reads");
        answer(&mut stream);
        value(&mut stream, "select 1");
        stream
    }

    async fn connect(&self, port: u16, work: Option<Kind>) -> Result<Box<dyn Session>, String> {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(port).user(USER).password(PASSWORD).dbname(DATABASE);
        let (client, connection) = config.connect(NoTls).await.map_err(|error| error.to_string())?;
        // Its errors come to the client as well.
        tokio::spawn(async move { drop(connection.await) });
        let work = Work::prepare(&client, work).await.map_err(|error| error.to_string())?;
        Ok(Box::new(Open { client, work }))
    }
}

/// Has a statement answered; its last row's first value, or nothing.
pub(crate) fn value(stream: &mut UnixStream, sql: &str) -> String {
    let mut query = vec![b'Q'];
    query.extend_from_slice(&u32::try_from(sql.len() + 5).expect("short").to_be_bytes());
    query.extend_from_slice(sql.as_bytes());
    query.push(0);
    stream.write_all(&query).expect("a server that reads");
    answer(stream)
}

/// Reads up to and including `ReadyForQuery`.
fn answer(stream: &mut UnixStream) -> String {
    let mut found = String::new();
    loop {
        let mut header = [0; 5];
        stream.read_exact(&mut header).expect("an answer");
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize - 4;
        let mut body = vec![0; length];
        stream.read_exact(&mut body).expect("an answer");
        match header[0] {
            // The number of columns, the length of the first, and that.
            b'D' if length > 6 => found = String::from_utf8_lossy(&body[6..]).into_owned(),
            b'E' => panic!("the bare server: {}", String::from_utf8_lossy(&body)),
            b'Z' => return found,
            _ => {}
        }
    }
}

struct Open {
    client: Client,
    work: Work,
}

#[async_trait]
impl Session for Open {
    async fn run(&mut self, row: i32, reads: bool) -> Result<(), String> {
        self.work.run(&mut self.client, row, reads).await.map_err(|error| format!("{error:?}"))
    }

    async fn ask(&mut self) -> Result<(), String> {
        self.client.simple_query("select 1").await.map(drop).map_err(|error| error.to_string())
    }
}

/// The statements of one client.
enum Work {
    Simple,
    Prepared { select: Statement, update: Statement, together: bool },
}

impl Work {
    async fn prepare(client: &Client, kind: Option<Kind>) -> Result<Work, Error> {
        let together = match kind {
            None | Some(Kind::Simple) => return Ok(Work::Simple),
            Some(kind) => kind == Kind::Write,
        };
        let select = client.prepare("select abalance from pgbench_accounts where aid = $1").await?;
        let update =
            client.prepare("update pgbench_accounts set abalance = abalance + 1 where aid = $1").await?;
        Ok(Work::Prepared { select, update, together })
    }

    async fn run(&self, client: &mut Client, account: i32, reads: bool) -> Result<(), Error> {
        match self {
            Work::Simple if reads => {
                let text = format!("select abalance from pgbench_accounts where aid = {account}");
                client.simple_query(&text).await.map(drop)
            }
            Work::Simple => {
                let text =
                    format!("update pgbench_accounts set abalance = abalance + 1 where aid = {account}");
                client.simple_query(&text).await.map(drop)
            }
            Work::Prepared { select, update, together: true } => {
                let transaction = client.transaction().await?;
                transaction.execute(update, &[&account]).await?;
                transaction.query(select, &[&account]).await?;
                transaction.commit().await
            }
            Work::Prepared { select, .. } if reads => client.query(select, &[&account]).await.map(drop),
            Work::Prepared { update, .. } => client.execute(update, &[&account]).await.map(drop),
        }
    }
}
