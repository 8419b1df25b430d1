//! Statements that begin in turns.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::OfCluster;
use super::names::meaning;

#[derive(Debug, Clone, Default)]
pub(super) struct Families {
    waits: Family<OfCluster, Counter>,
    limit: Family<OfCluster, Gauge>,
}

/// The handles of one cluster.
#[derive(Debug, Clone)]
pub struct TurnMetrics {
    /// Statements that had to wait.
    pub waits: Counter,
    /// The limit that is in force; 0: none.
    pub limit: Gauge,
}

impl Families {
    pub(super) fn cluster(&self, of: &OfCluster) -> TurnMetrics {
        TurnMetrics { waits: self.waits.get_or_create_owned(of), limit: self.limit.get_or_create_owned(of) }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("statement_waits", meaning("statement_waits"), self.waits.clone());
        registry.register("statements_at_once", meaning("statements_at_once"), self.limit.clone());
    }
}
