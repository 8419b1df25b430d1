//! What is done inside a database in the router's name, around a capacity change.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep, timeout};

use crate::engine::{DialogueError, Engine, Obstacle, RouterLogin};
use crate::router::accounts::Accounts;
use crate::router::admin::{Admin, Rows};
use crate::router::backend::{Backend, BackendError};
use crate::router::fleet::Fleet;
use crate::scaling::driver::Maintenance;

/// How long a flush that goes on by itself is waited for; clients write meanwhile, so it may never be done …
const FLUSHING: Duration = Duration::from_secs(3);
/// … and not longer than this without getting further: InnoDB looks once a second whether it has to.
const STUCK: Duration = Duration::from_millis(1200);
/// Between two looks at how much is left.
const LOOK: Duration = Duration::from_millis(20);

/// How long the server may take to say what a restart would lose.
const ANSWER: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct Chores<E: Engine> {
    pub(super) admin: Admin<E>,
    /// Works while clients are held, too.
    pub(super) observer: Admin<E>,
    pub(super) login: Arc<RouterLogin>,
    pub(super) fleet: Arc<Fleet>,
    pub(super) accounts: Arc<Accounts<E>>,
    /// The database that is to exist; a plain identifier.
    pub(super) database: Option<String>,
    pub(super) settings: Mutex<Settings>,
}

/// Settings of the server that a restart loses.
#[derive(Default)]
pub(super) struct Settings {
    /// How to ask for them.
    query: Option<&'static str>,
    /// What the server had when it had just started.
    started: BTreeMap<String, String>,
    /// What was changed since then, by clients of this server or of one before it.
    changed: BTreeMap<String, String>,
    /// What a flush has changed, and how it was before.
    before_flush: BTreeMap<String, String>,
}

/// Name and value.
fn pairs(rows: Rows) -> BTreeMap<String, String> {
    let pair = |row: Vec<Option<String>>| {
        let mut columns = row.into_iter();
        Some((columns.next()??.to_ascii_lowercase(), columns.next()??))
    };
    rows.into_iter().filter_map(pair).collect()
}

impl<E: Engine> Chores<E> {
    async fn run(&self, sql: &str) -> Result<Rows, String> {
        self.admin.run(sql).await.map_err(|error| error.to_string())
    }

    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until little is left to be written, or as little as it gets while clients write.
    async fn until_flushed(&self, left: &str, enough: u64) -> Result<(), String> {
        let deadline = Instant::now() + FLUSHING;
        let (mut most, mut last, mut least, mut since) = (0, u64::MAX, u64::MAX, Instant::now());
        while Instant::now() < deadline && since.elapsed() < STUCK {
            let rows = self.run(left).await?;
            let count = rows.first().and_then(|row| row.last()?.as_deref()?.parse::<u64>().ok());
            let Some(count) = count else { return Ok(()) };
            // Once it has got less by half and gets more again, it has just been written.
            if count <= enough || (last <= most / 2 && count >= last) {
                return Ok(());
            }
            // A tenth less is progress.
            if count < least - least / 10 {
                (least, since) = (count, Instant::now());
            }
            (most, last) = (most.max(count), count);
            sleep(LOOK).await;
        }
        Ok(())
    }
}

#[async_trait]
impl<E: Engine> Maintenance for Chores<E> {
    async fn flush(&self) -> Result<(), String> {
        let flush = E::flush();
        if let Some(changes) = flush.changes
            && self.settings().before_flush.is_empty()
        {
            let before = pairs(self.run(changes).await?);
            self.settings().before_flush = before;
        }
        for statement in flush.begin {
            self.run(statement).await?;
        }
        match flush.left {
            Some((left, enough)) => self.until_flushed(left, enough).await,
            None => Ok(()),
        }
    }

    async fn unflush(&self) {
        // Kept until all is as it was: what cannot be put back now may be later.
        let before = self.settings().before_flush.clone();
        for statement in before.iter().filter_map(|(name, value)| E::set_volatile(name, value)) {
            if let Err(error) = self.run(&statement).await {
                return tracing::warn!(error, "the server goes on flushing");
            }
        }
        self.settings().before_flush.clear();
    }

    async fn study(&self) {
        for database in self.fleet.databases() {
            if let Ok(names) = self.admin.stored_names(&database).await {
                self.fleet.learn_setting_names(&database, &names);
            }
        }
    }

    async fn look_up_accounts(&self) {
        self.accounts.read(&self.fleet, &self.admin).await;
    }

    async fn complete(&self) -> Result<(), String> {
        let Some(database) = &self.database else { return Ok(()) };
        let (exists, create) = E::database_statements(database);
        if self.run(&exists).await?.is_empty() {
            self.run(&create).await?;
        }
        Ok(())
    }

    async fn server_obstacle(&self) -> Option<Obstacle> {
        let (obstacle, question) = E::server_obstacle()?;
        let asked = timeout(ANSWER, self.run(question)).await;
        match asked.unwrap_or_else(|_| Err("it does not answer".to_owned())) {
            Ok(rows) => (!rows.is_empty()).then_some(obstacle),
            Err(error) => {
                tracing::warn!(error, "the server cannot be asked what a restart would lose");
                Some(Obstacle::Unknown)
            }
        }
    }

    async fn remember(&self) -> Result<(), String> {
        let Some(query) = self.settings().query else { return Ok(()) };
        let mut now = pairs(self.observer.run(query).await.map_err(|error| error.to_string())?);
        let mut settings = self.settings();
        let Settings { started, changed, before_flush, .. } = &mut *settings;
        now.extend(before_flush.clone());
        *changed = now.into_iter().filter(|(name, value)| started.get(name) != Some(value)).collect();
        Ok(())
    }

    async fn recall(&self, socket: &Path) -> Result<(), String> {
        if !E::VOLATILE_SETTINGS {
            return Ok(());
        }
        // That was another server.
        self.settings().before_flush.clear();
        let text = |error: BackendError| error.to_string();
        let log_in = E::log_in_as_router(&self.login);
        let mut backend = Backend::<E>::connect(socket, log_in, &self.login).await.map_err(text)?;
        let query = E::volatile_settings(&backend.logged_in);
        // What is learnt is kept, even if the server does not answer to the end.
        self.settings().query = Some(query);
        let started = pairs(backend.converse(E::admin_query(query, &[])).await.map_err(text)?);
        self.settings().started.clone_from(&started);
        let changed = self.settings().changed.clone();
        let differs = |(name, value): &(&String, &String)| started.get(*name) != Some(*value);
        let differing: Vec<_> = changed.iter().filter(differs).collect();
        // Some are limited by others (`innodb_io_capacity` by its maximum), so a first time may not do.
        let times = if differing.len() > 1 { 2 } else { 1 };
        for (name, value) in std::iter::repeat_n(differing, times).flatten() {
            let Some(statement) = E::set_volatile(name, value) else { continue };
            match backend.converse(E::admin_query(&statement, &[])).await {
                Ok(_) => tracing::debug!(name, "carried over"),
                Err(error @ BackendError::Dialogue(DialogueError::Refused { .. })) => {
                    tracing::warn!(name, %error, "a setting of the server is lost");
                }
                // Nothing more can be said on this connection.
                Err(error) => return Err(error.to_string()),
            }
        }
        backend.close();
        Ok(())
    }
}
