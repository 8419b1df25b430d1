//! `COPY … FROM STDIN`: which segment the client's data belongs to, and whose `Sync` it swallows.

use super::Tracker;
use super::doubt::Asked;

impl Tracker {
    /// The client has sent all of its data, or why there is no more.
    pub(super) fn copy_ends(&mut self) {
        if std::mem::take(&mut self.copy_in) {
            return;
        }
        match self.waiting.back_mut() {
            Some(segment) => segment.copy_ended += 1,
            None if self.unsynced => self.open.copy_ended += 1,
            // What is left of a copy that has failed.
            None => {}
        }
    }

    /// The server asks for the data.
    pub(super) fn copy_in_begins(&mut self) {
        let segment = self.waiting.front_mut().unwrap_or(&mut self.open);
        if segment.copy_ended > 0 {
            segment.copy_ended -= 1;
            return;
        }
        self.copy_in = true;
        if self.waiting.front().is_some_and(|segment| segment.extended)
            && let Some(swallowed) = self.waiting.pop_front()
        {
            self.open.may_commit |= swallowed.may_commit;
            self.open.suspect |= swallowed.suspect;
            (self.open.several, self.open.asked) = (true, Asked::UNKNOWN);
            self.unsynced = true;
        }
    }
}
