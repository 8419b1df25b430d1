//! One session in the count of sessions by state.

use prometheus_client::metrics::gauge::Gauge;

use super::ClusterMetrics;

/// One session's share of `scalepoint_sessions`; dropping it takes the session out, whatever way it ended.
#[derive(Debug)]
pub struct SessionGauge {
    metrics: ClusterMetrics,
    state: &'static str,
    gauge: Gauge,
}

impl SessionGauge {
    pub(super) fn new(metrics: &ClusterMetrics, state: &'static str) -> SessionGauge {
        let gauge = metrics.sessions(state);
        gauge.inc();
        SessionGauge { metrics: metrics.clone(), state, gauge }
    }

    /// Moves the session to another state; free when it is the same.
    pub fn enter(&mut self, state: &'static str) {
        if self.state == state {
            return;
        }
        let next = self.metrics.sessions(state);
        next.inc();
        self.gauge.dec();
        (self.state, self.gauge) = (state, next);
    }
}

impl Drop for SessionGauge {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}
