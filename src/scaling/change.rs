//! One capacity change, from the request to the report.
//!
//! ```text
//! prepare → flush → survey → seek ──hold──► gather ──► let go │ hand over → resume
//!                     ▲                        │              │
//!                     └──── too slow ──────────┘      point of no return
//! seek ── time is up ──► roll back, or force: gather with force ──► let go …
//! ```

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::board::{UnderWay, millis};
use super::driver::Driver;
use super::journal::Entry;
use super::report::{ClusterState, ObstacleRow, Outcome, RdsEvent, ScaleReport, SessionCounts};
use super::scaling_point::{Next, Search, View};
use crate::compute::{Instance, Resources};
use crate::config::TimeoutAction;
use crate::router::Obstacle;
use crate::router::gate::{Hold, NotGathered};
use crate::telemetry::{CapacityOutcome, HoldOutcome};

mod ahead;
mod hand_over;

use ahead::Ready;
use hand_over::Promoted;

/// How long a question to the server itself may take while clients run.
const ASKED: Duration = Duration::from_secs(2);
/// How long sessions may take to come to rest when they are forced.
const FORCE: Duration = Duration::from_secs(10);
/// Between two holds after one in which a copy of the database was not there yet, at first and at most.
const LAGGING: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(4));
/// How often sessions are asked to look at themselves while a scaling point is sought.
const SURVEYED: Duration = Duration::from_secs(1);

/// A change as it was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Change {
    /// Capacity to have, ACUs.
    pub to: u32,
    /// How long a scaling point is sought.
    pub seconds_before_timeout: u32,
    /// What happens then.
    pub action: TimeoutAction,
}

/// How a search ended.
enum Found {
    /// Everybody holds still; the gate was shut at this time.
    Point(Hold, Instant),
    /// The same, by force.
    Forced(Hold, Instant),
    /// The time ran out.
    Nothing,
    /// The database died meanwhile.
    Died,
}

/// What is measured on the way.
#[derive(Default)]
struct Times {
    waited: Duration,
    hold: Duration,
    hand_over: Duration,
    stall: Duration,
}

impl Driver {
    /// Carries a change out. Dropping it before its end leaves the cluster as its guards say: on the old capacity
    /// before the point of no return, down after it.
    pub(super) async fn change(&mut self, change: Change) -> ScaleReport {
        let from = self.capacity;
        let Change { to, seconds_before_timeout, .. } = change;
        let started = Instant::now();
        let deadline = started + Duration::from_secs(seconds_before_timeout.into());
        self.board.show(|seen| {
            seen.state = ClusterState::Seeking;
            seen.change = Some(UnderWay { to, deadline });
        });
        self.board.tell_rds(&RdsEvent::Scaling { from, to, reason: RdsEvent::MANUAL.to_owned() });
        let mut obstacles = Vec::new();
        let mut times = Times::default();
        let result = self.carry_out(change, started, &mut times, &mut obstacles).await;
        let (outcome, error) = match result {
            Ok(outcome) => (outcome, None),
            Err(error) => (Outcome::Failed, Some(error)),
        };
        let swapped = matches!(outcome, Outcome::Scaled | Outcome::Forced);
        let tally =
            if times.stall.is_zero() { crate::router::fleet::Tally::default() } else { self.fleet.tally() };
        let report = ScaleReport {
            cluster: self.board.name.clone(),
            from,
            to,
            outcome,
            sessions: SessionCounts {
                carried: tally.carried.into(),
                aborted: tally.aborted.into(),
                closed: tally.closed.into(),
            },
            hold_ms: millis(times.hold),
            handover_ms: millis(times.hand_over),
            stall_ms: millis(times.stall),
            waited_ms: millis(times.waited),
            obstacles: if swapped && outcome == Outcome::Scaled { Vec::new() } else { obstacles },
            error,
        };
        self.conclude(&report);
        report
    }

    /// Writes down how it ended: journal, board, events, metrics.
    fn conclude(&mut self, report: &ScaleReport) {
        self.fleet.strike();
        self.write_journal(Entry { capacity: self.capacity, change_to: None });
        self.board.stands(None);
        let (from, to) = (report.from, report.to);
        let reason = RdsEvent::NO_SCALING_POINT.to_owned();
        let (event, outcome) = match report.outcome {
            Outcome::Scaled | Outcome::Started => (RdsEvent::Scaled { from, to }, CapacityOutcome::Scaled),
            Outcome::Forced => (RdsEvent::ScaledForced { from, to, reason }, CapacityOutcome::Forced),
            Outcome::RolledBack => {
                (RdsEvent::ScalingFailed { from, to, reason }, CapacityOutcome::RolledBack)
            }
            Outcome::Failed => {
                let reason = report.error.clone().unwrap_or(reason);
                (RdsEvent::ScalingFailed { from, to, reason }, CapacityOutcome::Failed)
            }
        };
        self.board.metrics.capacity_changes(outcome).inc();
        self.board.metrics.capacity.set(self.capacity.into());
        let state = if self.instance.is_some() { ClusterState::Available } else { ClusterState::Failed };
        let capacity = self.capacity;
        self.board.show(|seen| {
            seen.state = state;
            seen.capacity = capacity;
            seen.change = None;
            seen.last_change = Some(report.clone());
        });
        self.board.tell_rds(&event);
    }

    async fn carry_out(
        &mut self,
        change: Change,
        started: Instant,
        times: &mut Times,
        obstacles: &mut Vec<ObstacleRow>,
    ) -> Result<Outcome, String> {
        let Some(old) = self.instance.clone() else { return Err("no database runs".to_owned()) };
        let resources = self.resources(change.to);
        self.fits(&resources)?;
        self.provider.prepare(&resources).await.map_err(|error| error.to_string())?;
        self.write_journal(Entry { capacity: self.capacity, change_to: Some(change.to) });
        self.board.stands(None);
        let mut pause = LAGGING.0;
        let (hold, shut, outcome, handing, copy) = loop {
            let found = self.seek(change, &old, started, obstacles).await;
            times.waited = started.elapsed();
            let (hold, shut, outcome) = match found {
                Found::Point(hold, shut) => (hold, shut, Outcome::Scaled),
                Found::Forced(hold, shut) => (hold, shut, Outcome::Forced),
                Found::Nothing => {
                    *obstacles = self.board.obstacles();
                    self.provider.dismiss();
                    self.unflush().await;
                    return Ok(Outcome::RolledBack);
                }
                Found::Died => return Err("the database ended before a scaling point was found".to_owned()),
            };
            times.hold = shut.elapsed();
            self.board.metrics.hold_seconds.observe(times.hold.as_secs_f64());
            self.board.metrics.holds(HoldOutcome::Quiet).inc();
            let hold = self.check(hold, outcome, &resources).await?;
            let handing = Instant::now();
            match self.promote(outcome, &old, &resources).await {
                Promoted::Yes(copy) => break (hold, shut, outcome, handing, Some(copy)),
                Promoted::No => break (hold, shut, outcome, handing, None),
                Promoted::NotNow => drop(hold),
            }
            let mut stopping = self.stopping.clone();
            // The search notices if the router stops.
            let _stops = timeout(pause, stopping.wait_for(|stop| *stop)).await;
            pause = LAGGING.1.min(pause * 2);
        };
        let let_go = hold.let_go();
        let handed = match copy {
            Some(copy) => {
                self.move_to(copy, let_go).await;
                Ok(())
            }
            None => self.hand_over(&old, &resources, let_go).await,
        };
        times.hand_over = handing.elapsed();
        times.stall = shut.elapsed();
        self.board.metrics.hand_over_seconds.observe(times.hand_over.as_secs_f64());
        self.board.metrics.stall_seconds.observe(times.stall.as_secs_f64());
        handed.map(|()| outcome)
    }

    /// What may speak against the change now that everybody holds still. A change that was forced has cost some their
    /// transactions already.
    async fn check(&self, hold: Hold, outcome: Outcome, to: &Resources) -> Result<Hold, String> {
        // Sessions may have become tied since.
        if outcome != Outcome::Forced
            && let Err(error) = self.fits(to)
        {
            return Err(self.give_up(hold, error).await);
        }
        if let Err(error) = self.remember().await {
            if outcome != Outcome::Forced {
                let error = format!("the server cannot be asked for its settings: {error}");
                return Err(self.give_up(hold, error).await);
            }
            // A server that hangs is among the reasons to force a change.
            tracing::warn!(cluster = self.board.name, error, "settings of the server are lost");
        }
        Ok(hold)
    }

    /// Everybody goes on where he was.
    async fn give_up(&self, hold: Hold, error: String) -> String {
        drop(hold);
        self.provider.dismiss();
        self.unflush().await;
        error
    }

    async fn remember(&self) -> Result<(), String> {
        // Everybody waits for this as for the hold.
        let remembered = timeout(self.config.stall_budget, self.maintenance.remember()).await;
        remembered.unwrap_or_else(|_| Err("it does not answer".to_owned()))
    }

    /// Sessions that must have a backend, as they cannot be parked, and that the new capacity has no place for would be
    /// lost after the point of no return. The others take turns.
    fn fits(&self, to: &Resources) -> Result<(), String> {
        let tied = self.fleet.tied() as u64;
        match self.provider.places(to) {
            Some(places) if tied > places => Err(format!(
                "{tied} sessions cannot be parked (they listen, or hold locks or sequence values) and capacity {} \
                 admits {places}",
                to.capacity
            )),
            _ => Ok(()),
        }
    }

    /// Looks for a scaling point until the deadline.
    async fn seek(
        &self,
        change: Change,
        old: &Instance,
        started: Instant,
        obstacles: &mut Vec<ObstacleRow>,
    ) -> Found {
        let deadline = Duration::from_secs(change.seconds_before_timeout.into());
        let mut search = Search::new(self.config.stall_budget, deadline);
        let mut ready = Ready::default();
        let mut surveyed = started;
        let mut looked: Option<Instant> = None;
        loop {
            if old.exited.borrow().is_some() {
                return Found::Died;
            }
            if *self.stopping.borrow() {
                return Found::Nothing;
            }
            let progress = self.fleet.progress();
            match search.next(started.elapsed(), self.view()) {
                Next::Hold if self.server_stands(&mut looked).await => {}
                Next::Hold => {
                    let to = self.resources(change.to);
                    if !self.is_ready(&mut ready, &to, started + deadline).await {
                        // Time has passed: is it still worth it?
                        continue;
                    }
                    if let Some(found) = self.try_hold().await {
                        return found;
                    }
                    search.failed(started.elapsed());
                    *obstacles = self.board.obstacles();
                }
                Next::Wait(pause) => {
                    self.relax(&mut ready).await;
                    self.board.enter(ClusterState::Seeking);
                    // Sessions that were asked tell nobody; those that change do.
                    let _changed = timeout(pause, progress).await;
                    self.look_around(&mut surveyed, &mut looked).await;
                }
                Next::TimedOut => {
                    *obstacles = self.board.obstacles();
                    return match change.action {
                        TimeoutAction::RollbackCapacityChange => Found::Nothing,
                        TimeoutAction::ForceApplyCapacityChange => self.force().await,
                    };
                }
            }
        }
    }

    fn view(&self) -> View {
        let server = usize::from(self.board.server_obstacle().is_some());
        let mut view = View { standing: server, ..View::default() };
        for session in self.fleet.sessions() {
            match session.doing.obstacle {
                Some(obstacle) if obstacle.is_passing() => {
                    view.busy += 1;
                    view.oldest = view.oldest.max(session.doing.since.elapsed());
                }
                Some(_) => view.standing += 1,
                None => {}
            }
        }
        view
    }

    /// Sessions and server are asked now and then. `surveyed`, `looked`: when they last were.
    async fn look_around(&self, surveyed: &mut Instant, looked: &mut Option<Instant>) {
        if surveyed.elapsed() > SURVEYED {
            *surveyed = Instant::now();
            self.ask_sessions().await;
            self.server_stands(looked).await;
        }
    }

    /// Whether something of the server itself stands in the way; asked now and then. `looked`: when it last was.
    async fn server_stands(&self, looked: &mut Option<Instant>) -> bool {
        if looked.is_none_or(|at| at.elapsed() > SURVEYED) {
            *looked = Some(Instant::now());
            let obstacle = timeout(ASKED, self.maintenance.server_obstacle()).await;
            self.board.stands(obstacle.unwrap_or(Some(Obstacle::Unknown)));
        }
        self.board.server_obstacle().is_some()
    }

    async fn try_hold(&self) -> Option<Found> {
        self.board.enter(ClusterState::Holding);
        let shut = Instant::now();
        let hold = self.fleet.hold();
        match hold.gather(self.config.stall_budget).await {
            Ok(()) => Some(Found::Point(hold, shut)),
            Err(why) => {
                self.board.metrics.hold_seconds.observe(shut.elapsed().as_secs_f64());
                let outcome = match why {
                    NotGathered::Busy(_) => HoldOutcome::OverBudget,
                    NotGathered::Standing => HoldOutcome::Dropped,
                };
                self.board.metrics.holds(outcome).inc();
                self.board.enter(ClusterState::Seeking);
                None
            }
        }
    }

    async fn force(&self) -> Found {
        self.board.enter(ClusterState::Holding);
        let shut = Instant::now();
        let hold = self.fleet.hold();
        if hold.force(self.config.stall_budget, FORCE).await.is_err() {
            tracing::warn!(cluster = self.board.name, "sessions did not come to rest and are closed");
        }
        Found::Forced(hold, shut)
    }
}

/// An instance's socket, to be shared by all sessions.
pub(super) fn socket(instance: &Instance) -> Arc<Path> {
    Arc::from(instance.socket.as_path())
}
