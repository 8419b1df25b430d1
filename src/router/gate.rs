//! The gate in front of a cluster's sessions, and the hold that a capacity change takes on it.
//!
//! ```text
//!           hold()                let_go()               resume()            open()
//!   Open ───────────► Shut ─────────────────► LetGo ──────────────► Reattach ──────► Open
//!    ▲                 │                        │
//!    └──── drop ───────┘                        └── drop ──► Down ──resume()──► …
//! ```
//!
//! * **Open**: requests pass. A session without a backend gets one when its client speaks.
//! * **Shut**: a session at rest keeps new requests in its buffer and holds still; others run on until they come to rest.
//! * **LetGo**: the point of no return is passed; sessions give their backends up.
//! * **Reattach**: the new database serves; sessions whose state others can see are restored, the rest wait.
//! * **Down**: no database serves.
//!
//! Dropping a [`Hold`] opens the gate again: rolling back is the default. Only [`Hold::let_go`] consumes it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::fleet::{Attachment, Fleet, Held, Stage};

/// What the gate tells sessions to do; see the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// No database serves.
    Down,
    /// Requests pass.
    Open,
    /// Requests are held. `forced`: what does not come to rest is brought to rest.
    Shut {
        /// See above.
        forced: bool,
    },
    /// Give the backend up.
    LetGo,
    /// Restore what others can see.
    Reattach,
    /// The router stops: end at the next quiet moment.
    Closing,
}

/// The gate's position and which database it leads to.
#[derive(Debug, Clone)]
pub struct Signal {
    /// What to do.
    pub phase: Phase,
    /// Counts holds, so that an answer to an older one is not taken for one to this.
    pub round: u64,
    /// Counts databases: a backend of an older era is gone or going.
    pub era: u64,
    /// Counts surveys: sessions at rest look at themselves once for each.
    pub survey: u64,
    /// The database's private socket, while there is one.
    pub socket: Option<Arc<Path>>,
    /// Where sessions may be made ahead of a change.
    pub stage: Option<Stage>,
}

/// Sessions are being gathered at the gate. Dropping it lets everybody go on where they were.
pub struct Hold {
    fleet: Arc<Fleet>,
    let_go: bool,
}

/// Why a hold did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotGathered {
    /// The budget ran out with this many sessions still busy.
    Busy(usize),
    /// A session has state that does not end with its transaction.
    Standing,
}

impl Hold {
    /// Shuts the gate.
    pub(super) fn new(fleet: Arc<Fleet>) -> Hold {
        fleet.signal(|signal| {
            signal.phase = Phase::Shut { forced: false };
            signal.round += 1;
        });
        Hold { fleet, let_go: false }
    }

    /// Waits until every session with a backend holds still, `budget` at most.
    ///
    /// # Cancel safety
    /// Safe: nothing but waiting happens here.
    pub async fn gather(&self, budget: Duration) -> Result<(), NotGathered> {
        let deadline = Instant::now() + budget;
        loop {
            let progress = self.fleet.progress();
            match self.fleet.held() {
                Held::All => return Ok(()),
                Held::Standing => return Err(NotGathered::Standing),
                Held::Waiting(busy) => {
                    if timeout_at(deadline, progress).await.is_err() {
                        return Err(NotGathered::Busy(busy));
                    }
                }
            }
        }
    }

    /// Waits until nobody is busy, `budget` at most. Sessions whose state cannot be carried do not count as busy.
    async fn spare(&self, budget: Duration) {
        let deadline = Instant::now() + budget;
        loop {
            let progress = self.fleet.progress();
            if self.fleet.busy() == 0 || timeout_at(deadline, progress).await.is_err() {
                return;
            }
        }
    }

    /// Brings every session to rest that does not come to rest by itself within `budget`: its statement is cancelled,
    /// its transaction ended. Whoever cannot be carried is closed. Waits until all hold still or are gone, `grace` at most.
    pub async fn force(&self, budget: Duration, grace: Duration) -> Result<(), NotGathered> {
        self.spare(budget).await;
        self.fleet.signal(|signal| signal.phase = Phase::Shut { forced: true });
        let deadline = Instant::now() + grace;
        loop {
            let progress = self.fleet.progress();
            // Whoever has state that cannot be carried is about to be closed, and waited for as well.
            let held = self.fleet.held();
            if held == Held::All {
                return Ok(());
            }
            if timeout_at(deadline, progress).await.is_err() {
                return Err(NotGathered::Busy(self.fleet.busy()));
            }
        }
    }

    /// The point of no return: sessions give their backends up.
    pub fn let_go(mut self) -> LetGo {
        self.let_go = true;
        self.fleet.carry_parked();
        self.fleet.signal(|signal| {
            signal.phase = Phase::LetGo;
            signal.era += 1;
            signal.socket = None;
        });
        LetGo { fleet: Arc::clone(&self.fleet), resumed: false }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !self.let_go {
            self.fleet.open();
        }
    }
}

/// Nobody has a backend. Dropping it leaves the cluster down, with its sessions waiting.
pub struct LetGo {
    fleet: Arc<Fleet>,
    resumed: bool,
}

impl LetGo {
    /// Waits until nobody needs a backend of the old database any more, `deadline` at most. Whoever merely has not closed
    /// its connection yet, or is late, finds it closed by the database.
    pub async fn gone(&self, deadline: Duration) {
        self.until(deadline, |fleet| fleet.attached() == 0).await;
    }

    /// Waits until nobody has a backend of the old database, `deadline` at most. Where the next one serves at once, that
    /// must be known: a session that has not let go yet has not said either that others can see what it has.
    pub async fn all_gone(&self, deadline: Duration) {
        self.until(deadline, |fleet| fleet.with_backend() == 0).await;
        for view in self.fleet.sessions() {
            if !matches!(view.attachment, Attachment::Detached | Attachment::Parked) {
                let (session, attachment) = (view.id, view.attachment);
                tracing::warn!(session, ?attachment, "a session does not leave the old server");
            }
        }
    }

    async fn until(&self, deadline: Duration, is_so: impl Fn(&Fleet) -> bool) {
        let deadline = Instant::now() + deadline;
        loop {
            let progress = self.fleet.progress();
            if is_so(&self.fleet) || timeout_at(deadline, progress).await.is_err() {
                return;
            }
        }
    }

    /// A database serves again: restores the sessions whose state others can see, `deadline` at most, then opens.
    ///
    /// # Cancel safety
    /// Dropping it leaves the cluster down.
    pub async fn resume(mut self, socket: Arc<Path>, deadline: Duration) {
        self.fleet.resume(socket, deadline).await;
        self.resumed = true;
    }
}

impl Drop for LetGo {
    fn drop(&mut self) {
        if !self.resumed {
            self.fleet.down();
        }
    }
}

/// What a session watches.
pub type Gate = watch::Receiver<Signal>;
