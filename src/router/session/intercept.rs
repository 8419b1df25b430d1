//! Requests that the router looks at itself: those that name another session by the id that clients know, and those that
//! only the router can answer.

use std::time::Duration;

use bytes::BytesMut;
use tokio::time::{Instant, sleep};

use super::{End, Session};
use crate::engine::{Admission, Directory, Engine, Intercepted, Rest, Tracker, Whereabouts};
use crate::router::fleet::Membership;
use crate::router::gate::Phase;

/// How long a session that is named may take to get a backend.
const WAKING: Duration = Duration::from_secs(2);
/// Between two looks at it.
const AGAIN: Duration = Duration::from_millis(5);

/// Knows nobody.
struct Nobody;

impl Directory for Nobody {
    fn find(&self, _: u32) -> Whereabouts {
        Whereabouts::Unknown
    }
}

impl<E: Engine> Session<E> {
    /// Looks at the request at the front; nothing is under way.
    pub(super) async fn intercept(&mut self) -> Result<(), End> {
        let mut answer = BytesMut::new();
        let input = &mut self.client.from.bytes;
        let mut intercepted = self.tracker.intercept(input, &self.membership, &mut answer);
        if let Intercepted::Wakes(id) = intercepted {
            let found = wake(&self.membership, id).await;
            let input = &mut self.client.from.bytes;
            if !found && self.tracker.client_bytes(input, admission(&self.membership)).rest == Rest::Held {
                // The gate has shut meanwhile, and at rest this waits there like any other request.
                return Ok(());
            }
            intercepted = match found {
                true => self.tracker.intercept(input, &self.membership, &mut answer),
                false => self.tracker.intercept(input, &Nobody, &mut answer),
            };
        }
        match intercepted {
            Intercepted::Ends(ids) => ids.into_iter().for_each(|id| self.membership.ends(id)),
            Intercepted::Reauthenticate(request) => return Box::pin(self.reauthenticate(request)).await,
            Intercepted::Pass | Intercepted::Answered | Intercepted::Wakes(_) => {}
        }
        if answer.is_empty() || self.tell(&answer).await { Ok(()) } else { Err(End::Client) }
    }
}

/// What the gate lets pass now.
fn admission(membership: &Membership) -> Admission {
    match membership.gate().borrow().phase {
        Phase::Open => Admission::All,
        _ => Admission::OpenTransaction,
    }
}

/// Has another session get a backend. `false`: it has none in time, or gets none because the gate is not open.
async fn wake(membership: &Membership, id: u32) -> bool {
    membership.wake(id);
    let deadline = Instant::now() + WAKING;
    while Instant::now() < deadline && membership.gate().borrow().phase == Phase::Open {
        match membership.find(id) {
            Whereabouts::At(_) => return true,
            Whereabouts::Unknown => return false,
            Whereabouts::Detached => sleep(AGAIN).await,
        }
    }
    false
}
