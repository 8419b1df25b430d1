//! Who has a place on the server, who waits for one, and who is to make room: pure policy.
//!
//! ```text
//!   claim ──► waiting ──(a place is free, in the order of tickets)──► granted ──► released
//!                │ wanted > 0                                           ▲  │
//!                └──► somebody who may leave is asked ──► leaving ──────┼──┘
//!                                                            └ declines ┘
//! ```
//!
//! A waiter has no place, and nobody is asked twice at once, so nothing can wait in a circle. A place that was just given
//! is not asked for: its session runs at least something in between, so two sessions cannot chase each other for ever.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// For so long a place is left to whoever has got it; rebuilding a session takes a few milliseconds.
const TENURE: Duration = Duration::from_millis(20);

/// Whoever was asked and has not left by then is not counted on any more: others are asked.
const LATE: Duration = Duration::from_millis(200);

/// Somebody who has a place.
#[derive(Debug, Clone, Copy)]
struct Holder {
    session: u32,
    /// When it was asked to leave, if it is counted on.
    leaving: Option<Instant>,
    not_before: Instant,
}

/// See the module. `W` is how a waiter is told.
#[derive(Debug)]
pub(super) struct Places<W> {
    /// How many there are; `None`: nobody knows, and the server will say when it is full.
    limit: Option<usize>,
    /// By the number of the place.
    holders: BTreeMap<u64, Holder>,
    /// Sessions, by ticket.
    waiting: BTreeMap<u64, (u32, W)>,
    /// How many holders are leaving.
    leaving: usize,
    next: u64,
}

impl<W> Default for Places<W> {
    fn default() -> Places<W> {
        Places { limit: None, holders: BTreeMap::new(), waiting: BTreeMap::new(), leaving: 0, next: 0 }
    }
}

impl<W> Places<W> {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// A later ticket comes later.
    pub(super) fn ticket(&mut self) -> u64 {
        self.number()
    }

    /// The server has another number of places from here on. Whoever has one keeps it.
    pub(super) fn set_limit(&mut self, limit: Option<usize>) {
        self.limit = limit;
    }

    /// How many places there are, if that is known.
    pub(super) fn limit(&self) -> Option<usize> {
        self.limit
    }

    /// A session waits from here on.
    pub(super) fn claim(&mut self, ticket: u64, session: u32, waiter: W) {
        self.waiting.insert(ticket, (session, waiter));
    }

    /// It waits no longer.
    pub(super) fn withdraw(&mut self, ticket: u64) {
        self.waiting.remove(&ticket);
    }

    /// Gives the next free place to the first who waits. Call it until it yields nothing.
    pub(super) fn grant(&mut self, now: Instant) -> Option<(u64, W)> {
        if self.limit.is_some_and(|limit| self.holders.len() >= limit) {
            return None;
        }
        let (_, (session, waiter)) = self.waiting.pop_first()?;
        let number = self.number();
        self.holders.insert(number, Holder { session, leaving: None, not_before: now + TENURE });
        Some((number, waiter))
    }

    /// A place is free again.
    pub(super) fn release(&mut self, number: u64) {
        let holder = self.holders.remove(&number);
        self.leaving -= usize::from(holder.is_some_and(|holder| holder.leaving.is_some()));
    }

    /// How many more sessions must leave so that all who wait have a place.
    pub(super) fn wanted(&self) -> usize {
        let Some(limit) = self.limit.filter(|_| !self.waiting.is_empty()) else { return 0 };
        (self.holders.len() - self.leaving + self.waiting.len()).saturating_sub(limit)
    }

    /// Whether nobody has waited longer.
    pub(super) fn is_first(&self, ticket: u64) -> bool {
        self.waiting.first_key_value().is_some_and(|(first, _)| *first == ticket)
    }

    /// Who may be asked now: place and session.
    pub(super) fn candidates(&self, now: Instant) -> impl Iterator<Item = (u64, u32)> + '_ {
        let may = move |holder: &Holder| holder.leaving.is_none() && holder.not_before <= now;
        self.holders
            .iter()
            .filter(move |(_, holder)| may(holder))
            .map(|(number, holder)| (*number, holder.session))
    }

    /// The session of this place is asked to leave, or offers to. `false`: nobody needs it to, or it was asked already.
    pub(super) fn ask(&mut self, number: u64, now: Instant) -> bool {
        let wanted = self.wanted() > 0;
        match self.holders.get_mut(&number) {
            Some(holder) if wanted && holder.leaving.is_none() && holder.not_before <= now => {
                holder.leaving = Some(now);
                self.leaving += 1;
                true
            }
            _ => false,
        }
    }

    /// Stops counting on those who are late. They may leave all the same.
    pub(super) fn forget_late(&mut self, now: Instant) {
        for holder in self.holders.values_mut() {
            if holder.leaving.take_if(|asked| now.saturating_duration_since(*asked) > LATE).is_some() {
                self.leaving -= 1;
                holder.not_before = now + LATE;
            }
        }
    }

    /// It does not leave, and need not be asked again before `not_before`.
    pub(super) fn decline(&mut self, number: u64, not_before: Instant) {
        if let Some(holder) = self.holders.get_mut(&number) {
            self.leaving -= usize::from(holder.leaving.is_some());
            (holder.leaving, holder.not_before) = (None, not_before);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Arrive,
        GiveUp(usize),
        Leave(usize),
        Ask(usize),
        Decline(usize),
        Limit(usize),
        Pass(u64),
        Forget,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => Just(Step::Arrive),
            1 => (0usize..50).prop_map(Step::GiveUp),
            3 => (0usize..50).prop_map(Step::Leave),
            3 => (0usize..50).prop_map(Step::Ask),
            1 => (0usize..50).prop_map(Step::Decline),
            1 => (0usize..6).prop_map(Step::Limit),
            2 => (1u64..40).prop_map(Step::Pass),
            1 => Just(Step::Forget),
        ];
        proptest::collection::vec(step, 1..200)
    }

    fn nth<T: Copy>(of: &BTreeSet<T>, at: usize) -> Option<T> {
        of.iter().nth(at % of.len().max(1)).copied()
    }

    proptest! {
        #[test]
        fn places_are_given_in_order_and_never_twice(steps in steps()) {
            let mut places = Places::default();
            let mut now = Instant::now();
            let mut limit = 3;
            places.set_limit(Some(limit));
            let mut waiting: BTreeSet<u64> = BTreeSet::new();
            let mut held: BTreeSet<u64> = BTreeSet::new();
            let mut leaving: BTreeSet<u64> = BTreeSet::new();
            for step in steps {
                match step {
                    Step::Arrive => {
                        let ticket = places.ticket();
                        places.claim(ticket, 0, ticket);
                        waiting.insert(ticket);
                    }
                    Step::GiveUp(at) => if let Some(ticket) = nth(&waiting, at) {
                        places.withdraw(ticket);
                        waiting.remove(&ticket);
                    }
                    Step::Leave(at) => if let Some(number) = nth(&held, at) {
                        places.release(number);
                        held.remove(&number);
                        leaving.remove(&number);
                    }
                    Step::Ask(at) => if let Some(number) = nth(&held, at) {
                        let may = places.candidates(now).any(|(candidate, _)| candidate == number);
                        let wanted = places.wanted() > 0;
                        let asked = places.ask(number, now);
                        prop_assert_eq!(asked, may && wanted);
                        if asked {
                            prop_assert!(leaving.insert(number));
                        }
                    }
                    Step::Decline(at) => if let Some(number) = nth(&leaving, at) {
                        places.decline(number, now + TENURE);
                        leaving.remove(&number);
                        prop_assert!(!places.ask(number, now));
                    }
                    Step::Limit(to) => {
                        limit = to;
                        places.set_limit(Some(to));
                    }
                    Step::Pass(ms) => now += Duration::from_millis(ms),
                    Step::Forget => {
                        now += 2 * LATE;
                        places.forget_late(now);
                        leaving.clear();
                    }
                }
                while let Some((number, ticket)) = places.grant(now) {
                    // In the order of arrival, and not beyond the limit.
                    prop_assert_eq!(waiting.pop_first(), Some(ticket));
                    prop_assert!(held.insert(number) && held.len() <= limit);
                    // Whoever has just got one is left alone.
                    prop_assert!(!places.ask(number, now));
                }
                // Nobody waits beside a free place, and no place is forgotten.
                prop_assert!(waiting.is_empty() || held.len() >= limit);
                prop_assert_eq!(places.holders.len(), held.len());
                // As many are asked as are needed, and no more.
                let short = (held.len() + waiting.len()).saturating_sub(limit + leaving.len());
                prop_assert_eq!(places.wanted(), if waiting.is_empty() { 0 } else { short });
            }
        }

        /// Every holder who may leave does so within some time, if asked: then everybody who waits gets a place.
        #[test]
        fn nobody_starves(sessions in 1usize..40, limit in 1usize..5, order in any::<u64>()) {
            let mut places = Places::default();
            places.set_limit(Some(limit));
            let mut now = Instant::now();
            let mut served = vec![0u32; sessions];
            for session in 0..sessions {
                let ticket = places.ticket();
                places.claim(ticket, u32::try_from(session).unwrap(), session);
            }
            // Each session waits again as soon as it has left.
            let mut held: Vec<(u64, usize)> = Vec::new();
            for round in 0..sessions * 3 {
                while let Some((number, session)) = places.grant(now) {
                    served[session] += 1;
                    held.push((number, session));
                }
                now += TENURE;
                let at = usize::try_from(order.rotate_left(u32::try_from(round % 64).unwrap()) % 7).unwrap();
                let (number, session) = held[at % held.len()];
                if places.ask(number, now) {
                    held.retain(|(other, _)| *other != number);
                    places.release(number);
                    let ticket = places.ticket();
                    places.claim(ticket, u32::try_from(session).unwrap(), session);
                }
            }
            prop_assert!(served.iter().all(|times| *times > 0), "{served:?}");
        }
    }

    #[test]
    fn an_old_ticket_keeps_its_place_in_the_queue() {
        let mut places = Places::default();
        places.set_limit(Some(0));
        let (first, second) = (places.ticket(), places.ticket());
        places.claim(first, 1, "first");
        places.claim(second, 2, "second");
        places.withdraw(first);
        assert!(places.is_first(second));
        places.claim(first, 1, "first");
        places.set_limit(Some(1));
        assert_eq!(places.grant(Instant::now()).map(|(_, who)| who), Some("first"));
    }
}
