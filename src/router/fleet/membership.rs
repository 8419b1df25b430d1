//! A session's own end of the fleet.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use subtle::ConstantTimeEq as _;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::{
    Aide, Attachment, ConnectionId, Doing, Fleet, Full, Identity, Member, Members, Order, Orders, Surveying,
    Tally, orders,
};
use crate::engine::{CancelClaim, CancelKey, Directory, Obstacle, Tie, Whereabouts};
use crate::router::gate::{Gate, Phase};

/// A session's own end of the fleet. Dropping it takes the session out.
pub struct Membership {
    pub(super) fleet: Arc<Fleet>,
    pub(super) id: u32,
    _reserved: ConnectionId,
    key: CancelKey,
    doing: Arc<Mutex<Doing>>,
    unlogged: AtomicBool,
}

impl Fleet {
    /// Takes a session in, detached. Returns its orders.
    pub fn join(
        self: &Arc<Self>,
        id: ConnectionId,
        identity: Identity,
        secret: [u8; 32],
        secret_length: usize,
    ) -> Result<(Membership, Orders), Full> {
        let (orders, received) = orders::orders();
        let doing = Arc::new(Mutex::new(Doing::nothing()));
        let mut members = self.members();
        if members.sessions.len() >= self.limit {
            return Err(Full);
        }
        let number = id.number();
        let key = CancelKey { id: number, secret };
        let member = Member {
            key,
            secret_length,
            orders,
            backend_id: None,
            identity,
            started: Instant::now(),
            attachment: Attachment::Detached,
            tie: None,
            doing: Arc::clone(&doing),
            visible: None,
        };
        members.counts[Attachment::Detached as usize] += 1;
        members.sessions.insert(number, member);
        Ok((
            Membership {
                fleet: Arc::clone(self),
                id: number,
                _reserved: id,
                key,
                doing,
                unlogged: AtomicBool::new(false),
            },
            received,
        ))
    }

    /// Has the statement cancelled that a client names by its key; silently does nothing if the key is wrong.
    /// Returns what resolves when the server was asked.
    pub fn cancel(&self, claim: &CancelClaim) -> Option<oneshot::Receiver<()>> {
        let members = self.members();
        let member = members.sessions.get(&claim.id)?;
        let expected = &member.key.secret[..member.secret_length];
        if !bool::from(expected.ct_eq(&claim.secret)) {
            return None;
        }
        let (done, asked) = oneshot::channel();
        member.orders.send(Order::Cancel(done)).ok()?;
        Some(asked)
    }
}

impl Membership {
    /// The session may write from here on what the server's log does not have.
    pub fn writes_unlogged(&self) {
        if !self.unlogged.swap(true, Ordering::Relaxed) {
            self.fleet.unlogged.begin();
        }
    }

    /// The session's connection id and cancel secret.
    pub fn key(&self) -> CancelKey {
        self.key
    }

    /// What the session watches.
    pub fn gate(&self) -> Gate {
        self.fleet.gate()
    }

    /// The same, if only the router's end concerns the session.
    pub fn closing(&self) -> watch::Receiver<bool> {
        self.fleet.closing()
    }

    /// May the session have a backend now?
    pub fn may_attach(&self) -> bool {
        self.is_allowed(&self.fleet.members())
    }

    fn is_allowed(&self, members: &Members) -> bool {
        let visible = members.sessions.get(&self.id).is_some_and(|member| member.visible.is_some());
        match self.fleet.phase() {
            Phase::Open => visible || !members.awaits_visible(),
            Phase::Reattach => visible,
            Phase::Down | Phase::Shut { .. } | Phase::LetGo | Phase::Closing => false,
        }
    }

    /// The same; if it may, it counts as attached from here on.
    pub fn attach(&self) -> bool {
        let mut members = self.fleet.members();
        let allowed = self.is_allowed(&members);
        if allowed {
            // What it was called on its last backend is nobody's now, or somebody else's.
            members.name_backend(self.id, None);
            members.set(self.id, Attachment::Attached);
        }
        allowed
    }

    /// The backend's process id, once it is logged in.
    pub fn attached_to(&self, backend_id: u32) {
        let mut members = self.fleet.members();
        members.name_backend(self.id, Some(backend_id));
        members.set_visible(self.id, None);
        drop(members);
        self.fleet.progress.notify_waiters();
    }

    /// The session has given its backend up, until its client speaks.
    pub fn parked(&self) {
        self.fleet.members().set(self.id, Attachment::Parked);
        self.fleet.progress.notify_waiters();
    }

    /// What was found that keeps the session from being parked.
    pub fn tied(&self, tie: Option<Tie>) {
        if let Some(member) = self.fleet.members().sessions.get_mut(&self.id) {
            member.tie = tie;
        }
    }

    /// The session has no backend any more. `visible`: it must be restored before anybody runs.
    pub fn detach(&self, visible: bool) {
        let mut members = self.fleet.members();
        members.set(self.id, Attachment::Detached);
        // Its backend's number stays known until the next one: others may yet hear from it.
        members.set_visible(self.id, Some(Instant::now()).filter(|_| visible));
        drop(members);
        self.fleet.progress.notify_waiters();
    }

    /// The session holds still for the hold of this round, in one of the three ways.
    pub fn keep_still(&self, round: u64, how: Attachment) {
        let mut members = self.fleet.members();
        let signal = self.fleet.signal.borrow().clone();
        let current = signal.round == round && matches!(signal.phase, Phase::Shut { .. });
        let attached = members.sessions.get(&self.id).is_some_and(|m| m.attachment.has_backend());
        if current && attached {
            members.set(self.id, how);
        }
        drop(members);
        self.fleet.progress.notify_waiters();
    }

    /// The session does not hold still for the hold of this round any more.
    pub fn move_on(&self, round: u64) {
        let mut members = self.fleet.members();
        let signal = self.fleet.signal.borrow().clone();
        let current = signal.round == round && matches!(signal.phase, Phase::Shut { .. });
        let still = members.sessions.get(&self.id).is_some_and(|m| m.attachment == Attachment::Still);
        if current && still {
            members.set(self.id, Attachment::Attached);
        }
        drop(members);
        self.fleet.progress.notify_waiters();
    }

    /// Counts a look that the session was asked to take at itself.
    pub fn surveying(&self) -> Surveying {
        Surveying::new(&self.fleet)
    }

    /// Counts a connection of the router's own.
    pub fn aide(&self) -> Aide {
        Aide::new(&self.fleet)
    }

    /// Adds to the tally of the change that is under way.
    pub fn fared(&self, add: impl FnOnce(&mut Tally)) {
        add(&mut self.fleet.members().tally);
    }

    /// Tells operators what the session is doing.
    pub fn doing(&self, obstacle: Option<Obstacle>, statement: &[u8]) {
        self.doing.lock().unwrap_or_else(PoisonError::into_inner).set(obstacle, statement);
    }

    /// The connection id behind a backend's process id.
    pub fn name_of(&self, backend_id: u32) -> Option<u32> {
        self.fleet.members().names.get(&backend_id).copied()
    }

    /// The session is another account's from here on.
    pub fn renamed(&self, user: &str, database: &str) {
        if let Some(member) = self.fleet.members().sessions.get_mut(&self.id) {
            member.identity.user = user.to_owned();
            member.identity.database = database.to_owned();
        }
    }

    /// Has another session get a backend.
    pub fn wake(&self, id: u32) {
        self.order(id, Order::Wake);
    }

    /// Tells another session that the server is asked to end its connection.
    pub fn ends(&self, id: u32) {
        self.order(id, Order::End);
    }

    fn order(&self, id: u32, order: Order) {
        if let Some(member) = self.fleet.members().sessions.get(&id) {
            // If it has many before it, it will look up soon anyway.
            drop(member.orders.send(order));
        }
    }

    /// Shares setting names with the other sessions of a database and returns what they know.
    pub fn share_setting_names(&self, database: &str, own: &[String]) -> Vec<String> {
        self.fleet.members().learn_setting_names(database, own).clone()
    }

    /// How many setting names are known in a database. It never falls.
    pub fn known_setting_names(&self, database: &str) -> usize {
        self.fleet.members().setting_names.get(database).map_or(0, Vec::len)
    }
}

impl Directory for Membership {
    fn find(&self, id: u32) -> Whereabouts {
        match self.fleet.members().sessions.get(&id) {
            None => Whereabouts::Unknown,
            Some(Member { backend_id: Some(backend), attachment, .. }) if attachment.has_backend() => {
                Whereabouts::At(*backend)
            }
            Some(_) => Whereabouts::Detached,
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut members = self.fleet.members();
        members.name_backend(self.id, None);
        members.set_visible(self.id, None);
        if let Some(member) = members.sessions.remove(&self.id) {
            members.counts[member.attachment as usize] -= 1;
        }
        drop(members);
        if *self.unlogged.get_mut() {
            self.fleet.unlogged.end();
        }
        self.fleet.progress.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Held, Ids};
    use super::*;

    fn attached(fleet: &Arc<Fleet>) -> Membership {
        let identity =
            Identity { user: String::new(), database: String::new(), client: String::new(), tls: None };
        let id = Arc::new(Ids::default()).reserve();
        let (membership, _orders) = fleet.join(id, identity, [0; 32], 4).unwrap();
        fleet.open();
        assert!(membership.attach());
        membership
    }

    #[test]
    fn a_session_that_goes_on_is_waited_for_again() {
        let fleet = Fleet::new(1, false);
        let session = attached(&fleet);
        let hold = fleet.hold();
        let round = fleet.gate().borrow().round;
        session.keep_still(round, Attachment::Still);
        session.move_on(round + 1);
        assert_eq!(fleet.held(), Held::All);
        session.move_on(round);
        assert_eq!(fleet.held(), Held::Waiting(1));
        // Behind the point of no return nothing changes any more.
        session.keep_still(round, Attachment::Still);
        let let_go = hold.let_go();
        session.move_on(round);
        assert_eq!(fleet.held(), Held::All);
        drop(let_go);
    }

    #[test]
    fn connections_of_the_routers_own_count_where_the_database_is_to_be_empty() {
        for (emptied, expected) in [(true, 2), (false, 1)] {
            let fleet = Fleet::new(1, emptied);
            let session = attached(&fleet);
            let aide = session.aide();
            assert_eq!(fleet.attached(), expected);
            drop(aide);
            assert_eq!(fleet.attached(), 1);
        }
    }
}
