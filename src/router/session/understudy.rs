//! A session made ahead on the server that is to take over, while its client works on the old one.
//!
//! What others could see of it, and what may not be made on a server that takes no writes, comes when that server has taken over.
//! Whether it is still the same session is asked only then: it is, or it is of no use and the session is restored as
//! usual.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::task::JoinHandle;

use super::Session;
use crate::engine::Engine;
use crate::router::backend::{Backend, BackendError};
use crate::router::fleet::{Rehearsal, Stage};
use crate::router::gate::{Phase, Signal};
use crate::router::nonce;

/// How long the rest of it may take; then another backend is likely to be quicker.
const COMPLETION: Duration = Duration::from_secs(2);

/// A backend, and what it had to say while it was made the session.
type Made<E> = (Backend<E>, <E as Engine>::Restored);

/// See the module.
pub(in crate::router) struct Understudy<E: Engine> {
    /// What it is made of.
    ahead: E::Ahead,
    stage: Stage,
    /// A session that changes makes it anew, but not more often than it is surveyed.
    survey: u64,
    making: JoinHandle<Result<Made<E>, BackendError>>,
}

impl<E: Engine> Drop for Understudy<E> {
    fn drop(&mut self) {
        self.making.abort();
    }
}

impl<E: Engine> Session<E> {
    /// Makes one where there is a server for it, or gives up one that nobody needs any more.
    pub(super) fn rehearse(&mut self, signal: &Signal) {
        let Some(stage) = &signal.stage else {
            self.understudy = None;
            return;
        };
        if signal.phase != Phase::Open
            || self
                .understudy
                .as_ref()
                .is_some_and(|made| made.survey == signal.survey && made.stage == *stage)
        {
            return;
        }
        let Some(ahead) = E::ahead(&self.tracker, &self.state) else {
            self.understudy = None;
            return;
        };
        match &mut self.understudy {
            Some(made) if made.ahead == ahead && made.stage == *stage => {
                made.survey = signal.survey;
            }
            _ => self.understudy = Some(Box::new(self.make(ahead, stage.clone(), signal.survey))),
        }
    }

    /// Without a backend, only one on the server that serves, or is about to, is kept.
    pub(super) fn keep_understudy(&mut self, signal: &Signal) {
        let parked = self.parking.is_parked();
        let leaves = |made: &mut Box<Understudy<E>>| {
            let elsewhere = match &signal.socket {
                Some(socket) => *socket != made.stage.socket,
                None => signal.stage.is_none(),
            };
            parked || elsewhere
        };
        self.understudy.take_if(leaves);
    }

    fn make(&self, ahead: E::Ahead, stage: Stage, survey: u64) -> Understudy<E> {
        let log_in = E::log_in_again(&self.startup, &self.state);
        let (router, fleet) = (Arc::clone(&self.cluster.login), Arc::clone(&self.cluster.fleet));
        let (socket, plan) = (Arc::clone(&stage.socket), ahead.clone());
        let rehearsal = Rehearsal::new(&fleet);
        let making = tokio::spawn(async move {
            let _turn = rehearsal.turn().await;
            let mut backend = Backend::<E>::connect(&socket, log_in, &router).await?;
            let restore = E::rehearse(&plan, &backend.logged_in, nonce());
            let restored = backend.converse(restore).await?;
            Ok((backend, restored))
        });
        Understudy { ahead, stage, survey, making }
    }

    /// The session as it was made ahead, with what was missing, if it is the same and on that server.
    pub(super) async fn take_understudy(&mut self, socket: &Path) -> Option<Made<E>> {
        let mut understudy = self.understudy.take()?;
        let session = self.membership.key().id;
        let same = E::ahead(&self.tracker, &self.state).is_some_and(|ahead| ahead == understudy.ahead);
        if !same || *understudy.stage.socket != *socket {
            tracing::debug!(session, same, "the session is not what was made ahead");
            return None;
        }
        let (mut backend, ahead) = match (&mut understudy.making).now_or_never()?.ok()? {
            Ok(made) => made,
            Err(error) => {
                tracing::debug!(session, %error, "the session could not be made ahead");
                return None;
            }
        };
        let rest = E::complete(&self.tracker, &backend.logged_in, &self.state, nonce());
        match backend.converse_within(rest, COMPLETION).await {
            Ok(rest) => {
                self.cluster.metrics.parking.made_ahead.inc();
                Some((backend, E::joined(ahead, rest)))
            }
            Err(error) => {
                tracing::debug!(session, %error, "what was made ahead is of no use");
                // It may hold the session's locks by now, which the next one has to take.
                backend.part().await;
                None
            }
        }
    }
}
