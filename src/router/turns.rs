//! Turns: under a crowd only so many statements outside a transaction run at once, in the order of their arrival, where
//! that gains something.
//!
//! A few cores do the statements of a few backends sooner than those of hundreds that get in each other's way. A statement
//! has its turn until it is answered, opens a transaction, or has run for a few milliseconds; whoever is in a transaction
//! or holds a lock needs none ([`queue`] says why nothing can wait for ever). Whether turns gain anything depends on the
//! statements, so it is tried ([`pilot`]). With fewer clients than turns nobody ever waits.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::telemetry::TurnMetrics;

mod pilot;
mod queue;

use pilot::{Pilot, Way};
use queue::{Begun, Queue};

/// How often those that run for long are looked for, while somebody waits.
const TICK: Duration = Duration::from_millis(2);
/// How often a crowd is looked at otherwise.
const LOOK: Duration = Duration::from_millis(10);

/// After so many looks without one a crowd is gone.
const GONE: u32 = 25;

/// How many statements may run at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// As many as come.
    None,
    /// So many.
    Fixed(usize),
    /// So many, while that gains something.
    Adaptive(usize),
}

impl Limit {
    fn most(self) -> Option<usize> {
        match self {
            Limit::None => None,
            Limit::Fixed(most) | Limit::Adaptive(most) => Some(most),
        }
    }
}

/// The turns of one cluster.
pub struct Turns {
    queue: Mutex<Queue<Waker>>,
    limit: Mutex<Limit>,
    /// If more run or wait, there is a crowd; `usize::MAX`: it would change nothing.
    crowd: AtomicUsize,
    /// A limit is in force; else the queue need not be asked.
    limited: AtomicBool,
    begun: AtomicU64,
    /// How many statements run or wait.
    wanting: AtomicUsize,
    /// There is a crowd.
    bell: Arc<Notify>,
    /// The bell would be heard.
    asleep: AtomicBool,
    metrics: TurnMetrics,
}

impl Turns {
    /// Starts them without a limit.
    pub fn start(metrics: TurnMetrics) -> Arc<Turns> {
        let turns = Arc::new(Turns {
            queue: Mutex::default(),
            limit: Mutex::new(Limit::None),
            crowd: AtomicUsize::new(usize::MAX),
            limited: AtomicBool::new(false),
            begun: AtomicU64::new(0),
            wanting: AtomicUsize::new(0),
            bell: Arc::default(),
            asleep: AtomicBool::new(true),
            metrics,
        });
        tokio::spawn(watch(Arc::downgrade(&turns), Arc::clone(&turns.bell)));
        turns
    }

    /// From here on this is the limit.
    pub fn set_limit(&self, limit: Limit) {
        let mut own = self.limit.lock().unwrap_or_else(PoisonError::into_inner);
        if *own == limit {
            return;
        }
        *own = limit;
        self.crowd.store(limit.most().unwrap_or(usize::MAX), Ordering::Relaxed);
        self.enforce(match limit {
            Limit::Fixed(most) => Some(most),
            Limit::None | Limit::Adaptive(_) => None,
        });
    }

    fn enforce(&self, most: Option<usize>) {
        self.limited.store(most.is_some(), Ordering::Relaxed);
        self.metrics.limit.set(most.map_or(0, |most| i64::try_from(most).unwrap_or(i64::MAX)));
        self.settle(|queue| queue.set_limit(most));
    }

    /// More want to run than the limit that is thought of.
    fn is_crowded(&self) -> bool {
        self.wanting.load(Ordering::SeqCst) > self.crowd.load(Ordering::Relaxed)
    }

    /// Changes something, and tells those whose turn has come.
    fn settle(&self, change: impl FnOnce(&mut Queue<Waker>)) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut queue);
        while let Some(waker) = queue.grant() {
            waker.wake();
        }
    }

    /// Looks at a crowd once. `false`: it is not there just now.
    fn look(&self, pilot: &mut Pilot) -> bool {
        self.settle(Queue::tick);
        if let Some(most) = self.adaptive() {
            let way = pilot.step(Instant::now(), self.begun.load(Ordering::Relaxed));
            let limited = self.limited.load(Ordering::Relaxed);
            match way {
                Way::InTurns if !limited => self.enforce(Some(most)),
                Way::Freely if limited => self.enforce(None),
                Way::InTurns | Way::Freely => {}
            }
        }
        self.is_crowded()
    }

    fn adaptive(&self) -> Option<usize> {
        match *self.limit.lock().unwrap_or_else(PoisonError::into_inner) {
            Limit::Adaptive(most) => Some(most),
            Limit::None | Limit::Fixed(_) => None,
        }
    }

    /// Nothing is watched until the next crowd calls.
    fn rest(&self) {
        if self.adaptive().is_some() {
            self.enforce(None);
        }
        self.asleep.store(true, Ordering::SeqCst);
        if self.is_crowded() {
            self.call();
        }
    }

    /// There is a crowd.
    fn call(&self) {
        if self.asleep.load(Ordering::SeqCst) && self.asleep.swap(false, Ordering::SeqCst) {
            self.bell.notify_one();
        }
    }
}

impl Drop for Turns {
    fn drop(&mut self) {
        self.bell.notify_one();
    }
}

/// Watches crowds: lets those begin who would have to wait for a statement that takes long, and tries what gains.
async fn watch(turns: Weak<Turns>, bell: Arc<Notify>) {
    loop {
        bell.notified().await;
        let mut pilot = Pilot::new(Instant::now());
        // One that is not there for a moment has only paused.
        let mut missed = 0;
        while missed < GONE {
            let Some(turns) = turns.upgrade() else { return };
            missed = if turns.look(&mut pilot) { 0 } else { missed + 1 };
            let pause = if turns.limited.load(Ordering::Relaxed) { TICK } else { LOOK };
            drop(turns);
            sleep(pause).await;
        }
        let Some(turns) = turns.upgrade() else { return };
        turns.rest();
    }
}

/// Where a session is in its turn. Dropping it lets the next one begin.
pub struct Turn {
    turns: Arc<Turns>,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Idle,
    Waiting(u64),
    /// Its number, if it counts in the queue.
    Running(Option<u64>),
}

impl Turn {
    /// Of a session at rest.
    pub fn new(turns: &Arc<Turns>) -> Turn {
        Turn { turns: Arc::clone(turns), stage: Stage::Idle }
    }

    /// The session has a statement, and nothing under way. Ready: it may begin; [`end`](Self::end) is to follow.
    pub fn poll_begin(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Stage::Waiting(number) = self.stage {
            let mut queue = self.turns.queue.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(waker) = queue.waiter(number) {
                waker.clone_from(cx.waker());
                return Poll::Pending;
            }
            // It may have come so long ago that it does not count any more; then nobody minds.
            self.stage = Stage::Running(Some(number));
            return Poll::Ready(());
        }
        // One that is still said to run has ended unseen, with its backend.
        self.end();
        self.begin(cx)
    }

    fn begin(&mut self, cx: &Context<'_>) -> Poll<()> {
        let turns = &*self.turns;
        turns.begun.fetch_add(1, Ordering::Relaxed);
        // In one order with what `rest` does, or each could miss the other and nobody would watch.
        let wanting = turns.wanting.fetch_add(1, Ordering::SeqCst);
        if wanting >= turns.crowd.load(Ordering::Relaxed) {
            turns.call();
        }
        let mut begun = Begun::Freely;
        if turns.limited.load(Ordering::Relaxed) {
            let mut queue = turns.queue.lock().unwrap_or_else(PoisonError::into_inner);
            begun = queue.begin(|| cx.waker().clone());
        }
        match begun {
            Begun::Freely => self.stage = Stage::Running(None),
            Begun::Running(number) => self.stage = Stage::Running(Some(number)),
            Begun::Waiting(number) => {
                self.stage = Stage::Waiting(number);
                turns.metrics.waits.inc();
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }

    /// Its statement has come far enough, or is not wanted any more.
    pub fn end(&mut self) {
        let number = match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Idle => return,
            Stage::Waiting(number) => Some(number),
            Stage::Running(number) => number,
        };
        self.turns.wanting.fetch_sub(1, Ordering::Relaxed);
        if let Some(number) = number {
            self.turns.settle(|queue| queue.end(number));
        }
    }

    /// It has one.
    pub fn is_running(&self) -> bool {
        matches!(self.stage, Stage::Running(_))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::timeout;

    use super::*;

    async fn begin(turn: &mut Turn) {
        poll_fn(|cx| turn.poll_begin(cx)).await;
    }

    fn metrics() -> TurnMetrics {
        crate::telemetry::Metrics::new().cluster("orders").turns
    }

    #[tokio::test]
    async fn the_next_begins_when_one_has_ended_vanished_or_taken_long() {
        let seen = metrics();
        let turns = Turns::start(seen.clone());
        turns.set_limit(Limit::Fixed(1));
        assert_eq!(seen.limit.get(), 1);
        let mut all: Vec<Turn> = (0..4).map(|_| Turn::new(&turns)).collect();
        let mut first = all.remove(0);
        begin(&mut first).await;
        assert!(first.is_running());
        let mut waiting = all.remove(0);
        assert!(poll_fn(|cx| Poll::Ready(waiting.poll_begin(cx))).await.is_pending());
        assert_eq!(seen.waits.get(), 1);
        first.end();
        begin(&mut waiting).await;
        // A client that vanishes gives its turn to the next.
        drop(waiting);
        let (mut long, mut next) = (all.remove(0), all.remove(0));
        begin(&mut long).await;
        timeout(Duration::from_secs(5), begin(&mut next)).await.unwrap();
        assert!(long.is_running() && next.is_running());
        long.end();
        next.end();
        begin(&mut first).await;
        // With no limit nobody waits.
        turns.set_limit(Limit::None);
        begin(&mut long).await;
        first.end();
        long.end();
        assert_eq!((turns.wanting.load(Ordering::Relaxed), seen.limit.get()), (0, 0));
    }

    #[tokio::test]
    async fn those_who_wait_for_a_lock_keep_nobody_out() {
        let turns = Turns::start(metrics());
        turns.set_limit(Limit::Fixed(2));
        let mut all: Vec<Turn> = (0..50).map(|_| Turn::new(&turns)).collect();
        // None of them ends.
        for turn in &mut all {
            timeout(Duration::from_secs(5), begin(turn)).await.unwrap();
        }
    }
}
