//! A COMMIT, or a statement outside a transaction, that is not answered when a change is forced.
//!
//! ```text
//!  No ──number of its transaction known──► StandsBy ──the backend is lost──► Left ──the next server knows──► answered
//!   ▲                                         │                               └──nobody knows──► closed
//!   └──────── the backend answers ────────────┘
//! ```
//!
//! What runs goes on until the old server stops, and may commit until then. The next server is asked what became of the
//! transaction before anybody else runs: a COMMIT gets its true answer, and a statement that was undone may be repeated.
//!
//! The number can only be had while the backend lives, and asking for it costs a round trip on another connection, so
//! it is asked for only here. A crash that nobody foresaw leaves a COMMIT unknown, as it does without a router.

use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::attach::{Concern, Idle};
use super::{End, Session};
use crate::engine::{DialogueError, Doubt, Engine, Farewell, Tracker};
use crate::router::admin::Admin;
use crate::router::backend::BackendError;
use crate::router::fleet::Attachment;
use crate::router::gate::{Phase, Signal};
use crate::router::relay::Event;

/// How long the number of a transaction is asked for: the question writes to the log, and a busy disk may take its time. What
/// a COMMIT waits for before ([`super::forced`]) and this end before all sessions have to be at rest.
const IDENTIFY: Duration = Duration::from_secs(3);
/// How long a server that serves again may take to know what became of a transaction.
const RESOLVE: Duration = Duration::from_secs(10);
/// Between two tries.
const RETRY: Duration = Duration::from_millis(20);

/// See the module.
pub(in crate::router) enum InDoubt {
    /// Nothing is.
    No,
    /// The transaction of what runs has this number.
    StandsBy(u64),
    /// Its backend is gone.
    Left {
        transaction: u64,
        doubt: Doubt,
        /// Why the session cannot go on once it has its answer.
        state_lost: Option<Farewell>,
    },
}

impl InDoubt {
    pub(super) fn stands_by(&self) -> bool {
        matches!(self, InDoubt::StandsBy(_))
    }

    pub(super) fn is_left(&self) -> bool {
        matches!(self, InDoubt::Left { .. })
    }

    /// What the client must be told if nothing more is learnt.
    pub(super) fn unknown(&self) -> Option<Farewell> {
        match self {
            InDoubt::Left { doubt, .. } => Some(doubt.unknown.clone()),
            InDoubt::No | InDoubt::StandsBy(_) => None,
        }
    }
}

impl<E: Engine> Session<E> {
    /// Finds out in which transaction the backend is, and holds still. `otherwise`: what the client is told if that
    /// would not help.
    pub(super) async fn stand_by(&mut self, signal: &Signal, otherwise: Farewell) -> Result<(), End> {
        let (Some(backend), Some(_), 0) = (&self.backend, self.tracker.doubt(), self.cleared) else {
            return self.closed(otherwise);
        };
        let query = E::transaction_query(&backend.logged_in);
        let deadline = Instant::now() + IDENTIFY;
        let mut number = None;
        if let (Some(query), Some(socket)) = (query, signal.socket.as_deref()) {
            let read = |value: &str| value.parse().ok();
            number = value(self.cluster.admin.clone(), socket, &query, deadline, read).await;
        }
        if self.gate.borrow().era != self.rest.era {
            // Another server may have been asked, where the number of our backend is somebody else's.
            number = None;
        }
        if number.is_none() {
            let session = self.membership.key().id;
            tracing::debug!(session, "which transaction is under way is not known");
        }
        match (number, self.pump_until(Instant::now()).await) {
            // The answer has come meanwhile.
            (_, Some(Event::Reported | Event::Intercept)) => Ok(()),
            (_, Some(Event::ClientGone | Event::Goodbye)) => Err(End::Client),
            (_, Some(Event::Violation(text))) => Err(End::Told(Farewell::Violation(text))),
            (Some(transaction), lost) => {
                self.doubt = InDoubt::StandsBy(transaction);
                if lost.is_some() {
                    return self.backend_lost().await;
                }
                self.rest.stands_still(signal.round);
                self.membership.keep_still(signal.round, Attachment::Still);
                Ok(())
            }
            (None, None) => self.closed(otherwise),
            (None, Some(Event::BackendGone | Event::Farewell)) => self.backend_lost().await,
        }
    }

    /// The backend is lost. `true`: the session waits for what the next server knows.
    pub(super) fn leave_in_doubt(&mut self) -> bool {
        let before = std::mem::replace(&mut self.doubt, InDoubt::No);
        let (InDoubt::StandsBy(transaction), Some(doubt)) = (before, self.tracker.doubt()) else {
            return false;
        };
        self.doubt = InDoubt::Left { transaction, doubt, state_lost: self.state_lost() };
        // It is answered before anybody runs, like sessions whose state others can see.
        self.detach_from_lost(true);
        true
    }

    /// One stretch without a backend and with an answer owed.
    pub(super) async fn resolve(&mut self, signal: &Signal) -> Result<(), End> {
        let serves = matches!(signal.phase, Phase::Open | Phase::Reattach);
        let (Some(socket), true) = (signal.socket.as_deref(), serves) else {
            return match self.idle(Concern::Gate, false).await {
                Idle::ClientGone => Err(End::Client),
                // There is nothing to cancel.
                Idle::Bytes | Idle::Gate | Idle::Full | Idle::Order(_) => Ok(()),
            };
        };
        let InDoubt::Left { transaction, doubt, state_lost } =
            std::mem::replace(&mut self.doubt, InDoubt::No)
        else {
            return Ok(());
        };
        let mut committed = None;
        if let Some(query) = E::outcome_query(transaction) {
            let read = |answer: &str| {
                let outcome = E::outcome(answer);
                if outcome.is_none() {
                    // It is the old server that serves again, where it runs on: nobody else need wait for that.
                    self.membership.detach(false);
                }
                outcome
            };
            let deadline = Instant::now() + RESOLVE;
            committed = value(self.cluster.admin.clone(), socket, &query, deadline, read).await;
        }
        let answer = match committed {
            Some(true) => doubt.committed,
            Some(false) => Some(doubt.aborted),
            None => None,
        };
        let session = self.membership.key().id;
        tracing::debug!(session, committed, "what was under way is known");
        let Some(answer) = answer else { return self.closed(doubt.unknown) };
        if !self.tell(&answer).await {
            return Err(End::Client);
        }
        if let Some(why) = state_lost {
            return self.closed(why);
        }
        self.membership.fared(|tally| match committed {
            Some(true) => tally.carried += 1,
            _ => tally.aborted += 1,
        });
        self.membership.detach(E::is_visible(&self.state));
        Ok(())
    }
}

/// Asks until the answer says something, in the router's own name.
async fn value<E: Engine, T>(
    admin: Admin<E>,
    socket: &Path,
    query: &str,
    deadline: Instant,
    read: impl Fn(&str) -> Option<T>,
) -> Option<T> {
    loop {
        match timeout_at(deadline, admin.value_at(socket, query)).await {
            Ok(Ok(value)) => {
                let found = value.as_deref().and_then(&read);
                if found.is_some() || value.is_none() {
                    return found;
                }
            }
            Ok(Err(BackendError::Dialogue(DialogueError::Refused { code, text, .. })))
                if !["53300", "57P03"].contains(&code.as_str()) =>
            {
                tracing::warn!(code, text, "a transaction cannot be asked for");
                return None;
            }
            // The server has no place just now, or is starting.
            Ok(Err(_)) => {}
            Err(_) => return None,
        }
        sleep(RETRY).await;
    }
}
