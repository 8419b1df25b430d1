//! Databases as child processes on one data directory, swapped by a restart.
//!
//! ```text
//!             recover                launch / hand_over
//! [unknown] ──────────► [volume free] ───────────────► [one server] ──┐
//!                          ▲   ▲                          │  ▲        │ hand_over: stop, start;
//!                          │   └──── stop ────────────────┤  └────────┘ on failure the old again
//!                          └──────── it died ─────────────┘
//! ```
//!
//! The swap is a stop and a start, so both are as short as the server allows: a signal instead of a tool that polls,
//! the exit seen through a pidfd, readiness told by the server, limits lifted meanwhile, and everything that needs no
//! free volume done before the stop: the new process exists already, in its cgroup (`fork`), and as a rule it is a server
//! already, held up where it would enter the volume (`ahead`, `barrier`). What
//! needs no order is done at the same time: the old server's memory is freed while the new one starts (`shared_memory`).
//! A checkpoint just before `hand_over` (in SQL, so not from here) halves the stop.
//!
//! The order in reading: `start` (one start) and `orphan` (every stop) rest on `fork`, `pidfd` and `readiness`;
//! `flavour` is what differs between servers: `postgres`, and `mysql` for MariaDB and the MySQLs.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::{OnceCell, Semaphore, SemaphorePermit};
use tokio::time::sleep;
use zeroize::Zeroizing;

use self::ahead::Lead;
use self::cgroup::{Cgroup, Limits};
use self::fifo::Fifo;
use self::flavour::{Flavour, Site};
use self::fork::Process;
use self::shared_memory::SharedMemory;
use self::start::Staged;
use self::volume::Claim;
use super::{ComputeError, ComputeProvider, HandOver, HandOverTimes, Instance, Resources};

mod ahead;
#[expect(
    unsafe_code,
    reason = "signals for a socket, and descriptors that come through one, have no safe wrapper; each block says why it is sound"
)]
mod barrier;
mod cgroup;
mod config;
mod fifo;
mod flavour;
#[expect(
    unsafe_code,
    reason = "system calls around fork and exec have no safe wrapper; each block says why it is sound"
)]
mod fork;
mod log_file;
pub mod mysql;
mod orphan;
#[expect(
    unsafe_code,
    reason = "system calls around fork and exec have no safe wrapper; each block says why it is sound"
)]
mod os_user;
#[expect(
    unsafe_code,
    reason = "system calls around fork and exec have no safe wrapper; each block says why it is sound"
)]
mod pidfd;
pub mod postgres;
mod private_dir;
mod readiness;
mod secret_file;
mod shared_memory;
#[expect(
    unsafe_code,
    reason = "system calls around fork and exec have no safe wrapper; each block says why it is sound"
)]
mod spawn;
pub mod standby;
mod start;
mod volume;

#[cfg(test)]
mod tests;

pub use self::config::{Pair, ProcessConfig, START_DEADLINE, STOP_DEADLINE, ServerKind, admit_server_user};

/// How often, and how long apart, the removal of a cgroup is tried.
const CGROUP_REMOVALS: u32 = 20;
const CGROUP_REMOVAL_PAUSE: Duration = Duration::from_millis(25);

/// Runs one cluster's database as a child process. Dropping it does *not* stop the database (`stop` does); a later
/// provider on the same volume finds it.
pub struct ProcessProvider {
    site: Site,
    flavour: Arc<dyn Flavour>,
    cgroup: Arc<Cgroup>,
    version: OnceCell<String>,
    password: Mutex<Option<Zeroizing<String>>>,
    claim: OnceCell<Claim>,
    running: Mutex<Option<Process>>,
    /// The next server's process, which waits for the old one's end.
    prepared: Mutex<Option<(Resources, Staged)>>,
    /// What the running server was started with.
    serving: Mutex<Option<Resources>>,
    /// Servers cannot be held up here, so none is sent ahead.
    unfit: AtomicBool,
    /// They are held up by their settings file, because the kernel does not do it for us.
    by_settings: AtomicBool,
    /// What the running server has for a settings file, if it was made for it.
    settings: Mutex<Option<Arc<Fifo>>>,
    /// When the stop of the running server is best signalled.
    moment: Mutex<Option<tokio::time::Instant>>,
    /// So long before it looks whether it is to stop.
    lead: Lead,
    /// One operation at a time: two starts at once would be two writers.
    turn: Semaphore,
    remarks: Mutex<BTreeSet<String>>,
    start_deadline: Duration,
    stop_deadline: Duration,
}

impl ProcessProvider {
    fn take_turn(&self) -> Result<SemaphorePermit<'_>, ComputeError> {
        self.turn.try_acquire().map_err(|_| self.refused("another operation on it is under way"))
    }

    fn refused(&self, reason: &str) -> ComputeError {
        ComputeError::Volume { path: self.site.volume.clone(), reason: reason.to_owned() }
    }

    async fn claim(&self) -> Result<(), ComputeError> {
        self.claim.get_or_try_init(|| Claim::take(&self.site.volume)).await.map(|_| ())
    }

    async fn version(&self) -> Result<&str, ComputeError> {
        self.version.get_or_try_init(|| self.flavour.version()).await.map(String::as_str)
    }

    fn running(&self) -> MutexGuard<'_, Option<Process>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn alive(&self) -> Option<Process> {
        self.running().clone().filter(|process| process.ending().is_none())
    }

    /// Frees the volume of everything but what a clean exit leaves (nothing), and the run folder of dead sockets.
    async fn clear(&self, grace: Duration) -> Result<(), ComputeError> {
        orphan::clear(&self.site.volume, self.flavour.as_ref(), grace).await?;
        for name in self.flavour.run_files() {
            let _ = fs::remove_file(self.site.run_dir.join(name));
        }
        Ok(())
    }

    /// Stops whatever runs. After `Ok` nothing does.
    async fn halt(&self, grace: Duration) -> Result<(), ComputeError> {
        if !self.end_running(grace).await? {
            self.clear(grace).await?;
            *self.running() = None;
        }
        Ok(())
    }

    /// Ends the server that we know of. `false`: something else may be left of it.
    async fn end_running(&self, grace: Duration) -> Result<bool, ComputeError> {
        let process = self.running().clone();
        let mut clean = false;
        if let Some(process) = &process {
            if process.ending().is_none() {
                orphan::end(process.pid, &process.pidfd, self.flavour.as_ref(), grace).await?;
                process.ended().await;
            }
            // A server that ends by itself has waited for its children and removed its lock. Trusting that saves the
            // look at every process of the machine while clients wait.
            clean = process.ended_cleanly() && !self.site.volume.join(self.flavour.lock_file()).exists();
        }
        if clean {
            *self.running() = None;
        }
        Ok(clean)
    }

    /// Starts on a volume that is free.
    async fn start(&self, staged: Staged, resources: &Resources) -> Result<Instance, ComputeError> {
        let version = self.version().await?.to_owned();
        let started = staged.go(&self.site, self.flavour.as_ref(), self.start_deadline).await;
        let (process, settings) = match started {
            Ok(started) => started,
            Err(error) => {
                self.clear(Duration::ZERO).await?;
                return Err(error);
            }
        };
        *self.running() = Some(process.clone());
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner) = settings;
        *self.serving.lock().unwrap_or_else(PoisonError::into_inner) = Some(resources.clone());
        self.limit(resources);
        Ok(Instance {
            socket: self.site.run_dir.join(self.flavour.socket_name()),
            pid: process.pid,
            version,
            resources: resources.clone(),
            exited: process.exited,
        })
    }

    /// Sets the limits of a capacity, in the background.
    fn limit(&self, resources: &Resources) {
        let memory_bytes = cgroup::memory_limit(resources.memory_bytes, self.flavour.needed_bytes(resources));
        if memory_bytes.is_none() {
            let remark = format!(
                "the memory of capacity {} is not enforced: it is below 256 MiB, or the server's cache size is not clear",
                resources.capacity
            );
            self.remarks.lock().unwrap_or_else(PoisonError::into_inner).insert(remark);
        }
        let limits = Limits { cpu_cores: Some(resources.cpu_cores), memory_bytes };
        self.cgroup.enforce(limits);
    }

    /// The old capacity again, after `failure` of the new one.
    async fn go_back(&self, old: &Instance, failure: ComputeError) -> Result<HandOver, ComputeError> {
        tracing::warn!(error = %failure, capacity = old.resources.capacity, "going back to the old capacity");
        let staged = self.stage(&old.resources)?;
        let kept = self.start(staged, &old.resources).await?;
        Ok(HandOver::Kept(kept, failure))
    }
}

#[async_trait]
impl ComputeProvider for ProcessProvider {
    async fn recover(&self) -> Result<(), ComputeError> {
        let _turn = self.take_turn()?;
        let site = &self.site;
        self.claim().await?;
        let version = self.version().await?;
        private_dir::ensure(&site.run_dir, site.user.as_ref())?;
        volume::check_reach(site, &site.run_dir).await?;
        self.halt(self.stop_deadline).await?;
        let fifos = Fifo::leftovers(&site.run_dir);
        for leftover in readiness::stale_sockets(&site.run_dir).into_iter().chain(fifos) {
            let _ = fs::remove_file(leftover);
        }
        let password = self.password.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let password = password.unwrap_or_default();
        volume::create_if_absent(site, self.flavour.as_ref(), &password).await?;
        volume::settle_owner(site)?;
        volume::check_reach(site, &site.volume).await?;
        self.flavour.accept_volume(site, version).await?;
        self.try_barrier();
        *self.password.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(())
    }

    async fn launch(&self, resources: &Resources) -> Result<Instance, ComputeError> {
        let _turn = self.take_turn()?;
        self.claim().await?;
        if self.alive().is_some() {
            return Err(self.refused("a database runs on it already"));
        }
        if !self.flavour.has_data(&self.site.volume) {
            return Err(self.refused("there is no database in it yet"));
        }
        self.dismiss();
        private_dir::ensure(&self.site.run_dir, self.site.user.as_ref())?;
        self.halt(self.stop_deadline).await?;
        self.cgroup.restore();
        self.cgroup.lift();
        let staged = self.stage(resources)?;
        self.start(staged, resources).await
    }

    async fn prepare(&self, to: &Resources) -> Result<(), ComputeError> {
        let _turn = self.take_turn()?;
        volume::check_room(&self.site.volume)?;
        // One cgroup serves all capacities, and the programs are in the page cache since the last start.
        self.cgroup.restore();
        self.version().await?;
        self.dismiss();
        // Not in the hand-over: clients wait there, and while a process moves into a cgroup no other can fork or exit.
        *self.prepared() = Some((to.clone(), self.stage_ahead(to)?));
        Ok(())
    }

    async fn advance(&self, to: &Resources) {
        let Ok(_turn) = self.take_turn() else { return };
        if let Err(error) = self.send_ahead(to).await {
            // The hand-over tries again from scratch, and says why if it fails.
            tracing::warn!(%error, "the next server is not ready");
        }
    }

    async fn stop_moment(&self) -> Option<tokio::time::Instant> {
        let running = self.alive()?;
        let moment = self.flavour.next_look(running.pid).await.map(|look| look - self.lead.now());
        *self.moment() = moment;
        moment
    }

    fn dismiss(&self) {
        *self.prepared() = None;
        *self.moment() = None;
    }

    async fn hand_over(
        &self,
        old: &Instance,
        to: &Resources,
    ) -> Result<(HandOver, HandOverTimes), ComputeError> {
        let _turn = self.take_turn()?;
        self.claim().await?;
        self.cgroup.lift();
        let staged = match volume::check_room(&self.site.volume).and_then(|()| self.take_prepared(to)) {
            Ok(staged) => staged,
            Err(error) => {
                // Nothing has been touched yet.
                self.limit(&old.resources);
                return Ok((HandOver::Kept(old.clone(), error), HandOverTimes::default()));
            }
        };
        let timed = self.await_moment().await;
        let stopping = Instant::now();
        let memory = SharedMemory::of(old.pid, || old.exited.borrow().is_none());
        let ended = self.end_running(self.stop_deadline).await;
        if timed {
            self.lead.learn(stopping.elapsed());
        }
        self.cgroup.wait_for(memory.free());
        let staged = if ended? {
            staged
        } else {
            // Whoever clears up would take the next one for a leftover.
            staged.dismiss().await;
            self.halt(self.stop_deadline).await?;
            self.stage(to)?
        };
        let starting = Instant::now();
        let outcome = match self.start(staged, to).await {
            Ok(instance) => HandOver::Moved(instance),
            Err(failure) => self.go_back(old, failure).await?,
        };
        let times = HandOverTimes { stop: starting - stopping, start: starting.elapsed() };
        tracing::info!(stop = ?times.stop, start = ?times.start, capacity = to.capacity, "hand-over ended");
        Ok((outcome, times))
    }

    async fn stop(&self, instance: &Instance, grace: Duration) -> Result<(), ComputeError> {
        let _turn = self.take_turn()?;
        self.dismiss();
        self.cgroup.lift();
        tracing::info!(pid = instance.pid, "stopping the database");
        // Whatever runs on the volume is stopped, also when it is not the instance that the caller knows.
        self.halt(grace).await?;
        for _ in 0..CGROUP_REMOVALS {
            if self.cgroup.remove() {
                break;
            }
            sleep(CGROUP_REMOVAL_PAUSE).await;
        }
        Ok(())
    }

    fn places(&self, resources: &Resources) -> Option<u64> {
        self.flavour.places(resources)
    }

    fn limitations(&self) -> Vec<String> {
        let remarks = self.remarks.lock().unwrap_or_else(PoisonError::into_inner);
        self.cgroup.limitations().iter().chain(remarks.iter()).cloned().collect()
    }
}
