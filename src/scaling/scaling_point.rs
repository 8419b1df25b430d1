//! When to try a hold: pure policy.
//!
//! A busy cluster is never quiet by accident, so a hold gathers the sessions as they come to rest. It is started only
//! when all are expected to within the stall budget: nobody has state that stays, and no transaction is older than the
//! budget. A hold that fails lets everybody go, and the next one waits a little longer.
//!
//! ```text
//!            standing state, or a long transaction
//!          ┌────────────── Wait ◄─────────────┐
//!          ▼                                  │
//!  ──► next() ──── everybody short ──► Hold ──┴─ failed() ──► (back-off)
//!          └────── time is up ───────► TimedOut
//! ```

use std::time::Duration;

/// The first pause after a hold that failed.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest one.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The longest one when nobody is doing anything: such a moment may not come again soon.
const LONGEST_PAUSE_IN_QUIET: Duration = Duration::from_millis(200);
/// How often a cluster that cannot be held is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What the sessions are doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct View {
    /// Sessions with state that does not end with their transaction.
    pub standing: usize,
    /// Sessions with a transaction or a statement under way.
    pub busy: usize,
    /// The age of the oldest of these.
    pub oldest: Duration,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Shut the gate and gather.
    Hold,
    /// Look again after this time, or when something changes.
    Wait(Duration),
    /// No scaling point was found in time.
    TimedOut,
}

/// One search for a scaling point. All times are measured from its start.
#[derive(Debug, Clone)]
pub struct Search {
    budget: Duration,
    deadline: Duration,
    failed: Option<Duration>,
    pause: Duration,
}

impl Search {
    /// Holds last `budget` at most; after `deadline` none is begun.
    pub fn new(budget: Duration, deadline: Duration) -> Search {
        Search { budget, deadline, failed: None, pause: FIRST_PAUSE }
    }

    /// Decides.
    pub fn next(&self, now: Duration, view: View) -> Next {
        let left = self.deadline.saturating_sub(now);
        match () {
            () if left.is_zero() => Next::TimedOut,
            () if view.standing > 0 || view.oldest > self.budget => Next::Wait(LOOK_AGAIN.min(left)),
            () if now < self.not_before(view) => {
                Next::Wait(LOOK_AGAIN.min(self.not_before(view) - now).min(left))
            }
            () => Next::Hold,
        }
    }

    fn not_before(&self, view: View) -> Duration {
        let pause = if view.busy == 0 { self.waited().min(LONGEST_PAUSE_IN_QUIET) } else { self.waited() };
        self.failed.map_or(Duration::ZERO, |failed| failed + pause)
    }

    /// The pause that is on: half of the next one.
    fn waited(&self) -> Duration {
        self.pause / 2
    }

    /// A hold did not gather everybody.
    pub fn failed(&mut self, now: Duration) {
        self.failed = Some(now);
        self.pause = (self.pause * 2).min(2 * LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn a_quiet_cluster_is_held_at_once() {
        let search = Search::new(MS(500), MS(10_000));
        assert_eq!(search.next(MS(0), View::default()), Next::Hold);
        assert_eq!(search.next(MS(0), View { standing: 0, busy: 1, oldest: MS(500) }), Next::Hold);
    }

    #[test]
    fn no_hold_is_started_in_vain() {
        let search = Search::new(MS(500), MS(10_000));
        assert!(matches!(search.next(MS(0), View { standing: 1, busy: 0, oldest: MS(0) }), Next::Wait(_)));
        assert!(matches!(search.next(MS(0), View { standing: 0, busy: 1, oldest: MS(501) }), Next::Wait(_)));
    }

    #[test]
    fn holds_that_fail_come_less_often() {
        let busy = View { standing: 0, busy: 1, oldest: MS(10) };
        let mut search = Search::new(MS(500), MS(60_000));
        search.failed(MS(600));
        assert!(matches!(search.next(MS(649), busy), Next::Wait(_)));
        assert_eq!(search.next(MS(650), busy), Next::Hold);
        search.failed(MS(1200));
        assert!(matches!(search.next(MS(1299), busy), Next::Wait(_)));
        assert_eq!(search.next(MS(1300), busy), Next::Hold);
        (0..10).for_each(|_| search.failed(MS(2000)));
        assert!(matches!(search.next(MS(6999), busy), Next::Wait(_)));
        assert_eq!(search.next(MS(7000), busy), Next::Hold);
    }

    #[test]
    fn a_rest_between_long_statements_is_not_missed() {
        let mut search = Search::new(MS(500), MS(60_000));
        (0..10).for_each(|_| search.failed(MS(2000)));
        assert!(matches!(search.next(MS(2199), View::default()), Next::Wait(_)));
        assert_eq!(search.next(MS(2200), View::default()), Next::Hold);
    }

    proptest! {
        #[test]
        fn the_deadline_is_always_met(steps in proptest::collection::vec((0u64..2000, 0usize..2, 0u64..1000), 1..200)) {
            let mut search = Search::new(MS(500), MS(30_000));
            let mut now = Duration::ZERO;
            for (took, standing, oldest) in steps {
                match search.next(now, View { standing, busy: usize::from(oldest > 0), oldest: MS(oldest) }) {
                    Next::TimedOut => prop_assert!(now >= MS(30_000)),
                    Next::Wait(pause) => {
                        prop_assert!(!pause.is_zero() && now + pause <= MS(30_000));
                        now += pause;
                    }
                    Next::Hold => {
                        prop_assert!(now < MS(30_000) && standing == 0);
                        now += MS(took);
                        search.failed(now);
                    }
                }
            }
        }
    }
}
