//! What the benchmarks run on: a folder that goes away again, a Scalepoint and a bare server with the same
//! settings and the same data.

#![allow(dead_code, unreachable_pub, reason = "each benchmark uses a part of it")]

pub mod bare;
pub mod engine;
pub mod figures;
pub mod mysql;
pub mod options;
pub mod postgres;
pub mod proxy;

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use engine::{Engine, Product};

/// The superuser of both servers.
pub const USER: &str = "bench";
/// Its password.
pub const PASSWORD: &str = "bench-password";
/// The database with the tables.
pub const DATABASE: &str = "bench";

/// Everything a run leaves behind is in here, and goes when it ends.
pub struct Stage {
    folder: tempfile::TempDir,
    /// The kind of server that runs on it.
    pub engine: Box<dyn Engine>,
}

impl Stage {
    /// Finds the server and makes the folder.
    pub fn set(product: Product) -> Stage {
        let engine = product.engine();
        let folder = tempfile::Builder::new().prefix("scalepoint-bench").tempdir().expect("a folder");
        // No server runs as root, and the user that it then runs as must get in here.
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("an open folder");
        Stage { folder, engine }
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A folder that the server's user owns.
    pub fn server_folder(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        self.own_folder(&path);
        path
    }

    /// The same, anywhere.
    pub fn own_folder(&self, path: &Path) {
        std::fs::create_dir(path).expect("a new folder");
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o700)).expect("a private folder");
        if let Some((user, group)) = self.server_user() {
            std::os::unix::fs::chown(path, Some(user), Some(group)).expect("a folder of the server's user");
        }
    }

    /// A program, run as the user that servers run as.
    pub fn as_server(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        if let Some((user, group)) = self.server_user() {
            command.uid(user).gid(group);
        }
        command.current_dir("/").stdin(Stdio::null());
        command
    }

    /// User and group that servers run as when we are root.
    pub fn server_user(&self) -> Option<(u32, u32)> {
        if !nix::unistd::geteuid().is_root() {
            return None;
        }
        let name = self.engine.os_user();
        let user = nix::unistd::User::from_name(name).ok().flatten();
        let user = user.unwrap_or_else(|| panic!("the user {name}"));
        Some((user.uid.as_raw(), user.gid.as_raw()))
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
