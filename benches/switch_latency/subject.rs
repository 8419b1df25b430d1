//! What tells the servers apart in this benchmark: tables, clients, a bare connection.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;

use crate::clients::Kind;
use crate::mysql::MySql;
use crate::postgres::Postgres;
use crate::stage::Stage;
use crate::stage::engine::Product;

/// Rows in the table for each unit of the scale.
pub(crate) const ROWS: u32 = 100_000;

/// A kind of server.
#[async_trait]
pub(crate) trait Subject: Send + Sync {
    /// Fills a server with the table: this many times [`ROWS`].
    fn fill(&self, stage: &Stage, port: u16, scale: u32);

    /// Fills the buffer cache: what has been touched has to be given back to the kernel by a stop.
    fn warm(&self, stage: &Stage, port: u16);

    /// What shortens the stop of the bare server, while it still serves.
    fn before_stop(&self, stage: &Stage, port: u16);

    /// How long before the signal the bare server's clients go; `None`: at the signal.
    fn lead(&self) -> Option<Duration>;

    /// The moment at which a signal stops the server `pid` fastest: waits for it, if there is one.
    fn await_moment(&self, pid: u32);

    /// Logs in to the bare server without a password, and has `select 1` answered.
    fn greet(&self, socket: &Path) -> UnixStream;

    /// Connects a client through Scalepoint. One without a kind of work is only going to [`ask`](Session::ask).
    async fn connect(&self, port: u16, work: Option<Kind>) -> Result<Box<dyn Session>, String>;
}

/// A client.
#[async_trait]
pub(crate) trait Session: Send {
    /// One transaction of its kind on this row.
    async fn run(&mut self, row: i32, reads: bool) -> Result<(), String>;

    /// The smallest question.
    async fn ask(&mut self) -> Result<(), String>;
}

/// The subject of the benchmark.
pub(crate) fn of(product: Product) -> Box<dyn Subject> {
    match product {
        Product::Postgres => Box::new(Postgres),
        Product::MariaDb => Box::new(MySql { lead: None, ticks: false }),
        // It sleeps two seconds in its stop if anybody is still connected.
        Product::MySql9 => Box::new(MySql { lead: Some(Duration::from_millis(100)), ticks: true }),
    }
}
