//! PostgreSQL's own.

use crate::driver::{Driver, Run, Said, number};
use crate::stage::postgres::client;
use crate::stage::{Stage, postgres, run};

/// See [`Driver`].
pub(crate) struct Pgbench {
    pub(crate) scale: u32,
}

impl Driver for Pgbench {
    fn fill(&self, stage: &Stage, port: u16) {
        postgres::fill(stage, port, self.scale);
    }

    fn measure(&self, stage: &Stage, port: u16, wanted: Run, seconds: u32) -> Said {
        let mut pgbench = client(stage, "pgbench", port);
        pgbench.env("PGSSLMODE", if wanted.tls { "require" } else { "disable" });
        pgbench.args(["-n", "-S", "-j", "2", "-M", if wanted.prepared { "prepared" } else { "simple" }]);
        pgbench.args(["-c", &wanted.clients.to_string(), "-T", &seconds.to_string()]);
        let said = run(&mut pgbench);
        Said {
            transactions: number(&said, "actually processed: "),
            per_second: number(&said, "tps = "),
            latency_ms: number(&said, "latency average = "),
        }
    }
}
