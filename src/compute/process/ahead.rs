//! What a hand-over has ready before the old server is stopped: the next one, held up, and the moment for the stop.

use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::ProcessProvider;
use super::barrier::Barrier;
use super::start::Staged;
use crate::compute::{ComputeError, Resources};

/// The stop waits for its best moment at most so long; clients wait, too.
const PATIENCE: Duration = Duration::from_millis(60);

impl ProcessProvider {
    pub(super) fn stage(&self, resources: &Resources) -> Result<Staged, ComputeError> {
        Staged::new(&self.site, self.flavour.as_ref(), resources, &self.cgroup.entrances())
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
        let mut staged = self.take_prepared(to)?;
        if !staged.is_ahead()
            && !self.unfit.load(Ordering::Relaxed)
            && let Some(threshold) = self.flavour.threshold(&self.site)
        {
            // It starts beside a server that works: neither is to wait for a small quota.
            self.cgroup.lift();
            let advanced = staged.advance(&self.site, threshold).await;
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

    /// Waits for the best moment of the stop, if it is near.
    pub(super) async fn await_moment(&self) {
        let moment = self.moment().take();
        if let Some(moment) = moment.filter(|moment| *moment <= Instant::now() + PATIENCE) {
            sleep_until(moment).await;
        }
    }
}
