//! How the database moves once everybody holds still: to a copy that is promoted, or by a restart.

use std::time::Duration;

use super::super::driver::Driver;
use super::super::report::Outcome;
use super::socket;
use crate::compute::{HandOver, Instance, Promotion, Resources};
use crate::router::gate::LetGo;

/// How long sessions may take to give their backends up.
const GONE: Duration = Duration::from_secs(1);
/// How long sessions whose state others can see may take to be restored before the rest is let go.
const VISIBLE: Duration = Duration::from_secs(20);

/// Whether the copy serves.
pub(super) enum Promoted {
    /// It does.
    Yes(Instance),
    /// There is none that could.
    No,
    /// It may later; the old server serves.
    NotNow,
}

impl Driver {
    /// Before the point of no return: has the copy serve, if there is one and it has everything.
    pub(super) async fn promote(&self, outcome: Outcome, old: &Instance, to: &Resources) -> Promoted {
        match self.provider.promote(old, to, &self.fleet.fetching()).await {
            Promotion::Moved(instance, _) => Promoted::Yes(instance),
            Promotion::Unfit => Promoted::No,
            Promotion::NotNow(reason) => {
                tracing::warn!(cluster = self.board.name, reason, "the copy cannot take over");
                // A restart loses nothing either, and a change that was forced has cost too much to be given up.
                if outcome == Outcome::Forced { Promoted::No } else { Promoted::NotNow }
            }
        }
    }

    /// Past the point of no return: the copy has become the database, and everybody goes on there.
    pub(super) async fn move_to(&mut self, new: Instance, let_go: LetGo) {
        self.expect_exit();
        let_go.all_gone(GONE).await;
        self.recall_settings(&new).await;
        self.fleet.set_places(self.provider.places(&new.resources));
        resume(let_go, &new).await;
        self.serve_from(new);
    }

    /// Past the point of no return: on every way out either an instance serves, or the cluster is down and the driver
    /// tries to start one.
    pub(super) async fn hand_over(
        &mut self,
        old: &Instance,
        to: &Resources,
        let_go: LetGo,
    ) -> Result<(), String> {
        self.expect_exit();
        let_go.gone(GONE).await;
        match self.provider.hand_over(old, to).await {
            Ok((HandOver::Moved(instance), times)) => {
                tracing::debug!(cluster = self.board.name, ?times, "handed over");
                self.recall_settings(&instance).await;
                self.fleet.set_places(self.provider.places(&instance.resources));
                resume(let_go, &instance).await;
                self.serve_from(instance);
                Ok(())
            }
            Ok((HandOver::Kept(instance, error), _)) => {
                // The old server itself, if it was never stopped, still has what it was told.
                let untouched = instance.pid == old.pid;
                if !untouched {
                    self.recall_settings(&instance).await;
                }
                resume(let_go, &instance).await;
                self.serve_from(instance);
                if untouched {
                    self.unflush().await;
                }
                Err(error.to_string())
            }
            Err(error) => {
                self.instance = None;
                Err(error.to_string())
            }
        }
    }
}

/// Lets everybody go on there. If it dies meanwhile, the cluster is down, and the driver sees why.
async fn resume(let_go: LetGo, instance: &Instance) {
    let mut exited = instance.exited.clone();
    tokio::select! {
        biased;
        _ = exited.wait_for(Option::is_some) => {}
        () = let_go.resume(socket(instance), VISIBLE) => {}
    }
}
