//! What is done in the database ahead of a hold, while clients run, so that they wait for little.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::ASKED;
use crate::compute::Resources;
use crate::router::fleet::Stage;
use crate::scaling::driver::Driver;

/// Dirty data is flushed again if a hold comes later than this.
const FLUSHED: Duration = Duration::from_secs(5);
/// How long a flush may take; then the stop takes over what is left.
const FLUSH: Duration = Duration::from_secs(120);
/// How long the next server may take to be as far as it gets beside the running one.
const ADVANCE: Duration = Duration::from_secs(10);
/// How long the best moment of a stop may be looked for.
const MOMENT: Duration = Duration::from_secs(2);
/// What a hold takes until the database is stopped: it begins so long before that moment.
const HOLD: Duration = Duration::from_millis(40);
/// How long sessions may take to be made on a copy.
const REHEARSAL: Duration = Duration::from_secs(5);
/// How long sessions may take to look at themselves before the first hold.
const SURVEY: Duration = Duration::from_millis(250);

/// How far a hold is prepared.
#[derive(Debug, Default)]
pub(super) struct Ready {
    flushed: Option<Instant>,
    /// The moment for it is now.
    timed: bool,
}

impl Driver {
    /// Does the next of what comes before a hold. `false`: that took time, and there may be more to do.
    pub(super) async fn is_ready(&self, ready: &mut Ready, to: &Resources, deadline: Instant) -> bool {
        if ready.flushed.is_none_or(|at| at.elapsed() > FLUSHED) {
            self.make_ready(to, deadline).await;
            *ready = Ready { flushed: Some(Instant::now()), timed: false };
            return false;
        }
        if !ready.timed {
            self.await_moment().await;
            ready.timed = true;
            return false;
        }
        // A moment serves one hold.
        ready.timed = false;
        true
    }

    /// No hold is tried now. If it may be long until the next try, the server and the next one are left in peace.
    pub(super) async fn relax(&self, ready: &mut Ready) {
        ready.timed = false;
        if ready.flushed.take_if(|at| at.elapsed() > FLUSHED).is_some() {
            self.provider.dismiss();
            self.fleet.strike();
            self.unflush().await;
        }
    }

    /// All of it that takes long.
    async fn make_ready(&self, to: &Resources, deadline: Instant) {
        let (answers, advanced) =
            tokio::join!(self.flush(deadline), timeout(ADVANCE, self.provider.advance(to)));
        if advanced.is_err() {
            tracing::warn!(cluster = self.board.name, "the next server takes long to get ready");
        }
        self.maintenance.study().await;
        self.survey().await;
        // Each takes a connection; only so many have a place there.
        let fit = self.provider.places(to).is_none_or(|places| self.fleet.with_backend() as u64 <= places);
        if fit && let Some((socket, server)) = self.provider.copy().await {
            self.fleet.rehearse(Stage { socket: Arc::from(socket), server }, REHEARSAL).await;
        }
        // What clients have written since is written by the stop while they wait: as little as can be. A server that
        // hangs is not asked twice.
        if answers {
            self.flush(deadline).await;
        }
    }

    /// Where a stop depends on when it comes, waits until a hold leads to a good moment. What is written meanwhile is
    /// flushed.
    async fn await_moment(&self) {
        let Ok(Some(moment)) = timeout(MOMENT, self.provider.stop_moment()).await else { return };
        let begin = moment - HOLD;
        if timeout_at(begin, self.maintenance.flush()).await.is_ok() {
            sleep_until(begin).await;
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
        self.fleet.surveyed(SURVEY).await;
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
