//! When MySQL 8 and 9 look whether they are to stop.
//!
//! InnoDB's master thread sleeps a second at a time, is not woken by a stop, and the stop waits for it: 0 to 1000 ms. So a
//! stop is quick when it is signalled just before that thread wakes. Its wakes can be seen from outside while clients run:
//! the thread has a name, and the kernel counts how often each thread was put on a CPU (`schedstat`). No wake is guessed:
//! one is seen, and the next comes a second after it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// As the server names it.
const MASTER: &str = "ib_src_main";
/// How long it sleeps.
const SLEEP: Duration = Duration::from_secs(1);
/// It wakes within this, or it is not what we take it for.
const PATIENCE: Duration = Duration::from_millis(1300);
/// How often it is looked at: a file of the kernel's memory.
const LOOK: Duration = Duration::from_millis(1);
/// It sleeps again when it has not run for so long.
const QUIET: Duration = Duration::from_millis(4);
/// One that works longer than this keeps no time.
const LONGEST_WORK: Duration = Duration::from_millis(100);

/// When the server `pid` looks next; `None` when that cannot be told. Takes up to a good second.
pub(super) async fn next_look(pid: u32) -> Option<Instant> {
    let master = master_thread(pid)?;
    let (deadline, asleep) = (Instant::now() + PATIENCE, ran(&master)?);
    let mut last = asleep.clone();
    while last == asleep {
        if Instant::now() > deadline {
            return None;
        }
        sleep(LOOK).await;
        last = ran(&master)?;
    }
    let woke = Instant::now();
    let mut slept = woke;
    while slept.elapsed() < QUIET {
        if woke.elapsed() > LONGEST_WORK {
            return None;
        }
        sleep(LOOK).await;
        let now = ran(&master)?;
        if now != last {
            (last, slept) = (now, Instant::now());
        }
    }
    Some(slept + SLEEP)
}

/// The folder of the one thread with its name.
fn master_thread(pid: u32) -> Option<PathBuf> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten().map(|thread| thread.path());
    let is_master =
        |thread: &PathBuf| fs::read_to_string(thread.join("comm")).is_ok_and(|name| name.trim() == MASTER);
    let mut masters = threads.filter(is_master);
    masters.next().filter(|_| masters.next().is_none())
}

/// Changes whenever the thread runs.
fn ran(thread: &Path) -> Option<String> {
    fs::read_to_string(thread.join("schedstat")).ok()
}
