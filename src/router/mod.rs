//! The data plane: one task per client, from the first byte to the last.
//!
//! In reading order: [`listener`] accepts; [`handshake`] opens a session for whom the [`porter`] has secured ([`tls`])
//! and authenticated; [`session`] lives the
//! session, copying bytes by [`relay`] between a [`stream`] and a [`backend`], its statements in [`turns`]; the [`gate`]
//! says when it must hold still; the [`fleet`] knows all sessions; [`admin`] asks the database in the router's own name.

use std::sync::Arc;
use std::time::Duration;

pub mod accounts;
pub mod admin;
pub mod backend;
pub mod buffers;
pub mod fleet;
pub mod gate;
pub mod handshake;
pub mod listener;
pub mod porter;
pub mod relay;
pub mod session;
pub mod stream;
pub mod tls;
pub mod turns;
pub mod workers;

pub use crate::config::ForcedChange;
pub use crate::engine::Obstacle;

use tokio::sync::OnceCell;

use crate::engine::{Engine, RouterLogin};
use crate::telemetry::ClusterMetrics;

/// What the sessions of one cluster share.
pub struct Cluster<E: Engine> {
    /// Its name, also the first label of its host name.
    pub name: String,
    /// Its sessions and their gate.
    pub fleet: Arc<fleet::Fleet>,
    /// Its accounts, asked for one by one.
    pub admin: admin::Admin<E>,
    /// Those of its sessions, as they last were.
    pub accounts: Arc<accounts::Accounts<E>>,
    /// Sees what a session's own user may not; works while sessions are held, too.
    pub observer: admin::Admin<E>,
    /// As whom the router logs in.
    pub login: Arc<RouterLogin>,
    /// What its accounts have proved.
    pub vault: Arc<E::Vault>,
    /// What clients are told of its server; known from the first log in on.
    pub contract: OnceCell<Arc<E::Contract>>,
    /// What a forced change does to a session in a transaction.
    pub forced_change: ForcedChange,
    /// For how long a session must have been idle to be parked; `None`: some seconds, and only where there are more
    /// sessions than places on the server.
    pub park_after: Option<Duration>,
    /// How long a session may wait for a place on the server.
    pub full_wait: Duration,
    /// How many of its statements begin at once.
    pub turns: Arc<turns::Turns>,
    /// Its metrics.
    pub metrics: ClusterMetrics,
    /// Makes the stand-ins for unknown accounts; outlives restarts.
    pub secret: [u8; 32],
}

/// A random number for names that clients must not guess.
pub(crate) fn nonce() -> u64 {
    u64::from_ne_bytes(random())
}

/// Random bytes. The system's source does not fail once it is up; if it should, zeros are no worse than a panic in
/// every session, and authentication refuses to work with them.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if let Err(error) = getrandom::fill(&mut bytes) {
        tracing::error!(%error, "no randomness");
    }
    bytes
}
