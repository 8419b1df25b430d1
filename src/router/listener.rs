//! Accepts clients, as many as may be, and gives each a task of its own on one of the workers.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use super::Cluster;
use super::fleet::Ids;
use super::handshake::{self, Visitor};
use super::tls::Tls;
use super::workers::Workers;
use crate::engine::Engine;

/// Connections beyond the sessions that may be: clients that are being greeted, cancel requests, refusals.
const GREETED_AT_ONCE: usize = 512;
/// After an accept failed (no descriptors, mostly): let sessions end first.
const BACK_OFF: Duration = Duration::from_millis(50);

/// One address and the clusters behind it.
pub struct Listener<E: Engine> {
    /// The bound socket.
    pub socket: TcpListener,
    /// What every client of this address meets.
    pub door: Arc<Door<E>>,
    /// Bounds the connections of the whole process.
    pub places: Arc<Semaphore>,
    /// Where sessions live.
    pub workers: Arc<Workers>,
}

/// What a client needs to be let in.
pub struct Door<E: Engine> {
    /// The clusters; with more than one the client's SNI chooses.
    pub clusters: Vec<Arc<Cluster<E>>>,
    /// Connection ids, shared by all listeners.
    pub ids: Arc<Ids>,
    /// The router's certificate.
    pub tls: Arc<Tls>,
    /// How long a client may take to be authenticated, apart from waiting for the database.
    pub handshake_timeout: Duration,
}

/// As many places as a process with room for `sessions` needs.
pub fn places(sessions: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(sessions + GREETED_AT_ONCE))
}

impl<E: Engine> Listener<E> {
    /// Accepts until `stop` turns true. Sessions go on.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept");
                    tokio::time::sleep(BACK_OFF).await;
                    continue;
                }
            };
            // Beyond the last place there is not even memory for a refusal: the connection is closed.
            let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else { continue };
            let stream = stream.into_std();
            let door = Arc::clone(&self.door);
            self.workers.spawn(async move {
                // From here on the worker watches it, not the listener's runtime.
                match stream.and_then(TcpStream::from_std) {
                    Ok(stream) => handshake::serve(Visitor { stream, address, door }).await,
                    Err(error) => tracing::warn!(%error, "cannot watch a connection"),
                }
                drop(place);
            });
        }
    }
}
