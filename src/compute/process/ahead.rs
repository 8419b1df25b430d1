//! What a hand-over has ready before the old server is stopped: the next one, held up, and the moment for the stop.

use std::ffi::OsString;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::ProcessProvider;
use super::barrier::Barrier;
use super::start::{Staged, Way};
use crate::compute::{ComputeError, Resources};

/// So long before a server looks whether it is to stop it has to be told, at least and at most: it has to notice first.
const LEADS: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(320));
/// A stop that takes so much longer than its lead has missed the look.
const MISSED: Duration = Duration::from_millis(600);

/// How long before its look a server is told.
#[derive(Debug)]
pub(super) struct Lead(Mutex<Duration>);

impl Default for Lead {
    fn default() -> Self {
        Self(Mutex::new(LEADS.0))
    }
}

impl Lead {
    pub(super) fn now(&self) -> Duration {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stop that was timed took so long. A miss costs the wait for the next look, so it counts more than a hit.
    pub(super) fn learn(&self, stop: Duration) {
        let mut lead = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let next = if stop > *lead + MISSED { *lead * 2 } else { *lead * 7 / 8 };
        *lead = next.clamp(LEADS.0, LEADS.1);
    }
}

/// The stop waits for its best moment at most so long; clients wait, too.
const PATIENCE: Duration = Duration::from_millis(60);

impl ProcessProvider {
    pub(super) fn stage(&self, resources: &Resources) -> Result<Staged, ComputeError> {
        self.stage_with(resources, Vec::new())
    }

    /// The same with more arguments for the server.
    pub(super) fn stage_with(
        &self,
        resources: &Resources,
        more: Vec<OsString>,
    ) -> Result<Staged, ComputeError> {
        Staged::new(&self.site, self.flavour.as_ref(), resources, more, None, &self.cgroup.entrances())
    }

    /// The same for a server that may be sent ahead.
    pub(super) fn stage_ahead(&self, resources: &Resources) -> Result<Staged, ComputeError> {
        let (site, flavour) = (&self.site, self.flavour.as_ref());
        let by_settings = self.by_settings.load(Ordering::Relaxed);
        let settings = by_settings.then(|| flavour.held_by_settings(site)).flatten();
        Staged::new(site, flavour, resources, Vec::new(), settings, &self.cgroup.entrances())
    }

    /// How it is held up.
    fn way(&self) -> Option<Way> {
        match (self.unfit.load(Ordering::Relaxed), self.by_settings.load(Ordering::Relaxed)) {
            (true, _) => None,
            (false, true) => self.flavour.held_by_settings(&self.site).map(|_| Way::Fifo),
            (false, false) => self.flavour.threshold(&self.site).map(Way::Kernel),
        }
    }

    pub(super) fn prepared(&self) -> MutexGuard<'_, Option<(Resources, Staged)>> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was prepared for this capacity, or else a start from scratch.
    pub(super) fn take_prepared(&self, to: &Resources) -> Result<Staged, ComputeError> {
        match self.prepared().take() {
            Some((resources, staged)) if resources == *to && staged.is_fresh() => Ok(staged),
            _ => self.stage(to),
        }
    }

    /// Sends the next server ahead, up to its threshold, if that can be done here.
    pub(super) async fn send_ahead(&self, to: &Resources) -> Result<(), ComputeError> {
        let mut staged = match self.prepared().take() {
            Some((resources, staged)) if resources == *to && staged.is_fresh() => staged,
            _ => self.stage_ahead(to)?,
        };
        if !staged.is_ahead()
            && let Some(way) = self.way()
        {
            // It starts beside a server that works: neither is to wait for a small quota.
            self.cgroup.lift();
            let advanced = staged.advance(&self.site, way).await;
            if let Some(serving) = self.serving() {
                self.limit(&serving);
            }
            if advanced.is_err() {
                self.unfit.store(true, Ordering::Relaxed);
            }
            staged = advanced.ok().flatten().map_or_else(|| self.stage(to), Ok)?;
        }
        *self.prepared() = Some((to.clone(), staged));
        Ok(())
    }

    pub(super) fn serving(&self) -> Option<Resources> {
        let running = self.alive()?;
        let serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner);
        serving.clone().filter(|_| running.ending().is_none())
    }

    /// Looks whether servers can be sent ahead here, and notes it if not.
    pub(super) fn try_barrier(&self) {
        let reason = match Barrier::impossible(&self.site.volume) {
            Some(error) if self.flavour.held_by_settings(&self.site).is_some() => {
                tracing::info!(cluster = self.site.cluster, %error, "the next server is held up by its settings, not by the kernel");
                return self.by_settings.store(true, Ordering::Relaxed);
            }
            Some(error) => format!("the kernel does not let us hold it up ({error}; it takes CAP_SYS_ADMIN)"),
            None if self.flavour.threshold(&self.site).is_none() => {
                "this server cannot be held up".to_owned()
            }
            None => return,
        };
        self.unfit.store(true, Ordering::Relaxed);
        let remark = format!("the next server is not started ahead, so changes take longer: {reason}");
        self.remarks.lock().unwrap_or_else(PoisonError::into_inner).insert(remark);
    }

    pub(super) fn moment(&self) -> MutexGuard<'_, Option<Instant>> {
        self.moment.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the best moment of the stop, if it is near. `false`: it is not.
    pub(super) async fn await_moment(&self) -> bool {
        let moment = self.moment().take();
        let (now, lead) = (Instant::now(), self.lead.now());
        // Up to a half of its lead it may be late.
        let near = moment.filter(|moment| *moment <= now + PATIENCE && now <= *moment + lead / 2);
        if let Some(moment) = near {
            sleep_until(moment).await;
        }
        near.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_look_makes_the_lead_longer_and_hits_shorten_it() {
        let lead = Lead::default();
        assert_eq!(lead.now(), LEADS.0);
        for _ in 0..10 {
            lead.learn(lead.now() + Duration::from_millis(990));
        }
        assert_eq!(lead.now(), LEADS.1);
        lead.learn(Duration::from_millis(400));
        assert!(lead.now() < LEADS.1);
        for _ in 0..50 {
            lead.learn(Duration::from_millis(80));
        }
        assert_eq!(lead.now(), LEADS.0);
    }
}
