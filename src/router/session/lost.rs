//! A client whose transaction is gone is answered by the router until it has ended it. Its next backend, which it may
//! have already because others can see its state, hears nothing of that: there a COMMIT would succeed.

use bytes::BytesMut;

use super::attach::{Concern, Idle};
use super::{End, Session};
use crate::engine::{Admission, Engine, Farewell, LostTransaction, Rest, Tracker};
use crate::router::backend::BackendError;
use crate::router::fleet::Order;
use crate::router::gate::{Phase, Signal};

impl<E: Engine> Session<E> {
    /// Answers what the client has sent, if its transaction is lost.
    pub(super) async fn answer_for_lost(&mut self) -> Result<(), End> {
        let Some(lost) = &mut self.lost else { return Ok(()) };
        let mut answer = BytesMut::new();
        if lost.receive(&mut self.client.from.bytes, &mut answer) {
            self.outlasting.unsplit(lost.outlasting());
            self.lost = None;
            self.rest.seen(&self.membership, &self.tracker);
        }
        if answer.is_empty() || self.tell(&answer).await { Ok(()) } else { Err(End::Client) }
    }

    /// One stretch with a backend that the client must not speak to yet.
    pub(super) async fn in_lost_transaction(&mut self, signal: &Signal) -> Result<(), End> {
        if matches!(signal.phase, Phase::Shut { .. }) && !self.rest.holds_still(signal.round) {
            return self.at_rest(signal).await;
        }
        self.answer_for_lost().await?;
        if self.lost.is_none() {
            return Ok(());
        }
        match self.tracker.client_bytes(&mut self.client.from.bytes, Admission::Nothing).rest {
            Rest::Goodbye => return Err(End::Client),
            Rest::Violation(text) => return Err(End::Told(Farewell::Violation(text))),
            Rest::Incomplete | Rest::Held | Rest::Draining | Rest::Intercept => {}
        }
        match self.idle(Concern::Gate, false).await {
            Idle::ClientGone => Err(End::Client),
            Idle::Order(Order::MakeRoom) => {
                self.keeps_place();
                Ok(())
            }
            // There is nothing to cancel.
            Idle::Bytes | Idle::Gate | Idle::Full | Idle::Order(_) => Ok(()),
        }
    }

    /// Makes the backend know what the client did in a lost transaction and what outlasts it.
    pub(super) async fn repeat_outlasting(&mut self) -> Result<(), End> {
        let Some(backend) = &mut self.backend else { return Ok(()) };
        let requests = self.outlasting.split().freeze();
        match backend.converse(E::repeat(&mut self.tracker, &requests)).await {
            Ok(aside) => self.pass_aside(aside).await,
            Err(BackendError::Dialogue(error)) => Err(End::Told(Farewell::StateLost(error.to_string()))),
            Err(_) => self.backend_lost().await,
        }
    }
}
