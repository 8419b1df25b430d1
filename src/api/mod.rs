//! What operators talk to: a small JSON API over the [`ControlPlane`], and the metrics.
//!
//! ```text
//! accept (listener) ──► guard: Host, limits ──► routes ──► ControlPlane ──► JSON | NDJSON | OpenMetrics
//! ```
//!
//! There is no password: the API is for this machine, and listens on a loopback address unless the configuration says
//! otherwise. A browser on this machine is not to be trusted with it, hence the guard: a request must name an IP
//! address, `localhost` or an allowed host (so a rebound DNS name gets nothing), and whatever changes something must
//! be `application/json` (which a foreign page cannot send without a preflight, and that is never answered).

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware;
use axum::routing::{get, post};
use tokio::sync::Semaphore;

use crate::scaling::control_plane::ControlPlane;

mod answer;
mod follow;
mod guard;
mod listener;
mod routes;

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;

pub use listener::serve;

/// Connections at once; further ones wait in the kernel's queue.
const MOST_CONNECTIONS: usize = 256;
/// Requests at once; further ones are answered 503.
const MOST_REQUESTS: usize = 64;
/// Event streams at once; further ones are answered 503.
const MOST_FOLLOWERS: usize = 32;
/// Bytes of a request body.
const LONGEST_BODY: usize = 16 * 1024;
/// From the first byte of a connection or request until the end of its headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// From the end of the headers until the end of the body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Silence after which an event stream sends an empty line.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// What every route knows.
#[derive(Clone)]
struct Api {
    control: Arc<dyn ControlPlane>,
    allowed_hosts: Arc<[String]>,
    requests: Arc<Semaphore>,
    followers: Arc<Semaphore>,
}

/// The routes of the control API. `allowed_hosts` are host names in lower case that a request may name besides IP
/// addresses and `localhost`.
pub fn router(control: Arc<dyn ControlPlane>, allowed_hosts: Vec<String>) -> Router {
    let api = Api {
        control,
        allowed_hosts: allowed_hosts.into(),
        requests: Arc::new(Semaphore::new(MOST_REQUESTS)),
        followers: Arc::new(Semaphore::new(MOST_FOLLOWERS)),
    };
    Router::new()
        .route("/healthz", get(routes::health))
        .route("/metrics", get(routes::metrics))
        .route("/v1/clusters", get(routes::clusters))
        .route("/v1/clusters/{cluster}", get(routes::cluster))
        .route("/v1/clusters/{cluster}/sessions", get(routes::sessions))
        .route("/v1/clusters/{cluster}/events", get(routes::events))
        .route("/v1/clusters/{cluster}/scale", post(routes::scale))
        .route("/v1/clusters/{cluster}/pause", post(routes::pause))
        .route("/v1/clusters/{cluster}/resume", post(routes::resume))
        .fallback(routes::not_found)
        .method_not_allowed_fallback(routes::method_not_allowed)
        .layer(middleware::from_fn_with_state(api.clone(), guard::admit))
        .with_state(api)
}
