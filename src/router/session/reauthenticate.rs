//! The client becomes somebody else on the same connection: a greeting anew, then a session anew.
//!
//! The backend goes first. Nothing of the session outlives this, whether the client proves itself or not, and a session
//! without a backend stands in the way of no change while its client takes its time.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::first::{NoBackend, first_backend};
use super::{End, InDoubt, Parking, Session, rest::Rest};
use crate::engine::{DialogueError, Engine, Farewell, Greeting, Refusal, Tracker};
use crate::router::backend::BackendError;
use crate::router::handshake::FIRST_BACKEND;
use crate::router::porter::{Porter, Turned, gone};
use crate::router::stream::ClientStream;

/// How long a client may take to prove itself, apart from waiting for the database.
const PROVING: Duration = Duration::from_secs(10);

impl<E: Engine> Session<E> {
    /// The client has sent this `request`, and nothing else is under way.
    pub(super) async fn reauthenticate(&mut self, request: Bytes) -> Result<(), End> {
        if let Some(backend) = self.backend.take() {
            backend.close();
        }
        self.cleared = 0;
        self.membership.detach(false);
        let mut porter = Porter {
            stream: std::mem::replace(&mut self.client.stream, ClientStream::Gone),
            input: std::mem::take(&mut self.client.from.bytes),
            out: BytesMut::new(),
            deadline: Instant::now() + PROVING,
            cluster: Some(Arc::clone(&self.cluster)),
            door: None,
        };
        let mut greeting = E::greet_again(&self.startup, request, self.cluster.secret);
        if porter.stream.tls_version().is_some() {
            greeting.secured(None);
        }
        let next = greeting.receive(&mut BytesMut::new(), &mut porter.out);
        let led = porter.lead(&mut greeting, next).await;
        let Porter { stream, input, mut out, .. } = porter;
        self.client.stream = stream;
        self.client.from.bytes = input;
        match led {
            Ok(startup) => {
                self.startup = startup;
                self.begin_anew(out).await
            }
            Err(turned) => {
                match turned {
                    Turned::Away(Some(Refusal::Authentication)) => {
                        tracing::info!("authentication failed");
                        self.cluster.metrics.authentication_failures.inc();
                    }
                    Turned::Away(_) => {}
                    Turned::With(why, _) => out.extend_from_slice(&greeting.farewell(&why)),
                }
                self.tell(&out).await;
                Err(End::Denied)
            }
        }
    }

    /// The first backend of the new account; `out` is what the greeting has not sent yet.
    async fn begin_anew(&mut self, mut out: BytesMut) -> Result<(), End> {
        let (user, database) = E::describe(&self.startup);
        tracing::Span::current().record("user", user);
        self.membership.renamed(user, database);
        let first = tokio::select! {
            first = first_backend(&self.cluster, &self.membership, &self.startup, FIRST_BACKEND) => first,
            () = gone(&mut self.client.stream, &mut self.client.from.bytes) => return Err(End::Client),
        };
        let (backend, era) = match first {
            Ok(first) => first,
            Err(NoBackend::Refused(BackendError::Dialogue(DialogueError::Refused { message, .. }))) => {
                out.extend_from_slice(&message);
                self.tell(&out).await;
                return Err(End::Database);
            }
            Err(why) => {
                let full = matches!(why, NoBackend::Full);
                let why = if full { Farewell::TooManySessions } else { Farewell::NotAvailable };
                out.extend_from_slice(&E::turn_away(&self.startup, &why));
                self.tell(&out).await;
                return Err(End::Denied);
            }
        };
        let mut tracker = E::welcome(&self.startup, &backend.logged_in, self.membership.key(), &mut out);
        tracker.succeeds(&self.tracker);
        self.tracker = tracker;
        self.membership.attached_to(E::backend_id(&backend.logged_in));
        self.backend = Some(Box::new(backend));
        self.state = E::State::default();
        (self.lost, self.doubt) = (None, InDoubt::No);
        self.outlasting.clear();
        self.rest = Rest::new(era);
        self.parking = Parking::new(self.cluster.park_after);
        self.membership.tied(None);
        (self.woken, self.ended) = (false, None);
        self.membership.doing(None, &[]);
        if self.tell(&out).await { Ok(()) } else { Err(End::Client) }
    }
}
