//! For MariaDB and MySQL: `oltp_point_select`, one query a transaction.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::driver::{Driver, Protocol, Run, Said, number};
use crate::stage::{DATABASE, PASSWORD, Stage, USER, find_program, run};

/// Rows for each unit of the scale: pgbench's are ten times as many and half as long, but these shall fit into the
/// buffer pool, because it is the way to the server that is measured.
const ROWS: u32 = 10_000;

/// See [`Driver`].
pub(crate) struct Sysbench {
    program: PathBuf,
    rows: u32,
}

impl Sysbench {
    /// Where `SCALEPOINT_SYSBENCH` says, or in the `PATH`.
    pub(crate) fn find(scale: u32) -> Sysbench {
        let program = std::env::var_os("SCALEPOINT_SYSBENCH").map(PathBuf::from);
        let program = program.or_else(|| find_program("sysbench"));
        let program = program.expect("no sysbench found: scripts/install-test-servers brings it");
        Sysbench { program, rows: scale * ROWS }
    }

    fn command(&self, port: u16) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["oltp_point_select", "--db-driver=mysql", "--mysql-host=127.0.0.1", "--tables=1"]);
        command.args([format!("--mysql-port={port}"), format!("--table-size={}", self.rows)]);
        command.args([format!("--mysql-user={USER}"), format!("--mysql-password={PASSWORD}")]);
        command.arg(format!("--mysql-db={DATABASE}")).arg("--rand-type=uniform").stdin(Stdio::null());
        command
    }
}

impl Driver for Sysbench {
    fn fill(&self, _stage: &Stage, port: u16) {
        run(self.command(port).arg("prepare"));
    }

    fn measure(&self, _stage: &Stage, port: u16, wanted: Run, seconds: u32) -> Said {
        let mut sysbench = self.command(port);
        sysbench.arg(format!(
            "--db-ps-mode={}",
            if wanted.protocol == Protocol::Prepared { "auto" } else { "disable" }
        ));
        sysbench.args([format!("--threads={}", wanted.clients), format!("--time={seconds}")]);
        let said = run(sysbench.args(["--report-interval=0", "run"]));
        let transactions = number(&said, "transactions:");
        // Behind the number of transactions: `(1234.56 per sec.)`.
        let line = said.split("transactions:").nth(1).and_then(|rest| rest.split('(').nth(1));
        let per_second = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        Said {
            transactions,
            per_second: per_second.unwrap_or_else(|| panic!("sysbench said {said}")),
            latency_ms: number(&said, "avg:"),
        }
    }
}
