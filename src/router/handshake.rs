//! From an accepted connection to a session: greeting, TLS, authentication, the first backend.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::Instrument;

use super::backend::{Backend, BackendError};
use super::fleet::{ConnectionId, Identity, Membership, Order};
use super::listener::Door;
use super::relay::ClientEnd;
use super::session::{InDoubt, Session, attach, rest::Rest};
use super::stream::ClientStream;
use super::{Cluster, random};
use crate::engine::{Arrival, CancelClaim, DialogueError, Engine, Farewell, Greet, Greeting, Refusal};
use crate::telemetry::RefusalReason;

/// How long a new client waits for a database that is starting.
const FIRST_BACKEND: Duration = Duration::from_secs(120);
/// How long a client may take to read why it is refused, or a cancel request to be passed on.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// What an unauthenticated client may have sent and not been answered.
const MAX_UNREAD: usize = 128 * 1024;
/// First byte of a TLS handshake record.
const TLS_RECORD: u8 = 0x16;

/// A connection nobody knows yet.
pub struct Visitor<E: Engine> {
    /// Its socket.
    pub stream: TcpStream,
    /// Where it comes from.
    pub address: SocketAddr,
    /// Where it came in.
    pub door: Arc<Door<E>>,
}

/// A client that was let in.
struct Guest<E: Engine> {
    stream: ClientStream,
    input: BytesMut,
    cluster: Arc<Cluster<E>>,
    startup: E::Startup,
    /// Answers of the greeting that were not sent yet.
    out: BytesMut,
}

/// Why there is no session.
enum Turned {
    /// The client was told in full, or needs to be told nothing.
    Away(Option<Refusal>),
    /// It is to be told this.
    With(Farewell, RefusalReason),
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
    visit(visitor).instrument(span).await;
}

async fn visit<E: Engine>(visitor: Visitor<E>) {
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
        door: &door,
    };
    let Some(contracts) = porter.contracts().await else { return };
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
            let Some(cluster) = cluster else { return };
            return open(Guest { stream, input, cluster, startup, out }, address, id).await;
        }
        Err(turned) => turned,
    };
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
        Turned::With(why, reason) => {
            porter.out.extend_from_slice(&greeting.farewell(&why));
            Some(reason)
        }
    };
    if let (Some(reason), Some(metrics)) = (reason, metrics) {
        tracing::debug!(reason = reason.as_str(), "refused");
        metrics.sessions_refused(reason).inc();
    }
    let _told = timeout(LAST_WORDS, porter.say_goodbye()).await;
}

/// Leads a client through the greeting.
struct Porter<'a, E: Engine> {
    stream: ClientStream,
    input: BytesMut,
    out: BytesMut,
    deadline: Instant,
    cluster: Option<Arc<Cluster<E>>>,
    door: &'a Door<E>,
}

impl<E: Engine> Porter<'_, E> {
    /// What the client is to be told of the servers behind its address, before it has spoken. `None`: it has left, or
    /// no server has come up.
    async fn contracts(&mut self) -> Option<Vec<Arc<E::Contract>>> {
        let mut contracts = Vec::new();
        if !E::SERVER_SPEAKS_FIRST {
            return Some(contracts);
        }
        for cluster in &self.door.clusters {
            let ask = async || cluster.admin.contract().await.map(Arc::new);
            let contract = tokio::select! {
                contract = cluster.contract.get_or_try_init(ask) => contract.ok()?,
                () = gone(&mut self.stream, &mut self.input) => return None,
            };
            contracts.push(Arc::clone(contract));
        }
        // Waiting for the database does not count against the client.
        self.deadline = Instant::now() + self.door.handshake_timeout;
        Some(contracts)
    }

    async fn greet(&mut self, greeting: &mut E::Greeting) -> Result<E::Startup, Turned> {
        greeting.open(&mut self.out);
        if !self.out.is_empty() {
            self.write().await?;
        }
        self.read().await?;
        if let Some(protocol) = E::DIRECT_TLS
            && self.input.first() == Some(&TLS_RECORD)
        {
            self.secure(greeting).await?;
            let ClientStream::Tls(stream) = &self.stream else {
                return Err(Turned::Away(Some(Refusal::Tls)));
            };
            // Without the name the bytes could have been meant for another protocol.
            if stream.get_ref().1.alpn_protocol() != Some(protocol) {
                return Err(Turned::Away(Some(Refusal::Tls)));
            }
        }
        let mut next = greeting.receive(&mut self.input, &mut self.out);
        loop {
            next = match next {
                Greet::More => {
                    self.write().await?;
                    self.read().await?;
                    greeting.receive(&mut self.input, &mut self.out)
                }
                Greet::UpgradeTls => {
                    self.write().await?;
                    self.secure(greeting).await?;
                    greeting.receive(&mut self.input, &mut self.out)
                }
                Greet::LookUp { user } => {
                    let account = self.look_up(&user).await?;
                    let vault = self.cluster.as_ref().map(|cluster| Arc::clone(&cluster.vault));
                    greeting.account(account, random(), &vault.unwrap_or_default(), &mut self.out)
                }
                Greet::Cancel(claim) => {
                    cancel(self.door, &claim).await;
                    return Err(Turned::Away(None));
                }
                Greet::Welcome(startup) => return Ok(startup),
                Greet::Refused(refusal) => return Err(Turned::Away(Some(refusal))),
            };
        }
    }

    async fn read(&mut self) -> Result<(), Turned> {
        if self.input.len() > MAX_UNREAD {
            return Err(Turned::With(Farewell::Violation("too much data"), RefusalReason::Protocol));
        }
        match timeout_at(self.deadline, self.stream.read_buf(&mut self.input)).await {
            Ok(Ok(1..)) => Ok(()),
            Ok(_) => Err(Turned::Away(None)),
            Err(_) => Err(Turned::With(Farewell::TooSlow, RefusalReason::HandshakeTimeout)),
        }
    }

    async fn write(&mut self) -> Result<(), Turned> {
        let out = std::mem::take(&mut self.out);
        let write = async {
            self.stream.write_all(&out).await?;
            self.stream.flush().await
        };
        match timeout_at(self.deadline, write).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Turned::Away(None)),
        }
    }

    /// The TLS handshake; the name the client asked for may choose the cluster.
    async fn secure(&mut self, greeting: &mut E::Greeting) -> Result<(), Turned> {
        let offer = self.door.tls.offer();
        let ClientStream::Plain(plain) = std::mem::replace(&mut self.stream, ClientStream::Gone) else {
            return Err(Turned::Away(Some(Refusal::Tls)));
        };
        let read = self.input.split();
        let stream = match timeout_at(self.deadline, offer.accept(plain, &read)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(refusal)) => {
                tracing::debug!(%refusal, "no TLS");
                return Err(Turned::Away(Some(Refusal::Tls)));
            }
            Err(_) => return Err(Turned::Away(Some(Refusal::Tls))),
        };
        let name = stream.get_ref().1.server_name().map(str::to_owned);
        self.choose(name.as_deref());
        self.stream = ClientStream::Tls(Box::new(stream));
        greeting.secured(offer.end_point_hash);
        Ok(())
    }

    /// `orders.cluster.localhost` is the cluster `orders`.
    fn choose(&mut self, server_name: Option<&str>) {
        if self.cluster.is_none()
            && let Some(label) = server_name.and_then(|name| name.split('.').next())
        {
            self.cluster = self.door.clusters.iter().find(|cluster| cluster.name == label).cloned();
        }
    }

    /// Waiting for the database does not count against the client.
    async fn look_up(&mut self, user: &str) -> Result<Option<E::Account>, Turned> {
        let Some(cluster) = &self.cluster else {
            return Err(Turned::With(Farewell::UnknownCluster, RefusalReason::UnknownCluster));
        };
        let asked = Instant::now();
        let account = tokio::select! {
            account = cluster.admin.account(user) => account,
            () = gone(&mut self.stream, &mut self.input) => return Err(Turned::Away(None)),
        };
        self.deadline += asked.elapsed();
        account.map_err(|_| Turned::With(Farewell::NotAvailable, RefusalReason::Unavailable))
    }

    async fn say_goodbye(&mut self) -> std::io::Result<()> {
        self.stream.write_all(&self.out).await?;
        self.stream.flush().await?;
        self.stream.shutdown().await
    }
}

/// Resolves when the client has left. What it sends meanwhile is kept for later.
///
/// # Cancel safety
/// Safe: what was read is in `input`.
async fn gone(stream: &mut ClientStream, input: &mut BytesMut) {
    while input.len() <= MAX_UNREAD {
        if !matches!(stream.read_buf(input).await, Ok(1..)) {
            return;
        }
    }
    std::future::pending::<()>().await;
}

/// Passes a cancel request on and waits until the server was asked, as a server would before it closes.
async fn cancel<E: Engine>(door: &Door<E>, claim: &CancelClaim) {
    for cluster in &door.clusters {
        if let Some(asked) = cluster.fleet.cancel(claim) {
            // Nothing to cancel is no error, and nobody is told.
            let _asked = timeout(LAST_WORDS, asked).await;
        }
    }
}

/// Gives a guest its first backend and lives the session.
async fn open<E: Engine>(mut guest: Guest<E>, address: SocketAddr, id: ConnectionId) {
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
        first = attach::first_backend(&guest.cluster, &membership, &guest.startup, FIRST_BACKEND) => first,
        () = gone(&mut guest.stream, &mut guest.input) => return,
    };
    match first {
        Ok((backend, era)) => guest.live(membership, orders, backend, era).await,
        Err(Some(BackendError::Dialogue(DialogueError::Refused { message, .. }))) => {
            guest.refuse(&message, RefusalReason::Unavailable).await;
        }
        Err(_) => {
            let message = E::turn_away(&guest.startup, &Farewell::NotAvailable);
            guest.refuse(&message, RefusalReason::Unavailable).await;
        }
    }
}

impl<E: Engine> Guest<E> {
    /// Says why there is no session, and closes.
    async fn refuse(mut self, message: &[u8], reason: RefusalReason) {
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
    }

    /// Welcomes the client and lives its session.
    async fn live(mut self, membership: Membership, orders: Receiver<Order>, backend: Backend<E>, era: u64) {
        let tracker = E::welcome(&self.startup, &backend.logged_in, membership.key(), &mut self.out);
        membership.attached_to(E::backend_id(&backend.logged_in));
        let welcomed = timeout(LAST_WORDS, async {
            self.stream.write_all(&self.out).await?;
            self.stream.flush().await
        });
        if !matches!(welcomed.await, Ok(Ok(()))) {
            return backend.close();
        }
        // What the client has sent since its last word of the greeting is wrapped already.
        if let Some(framing) = E::framing(&self.startup) {
            self.stream = self.stream.framed(framing, self.input.split());
        }
        tracing::debug!("session begins");
        let gate = membership.gate();
        let session = Session {
            cluster: self.cluster,
            startup: self.startup,
            membership,
            orders,
            gate,
            client: ClientEnd::new(self.stream, self.input),
            backend: Some(backend),
            cleared: 0,
            tracker,
            state: E::State::default(),
            lost: None,
            outlasting: BytesMut::new(),
            doubt: InDoubt::No,
            rest: Rest::new(era),
            woken: false,
            ended: None,
        };
        let end = Box::pin(session.run()).await;
        tracing::debug!(?end, "session ended");
    }
}
