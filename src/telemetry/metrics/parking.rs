//! A server connection is a cache of a session: parked sessions, places on the server, sessions made ahead.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::names::meaning;
use super::{FELT, Latencies, OfCluster};

#[derive(Debug, Clone)]
pub(super) struct Families {
    parkings: Family<OfCluster, Counter>,
    rebuilds: Family<OfCluster, Counter>,
    rebuild: Latencies,
    waits: Family<OfCluster, Counter>,
    refusals: Family<OfCluster, Counter>,
    made_ahead: Family<OfCluster, Counter>,
}

/// The handles of one cluster.
#[derive(Debug, Clone)]
pub struct ParkingMetrics {
    /// Idle sessions that gave their backends up.
    pub parkings: Counter,
    /// Parked sessions that have a backend again.
    pub rebuilds: Counter,
    /// From a parked session's first byte until it has a backend, seconds; with the wait for a place.
    pub rebuild_seconds: Histogram,
    /// Sessions that found no place on the server at once.
    pub waits: Counter,
    /// Sessions that found none in time.
    pub refusals: Counter,
    /// Sessions that went on as they had been made ahead on a standby.
    pub made_ahead: Counter,
}

impl Families {
    pub(super) fn new() -> Families {
        Families {
            parkings: Family::default(),
            rebuilds: Family::default(),
            rebuild: Family::new_with_constructor(FELT),
            waits: Family::default(),
            refusals: Family::default(),
            made_ahead: Family::default(),
        }
    }

    pub(super) fn cluster(&self, of: &OfCluster) -> ParkingMetrics {
        ParkingMetrics {
            parkings: self.parkings.get_or_create_owned(of),
            rebuilds: self.rebuilds.get_or_create_owned(of),
            rebuild_seconds: self.rebuild.get_or_create_owned(of),
            waits: self.waits.get_or_create_owned(of),
            refusals: self.refusals.get_or_create_owned(of),
            made_ahead: self.made_ahead.get_or_create_owned(of),
        }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let mut counter = |name: &str, family: &Family<OfCluster, Counter>| {
            registry.register(name, meaning(name), family.clone());
        };
        counter("parkings", &self.parkings);
        counter("rebuilds", &self.rebuilds);
        counter("place_waits", &self.waits);
        counter("place_refusals", &self.refusals);
        counter("sessions_made_ahead", &self.made_ahead);
        registry.register_with_unit("rebuild", meaning("rebuild"), Unit::Seconds, self.rebuild.clone());
    }
}
