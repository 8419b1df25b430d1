//! A database on two volumes: one serves, the other follows it (`handover = "standby"`).
//!
//! ```text
//!                    copied, or the old one           started with the next         position reached,
//!                    after a promotion                capacity, caught up           old server fenced
//! [no copy] ─────────────────────────► [copy, marked] ──────────────► [follows] ──────────────────► [promoted]
//!     ▲                                     │ ▲                          │                              │ the marker is
//!     │ it does not come up, or not near    │ └───── died, stopped ──────┘                              ▼ changed
//!     └─────────────────────────────────────┘                                                     [it serves]
//! ```
//!
//! **Exactly one writer.** A promotion begins with the old server fenced: nothing of it runs that could write (`fence`). Then
//! its log's end is read, the copy has to repeat the log up to that, and only then is it told to take over. When it takes writes,
//! the [`Marker`] is changed; from that moment, and not before, the copy is the database, also for a router that starts
//! after a crash. Until then every failure, also of this process, leaves the old one: it goes on, and the copy,
//! which may have taken over by itself meanwhile, loses its mark first of all and is made anew. After it the old server stays
//! stopped until it is killed. Its log ends where the copy's own begins, so it can follow in turn.
//!
//! The second volume lies in a folder of its own beside the first, with its own lock, logs and sockets.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};

use self::copies::{Pair, Standby};
use self::fence::Defeated;
use self::marker::{Marker, Side};
use self::promotion::NotPromoted;
use self::setbacks::Setbacks;
use self::turn::Turn;
use super::ProcessProvider;
use super::flavour::Following;
use crate::compute::replication::Replication;
use crate::compute::{
    ComputeError, ComputeProvider, HandOver, HandOverTimes, Instance, Promotion, Resources,
};

mod bridge;
mod copies;
pub(super) mod copy;
mod fence;
mod follower;
mod marker;
mod promotion;
mod setbacks;
mod turn;

/// How long the copy may take to repeat the last of the log; clients wait.
const LAST_BYTES: Duration = Duration::from_millis(250);

/// See the module. Whatever a copy cannot do is done by a restart of the one that serves.
pub struct StandbyProvider {
    first: ProcessProvider,
    second: ProcessProvider,
    marker: Marker,
    /// The side that serves.
    serving: Mutex<Side>,
    replication: Arc<dyn Replication>,
    /// There is to be a copy; otherwise one that is left from earlier is only kept from running.
    wanted: bool,
    copy: Mutex<Standby>,
    setbacks: Mutex<Setbacks>,
    /// Who works on the copy.
    turn: Semaphore,
    /// Counts how often whoever has `copy` was to give it up.
    needed: watch::Sender<u64>,
    /// The old server, stopped, from the promotion until it is killed; and [`Replication::unlogged`] at that time.
    defeated: Mutex<Option<(Defeated, u64)>>,
    /// Why there is no copy, the last time that one was to be made ready.
    complaint: Mutex<Option<String>>,
    /// The database is being stopped.
    stopped: AtomicBool,
}

impl StandbyProvider {
    /// A database of which `first` has the volume that it begins on and `second` another one. `marker`: a file that says
    /// which of them serves. `wanted`: whether there is to be a copy.
    ///
    /// # Errors
    /// `Configuration` for servers that cannot follow each other, `Io` when the marker cannot be read.
    pub fn new(
        first: ProcessProvider,
        second: ProcessProvider,
        marker: PathBuf,
        wanted: bool,
        replication: Arc<dyn Replication>,
    ) -> Result<Self, ComputeError> {
        let marker = Marker::new(marker);
        let failed = |source| ComputeError::Io { what: format!("reading {}", marker.path.display()), source };
        let serving = marker.read().map_err(failed)?;
        Ok(Self {
            first,
            second,
            serving: Mutex::new(serving),
            marker,
            replication,
            wanted,
            copy: Mutex::default(),
            setbacks: Mutex::default(),
            turn: Semaphore::new(1),
            needed: watch::Sender::new(0),
            defeated: Mutex::new(None),
            complaint: Mutex::new(None),
            stopped: AtomicBool::new(false),
        })
    }

    fn side(&self) -> Side {
        *self.serving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, side: Side) -> &ProcessProvider {
        match side {
            Side::First => &self.first,
            Side::Second => &self.second,
        }
    }

    /// The one that serves.
    fn primary(&self) -> &ProcessProvider {
        self.of(self.side())
    }

    /// The other one.
    fn follower(&self) -> &ProcessProvider {
        self.of(self.side().other())
    }

    fn defeated(&self) -> MutexGuard<'_, Option<(Defeated, u64)>> {
        self.defeated.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for its turn. Only one at a time works on the copy.
    async fn take_copy(&self) -> Turn<'_> {
        Turn::new(&self.copy, self.turn.acquire().await.ok())
    }

    fn complain(&self, reason: Option<String>) {
        let mut complaint = self.complaint.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reason) = &reason
            && complaint.as_ref() != Some(reason)
        {
            let cluster = &self.primary().site.cluster;
            tracing::warn!(
                cluster,
                reason,
                "there is no copy of the database; changes are made by a restart"
            );
        }
        *complaint = reason;
    }

    fn following(&self) -> Option<&dyn Following> {
        self.primary().flavour.following()
    }

    fn pair<'a>(&'a self, serving: Side, following: &'a dyn Following) -> Pair<'a> {
        let (primary, follower) = (self.of(serving), self.of(serving.other()));
        Pair { primary, follower, following, replication: &*self.replication, setbacks: &self.setbacks }
    }

    /// Has the copy run with these resources, as far as the database that serves.
    async fn ready_copy(&self, to: &Resources) -> Result<(), String> {
        let Some(following) = self.following() else {
            return Err("servers of this kind do not follow each other".to_owned());
        };
        // Before the wait for a turn: whoever needs the copy otherwise means those who wait, too.
        let mut needed = self.needed.subscribe();
        let readied = async {
            let mut copy = self.take_copy().await;
            if self.stopped.load(Ordering::Relaxed) || self.primary().alive().is_none() {
                return Err("the database does not run".to_owned());
            }
            let pair = self.pair(self.side(), following);
            self.put_down();
            let made = copy.ready(pair, to).await.and_then(|()| {
                let prepared = self.marker.prepare(self.side().other());
                prepared.map_err(|error| format!("a promotion could not be written down: {error}"))
            });
            if made.is_err() {
                copy.stop(pair.follower).await.map_err(|error| error.to_string())?;
            }
            made
        };
        tokio::select! {
            biased;
            _ = needed.changed() => Err("it is needed otherwise".to_owned()),
            readied = readied => readied,
        }
    }

    /// Ends the copy, however far it is.
    async fn end_copy(&self) -> Result<(), ComputeError> {
        // To copy a volume may take minutes, and somebody waits.
        self.needed.send_modify(|times| *times += 1);
        let mut copy = self.take_copy().await;
        self.put_down();
        copy.stop(self.follower()).await
    }

    /// Kills the old server that a promotion has left stopped. Its volume may follow from now on.
    fn put_down(&self) {
        let Some((defeated, unlogged)) = self.defeated().take() else { return };
        drop(defeated);
        if let Err(error) = copies::mark_unless(&self.follower().site.volume, unlogged, &*self.replication) {
            tracing::warn!(error, "the old volume will be copied anew");
        }
    }

    /// Something is about to be written that no log brings to a copy: there is none from now on, until one is made anew.
    pub fn distrust_copy(&self) {
        for side in [Side::First, Side::Second] {
            if let Err(error) = copies::unmark(&self.of(side).site.volume) {
                tracing::error!(%error, "a copy that lacks something cannot be unmarked");
            }
        }
    }
}

#[async_trait]
impl ComputeProvider for StandbyProvider {
    async fn recover(&self) -> Result<(), ComputeError> {
        let (primary, follower) = (self.primary(), self.follower());
        if self.side() == Side::Second && !primary.flavour.has_data(&primary.site.volume) {
            let reason = format!(
                "{} says that the database is here, and there is none: it will not be made anew",
                self.marker.path.display()
            );
            return Err(primary.refused(&reason));
        }
        // First the one that must not write.
        follower.claim().await?;
        follower.vacate().await?;
        let volume = &follower.site.volume;
        // What a database writes that nobody is to follow, its log may not have.
        let is_copy = self
            .following()
            .filter(|_| self.wanted)
            .is_some_and(|following| following.outlasts_machine() || copies::is_recent(volume));
        if !is_copy && let Err(source) = copies::unmark(volume) {
            let what = format!("removing the mark of {}", volume.display());
            return Err(ComputeError::Io { what, source });
        }
        // It never makes a volume.
        *follower.password.lock().unwrap_or_else(PoisonError::into_inner) = None;
        primary.recover().await
    }

    async fn launch(&self, resources: &Resources) -> Result<Instance, ComputeError> {
        self.primary().launch(resources).await
    }

    async fn prepare(&self, to: &Resources) -> Result<(), ComputeError> {
        self.primary().prepare(to).await
    }

    async fn advance(&self, to: &Resources) {
        if !self.wanted {
            return self.primary().advance(to).await;
        }
        match self.ready_copy(to).await {
            Ok(()) => self.complain(None),
            Err(reason) => {
                self.complain(Some(reason));
                self.primary().advance(to).await;
            }
        }
    }

    async fn stop_moment(&self) -> Option<Instant> {
        if let Ok(permit) = self.turn.try_acquire()
            && Turn::new(&self.copy, Some(permit)).instance().is_some()
        {
            // The old server is not going to be stopped like that.
            return None;
        }
        self.primary().stop_moment().await
    }

    fn dismiss(&self) {
        self.primary().dismiss();
    }

    async fn hand_over(
        &self,
        old: &Instance,
        to: &Resources,
    ) -> Result<(HandOver, HandOverTimes), ComputeError> {
        // A server that stops waits for who follows it.
        self.replication.let_go().await;
        if self.wanted
            && let Err(error) = self.end_copy().await
        {
            return Ok((HandOver::Kept(old.clone(), error), HandOverTimes::default()));
        }
        self.primary().hand_over(old, to).await
    }

    async fn copy(&self) -> Option<(PathBuf, u32)> {
        let copy = Turn::new(&self.copy, Some(self.turn.try_acquire().ok()?));
        let found = copy.instance().map(|instance| (instance.socket.clone(), instance.pid))?;
        // Names mean the same there only if it knows all that the sessions have seen.
        let reached = async {
            let end = self.replication.written(&self.primary().socket()).await?;
            self.await_position(&found.0, &end).await
        };
        timeout(LAST_BYTES, reached).await.is_ok_and(|reached| reached.is_ok()).then_some(found)
    }

    async fn promote(&self, _old: &Instance, to: &Resources, needed: &[u32]) -> Promotion {
        let side = self.side();
        let (Some(following), Ok(permit)) = (self.following(), self.turn.try_acquire()) else {
            return Promotion::Unfit;
        };
        let mut copy = Turn::new(&self.copy, Some(permit));
        let pair = self.pair(side, following);
        let follower = pair.follower;
        let unlogged = self.replication.unlogged();
        let Some(instance) = copy.fit(pair, to) else { return Promotion::Unfit };
        follower.cgroup.lift();
        let taken = self.take_over(pair, needed).await;
        follower.limit(to);
        let committed = taken.and_then(|(fence, times)| match self.commit(side.other()) {
            Ok(()) => Ok((fence, times)),
            Err(error) => Err(NotPromoted::NotNow(format!("the promotion cannot be written down: {error}"))),
        });
        match committed {
            Ok((fence, times)) => {
                *self.defeated() = Some((fence.defeat(), unlogged));
                copy.forget();
                tracing::info!(fence = ?times.stop, promotion = ?times.start, capacity = to.capacity, "promoted");
                Promotion::Moved(instance, times)
            }
            Err(NotPromoted::Unfit(reason)) => {
                tracing::warn!(reason, "the copy is not promoted");
                Promotion::Unfit
            }
            Err(NotPromoted::NotNow(reason)) => {
                // It may be about to take over. Nobody waits for its end.
                if !copies::is_marked(&follower.site.volume)
                    && let Some(process) = follower.alive()
                {
                    let _ = process.pidfd.signal(nix::sys::signal::Signal::SIGKILL);
                }
                Promotion::NotNow(reason)
            }
        }
    }

    async fn keep_warm(&self) {
        // Whoever works on it makes it ready, or has other plans for it.
        let is_free = self.turn.available_permits() > 0;
        let Some(resources) = self.primary().serving().filter(|_| self.wanted && is_free) else { return };
        let readied = self.ready_copy(&resources).await;
        if !self.stopped.load(Ordering::Relaxed) {
            self.complain(readied.err());
        }
    }

    async fn stop(&self, instance: &Instance, grace: Duration) -> Result<(), ComputeError> {
        self.stopped.store(true, Ordering::Relaxed);
        self.replication.let_go().await;
        if let Err(error) = self.end_copy().await {
            tracing::error!(%error, "the copy is not stopped");
        }
        self.follower().cgroup.remove();
        self.primary().stop(instance, grace).await
    }

    fn places(&self, resources: &Resources) -> Option<u64> {
        self.primary().places(resources)
    }

    fn limitations(&self) -> Vec<String> {
        self.primary().limitations()
    }
}
