//! One client's session: the only task that touches its client, its backend and its tracker.
//!
//! ```text
//!              the client speaks, gate open                gate shut and at rest
//!   Detached ─────────────────────────────► Attached ─────────────────────────────► Still
//!      ▲  ▲         (log in, restore)        │    ▲                                  │  │
//!      │  └─────── the database dies ────────┘    └──────── the gate opens ──────────┘  │
//!      └───────────────────────────── the gate says: let go ────────────────────────────┘
//! ```
//!
//! A backend is a cache of the session: a swap, a crash of the database and parking ([`park`]) are the same three steps:
//! capture, drop the backend, restore on another.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::Cluster;
use super::backend::Backend;
use super::fleet::{Membership, Order, Orders};
use super::gate::{Gate, Phase, Signal};
use super::relay::{self, ClientEnd, Event, Manner, Pump, Report};
use crate::engine::{Admission, Engine, Farewell, Tracker};

pub(super) mod account;
mod attach;
mod doubt;
pub(super) mod first;
mod forced;
mod intercept;
mod loss;
mod lost;
mod park;
mod reauthenticate;
pub(super) mod rest;
mod understudy;

pub(in crate::router) use doubt::InDoubt;
pub(in crate::router) use park::Parking;
pub(in crate::router) use understudy::Understudy;

use park::Watch;

/// How long a client may take to read its last message.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Why a session ended, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The client left.
    Client,
    /// It was closed with this message.
    Told(Farewell),
    /// The database closed it, in its own words.
    Database,
    /// It could not prove who it wanted to be, and was told so.
    Denied,
}

/// A session; see the module.
pub struct Session<E: Engine> {
    pub(super) cluster: std::sync::Arc<Cluster<E>>,
    pub(super) startup: E::Startup,
    pub(super) membership: Membership,
    pub(super) orders: Orders,
    pub(super) gate: Gate,
    pub(super) client: ClientEnd,
    /// Boxed: a parked session has none.
    pub(super) backend: Option<Box<Backend<E>>>,
    /// Itself, on a server that is to take over.
    pub(super) understudy: Option<Box<Understudy<E>>>,
    /// How much of the backend's input may go to the client.
    pub(super) cleared: usize,
    pub(super) tracker: E::Tracker,
    /// What the session was made of when it was last captured.
    pub(super) state: E::State,
    /// Answers for a transaction that is gone.
    pub(super) lost: Option<E::Lost>,
    /// What the client did in a lost transaction that its backend does not know of yet.
    pub(super) outlasting: BytesMut,
    /// What was under way when a change was forced, and whether it is answered.
    pub(super) doubt: doubt::InDoubt,
    pub(super) rest: rest::Rest,
    /// Whether its backend is to be given up, or is to be got again.
    pub(super) parking: Parking,
    /// Another session needs this one to have a backend.
    pub(super) woken: bool,
    /// When another session has asked for the end of this one.
    pub(super) ended: Option<Instant>,
}

/// What made the session look up.
enum Woken {
    Relay(Event),
    Gate,
    Order(Order),
    /// A capture in the background is due, or it is time to be parked.
    Due,
    /// A trial log in has ended.
    Judged(account::Verdict),
}

impl<E: Engine> Session<E> {
    /// Lives the session to its end and says goodbye.
    ///
    /// Thousands of these futures rest at once, so what is rare is boxed where it is awaited, and so is the session: an
    /// argument by value would be in the future twice.
    pub async fn run(mut self: Box<Self>) {
        let end = loop {
            let signal = self.gate.borrow_and_update().clone();
            let ended = match self.backend.is_some() {
                true => self.attached(&signal).await,
                false => self.detached(&signal).await,
            };
            if let Err(end) = ended {
                break end;
            }
        };
        if let End::Told(why) = &end {
            Box::pin(self.say_farewell(&self.tracker.farewell(why))).await;
        }
        if let Some(backend) = self.backend.take() {
            backend.retire(self.membership.aide());
        }
        let _closed = timeout(LAST_WORDS, self.client.stream.shutdown()).await;
        tracing::debug!(?end, "session ended");
    }

    /// Whole messages of the backend that were let past come first; in the middle of one nothing can be said.
    async fn say_farewell(&mut self, message: &[u8]) {
        if self.tracker.is_mid_answer() {
            return;
        }
        let cleared = std::mem::take(&mut self.cleared);
        let earlier =
            self.backend.as_mut().map(|backend| backend.input.split_to(cleared)).unwrap_or_default();
        self.tell(&[&earlier[..], message].concat()).await;
    }

    /// Writes to the client, between whole messages.
    pub(super) async fn tell(&mut self, bytes: &[u8]) -> bool {
        let write = async {
            self.client.stream.write_all(bytes).await?;
            self.client.stream.flush().await
        };
        matches!(timeout(LAST_WORDS, write).await, Ok(Ok(())))
    }

    /// One stretch with a backend: until the gate moves, the client leaves, or the backend goes.
    async fn attached(&mut self, signal: &Signal) -> Result<(), End> {
        if signal.era != self.rest.era {
            return Box::pin(self.let_go(signal)).await;
        }
        match signal.phase {
            Phase::Shut { forced: true }
                if !self.rest.holds_still(signal.round)
                    || (!self.doubt.stands_by() && self.rest.standing().is_some()) =>
            {
                // What stood by for an earlier hold has to come to rest for this one.
                self.doubt = InDoubt::No;
                return Box::pin(self.bring_to_rest(signal)).await;
            }
            Phase::Closing if self.tracker.is_quiet() && self.cleared == 0 => {
                return Err(End::Told(Farewell::ShuttingDown));
            }
            Phase::Open => {
                self.rest.goes_on();
                self.doubt = InDoubt::No;
            }
            _ => {}
        }
        self.look_at_account(signal);
        self.rehearse(signal);
        if self.lost.is_some() {
            return Box::pin(self.in_lost_transaction(signal)).await;
        }
        if signal.phase == Phase::Open && !self.outlasting.is_empty() {
            return Box::pin(self.repeat_outlasting()).await;
        }
        let quiet_and_stale = self.is_stale() && self.tracker.is_quiet();
        self.rest.surveyed(signal.survey, quiet_and_stale, &self.membership);
        match self.wait(signal).await {
            Woken::Gate => Ok(()),
            Woken::Due => Box::pin(self.ring()).await,
            Woken::Judged(verdict) => {
                self.judged(verdict);
                Ok(())
            }
            Woken::Order(Order::Cancel(done)) => Box::pin(self.cancel(done)).await,
            Woken::Order(order) => {
                self.heed(&order);
                Ok(())
            }
            Woken::Relay(Event::Intercept) => Box::pin(self.intercept()).await,
            Woken::Relay(Event::Reported) => self.reported(signal).await,
            Woken::Relay(Event::ClientGone | Event::Goodbye) => Err(End::Client),
            Woken::Relay(Event::Violation(text)) => Err(End::Told(Farewell::Violation(text))),
            Woken::Relay(Event::BackendGone | Event::Farewell) => Box::pin(self.backend_lost()).await,
        }
    }

    /// Takes note of what others ask of a session that has a backend.
    fn heed(&mut self, order: &Order) {
        match order {
            Order::Wake => self.parking.is_needed(),
            Order::MakeRoom => self.parking.asked(),
            Order::End => self.ended = Some(Instant::now()),
            Order::Cancel(_) => {}
        }
    }

    /// What the pump was to stop for has come.
    async fn reported(&mut self, signal: &Signal) -> Result<(), End> {
        if self.doubt.stands_by() {
            // Answered after all: it comes to rest like any other.
            self.doubt = InDoubt::No;
            self.rest.goes_on();
            self.membership.move_on(signal.round);
            return Ok(());
        }
        if signal.phase != Phase::Open {
            return Box::pin(self.at_rest(signal)).await;
        }
        if self.parks(signal) {
            return Box::pin(self.park(signal)).await;
        }
        if self.rest.survey_due() || self.rest.is_overdue() {
            return Box::pin(self.look_at_itself(true)).await;
        }
        if self.tracker.drift().calls_for_a_look() {
            self.rest.drifted();
        }
        Ok(())
    }

    /// Pumps until something else happens, too.
    async fn wait(&mut self, signal: &Signal) -> Woken {
        let manner = self.manner(signal);
        let due = [self.rest.due(), self.parking_alarm(signal)].into_iter().flatten().min();
        let parkable = self.is_parkable(signal);
        let asleep = tokio::time::sleep_until(due.unwrap_or_else(Instant::now));
        // Taken apart, because the pump borrows nearly all of the session.
        let Session { membership, gate, orders, client, backend, cleared, tracker, rest, .. } = self;
        let (cluster, parking) = (&self.cluster, &mut self.parking);
        let Some(backend) = backend else { return Woken::Gate };
        let names = |backend_id| membership.name_of(backend_id);
        let (shown, verdict) = rest.apart();
        let mut watch = Watch { shown, parking, membership, parkable };
        let metrics = &cluster.metrics;
        let pump = Pump { client, backend, cleared, tracker, names: &names, watch: &mut watch, metrics };
        tokio::select! {
            biased;
            event = relay::pump(pump, manner) => Woken::Relay(event),
            _ = gate.changed() => Woken::Gate,
            order = orders.next() => Woken::Order(order),
            () = asleep, if due.is_some() => Woken::Due,
            verdict = verdict => Woken::Judged(verdict),
        }
    }

    fn manner(&self, signal: &Signal) -> Manner {
        if self.doubt.stands_by() {
            return Manner { admission: Admission::Nothing, report: Report::Answered, in_turn: false };
        }
        let admission = match signal.phase {
            Phase::Open if self.is_leaving(signal) => Admission::OpenTransaction,
            Phase::Open => Admission::All,
            _ => Admission::OpenTransaction,
        };
        let report = match signal.phase {
            Phase::Shut { .. } if !self.rest.holds_still(signal.round) => Report::Quiet,
            Phase::Closing => Report::Quiet,
            Phase::Open if self.rest.survey_due() || self.rest.is_overdue() => Report::Quiet,
            Phase::Open if self.rest.due().is_none() => Report::Drifted,
            _ => Report::Nothing,
        };
        // Others may wait for what it has locked.
        let in_turn = admission == Admission::All
            && E::state_obstacle(&self.state).or(self.rest.standing()).is_none()
            && E::tie(&self.state).is_none();
        Manner { admission, report, in_turn }
    }

    /// A client asks for its statement to be cancelled.
    async fn cancel(&mut self, done: oneshot::Sender<()>) -> Result<(), End> {
        if let (Some(backend), true) = (&self.backend, self.tracker.is_running()) {
            let asked = backend.cancel();
            let aide = self.membership.aide();
            self.rest.cancelling(tokio::spawn(async move {
                let _heard = asked.await;
                drop(aide);
                // The client that asked may have left.
                let _ = done.send(());
            }));
            return Ok(());
        }
        // A request that waits at the gate was never run; at rest there is nothing to cancel.
        let mut answer = BytesMut::new();
        let between = self.cleared == 0 && !self.tracker.is_mid_answer() && self.client.from.cleared == 0;
        if between && E::cancel_held(&mut self.client.from.bytes, &mut answer) && !self.tell(&answer).await {
            return Err(End::Client);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::mysql::Mysql;
    use crate::engine::postgres::Postgres;

    fn future<T, F>(_: impl FnOnce(T) -> F) -> usize {
        size_of::<F>()
    }

    /// Thousands of these rest at once.
    #[test]
    fn a_session_at_rest_is_small() {
        assert!(future(Session::<Postgres>::run) <= 1024 && future(Session::<Mysql>::run) <= 1024);
        assert!(size_of::<Session<Postgres>>() <= 2048 && size_of::<Session<Mysql>>() <= 2560);
    }
}
