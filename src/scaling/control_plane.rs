//! What operators may ask of the clusters. The API knows only this; the clusters' drivers stand behind it.

use async_trait::async_trait;
use serde::Serialize;
use tokio::sync::broadcast;

use super::report::{ClusterStatus, Event, ScaleReport, SessionRow};
use crate::config::{Ladder, TimeoutAction};

pub use super::report::{CHANGE_MARGIN, LEAST_SECONDS_BEFORE_TIMEOUT, MOST_SECONDS_BEFORE_TIMEOUT};

/// A manual change of capacity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScaleRequest {
    /// The capacity to have, ACUs.
    pub capacity: u32,
    /// 10..=600 (checked by the API); `None`: the cluster's setting.
    pub seconds_before_timeout: Option<u32>,
    /// `None`: the cluster's setting.
    pub timeout_action: Option<TimeoutAction>,
    /// Whether to answer when the change has ended; else as soon as it is accepted, with outcome `started`.
    pub wait: bool,
}

/// All clusters of this process, as operators see them.
#[async_trait]
pub trait ControlPlane: Send + Sync {
    /// All clusters, in the order of the configuration.
    fn clusters(&self) -> Vec<ClusterStatus>;

    /// One cluster; `None` when there is no such.
    fn cluster(&self, name: &str) -> Option<ClusterStatus>;

    /// The sessions of a cluster, oldest first; `None` when there is no such cluster.
    fn sessions(&self, name: &str) -> Option<Vec<SessionRow>>;

    /// Changes the capacity.
    ///
    /// # Errors
    /// A [`Refusal`] when nothing was begun; a change that was begun and failed is a report with that outcome.
    ///
    /// # Cancel safety
    /// The API never drops this future before its end because a client left. Dropping it must leave the cluster in
    /// order all the same.
    async fn scale(&self, name: &str, request: ScaleRequest) -> Result<ScaleReport, Refusal>;

    /// Takes a cluster to capacity 0.
    ///
    /// # Errors
    /// As [`ControlPlane::scale`].
    async fn pause(&self, name: &str) -> Result<ScaleReport, Refusal> {
        Err(not_available(self, name, "pause"))
    }

    /// Brings a paused cluster back to the capacity it had.
    ///
    /// # Errors
    /// As [`ControlPlane::scale`].
    async fn resume(&self, name: &str) -> Result<ScaleReport, Refusal> {
        Err(not_available(self, name, "resume"))
    }

    /// The events so far, oldest first, and those to come; none is in both. `None` when there is no such cluster.
    fn events(&self, name: &str) -> Option<(Vec<Event>, broadcast::Receiver<Event>)>;

    /// The metrics in the text format of OpenMetrics.
    fn metrics_text(&self) -> String;
}

/// The refusal of what a control plane cannot do.
fn not_available<C: ControlPlane + ?Sized>(control: &C, name: &str, what: &'static str) -> Refusal {
    match control.cluster(name) {
        Some(_) => Refusal::NotAvailable { what },
        None => Refusal::UnknownCluster { name: name.to_owned() },
    }
}

/// Why a request was not even begun; nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such cluster.
    #[error("there is no cluster `{name}`")]
    UnknownCluster {
        /// As it was asked for.
        name: String,
    },
    /// The engine has no such capacity.
    #[error("{capacity} is not a capacity of this engine")]
    NotOnLadder {
        /// As it was asked for, ACUs.
        capacity: u32,
        /// What the engine has.
        ladder: Ladder,
    },
    /// The cluster may not have this capacity.
    #[error("capacity {capacity} is not between {min} and {max}")]
    OutOfRange {
        /// As it was asked for, ACUs.
        capacity: u32,
        /// `min_capacity`
        min: u32,
        /// `max_capacity`
        max: u32,
    },
    /// One change at a time.
    #[error("a change to capacity {to} is under way")]
    ChangeInProgress {
        /// Where that one goes, ACUs.
        to: u32,
    },
    /// The cluster is in a state in which this cannot be done (starting, failed, stopping, ...).
    #[error("the cluster is {state}")]
    WrongState {
        /// The state's name.
        state: &'static str,
    },
    /// This version cannot do it.
    #[error("{what} is not available yet")]
    NotAvailable {
        /// What was asked for.
        what: &'static str,
    },
    /// The cluster's driver does not answer.
    #[error("the control plane does not answer: {reason}")]
    Unresponsive {
        /// What is known about it.
        reason: String,
    },
}

/// Whose fault a refusal is, and so which status and exit code it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Fault {
    /// What was asked for does not exist.
    NotFound,
    /// The request is wrong at any time.
    Request,
    /// The request is fine, the state is not.
    State,
    /// Ours.
    Server,
}

impl Refusal {
    /// The stable name in an error answer.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownCluster { .. } => "unknown_cluster",
            Self::NotOnLadder { .. } => "not_on_ladder",
            Self::OutOfRange { .. } => "out_of_range",
            Self::ChangeInProgress { .. } => "change_in_progress",
            Self::WrongState { .. } => "wrong_state",
            Self::NotAvailable { .. } => "not_available",
            Self::Unresponsive { .. } => "unresponsive",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownCluster { .. } => Some("`scalepoint status` lists the clusters".to_owned()),
            Self::NotOnLadder { capacity, ladder } => Some(ladder.nearest_in_words(*capacity)),
            Self::OutOfRange { .. } => {
                Some("change min_capacity or max_capacity in the configuration".to_owned())
            }
            Self::ChangeInProgress { .. } => {
                Some("wait until it has ended; `scalepoint status` shows it".to_owned())
            }
            Self::WrongState { .. } => Some("`scalepoint events` says why".to_owned()),
            Self::NotAvailable { .. } => None,
            Self::Unresponsive { .. } => Some("look at the server's log".to_owned()),
        }
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::UnknownCluster { .. } => Fault::NotFound,
            Self::NotOnLadder { .. } | Self::OutOfRange { .. } => Fault::Request,
            Self::ChangeInProgress { .. } | Self::WrongState { .. } | Self::NotAvailable { .. } => {
                Fault::State
            }
            Self::Unresponsive { .. } => Fault::Server,
        }
    }
}
