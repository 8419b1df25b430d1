//! What a PostgreSQL session is made of, apart from what the tracker sees on the wire.

use bytes::Bytes;

use super::digest::Digest;
use super::introspection::More;
use super::statements::ParseContext;
use crate::engine::{Obstacle, Tie};

/// A setting that is not what a fresh session of the same user would have, or may not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its name.
    pub name: Bytes,
    /// Its value: raw for the session's own, as `SHOW` prints it for the others.
    pub value: Bytes,
    /// Set by the session itself (`source = 'session'`), so it must be set again.
    pub own: bool,
}

/// A prepared statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// Its name.
    pub name: Bytes,
    /// Its text; of an SQL-level one the single `PREPARE` statement.
    pub sql: Bytes,
    /// Parameter types, resolved.
    pub types: Vec<u32>,
    /// Made by `PREPARE`, not by `Parse`.
    pub by_sql: bool,
    /// What `Describe` said: parameter and row description, framed. `None`: not asked yet.
    pub description: Option<Bytes>,
    /// The settings under which it was parsed.
    pub context: Option<ParseContext>,
    /// Where it was when it was captured first.
    pub surroundings: Option<Surroundings>,
}

impl Prepared {
    /// A statement whose text is this stands for one whose result has changed.
    ///
    /// It is parsed beside a temporary table that hides the catalogue's and does not stay, so at every use the server
    /// itself finds the result changed and says so: `cached plan must not change result type`, 0A000.
    pub const CHANGED: &'static str =
        "SELECT * FROM pg_am /* stands for a statement whose result type has changed */";

    /// It stands for a statement whose result has changed.
    pub fn is_changed(&self) -> bool {
        self.sql.as_ref() == Self::CHANGED.as_bytes()
    }
}

/// What names in a statement mean depends on these; the server looks again at every use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    /// `search_path`
    pub search_path: Bytes,
    /// `role`, `none` if there is no other.
    pub role: Bytes,
}

/// A session-level advisory lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdvisoryLock {
    /// Shared or exclusive.
    pub shared: bool,
    /// The key as SQL arguments: one 8-byte or two 4-byte integers.
    pub key: LockKey,
}

/// The two forms of advisory lock keys (`pg_locks.objsubid`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKey {
    /// `pg_advisory_lock(bigint)`
    One(i64),
    /// `pg_advisory_lock(int, int)`
    Two(i32, i32),
}

/// The value that a sequence last gave this session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SequenceValue {
    /// Schema and name, quoted as an SQL identifier each.
    pub name: Bytes,
    /// `currval`.
    pub value: i64,
    /// The session may make `currval` be that again elsewhere (it owns the sequence).
    pub restorable: bool,
}

impl State {
    /// What keeps the session on its backend while others run.
    pub fn tie(&self) -> Option<Tie> {
        match () {
            () if !self.channels.is_empty() => Some(Tie::Listening),
            () if !self.locks.is_empty() => Some(Tie::AdvisoryLock),
            // Also if the value cannot be restored at all: then a hand-over loses it, and nobody else may.
            () if self.more.sequences => Some(Tie::SequenceValue),
            () => None,
        }
    }

    /// Where a statement would be parsed now; `None` where the log in begins.
    pub fn surroundings(&self) -> Option<Surroundings> {
        let search_path = self.settings.iter().find(|s| s.own && s.name.as_ref() == b"search_path")?;
        let role = self.role.clone().unwrap_or_else(|| Bytes::from_static(b"none"));
        Some(Surroundings { search_path: search_path.value.clone(), role })
    }
}

/// Everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// `SESSION_USER` if it is not the user who logged in.
    pub session_user: Option<Bytes>,
    /// `SET ROLE`, if it is not `none`.
    pub role: Option<Bytes>,
    /// Ordinary settings.
    pub settings: Vec<Setting>,
    /// Custom settings, also those that are empty.
    pub custom: Vec<(Bytes, Bytes)>,
    /// Prepared statements.
    pub prepared: Vec<Prepared>,
    /// Contents of the unnamed statement's `Parse`, and its context.
    pub unnamed: Option<(Bytes, ParseContext)>,
    /// Channels that are listened on.
    pub channels: Vec<Bytes>,
    /// Advisory locks.
    pub locks: Vec<AdvisoryLock>,
    /// Sequences; the last one is `lastval()`'s.
    pub sequences: Vec<SequenceValue>,
    /// Libraries to load first.
    pub loads: Vec<Vec<u8>>,
    /// What cannot be carried.
    pub obstacle: Option<Obstacle>,
    /// What the session had that is to be asked about further.
    pub more: More,
    /// By which it is known again.
    pub digest: Option<Digest>,
}
