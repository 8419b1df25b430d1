//! What a cluster's driver lets others see: its state, its last change, its events. The driver writes, everybody reads.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::broadcast;
use tokio::time::Instant;

use super::report::{ChangeProgress, ClusterState, Event, ObstacleRow, RdsEvent, ScaleReport, SessionRow};
use crate::router::Obstacle;
use crate::router::fleet::{Attachment, Fleet, SessionView};
use crate::telemetry::ClusterMetrics;

/// How many events are kept.
const KEPT_EVENTS: usize = 1000;

/// A change under way.
#[derive(Debug, Clone, Copy)]
pub struct UnderWay {
    /// Where it leads, ACUs.
    pub to: u32,
    /// When the time-out action comes.
    pub deadline: Instant,
}

/// What is known of a cluster.
#[derive(Debug, Clone)]
pub struct Seen {
    /// What it is doing.
    pub state: ClusterState,
    /// Capacity, ACUs.
    pub capacity: u32,
    /// The server's version.
    pub version: Option<String>,
    /// Process id of the database's main process.
    pub backend_pid: Option<u32>,
    /// The change under way.
    pub change: Option<UnderWay>,
    /// The last one that ended.
    pub last_change: Option<ScaleReport>,
}

/// See the module.
pub struct Board {
    /// The cluster's name.
    pub name: String,
    /// Its sessions.
    pub fleet: Arc<Fleet>,
    /// Its metrics.
    pub metrics: ClusterMetrics,
    seen: Mutex<Seen>,
    standing: Mutex<Option<(Obstacle, Instant)>>,
    events: Mutex<VecDeque<Event>>,
    news: broadcast::Sender<Event>,
}

impl Board {
    /// A cluster that is starting at `capacity`.
    pub fn new(name: &str, capacity: u32, fleet: Arc<Fleet>, metrics: ClusterMetrics) -> Arc<Board> {
        let seen = Seen {
            state: ClusterState::Starting,
            capacity,
            version: None,
            backend_pid: None,
            change: None,
            last_change: None,
        };
        Arc::new(Board {
            name: name.to_owned(),
            fleet,
            metrics,
            seen: Mutex::new(seen),
            standing: Mutex::new(None),
            events: Mutex::new(VecDeque::new()),
            news: broadcast::Sender::new(256),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known now.
    pub fn seen(&self) -> Seen {
        self.lock().clone()
    }

    /// Changes what is known.
    pub fn show(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.lock());
    }

    /// The cluster is in another state now.
    pub fn enter(&self, state: ClusterState) {
        self.show(|seen| seen.state = state);
    }

    /// Something happened.
    pub fn tell(&self, kind: &str, message: impl Into<String>) {
        self.publish(Event::new(SystemTime::now(), &self.name, kind, message));
    }

    /// Something happened that Amazon RDS has words for.
    pub fn tell_rds(&self, event: &RdsEvent) {
        self.publish(Event::rds(SystemTime::now(), &self.name, event));
    }

    fn publish(&self, event: Event) {
        tracing::info!(cluster = self.name, kind = event.kind, "{}", event.message);
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        if events.len() == KEPT_EVENTS {
            events.pop_front();
        }
        events.push_back(event.clone());
        // Nobody may be listening. Sent under the lock, so that no event is both kept and news, or neither.
        drop(self.news.send(event));
    }

    /// The events so far and those to come.
    pub fn events(&self) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        (events.iter().cloned().collect(), self.news.subscribe())
    }

    /// Something of the server itself stands in the way of a change, or nothing does.
    pub fn stands(&self, obstacle: Option<Obstacle>) {
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        *standing = match (obstacle, *standing) {
            (Some(now), Some((before, since))) if now == before => Some((now, since)),
            (now, _) => now.map(|obstacle| (obstacle, Instant::now())),
        };
    }

    /// What of the server itself stands in the way, and since when.
    pub fn server_obstacle(&self) -> Option<(Obstacle, Instant)> {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What stands in the way of a scaling point, longest first. What is the server's own has session 0.
    pub fn obstacles(&self) -> Vec<ObstacleRow> {
        let mut rows: Vec<ObstacleRow> = self.fleet.sessions().iter().filter_map(obstacle_row).collect();
        rows.extend(self.server_obstacle().map(|(obstacle, since)| ObstacleRow {
            session: 0,
            user: String::new(),
            reason: obstacle.to_string(),
            since_ms: millis(since.elapsed()),
            statement: None,
        }));
        rows.sort_by_key(|row| std::cmp::Reverse(row.since_ms));
        rows
    }

    /// How far the change under way is.
    pub fn progress(&self) -> Option<ChangeProgress> {
        let UnderWay { to, deadline } = self.seen().change?;
        let obstacles = self.obstacles();
        Some(ChangeProgress {
            to,
            busy: obstacles.len() as u64,
            oldest: obstacles.into_iter().next(),
            remaining_ms: millis(deadline.saturating_duration_since(Instant::now())),
        })
    }

    /// The sessions, oldest first.
    pub fn sessions(&self) -> Vec<SessionRow> {
        self.fleet.sessions().iter().map(session_row).collect()
    }
}

/// Whole milliseconds.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn statement(view: &SessionView) -> Option<String> {
    Some(view.doing.statement()).filter(|text| !text.is_empty())
}

fn obstacle_row(view: &SessionView) -> Option<ObstacleRow> {
    Some(ObstacleRow {
        session: view.id.into(),
        user: view.identity.user.clone(),
        reason: view.doing.obstacle?.to_string(),
        since_ms: millis(view.doing.since.elapsed()),
        statement: statement(view),
    })
}

fn session_row(view: &SessionView) -> SessionRow {
    SessionRow {
        id: view.id.into(),
        user: view.identity.user.clone(),
        database: view.identity.database.clone(),
        client: view.identity.client.clone(),
        tls: view.identity.tls.map(str::to_owned),
        state: state(view).to_owned(),
        age_ms: millis(view.started.elapsed()),
        obstacle: view.doing.obstacle.map(|obstacle| obstacle.to_string()),
        obstacle_since_ms: view.doing.obstacle.map(|_| millis(view.doing.since.elapsed())),
        statement: statement(view),
        tie: view.tie.map(|tie| tie.as_str().to_owned()),
    }
}

/// A session's state in one word.
pub fn state(view: &SessionView) -> &'static str {
    use crate::router::Obstacle;
    match (view.attachment, view.doing.obstacle) {
        (Attachment::Detached, _) => "detached",
        (Attachment::Parked, _) => "parked",
        (Attachment::Still | Attachment::Fetching | Attachment::Blocked, _) => "held",
        (Attachment::Attached, Some(Obstacle::OpenTransaction)) => "in_transaction",
        (Attachment::Attached, Some(Obstacle::StatementInProgress)) => "active",
        (Attachment::Attached, _) => "idle",
    }
}
