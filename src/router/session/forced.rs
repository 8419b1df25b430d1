//! A forced change: the session is brought to rest, or closed.
//!
//! First the cases are reduced: what is running is cancelled, and the server's own answer, which is definite, goes to
//! the client. What is left is a session at rest (carried), one in a transaction, or one whose answer does not come
//! ([`super::doubt`]).

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout};

use super::park::Watch;
use super::{End, Session};
use crate::engine::{Admission, Drift, Engine, Farewell, Fate, Tracker};
use crate::router::ForcedChange;
use crate::router::gate::Signal;
use crate::router::relay::{self, Event, Manner, Pump, Report};

/// How long bytes may take to a backend that is to end what runs.
const SENT: Duration = Duration::from_secs(2);
/// When it is cancelled again, or the next statement of a pipeline, if it runs that long. Not sooner: a request that a busy
/// server has not got to yet would be followed by one that hits the next statement.
const AGAIN: Duration = Duration::from_millis(250);
/// How many cancel requests may have no effect. Counted, for the time passes on a machine that stands still, too.
const CANCELS: u32 = 8;
/// Until when all is answered, which is well before all sessions have to be at rest.
const ANSWERS: Duration = Duration::from_secs(6);

/// What became of a cancel request.
enum Interrupted {
    /// The backend is gone.
    Lost,
    /// `heard`: the server knows of it.
    Asked { heard: bool },
}

impl<E: Engine> Session<E> {
    pub(super) async fn bring_to_rest(&mut self, signal: &Signal) -> Result<(), End> {
        let answered = self.have_answered().await;
        self.tracker.forcing(false);
        let cancelled = answered?;
        if self.backend.is_none() {
            return Ok(());
        }
        let mild = self.cluster.forced_change == ForcedChange::AbortTransaction;
        // A client that does not take its answers cannot be told anything in between.
        let told = self.cleared == 0;
        match self.tracker.fate() {
            // The server may make of it what it likes when its connection ends.
            Fate::TransactionAborted if self.tracker.is_running() && !cancelled => {
                self.closed(Farewell::StatementUnknown)
            }
            Fate::Carried if self.tracker.is_quiet() && told => self.carried(signal).await,
            Fate::StatementFailed | Fate::StatementCancelled if told => self.abort_transaction(signal).await,
            Fate::TransactionAborted if mild && told => self.abort_transaction(signal).await,
            Fate::CommitUnknown if mild => self.stand_by(signal, Farewell::CommitUnknown).await,
            Fate::StatementUnknown if mild => self.stand_by(signal, Farewell::StatementUnknown).await,
            Fate::StatementAborted if mild => self.closed(Farewell::StatementUnknown),
            _ => self.closed(Farewell::ForcedChange),
        }
    }

    pub(super) fn closed(&mut self, why: Farewell) -> Result<(), End> {
        self.membership.fared(|tally| tally.closed += 1);
        Err(End::Told(why))
    }

    async fn carried(&mut self, signal: &Signal) -> Result<(), End> {
        self.at_rest(signal).await?;
        if self.backend.is_some() && self.rest.standing().is_some() {
            return self.closed(self.reason());
        }
        Ok(())
    }

    /// What a session is told that cannot be carried.
    fn reason(&self) -> Farewell {
        match self.rest.account.refusal() {
            Some(why) => Farewell::StateLost(why.to_owned()),
            None => Farewell::ForcedChange,
        }
    }

    /// Cancels what runs until all of it is answered and the client has the answers, as long as that is worth waiting
    /// for. Nothing new begins meanwhile. `true`: what is still running was cancelled, and only its answer is missing.
    async fn have_answered(&mut self) -> Result<bool, End> {
        let end = Instant::now() + ANSWERS;
        let mut left = CANCELS;
        let mut cancelled = false;
        while self.backend.is_some() {
            let unanswered = self.tracker.unanswered();
            if self.tracker.is_running() {
                match self.interrupt().await {
                    Interrupted::Lost => return self.backend_lost().await.map(|()| false),
                    Interrupted::Asked { heard } => cancelled |= heard,
                }
            }
            match self.pump_until(end.min(Instant::now() + AGAIN)).await {
                None if self.tracker.unanswered() < unanswered => left = CANCELS,
                None => left -= 1,
                Some(Event::Reported) => return Ok(cancelled),
                Some(Event::ClientGone | Event::Goodbye) => return Err(End::Client),
                Some(Event::Violation(text)) => return Err(End::Told(Farewell::Violation(text))),
                Some(Event::BackendGone | Event::Farewell) => {
                    return self.backend_lost().await.map(|()| false);
                }
                // What is not begun waits.
                Some(Event::Intercept) => return Ok(cancelled),
            }
            if left == 0 || Instant::now() >= end {
                break;
            }
        }
        Ok(cancelled)
    }

    /// Cancels what runs, but never a COMMIT.
    async fn interrupt(&mut self) -> Interrupted {
        let may_commit = self.tracker.fate() == Fate::CommitUnknown;
        let Some(backend) = &mut self.backend else { return Interrupted::Lost };
        let Some(abort) = self.tracker.abort_copy() else {
            if may_commit {
                return Interrupted::Asked { heard: false };
            }
            self.tracker.forcing(true);
            return Interrupted::Asked { heard: backend.cancel().await };
        };
        match self.write_cleared(abort).await {
            true => Interrupted::Asked { heard: true },
            false => Interrupted::Lost,
        }
    }

    /// What the client has sent of a copy or a file and is already counted goes to the backend, and `then` behind it.
    async fn write_cleared(&mut self, then: &[u8]) -> bool {
        let Some(backend) = &mut self.backend else { return false };
        let cleared = std::mem::take(&mut self.client.from.cleared);
        let pending = self.client.from.bytes.split_to(cleared);
        let sent = timeout(SENT, async {
            backend.stream.write_all(&pending).await?;
            backend.stream.write_all(then).await
        });
        matches!(sent.await, Ok(Ok(())))
    }

    pub(super) async fn pump_until(&mut self, deadline: Instant) -> Option<Event> {
        let Session { membership, client, backend, cleared, tracker, rest, parking, cluster, .. } = self;
        let backend = backend.as_mut()?;
        let names = |backend_id| membership.name_of(backend_id);
        let (shown, _) = rest.apart();
        let mut watch = Watch { shown, parking, membership, parkable: false };
        let metrics = &cluster.metrics;
        let pump = Pump { client, backend, cleared, tracker, names: &names, watch: &mut watch, metrics };
        let manner = Manner { admission: Admission::Nothing, report: Report::Answered, in_turn: false };
        tokio::time::timeout_at(deadline, relay::pump(pump, manner)).await.ok()
    }

    /// The gentler form: the transaction is rolled back where it is, the session carried, and the client told when it
    /// speaks next.
    async fn abort_transaction(&mut self, signal: &Signal) -> Result<(), End> {
        let lost = E::lost_transaction(&self.tracker);
        let carried = self.tracker.fate() == Fate::StatementFailed;
        if !self.write_cleared(&[]).await {
            return self.closed(Farewell::ForcedChange);
        }
        let Some(backend) = &mut self.backend else { return Ok(()) };
        let Ok(aside) = backend.converse(E::roll_back(&self.tracker)).await else {
            // A file that was cut off may be loaded if the request to cancel it came too early.
            return self.closed(match self.tracker.is_running() {
                true => Farewell::StatementUnknown,
                false => Farewell::ForcedChange,
            });
        };
        self.tracker.rolled_back();
        self.pass_aside(aside).await?;
        // What the transaction did to the session (prepared statements, locks) outlives it: look again.
        self.at_rest(signal).await?;
        if self.backend.is_none() || self.rest.standing().is_some() || self.tracker.drift() > Drift::None {
            return self.closed(self.reason());
        }
        self.lost = Some(lost);
        self.rest.was_counted();
        self.membership.fared(|tally| match carried {
            true => tally.carried += 1,
            false => tally.aborted += 1,
        });
        Ok(())
    }
}
