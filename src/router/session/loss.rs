//! The backend is gone without having been let go: what the client can still be told truthfully.
//!
//! | what was under way | the client gets |
//! |---|---|
//! | nothing, and the session is known as it was | nothing; its session is restored |
//! | a transaction that certainly did not commit | 40001 for its next request (or the running one), then its session |
//! | a COMMIT, or a statement outside a transaction | "outcome unknown", and the connection closes (see [`super::doubt`]) |
//! | state that died with the server | the reason, and the connection closes |

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{End, Session};
use crate::engine::{Cause, DialogueError, Drift, Engine, Farewell, Fate, Loss, Obstacle, Tracker};
use crate::router::backend::{Backend, BackendError};

/// How long it may take to find out whether the server is gone.
const DOUBT: Duration = Duration::from_secs(5);

impl<E: Engine> Session<E> {
    pub(super) async fn backend_lost(&mut self) -> Result<(), End> {
        let Some(mut backend) = self.backend.take() else { return Ok(()) };
        // Whether the account lets the session in again, the next log in tells.
        self.rest.account.give_up();
        let words = backend.input.split_off(self.cleared.min(backend.input.len()));
        let answered = std::mem::take(&mut self.cleared);
        if answered > 0 && !self.tell(&backend.input).await {
            return Err(End::Client);
        }
        let server = match E::loss(&words) {
            Loss::Session => false,
            Loss::Server => true,
            Loss::Unclear if self.was_ended() => false,
            Loss::Unclear => self.server_is_gone().await,
        };
        if !server {
            self.tell(&words).await;
            return Err(End::Database);
        }
        drop(backend);
        // What was cleared for the old backend was perhaps sent and perhaps not; it counts as sent.
        let cleared = std::mem::take(&mut self.client.from.cleared);
        bytes::Buf::advance(&mut self.client.from.bytes, cleared);
        if self.leave_in_doubt() {
            return Ok(());
        }
        if let Some(why) = self.truth() {
            self.membership.fared(|tally| tally.closed += 1);
            return Err(End::Told(why));
        }
        let fate = self.tracker.fate();
        if fate != Fate::Carried {
            self.lost = Some(E::lost_transaction(&self.tracker));
        }
        let carried = matches!(fate, Fate::Carried | Fate::StatementFailed);
        if !self.rest.take_counted() {
            self.membership.fared(|tally| match carried {
                true => tally.carried += 1,
                false => tally.aborted += 1,
            });
        }
        self.detach_from_lost(E::is_visible(&self.state));
        Ok(())
    }

    /// The session goes on without the backend that is gone.
    pub(super) fn detach_from_lost(&mut self, visible: bool) {
        if self.tracker.drift() > Drift::None {
            E::weaken(&mut self.state);
        }
        self.tracker.reattached();
        self.rest.seen(&self.membership, &self.tracker);
        self.membership.detach(visible);
    }

    /// Another session has asked for the end of this one, a moment ago, and the server has not gone since.
    pub(super) fn was_ended(&self) -> bool {
        self.gate.borrow().era == self.rest.era && self.ended.is_some_and(|asked| asked.elapsed() < DOUBT)
    }

    /// Why the session must be closed, if it must.
    fn truth(&self) -> Option<Farewell> {
        match self.tracker.fate() {
            Fate::CommitUnknown => return Some(Farewell::CommitUnknown),
            Fate::StatementUnknown => return Some(Farewell::StatementUnknown),
            Fate::Carried | Fate::TransactionAborted | Fate::StatementAborted => {}
            Fate::StatementFailed | Fate::StatementCancelled => {}
        }
        self.state_lost()
    }

    /// What of the session's state died with the server, if any did.
    pub(super) fn state_lost(&self) -> Option<Farewell> {
        let of_wire = self.tracker.obstacle().filter(|obstacle| !obstacle.is_passing());
        // What becomes of a transaction that was found open, the fate says.
        let standing = self.rest.standing().filter(|obstacle| *obstacle != Obstacle::OpenTransaction);
        if let Some(obstacle) = standing.or(of_wire) {
            return Some(Farewell::StateLost(obstacle.to_string().replace('_', " ")));
        }
        if self.tracker.drift() == Drift::Possible {
            return Some(Farewell::StateLost("it had changed since it was last looked at".into()));
        }
        None
    }

    /// "Terminated by an administrator" is said to one session, or to all when the server stops: another log in tells.
    async fn server_is_gone(&mut self) -> bool {
        let deadline = Instant::now() + DOUBT;
        let mut gate = self.membership.gate();
        loop {
            let signal = gate.borrow_and_update().clone();
            if signal.era != self.rest.era {
                return true;
            }
            let Some(socket) = signal.socket else { return true };
            match Backend::<E>::connect(&socket, E::log_in(&self.startup), &self.cluster.login).await {
                Ok(backend) => {
                    backend.close();
                    return false;
                }
                Err(BackendError::Dialogue(DialogueError::Refused { cause, .. }))
                    if cause != Cause::Starting =>
                {
                    return false;
                }
                Err(_) if Instant::now() > deadline => return true,
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        }
    }
}
