//! A server that is to take over, on which sessions may be made ahead of the change.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::Fleet;

/// How many sessions are made there at once: clients work meanwhile.
pub(super) const AT_ONCE: usize = 4;
/// What sessions need to hear of it.
const HEARD: Duration = Duration::from_millis(20);

/// Where sessions may be made ahead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// The server's private socket.
    pub socket: Arc<Path>,
    /// Its main process: another server may have had the same socket.
    pub server: u32,
}

/// A session that is being made ahead, counted until this is dropped.
pub struct Rehearsal(Arc<Fleet>);

impl Rehearsal {
    /// One begins.
    pub fn new(fleet: &Arc<Fleet>) -> Rehearsal {
        fleet.rehearsing.fetch_add(1, Ordering::Relaxed);
        Rehearsal(Arc::clone(fleet))
    }

    /// Waits for its turn; holds it until the permit is dropped.
    pub async fn turn(&self) -> Option<tokio::sync::SemaphorePermit<'_>> {
        self.0.rehearsals.acquire().await.ok()
    }
}

impl Drop for Rehearsal {
    fn drop(&mut self) {
        self.0.rehearsing.fetch_sub(1, Ordering::Relaxed);
        self.0.progress.notify_waiters();
    }
}

impl Fleet {
    /// Sessions may make themselves ahead on this server; waits until they have, `limit` at most.
    pub async fn rehearse(&self, stage: Stage, limit: Duration) {
        let deadline = Instant::now() + limit;
        self.signal(|signal| signal.stage = Some(stage));
        tokio::time::sleep(HEARD).await;
        loop {
            let progress = self.progress();
            if self.rehearsing.load(Ordering::Relaxed) == 0 || timeout_at(deadline, progress).await.is_err() {
                return;
            }
        }
    }

    /// What was made ahead and not used is given up.
    pub fn strike(&self) {
        if self.gate().borrow().stage.is_some() {
            self.signal(|signal| signal.stage = None);
        }
    }
}
