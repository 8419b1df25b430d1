//! A copy that fails again and again is not made again and again: to copy a large volume takes a disk's whole time.

use std::time::Duration;

use tokio::time::Instant;

/// How long no copy is made after one that failed; twice as long after each further one …
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// … and at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// What became of the latest copies.
#[derive(Debug, Default)]
pub(super) struct Setbacks {
    pause: Duration,
    until: Option<Instant>,
    reason: String,
}

impl Setbacks {
    /// Why no copy is to be made yet; `None`: one may be made.
    pub(super) fn pause(&self, now: Instant) -> Option<&str> {
        self.until.is_some_and(|until| now < until).then_some(&self.reason)
    }

    /// A new copy could not be made, or did not follow.
    pub(super) fn failed(&mut self, now: Instant, reason: &str) {
        self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        self.until = Some(now + self.pause);
        reason.clone_into(&mut self.reason);
    }

    /// A copy follows.
    pub(super) fn overcome(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_doubles_the_pause_until_one_follows() {
        let (mut setbacks, now) = (Setbacks::default(), Instant::now());
        assert_eq!(setbacks.pause(now), None);
        for expected in [5, 10, 20, 40, 80, 160, 320, 600, 600] {
            setbacks.failed(now, "why");
            let end = now + Duration::from_secs(expected);
            assert_eq!(setbacks.pause(end - Duration::from_millis(1)), Some("why"));
            assert_eq!(setbacks.pause(end), None);
        }
        setbacks.overcome();
        assert_eq!(setbacks.pause(now), None);
        setbacks.failed(now, "again");
        assert_eq!(setbacks.pause(now), Some("again"));
        assert_eq!(setbacks.pause(now + FIRST_PAUSE), None);
    }
}
