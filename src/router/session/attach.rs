//! Getting a backend, giving it up, and the time in between.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::{Instant, sleep, timeout};

use super::{End, Session};
use crate::engine::{Admission, DialogueError, Drift, Engine, Farewell, Rest, Tracker};
use crate::router::backend::{Backend, BackendError};
use crate::router::fleet::{LOOK, Order, Place};
use crate::router::gate::{Phase, Signal};
use crate::router::{nonce, relay};

/// How long a session waits for a place on a server that is full, or is starting.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a listener's last notifications may take.
const DRAIN: Duration = Duration::from_secs(1);
/// Between two tries.
pub(super) const RETRY: Duration = Duration::from_millis(20);
/// A client without a backend may send this much ahead.
const MAX_HELD: usize = 128 * 1024;

/// What ends a wait for a client that has no backend.
pub(super) enum Idle {
    Bytes,
    ClientGone,
    Gate,
    Order(Order),
    /// There was no place on the server for too long.
    Full,
}

/// What a session without a backend is to hear of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Concern {
    /// Every move of the gate.
    Gate,
    /// The router's end alone.
    End,
}

impl<E: Engine> Session<E> {
    /// The database that this session's backend belongs to goes, or is gone.
    pub(super) async fn let_go(&mut self, signal: &Signal) -> Result<(), End> {
        self.rest.account.give_up();
        let held_still = self.rest.holds_still(signal.round) && self.tracker.is_quiet();
        if !held_still || self.rest.standing().is_some() || self.tracker.drift() > Drift::None {
            return self.backend_lost().await;
        }
        self.drain().await?;
        if let Some(backend) = self.backend.take() {
            backend.close();
        }
        self.cleared = 0;
        self.tracker.reattached();
        // One that has lost its transaction may have been told already.
        if !self.rest.take_counted() && self.lost.is_none() {
            self.membership.fared(|tally| tally.carried += 1);
        }
        self.membership.detach(E::is_visible(&self.state));
        Ok(())
    }

    /// Passes on what the old server has for the client: it is gone with the server.
    async fn drain(&mut self) -> Result<(), End> {
        let Some(backend) = &mut self.backend else { return Ok(()) };
        // What was read before comes first.
        let cleared = std::mem::take(&mut self.cleared);
        let earlier = backend.input.split_to(cleared);
        if !earlier.is_empty() && !self.tell(&earlier).await {
            return Err(End::Client);
        }
        let Some(drain) = E::drain(&self.state) else { return Ok(()) };
        let Some(backend) = &mut self.backend else { return Ok(()) };
        match timeout(DRAIN, backend.converse(drain)).await {
            Ok(Ok(mut pending)) => {
                let membership = &self.membership;
                self.tracker.server_bytes(&mut pending, &|backend_id| membership.name_of(backend_id));
                if pending.is_empty() || self.tell(&pending).await { Ok(()) } else { Err(End::Client) }
            }
            failed => {
                tracing::warn!(session = self.membership.key().id, ?failed, "pending notifications are lost");
                Ok(())
            }
        }
    }

    /// One stretch without a backend.
    pub(super) async fn detached(&mut self, signal: &Signal) -> Result<(), End> {
        if signal.phase == Phase::Closing {
            return Err(End::Told(self.doubt.unknown().unwrap_or(Farewell::ShuttingDown)));
        }
        if self.doubt.is_left() {
            return Box::pin(self.resolve(signal)).await;
        }
        if self.lost.is_some() {
            Box::pin(self.answer_for_lost()).await?;
        }
        let wanted = self.wants_backend()?;
        if wanted {
            self.parking.spoken_to();
        }
        self.keep_understudy(signal);
        // What was made ahead takes a connection, as if the session had taken its place.
        let wanted = wanted || self.woken || self.understudy.is_some();
        let may = match signal.phase {
            Phase::Open => wanted || E::is_visible(&self.state),
            Phase::Reattach => E::is_visible(&self.state),
            Phase::Down | Phase::Shut { .. } | Phase::LetGo | Phase::Closing => false,
        };
        if let (true, Some(socket), true) = (may, signal.socket.clone(), self.membership.may_attach()) {
            if let Some(place) = self.parking.place(&self.membership, &self.cluster.metrics.parking)
                && self.membership.attach()
            {
                return Box::pin(self.reattach(&socket, signal.era, place)).await;
            }
        } else if wanted {
            self.parking.pause();
        } else {
            self.parking.gives_up();
        }
        // Thousands of those who want nothing are not to be woken by each step of a change. They look at the gate when
        // their client speaks.
        let concern = if wanted || E::is_visible(&self.state) { Concern::Gate } else { Concern::End };
        let idle = self.idle(concern, may).await;
        Box::pin(self.woken_without_backend(idle)).await
    }

    async fn woken_without_backend(&mut self, idle: Idle) -> Result<(), End> {
        match idle {
            Idle::Bytes | Idle::Gate | Idle::Order(Order::MakeRoom) => Ok(()),
            Idle::ClientGone => Err(End::Client),
            Idle::Full => self.refuse().await,
            Idle::Order(Order::Wake) => {
                self.woken = true;
                Ok(())
            }
            Idle::Order(Order::End) => {
                self.ended = Some(Instant::now());
                Ok(())
            }
            Idle::Order(Order::Cancel(_done)) => {
                let mut answer = BytesMut::new();
                if self.lost.is_none() && E::cancel_held(&mut self.client.from.bytes, &mut answer) {
                    return if self.tell(&answer).await { Ok(()) } else { Err(End::Client) };
                }
                Ok(())
            }
        }
    }

    /// Looks at what the client has sent: whether a request waits.
    fn wants_backend(&mut self) -> Result<bool, End> {
        // Nothing is let past; only the kind of the first message is learnt.
        match self.tracker.client_bytes(&mut self.client.from.bytes, Admission::Nothing).rest {
            Rest::Goodbye => Err(End::Client),
            Rest::Violation(text) => Err(End::Told(Farewell::Violation(text))),
            Rest::Held | Rest::Intercept => Ok(self.lost.is_none()),
            Rest::Incomplete | Rest::Draining => Ok(false),
        }
    }

    /// Waits for the client, what concerns it of the gate, or (`again`) for the next try to get a backend.
    pub(super) async fn idle(&mut self, concern: Concern, again: bool) -> Idle {
        let mut closing = self.membership.closing();
        if concern == Concern::End && *closing.borrow() {
            return Idle::Gate;
        }
        let room = self.client.from.bytes.len() < MAX_HELD;
        let pause = if self.parking.is_waiting() { LOOK } else { RETRY };
        tokio::select! {
            biased;
            _ = self.gate.changed(), if concern == Concern::Gate => Idle::Gate,
            _ = closing.changed(), if concern == Concern::End => Idle::Gate,
            order = self.orders.next() => Idle::Order(order),
            ready = self.parking.place_ready(self.cluster.full_wait) => match ready {
                true => Idle::Bytes,
                false => Idle::Full,
            },
            read = relay::fill(&mut self.client.stream, &mut self.client.from.bytes), if room => match read {
                Ok(1..) => Idle::Bytes,
                _ => Idle::ClientGone,
            },
            () = sleep(pause), if again => Idle::Bytes,
        }
    }

    /// Logs in and makes the backend the session that it was.
    async fn reattach(&mut self, socket: &Arc<Path>, era: u64, place: Place) -> Result<(), End> {
        let started = Instant::now();
        if let Some((mut backend, restored)) = self.take_understudy(socket).await {
            self.rest.refused_since = None;
            self.rest.reattached(era);
            backend.place = Some(place);
            return self.restored(backend, restored, started.elapsed()).await;
        }
        let log_in = E::log_in_again(&self.startup, &self.state);
        let mut backend = match Backend::<E>::connect(socket, log_in, &self.cluster.login).await {
            Ok(backend) => backend,
            Err(BackendError::Dialogue(error @ DialogueError::Refused { .. })) if !self.may_pass(&error) => {
                self.membership.detach(false);
                return Err(End::Told(Farewell::StateLost(error.to_string())));
            }
            Err(BackendError::Dialogue(DialogueError::Refused { cause, .. }))
                if cause.is_crowd() && self.is_full_for_long() =>
            {
                self.rest.refused_since = None;
                self.has_none();
                return self.refuse().await;
            }
            // The database is gone again, or has no place: what is to be done then, the gate or the next try will say.
            Err(error) => {
                tracing::debug!(session = self.membership.key().id, %error, "no backend yet");
                return self.not_attached().await;
            }
        };
        self.rest.refused_since = None;
        let restore = E::restore(&self.tracker, &backend.logged_in, &self.state, nonce());
        match backend.converse(restore).await {
            Ok(restored) => {
                self.rest.reattached(era);
                backend.place = Some(place);
                self.restored(backend, restored, started.elapsed()).await
            }
            Err(BackendError::Dialogue(DialogueError::Unfaithful(what))) => {
                tracing::warn!(session = self.membership.key().id, %what, "a session cannot be restored");
                self.membership.fared(|tally| tally.closed += 1);
                Err(End::Told(Farewell::StateLost(what)))
            }
            Err(error) => {
                tracing::debug!(session = self.membership.key().id, %error, "lost while restoring");
                self.not_attached().await
            }
        }
    }

    /// The session goes on. `took`: the rebuilding.
    async fn restored(
        &mut self,
        backend: Backend<E>,
        restored: E::Restored,
        took: Duration,
    ) -> Result<(), End> {
        let mut out = BytesMut::new();
        E::reattach(&mut self.tracker, &backend.logged_in, restored, &mut out);
        let metrics = &self.cluster.metrics;
        metrics.restore_seconds.observe(took.as_secs_f64());
        if let Some(waited) = self.parking.reattached(took, self.woken) {
            metrics.parking.rebuilds.inc();
            metrics.parking.rebuild_seconds.observe(waited.as_secs_f64());
        }
        // Whoever asked for an end has named the backend before this one.
        (self.cleared, self.woken, self.ended) = (0, false, None);
        self.membership.attached_to(E::backend_id(&backend.logged_in));
        self.backend = Some(Box::new(backend));
        if out.is_empty() || self.tell(&out).await { Ok(()) } else { Err(End::Client) }
    }

    /// A later try may succeed: the server is starting or stopping, or has no place just now. Not for ever.
    fn may_pass(&mut self, error: &DialogueError) -> bool {
        let DialogueError::Refused { cause, .. } = error else { return false };
        let since = *self.rest.refused_since.get_or_insert_with(Instant::now);
        cause.is_crowd() || cause.is_passing() && since.elapsed() < PATIENCE
    }

    /// The server has had no place for another connection for as long as a session may wait, though it should have: its
    /// account may be limited, or others use the server.
    fn is_full_for_long(&self) -> bool {
        self.rest.refused_since.is_some_and(|since| since.elapsed() >= self.cluster.full_wait)
    }

    /// The next try is not at once: a socket that nobody listens on refuses without delay.
    async fn not_attached(&mut self) -> Result<(), End> {
        self.has_none();
        sleep(RETRY).await;
        Ok(())
    }

    fn has_none(&self) {
        match self.parking.is_parked() {
            true => self.membership.parked(),
            false => self.membership.detach(E::is_visible(&self.state)),
        }
    }
}
