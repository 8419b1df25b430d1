//! All clusters of a process as operators see them.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::board::{Board, state};
use super::control_plane::{ControlPlane, Refusal, ScaleRequest};
use super::report::{ClusterState, ClusterStatus, Event, Outcome, ScaleReport, SessionCounts, SessionRow};
use crate::config::ClusterConfig;
use crate::router::Obstacle;
use crate::telemetry::Metrics;

/// A change that a driver is asked for.
pub struct Asked {
    /// What is asked for.
    pub request: ScaleRequest,
    /// Where the report goes; who asked may have left.
    pub report: oneshot::Sender<ScaleReport>,
}

/// One cluster's handle.
pub struct Handle {
    /// Its section of the configuration.
    pub config: ClusterConfig,
    /// What it shows.
    pub board: Arc<Board>,
    /// Its driver's ear; holds one request.
    pub asks: mpsc::Sender<Asked>,
}

/// See the module.
pub struct Clusters {
    /// In the order of the configuration.
    pub handles: Vec<Handle>,
    /// All metrics.
    pub metrics: Arc<Metrics>,
}

/// The words for a session's state, for the metrics.
const STATES: [&str; 6] = ["detached", "parked", "held", "in_transaction", "active", "idle"];

impl Handle {
    fn status(&self) -> ClusterStatus {
        let seen = self.board.seen();
        ClusterStatus {
            name: self.config.name.clone(),
            engine: self.config.engine.as_str().to_owned(),
            version: seen.version,
            listen: self.config.listen.to_string(),
            state: seen.state,
            capacity: seen.capacity,
            min_capacity: self.config.min_capacity,
            max_capacity: self.config.max_capacity,
            sessions: self.board.fleet.len() as u64,
            paused: seen.state == ClusterState::Paused,
            backend_pid: seen.backend_pid,
            last_change: seen.last_change,
            change: self.board.progress(),
        }
    }

    fn admit(&self, request: &ScaleRequest) -> Result<(), Refusal> {
        let ladder = self.config.engine.ladder();
        let (capacity, min, max) = (request.capacity, self.config.min_capacity, self.config.max_capacity);
        if !ladder.contains(capacity) {
            return Err(Refusal::NotOnLadder { capacity, ladder });
        }
        if !(min..=max).contains(&capacity) {
            return Err(Refusal::OutOfRange { capacity, min, max });
        }
        let seen = self.board.seen();
        if let Some(change) = seen.change {
            return Err(Refusal::ChangeInProgress { to: change.to });
        }
        match seen.state {
            ClusterState::Available => Ok(()),
            other => Err(Refusal::WrongState { state: other.as_str() }),
        }
    }

    /// Gauges are counted when they are asked for: no session has to keep them.
    fn count(&self) {
        let sessions = self.board.fleet.sessions();
        for name in STATES {
            let count = sessions.iter().filter(|view| state(view) == name).count();
            self.board.metrics.sessions(name).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        for obstacle in Obstacle::ALL {
            let count = sessions.iter().filter(|view| view.doing.obstacle == Some(obstacle)).count();
            self.board.metrics.obstacles(obstacle.as_str()).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}

impl Clusters {
    fn find(&self, name: &str) -> Option<&Handle> {
        self.handles.iter().find(|handle| handle.config.name == name)
    }
}

#[async_trait]
impl ControlPlane for Clusters {
    fn clusters(&self) -> Vec<ClusterStatus> {
        self.handles.iter().map(Handle::status).collect()
    }

    fn cluster(&self, name: &str) -> Option<ClusterStatus> {
        self.find(name).map(Handle::status)
    }

    fn sessions(&self, name: &str) -> Option<Vec<SessionRow>> {
        self.find(name).map(|handle| handle.board.sessions())
    }

    async fn scale(&self, name: &str, request: ScaleRequest) -> Result<ScaleReport, Refusal> {
        let handle = self.find(name).ok_or_else(|| Refusal::UnknownCluster { name: name.to_owned() })?;
        handle.admit(&request)?;
        let (wait, to) = (request.wait, request.capacity);
        let from = handle.board.seen().capacity;
        let (report, reported) = oneshot::channel();
        handle.asks.try_send(Asked { request, report }).map_err(|_| Refusal::ChangeInProgress { to })?;
        if !wait {
            return Ok(accepted(name, from, to));
        }
        let gone = |_| Refusal::Unresponsive { reason: "the cluster's driver has ended".to_owned() };
        reported.await.map_err(gone)
    }

    fn events(&self, name: &str) -> Option<(Vec<Event>, broadcast::Receiver<Event>)> {
        self.find(name).map(|handle| handle.board.events())
    }

    fn metrics_text(&self) -> String {
        self.handles.iter().for_each(Handle::count);
        self.metrics.encode()
    }
}

fn accepted(name: &str, from: u32, to: u32) -> ScaleReport {
    ScaleReport {
        cluster: name.to_owned(),
        from,
        to,
        outcome: Outcome::Started,
        sessions: SessionCounts::default(),
        hold_ms: 0,
        handover_ms: 0,
        stall_ms: 0,
        waited_ms: 0,
        obstacles: Vec::new(),
        error: None,
    }
}
