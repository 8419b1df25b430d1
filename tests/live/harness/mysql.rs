//! MySQL and MariaDB in the tests: their clusters, their clients.

use std::io::{BufRead as _, BufReader};
use std::process::Command;
use std::time::Duration;

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Opts, OptsBuilder, SslOpts};

use super::{COMMON, PATIENCE, Server, within};

/// A server that the tests run against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Product {
    /// The distribution's MariaDB.
    MariaDb,
    /// Oracle's newest.
    MySql9,
}

impl Product {
    /// The folder with its programs, which the installer of the test servers says.
    fn programs(self) -> String {
        let name = match self {
            Product::MariaDb => "SCALEPOINT_MARIADB_BIN",
            Product::MySql9 => "SCALEPOINT_MYSQL9_BIN",
        };
        std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set; scripts/test sets it"))
    }

    /// A `[[cluster]]` section; `more` is added to it.
    pub(crate) fn cluster(self, name: &str, more: &str) -> String {
        let server = self.programs();
        format!("[[cluster]]\nname = \"{name}\"\nengine = \"mysql\"\nserver = \"{server}\"\n{COMMON}{more}\n")
    }

    /// One cluster of it, `orders`.
    pub(crate) fn start(self) -> Server {
        Server::of(&self.cluster("orders", ""))
    }
}

impl Server {
    /// How mysql_async connects; `tls`: over TLS that it checks in full.
    pub(crate) fn mysql_options(&self, tls: bool) -> Opts {
        let ca = SslOpts::default()
            .with_root_certs(vec![self.ca().into()])
            .with_disable_built_in_roots(true)
            .with_danger_tls_hostname_override(Some("localhost"));
        OptsBuilder::default()
            .ip_or_hostname(self.address().ip().to_string())
            .tcp_port(self.address().port())
            .user(Some("admin"))
            .pass(Some(self.password("orders")))
            .db_name(Some("app"))
            .prefer_socket(false)
            .ssl_opts(tls.then_some(ca))
            .into()
    }

    /// Runs statements that must succeed.
    pub(crate) async fn mysql_run(&self, statements: &[&str]) {
        let mut conn = Conn::new(self.mysql_options(false)).await.unwrap();
        for statement in statements {
            conn.query_drop(*statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
        conn.disconnect().await.unwrap();
    }

    /// sysbench, with a test of its own and these words, until it has succeeded; what it printed. Calls `started` when its
    /// threads work.
    pub(crate) fn sysbench(&self, test: &str, words: &[&str], limit: Duration, started: impl Fn()) -> String {
        let program = std::env::var("SCALEPOINT_SYSBENCH").unwrap_or_else(|_| "sysbench".to_owned());
        let mut command: Command = within(limit + PATIENCE, program);
        let (reader, writer) = std::io::pipe().unwrap();
        command
            .arg(test)
            .args(["--db-driver=mysql", "--mysql-user=admin", "--mysql-db=app", "--tables=4"])
            .args(["--table-size=20000", "--rand-type=uniform"])
            .arg(format!("--mysql-host={}", self.address().ip()))
            .arg(format!("--mysql-port={}", self.address().port()))
            .arg(format!("--mysql-password={}", self.password("orders")))
            .args(words)
            .stdout(writer.try_clone().unwrap())
            .stderr(writer);
        let mut running = command.spawn().unwrap();
        // It holds our ends of the pipe.
        drop(command);
        let mut printed = String::new();
        for line in BufReader::new(reader).lines() {
            let line = line.unwrap();
            if line == "Threads started!" {
                started();
            }
            printed.extend([&*line, "\n"]);
        }
        let succeeded = running.wait().unwrap().success() && !printed.contains("FATAL");
        assert!(succeeded, "{test} {words:?}: {printed}\n{}", self.log());
        printed
    }
}
