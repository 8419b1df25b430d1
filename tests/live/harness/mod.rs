//! Runs the program that was built, with a folder and ports of its own, and sees to it that nothing is left.
//!
//! ```text
//! Server::start() ──► scalepoint serve (ports of the system's choice) ──► "ready" ──► tests
//!      Drop ──► SIGTERM, wait ──► whatever still names the folder is ended, by its id
//! ```
//!
//! The database programs are those of `SCALEPOINT_PG_BIN`, or what the program finds itself.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

pub(crate) mod mysql;
pub(crate) mod storm;
mod template;
pub(crate) mod tls_client;

/// How long anything may take that is expected to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What the file of a test says beside its clusters.
const GENERAL: &str = r#"
data_dir = "data"
[admin]
listen = "127.0.0.1:0"
[acu]
memory = "1GiB"
[router]
shutdown_grace_seconds = 3
"#;

/// What every cluster of a test says.
const COMMON: &str =
    "listen = \"127.0.0.1:0\"\nmin_capacity = 2\nmax_capacity = 16\ndatabase_name = \"app\"\n";

/// A `[[cluster]]` section of PostgreSQL; `more` is added to it.
pub(crate) fn cluster(name: &str, more: &str) -> String {
    let server =
        std::env::var("SCALEPOINT_PG_BIN").map(|bin| format!("server = \"{bin}\"\n")).unwrap_or_default();
    format!("[[cluster]]\nname = \"{name}\"\nengine = \"postgres\"\n{server}{COMMON}{more}\n")
}

/// The program that is tested.
pub(crate) fn scalepoint() -> &'static str {
    env!("CARGO_BIN_EXE_scalepoint")
}

/// One of PostgreSQL's client programs.
pub(crate) fn client_program(name: &str) -> PathBuf {
    let folder = std::env::var("SCALEPOINT_PG_CLIENT_BIN").map(PathBuf::from);
    folder.map_or_else(|_| PathBuf::from(name), |folder| folder.join(name))
}

/// A command with a deadline, so that no test hangs.
pub(crate) fn within(limit: Duration, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", &limit.as_secs().to_string()]).arg(program).stdin(Stdio::null());
    command
}

/// What a command wrote to stdout.
pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a command wrote to stderr.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Waits until `condition` holds.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "it never came to be: {what}");
        pause(Duration::from_millis(20));
    }
}

/// Lets time go by.
#[expect(clippy::disallowed_methods, reason = "a test's own thread serves nobody")]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// A folder that the server's own user may enter.
pub(crate) fn folder() -> TempDir {
    let folder = tempfile::Builder::new().prefix("scalepoint-test-").tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

/// A running `scalepoint serve`.
pub(crate) struct Server {
    process: Child,
    folder: TempDir,
    /// The control API.
    pub(crate) admin: SocketAddr,
    /// Listeners, with the clusters behind each.
    pub(crate) endpoints: Vec<(SocketAddr, String)>,
    stopped: bool,
}

impl Server {
    /// One cluster, `orders`.
    pub(crate) fn start() -> Server {
        Server::of(&cluster("orders", ""))
    }

    /// With these sections.
    pub(crate) fn of(sections: &str) -> Server {
        let folder = folder();
        // Of what a cluster's section says, only these lines are in its volume.
        if sections.matches("[[cluster]]").count() == 1 && !sections.contains(".parameters]") {
            let of_the_volume = |line: &&str| line.starts_with("engine = ") || line.starts_with("server = ");
            let key: Vec<&str> = sections.lines().filter(of_the_volume).collect();
            template::copy(&key.join("\n"), &folder.path().join("data"), |data| {
                let folder = Server::in_folder(self::folder(), sections).stop_and_keep();
                let made = folder.path().join("data");
                for own in ["certs", "orders/run", "orders/log"] {
                    std::fs::remove_dir_all(made.join(own)).unwrap();
                }
                let moved = Command::new("cp").arg("-a").arg(made).arg(data).status();
                assert!(moved.unwrap().success());
            });
        }
        Server::in_folder(folder, sections)
    }

    /// In a folder that may hold the data of an earlier one.
    pub(crate) fn in_folder(folder: TempDir, sections: &str) -> Server {
        let file = folder.path().join("scalepoint.toml");
        std::fs::write(&file, format!("{GENERAL}{sections}")).unwrap();
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(folder.path().join("log")).unwrap();
        let filter = std::env::var("SCALEPOINT_TEST_LOG").unwrap_or_else(|_| "info".to_owned());
        let mut process = Command::new(scalepoint())
            .args(["serve", "--log", &filter, "--config"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let nobody = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut server = Server { process, folder, admin: nobody, endpoints: Vec::new(), stopped: false };
        loop {
            let Some(Ok(line)) = lines.next() else { panic!("it did not start:\n{}", server.log()) };
            let words: Vec<&str> = line.splitn(3, ' ').map(str::trim).collect();
            match line.split_whitespace().collect::<Vec<_>>()[..] {
                ["ready"] => break,
                ["admin", url] => server.admin = url.trim_start_matches("http://").parse().unwrap(),
                ["postgres" | "mysql", address, ..] => {
                    let names = line.split_whitespace().skip(2).collect::<Vec<_>>().join(" ");
                    server.endpoints.push((address.parse().unwrap(), names));
                }
                _ => assert!(!words.is_empty(), "{line}"),
            }
        }
        // Later lines must find a reader, or the program would be ended by its own words.
        std::thread::spawn(move || lines.for_each(drop));
        server
    }

    /// What it logged so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// How tokio-postgres connects, without TLS unless that is asked for.
    pub(crate) fn rust_client(&self) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host("localhost").hostaddr(self.address().ip()).port(self.address().port());
        config.user("admin").password(self.password("orders")).dbname("app");
        config
    }

    /// Its folder: `scalepoint.toml`, `log`, `data`.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The development CA.
    pub(crate) fn ca(&self) -> PathBuf {
        self.path().join("data/certs/ca.pem")
    }

    /// Where the first cluster listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.endpoints[0].0
    }

    /// The master password of a cluster.
    pub(crate) fn password(&self, cluster: &str) -> String {
        let file = self.path().join("data").join(cluster).join("master_password");
        std::fs::read_to_string(file).unwrap().trim().to_owned()
    }

    /// A command of the program, asking this server.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = within(2 * PATIENCE, scalepoint());
        command.args(words).env("SCALEPOINT_ADMIN", self.admin.to_string());
        command
    }

    /// Runs a command of the program.
    pub(crate) fn ask(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// Runs a command that must succeed with one JSON document.
    pub(crate) fn json(&self, words: &[&str]) -> serde_json::Value {
        let output = self.ask(words);
        assert!(output.status.success(), "{words:?}: {}\n{}", stderr(&output), self.log());
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Changes the capacity of `orders`; it must succeed.
    pub(crate) fn scale(&self, capacity: u32) -> serde_json::Value {
        let report = self.json(&["scale", "orders", &capacity.to_string(), "--json"]);
        assert_eq!(report["outcome"], "scaled", "{report}");
        report
    }

    /// A client program of PostgreSQL, over TLS that it checks in full; the environment says where to.
    pub(crate) fn client(&self, program: &str, limit: Duration) -> Command {
        let mut command = within(limit, client_program(program));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PG")) {
            command.env_remove(name);
        }
        command
            .env("PGHOST", "localhost")
            .env("PGHOSTADDR", self.address().ip().to_string())
            .env("PGPORT", self.address().port().to_string())
            .env("PGUSER", "admin")
            .env("PGDATABASE", "app")
            .env("PGPASSWORD", self.password("orders"))
            .env("PGSSLMODE", "verify-full")
            .env("PGSSLROOTCERT", self.ca())
            .env("PGCONNECT_TIMEOUT", "50")
            // Nobody's own ~/.postgresql or ~/.psqlrc takes part.
            .env("HOME", self.path());
        command
    }

    /// psql, unaligned and without a header, stopping at the first error.
    pub(crate) fn psql(&self) -> Command {
        let mut command = self.client("psql", PATIENCE);
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]);
        command
    }

    /// Runs one piece of SQL that must succeed; its rows.
    pub(crate) fn sql(&self, sql: &str) -> String {
        let output = self.psql().args(["-c", sql]).output().unwrap();
        assert!(output.status.success(), "{sql}: {}\n{}", stderr(&output), self.log());
        stdout(&output).trim_end().to_owned()
    }

    /// One `GET` of the control API: head and body.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE))
            .build()
            .into();
        let mut answer = agent.get(format!("http://{}{path}", self.admin)).call().unwrap();
        let status = answer.status().as_u16();
        let mut body = String::new();
        answer.body_mut().as_reader().read_to_string(&mut body).unwrap();
        (status, body)
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.process.id()).unwrap()), signal).unwrap();
    }

    /// Asks it to stop, and holds it to its promise that nothing is left running.
    pub(crate) fn stop(mut self) -> ExitStatus {
        let status = self.end();
        let left = self.left();
        assert!(left.is_empty(), "left running: {left:?}\n{}", self.log());
        status
    }

    /// As [`Server::stop`], but the folder stays for another start.
    pub(crate) fn stop_and_keep(mut self) -> TempDir {
        let status = self.end();
        assert!(status.success(), "{status}\n{}", self.log());
        std::mem::replace(&mut self.folder, folder())
    }

    /// Waits for its end, which something else brings about.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                self.stopped = true;
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end:\n{}", self.log());
            pause(Duration::from_millis(20));
        }
    }

    fn end(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait()
    }

    /// Processes that name the folder: the databases, if any is left.
    pub(crate) fn left(&self) -> Vec<(i32, String)> {
        let folder = self.path().to_string_lossy().into_owned();
        let own = std::process::id().to_string();
        let mut left = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Ok(pid) = name.parse::<i32>() else { continue };
            let Ok(words) = std::fs::read(entry.path().join("cmdline")) else { continue };
            let words = String::from_utf8_lossy(&words).replace('\0', " ");
            if name != own && words.contains(&folder) {
                left.push((pid, words));
            }
        }
        left
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.stopped {
            let pid = Pid::from_raw(i32::try_from(self.process.id()).unwrap_or(0));
            // If it has ended, that is what was wanted.
            let _ = kill(pid, Signal::SIGTERM);
            let deadline = Instant::now() + Duration::from_secs(40);
            while matches!(self.process.try_wait(), Ok(None)) && Instant::now() < deadline {
                pause(Duration::from_millis(20));
            }
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
        for (pid, _) in self.left() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("the server's log ends:\n{}", lines[lines.len().saturating_sub(60)..].join("\n"));
        }
    }
}
