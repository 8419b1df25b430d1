//! What the control API says and the command line reads: one set of types for both.
//!
//! The names are the published interface. Fields are added freely; none is renamed. Every field that was added later
//! has a default, so that an older or newer counterpart still understands the rest.

use std::time::Duration;

use serde::{Deserialize, Serialize};

mod event;

pub use event::{Event, RdsEvent, rfc3339_utc};

/// Shortest search for a scaling point that a manual change may ask for, seconds (`ModifyCurrentDBClusterCapacity`).
pub const LEAST_SECONDS_BEFORE_TIMEOUT: u32 = 10;
/// Longest search for a scaling point, seconds.
pub const MOST_SECONDS_BEFORE_TIMEOUT: u32 = 600;

/// What a change may take beyond the search for a scaling point: launch, hand over, and falling back.
pub const CHANGE_MARGIN: Duration = Duration::from_secs(300);

/// How a capacity change ended, and what it was like for the clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScaleReport {
    /// The cluster's name.
    pub cluster: String,
    /// Capacity before, ACUs.
    pub from: u32,
    /// Capacity asked for, ACUs.
    pub to: u32,
    /// How it ended.
    pub outcome: Outcome,
    /// What became of the sessions.
    pub sessions: SessionCounts,
    /// From the start of the (last) hold until every session was quiet or it gave up.
    pub hold_ms: u64,
    /// From the last session quiet until the new instance was ready.
    pub handover_ms: u64,
    /// From closing the gate to opening it: what a waiting client could have felt.
    pub stall_ms: u64,
    /// From the request until a scaling point was found or the time ran out.
    pub waited_ms: u64,
    /// What stood in the way when the time ran out.
    pub obstacles: Vec<ObstacleRow>,
    /// What went wrong, when `outcome` is `failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How a capacity change ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Accepted and under way (only when the caller does not wait).
    Started,
    /// At a scaling point.
    Scaled,
    /// Without one, by the timeout action.
    Forced,
    /// No scaling point was found in time; the capacity is as it was.
    RolledBack,
    /// Something broke; the capacity is as it was.
    Failed,
}

impl Outcome {
    /// The name in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Scaled => "scaled",
            Self::Forced => "forced",
            Self::RolledBack => "rolled_back",
            Self::Failed => "failed",
        }
    }
}

/// What became of the sessions in a capacity change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionCounts {
    /// Kept with all of their state; those that are parked, too.
    pub carried: u64,
    /// Kept, but their transaction was aborted.
    pub aborted: u64,
    /// Closed, with an error.
    pub closed: u64,
}

/// One session that stands in the way of a scaling point, or something of the server itself (session 0, no user).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObstacleRow {
    /// Session id.
    pub session: u64,
    /// Its user.
    pub user: String,
    /// The obstacle's name (`open_transaction`, `temporary_table`, ...).
    pub reason: String,
    /// For how long.
    pub since_ms: u64,
    /// The statement that runs, or that made the obstacle.
    pub statement: Option<String>,
}

/// What a cluster is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClusterState {
    /// Not yet serving.
    Starting,
    /// Serving.
    Available,
    /// Serving, and looking for a scaling point.
    Seeking,
    /// Clients with new requests wait for a hand-over.
    Holding,
    /// On the way to capacity 0.
    Pausing,
    /// At capacity 0.
    Paused,
    /// On the way back from capacity 0.
    Resuming,
    /// No instance runs and none can be started.
    Failed,
    /// The server is shutting down.
    Stopping,
}

impl ClusterState {
    /// The name in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Available => "available",
            Self::Seeking => "seeking",
            Self::Holding => "holding",
            Self::Pausing => "pausing",
            Self::Paused => "paused",
            Self::Resuming => "resuming",
            Self::Failed => "failed",
            Self::Stopping => "stopping",
        }
    }
}

/// One cluster, as `status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Its name.
    pub name: String,
    /// `postgres` or `mysql`.
    pub engine: String,
    /// The server's version, when it is known.
    pub version: Option<String>,
    /// Where clients connect.
    pub listen: String,
    /// What it is doing.
    pub state: ClusterState,
    /// Capacity now, ACUs.
    pub capacity: u32,
    /// Lowest capacity, ACUs.
    pub min_capacity: u32,
    /// Highest capacity, ACUs.
    pub max_capacity: u32,
    /// Client sessions.
    pub sessions: u64,
    /// Whether the capacity is 0.
    pub paused: bool,
    /// Process id of the database's main process.
    pub backend_pid: Option<u32>,
    /// The last capacity change since the start of the server.
    pub last_change: Option<ScaleReport>,
    /// The change under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<ChangeProgress>,
}

/// A capacity change that is under way: what the progress line shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeProgress {
    /// The capacity asked for, ACUs.
    pub to: u32,
    /// Sessions that stand in the way now.
    pub busy: u64,
    /// The one that has stood there longest.
    pub oldest: Option<ObstacleRow>,
    /// Until the timeout action.
    pub remaining_ms: u64,
}

/// `status --json`, and `GET /v1/clusters`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterList {
    /// In the order of the configuration.
    pub clusters: Vec<ClusterStatus>,
}

/// One session, as `sessions` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRow {
    /// Its id: the connection id that the client was told.
    pub id: u64,
    /// Its user.
    pub user: String,
    /// Its database.
    pub database: String,
    /// The client's address.
    pub client: String,
    /// The TLS version; `null` without TLS.
    pub tls: Option<String>,
    /// What it is doing.
    pub state: String,
    /// Since it was accepted.
    pub age_ms: u64,
    /// What keeps it from being quiet; `null` when nothing does.
    pub obstacle: Option<String>,
    /// For how long.
    pub obstacle_since_ms: Option<u64>,
    /// The statement that runs, or that made the obstacle.
    pub statement: Option<String>,
    /// What keeps it from being parked, besides an obstacle; `null` when nothing does.
    pub tie: Option<String>,
}

/// `sessions --json`, and `GET /v1/clusters/{name}/sessions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionList {
    /// Oldest first.
    pub sessions: Vec<SessionRow>,
}

/// `events --json`, and `GET /v1/clusters/{name}/events`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventList {
    /// Oldest first.
    pub events: Vec<Event>,
}

/// The body of every error answer of the control API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What is wrong, one line.
    pub error: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// A stable name (`unknown_cluster`, `change_in_progress`, ...).
    pub code: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The JSON of the published interface, word for word.
    #[test]
    fn scale_report_in_json() {
        let report = ScaleReport {
            cluster: "orders".into(),
            from: 2,
            to: 4,
            outcome: Outcome::RolledBack,
            sessions: SessionCounts { carried: 1, aborted: 2, closed: 3 },
            hold_ms: 4,
            handover_ms: 5,
            stall_ms: 6,
            waited_ms: 7,
            obstacles: vec![ObstacleRow {
                session: 8,
                user: "app".into(),
                reason: "open_transaction".into(),
                since_ms: 9,
                statement: None,
            }],
            error: None,
        };
        let expected = json!({
            "cluster": "orders", "from": 2, "to": 4, "outcome": "rolled_back",
            "sessions": {"carried": 1, "aborted": 2, "closed": 3},
            "hold_ms": 4, "handover_ms": 5, "stall_ms": 6, "waited_ms": 7,
            "obstacles": [{"session": 8, "user": "app", "reason": "open_transaction", "since_ms": 9,
                           "statement": null}],
        });
        assert_eq!(serde_json::to_value(&report).unwrap(), expected);
        assert_eq!(serde_json::from_value::<ScaleReport>(expected).unwrap(), report);
    }

    #[test]
    fn names_of_states_and_outcomes() {
        use ClusterState::*;
        for state in [Starting, Available, Seeking, Holding, Pausing, Paused, Resuming, Failed, Stopping] {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
        for outcome in
            [Outcome::Started, Outcome::Scaled, Outcome::Forced, Outcome::RolledBack, Outcome::Failed]
        {
            assert_eq!(serde_json::to_value(outcome).unwrap(), outcome.as_str());
        }
    }
}
