//! The capacity changes every second or so, until the storm is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Server, pause};

/// One change a second, or as fast as they end.
const RHYTHM: Duration = Duration::from_secs(1);
/// Up and down, far and near, and once without a change.
const CAPACITIES: [u32; 8] = [4, 2, 8, 16, 2, 2, 16, 4];

/// How long a storm lasts: `SCALEPOINT_STORM_SECONDS`, or a minute.
pub(crate) fn duration() -> Duration {
    let seconds = std::env::var("SCALEPOINT_STORM_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(60))
}

/// Whether clients work as fast as they can: `SCALEPOINT_STORM_FULL`. Otherwise at a rate that leaves room for other tests
/// on a small machine: what a storm is about are changes, and clients are in the middle of something at each.
pub(crate) fn at_full_speed() -> bool {
    std::env::var_os("SCALEPOINT_STORM_FULL").is_some()
}

/// What a client that works round after round lets pass between two of them.
pub(crate) fn breath() -> Duration {
    if at_full_speed() { Duration::ZERO } else { Duration::from_millis(10) }
}

/// Changes the capacity in a thread of its own, which ends with this.
pub(crate) struct Storm {
    over: Arc<AtomicBool>,
    changes: Arc<AtomicUsize>,
    thread: Option<JoinHandle<Vec<u64>>>,
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Somebody has failed already, and that is what counts.
            let _ = thread.join();
        }
    }
}

impl Storm {
    /// Begins; `server` is the program's control API.
    pub(crate) fn over(server: &Arc<Server>) -> Storm {
        let over = Arc::new(AtomicBool::new(false));
        let changes = Arc::new(AtomicUsize::new(0));
        let (server, ended, done) = (Arc::clone(server), Arc::clone(&over), Arc::clone(&changes));
        let thread = std::thread::spawn(move || {
            let mut stalls = Vec::new();
            for capacity in CAPACITIES.into_iter().cycle() {
                if ended.load(Ordering::Relaxed) {
                    break;
                }
                let begun = Instant::now();
                stalls.push(server.scale(capacity)["stall_ms"].as_u64().unwrap());
                done.fetch_add(1, Ordering::Relaxed);
                pause(RHYTHM.saturating_sub(begun.elapsed()));
            }
            stalls
        });
        Storm { over, changes, thread: Some(thread) }
    }

    /// How many changes have ended; two at least are expected of a storm.
    pub(crate) fn changes(&self) -> usize {
        self.changes.load(Ordering::Relaxed)
    }

    /// Ends it, and says what it was like.
    pub(crate) fn end(mut self, name: &str) {
        self.over.store(true, Ordering::Relaxed);
        let mut stalls = self.thread.take().unwrap().join().unwrap();
        stalls.sort_unstable();
        assert!(stalls.len() >= 2, "the capacity hardly changed: {stalls:?}");
        let middle = stalls[stalls.len() / 2];
        eprintln!(
            "{name}: {} changes, stall {middle} ms in the middle, {} ms at most",
            stalls.len(),
            stalls[stalls.len() - 1]
        );
    }
}
