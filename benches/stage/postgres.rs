//! PostgreSQL.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use super::engine::Engine;
use super::{DATABASE, PASSWORD, Stage, USER, run};

/// Everything trusts the Unix socket, which only this user and root can reach; TCP takes a password.
const HBA: &str = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n";
/// The line of `postmaster.pid` (from 0) with the server's state.
const STATUS_LINE: usize = 7;

/// PostgreSQL as found on this machine.
pub struct Postgres {
    /// The folder with `postgres`, `initdb` and the clients.
    programs: PathBuf,
}

impl Postgres {
    /// Where `SCALEPOINT_PG_BIN` says, or the newest.
    pub fn find() -> Postgres {
        let programs = ["SCALEPOINT_PG_BIN", "SCALEPOINT_PG15_BIN"].iter().find_map(std::env::var_os);
        let programs = programs.map(PathBuf::from).or_else(newest_programs);
        let programs = programs
            .expect("no PostgreSQL found: run scripts/install-test-servers, or set SCALEPOINT_PG_BIN");
        Postgres { programs }
    }
}

impl Engine for Postgres {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn programs(&self) -> &Path {
        &self.programs
    }

    fn os_user(&self) -> &'static str {
        "postgres"
    }

    fn settings(&self) -> &'static [(&'static str, &'static str)] {
        &[("shared_buffers", "128MB"), ("max_connections", "250"), ("fsync", "on"), ("max_wal_size", "4GB")]
    }

    fn make_volume(&self, stage: &Stage, home: &Path, data: &Path) {
        let password = home.join("password");
        std::fs::write(&password, PASSWORD).expect("a password file");
        std::fs::set_permissions(&password, PermissionsExt::from_mode(0o644)).expect("readable");
        let mut initdb = stage.as_server(&self.programs.join("initdb"));
        initdb.args(["-E", "UTF8", "--locale=C.UTF-8", "--auth-host=scram-sha-256", "--auth-local=trust"]);
        run(initdb.args(["-U", USER, "-D"]).arg(data).arg("--pwfile").arg(&password));
        std::fs::write(data.join("pg_hba.conf"), HBA).expect("access rules");
    }

    fn server(&self, stage: &Stage, home: &Path, data: &Path, port: u16) -> Command {
        let mut postgres = stage.as_server(&self.programs.join("postgres"));
        postgres.arg("-D").arg(data).args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"]);
        postgres.arg("-c").arg(format!("unix_socket_directories={}", home.display()));
        for (name, value) in self.settings() {
            postgres.arg("-c").arg(format!("{name}={value}"));
        }
        postgres
    }

    fn socket(&self, home: &Path, port: u16) -> PathBuf {
        home.join(format!(".s.PGSQL.{port}"))
    }

    fn looks_ready(&self, data: &Path, pid: u32) -> bool {
        let Ok(lock) = std::fs::read_to_string(data.join("postmaster.pid")) else { return false };
        let mut lines = lock.lines();
        let is_its = lines.next().is_some_and(|line| line.trim() == pid.to_string());
        is_its && lines.nth(STATUS_LINE - 1).is_some_and(|line| line.trim() == "ready")
    }

    fn set_up(&self, stage: &Stage, _home: &Path, port: u16) {
        let mut psql = client(stage, "psql", port);
        run(psql.args(["-qX", "-d", "postgres", "-c", &format!("create database {DATABASE}")]));
    }

    fn door(&self, _stage: &Stage, _home: &Path, data: &Path) -> (PathBuf, Vec<OsString>) {
        (data.join("PG_VERSION"), Vec::new())
    }

    fn stop_signal(&self) -> Signal {
        Signal::SIGINT
    }
}

/// A client program that is told where to connect.
pub fn client(stage: &Stage, program: &str, port: u16) -> Command {
    let mut command = Command::new(stage.engine.programs().join(program));
    let port = port.to_string();
    let variables = [("PGPASSWORD", PASSWORD), ("PGUSER", USER), ("PGDATABASE", DATABASE)];
    command.envs(variables).env("PGHOST", "127.0.0.1").env("PGPORT", port).stdin(Stdio::null());
    command
}

/// Fills a server with pgbench's tables.
pub fn fill(stage: &Stage, port: u16, scale: u32) {
    run(client(stage, "pgbench", port).args(["-i", "-q", "-s", &scale.to_string()]));
    run(client(stage, "psql", port).args(["-qX", "-c", "create extension pg_prewarm"]));
}

fn newest_programs() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    let mut found: Vec<(u32, PathBuf)> = folders
        .filter_map(|folder| Some((folder.file_name().to_str()?.parse().ok()?, folder.path().join("bin"))))
        .filter(|(_, programs): &(u32, PathBuf)| programs.join("postgres").exists())
        .collect();
    found.sort();
    found.pop().map(|(_, programs)| programs)
}
