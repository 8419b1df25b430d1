//! The clients: each keeps to a schedule of its own, whatever happens.
//!
//! A transaction's latency counts from when it was due, not from when it could be sent, if the one before was late.
//! (When the client was merely woken late by its timer, the time of sending counts: that is not the database's doing.)

use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};

use crate::subject::{Session, Subject};

/// How often a silent client looks whether it may go on.
const LOOK: Duration = Duration::from_millis(1);
/// So many idle clients connect at once.
const AT_ONCE: usize = 16;
/// Longer than any connection takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the clients do.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    /// Busy ones.
    pub(crate) clients: usize,
    /// Others that are connected and do nothing.
    pub(crate) idle: usize,
    /// Transactions per second of each busy one.
    pub(crate) rate: f64,
    /// Which transactions.
    pub(crate) kind: Kind,
    /// Rows in the table.
    pub(crate) accounts: u32,
}

/// Which transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A `SELECT` or an `UPDATE` of one row, in turns, as plain text.
    Simple,
    /// The same, by prepared statements.
    Prepared,
    /// `BEGIN; UPDATE; SELECT; COMMIT`, by prepared statements.
    Write,
}

impl FromStr for Kind {
    type Err = ();

    fn from_str(name: &str) -> Result<Kind, ()> {
        match name {
            "simple" => Ok(Kind::Simple),
            "prepared" => Ok(Kind::Prepared),
            "write" => Ok(Kind::Write),
            _ => Err(()),
        }
    }
}

type Latencies = Histogram<u64>;

/// What the clients and the benchmark share. Latencies are in microseconds.
struct Shared {
    running: AtomicBool,
    ended: AtomicBool,
    in_window: AtomicBool,
    all: Mutex<Latencies>,
    quiet: Mutex<Latencies>,
    worst: Vec<AtomicU64>,
    /// When transactions ended, while a change is under way.
    ends: Mutex<Vec<Instant>>,
    errors: Mutex<Vec<String>>,
}

/// The clients, on a thread of their own.
pub(crate) struct Clients {
    shared: Arc<Shared>,
    /// Has the idle ones come; each is told when they are there.
    crowd: mpsc::Sender<oneshot::Sender<()>>,
    thread: JoinHandle<()>,
}

impl Clients {
    /// Connects the busy ones; they are silent until [`run`](Clients::run).
    pub(crate) fn start(load: &Load, subject: Box<dyn Subject>, port: u16) -> Clients {
        let latencies = || Mutex::new(Latencies::new_with_bounds(1, 60_000_000, 3).expect("bounds"));
        let shared = Arc::new(Shared {
            running: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            in_window: AtomicBool::new(false),
            all: latencies(),
            quiet: latencies(),
            worst: (0..load.clients).map(|_| AtomicU64::new(0)).collect(),
            ends: Mutex::default(),
            errors: Mutex::default(),
        });
        let (load, theirs) = (load.clone(), Arc::clone(&shared));
        let (tell, connected) = oneshot::channel();
        let (crowd, mut crowds) = mpsc::channel::<oneshot::Sender<()>>(1);
        let thread = thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let mut busy = tokio::task::JoinSet::new();
                for number in 0..load.clients {
                    let client = connect(&*subject, port, Some(load.kind)).await;
                    busy.spawn(live(client, number, load.clone(), Arc::clone(&theirs)));
                }
                tell.send(()).expect("somebody waits");
                let mut idle = Vec::new();
                while let Some(there) = crowds.recv().await {
                    fill(&mut idle, load.idle, &*subject, port).await;
                    there.send(()).expect("somebody waits");
                }
                while busy.join_next().await.is_some() {}
                ask_once(idle, &theirs).await;
            });
        });
        connected.blocking_recv().expect("clients");
        Clients { shared, crowd, thread }
    }

    /// Connects the idle ones.
    pub(crate) fn crowd(&self) {
        let (there, all) = oneshot::channel();
        self.crowd.blocking_send(there).expect("clients");
        all.blocking_recv().expect("clients");
    }

    /// Lets them run.
    pub(crate) fn run(&self) {
        self.shared.running.store(true, Ordering::Relaxed);
    }

    /// Lets them finish what they are at, and be silent.
    pub(crate) fn pause(&self) {
        self.shared.running.store(false, Ordering::Relaxed);
    }

    /// A change is about to begin.
    pub(crate) fn window(&self) {
        self.shared.worst.iter().for_each(|worst| worst.store(0, Ordering::Relaxed));
        self.shared.ends.lock().expect("a lock").clear();
        self.shared.in_window.store(true, Ordering::Relaxed);
    }

    /// The longest wait of each since then, ms; the change is over.
    pub(crate) fn felt(&self) -> Vec<f64> {
        self.shared.in_window.store(false, Ordering::Relaxed);
        self.shared.worst.iter().map(|worst| worst.load(Ordering::Relaxed) as f64 / 1000.0).collect()
    }

    /// When transactions ended in this change, as seconds since `zero`.
    pub(crate) fn ends(&self, zero: Instant) -> Vec<f64> {
        let ends = self.shared.ends.lock().expect("a lock");
        let since = |end: &Instant| match end.checked_duration_since(zero) {
            Some(after) => after.as_secs_f64(),
            None => -zero.duration_since(*end).as_secs_f64(),
        };
        ends.iter().map(since).collect()
    }

    /// Latencies so far: all of them, and those outside of changes.
    pub(crate) fn latencies(&self) -> (Latencies, Latencies) {
        let copy = |from: &Mutex<Latencies>| from.lock().expect("a lock").clone();
        (copy(&self.shared.all), copy(&self.shared.quiet))
    }

    /// Forgets the latencies so far.
    pub(crate) fn forget(&self) {
        self.shared.all.lock().expect("a lock").reset();
        self.shared.quiet.lock().expect("a lock").reset();
    }

    /// Ends them all and says what went wrong for them.
    pub(crate) fn stop(self) -> Vec<String> {
        self.shared.ended.store(true, Ordering::Relaxed);
        drop(self.crowd);
        self.thread.join().expect("the clients");
        std::mem::take(&mut self.shared.errors.lock().expect("a lock"))
    }
}

/// Connects idle ones until there are so many.
async fn fill(idle: &mut Vec<Box<dyn Session>>, wanted: usize, subject: &dyn Subject, port: u16) {
    while idle.len() < wanted {
        let connecting = (idle.len()..wanted).take(AT_ONCE).map(|_| connect(subject, port, None));
        idle.extend(futures_util::future::join_all(connecting).await);
    }
}

async fn connect(subject: &dyn Subject, port: u16, work: Option<Kind>) -> Box<dyn Session> {
    let connecting = tokio::time::timeout(PATIENCE, subject.connect(port, work));
    connecting.await.expect("in time").expect("a connection")
}

/// One client's life.
async fn live(mut client: Box<dyn Session>, number: usize, load: Load, shared: Arc<Shared>) {
    let interval = Duration::from_secs_f64(1.0 / load.rate);
    let mut row = u32::try_from(number).unwrap_or(0) * 7919;
    let mut due = Instant::now();
    while !shared.ended.load(Ordering::Relaxed) {
        if !shared.running.load(Ordering::Relaxed) {
            sleep(LOOK).await;
            due = Instant::now() + interval.mul_f64(number as f64 / load.clients as f64);
            continue;
        }
        let is_late = Instant::now() > due;
        sleep_until(due).await;
        let begun = if is_late { due } else { Instant::now() };
        row = row.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let account = (row >> 8) % load.accounts + 1;
        if let Err(error) = client.run(account.cast_signed(), row & 0x10_0000 == 0).await {
            return shared.errors.lock().expect("a lock").push(format!("client {number}: {error}"));
        }
        shared.record(number, begun.elapsed());
        due += interval;
    }
}

impl Shared {
    fn record(&self, number: usize, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1);
        self.worst[number].fetch_max(micros, Ordering::Relaxed);
        self.all.lock().expect("a lock").saturating_record(micros);
        if self.in_window.load(Ordering::Relaxed) {
            self.ends.lock().expect("a lock").push(Instant::now());
        } else {
            self.quiet.lock().expect("a lock").saturating_record(micros);
        }
    }
}

/// Clients that were idle all the time must still be served.
async fn ask_once(idle: Vec<Box<dyn Session>>, shared: &Shared) {
    for mut client in idle {
        if let Err(error) = client.ask().await {
            shared.errors.lock().expect("a lock").push(format!("idle: {error}"));
        }
    }
}
