//! Whether the session's account would let it in again: found out ahead of a hold, because behind the point of no return it
//! is too late.
//!
//! ```text
//!  survey ──► unchanged ──────────────────────────────────────────────► free
//!         └─► changed ──► compared ──► (trial log in) ──┬── let in ───► free
//!                                                       ├── refused ──► obstacle `account`, looked at again
//!                                                       └── no answer ► tried again; soon in nobody's way
//! ```
//!
//! Only a refusal is in the way of a change. A trial that is late, or finds no place on a full server, proves nothing.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Session;
use crate::engine::{Access, Cause, DialogueError, Engine, Obstacle, RouterLogin};
use crate::router::accounts::Kept;
use crate::router::backend::{Backend, BackendError};
use crate::router::fleet::Aide;
use crate::router::gate::{Phase, Signal};

/// How long a trial may take, its turn included.
const TRIAL: Duration = Duration::from_secs(2);
/// So many trials without an answer are waited for.
const TRIALS: u8 = 2;

/// What a trial says.
pub(super) enum Verdict {
    /// The account lets the session in.
    Admitted,
    /// It does not, for this reason.
    Refused(String),
    /// Nothing.
    Nothing,
}

/// The account is not as it was.
struct Doubt {
    /// Which change it is ([`Access::Changed`]).
    change: u64,
    /// Why the account does not let the session in; `None`: not known (yet).
    refused: Option<String>,
    /// Trials without an answer.
    unanswered: u8,
    /// What says more.
    trial: JoinSet<Verdict>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Admittance {
    survey: u64,
    /// A change that made no difference.
    harmless: Option<u64>,
    doubt: Option<Box<Doubt>>,
}

impl Admittance {
    /// What keeps the session where it is.
    pub(super) fn obstacle(&self) -> Option<Obstacle> {
        self.refusal().map(|_| Obstacle::Account)
    }

    /// Why the account does not let the session in any more.
    pub(super) fn refusal(&self) -> Option<&str> {
        self.doubt.as_ref()?.refused.as_deref()
    }

    /// It may turn out in a moment that the account does not let the session in.
    pub(super) fn is_on_trial(&self) -> bool {
        self.doubt.as_ref().is_some_and(|doubt| {
            doubt.refused.is_none() && !doubt.trial.is_empty() && doubt.unanswered < TRIALS
        })
    }

    /// The next verdict; never, if none is to come.
    ///
    /// # Cancel safety
    /// No verdict is lost.
    pub(super) async fn verdict(&mut self) -> Verdict {
        match self.doubt.as_mut().filter(|doubt| !doubt.trial.is_empty()) {
            Some(doubt) => doubt.trial.join_next().await.and_then(Result::ok).unwrap_or(Verdict::Nothing),
            None => std::future::pending().await,
        }
    }

    /// A verdict has come.
    pub(super) fn judged(&mut self, verdict: Verdict) {
        let Some(doubt) = &mut self.doubt else { return };
        match verdict {
            Verdict::Admitted => {
                self.harmless = Some(doubt.change);
                self.doubt = None;
            }
            Verdict::Refused(why) => (doubt.refused, doubt.unanswered) = (Some(why), 0),
            Verdict::Nothing => doubt.unanswered = doubt.unanswered.saturating_add(1),
        }
    }

    /// The backend is given up: a trial would be in the way, and the next log in tells.
    pub(super) fn give_up(&mut self) {
        self.doubt = None;
    }

    /// `true`: a trial is to be begun.
    fn looked(&mut self, access: Access) -> bool {
        let change = match access {
            Access::Changed(change) if self.harmless != Some(change) => change,
            Access::Changed(_) | Access::Unchanged => {
                self.doubt = None;
                return false;
            }
        };
        let new = || Doubt { change, refused: None, unanswered: 0, trial: JoinSet::new() };
        let doubt = self.doubt.get_or_insert_with(|| Box::new(new()));
        if doubt.change != change {
            // What is under way is about something else.
            let refused = doubt.refused.take();
            **doubt = Doubt { refused, ..new() };
        }
        doubt.trial.is_empty()
    }
}

/// What a trial goes by.
struct Trial<E: Engine> {
    startup: E::Startup,
    account: Kept<E>,
    log_in: E::LogIn,
    entry: Option<E::Entry>,
    socket: Arc<Path>,
    router: Arc<RouterLogin>,
    turn: Arc<Semaphore>,
    aide: Aide,
}

impl<E: Engine> Trial<E> {
    async fn run(self) -> Verdict {
        timeout(TRIAL, self.log_in()).await.unwrap_or(Verdict::Nothing)
    }

    async fn log_in(self) -> Verdict {
        let Trial { startup, account, log_in, entry, socket, router, turn, aide } = self;
        let Ok(_turn) = turn.acquire().await else { return Verdict::Nothing };
        if let Some(why) = E::objection(&startup, (*account).as_ref()) {
            return Verdict::Refused(why);
        }
        let mut backend = match Backend::<E>::connect(&socket, log_in, &router).await {
            Ok(backend) => backend,
            Err(error) => return verdict(&error),
        };
        let entered = match entry {
            Some(entry) => backend.converse(entry).await,
            None => Ok(()),
        };
        backend.close();
        drop(aide);
        entered.map_or_else(|error| verdict(&error), |()| Verdict::Admitted)
    }
}

fn verdict(error: &BackendError) -> Verdict {
    match error {
        BackendError::Dialogue(refused @ DialogueError::Refused { cause: Cause::Final, .. }) => {
            Verdict::Refused(refused.to_string())
        }
        _ => Verdict::Nothing,
    }
}

impl<E: Engine> Session<E> {
    /// A survey has read the accounts: what of the session's own?
    pub(super) fn look_at_account(&mut self, signal: &Signal) {
        let account = &mut self.rest.account;
        if signal.phase != Phase::Open || account.survey == signal.survey {
            return;
        }
        account.survey = signal.survey;
        let (user, _) = E::describe(&self.startup);
        let (Some(kept), Some(backend)) = (self.cluster.accounts.of(user), &self.backend) else { return };
        let is_due = account.looked(E::access(&self.startup, (*kept).as_ref()));
        if let (true, Some(doubt), Some(socket)) = (is_due, &mut account.doubt, signal.socket.clone()) {
            let trial = Trial::<E> {
                startup: self.startup.clone(),
                account: kept,
                log_in: E::log_in_again(&self.startup, &self.state),
                entry: E::entry(&backend.logged_in, &self.state),
                socket,
                router: Arc::clone(&self.cluster.login),
                turn: self.cluster.accounts.trials(),
                aide: self.membership.aide(),
            };
            doubt.trial.spawn(trial.run());
        }
        self.rest.seen(&self.membership, &self.tracker);
    }

    /// A trial has ended.
    pub(super) fn judged(&mut self, verdict: Verdict) {
        let before = self.rest.account.obstacle();
        self.rest.account.judged(verdict);
        if before.is_none()
            && let Some(why) = self.rest.account.refusal()
        {
            let session = self.membership.key().id;
            tracing::warn!(session, why, "a session's account would not let it in again");
        }
        self.rest.seen(&self.membership, &self.tracker);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(account: &mut Admittance) {
        account.judged(Verdict::Refused("locked".into()));
    }

    #[test]
    fn only_a_refusal_is_in_the_way() {
        let mut account = Admittance::default();
        assert!(!account.looked(Access::Unchanged));
        assert!(account.looked(Access::Changed(1)));
        for _ in 0..5 {
            account.judged(Verdict::Nothing);
            assert_eq!(account.obstacle(), None);
            // It is tried again.
            assert!(account.looked(Access::Changed(1)));
        }
        refused(&mut account);
        assert_eq!(account.obstacle(), Some(Obstacle::Account));
        // A late trial does not make it free …
        account.judged(Verdict::Nothing);
        assert_eq!(account.refusal(), Some("locked"));
        // … another change is looked at first, and the old account is free at once.
        assert!(account.looked(Access::Changed(2)));
        assert_eq!(account.refusal(), Some("locked"));
        assert!(!account.looked(Access::Unchanged));
        assert_eq!(account.obstacle(), None);
    }

    #[test]
    fn a_change_that_makes_no_difference_is_tried_once() {
        let mut account = Admittance::default();
        assert!(account.looked(Access::Changed(1)));
        account.judged(Verdict::Admitted);
        assert!(!account.looked(Access::Changed(1)));
        assert!(account.looked(Access::Changed(2)));
        refused(&mut account);
        assert!(!account.looked(Access::Changed(1)));
        assert_eq!(account.obstacle(), None);
    }

    #[tokio::test]
    async fn a_trial_is_waited_for_but_not_for_ever() {
        let mut account = Admittance::default();
        for tried in 0..TRIALS + 1 {
            assert!(account.looked(Access::Changed(1)));
            assert!(!account.is_on_trial());
            let doubt = account.doubt.as_mut().unwrap();
            doubt.trial.spawn(std::future::ready(Verdict::Nothing));
            assert_eq!(account.is_on_trial(), tried < TRIALS);
            assert!(!account.looked(Access::Changed(1)));
            let verdict = account.verdict().await;
            account.judged(verdict);
        }
    }
}
