//! Where databases run.
//!
//! A provider owns the processes (or containers, or foreign clusters) of *one* cluster and nothing else: it knows no
//! sessions and no policy. The capacity change in `scaling/` calls it in this order:
//!
//! ```text
//! recover ──► launch ──► [prepare ──► advance* ──► stop_moment? ──┬► hand_over ────────┬]* ──► stop
//!                                                                  └► promote ───────────┘
//! ```
//!
//! `promote` is for providers that keep a second copy of the database (`replication`); the others hand over.
//!
//! Invariant: **exactly one writer**. A provider lets a process into a volume only after it has seen every earlier one
//! exit, also after a crash of the router (`recover`).

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::config::AcuConfig;

pub mod process;
pub mod replication;

/// What one capacity means on this machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Resources {
    /// Capacity in ACUs, for names and logs only.
    pub capacity: u32,
    /// Memory of the database process tree, bytes.
    pub memory_bytes: u64,
    /// CPU, in cores.
    pub cpu_cores: f64,
}

impl Resources {
    /// So many capacity units.
    pub fn of(acu: &AcuConfig, capacity: u32) -> Resources {
        Resources {
            capacity,
            memory_bytes: acu.memory_bytes.saturating_mul(capacity.into()),
            cpu_cores: acu.cpu_cores * f64::from(capacity),
        }
    }
}

/// One running database process and where the router reaches it.
#[derive(Debug, Clone)]
pub struct Instance {
    /// The private Unix socket (the path of the socket file itself).
    pub socket: PathBuf,
    /// Process id of the server's main process.
    pub pid: u32,
    /// Full server version, as the server's program reports it ("15.20").
    pub version: String,
    /// What it was started with.
    pub resources: Resources,
    /// Turns to `Some(how)` as soon as the main process has exited ("exit status: 1", "signal: 9").
    pub exited: watch::Receiver<Option<String>>,
}

/// How a hand-over ended.
#[derive(Debug)]
pub enum HandOver {
    /// The new instance serves.
    Moved(Instance),
    /// The new capacity did not come up; an instance of the old capacity serves again.
    Kept(Instance, ComputeError),
}

/// How an attempt to hand over to a copy of the database ended. Nobody has lost anything unless it is `Moved`.
#[derive(Debug)]
pub enum Promotion {
    /// The copy serves, and has everything that was ever acknowledged. The old instance takes no writes any more, and
    /// goes by itself.
    Moved(Instance, HandOverTimes),
    /// The copy is not as far as it has to be, and why. The old instance serves as before; a later try may succeed.
    NotNow(String),
    /// There is no copy that could serve. [Hand over](ComputeProvider::hand_over) instead.
    Unfit,
}

/// How long each part of a hand-over took.
#[derive(Debug, Clone, Copy, Default)]
pub struct HandOverTimes {
    /// From the stop signal until the old main process was gone.
    pub stop: Duration,
    /// From the start of the new process until it was ready for connections.
    pub start: Duration,
}

/// What went wrong with a database process, in words an operator can act on.
#[derive(Debug, thiserror::Error)]
pub enum ComputeError {
    /// The server's programs are not on this machine; says which package brings them.
    #[error("{0}")]
    MissingServer(String),
    /// A setting that cannot work, said before anything is touched.
    #[error("{0}")]
    Configuration(String),
    /// The volume cannot be used (wrong version, wrong owner, disk full, ...).
    #[error("volume {path}: {reason}")]
    Volume {
        /// The volume's folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The server did not become ready; carries the last lines of its log.
    #[error("the server did not start: {0}")]
    NotStarted(String),
    /// The old process could not be stopped, so no new one may be started.
    #[error("the old server (pid {pid}) did not stop: {reason}")]
    NotStopped {
        /// Its process id.
        pid: u32,
        /// What was tried.
        reason: String,
    },
    /// Anything from the operating system.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The system's error.
        source: std::io::Error,
    },
}

/// Runs the database of one cluster.
#[async_trait]
pub trait ComputeProvider: Send + Sync {
    /// Makes the volume if there is none, and stops whatever process a crashed router left on it. Idempotent.
    /// After `Ok` no process runs on the volume.
    async fn recover(&self) -> Result<(), ComputeError>;

    /// Starts the database with these resources and waits until it is ready for connections.
    /// On `Err` nothing is left running.
    async fn launch(&self, resources: &Resources) -> Result<Instance, ComputeError>;

    /// Whatever can be done for a coming `hand_over` while clients still run (files, cgroups). Changes nothing that
    /// the running instance would notice, so it can be called and never followed by `hand_over`.
    async fn prepare(&self, to: &Resources) -> Result<(), ComputeError>;

    /// A hold will be tried soon: does of the start with the resources `to` whatever can be done beside the running
    /// instance, also after `dismiss`. Says nothing of how it went, because `hand_over` does what is left. Dropping it
    /// undoes it.
    async fn advance(&self, _to: &Resources) {}

    /// When `hand_over` should begin so that it is quickest, if that depends. To find out may take a good second.
    async fn stop_moment(&self) -> Option<Instant> {
        None
    }

    /// The hand-over that was prepared will not come: what is held ready for it can go.
    fn dismiss(&self) {}

    /// Stops `old` and starts the database with the resources `to`. Called while no client can write.
    /// `Ok(Kept)`: the new capacity failed, the old one serves again. `Err`: no instance runs (and none can be started
    /// now); the volume is intact.
    async fn hand_over(
        &self,
        old: &Instance,
        to: &Resources,
    ) -> Result<(HandOver, HandOverTimes), ComputeError>;

    /// The copy of the database that [`promote`](ComputeProvider::promote) would have serve, if one runs: its socket, and
    /// its main process. It takes connections, and no writes.
    async fn copy(&self) -> Option<(PathBuf, u32)> {
        None
    }

    /// Hands over to a copy of the database that is kept beside it. Called while no client can write, and before any
    /// session has given its backend up. `needed`: processes of the old instance that have to say something yet. Dropping it
    /// leaves the old instance as it was.
    async fn promote(&self, _old: &Instance, _to: &Resources, _needed: &[u32]) -> Promotion {
        Promotion::Unfit
    }

    /// Nothing has been under way for a moment: gets ready for a later change what takes long, beside the clients' work. A
    /// change that begins meanwhile finds it done, or waits for it.
    async fn keep_warm(&self) {}

    /// Stops the instance cleanly (every process of it is gone after `Ok`), with force when `grace` has passed.
    async fn stop(&self, instance: &Instance, grace: Duration) -> Result<(), ComputeError>;

    /// How many client sessions a database with these resources takes at once; `None`: not known.
    fn places(&self, resources: &Resources) -> Option<u64>;

    /// Something about this provider that an operator should know ("no cgroups here: memory is not enforced").
    fn limitations(&self) -> Vec<String>;
}
