//! Whose turn it is: pure policy.
//!
//! ```text
//!   begin ──(room, and nobody waits)────────────► running ──► end
//!     └───► waiting ──(in the order of arrival)──►  │
//!              └──► end                             └──(so many ticks)──► counted no longer
//! ```
//!
//! Nobody waits for a statement that takes long, so nothing can wait in a circle: the statements that hold all turns may
//! wait for a lock whose holder waits for a turn, and get in its way for a few ticks at most.

use std::collections::BTreeMap;

/// Who has had a turn for so many ticks does not count any more.
const LONG: u8 = 3;

/// See the module. `W` is how a waiter is told.
#[derive(Debug)]
pub(super) struct Queue<W> {
    /// How many statements may run at once; `None`: as many as come.
    limit: Option<usize>,
    /// Numbers, and since how many ticks they run.
    running: Vec<(u64, u8)>,
    /// By number, so in the order of arrival.
    waiting: BTreeMap<u64, W>,
    next: u64,
}

/// What became of a statement that wants to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begun {
    /// It may; nobody counts.
    Freely,
    /// It may; its end is to be told.
    Running(u64),
    /// It has to wait under this number.
    Waiting(u64),
}

impl<W> Default for Queue<W> {
    fn default() -> Queue<W> {
        Queue { limit: None, running: Vec::new(), waiting: BTreeMap::new(), next: 0 }
    }
}

impl<W> Queue<W> {
    /// From here on so many run at once. Call [`grant`](Self::grant) afterwards until it yields nothing.
    pub(super) fn set_limit(&mut self, limit: Option<usize>) {
        self.limit = limit;
        self.running.reserve(limit.unwrap_or(0));
    }

    /// A statement wants to begin. `waiter` is called if it has to wait.
    pub(super) fn begin(&mut self, waiter: impl FnOnce() -> W) -> Begun {
        let Some(limit) = self.limit else { return Begun::Freely };
        self.next += 1;
        let number = self.next;
        if self.running.len() < limit && self.waiting.is_empty() {
            self.running.push((number, 0));
            return Begun::Running(number);
        }
        self.waiting.insert(number, waiter());
        Begun::Waiting(number)
    }

    /// How a waiter is told, while it waits.
    pub(super) fn waiter(&mut self, number: u64) -> Option<&mut W> {
        self.waiting.get_mut(&number)
    }

    /// A statement has ended, or waits no longer. Call [`grant`](Self::grant) afterwards until it yields nothing.
    pub(super) fn end(&mut self, number: u64) {
        if self.waiting.remove(&number).is_none() {
            self.running.retain(|(running, _)| *running != number);
        }
    }

    /// Some time has gone by. Call [`grant`](Self::grant) afterwards until it yields nothing.
    pub(super) fn tick(&mut self) {
        self.running.retain_mut(|(_, ticks)| {
            *ticks += 1;
            *ticks < LONG
        });
    }

    /// Lets the first who waits begin, if there is room.
    pub(super) fn grant(&mut self) -> Option<W> {
        if self.limit.is_some_and(|limit| self.running.len() >= limit) {
            return None;
        }
        let (number, waiter) = self.waiting.pop_first()?;
        if self.limit.is_some() {
            self.running.push((number, 0));
        }
        Some(waiter)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Begin,
        /// Of those that have begun or wait, the one at this place.
        End(usize),
        Tick,
        Limit(Option<usize>),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => Just(Step::Begin),
            4 => any::<usize>().prop_map(Step::End),
            1 => Just(Step::Tick),
            1 => prop::option::of(1_usize..5).prop_map(Step::Limit),
        ];
        prop::collection::vec(step, 0..200)
    }

    fn granted(queue: &mut Queue<u64>) -> Vec<u64> {
        std::iter::from_fn(|| queue.grant()).collect()
    }

    proptest! {
        /// In order, never more than may, never fewer than could, and nobody is forgotten.
        #[test]
        fn turns_are_taken_in_order(steps in steps()) {
            let mut queue = Queue::<u64>::default();
            let (mut waits, mut runs, mut arrived): (Vec<u64>, Vec<u64>, u64) = Default::default();
            for step in steps {
                match step {
                    Step::Begin => {
                        let next = queue.next + 1;
                        match queue.begin(|| next) {
                            Begun::Freely => prop_assert_eq!(queue.limit, None),
                            Begun::Running(number) => {
                                prop_assert!(waits.is_empty() && number > arrived);
                                (arrived, _) = (number, runs.push(number));
                            }
                            Begun::Waiting(number) => {
                                prop_assert!(number > arrived);
                                (arrived, _) = (number, waits.push(number));
                            }
                        }
                    }
                    Step::End(place) => {
                        let all: Vec<u64> = waits.iter().chain(&runs).copied().collect();
                        if let Some(number) = all.get(place % all.len().max(1)) {
                            queue.end(*number);
                            waits.retain(|one| one != number);
                            runs.retain(|one| one != number);
                        }
                    }
                    Step::Tick => queue.tick(),
                    Step::Limit(limit) => queue.set_limit(limit),
                }
                let begun = granted(&mut queue);
                prop_assert_eq!(&begun[..], &waits[..begun.len()], "in the order of arrival");
                waits.drain(..begun.len());
                runs.extend(begun);
                let room = queue.limit.is_none_or(|limit| queue.running.len() < limit);
                prop_assert!(waits.is_empty() || !room, "somebody waits for nothing");
                prop_assert_eq!(queue.waiting.len(), waits.len());
                prop_assert!(queue.running.iter().all(|(number, _)| runs.contains(number)));
            }
            // However long those take that run: whoever waits gets in.
            let ticks = waits.len() * usize::from(LONG);
            for _ in 0..ticks {
                queue.tick();
                granted(&mut queue);
            }
            prop_assert_eq!(queue.waiting.len(), 0);
        }
    }

    #[test]
    fn never_more_than_may_begin() {
        let mut queue = Queue::<()>::default();
        queue.set_limit(Some(2));
        let begun: Vec<Begun> = (0..4).map(|_| queue.begin(|| ())).collect();
        assert_eq!(begun, [Begun::Running(1), Begun::Running(2), Begun::Waiting(3), Begun::Waiting(4)]);
        assert_eq!(queue.grant(), None);
        queue.end(1);
        assert_eq!((queue.grant(), queue.grant()), (Some(()), None));
        // One that is not told of any more changes nothing.
        queue.end(1);
        assert_eq!(queue.grant(), None);
    }
}
