//! Whether a limit gains anything: pure policy.
//!
//! ```text
//!   Resting ──(a crowd, and it is time)──► as now ──► the other way ──► as now again ──► Resting
//!                                                                          └─(more was done)─► the other way from here on
//! ```
//!
//! Statements that get in each other's way (hot rows, sorts, large scans) are done two or three times as fast in turns;
//! those that wait for a disk, or hardly run at all, are slower. So it is tried: three short windows side by side, again and
//! again, and more rarely while nothing changes.

use std::time::Duration;

use tokio::time::Instant;

/// After a switch, before anything is counted.
const SETTLE: Duration = Duration::from_millis(50);
/// For how long is counted.
const WINDOW: Duration = Duration::from_millis(200);
/// Windows in which fewer statements begin say nothing.
const ENOUGH: u64 = 40;
/// From the beginning of a crowd, or a change, to the next trial; it doubles while nothing changes.
const SOON: Duration = Duration::from_secs(1);
/// No later than this.
const LATER: Duration = Duration::from_secs(60);

/// How statements begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// As they come.
    Freely,
    /// In turns.
    InTurns,
}

impl Way {
    fn other(self) -> Way {
        match self {
            Way::Freely => Way::InTurns,
            Way::InTurns => Way::Freely,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Pilot {
    way: Way,
    stage: Stage,
    pause: Duration,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    Resting {
        until: Instant,
    },
    /// Counting from `since` on; `before` had begun by then. `seen` are the windows so far.
    Counting {
        since: Instant,
        before: Option<u64>,
        seen: [u64; 3],
        window: usize,
    },
}

impl Pilot {
    /// A crowd begins.
    pub(super) fn new(now: Instant) -> Pilot {
        Pilot { way: Way::Freely, stage: Stage::Resting { until: now + SOON }, pause: SOON }
    }

    /// Call it every few milliseconds while there is a crowd. `begun`: how many statements have begun, ever.
    pub(super) fn step(&mut self, now: Instant, begun: u64) -> Way {
        match self.stage {
            Stage::Resting { until } if now >= until => self.count(now, [0; 3], 0),
            Stage::Resting { .. } => {}
            Stage::Counting { since, .. } if now < since => {}
            Stage::Counting { since, before: None, seen, window } => {
                let since = since.max(now);
                self.stage = Stage::Counting { since, before: Some(begun), seen, window };
            }
            Stage::Counting { since, before: Some(before), mut seen, window } if now >= since + WINDOW => {
                // Per second, because whoever asks is late at times.
                let micros = u64::try_from((now - since).as_micros()).unwrap_or(u64::MAX).max(1);
                let count = begun.saturating_sub(before);
                seen[window] = count.saturating_mul(1_000_000) / micros;
                if count < ENOUGH {
                    self.rest(now, false);
                } else if window == 2 {
                    self.decide(now, seen);
                } else {
                    self.count(now, seen, window + 1);
                }
            }
            Stage::Counting { .. } => {}
        }
        match self.stage {
            Stage::Counting { window: 1, .. } => self.way.other(),
            _ => self.way,
        }
    }

    fn count(&mut self, now: Instant, seen: [u64; 3], window: usize) {
        self.stage = Stage::Counting { since: now + SETTLE, before: None, seen, window };
    }

    fn decide(&mut self, now: Instant, [first, other, last]: [u64; 3]) {
        let own = first.max(last);
        let changes = match self.way {
            // A fifth more, so that noise does not do it.
            Way::Freely => other > own + own / 5,
            // Not for a twentieth.
            Way::InTurns => other + other / 20 > own,
        };
        if changes {
            self.way = self.way.other();
        }
        self.rest(now, changes);
    }

    fn rest(&mut self, now: Instant, changed: bool) {
        self.pause = if changed { SOON } else { (self.pause * 2).min(LATER) };
        self.stage = Stage::Resting { until: now + self.pause };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs it against a database that does so many statements a second in each way; the share of the time in turns.
    fn fly(pilot: &mut Pilot, now: &mut Instant, seconds: u64, [freely, in_turns]: [u64; 2]) -> f64 {
        let (mut begun, mut turns) = (0.0, 0_u32);
        let steps = u32::try_from(seconds * 200).unwrap();
        for _ in 0..steps {
            *now += Duration::from_millis(5);
            #[expect(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "small and positive")]
            let way = pilot.step(*now, begun as u64);
            turns += u32::from(way == Way::InTurns);
            let rate = if way == Way::InTurns { in_turns } else { freely };
            begun += f64::from(u32::try_from(rate).unwrap()) / 200.0;
        }
        f64::from(turns) / f64::from(steps)
    }

    #[test]
    fn what_gains_is_kept_and_what_does_not_is_hardly_tried() {
        let mut now = Instant::now();
        let mut pilot = Pilot::new(now);
        assert!(fly(&mut pilot, &mut now, 120, [1000, 2500]) > 0.9);
        // What runs has changed: it is noticed within the longest pause, and then left alone.
        fly(&mut pilot, &mut now, 70, [5000, 4000]);
        assert_eq!(pilot.way, Way::Freely);
        assert!(fly(&mut pilot, &mut now, 300, [5000, 4000]) < 0.02);
    }

    #[test]
    fn a_little_more_is_noise() {
        let mut now = Instant::now();
        let mut pilot = Pilot::new(now);
        assert!(fly(&mut pilot, &mut now, 60, [1000, 1100]) < 0.05);
        assert_eq!(pilot.way, Way::Freely);
    }

    #[test]
    fn a_handful_of_statements_says_nothing() {
        let mut now = Instant::now();
        let mut pilot = Pilot::new(now);
        fly(&mut pilot, &mut now, 60, [10, 100]);
        assert_eq!(pilot.way, Way::Freely);
    }
}
