//! A forced change: the session is brought to rest, or closed.
//!
//! First the cases are reduced: what is running is cancelled, and the server's own answer, which is definite, goes to
//! the client. What is left is a session at rest (carried), one in a transaction, or one whose answer does not come.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout};

use super::{End, Session};
use crate::engine::{Drift, Engine, Farewell, Fate, Tracker};
use crate::router::ForcedChange;
use crate::router::gate::Signal;
use crate::router::relay::{self, Event, Manner, Pump, Report};

/// How long an answer is waited for after the cancel request.
const ANSWER: Duration = Duration::from_secs(2);

impl<E: Engine> Session<E> {
    pub(super) async fn bring_to_rest(&mut self, signal: &Signal) -> Result<(), End> {
        if self.tracker.is_running() {
            self.cancel_running().await?;
        }
        let mild = self.cluster.forced_change == ForcedChange::AbortTransaction;
        match self.tracker.fate() {
            Fate::Carried if self.tracker.is_quiet() && self.cleared == 0 => self.carried(signal).await,
            Fate::TransactionAborted if mild => self.abort_transaction(signal).await,
            Fate::CommitUnknown if mild => self.closed(Farewell::CommitUnknown),
            Fate::StatementUnknown | Fate::StatementAborted if mild => {
                self.closed(Farewell::StatementUnknown)
            }
            _ => self.closed(Farewell::ForcedChange),
        }
    }

    fn closed(&mut self, why: Farewell) -> Result<(), End> {
        self.membership.fared(|tally| tally.closed += 1);
        Err(End::Told(why))
    }

    async fn carried(&mut self, signal: &Signal) -> Result<(), End> {
        self.at_rest(signal).await?;
        if self.rest.standing().is_some() {
            return self.closed(Farewell::ForcedChange);
        }
        Ok(())
    }

    /// Cancels what runs (but never a COMMIT) and pumps until its answer has reached the client.
    async fn cancel_running(&mut self) -> Result<(), End> {
        let may_commit = self.tracker.fate() == Fate::CommitUnknown;
        let Some(backend) = &mut self.backend else { return Ok(()) };
        if let Some(abort) = self.tracker.abort_copy() {
            // The copy's own messages that were cleared belong before it.
            let cleared = std::mem::take(&mut self.client.from.cleared);
            let pending = self.client.from.bytes.split_to(cleared);
            let sent = timeout(ANSWER, async {
                backend.stream.write_all(&pending).await?;
                backend.stream.write_all(abort).await
            });
            if !matches!(sent.await, Ok(Ok(()))) {
                return self.backend_lost().await;
            }
        } else if !may_commit {
            backend.cancel().await;
        }
        let deadline = Instant::now() + ANSWER;
        match self.pump_until(deadline).await {
            None | Some(Event::Reported) => Ok(()),
            Some(Event::ClientGone | Event::Goodbye) => Err(End::Client),
            Some(Event::Violation(text)) => Err(End::Told(Farewell::Violation(text))),
            Some(Event::BackendGone | Event::Farewell) => self.backend_lost().await,
        }
    }

    async fn pump_until(&mut self, deadline: Instant) -> Option<Event> {
        let Session { membership, client, backend, cleared, tracker, rest, cluster, .. } = self;
        let backend = backend.as_mut()?;
        let names = |backend_id| membership.name_of(backend_id);
        let mut watch = |tracker: &E::Tracker| rest.seen(membership, tracker);
        let metrics = &cluster.metrics;
        let pump = Pump { client, backend, cleared, tracker, names: &names, watch: &mut watch, metrics };
        let manner = Manner { shut: true, report: Report::Answered };
        tokio::time::timeout_at(deadline, relay::pump(pump, manner)).await.ok()
    }

    /// The gentler form: the transaction is rolled back where it is, the session carried, and the client told when it
    /// speaks next.
    async fn abort_transaction(&mut self, signal: &Signal) -> Result<(), End> {
        let lost = E::lost_transaction(&self.tracker);
        let Some(backend) = &mut self.backend else { return Ok(()) };
        if backend.converse(E::admin_query("ROLLBACK", &[])).await.is_err() {
            return self.closed(Farewell::ForcedChange);
        }
        self.tracker.reattached();
        // What the transaction did to the session (prepared statements, locks) outlives it: look again.
        self.look_at_itself().await?;
        debug_assert_eq!(self.tracker.drift(), Drift::None);
        self.lost = Some(lost);
        self.at_rest(signal).await?;
        if self.rest.standing().is_some() {
            self.lost = None;
            return self.closed(Farewell::ForcedChange);
        }
        self.membership.fared(|tally| tally.aborted += 1);
        Ok(())
    }
}
