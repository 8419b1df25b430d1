//! Places on the server as sessions claim, hold and give them back.
//!
//! A [`Place`] is a guard: whatever way a session or its backend ends, the place is free again and the next who waits is
//! told. Locks are held for a few instructions, and never two of them at once.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::places::Places;
use super::{Attachment, Fleet, Membership, Order};

/// Whoever has declined is not asked again before this.
const DECLINED: Duration = Duration::from_millis(500);

/// How often whoever waits looks for himself, besides being told.
pub(in crate::router) const LOOK: Duration = Duration::from_millis(50);

/// How a waiter is told.
pub(super) type Waiter = oneshot::Sender<Place>;

/// A place on the server. Dropping it gives it to the next.
pub struct Place {
    fleet: Arc<Fleet>,
    /// `None`: it was given back already.
    number: Option<u64>,
}

impl Place {
    /// Its number.
    pub fn number(&self) -> Option<u64> {
        self.number
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.fleet.places(|places| places.release(number));
            self.fleet.settle();
        }
    }
}

/// A session waits for a place. Dropping it ends that.
pub struct Claim {
    fleet: Arc<Fleet>,
    session: u32,
    ticket: u64,
    /// Since when it waits, without a pause.
    since: Instant,
    waits: Option<oneshot::Receiver<Place>>,
    place: Option<Place>,
}

impl Claim {
    /// The place, if there is one by now. Else the session waits for it from here on.
    pub fn take(&mut self) -> Option<Place> {
        if self.waits.is_none() && self.place.is_none() {
            let (grant, granted) = oneshot::channel();
            (self.waits, self.since) = (Some(granted), Instant::now());
            self.fleet.places(|places| places.claim(self.ticket, self.session, grant));
            // This asks somebody to leave, if need be.
            self.fleet.settle();
        }
        if let Some(place) = self.waits.as_mut().and_then(|granted| granted.try_recv().ok()) {
            (self.place, self.waits) = (Some(place), None);
        }
        // Whoever is first looks after those behind him, too: somebody may idle by now.
        if self.place.is_none() && self.fleet.places(|places| places.is_first(self.ticket)) {
            self.fleet.make_room();
        }
        self.place.take()
    }

    /// Waits until there is a place to be taken.
    ///
    /// # Cancel safety
    /// Safe: a place that has come stays here.
    pub async fn ready(&mut self) {
        let Some(granted) = &mut self.waits else { return std::future::pending().await };
        let place = granted.await;
        (self.place, self.waits) = (place.ok(), None);
    }

    /// It waits.
    pub fn is_waiting(&self) -> bool {
        self.waits.is_some()
    }

    /// Since when it waits.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Leaves the queue for a while, and keeps its turn in it.
    pub fn pause(&mut self) {
        self.fleet.places(|places| places.withdraw(self.ticket));
        (self.waits, self.place) = (None, None);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.fleet.places(|places| places.withdraw(self.ticket));
    }
}

impl Membership {
    /// Begins to claim a place on the server.
    pub fn claim(&self) -> Claim {
        let fleet = Arc::clone(&self.fleet);
        let ticket = fleet.places(Places::ticket);
        Claim { fleet, session: self.id, ticket, since: Instant::now(), waits: None, place: None }
    }

    /// Whether somebody waits for a place that nobody was asked for. Costs one load.
    pub fn is_wanted(&self) -> bool {
        self.fleet.wanted.load(Ordering::Relaxed) > 0
    }

    /// Offers the session's place to whoever waits. `false`: it may stay.
    pub fn offer(&self, place: u64) -> bool {
        self.fleet.places(|places| places.ask(place, Instant::now()))
    }

    /// The session does not leave its place.
    pub fn stays(&self, place: u64) {
        self.fleet.places(|places| places.decline(place, Instant::now() + DECLINED));
    }

    /// There are more sessions than places.
    pub fn is_crowded(&self) -> bool {
        let limit = self.fleet.places(|places| places.limit());
        limit.is_some_and(|limit| self.fleet.len() > limit)
    }
}

impl Fleet {
    fn places<T>(&self, change: impl FnOnce(&mut Places<Waiter>) -> T) -> T {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut places);
        self.wanted.store(places.wanted(), Ordering::Relaxed);
        changed
    }

    /// The server that is to serve next has this many places; `None`: not known.
    pub fn set_places(self: &Arc<Self>, limit: Option<u64>) {
        let limit = limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
        self.places(|places| places.set_limit(limit));
        self.settle();
    }

    /// How many sessions need a place on whatever server there is, because they cannot be parked.
    pub fn tied(&self) -> usize {
        let tied = |member: &&super::Member| member.tie.is_some() || member.visible.is_some();
        self.members().sessions.values().filter(tied).count()
    }

    /// Those who are parked have nothing to lose by a change.
    pub(in crate::router) fn carry_parked(&self) {
        let mut members = self.members();
        let parked = members.counts[Attachment::Parked as usize];
        members.tally.carried += u32::try_from(parked).unwrap_or(u32::MAX);
    }

    /// Gives free places to those who wait.
    fn settle(self: &Arc<Self>) {
        while let Some((number, waiter)) = self.places(|places| places.grant(Instant::now())) {
            let place = Place { fleet: Arc::clone(self), number: Some(number) };
            if let Err(mut unwanted) = waiter.send(place) {
                // It has left meanwhile. Given back here, because its drop would come back to this.
                unwanted.number = None;
                self.places(|places| places.release(number));
            }
        }
        self.make_room();
    }

    /// Asks those who have idled longest to leave, as many as are needed.
    fn make_room(&self) {
        let now = Instant::now();
        self.places(|places| places.forget_late(now));
        if self.wanted.load(Ordering::Relaxed) == 0 {
            return;
        }
        let holders: Vec<(u64, u32)> = self.places(|places| places.candidates(now).collect());
        let mut idle: Vec<(Instant, u64, u32)> = {
            let members = self.members();
            let since = |session: &u32| members.sessions.get(session)?.idle_since();
            holders.iter().filter_map(|(place, id)| since(id).map(|since| (since, *place, *id))).collect()
        };
        idle.sort_unstable();
        for (_, place, id) in idle {
            if !self.places(|places| places.ask(place, now)) {
                return;
            }
            let members = self.members();
            let told = members.sessions.get(&id).is_some_and(|m| m.orders.send(Order::MakeRoom).is_ok());
            drop(members);
            if !told {
                // It has other orders to look at first.
                self.places(|places| places.decline(place, now + DECLINED));
            }
        }
    }
}

impl super::Member {
    /// Since when it idles, if it can be parked.
    fn idle_since(&self) -> Option<Instant> {
        let doing = self.doing.lock().unwrap_or_else(PoisonError::into_inner);
        let idles = self.attachment == Attachment::Attached && self.tie.is_none() && doing.obstacle.is_none();
        idles.then_some(doing.since)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::time::timeout;

    use super::super::{Identity, Ids, Orders};
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn fleet(places: u64) -> Arc<Fleet> {
        let fleet = Fleet::new(100, false);
        fleet.set_places(Some(places));
        fleet.open();
        fleet
    }

    fn join(fleet: &Arc<Fleet>, ids: &Arc<Ids>) -> (Membership, Orders) {
        let identity =
            Identity { user: String::new(), database: String::new(), client: String::new(), tls: None };
        fleet.join(ids.reserve(), identity, [0; 32], 4).unwrap()
    }

    #[tokio::test]
    async fn a_place_that_nobody_takes_goes_to_the_next() {
        let (fleet, ids) = (fleet(1), Arc::default());
        let sessions: Vec<_> = (0..4).map(|_| join(&fleet, &ids).0).collect();
        let mut claims: Vec<Claim> = sessions.iter().map(Membership::claim).collect();
        let first = claims[0].take().unwrap();
        assert!(claims[1..].iter_mut().all(|claim| claim.take().is_none()));
        assert!(sessions[0].is_wanted());
        // The second leaves while it waits; the third has got the place, and leaves before it has looked.
        drop(claims.remove(1));
        drop(first);
        drop(claims.remove(1));
        let mut last = claims.pop().unwrap();
        timeout(SOON, last.ready()).await.unwrap();
        assert!(last.take().is_some() && !sessions[0].is_wanted());
    }

    #[tokio::test]
    async fn whoever_pauses_comes_back_before_those_behind_him() {
        let (fleet, ids) = (fleet(1), Arc::default());
        let sessions: Vec<_> = (0..3).map(|_| join(&fleet, &ids).0).collect();
        let mut claims: Vec<Claim> = sessions.iter().map(Membership::claim).collect();
        let place = claims[0].take();
        assert!(claims[1].take().is_none() && claims[2].take().is_none());
        claims[1].pause();
        assert!(!claims[1].is_waiting() && claims[1].take().is_none());
        drop(place);
        assert!(claims[2].take().is_none() && claims[1].take().is_some());
    }

    #[tokio::test]
    async fn who_has_idled_longest_is_asked() {
        let (fleet, ids) = (fleet(3), Arc::default());
        let mut sessions = Vec::new();
        for _ in 0..3 {
            let (session, orders) = join(&fleet, &ids);
            let place = session.claim().take().unwrap();
            assert!(session.attach());
            sessions.push((session, orders, place));
            // Whoever has just got a place is left alone.
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        // The first is tied, so the second has idled longest among those who can be parked.
        sessions[0].0.tied(Some(crate::engine::Tie::Listening));
        sessions[1].0.doing(None, b"");
        let (newcomer, _orders) = join(&fleet, &ids);
        let mut claim = newcomer.claim();
        assert!(claim.take().is_none());
        let mut asked = |at: usize| matches!(sessions[at].1.next().now_or_never(), Some(Order::MakeRoom));
        assert_eq!([0, 1, 2].map(&mut asked), [false, true, false]);
        // It does not leave: the next one is asked.
        let other = async {
            while !asked(2) {
                assert!(claim.take().is_none() && !asked(0));
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(SOON, other).await.unwrap();
        drop(sessions.pop());
        assert!(claim.take().is_some());
    }
}
