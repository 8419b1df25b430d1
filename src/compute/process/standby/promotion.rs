//! The steps of a promotion, up to the marker.

use std::io;
use std::path::Path;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::super::flavour::LastRead;
use super::copies::{self, Pair};
use super::fence::Fence;
use super::marker::Side;
use super::{LAST_BYTES, StandbyProvider};
use crate::compute::HandOverTimes;
use crate::compute::replication::Position;

/// How long the copy may take until it takes writes, once it was told to.
const PROMOTION: Duration = Duration::from_secs(3);
/// Between two looks in the meantime.
const LOOK: Duration = Duration::from_millis(1);
/// The last of the log is a matter of microseconds, mostly: so many looks without a pause.
const AT_ONCE: u32 = 4;

/// Why the copy does not serve.
pub(super) enum NotPromoted {
    /// It is not as far as it has to be; a later try may succeed.
    NotNow(String),
    /// The old server cannot be stopped or asked like this: a restart needs neither.
    Unfit(String),
}

impl StandbyProvider {
    /// Everything up to the point at which the copy takes writes. On `Err`, or dropped, the old server goes on.
    pub(super) async fn take_over(
        &self,
        pair: Pair<'_>,
        needed: &[u32],
    ) -> Result<(Fence, HandOverTimes), NotPromoted> {
        use NotPromoted::{NotNow, Unfit};
        let Pair { primary, follower, following, .. } = pair;
        let new = follower.socket();
        let Some(old_main) = primary.alive() else {
            return Err(NotNow("the old server has ended".to_owned()));
        };
        let Some(new_main) = follower.alive() else { return Err(Unfit("the copy has ended".to_owned())) };
        let started = Instant::now();
        let fence = match following.last_read() {
            LastRead::Stopped => self.stop_and_read(pair, old_main.pid, needed).await?,
            LastRead::Locked => self.read_and_stop(pair, old_main.pid).await?,
        };
        let fenced = Instant::now();
        // From here on it may take over, whoever is still there to see it.
        copies::unmark(&follower.site.volume).map_err(|error| NotNow(error.to_string()))?;
        let told = async {
            following.promote(&follower.site, &new_main.pidfd, &*self.replication).await?;
            self.await_writable(&new).await
        };
        let writable = timeout(PROMOTION, told).await;
        writable.unwrap_or_else(|_| Err("the copy does not take over in time".to_owned())).map_err(NotNow)?;
        Ok((fence, HandOverTimes { stop: fenced - started, start: fenced.elapsed() }))
    }

    /// A server of many processes: it is stopped but for those that can say how far it is.
    async fn stop_and_read(&self, pair: Pair<'_>, main: u32, needed: &[u32]) -> Result<Fence, NotPromoted> {
        use NotPromoted::{NotNow, Unfit};
        let (old, new) = (pair.primary.socket(), pair.follower.socket());
        let silent = |_| Err("the old server does not answer".to_owned());
        let theirs = timeout(LAST_BYTES, self.replication.needed_processes(&old)).await;
        let needed = [&theirs.unwrap_or_else(silent).map_err(Unfit)?[..], needed].concat();
        let fence = Fence::raise(main, &needed).await.map_err(|error| Unfit(error.to_string()))?;
        let caught_up = async {
            // It may wait for one that was stopped in the middle of a record: at another moment it will not.
            let end = self.replication.written(&old).await?;
            self.await_position(&new, &end).await
        };
        let reached = timeout(LAST_BYTES, caught_up).await;
        reached.unwrap_or_else(|_| Err("the copy lags behind".to_owned())).map_err(NotNow)?;
        Ok(fence)
    }

    /// A server of one process, which has to send the last of its log: it is kept from writing first, and stopped when that has
    /// arrived.
    async fn read_and_stop(&self, pair: Pair<'_>, main: u32) -> Result<Fence, NotPromoted> {
        use NotPromoted::{NotNow, Unfit};
        let (old, new) = (pair.primary.socket(), pair.follower.socket());
        let busy = |_| Err("the old server does not come to rest".to_owned());
        let still = timeout(LAST_BYTES, self.replication.hold_still(&old)).await;
        // It lasts until the server is stopped; then nothing ends it but the server's going on.
        let (_still, end) = still.unwrap_or_else(busy).map_err(NotNow)?;
        let reached = timeout(LAST_BYTES, self.await_position(&new, &end)).await;
        reached.unwrap_or_else(|_| Err("the copy lags behind".to_owned())).map_err(NotNow)?;
        let synced = timeout(LAST_BYTES, pair.follower.sync_log());
        let (fence, synced) = tokio::join!(Fence::raise(main, &[]), synced);
        let synced = synced.unwrap_or_else(|late| Err(late.into()));
        synced.map_err(|error| NotNow(format!("the copy is not on disk: {error}")))?;
        fence.map_err(|error| Unfit(error.to_string()))
    }

    pub(super) async fn await_position(&self, copy: &Path, end: &Position) -> Result<(), String> {
        let mut looks = 0;
        while self.replication.repeated(copy, end).await? < end.end {
            looks += 1;
            if looks > AT_ONCE {
                sleep(LOOK).await;
            }
        }
        Ok(())
    }

    async fn await_writable(&self, copy: &Path) -> Result<(), String> {
        while !self.replication.is_writable(copy).await? {
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// The copy is the database from now on. `Err`: it is not.
    pub(super) fn commit(&self, side: Side) -> io::Result<()> {
        if !self.marker.write(side)? {
            tracing::error!("it is not certain that the promotion is on disk");
        }
        *self.serving.lock().unwrap_or_else(PoisonError::into_inner) = side;
        Ok(())
    }
}
