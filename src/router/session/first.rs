//! The first backend of a client that has just been let in, or has become somebody else.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::attach::RETRY;
use crate::engine::{Cause, DialogueError, Engine};
use crate::router::Cluster;
use crate::router::backend::{Backend, BackendError};
use crate::router::fleet::{LOOK, Membership, Place};

/// Between two looks whether it may have one.
const WAIT: Duration = Duration::from_millis(100);
/// A server may take so long to notice that a connection of an account has ended.
const ENDING: Duration = Duration::from_millis(500);

/// Why a client gets no backend.
#[derive(Debug)]
pub(in crate::router) enum NoBackend {
    /// The server has refused it, in its own words.
    Refused(BackendError),
    /// The server has no place, and nobody has made room in time.
    Full,
    /// No database has come up in time.
    NotAvailable,
}

/// Waits for a database, `deadline` at most, and for a place on it.
pub(in crate::router) async fn first_backend<E: Engine>(
    cluster: &Cluster<E>,
    membership: &Membership,
    startup: &E::Startup,
    deadline: Duration,
) -> Result<(Backend<E>, u64), NoBackend> {
    let getting = get(cluster, membership, startup);
    timeout(deadline, getting).await.unwrap_or(Err(NoBackend::NotAvailable))
}

async fn get<E: Engine>(
    cluster: &Cluster<E>,
    membership: &Membership,
    startup: &E::Startup,
) -> Result<(Backend<E>, u64), NoBackend> {
    let mut gate = membership.gate();
    let mut claim = membership.claim();
    let mut full_since: Option<Instant> = None;
    loop {
        let signal = gate.borrow_and_update().clone();
        let mut place = None;
        if signal.socket.is_some() && membership.may_attach() {
            let waited = claim.is_waiting();
            place = claim.take();
            if place.is_none() {
                if !waited {
                    cluster.metrics.parking.waits.inc();
                }
                if claim.since().elapsed() >= cluster.full_wait {
                    cluster.metrics.parking.refusals.inc();
                    return Err(NoBackend::Full);
                }
                let _either = timeout(LOOK, claim.ready()).await;
                continue;
            }
        }
        if let (Some(place), Some(socket), true) = (place, &signal.socket, membership.attach()) {
            match made::<E>(cluster, membership, startup, socket, place).await {
                Ok(backend) => return Ok((backend, signal.era)),
                Err(error) if !is_passing(&error, &mut full_since, cluster.full_wait) => {
                    return Err(NoBackend::Refused(error));
                }
                Err(error) => {
                    tracing::debug!(cluster = cluster.name, %error, "waiting for a backend");
                    membership.detach(false);
                    sleep(RETRY).await;
                }
            }
        } else {
            claim.pause();
            // Mostly the gate says when; while sessions with visible state go first, nobody does.
            if let Ok(Err(_)) = timeout(WAIT, gate.changed()).await {
                return Err(NoBackend::NotAvailable);
            }
        }
    }
}

/// Connects and logs in. If the client leaves meanwhile, its place is free only when the server has ended what was begun:
/// only then has it room for another.
async fn made<E: Engine>(
    cluster: &Cluster<E>,
    membership: &Membership,
    startup: &E::Startup,
    socket: &Arc<Path>,
    place: Place,
) -> Result<Backend<E>, BackendError> {
    let (socket, log_in, login) = (Arc::clone(socket), E::log_in(startup), Arc::clone(&cluster.login));
    let aide = membership.aide();
    let (tell, told) = oneshot::channel();
    tokio::spawn(async move {
        let mut made = Backend::<E>::connect(&socket, log_in, &login).await;
        if let Ok(backend) = &mut made {
            backend.place = Some(place);
        }
        if let Err(Ok(unwanted)) = tell.send(made) {
            unwanted.retire(aide);
        }
    });
    told.await.unwrap_or(Err(BackendError::Closed))
}

/// A new client is told at once when the server does not want it, as it would be by the server itself. Only a server
/// that is starting is waited for, and, for `full_wait` at most, one that is full although there should be a place: others
/// may use it, or it has not noticed yet that a connection has ended.
fn is_passing(error: &BackendError, full_since: &mut Option<Instant>, full_wait: Duration) -> bool {
    let mut lasts = || full_since.get_or_insert_with(Instant::now).elapsed();
    match error {
        BackendError::Dialogue(DialogueError::Refused { cause, .. }) => match cause {
            Cause::Starting => true,
            Cause::Full => lasts() < full_wait,
            Cause::Limited => lasts() < ENDING,
            Cause::Stopping | Cause::Final => false,
        },
        _ => true,
    }
}
