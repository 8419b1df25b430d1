//! One cluster's task: starts its database, changes its capacity on request, replaces it when it dies, stops it.
//!
//! ```text
//!              recover, launch                 request
//!   Starting ───────────────────► Available ────────────► (change) ──► Available
//!                                  │  ▲  ▲                    │
//!                     it died      ▼  │  └── launched ── Failed (tries again, and again)
//!                              (launch)                       ▲
//!                                  └──── cannot be started ───┘
//! ```

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::board::Board;
use super::change::{Change, socket};
use super::clusters::Asked;
use super::journal::{Entry, Journal};
use super::report::ClusterState;
use crate::compute::{ComputeError, ComputeProvider, Instance, Resources};
use crate::config::{AcuConfig, ClusterConfig};
use crate::router::Obstacle;
use crate::router::fleet::Fleet;
use crate::router::turns::{Limit, Turns};

/// Between two attempts to start a database that does not start.
const RETRY: Duration = Duration::from_secs(2);
/// How long sessions whose state others can see may take to be restored after a crash.
const VISIBLE: Duration = Duration::from_secs(20);
/// How long a new server may take to be made what the last one had been told to be; everybody waits for that.
const RECALL: Duration = Duration::from_secs(5);
/// How often sessions whose account keeps them are asked again when no change is sought.
const AGAIN: Duration = Duration::from_secs(1);
/// How long clients are let alone after a change before the processors do something for the next one.
const PEACE: Duration = Duration::from_millis(300);
/// How often the shutdown looks whether the last session has ended.
const LOOK: Duration = Duration::from_millis(100);
/// See [`served_well`]; measured (benches/README.md).
const STATEMENTS_PER_CORE: usize = 4;
/// How long a stop may take after the sessions have ended.
const STOP: Duration = Duration::from_secs(60);

/// What a change needs done inside the database.
#[async_trait]
pub trait Maintenance: Send + Sync {
    /// Writes dirty data to disk.
    async fn flush(&self) -> Result<(), String>;
    /// The server goes on after all: ends what [`flush`](Maintenance::flush) began.
    async fn unflush(&self);
    /// What of the server itself a restart would lose.
    async fn server_obstacle(&self) -> Option<Obstacle>;
    /// Remembers what was changed in the server since it started and would be lost by a restart. Called while no client
    /// can change it.
    async fn remember(&self) -> Result<(), String>;
    /// A server has started at `socket` and nobody has used it yet: makes it what was remembered.
    async fn recall(&self, socket: &Path) -> Result<(), String>;
    /// Finds out what sessions may be made of besides what they were seen to use.
    async fn study(&self);
    /// Reads what the sessions' accounts are by now; sessions look at it when they are next surveyed.
    async fn look_up_accounts(&self);
    /// Makes what the configuration names and the volume lacks.
    async fn complete(&self) -> Result<(), String>;
}

/// How many statements the cores serve well: each core one, and others while those wait for a disk or their client.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few")]
fn served_well(cpu_cores: f64) -> usize {
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let cores = (cpu_cores.ceil() as usize).clamp(1, all);
    cores * STATEMENTS_PER_CORE
}

/// See the module.
pub struct Driver {
    /// Its section of the configuration.
    pub config: ClusterConfig,
    /// What one capacity unit is.
    pub acu: AcuConfig,
    /// What others see.
    pub board: Arc<Board>,
    /// The sessions.
    pub fleet: Arc<Fleet>,
    /// How many of their statements begin at once.
    pub turns: Arc<Turns>,
    /// Where the database runs.
    pub provider: Arc<dyn ComputeProvider>,
    /// What is done inside it.
    pub maintenance: Arc<dyn Maintenance>,
    /// What outlives a crash.
    pub journal: Journal,
    /// The capacity that serves, ACUs.
    pub capacity: u32,
    /// The instance that serves.
    pub instance: Option<Instance>,
    /// Turns true when the process is to end.
    pub stopping: watch::Receiver<bool>,
}

/// What wakes the driver.
enum Woken {
    Asked(Asked),
    Died(String),
    /// A session's account has kept it from being moved, and may have been put right.
    Look,
    /// Nothing has been asked for a moment.
    Idle,
    Stop,
}

impl Driver {
    /// Brings the cluster up: stops what a crashed router left behind, starts the database, opens the gate.
    pub async fn start(&mut self) -> Result<(), ComputeError> {
        let failed = |source| ComputeError::Io { what: "reading the journal".to_owned(), source };
        if let Some(entry) = self.journal.read().map_err(failed)? {
            self.recall(entry);
        }
        self.provider.recover().await?;
        for limitation in self.provider.limitations() {
            tracing::warn!(cluster = self.board.name, limitation);
        }
        self.launch().await?;
        if let Err(error) = self.maintenance.complete().await {
            tracing::warn!(cluster = self.board.name, error, "the database cannot be completed");
        }
        self.write_journal(Entry { capacity: self.capacity, change_to: None });
        self.board.enter(ClusterState::Available);
        Ok(())
    }

    /// The capacity that served last, if the configuration still allows it.
    fn recall(&mut self, entry: Entry) {
        self.capacity = entry.capacity.clamp(self.config.min_capacity, self.config.max_capacity);
        if let Some(to) = entry.change_to {
            let message = format!(
                "A change to {to} capacity units was interrupted; the cluster starts at {}.",
                self.capacity
            );
            self.board.tell("recovered", message);
        }
    }

    /// Runs the cluster until the process is to end; then lets sessions end for `grace` and stops the database.
    pub async fn run(mut self, mut asks: mpsc::Receiver<Asked>, grace: Duration) {
        let mut stop = self.stopping.clone();
        let mut warm = false;
        loop {
            let woken = self.wait(&mut asks, &mut stop, warm).await;
            warm = matches!(woken, Woken::Idle) || warm && matches!(woken, Woken::Look);
            match woken {
                Woken::Idle => self.keep_warm(),
                Woken::Asked(asked) => self.asked(asked).await,
                Woken::Died(how) => {
                    self.board.tell("backend_died", format!("The database process ended ({how})."));
                    self.replace(&mut stop).await;
                }
                Woken::Look => self.ask_sessions().await,
                Woken::Stop => return self.stop(grace).await,
            }
        }
    }

    /// Has the provider get ready for a later change, in the background.
    fn keep_warm(&self) {
        let provider = Arc::clone(&self.provider);
        tokio::spawn(async move { provider.keep_warm().await });
    }

    /// `warm`: the provider is as ready for a change as it gets.
    async fn wait(
        &mut self,
        asks: &mut mpsc::Receiver<Asked>,
        stop: &mut watch::Receiver<bool>,
        warm: bool,
    ) -> Woken {
        if *stop.borrow() {
            return Woken::Stop;
        }
        let Some(instance) = &mut self.instance else {
            return Woken::Died("it could not be started".to_owned());
        };
        let died = async {
            match instance.exited.wait_for(Option::is_some).await {
                Ok(how) => how.clone().unwrap_or_default(),
                Err(_) => "nobody watches it any more".to_owned(),
            }
        };
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => Woken::Stop,
            how = died => Woken::Died(how),
            Some(asked) = asks.recv() => Woken::Asked(asked),
            () = tokio::time::sleep(AGAIN), if self.fleet.has(Obstacle::Account) => Woken::Look,
            () = tokio::time::sleep(PEACE), if !warm => Woken::Idle,
        }
    }

    async fn asked(&mut self, Asked { request, report }: Asked) {
        let change = Change {
            to: request.capacity,
            seconds_before_timeout: request
                .seconds_before_timeout
                .unwrap_or(self.config.seconds_before_timeout),
            action: request.timeout_action.unwrap_or(self.config.timeout_action),
        };
        // Who asked may have left; the events and `status` say how it ended.
        drop(report.send(self.change(change).await));
    }

    /// Starts a database in place of one that died, however long that takes.
    async fn replace(&mut self, stop: &mut watch::Receiver<bool>) {
        self.instance = None;
        self.fleet.down();
        self.board.metrics.backend_restarts.inc();
        loop {
            match self.launch().await {
                Ok(()) => {
                    self.board.enter(ClusterState::Available);
                    self.board.tell("backend_replaced", "The database process was started again.");
                    return;
                }
                Err(error) => {
                    self.board.enter(ClusterState::Failed);
                    self.board.tell("failed", format!("The database cannot be started: {error}."));
                }
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    /// Starts an instance of the present capacity and lets the sessions have it.
    async fn launch(&mut self) -> Result<(), ComputeError> {
        let instance = self.provider.launch(&self.resources(self.capacity)).await?;
        self.recall_settings(&instance).await;
        self.fleet.set_places(self.provider.places(&instance.resources));
        self.fleet.resume(socket(&instance), VISIBLE).await;
        self.serve_from(instance);
        Ok(())
    }

    /// Makes a server that nobody has used yet what the last one had been told to be.
    pub(super) async fn recall_settings(&self, instance: &Instance) {
        let recalled = timeout(RECALL, self.maintenance.recall(&instance.socket)).await;
        if let Err(error) = recalled.unwrap_or_else(|_| Err("it does not answer in time".to_owned())) {
            tracing::warn!(cluster = self.board.name, error, "settings of the server cannot be carried over");
        }
    }

    /// This instance serves from now on.
    pub(super) fn serve_from(&mut self, instance: Instance) {
        self.capacity = instance.resources.capacity;
        self.board.metrics.capacity.set(self.capacity.into());
        self.turns.set_limit(match self.config.statements_at_once {
            Some(0) => Limit::None,
            Some(most) => Limit::Fixed(most),
            None => Limit::Adaptive(served_well(instance.resources.cpu_cores)),
        });
        let (capacity, version, pid) = (self.capacity, instance.version.clone(), instance.pid);
        self.board.show(|seen| {
            seen.capacity = capacity;
            seen.version = Some(version);
            seen.backend_pid = Some(pid);
        });
        self.instance = Some(instance);
    }

    /// The instance is about to end because it is told to.
    pub(super) fn expect_exit(&mut self) {
        self.board.show(|seen| seen.backend_pid = None);
    }

    /// What a capacity means on this machine.
    pub(super) fn resources(&self, capacity: u32) -> Resources {
        Resources::of(&self.acu, capacity)
    }

    /// A journal that cannot be written does not stop a change: it only tells a later start less.
    pub(super) fn write_journal(&self, entry: Entry) {
        if let Err(error) = self.journal.write(entry) {
            tracing::error!(cluster = self.board.name, %error, "the journal cannot be written");
        }
    }

    async fn stop(mut self, grace: Duration) {
        self.board.enter(ClusterState::Stopping);
        self.fleet.close();
        let deadline = tokio::time::Instant::now() + grace;
        while !self.fleet.is_empty() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(LOOK).await;
        }
        self.write_journal(Entry { capacity: self.capacity, change_to: None });
        if let Some(instance) = self.instance.take()
            && let Err(error) = self.provider.stop(&instance, STOP).await
        {
            tracing::error!(cluster = self.board.name, %error, "the database was not stopped cleanly");
        }
    }
}
