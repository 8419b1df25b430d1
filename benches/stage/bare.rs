//! PostgreSQL without Scalepoint, started and stopped as directly as can be.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{DATABASE, PASSWORD, SETTINGS, Stage, USER, free_port, run, server_user};

/// Longer than any start or stop takes.
const PATIENCE: Duration = Duration::from_secs(30);
/// The line of `postmaster.pid` (from 0) with the server's state.
const STATUS_LINE: usize = 7;

/// A server of ours. Dropping it kills it.
pub struct Bare<'a> {
    stage: &'a Stage,
    /// The data directory.
    pub data: PathBuf,
    /// The folder with its Unix socket, `.s.PGSQL.5432` or by `port`.
    pub run_dir: PathBuf,
    /// On TCP, and in the name of the socket.
    pub port: u16,
    notified: UnixDatagram,
    notify: PathBuf,
    server: Option<Child>,
}

impl<'a> Bare<'a> {
    /// Makes the volume and starts the server. `hba`: its access rules.
    pub fn make(stage: &'a Stage, name: &str, hba: &str) -> Bare<'a> {
        let home = stage.server_folder(name);
        let data = home.join("volume");
        let password = home.join("password");
        std::fs::write(&password, PASSWORD).expect("a password file");
        std::fs::set_permissions(&password, PermissionsExt::from_mode(0o644)).expect("readable");
        let mut initdb = stage.as_server("initdb");
        initdb.args([
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
            "--auth-host=scram-sha-256",
            "--auth-local=trust",
            "-U",
            USER,
        ]);
        run(initdb.arg("-D").arg(&data).arg("--pwfile").arg(&password));
        std::fs::write(data.join("pg_hba.conf"), hba).expect("access rules");
        let notify = home.join("notify");
        let notified = UnixDatagram::bind(&notify).expect("a notification socket");
        std::fs::set_permissions(&notify, PermissionsExt::from_mode(0o666)).expect("an open socket");
        notified.set_read_timeout(Some(Duration::from_millis(1))).expect("a time-out");
        let mut bare = Bare { stage, data, run_dir: home, port: free_port(), notified, notify, server: None };
        bare.start(&[]);
        let mut psql = stage.client("psql");
        psql.args(["-qX", "-d", "postgres", "-p", &bare.port.to_string(), "-h"]).arg(&bare.run_dir);
        run(psql.args(["-c", &format!("create database {DATABASE}")]));
        bare
    }

    /// Its Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join(format!(".s.PGSQL.{}", self.port))
    }

    /// Executes the server and waits for its `READY=1` (or, without systemd in it, for `ready` in `postmaster.pid`).
    pub fn start(&mut self, more: &[OsString]) {
        let log = File::options().create(true).append(true).open(self.stage.path("bare.log")).expect("a log");
        let mut postgres = self.stage.as_server("postgres");
        postgres.arg("-D").arg(&self.data).args([
            "-p",
            &self.port.to_string(),
            "-c",
            "listen_addresses=127.0.0.1",
        ]);
        postgres.arg("-c").arg(format!("unix_socket_directories={}", self.run_dir.display()));
        for (name, value) in SETTINGS {
            postgres.arg("-c").arg(format!("{name}={value}"));
        }
        postgres.args(more).env("NOTIFY_SOCKET", &self.notify);
        postgres.stderr(log.try_clone().expect("a log")).stdout(log);
        let mut server = postgres.spawn().expect("a server");
        let deadline = Instant::now() + PATIENCE;
        while !self.says_ready(server.id()) {
            let ended = server.try_wait().expect("a child");
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "the bare server does not start: {ended:?}"
            );
        }
        self.server = Some(server);
    }

    fn says_ready(&self, pid: u32) -> bool {
        let mut words = [0; 4096];
        if let Ok(length) = self.notified.recv(&mut words) {
            return words[..length].split(|&byte| byte == b'\n').any(|line| line == b"READY=1");
        }
        looks_ready(&self.data, pid)
    }

    /// Sends the signal of a fast stop.
    pub fn signal_stop(&self) {
        let server = self.server.as_ref().expect("a server");
        kill(Pid::from_raw(server.id().cast_signed()), Signal::SIGINT).expect("a server that runs");
    }

    /// Waits until it has exited.
    pub fn await_end(&mut self) {
        let how = self.server.take().expect("a server").wait().expect("a child");
        assert!(how.success(), "the bare server was not stopped cleanly: {how}");
        // What it said on its way out must not be taken for the next one's words.
        while self.notified.set_nonblocking(true).is_ok() && self.notified.recv(&mut [0; 4096]).is_ok() {}
        self.notified.set_nonblocking(false).expect("a socket");
    }

    /// Puts a file into the data directory, readable by the server alone.
    pub fn put(&self, name: &str, contents: &str) -> PathBuf {
        let path = self.data.join(name);
        std::fs::write(&path, contents).expect("a file");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("a private file");
        if let Some((user, group)) = server_user() {
            std::os::unix::fs::chown(&path, Some(user), Some(group)).expect("the server's file");
        }
        path
    }
}

impl Drop for Bare<'_> {
    fn drop(&mut self) {
        if self.server.is_some() {
            self.signal_stop();
            self.await_end();
        }
    }
}

fn looks_ready(data: &Path, pid: u32) -> bool {
    let Ok(lock) = std::fs::read_to_string(data.join("postmaster.pid")) else { return false };
    let mut lines = lock.lines();
    let is_its = lines.next().is_some_and(|line| line.trim() == pid.to_string());
    is_its && lines.nth(STATUS_LINE - 1).is_some_and(|line| line.trim() == "ready")
}
