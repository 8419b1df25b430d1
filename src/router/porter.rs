//! Leads a client through a greeting: when it has just connected, and when it becomes somebody else.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};

use super::listener::Door;
use super::stream::ClientStream;
use super::{Cluster, random};
use crate::engine::{CancelClaim, Engine, Farewell, Greet, Greeting, Refusal};
use crate::telemetry::RefusalReason;

/// How long a cancel request may take to be passed on.
const CANCEL: Duration = Duration::from_secs(5);
/// What an unauthenticated client may have sent and not been answered.
const MAX_UNREAD: usize = 128 * 1024;
/// First byte of a TLS handshake record.
const TLS_RECORD: u8 = 0x16;

/// Why there is no session.
pub enum Turned {
    /// The client was told in full, or needs to be told nothing.
    Away(Option<Refusal>),
    /// It is to be told this.
    With(Farewell, RefusalReason),
}

/// See the module.
pub struct Porter<E: Engine> {
    /// The client.
    pub stream: ClientStream,
    /// What it sent and was not read.
    pub input: BytesMut,
    /// What was not sent yet.
    pub out: BytesMut,
    /// Until when it must have proved itself.
    pub deadline: Instant,
    /// Where it wants to go, once that is known.
    pub cluster: Option<Arc<Cluster<E>>>,
    /// Where it came in; `None`: long ago.
    pub door: Option<Arc<Door<E>>>,
}

impl<E: Engine> Porter<E> {
    /// What the client is to be told of the servers behind its address, before it has spoken. `None`: it has left, or
    /// no server has come up.
    pub async fn contracts(&mut self) -> Option<Vec<Arc<E::Contract>>> {
        let mut contracts = Vec::new();
        if !E::SERVER_SPEAKS_FIRST {
            return Some(contracts);
        }
        let Some(door) = &self.door else { return Some(contracts) };
        for cluster in &door.clusters {
            let ask = async || cluster.admin.contract().await.map(Arc::new);
            let contract = tokio::select! {
                contract = cluster.contract.get_or_try_init(ask) => contract.ok()?,
                () = gone(&mut self.stream, &mut self.input) => return None,
            };
            contracts.push(Arc::clone(contract));
        }
        // Waiting for the database does not count against the client.
        self.deadline = Instant::now() + door.handshake_timeout;
        Some(contracts)
    }

    /// The whole greeting of a client that has just connected.
    pub async fn greet(&mut self, greeting: &mut E::Greeting) -> Result<E::Startup, Turned> {
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
        let next = greeting.receive(&mut self.input, &mut self.out);
        self.lead(greeting, next).await
    }

    /// The rest of a greeting, which wants this `next`.
    pub async fn lead(
        &mut self,
        greeting: &mut E::Greeting,
        mut next: Greet<E>,
    ) -> Result<E::Startup, Turned> {
        loop {
            next = match next {
                Greet::More => {
                    self.write().await?;
                    self.read().await?;
                    greeting.receive(&mut self.input, &mut self.out)
                }
                Greet::Compute(work) => {
                    // A worker has one thread for these: they take turns, and its sessions go on.
                    let done = tokio::task::spawn_blocking(move || work.run());
                    match timeout_at(self.deadline, done).await {
                        Ok(Ok(())) => greeting.receive(&mut self.input, &mut self.out),
                        Ok(Err(_)) => return Err(Turned::Away(None)),
                        Err(_) => {
                            return Err(Turned::With(Farewell::TooSlow, RefusalReason::HandshakeTimeout));
                        }
                    }
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
                    self.cancel(&claim).await;
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
        let Some(door) = &self.door else { return Err(Turned::Away(Some(Refusal::Tls))) };
        let offer = door.tls.offer();
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
            && let Some(door) = &self.door
            && let Some(label) = server_name.and_then(|name| name.split('.').next())
        {
            self.cluster = door.clusters.iter().find(|cluster| cluster.name == label).cloned();
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

    /// Passes a cancel request on and waits until the server was asked, as a server would before it closes.
    async fn cancel(&self, claim: &CancelClaim) {
        for cluster in self.door.iter().flat_map(|door| &door.clusters) {
            if let Some(asked) = cluster.fleet.cancel(claim) {
                // Nothing to cancel is no error, and nobody is told.
                let _asked = timeout(CANCEL, asked).await;
            }
        }
    }

    /// Sends the last message, and closes.
    pub async fn say_goodbye(&mut self) -> std::io::Result<()> {
        self.stream.write_all(&self.out).await?;
        self.stream.flush().await?;
        self.stream.shutdown().await
    }
}

/// Resolves when the client has left. What it sends meanwhile is kept for later.
///
/// # Cancel safety
/// Safe: what was read is in `input`.
pub async fn gone(stream: &mut ClientStream, input: &mut BytesMut) {
    while input.len() <= MAX_UNREAD {
        if !matches!(stream.read_buf(input).await, Ok(1..)) {
            return;
        }
    }
    std::future::pending::<()>().await;
}
