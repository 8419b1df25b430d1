//! Parking: an idle session gives its backend up, and is rebuilt when its client speaks.
//!
//! It is the swap of one session while the gate is open: capture, let go, and later a place on the server
//! ([`Claim`]), reattach. Whoever is tied to its backend (an obstacle, or a [`Tie`](crate::engine::Tie)) is left alone.
//!
//! ```text
//!   Attached ──idle for long enough, or its place is wanted; captured──► Parked
//!      ▲                                                                   │
//!      └──── restored ◄── a place ◄── waits in the order of arrival ◄── the client speaks
//!                                              └── for too long: its request is refused, and it stays parked
//! ```

use std::time::Duration;

use bytes::BytesMut;
use tokio::time::Instant;

use super::rest::Shown;
use super::{End, Session};
use crate::engine::{Drift, Engine, Farewell, Tracker};
use crate::router::fleet::{Claim, Membership, Place};
use crate::router::gate::{Phase, Signal};
use crate::router::relay::Onlooker;
use crate::telemetry::ParkingMetrics;

/// For how long a session must have been idle where the setting does not say.
const USUAL: Duration = Duration::from_secs(10);
/// A session that could not be parked is not tried again before this.
const AGAIN: Duration = Duration::from_secs(1);
/// One that has offered its place too early keeps it for so long.
const NOT_YET: Duration = Duration::from_millis(20);
/// A place is kept for at least this long, and for as long as it took to be rebuilt on it: so rebuilding takes no more than
/// about half of the server's time, however many sessions take turns.
const TENURE: Duration = Duration::from_millis(20);
/// A session has so long to use a backend that it has just got.
const FRESH: Duration = Duration::from_secs(1);
/// A session that another one needs to have a backend keeps it for so long.
const NEEDED: Duration = Duration::from_secs(2);
/// A client that sends on and on is stopped between two requests when its place has been wanted for so long.
const PATIENCE: Duration = Duration::from_millis(100);
/// What is due but cannot be done yet is looked at again after this, at the earliest.
const LOOK: Duration = Duration::from_millis(50);

/// See the module.
pub(in crate::router) struct Parking {
    /// For how long the session must have been idle; `None`: for the usual time, and only in a crowd.
    after: Option<Duration>,
    /// It has been idle for the usual time, in a crowd.
    crowded_out: bool,
    /// Since when its place is wanted.
    asked: Option<Instant>,
    /// Until when its backend is left to it unused.
    fresh: Option<Instant>,
    /// Since when nothing runs; while something does, since before that.
    idle_since: Instant,
    running: bool,
    not_before: Instant,
    /// Until when nobody else gets its place, though others wait.
    tenure: Instant,
    /// It waits for a place on the server.
    claim: Option<Claim>,
    /// When its client spoke to it without a backend.
    spoke: Option<Instant>,
    /// It has no backend because it was parked.
    parked: bool,
}

impl Parking {
    /// A session that has just got its first backend.
    pub(in crate::router) fn new(after: Option<Duration>) -> Parking {
        let now = Instant::now();
        Parking {
            after,
            crowded_out: false,
            asked: None,
            fresh: Some(now + FRESH),
            idle_since: now,
            running: false,
            not_before: now,
            tenure: now + TENURE,
            claim: None,
            spoke: None,
            parked: false,
        }
    }

    fn seen<T: Tracker>(&mut self, tracker: &T) {
        let running = tracker.is_running();
        if running {
            self.fresh = None;
        } else if self.running {
            (self.idle_since, self.crowded_out) = (Instant::now(), false);
        }
        self.running = running;
    }

    /// Somebody waits for the session's place.
    pub(super) fn asked(&mut self) {
        self.asked = self.asked.or_else(|| Some(Instant::now()));
    }

    /// Another session needs this one to have a backend.
    pub(super) fn is_needed(&mut self) {
        self.not_before = Instant::now() + NEEDED;
    }

    /// New requests wait until it has left.
    fn is_urgent(&self) -> bool {
        self.fresh.is_none() && self.asked.is_some_and(|since| since.elapsed() > PATIENCE) && self.may_yield()
    }

    /// It should be parked, if nothing is under way. Reads no clock where that cannot be.
    fn is_due(&self) -> bool {
        if self.running || (self.after.is_none() && self.asked.is_none() && !self.crowded_out) {
            return false;
        }
        let now = Instant::now();
        let idle = self.after.is_some_and(|after| now >= self.idle_since + after);
        let asked = self.asked.is_some() && now >= self.tenure;
        self.may_leave(now) && (idle || self.crowded_out || asked)
    }

    /// It may leave its place to somebody who waits.
    fn may_yield(&self) -> bool {
        let now = Instant::now();
        now >= self.tenure && self.may_leave(now)
    }

    fn may_leave(&self, now: Instant) -> bool {
        now >= self.not_before && self.fresh.is_none_or(|until| now >= until)
    }

    /// When to look whether it is due.
    fn alarm(&self) -> Instant {
        let now = Instant::now();
        let after = self.after.unwrap_or(USUAL);
        let at = if self.asked.is_some() { self.tenure } else { self.idle_since + after };
        let at = at.max(self.not_before).max(self.fresh.unwrap_or(now));
        if at > now { at } else { now + after.max(LOOK) }
    }

    /// It has a backend again. Returns for how long the client of a parked session has waited for that.
    /// `took`: the rebuilding itself.
    pub(super) fn reattached(&mut self, took: Duration, is_needed: bool) -> Option<Duration> {
        let waited = self.spoke.filter(|_| self.parked).map(|spoke| spoke.elapsed());
        *self = Parking::new(self.after);
        self.tenure = Instant::now() + took.max(TENURE);
        if is_needed {
            self.is_needed();
        }
        waited
    }

    /// It has none because it was parked.
    pub(super) fn is_parked(&self) -> bool {
        self.parked
    }

    /// Its client has spoken to it without a backend.
    pub(super) fn spoken_to(&mut self) {
        self.spoke = self.spoke.or_else(|| Some(Instant::now()));
    }

    /// The place that it claims, if there is one by now.
    pub(super) fn place(&mut self, membership: &Membership, metrics: &ParkingMetrics) -> Option<Place> {
        let claim = self.claim.get_or_insert_with(|| membership.claim());
        let waited = claim.is_waiting();
        let place = claim.take();
        if place.is_none() && !waited {
            metrics.waits.inc();
        }
        place
    }

    /// It waits for a place.
    pub(super) fn is_waiting(&self) -> bool {
        self.claim.as_ref().is_some_and(Claim::is_waiting)
    }

    /// It cannot have a backend now; its turn in the queue is kept.
    pub(super) fn pause(&mut self) {
        if let Some(claim) = &mut self.claim {
            claim.pause();
        }
    }

    /// It wants none.
    pub(super) fn gives_up(&mut self) {
        (self.claim, self.spoke) = (None, None);
    }

    /// Waits for the place that it claims, at most for `longest`. `true`: there is one. Never ends if it claims none.
    ///
    /// # Cancel safety
    /// Safe, see [`Claim::ready`].
    pub(super) async fn place_ready(&mut self, longest: Duration) -> bool {
        let Some(claim) = self.claim.as_mut().filter(|claim| claim.is_waiting()) else {
            return std::future::pending().await;
        };
        let until = claim.since() + longest;
        tokio::time::timeout_at(until, claim.ready()).await.is_ok()
    }
}

/// Looks on for a session while bytes pass.
pub(super) struct Watch<'a> {
    pub shown: Shown<'a>,
    pub parking: &'a mut Parking,
    pub membership: &'a Membership,
    /// The session can be parked, as far as is known.
    pub parkable: bool,
}

impl<T: Tracker> Onlooker<T> for Watch<'_> {
    fn seen(&mut self, tracker: &T) {
        self.shown.seen(self.membership, tracker);
        self.parking.seen(tracker);
        if tracker.is_unlogged() {
            self.membership.writes_unlogged();
        }
    }

    fn stops(&self) -> bool {
        let wanted = || self.membership.is_wanted() && self.parking.may_yield();
        self.parkable && (self.parking.is_due() || wanted())
    }
}

impl<E: Engine> Session<E> {
    /// Nothing that is known ties the session to its backend.
    pub(super) fn is_parkable(&self, signal: &Signal) -> bool {
        let known = E::state_obstacle(&self.state).or(self.rest.standing()).is_none();
        let answered = self.lost.is_none() && self.outlasting.is_empty() && !self.doubt.stands_by();
        // One that another session is about to have ended must be there to be ended.
        signal.phase == Phase::Open && known && answered && E::tie(&self.state).is_none() && !self.was_ended()
    }

    /// Requests are held until the session has left its place.
    pub(super) fn is_leaving(&self, signal: &Signal) -> bool {
        self.parking.is_urgent() && self.is_parkable(signal)
    }

    /// When to look up because of this.
    pub(super) fn parking_alarm(&mut self, signal: &Signal) -> Option<Instant> {
        if !self.is_parkable(signal) {
            if self.parking.asked.is_some() {
                self.keeps_place();
            }
            return None;
        }
        let parking = &mut self.parking;
        let in_time = !parking.running && parking.idle_since.elapsed() >= USUAL;
        parking.crowded_out = parking.after.is_none() && in_time && self.membership.is_crowded();
        Some(parking.alarm())
    }

    /// Nothing is under way. Whether the session should be parked now.
    pub(super) fn parks(&mut self, signal: &Signal) -> bool {
        if !self.is_parkable(signal) {
            return false;
        }
        if self.parking.is_due() {
            return true;
        }
        if !self.membership.is_wanted() || !self.parking.may_yield() {
            return false;
        }
        let place = self.place_number();
        let offered = place.is_some_and(|place| self.membership.offer(place));
        if !offered {
            self.parking.not_before = Instant::now() + NOT_YET;
        }
        offered
    }

    /// Gives the backend up, if the session turns out to be as it can be rebuilt.
    pub(super) async fn park(&mut self, signal: &Signal) -> Result<(), End> {
        if self.is_stale() {
            self.look_at_itself(false).await?;
        }
        let written = self.cleared == 0 && self.client.from.cleared == 0;
        let known = self.tracker.is_quiet() && self.tracker.drift() == Drift::None && written;
        // A hold that has begun meanwhile goes first, and so does the end of the database.
        let here = {
            let now = self.gate.borrow();
            now.phase == Phase::Open && now.era == self.rest.era
        };
        let silent = self.backend.as_mut().is_some_and(|backend| backend.is_silent());
        if !(known && here && silent && self.is_parkable(signal)) {
            self.keeps_place();
            return Ok(());
        }
        let Some(backend) = self.backend.take() else { return Ok(()) };
        self.rest.account.give_up();
        self.understudy = None;
        self.tracker.reattached();
        (self.parking.parked, self.parking.asked) = (true, None);
        self.membership.parked();
        backend.retire(self.membership.aide());
        self.cluster.metrics.parking.parkings.inc();
        Ok(())
    }

    /// Whoever waits need not count on this session.
    pub(super) fn keeps_place(&mut self) {
        (self.parking.asked, self.parking.crowded_out) = (None, false);
        self.parking.not_before = Instant::now() + AGAIN;
        if let Some(place) = self.place_number() {
            self.membership.stays(place);
        }
    }

    fn place_number(&self) -> Option<u64> {
        self.backend.as_ref()?.place.as_ref()?.number()
    }

    /// It has waited for a place for too long. What its client has sent is refused in the server's words; nothing was
    /// run, and the session stays as it is. Where a refusal would not be true to what was sent, it is closed.
    pub(super) async fn refuse(&mut self) -> Result<(), End> {
        self.parking.gives_up();
        self.woken = false;
        if self.client.from.bytes.is_empty() {
            return Ok(());
        }
        self.cluster.metrics.parking.refusals.inc();
        let mut answer = BytesMut::new();
        if !E::refuse_held(&mut self.client.from.bytes, &mut answer) {
            return Err(End::Told(Farewell::TooManySessions));
        }
        if answer.is_empty() || self.tell(&answer).await { Ok(()) } else { Err(End::Client) }
    }
}
