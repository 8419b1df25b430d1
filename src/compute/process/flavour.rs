//! What differs between servers. Everything else in this folder knows no engine.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use nix::sys::signal::Signal;
use tokio::time::Instant;

use super::barrier::Threshold;
use super::os_user::OsUser;
use super::pidfd::Pidfd;
use crate::compute::replication::Replication;
use crate::compute::{ComputeError, Resources};

/// Where one cluster lives on this machine.
#[derive(Debug, Clone)]
pub struct Site {
    /// The cluster's name, for logs and process titles.
    pub cluster: String,
    /// The data directory (absolute).
    pub volume: PathBuf,
    /// The folder of the private sockets.
    pub run_dir: PathBuf,
    /// Whom the server runs as; `None`: ourselves.
    pub user: Option<OsUser>,
}

impl Site {
    /// A file or folder of the cluster that lies beside its volume.
    pub(super) fn beside_volume(&self, name: &str) -> PathBuf {
        self.volume.parent().unwrap_or(Path::new("/")).join(name)
    }
}

/// One kind of server.
#[async_trait]
pub(super) trait Flavour: Send + Sync {
    /// The server's version, as its program reports it.
    async fn version(&self) -> Result<String, ComputeError>;

    /// Fills the empty folder `fresh`, which belongs to the server's user already, with a new database, synced to
    /// disk. `site.volume` is where it will be moved to.
    async fn create_volume(&self, site: &Site, fresh: &Path, password: &str) -> Result<(), ComputeError>;

    /// Whether a server's data are in that folder.
    fn has_data(&self, volume: &Path) -> bool;

    /// Refuses a volume that this version cannot serve, and puts right what the router depends on.
    async fn accept_volume(&self, site: &Site, version: &str) -> Result<(), ComputeError>;

    /// The server's program and its arguments for these resources.
    fn server(&self, site: &Site, resources: &Resources) -> (PathBuf, Vec<OsString>);

    /// Variables that the server's programs need.
    fn environment(&self) -> Vec<(String, OsString)> {
        Vec::new()
    }

    /// How many ordinary connections that server takes at once; `None`: not known.
    fn places(&self, resources: &Resources) -> Option<u64>;

    /// The name of the socket file in the run folder.
    fn socket_name(&self) -> &'static str;

    /// Files in the run folder that a killed server leaves.
    fn run_files(&self) -> &'static [&'static str];

    /// The name of the server's log.
    fn log_name(&self) -> &'static str;

    /// The file in the volume that says which process serves it.
    fn lock_file(&self) -> &'static str;

    /// The process that the lock file names.
    fn main_pid(&self, volume: &Path) -> Option<u32>;

    /// Whether the server says, in its own files, that process `pid` is ready for connections.
    fn looks_ready(&self, site: &Site, pid: u32) -> bool;

    /// Where a server that is started ahead waits for the end of the one before it. `None`: it cannot be held up.
    fn threshold(&self, site: &Site) -> Option<Threshold>;

    /// The settings file at which a server that is started ahead can be held up instead, as it opens that twice before it
    /// touches the volume. `None`: it cannot be done.
    fn held_by_settings(&self, _site: &Site) -> Option<PathBuf> {
        None
    }

    /// What makes a server read its settings from there.
    fn reading(&self, _settings: &Path) -> Vec<OsString> {
        Vec::new()
    }

    /// When the server `pid` looks next whether it is to stop, if it does so only now and then; to find out may take a good
    /// second. `None`: it makes no difference, or cannot be told.
    async fn next_look(&self, _pid: u32) -> Option<Instant> {
        None
    }

    /// Whether a program of this name is such a server.
    fn is_server(&self, program: &str) -> bool;

    /// The signal for a quick and clean stop, and the one for a stop without cleaning up.
    fn stop_signals(&self) -> (Signal, Signal);

    /// Whether a line of the log is the reason for a failed start.
    fn is_grave(&self, line: &str) -> bool;

    /// How a second server follows this one; `None`: it cannot be done with this kind.
    fn following(&self) -> Option<&dyn Following> {
        None
    }

    /// What the server may come to use in memory, bytes; `None` when it cannot be told.
    fn needed_bytes(&self, resources: &Resources) -> Option<u64>;
}

/// How a server of a kind follows another one, on a copy of its volume.
#[async_trait]
pub(super) trait Following: Send + Sync {
    /// Why this volume cannot be followed without loss, as far as its files say; `None`: it can.
    fn objection(&self, volume: &Path) -> Option<String>;

    /// Copies the volume of the running server of `primary` into the folder `fresh`, which does not exist, for the server of
    /// `follower`. Dropping it gives it up.
    async fn copy(
        &self,
        primary: &Site,
        follower: &Site,
        fresh: &Path,
        replication: &dyn Replication,
    ) -> Result<(), String>;

    /// Files in the volume, with settings, that the server reads at its start and that its log says nothing of.
    fn settings_files(&self) -> &'static [&'static str];

    /// The next server on this volume is to follow. May be said again.
    fn follow(&self, site: &Site) -> io::Result<()>;

    /// What a server that follows the one of `primary` is told besides.
    fn arguments(&self, primary: &Site) -> Vec<OsString>;

    /// How it learns whom to follow.
    fn reach(&self) -> Reach;

    /// When the last of the log can be read.
    fn last_read(&self) -> LastRead;

    /// Writes to disk what a copy that is to take over has of the log. Blocks.
    fn sync(&self, volume: &Path) -> io::Result<()>;

    /// Whether a copy is still one after a crash of the machine.
    fn outlasts_machine(&self) -> bool;

    /// Tells the server of the site, whose main process is `server`, to take writes.
    async fn promote(&self, site: &Site, server: &Pidfd, replication: &dyn Replication)
    -> Result<(), String>;
}

/// See [`Following::reach`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reach {
    /// Its arguments and files name the primary's socket.
    Socket,
    /// By a statement, and over TCP. A copy that was just made has the log up to what the file of this name in its volume says.
    Port {
        /// The file; it goes when the copy follows.
        since: &'static str,
    },
}

/// See [`Following::last_read`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LastRead {
    /// When all processes of the server are stopped but those that say it.
    Stopped,
    /// When nobody may write any more, before its only process is stopped.
    Locked,
}
