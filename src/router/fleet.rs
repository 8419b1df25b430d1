//! Every session of one cluster: who it is, whether it has a backend, what keeps it from being moved.
//!
//! Sessions write here, the control plane reads. The lock is held for a few instructions, never across an await.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::futures::OwnedNotified;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, timeout_at};

mod aide;
mod doing;
mod ids;
mod membership;
mod orders;
mod places;
mod room;
mod stage;
mod survey;
mod unlogged;
mod view;

pub use aide::Aide;
pub use doing::Doing;
pub use ids::{ConnectionId, Ids};
pub use membership::Membership;
use orders::Post;
pub use orders::{Order, Orders};
pub(in crate::router) use room::LOOK;
pub use room::{Claim, Place};
pub use stage::{Rehearsal, Stage};
pub use survey::Surveying;
pub use unlogged::Unlogged;
pub use view::{Identity, SessionView};

use super::gate::{Gate, Hold, Phase, Signal};
use crate::engine::{CancelKey, Tie};

/// Whether a session has a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attachment {
    /// It has none, because its database is gone; its state is kept.
    Detached,
    /// It has none, because it was idle and others may need the place; its state is kept.
    Parked,
    /// It has one and may be using it.
    Attached,
    /// It has one and holds still (only while the gate is shut).
    Still,
    /// It has one, holds still, and must fetch something from it before the database goes.
    Fetching,
    /// It has one, holds still, and has state that cannot be carried.
    Blocked,
}

impl Attachment {
    /// It has one.
    pub fn has_backend(self) -> bool {
        !matches!(self, Attachment::Detached | Attachment::Parked)
    }
}

struct Member {
    key: CancelKey,
    secret_length: usize,
    orders: Post,
    backend_id: Option<u32>,
    identity: Identity,
    started: Instant,
    attachment: Attachment,
    tie: Option<Tie>,
    doing: Arc<Mutex<Doing>>,
    /// Detached since then, with state that others can see.
    visible: Option<Instant>,
}

/// How sessions fared in a change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Went on as if nothing had happened.
    pub carried: u32,
    /// Lost their transaction and went on.
    pub aborted: u32,
    /// Were closed.
    pub closed: u32,
}

#[derive(Default)]
struct Members {
    sessions: HashMap<u32, Member>,
    tally: Tally,
    /// How many sessions are in each [`Attachment`].
    counts: [usize; 6],
    /// How many sessions are detached with state that others can see.
    visible: usize,
    /// Which connection id stands behind a backend's process id.
    names: HashMap<u32, u32>,
    /// Setting names that sessions of a database have used, by database.
    setting_names: HashMap<String, Vec<String>>,
}

impl Members {
    fn set(&mut self, id: u32, to: Attachment) {
        let Some(member) = self.sessions.get_mut(&id) else { return };
        self.counts[member.attachment as usize] -= 1;
        self.counts[to as usize] += 1;
        member.attachment = to;
    }

    fn learn_setting_names(&mut self, database: &str, names: &[String]) -> &Vec<String> {
        let known = self.setting_names.entry(database.to_owned()).or_default();
        for name in names {
            if known.len() < MAX_SETTING_NAMES && !known.contains(name) {
                known.push(name.clone());
            }
        }
        known
    }

    fn set_visible(&mut self, id: u32, to: Option<Instant>) {
        let Some(member) = self.sessions.get_mut(&id) else { return };
        self.visible -= usize::from(member.visible.is_some());
        self.visible += usize::from(to.is_some());
        member.visible = to;
    }

    /// A session whose state others can see was detached a moment ago and has no backend yet.
    fn awaits_visible(&self) -> bool {
        let lately = |since: Instant| since.elapsed() < VISIBLE_FIRST;
        self.visible > 0 && self.sessions.values().filter_map(|m| m.visible).any(lately)
    }

    fn forget_detached_names(&mut self) {
        let Members { sessions, names, .. } = self;
        names.retain(|_, id| sessions.get(id).is_some_and(|m| m.attachment.has_backend()));
        let detached = sessions.values_mut().filter(|m| !m.attachment.has_backend());
        detached.for_each(|member| member.backend_id = None);
    }

    fn name_backend(&mut self, id: u32, backend_id: Option<u32>) {
        let Some(member) = self.sessions.get_mut(&id) else { return };
        let old = std::mem::replace(&mut member.backend_id, backend_id);
        // The server may have given the number of one that has ended to somebody else since.
        if let Some(old) = old.filter(|old| self.names.get(old) == Some(&id)) {
            self.names.remove(&old);
        }
        if let Some(new) = backend_id {
            self.names.insert(new, id);
        }
    }
}

/// How far a hold has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Everybody who has a backend holds still.
    All,
    /// This many are not.
    Waiting(usize),
    /// Somebody has state that cannot be carried.
    Standing,
}

/// After a crash that the server mends itself the gate stays open; sessions whose state others can see (a lock, above
/// all) are let in first, for this long.
const VISIBLE_FIRST: Duration = Duration::from_secs(5);
/// How many setting names are remembered for one database.
const MAX_SETTING_NAMES: usize = 1000;

/// See the module.
pub struct Fleet {
    members: Mutex<Members>,
    progress: Arc<Notify>,
    signal: watch::Sender<Signal>,
    /// Turns true when the router stops.
    closing: watch::Sender<bool>,
    places: Mutex<places::Places<room::Waiter>>,
    /// How many places are wanted that nobody was asked for.
    wanted: AtomicUsize,
    limit: usize,
    emptied: bool,
    /// Connections of the router's own.
    aides: AtomicUsize,
    unlogged: Arc<Unlogged>,
    /// Sessions that are being made ahead of a change, …
    rehearsing: AtomicUsize,
    /// … and how many more may be at the same time.
    rehearsals: Semaphore,
    /// Sessions that are about to look at themselves.
    surveying: AtomicUsize,
}

impl Fleet {
    /// A fleet of `limit` sessions at most, with no database yet. `emptied`: a database is to stop only when nobody is
    /// connected to it.
    pub fn new(limit: usize, emptied: bool) -> Arc<Fleet> {
        let signal = Signal { phase: Phase::Down, round: 0, era: 0, survey: 0, socket: None, stage: None };
        Arc::new(Fleet {
            members: Mutex::new(Members::default()),
            progress: Arc::new(Notify::new()),
            signal: watch::Sender::new(signal),
            closing: watch::Sender::new(false),
            places: Mutex::default(),
            wanted: AtomicUsize::new(0),
            limit,
            emptied,
            aides: AtomicUsize::new(0),
            unlogged: Arc::default(),
            rehearsing: AtomicUsize::new(0),
            rehearsals: Semaphore::new(stage::AT_ONCE),
            surveying: AtomicUsize::new(0),
        })
    }

    /// Who writes what the server's log may not have.
    pub fn unlogged(&self) -> &Arc<Unlogged> {
        &self.unlogged
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What sessions watch.
    pub fn gate(&self) -> Gate {
        self.signal.subscribe()
    }

    /// Turns true when the router stops, for sessions whom no other move of the gate concerns.
    pub fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    /// The gate's position.
    pub fn phase(&self) -> Phase {
        self.signal.borrow().phase
    }

    pub(super) fn signal(&self, change: impl FnOnce(&mut Signal)) {
        self.signal.send_modify(change);
        self.progress.notify_waiters();
    }

    /// Resolves at the next change of any session. Take it before looking: it remembers from then on.
    pub fn progress(&self) -> OwnedNotified {
        Arc::clone(&self.progress).notified_owned()
    }

    /// Shuts the gate.
    pub fn hold(self: &Arc<Self>) -> Hold {
        self.members().tally = Tally::default();
        Hold::new(Arc::clone(self))
    }

    /// A database serves at `socket`: restores what others can see, `deadline` at most, then opens the gate.
    pub async fn resume(&self, socket: Arc<Path>, deadline: Duration) {
        self.signal(|signal| {
            signal.phase = Phase::Reattach;
            signal.socket = Some(Arc::clone(&socket));
        });
        self.members().forget_detached_names();
        let deadline = Instant::now() + deadline;
        loop {
            let progress = self.progress();
            let waiting = self.members().visible > 0;
            if !waiting || timeout_at(deadline, progress).await.is_err() {
                break;
            }
        }
        self.open();
    }

    /// Opens the gate; sessions that hold still go on where they were.
    pub(super) fn open(&self) {
        // First the signal: whoever would hold still after the count was put right must find the gate open.
        self.signal(|signal| signal.phase = Phase::Open);
        let mut members = self.members();
        let held = [Attachment::Still, Attachment::Fetching, Attachment::Blocked];
        let still = members.sessions.iter().filter(|(_, m)| held.contains(&m.attachment));
        let still: Vec<u32> = still.map(|(id, _)| *id).collect();
        still.into_iter().for_each(|id| members.set(id, Attachment::Attached));
    }

    /// No database serves any more.
    pub fn down(&self) {
        self.signal(|signal| {
            signal.phase = Phase::Down;
            signal.era += 1;
            signal.socket = None;
        });
    }

    /// Sessions end at their next quiet moment, and no new one begins.
    pub fn close(&self) {
        self.signal(|signal| signal.phase = Phase::Closing);
        self.closing.send_replace(true);
    }

    /// How far the hold has come.
    pub(super) fn held(&self) -> Held {
        let counts = self.members().counts;
        match counts[Attachment::Attached as usize] {
            _ if counts[Attachment::Blocked as usize] > 0 => Held::Standing,
            0 => Held::All,
            busy => Held::Waiting(busy),
        }
    }

    /// How many sessions have a backend and do not hold still.
    pub(super) fn busy(&self) -> usize {
        self.members().counts[Attachment::Attached as usize]
    }

    /// How many connections there are that the database must not stop under: all sessions' but of those that hold still
    /// and have nothing to fetch, or every one where it is to be empty.
    pub fn attached(&self) -> usize {
        let attached = self.with_backend();
        let counts = self.members().counts;
        match self.emptied {
            true => attached + self.aides.load(Ordering::Relaxed),
            false => attached.saturating_sub(counts[Attachment::Still as usize]),
        }
    }

    /// The backends that sessions which hold still must fetch something from before the database goes.
    pub fn fetching(&self) -> Vec<u32> {
        let members = self.members();
        let fetching = members.sessions.values().filter(|m| m.attachment == Attachment::Fetching);
        fetching.filter_map(|member| member.backend_id).collect()
    }

    /// How many sessions have a backend.
    pub fn with_backend(&self) -> usize {
        let counts = self.members().counts;
        let without = counts[Attachment::Detached as usize] + counts[Attachment::Parked as usize];
        counts.iter().sum::<usize>() - without
    }

    /// How many sessions there are.
    pub fn len(&self) -> usize {
        self.members().sessions.len()
    }

    /// True without sessions.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How sessions fared since the last hold began.
    pub fn tally(&self) -> Tally {
        self.members().tally
    }

    /// Adds setting names that the sessions of a database are to be asked for.
    pub fn learn_setting_names(&self, database: &str, names: &[String]) {
        self.members().learn_setting_names(database, names);
    }
}

/// The fleet has as many sessions as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;
