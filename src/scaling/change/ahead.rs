//! What is done in the database ahead of a hold, while clients run, so that they wait for little.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::ASKED;
use crate::scaling::driver::Driver;

/// How long a flush may take; then the stop takes over what is left.
const FLUSH: Duration = Duration::from_secs(120);
/// What a survey is given before the first hold.
const SURVEY: Duration = Duration::from_millis(30);

impl Driver {
    /// All of it, before a hold.
    pub(super) async fn make_ready(&self, deadline: Instant) {
        let answers = self.flush(deadline).await;
        self.maintenance.study().await;
        self.survey().await;
        // What clients have written since is written by the stop while they wait: as little as can be. A server that
        // hangs is not asked twice.
        if answers {
            self.flush(deadline).await;
        }
    }

    /// The server goes on after all.
    pub(super) async fn unflush(&self) {
        if timeout(ASKED, self.maintenance.unflush()).await.is_err() {
            tracing::warn!(
                cluster = self.board.name,
                "the server goes on flushing: it does not answer in time"
            );
        }
    }

    async fn survey(&self) {
        self.ask_sessions().await;
        tokio::time::sleep(SURVEY).await;
    }

    /// Has every session look at itself, and at its account.
    pub(in crate::scaling) async fn ask_sessions(&self) {
        if timeout(ASKED, self.maintenance.look_up_accounts()).await.is_err() {
            tracing::debug!(cluster = self.board.name, "accounts are not known in time");
        }
        self.fleet.survey();
    }

    /// Writes dirty data to disk while clients run, so that the stop has little to do. `false`: it was not done.
    async fn flush(&self, deadline: Instant) -> bool {
        let limit = deadline.saturating_duration_since(Instant::now()).min(FLUSH);
        match timeout(limit, self.maintenance.flush()).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => {
                tracing::warn!(cluster = self.board.name, error, "cannot flush before the hand-over");
            }
            Err(_) => {
                tracing::warn!(cluster = self.board.name, "flushing takes long; the stop will take over");
            }
        }
        false
    }
}
