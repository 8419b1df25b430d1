//! What tells the kinds of server apart, for both benchmarks.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use nix::sys::signal::Signal;

use super::Stage;
use super::mysql::MySql;
use super::postgres::Postgres;

/// What `--server` may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Product {
    /// PostgreSQL.
    Postgres,
    /// MariaDB.
    MariaDb,
    /// MySQL 9.
    MySql9,
}

impl FromStr for Product {
    type Err = ();

    fn from_str(name: &str) -> Result<Product, ()> {
        match name {
            "postgres" => Ok(Product::Postgres),
            "mariadb" => Ok(Product::MariaDb),
            "mysql9" => Ok(Product::MySql9),
            _ => Err(()),
        }
    }
}

impl Product {
    /// As `--server` calls it.
    pub fn name(self) -> &'static str {
        match self {
            Product::Postgres => "postgres",
            Product::MariaDb => "mariadb",
            Product::MySql9 => "mysql9",
        }
    }

    /// Finds its programs.
    pub fn engine(self) -> Box<dyn Engine> {
        match self {
            Product::Postgres => Box::new(Postgres::find()),
            Product::MariaDb => Box::new(MySql::find("SCALEPOINT_MARIADB_BIN")),
            Product::MySql9 => Box::new(MySql::find("SCALEPOINT_MYSQL9_BIN")),
        }
    }
}

/// A kind of server.
pub trait Engine {
    /// As the configuration calls it.
    fn name(&self) -> &'static str;

    /// The folder with its server program.
    fn programs(&self) -> &Path;

    /// Whom its servers run as when we are root.
    fn os_user(&self) -> &'static str;

    /// Settings that hold for both servers at every capacity, so that only what is compared differs.
    fn settings(&self) -> &'static [(&'static str, &'static str)];

    /// Makes a volume.
    fn make_volume(&self, stage: &Stage, home: &Path, data: &Path);

    /// Its server, with these settings, on TCP and a Unix socket in `home`.
    fn server(&self, stage: &Stage, home: &Path, data: &Path, port: u16) -> Command;

    /// The Unix socket.
    fn socket(&self, home: &Path, port: u16) -> PathBuf;

    /// Whether a server that says nothing by itself is ready.
    fn looks_ready(&self, data: &Path, pid: u32) -> bool;

    /// Makes the database (and the user, if the volume came without) on a new server.
    fn set_up(&self, stage: &Stage, home: &Path, port: u16);

    /// A file that it opens when it has read its settings and has not touched its volume, and nobody else opens;
    /// options that it needs for that.
    fn door(&self, stage: &Stage, home: &Path, data: &Path) -> (PathBuf, Vec<OsString>);

    /// What stops it as fast as is clean.
    fn stop_signal(&self) -> Signal;
}
