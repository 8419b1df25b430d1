//! Who asks the questions: pgbench or sysbench.

use crate::stage::Stage;
use crate::stage::engine::Product;
use crate::{pgbench, sysbench};

/// How a transaction of one `SELECT` is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Simple,
    Prepared,
    /// Simple, each on a connection of its own.
    Connect,
    /// Not a row but 200 MB of them.
    Copy,
}

impl Protocol {
    /// Whether statement follows statement on each connection.
    pub(crate) fn asks(self) -> bool {
        matches!(self, Protocol::Simple | Protocol::Prepared)
    }

    /// As it is printed, and a part of keys.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Protocol::Simple => "simple",
            Protocol::Prepared => "prepared",
            Protocol::Connect => "connect",
            Protocol::Copy => "copy",
        }
    }
}

/// What the driver is told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) protocol: Protocol,
    pub(crate) clients: u32,
    pub(crate) tls: bool,
}

/// What it said.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Said {
    pub(crate) transactions: f64,
    pub(crate) per_second: f64,
    pub(crate) latency_ms: f64,
}

/// A program that asks as fast as it is answered.
pub(crate) trait Driver {
    /// Fills a server with its tables.
    fn fill(&self, stage: &Stage, port: u16);

    /// Runs its one-row `SELECT`.
    fn measure(&self, stage: &Stage, port: u16, run: Run, seconds: u32) -> Said;
}

/// The one for a server.
pub(crate) fn of(product: Product, scale: u32) -> Box<dyn Driver> {
    match product {
        Product::Postgres => Box::new(pgbench::Pgbench { scale }),
        Product::MariaDb | Product::MySql9 => Box::new(sysbench::Sysbench::find(scale)),
    }
}

/// The number that follows these words.
pub(crate) fn number(said: &str, before: &str) -> f64 {
    let found = said.split(before).nth(1).and_then(|rest| rest.split_whitespace().next());
    let number = found.and_then(|number| number.parse().ok());
    number.unwrap_or_else(|| panic!("no number after {before:?}: {said}"))
}
