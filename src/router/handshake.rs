//! From an accepted connection to a session: greeting, TLS, authentication, the first backend.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tracing::Instrument;

use super::backend::{Backend, BackendError};
use super::fleet::{ConnectionId, Identity, Membership, Orders};
use super::listener::Door;
use super::porter::{Porter, Turned, gone};
use super::relay::ClientEnd;
use super::session::first::{NoBackend, first_backend};
use super::session::{InDoubt, Parking, Session, rest::Rest};
use super::stream::ClientStream;
use super::turns::Turn;
use super::{Cluster, random};
use crate::engine::{Arrival, DialogueError, Engine, Farewell, Greeting, Refusal};
use crate::telemetry::{ClusterMetrics, RefusalReason};

/// How long a new client waits for a database that is starting.
pub(super) const FIRST_BACKEND: Duration = Duration::from_secs(120);
/// How long a client may take to read why it is refused.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// A connection nobody knows yet.
pub struct Visitor<E: Engine> {
    /// Its socket.
    pub stream: TcpStream,
    /// Where it comes from.
    pub address: SocketAddr,
    /// Where it came in.
    pub door: Arc<Door<E>>,
}

/// A session from its first statement to its end.
type Living = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A client that was let in.
struct Guest<E: Engine> {
    stream: ClientStream,
    input: BytesMut,
    cluster: Arc<Cluster<E>>,
    startup: E::Startup,
    /// Answers of the greeting that were not sent yet.
    out: BytesMut,
}

/// Serves one connection to its end.
pub async fn serve<E: Engine>(visitor: Visitor<E>) {
    let address = visitor.address;
    let span = tracing::info_span!(
        "session",
        client = %address,
        id = tracing::field::Empty,
        cluster = tracing::field::Empty,
        user = tracing::field::Empty
    );
    // The greeting needs much room and is soon over; a session rests for hours.
    let session = Box::pin(visit(visitor)).instrument(span.clone()).await;
    if let Some(session) = session {
        session.instrument(span).await;
    }
}

/// Greets a client; yields its session.
async fn visit<E: Engine>(visitor: Visitor<E>) -> Option<Living> {
    let Visitor { stream, address, door } = visitor;
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let metrics = door.clusters.first().map(|cluster| cluster.metrics.clone());
    let mut porter = Porter {
        stream: ClientStream::Plain(stream),
        input: BytesMut::new(),
        out: BytesMut::new(),
        deadline: Instant::now() + door.handshake_timeout,
        cluster: door.clusters.first().filter(|_| door.clusters.len() == 1).cloned(),
        door: Some(Arc::clone(&door)),
    };
    let contracts = porter.contracts().await?;
    let id = door.ids.reserve();
    let mut greeting = E::greet(&Arrival {
        secret: door.clusters.first().map_or([0; 32], |cluster| cluster.secret),
        id: id.number(),
        random: random(),
        address: address.ip(),
        contracts: &contracts,
    });
    let turned = match porter.greet(&mut greeting).await {
        Ok(startup) => {
            let Porter { stream, input, out, cluster, .. } = porter;
            let cluster = cluster?;
            return open(Guest { stream, input, cluster, startup, out }, address, id).await;
        }
        Err(turned) => turned,
    };
    if let Turned::With(why, _) = &turned {
        porter.out.extend_from_slice(&greeting.farewell(why));
    }
    turn_away(porter, &turned, metrics).await;
    None
}

/// Tells a client why it is not let in, and closes.
async fn turn_away<E: Engine>(mut porter: Porter<E>, turned: &Turned, metrics: Option<ClusterMetrics>) {
    let reason = match turned {
        Turned::Away(None) => return,
        Turned::Away(Some(Refusal::Authentication)) => {
            tracing::info!("authentication failed");
            if let Some(metrics) = porter.cluster.as_ref().map(|cluster| &cluster.metrics) {
                metrics.authentication_failures.inc();
            }
            None
        }
        Turned::Away(Some(Refusal::Tls)) => Some(RefusalReason::Tls),
        Turned::Away(Some(Refusal::Malformed | Refusal::Unsupported)) => Some(RefusalReason::Protocol),
        Turned::With(_, reason) => Some(*reason),
    };
    if let (Some(reason), Some(metrics)) = (reason, metrics) {
        tracing::debug!(reason = reason.as_str(), "refused");
        metrics.sessions_refused(reason).inc();
    }
    let _told = timeout(LAST_WORDS, porter.say_goodbye()).await;
}

/// Gives a guest its first backend; yields its session.
async fn open<E: Engine>(mut guest: Guest<E>, address: SocketAddr, id: ConnectionId) -> Option<Living> {
    let (user, database) = E::describe(&guest.startup);
    let span = tracing::Span::current();
    span.record("cluster", &guest.cluster.name).record("user", user);
    let identity = Identity {
        user: user.to_owned(),
        database: database.to_owned(),
        client: address.to_string(),
        tls: guest.stream.tls_version(),
    };
    let secret_length = E::secret_length(&guest.startup);
    let Ok((membership, orders)) = guest.cluster.fleet.join(id, identity, random(), secret_length) else {
        let message = E::turn_away(&guest.startup, &Farewell::TooManySessions);
        return guest.refuse(&message, RefusalReason::TooManySessions).await;
    };
    span.record("id", membership.key().id);
    let first = tokio::select! {
        first = first_backend(&guest.cluster, &membership, &guest.startup, FIRST_BACKEND) => first,
        () = gone(&mut guest.stream, &mut guest.input) => return None,
    };
    match first {
        Ok((backend, era)) => guest.welcome(membership, orders, backend, era).await,
        Err(NoBackend::Refused(BackendError::Dialogue(DialogueError::Refused { message, .. }))) => {
            guest.refuse(&message, RefusalReason::Unavailable).await
        }
        Err(NoBackend::Full) => {
            let message = E::turn_away(&guest.startup, &Farewell::TooManySessions);
            guest.refuse(&message, RefusalReason::NoPlace).await
        }
        Err(NoBackend::Refused(_) | NoBackend::NotAvailable) => {
            let message = E::turn_away(&guest.startup, &Farewell::NotAvailable);
            guest.refuse(&message, RefusalReason::Unavailable).await
        }
    }
}

impl<E: Engine> Guest<E> {
    /// Says why there is no session, and closes.
    async fn refuse(mut self, message: &[u8], reason: RefusalReason) -> Option<Living> {
        tracing::debug!(reason = reason.as_str(), "refused");
        self.cluster.metrics.sessions_refused(reason).inc();
        self.out.extend_from_slice(message);
        let told = timeout(LAST_WORDS, async {
            self.stream.write_all(&self.out).await?;
            self.stream.flush().await?;
            self.stream.shutdown().await
        });
        if !matches!(told.await, Ok(Ok(()))) {
            tracing::debug!(reason = reason.as_str(), "left before it was told");
        }
        None
    }

    /// Welcomes the client; yields its session.
    async fn welcome(
        mut self,
        membership: Membership,
        orders: Orders,
        backend: Backend<E>,
        era: u64,
    ) -> Option<Living> {
        let tracker = E::welcome(&self.startup, &backend.logged_in, membership.key(), &mut self.out);
        membership.attached_to(E::backend_id(&backend.logged_in));
        let welcomed = timeout(LAST_WORDS, async {
            self.stream.write_all(&self.out).await?;
            self.stream.flush().await
        });
        if !matches!(welcomed.await, Ok(Ok(()))) {
            backend.close();
            return None;
        }
        // What the client has sent since its last word of the greeting is wrapped already.
        if let Some(framing) = E::framing(&self.startup) {
            self.stream = self.stream.framed(framing, self.input.split());
        }
        tracing::debug!("session begins");
        let gate = membership.gate();
        let parking = Parking::new(self.cluster.park_after);
        let turn = Turn::new(&self.cluster.turns);
        let session = Box::new(Session {
            cluster: self.cluster,
            startup: self.startup,
            membership,
            orders,
            gate,
            client: ClientEnd::new(self.stream, self.input, turn),
            backend: Some(Box::new(backend)),
            understudy: None,
            cleared: 0,
            tracker,
            state: E::State::default(),
            lost: None,
            outlasting: BytesMut::new(),
            doubt: InDoubt::No,
            rest: Rest::new(era),
            parking,
            woken: false,
            ended: None,
        });
        Some(Box::pin(session.run()))
    }
}
