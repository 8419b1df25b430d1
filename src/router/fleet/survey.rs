//! Surveys: sessions look at themselves while clients run, so that there is less to be asked while they wait.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::Fleet;

/// What sessions need to hear of it.
const HEARD: Duration = Duration::from_millis(30);

/// A session is about to look at itself, counted until this is dropped.
pub struct Surveying(Arc<Fleet>);

impl Surveying {
    /// It has heard of a survey.
    pub fn new(fleet: &Arc<Fleet>) -> Surveying {
        fleet.surveying.fetch_add(1, Ordering::Relaxed);
        Surveying(Arc::clone(fleet))
    }
}

impl Drop for Surveying {
    fn drop(&mut self) {
        if self.0.surveying.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.progress.notify_waiters();
        }
    }
}

impl Fleet {
    /// Asks every session at rest to look at itself now, and those whose backend was never asked at their next rest.
    pub fn survey(&self) {
        self.signal(|signal| signal.survey += 1);
    }

    /// Waits until they have, `limit` at most.
    pub async fn surveyed(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        tokio::time::sleep(HEARD.min(limit)).await;
        loop {
            let progress = self.progress();
            let over = self.surveying.load(Ordering::Relaxed) == 0;
            if over || timeout_at(deadline, progress).await.is_err() {
                return;
            }
        }
    }
}
