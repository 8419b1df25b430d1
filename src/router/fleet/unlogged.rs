//! Sessions whose writes a server's log may not have: a copy that follows by the log does not get them.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// See the module.
#[derive(Default)]
pub struct Unlogged {
    /// How many have begun to.
    times: AtomicU64,
    /// How many of those are there.
    present: AtomicUsize,
    notice: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Unlogged {
    /// What is to be done when a session begins to, before anything of it gets to the server. The first one counts.
    pub fn on_notice(&self, notice: impl Fn() + Send + Sync + 'static) {
        let _ = self.notice.set(Box::new(notice));
    }

    /// How often a session has begun to.
    pub fn times(&self) -> u64 {
        self.times.load(Ordering::SeqCst)
    }

    /// Whether there is such a session.
    pub fn is_present(&self) -> bool {
        self.present.load(Ordering::SeqCst) > 0
    }

    /// A session begins to.
    pub(super) fn begin(&self) {
        self.present.fetch_add(1, Ordering::SeqCst);
        self.times.fetch_add(1, Ordering::SeqCst);
        if let Some(notice) = self.notice.get() {
            notice();
        }
    }

    /// One that had begun to has ended.
    pub(super) fn end(&self) {
        self.present.fetch_sub(1, Ordering::SeqCst);
    }
}
