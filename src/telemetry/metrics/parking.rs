//! Parked sessions, and places on the server.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::{FELT, Latencies, OfCluster, meaning};

#[derive(Debug, Clone)]
pub(super) struct Families {
    parkings: Family<OfCluster, Counter>,
    rebuilds: Family<OfCluster, Counter>,
    rebuild: Latencies,
    waits: Family<OfCluster, Counter>,
    refusals: Family<OfCluster, Counter>,
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
}

impl Families {
    pub(super) fn new() -> Families {
        Families {
            parkings: Family::default(),
            rebuilds: Family::default(),
            rebuild: Family::new_with_constructor(FELT),
            waits: Family::default(),
            refusals: Family::default(),
        }
    }

    pub(super) fn cluster(&self, of: &OfCluster) -> ParkingMetrics {
        ParkingMetrics {
            parkings: self.parkings.get_or_create_owned(of),
            rebuilds: self.rebuilds.get_or_create_owned(of),
            rebuild_seconds: self.rebuild.get_or_create_owned(of),
            waits: self.waits.get_or_create_owned(of),
            refusals: self.refusals.get_or_create_owned(of),
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
        registry.register_with_unit("rebuild", meaning("rebuild"), Unit::Seconds, self.rebuild.clone());
    }
}
