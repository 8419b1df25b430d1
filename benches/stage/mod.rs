//! What the benchmarks run on: a folder that goes away again, a Scalepoint and a bare PostgreSQL with the same
//! settings and the same data.

#![allow(dead_code, unreachable_pub, reason = "each benchmark uses a part of it")]

pub mod bare;
pub mod options;
pub mod proxy;

use std::ffi::OsStr;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The superuser of both servers.
pub const USER: &str = "bench";
/// Its password.
pub const PASSWORD: &str = "bench-password";
/// The database with pgbench's tables.
pub const DATABASE: &str = "bench";

/// Server settings that hold for both servers at every capacity, so that only what is compared differs.
pub const SETTINGS: [(&str, &str); 4] =
    [("shared_buffers", "128MB"), ("max_connections", "250"), ("fsync", "on"), ("max_wal_size", "4GB")];

/// Everything a run leaves behind is in here, and goes when it ends.
pub struct Stage {
    folder: tempfile::TempDir,
    /// The folder with `postgres`, `initdb` and the clients.
    pub programs: PathBuf,
}

impl Stage {
    /// Finds the server and makes the folder.
    pub fn set() -> Stage {
        let programs = ["SCALEPOINT_PG_BIN", "SCALEPOINT_PG15_BIN"].iter().find_map(std::env::var_os);
        let programs = programs.map(PathBuf::from).or_else(newest_programs);
        let programs = programs
            .expect("no PostgreSQL found: run scripts/install-test-servers, or set SCALEPOINT_PG_BIN");
        let folder = tempfile::Builder::new().prefix("scalepoint-bench").tempdir().expect("a folder");
        // PostgreSQL does not run as root, and the user that it then runs as must get in here.
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("an open folder");
        Stage { folder, programs }
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A folder that the server's user owns.
    pub fn server_folder(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir(&path).expect("a new folder");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).expect("a private folder");
        if let Some((user, group)) = server_user() {
            std::os::unix::fs::chown(&path, Some(user), Some(group)).expect("a folder of the server's user");
        }
        path
    }

    /// One of the server's programs, run as the user that servers run as.
    pub fn as_server(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        if let Some((user, group)) = server_user() {
            command.uid(user).gid(group);
        }
        command.current_dir("/").stdin(Stdio::null());
        command
    }

    /// A client program.
    pub fn client(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command
            .env("PGPASSWORD", PASSWORD)
            .env("PGUSER", USER)
            .env("PGDATABASE", DATABASE)
            .stdin(Stdio::null());
        command
    }

    /// Fills a server with pgbench's tables.
    pub fn fill(&self, host: &OsStr, port: u16, scale: u32) {
        let mut pgbench = self.client("pgbench");
        pgbench.args(["-i", "-q", "-s", &scale.to_string(), "-p", &port.to_string(), "-h"]).arg(host);
        run(&mut pgbench);
        let mut psql = self.client("psql");
        psql.args(["-qX", "-p", &port.to_string(), "-h"]).arg(host);
        run(psql.args(["-c", "create extension pg_prewarm"]));
    }
}

/// Runs a program to its end; its words are shown only if it fails.
pub fn run(command: &mut Command) -> String {
    let done = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    let complained = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{command:?}: {}\n{said}{complained}", done.status);
    said
}

/// A TCP port that nobody has, from SCALEPOINT_BENCH_PORTS (such as `24000`) upwards if that is set.
pub fn free_port() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering};
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let Some(first) = std::env::var("SCALEPOINT_BENCH_PORTS").ok().and_then(|port| port.parse::<u16>().ok())
    else {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
        return socket.local_addr().expect("an address").port();
    };
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// User and group that PostgreSQL runs as when we are root.
pub fn server_user() -> Option<(u32, u32)> {
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    let user = nix::unistd::User::from_name("postgres").ok().flatten().expect("the user postgres");
    Some((user.uid.as_raw(), user.gid.as_raw()))
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

/// The middle of some measurements.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value below which this share of the measurements lies (the nearest one).
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index into a short list")]
    let at = (share * (sorted.len().max(1) - 1) as f64).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

/// Whether a program can be found.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let also = ["/usr/sbin", "/usr/local/sbin"].map(Path::new);
    let folders: Vec<PathBuf> = std::env::split_paths(&folders).chain(also.map(Path::to_path_buf)).collect();
    folders.into_iter().map(|folder| folder.join(name)).find(|program| program.exists())
}
