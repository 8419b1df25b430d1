//! The metrics, all of their names in one place ([`NAMES`]), and cheap handles to them.
//!
//! A [`ClusterMetrics`] is made once per cluster and cloned into its tasks: the hot path (bytes, authentication) adds
//! to an atomic with relaxed ordering and looks nothing up. What has a second label is looked up per call under a
//! read lock; that is done on events, not on packets.

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

mod names;
mod parking;
mod session_gauge;
mod turns;

pub use names::NAMES;
use names::meaning;
pub use parking::ParkingMetrics;
pub use session_gauge::SessionGauge;
pub use turns::TurnMetrics;

/// The content type of [`Metrics::encode`].
pub const ENCODING: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfCluster {
    cluster: String,
}

/// Makes the label sets of a cluster and one more, named label.
macro_rules! label_sets {
    ($($set:ident { $label:ident: $type:ty }),* $(,)?) => {$(
        #[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
        struct $set {
            cluster: String,
            $label: $type,
        }
    )*};
}

label_sets! {
    ByState { state: &'static str },
    ByObstacle { obstacle: &'static str },
    ByHoldOutcome { outcome: HoldOutcome },
    ByCapacityOutcome { outcome: CapacityOutcome },
    ByDirection { direction: &'static str },
    ByReason { reason: RefusalReason },
}

/// Makes an enum whose variants are the values of a label.
macro_rules! label_values {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $value:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Hash, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant),* }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The value of the label.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $value),* }
            }
        }

        impl EncodeLabelValue for $name {
            fn encode(
                &self,
                encoder: &mut prometheus_client::encoding::LabelValueEncoder<'_>,
            ) -> Result<(), std::fmt::Error> {
                EncodeLabelValue::encode(&self.as_str(), encoder)
            }
        }
    };
}

label_values! {
    /// How a hold ended.
    HoldOutcome {
        /// Every session was quiet within the stall budget.
        Quiet = "quiet",
        /// The budget ran out; everybody was let go.
        OverBudget = "over_budget",
        /// It was given up for another reason; everybody was let go.
        Dropped = "dropped",
    }
}

label_values! {
    /// How a capacity change ended; the words of the scale report.
    CapacityOutcome {
        /// At a scaling point.
        Scaled = "scaled",
        /// Without one, by the timeout action.
        Forced = "forced",
        /// No scaling point was found.
        RolledBack = "rolled_back",
        /// Something broke; the old capacity serves.
        Failed = "failed",
    }
}

label_values! {
    /// Why a connection never became a session.
    RefusalReason {
        /// `max_sessions` is reached.
        TooManySessions = "too_many_sessions",
        /// The client was too slow or left.
        HandshakeTimeout = "handshake_timeout",
        /// The bytes are not the protocol.
        Protocol = "protocol",
        /// TLS failed.
        Tls = "tls",
        /// No cluster has that name.
        UnknownCluster = "unknown_cluster",
        /// The server has no place, and nobody made room in time.
        NoPlace = "no_place",
        /// The cluster cannot take it now.
        Unavailable = "unavailable",
        /// The router is shutting down.
        Stopping = "stopping",
    }
}

#[derive(Clone, Copy)]
struct Latency {
    shortest: f64,
}

impl MetricConstructor<Histogram> for Latency {
    fn new_metric(&self) -> Histogram {
        Histogram::new(exponential_buckets(self.shortest, 2.0, 16))
    }
}

/// 1 ms to 33 s: what a client can feel.
const FELT: Latency = Latency { shortest: 0.001 };
/// 50 µs to 1.6 s: work on one session.
const SHORT: Latency = Latency { shortest: 0.000_05 };

type Latencies = Family<OfCluster, Histogram, Latency>;

/// All metrics of this process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    families: Families,
}

#[derive(Debug, Clone)]
struct Families {
    sessions: Family<ByState, Gauge>,
    obstacles: Family<ByObstacle, Gauge>,
    holds: Family<ByHoldOutcome, Counter>,
    stall: Latencies,
    hold: Latencies,
    hand_over: Latencies,
    restore: Latencies,
    capture: Latencies,
    bytes: Family<ByDirection, Counter>,
    authentication_failures: Family<OfCluster, Counter>,
    backend_restarts: Family<OfCluster, Counter>,
    sessions_refused: Family<ByReason, Counter>,
    capacity: Family<OfCluster, Gauge>,
    capacity_changes: Family<ByCapacityOutcome, Counter>,
    parking: parking::Families,
    turns: turns::Families,
}

impl std::fmt::Debug for Latency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Latency({})", self.shortest)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Every metric, without a value yet.
    pub fn new() -> Self {
        let families = Families {
            sessions: Family::default(),
            obstacles: Family::default(),
            holds: Family::default(),
            stall: Family::new_with_constructor(FELT),
            hold: Family::new_with_constructor(FELT),
            hand_over: Family::new_with_constructor(FELT),
            restore: Family::new_with_constructor(SHORT),
            capture: Family::new_with_constructor(SHORT),
            bytes: Family::default(),
            authentication_failures: Family::default(),
            backend_restarts: Family::default(),
            sessions_refused: Family::default(),
            capacity: Family::default(),
            capacity_changes: Family::default(),
            parking: parking::Families::new(),
            turns: turns::Families::default(),
        };
        let mut registry = Registry::with_prefix("scalepoint");
        families.register(&mut registry);
        Self { registry, families }
    }

    /// The handles of one cluster. Handles of the same name share their values.
    pub fn cluster(&self, name: &str) -> ClusterMetrics {
        let families = self.families.clone();
        let of = OfCluster { cluster: name.to_owned() };
        let bytes = |direction| {
            families.bytes.get_or_create_owned(&ByDirection { cluster: name.to_owned(), direction })
        };
        let made = ClusterMetrics {
            stall_seconds: families.stall.get_or_create_owned(&of),
            hold_seconds: families.hold.get_or_create_owned(&of),
            hand_over_seconds: families.hand_over.get_or_create_owned(&of),
            restore_seconds: families.restore.get_or_create_owned(&of),
            capture_seconds: families.capture.get_or_create_owned(&of),
            bytes_from_clients: bytes("from_clients"),
            bytes_to_clients: bytes("to_clients"),
            authentication_failures: families.authentication_failures.get_or_create_owned(&of),
            backend_restarts: families.backend_restarts.get_or_create_owned(&of),
            capacity: families.capacity.get_or_create_owned(&of),
            parking: families.parking.cluster(&of),
            turns: families.turns.cluster(&of),
            cluster: of.cluster,
            families,
        };
        // What counts from nothing is there before it counts, or its first increment would not be seen as one.
        HoldOutcome::ALL.iter().for_each(|outcome| drop(made.holds(*outcome)));
        RefusalReason::ALL.iter().for_each(|reason| drop(made.sessions_refused(*reason)));
        CapacityOutcome::ALL.iter().for_each(|outcome| drop(made.capacity_changes(*outcome)));
        made
    }

    /// The text that Prometheus reads; its content type is [`ENCODING`].
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail, and every metric here can be encoded.
        if encode(&mut text, &self.registry).is_err() {
            text.clear();
        }
        text
    }
}

impl Families {
    fn register(&self, registry: &mut Registry) {
        let mut seconds = |name: &str, family: &Latencies| {
            registry.register_with_unit(name, meaning(name), Unit::Seconds, family.clone());
        };
        seconds("stall", &self.stall);
        seconds("hold", &self.hold);
        seconds("hand_over", &self.hand_over);
        seconds("restore", &self.restore);
        seconds("capture", &self.capture);
        registry.register("sessions", meaning("sessions"), self.sessions.clone());
        registry.register("obstacles", meaning("obstacles"), self.obstacles.clone());
        registry.register("holds", meaning("holds"), self.holds.clone());
        registry.register("bytes", meaning("bytes"), self.bytes.clone());
        let failures = "authentication_failures";
        registry.register(failures, meaning(failures), self.authentication_failures.clone());
        registry.register("backend_restarts", meaning("backend_restarts"), self.backend_restarts.clone());
        registry.register("sessions_refused", meaning("sessions_refused"), self.sessions_refused.clone());
        registry.register("capacity", meaning("capacity"), self.capacity.clone());
        registry.register("capacity_changes", meaning("capacity_changes"), self.capacity_changes.clone());
        self.parking.register(registry);
        self.turns.register(registry);
        let build: Family<Vec<(&'static str, &'static str)>, Gauge> = Family::default();
        build.get_or_create_owned(&vec![("version", env!("CARGO_PKG_VERSION"))]).set(1);
        registry.register("build", meaning("build"), build);
    }
}

/// The handles of one cluster; cloning is cheap and the clones share their values.
#[derive(Debug, Clone)]
pub struct ClusterMetrics {
    /// From closing the gate to opening it, seconds.
    pub stall_seconds: Histogram,
    /// From the start of a hold until every session was quiet or it gave up, seconds.
    pub hold_seconds: Histogram,
    /// From the last session quiet until the new instance is ready, seconds.
    pub hand_over_seconds: Histogram,
    /// Rebuilding one session on a new backend, seconds.
    pub restore_seconds: Histogram,
    /// Asking one session's backend for its state, seconds.
    pub capture_seconds: Histogram,
    /// Bytes relayed from clients to backends.
    pub bytes_from_clients: Counter,
    /// Bytes relayed from backends to clients.
    pub bytes_to_clients: Counter,
    /// Logins refused for their credentials.
    pub authentication_failures: Counter,
    /// Database processes replaced because they died or hung.
    pub backend_restarts: Counter,
    /// Capacity now, ACUs; 0 while paused.
    pub capacity: Gauge,
    /// Parked sessions.
    pub parking: ParkingMetrics,
    /// Statements that begin in turns.
    pub turns: TurnMetrics,
    cluster: String,
    families: Families,
}

impl ClusterMetrics {
    /// The number of sessions in a state. A session that changes its state moves a [`SessionGauge`] instead.
    pub fn sessions(&self, state: &'static str) -> Gauge {
        self.families.sessions.get_or_create_owned(&ByState { cluster: self.cluster.clone(), state })
    }

    /// Counts one session in `state` until the returned guard moves on or is dropped.
    pub fn session(&self, state: &'static str) -> SessionGauge {
        SessionGauge::new(self, state)
    }

    /// The number of sessions that an obstacle keeps from being quiet.
    pub fn obstacles(&self, obstacle: &'static str) -> Gauge {
        self.families.obstacles.get_or_create_owned(&ByObstacle { cluster: self.cluster.clone(), obstacle })
    }

    /// Holds by how they ended.
    pub fn holds(&self, outcome: HoldOutcome) -> Counter {
        self.families.holds.get_or_create_owned(&ByHoldOutcome { cluster: self.cluster.clone(), outcome })
    }

    /// Connections that never became a session, by reason.
    pub fn sessions_refused(&self, reason: RefusalReason) -> Counter {
        self.families
            .sessions_refused
            .get_or_create_owned(&ByReason { cluster: self.cluster.clone(), reason })
    }

    /// Capacity changes by outcome.
    pub fn capacity_changes(&self, outcome: CapacityOutcome) -> Counter {
        let labels = ByCapacityOutcome { cluster: self.cluster.clone(), outcome };
        self.families.capacity_changes.get_or_create_owned(&labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_name_is_encoded_and_no_other() {
        let metrics = Metrics::new();
        let orders = metrics.cluster("orders");
        let _session = orders.session("idle");
        orders.obstacles("open_transaction").set(2);
        orders.holds(HoldOutcome::Quiet).inc();
        orders.sessions_refused(RefusalReason::Tls).inc();
        orders.capacity_changes(CapacityOutcome::RolledBack).inc();
        let text = metrics.encode();
        let mut documented: Vec<&str> = NAMES.iter().map(|(name, _, _)| *name).collect();
        let mut encoded: Vec<&str> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split(['{', ' ']).next())
            .map(|name| {
                ["_bucket", "_sum", "_count"].iter().fold(name, |n, s| n.strip_suffix(s).unwrap_or(n))
            })
            .collect();
        documented.sort_unstable();
        encoded.sort_unstable();
        encoded.dedup();
        assert_eq!(encoded, documented, "{text}");
        assert!(NAMES.iter().all(|(_, _, meaning)| text.contains(meaning)), "{text}");
        assert!(
            text.contains(r#"scalepoint_capacity_changes_total{cluster="orders",outcome="rolled_back"} 1"#)
        );
    }

    #[test]
    fn a_session_is_counted_once_and_leaves_nothing() {
        let metrics = Metrics::new();
        let orders = metrics.cluster("orders");
        let mut session = orders.session("idle");
        session.enter("held");
        session.enter("held");
        assert_eq!((orders.sessions("idle").get(), metrics.cluster("orders").sessions("held").get()), (0, 1));
        drop(session);
        assert_eq!(orders.sessions("held").get(), 0);
    }

    #[test]
    fn handles_share_their_values() {
        let metrics = Metrics::new();
        metrics.cluster("orders").bytes_to_clients.inc_by(5);
        metrics.cluster("orders").bytes_to_clients.inc_by(6);
        metrics.cluster("other").bytes_to_clients.inc();
        let text = metrics.encode();
        assert!(
            text.contains(r#"scalepoint_bytes_total{cluster="orders",direction="to_clients"} 11"#),
            "{text}"
        );
    }
}
