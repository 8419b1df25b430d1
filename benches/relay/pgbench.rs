//! PostgreSQL's own, and `psql` for a copy.

use std::time::Instant;

use crate::driver::{Driver, Protocol, Run, Said, number};
use crate::stage::postgres::client;
use crate::stage::{Stage, postgres, run};

/// See [`Driver`].
pub(crate) struct Pgbench {
    pub(crate) scale: u32,
}

/// So much longer is a second try, seconds.
const PATIENCE: u32 = 5;

impl Driver for Pgbench {
    fn fill(&self, stage: &Stage, port: u16) {
        postgres::fill(stage, port, self.scale);
    }

    fn measure(&self, stage: &Stage, port: u16, wanted: Run, seconds: u32) -> Said {
        let how = match wanted.protocol {
            Protocol::Simple => &["-M", "simple"][..],
            Protocol::Prepared => &["-M", "prepared"],
            Protocol::Connect => &["-C"],
            Protocol::Copy => return copy(stage, port, wanted.tls),
        };
        let select = |seconds: u32| {
            let mut pgbench = client(stage, "pgbench", port);
            pgbench.env("PGSSLMODE", ssl_mode(wanted.tls));
            pgbench.args(["-n", "-S", "-j", "2"]).args(how);
            pgbench.args(["-c", &wanted.clients.to_string(), "-T", &seconds.to_string()]);
            run(&mut pgbench)
        };
        let nothing = |said: &String| number(said, "actually processed: ") == 0.0;
        // A round may be over before the last of many clients has connected: all of them begin together.
        let said =
            Some(select(seconds)).filter(|said| !nothing(said)).unwrap_or_else(|| select(seconds + PATIENCE));
        Said {
            transactions: number(&said, "actually processed: "),
            per_second: number(&said, "tps = "),
            latency_ms: number(&said, "latency average = "),
        }
    }
}

fn ssl_mode(tls: bool) -> &'static str {
    if tls { "require" } else { "disable" }
}

/// Once, so the time of a connection is in it. The server's part is small: all rows are the same.
fn copy(stage: &Stage, port: u16, tls: bool) -> Said {
    let mut psql = client(stage, "psql", port);
    psql.env("PGSSLMODE", ssl_mode(tls)).args(["-q", "-o", "/dev/null", "-c"]);
    psql.arg("COPY (SELECT repeat('x', 9999) FROM generate_series(1, 20000)) TO STDOUT");
    let started = Instant::now();
    run(&mut psql);
    let seconds = started.elapsed().as_secs_f64();
    Said { transactions: 1.0, per_second: 1.0 / seconds, latency_ms: seconds * 1e3 }
}
