//! What a session is doing, as others see it.

use tokio::time::Instant;

use crate::engine::Obstacle;

/// How much of a statement operators are shown, bytes.
const SHOWN: usize = 160;

/// What a session is doing, for operators. Written at every statement, so it never allocates.
#[derive(Debug, Clone, Copy)]
pub struct Doing {
    /// What keeps it from being moved, if anything.
    pub obstacle: Option<Obstacle>,
    /// Since when; while there is no obstacle, when the last one ended.
    pub since: Instant,
    text: [u8; SHOWN],
    length: usize,
}

impl Doing {
    pub(super) fn nothing() -> Doing {
        Doing { obstacle: None, since: Instant::now(), text: [0; SHOWN], length: 0 }
    }

    /// The obstacle changed (or went).
    pub fn set(&mut self, obstacle: Option<Obstacle>, statement: &[u8]) {
        if self.obstacle != obstacle {
            // A transaction is as old as its first statement, whatever it does at the moment.
            let goes_on = |before: Option<Obstacle>| before.is_some_and(Obstacle::is_passing);
            if !(goes_on(self.obstacle) && goes_on(obstacle)) {
                self.since = Instant::now();
            }
            self.obstacle = obstacle;
        }
        self.length = statement.len().min(SHOWN);
        self.text[..self.length].copy_from_slice(&statement[..self.length]);
    }

    /// The start of the latest statement.
    pub fn statement(&self) -> String {
        String::from_utf8_lossy(&self.text[..self.length]).into_owned()
    }
}
