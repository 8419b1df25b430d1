//! Sessions as operators and the control plane see them.

use std::sync::PoisonError;

use tokio::time::Instant;

use super::{Attachment, Doing, Fleet, Member};
use crate::engine::{Obstacle, Tie};

/// Who a session is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The account.
    pub user: String,
    /// The database.
    pub database: String,
    /// The client's address.
    pub client: String,
    /// The TLS version, if its bytes are encrypted.
    pub tls: Option<&'static str>,
}

/// A session as others see it.
#[derive(Debug, Clone)]
pub struct SessionView {
    /// The connection id that its client knows.
    pub id: u32,
    /// Who it is.
    pub identity: Identity,
    /// When it began.
    pub started: Instant,
    /// Whether it has a backend.
    pub attachment: Attachment,
    /// What keeps it from being parked besides an obstacle.
    pub tie: Option<Tie>,
    /// What it is doing.
    pub doing: Doing,
}

impl Fleet {
    /// The databases that sessions are in.
    pub fn databases(&self) -> Vec<String> {
        let members = self.members();
        let mut databases: Vec<String> =
            members.sessions.values().map(|member| member.identity.database.clone()).collect();
        databases.sort_unstable();
        databases.dedup();
        databases
    }

    /// The accounts of all sessions.
    pub fn users(&self) -> Vec<String> {
        let members = self.members();
        let mut users: Vec<String> =
            members.sessions.values().map(|member| member.identity.user.clone()).collect();
        users.sort_unstable();
        users.dedup();
        users
    }

    /// Whether that keeps one of the sessions where it is.
    pub fn has(&self, obstacle: Obstacle) -> bool {
        self.members().sessions.values().any(|member| member.view_of_doing().obstacle == Some(obstacle))
    }

    /// All sessions, oldest first.
    pub fn sessions(&self) -> Vec<SessionView> {
        let members = self.members();
        let mut views: Vec<SessionView> =
            members.sessions.iter().map(|(id, member)| member.view(*id)).collect();
        views.sort_by_key(|view| view.id);
        views
    }
}

impl Member {
    fn view(&self, id: u32) -> SessionView {
        SessionView {
            id,
            identity: self.identity.clone(),
            started: self.started,
            attachment: self.attachment,
            tie: self.tie,
            doing: self.view_of_doing(),
        }
    }

    fn view_of_doing(&self) -> Doing {
        *self.doing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
