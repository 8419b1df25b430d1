//! MariaDB and MySQL.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Opts, OptsBuilder};
use nix::sys::signal::Signal;
use scalepoint::compute::process::mysql::programs::{self, Product, Programs, option};

use super::engine::Engine;
use super::{DATABASE, PASSWORD, Stage, USER, run};

/// The user that a new volume comes with, without a password; only the Unix socket lets it in.
pub const ROOT: &str = "root";

/// MariaDB or MySQL as found on this machine.
pub struct MySql {
    programs: Programs,
}

impl MySql {
    /// Where this variable says.
    pub fn find(variable: &str) -> MySql {
        let folder = std::env::var_os(variable);
        let folder = folder.unwrap_or_else(|| {
            panic!("{variable} is not set: source the environment that scripts/install-test-servers prints")
        });
        let programs = programs::find(Some(Path::new(&folder)), None);
        MySql { programs: programs.unwrap_or_else(|error| panic!("{variable}: {error}")) }
    }

    fn folder_for_files(home: &Path) -> PathBuf {
        home.join("tmp")
    }

    /// The server with what every run of it needs. It has a folder for temporary files to itself: a server that starts
    /// clears out what it finds there.
    fn command(&self, stage: &Stage, home: &Path, data: &Path) -> Command {
        let mut server = stage.as_server(&self.programs.server);
        server.args(self.programs.options()).envs(self.programs.environment());
        let files = Self::folder_for_files(home);
        server.arg(option("--datadir=", data)).arg(option("--tmpdir=", &files));
        server.arg(option("--secure-file-priv=", &files));
        if self.programs.product == Product::MySql {
            // Its fixed port may be another server's.
            server.arg("--mysqlx=OFF");
        }
        server
    }
}

impl Engine for MySql {
    fn name(&self) -> &'static str {
        "mysql"
    }

    fn programs(&self) -> &Path {
        self.programs.server.parent().expect("a folder")
    }

    fn os_user(&self) -> &'static str {
        "mysql"
    }

    fn settings(&self) -> &'static [(&'static str, &'static str)] {
        &[("innodb_buffer_pool_size", "128M"), ("max_connections", "250")]
    }

    fn make_volume(&self, stage: &Stage, home: &Path, data: &Path) {
        stage.own_folder(&Self::folder_for_files(home));
        if self.programs.product != Product::MariaDb {
            run(self.command(stage, home, data).arg("--initialize-insecure"));
            return;
        }
        let installer =
            self.programs.tool("mariadb-install-db").expect("mariadb-install-db beside the server");
        let mut installer = stage.as_server(&installer);
        installer.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
        installer.arg(option("--basedir=", &self.programs.base)).arg(option("--datadir=", data));
        run(installer.arg(option("--tmpdir=", &Self::folder_for_files(home))));
    }

    fn server(&self, stage: &Stage, home: &Path, data: &Path, port: u16) -> Command {
        let mut server = self.command(stage, home, data);
        server.arg(option("--socket=", &self.socket(home, port)));
        server.arg(option("--pid-file=", &home.join("pid")));
        server.args(["--bind-address=127.0.0.1", &format!("--port={port}")]);
        server.args(self.settings().iter().map(|(name, value)| format!("--{name}={value}")));
        server
    }

    fn socket(&self, home: &Path, _port: u16) -> PathBuf {
        home.join("mysql.sock")
    }

    fn looks_ready(&self, _data: &Path, _pid: u32) -> bool {
        // Both say it themselves.
        false
    }

    fn set_up(&self, _stage: &Stage, home: &Path, port: u16) {
        let root =
            OptsBuilder::default().socket(Some(self.socket(home, port).to_string_lossy())).user(Some(ROOT));
        let mut statements = vec![format!("CREATE DATABASE {DATABASE}")];
        // By both: MariaDB's installer has made a nameless user at localhost, which would come before any of '%'.
        for host in ["localhost", "%"] {
            statements.push(format!("CREATE USER {USER}@'{host}' IDENTIFIED BY '{PASSWORD}'"));
            statements.push(format!("GRANT ALL ON *.* TO {USER}@'{host}'"));
        }
        execute(root.into(), &statements);
    }

    fn door(&self, stage: &Stage, home: &Path, _data: &Path) -> (PathBuf, Vec<OsString>) {
        let folder = home.join("charsets");
        if !folder.exists() {
            stage.own_folder(&folder);
            let installed = self.programs.share.as_ref().expect("the server's files").join("charsets");
            for file in std::fs::read_dir(installed).expect("character sets").flatten() {
                std::fs::copy(file.path(), folder.join(file.file_name())).expect("a copy");
            }
        }
        (folder.join("Index.xml"), vec![option("--character-sets-dir=", &folder)])
    }

    fn stop_signal(&self) -> Signal {
        Signal::SIGTERM
    }
}

/// How a client connects, whether to Scalepoint or to a server.
pub fn address(port: u16) -> Opts {
    OptsBuilder::default()
        .ip_or_hostname("127.0.0.1")
        .tcp_port(port)
        .user(Some(USER))
        .pass(Some(PASSWORD))
        .db_name(Some(DATABASE))
        .prefer_socket(false)
        .into()
}

/// Runs statements that must succeed.
pub fn execute(address: Opts, statements: &[String]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut conn = Conn::new(address).await.expect("a connection");
        for statement in statements {
            conn.query_drop(statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
        conn.disconnect().await.expect("an end");
    });
}
