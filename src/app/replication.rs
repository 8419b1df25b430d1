//! What a provider that keeps a copy of its database has said in the two servers, in an engine's own statements.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::timeout;

use crate::compute::replication::{CopyFile, CopyUnderWay, Position, Replication, Source, Stillness};
use crate::engine::{Engine, LogEnd, Objection, Replicating, RouterLogin};
use crate::router::admin::Rows;
use crate::router::backend::{Backend, BackendError};
use crate::router::fleet::Unlogged;

/// How long a server may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// A copy begins with a checkpoint.
const CHECKPOINT: Duration = Duration::from_secs(300);
/// To copy a large volume takes a disk's whole time.
const CLONING: Duration = Duration::from_secs(24 * 3600);

const NOT_COPIED: &str = "servers of this release are not copied";
const UNCLEAR: &str = "the server does not say how far its log is";

/// See the module.
pub(super) struct Replicator<E: Engine> {
    login: Arc<RouterLogin>,
    unlogged: Arc<Unlogged>,
    /// Connections that nobody speaks on, by the socket that they lead to.
    links: Mutex<BTreeMap<PathBuf, Backend<E>>>,
}

impl<E: Engine> Replicator<E> {
    pub(super) fn new(login: Arc<RouterLogin>, unlogged: Arc<Unlogged>) -> Replicator<E> {
        Replicator { login, unlogged, links: Mutex::default() }
    }

    fn links(&self) -> std::sync::MutexGuard<'_, BTreeMap<PathBuf, Backend<E>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(&self, server: &Path) -> Result<Backend<E>, String> {
        let connect = Backend::connect(server, E::log_in_as_router(&self.login), &self.login);
        let connected = timeout(ANSWER, connect).await.unwrap_or(Err(BackendError::TooSlow));
        connected.map_err(|error| error.to_string())
    }

    /// Asks on a connection that may be there already. It is dropped if the answer is not waited for.
    async fn ask<'a>(
        &self,
        server: &Path,
        which: impl Fn(&Replicating) -> &'a str + Send + Sync,
    ) -> Result<Rows, String> {
        let kept = self.links().remove(server);
        if let Some(backend) = kept {
            // The server that it led to may have gone since, or have closed it.
            if let Ok(rows) = self.ask_on(server, backend, &which).await {
                return Ok(rows);
            }
        }
        let backend = self.connect(server).await?;
        self.ask_on(server, backend, &which).await.map_err(|error| error.to_string())
    }

    async fn ask_on<'a>(
        &self,
        server: &Path,
        mut backend: Backend<E>,
        which: impl Fn(&Replicating) -> &'a str + Send + Sync,
    ) -> Result<Rows, BackendError> {
        let Some(statements) = E::replicating(&backend.logged_in) else { return Ok(Rows::new()) };
        let query = E::admin_query(which(statements), &[]);
        let rows = backend.converse_within(query, ANSWER).await?;
        self.links().insert(server.to_path_buf(), backend);
        Ok(rows)
    }
}

/// Keeps a server still until it is closed.
struct Still<E: Engine> {
    _backend: Backend<E>,
}

impl<E: Engine> Stillness for Still<E> {}

async fn run<E: Engine>(backend: &mut Backend<E>, statement: &str) -> Result<Rows, String> {
    let query = E::admin_query(statement, &[]);
    backend.converse_within(query, ANSWER).await.map_err(|error| error.to_string())
}

/// The first of these that there is.
async fn objection<E: Engine>(
    backend: &mut Backend<E>,
    all: &[Objection],
) -> Result<Option<&'static str>, String> {
    for (statement, reason) in all {
        if !run(backend, statement).await?.is_empty() {
            return Ok(Some(reason));
        }
    }
    Ok(None)
}

/// The first value of an answer.
fn value(rows: Rows) -> Result<String, String> {
    rows.into_iter().flatten().next().flatten().ok_or_else(|| "the server has no answer".to_owned())
}

#[async_trait]
impl<E: Engine> Replication for Replicator<E> {
    async fn begin_copy(&self, server: &Path) -> Result<Box<dyn CopyUnderWay>, String> {
        let mut backend = self.connect(server).await?;
        let statements = E::replicating(&backend.logged_in).ok_or(NOT_COPIED)?;
        let begin = E::admin_query(statements.begin_copy, &[]);
        backend.converse_within(begin, CHECKPOINT).await.map_err(|error| error.to_string())?;
        Ok(Box::new(Copying { backend, statements }))
    }

    async fn clone_to(&self, server: &Path, folder: &Path) -> Result<(), String> {
        let mut backend = self.connect(server).await?;
        let Some(folder) = folder.to_str() else { return Err("the folder's name is not UTF-8".to_owned()) };
        let clone = E::admin_query(&E::clone_to(folder), &[]);
        backend.converse_within(clone, CLONING).await.map_err(|error| error.to_string())?;
        backend.close();
        Ok(())
    }

    async fn needed_processes(&self, server: &Path) -> Result<Vec<u32>, String> {
        let rows = self.ask(server, |statements| statements.needed_processes).await?;
        let number = |value: Option<String>| value.and_then(|text| text.parse().ok());
        Ok(rows.into_iter().flatten().filter_map(number).collect())
    }

    async fn hold_still(&self, server: &Path) -> Result<(Box<dyn Stillness>, Position), String> {
        // Clients wait: one that is there is as good, and if it is not any more, the next hold makes one.
        let kept = self.links().remove(server);
        let mut backend = match kept {
            Some(backend) => backend,
            None => self.connect(server).await?,
        };
        let statements = E::replicating(&backend.logged_in).ok_or(NOT_COPIED)?;
        for statement in statements.hold_still {
            run(&mut backend, statement).await?;
        }
        if let Some(reason) = objection(&mut backend, statements.objections).await? {
            return Err(reason.to_owned());
        }
        let end = E::written(&run(&mut backend, statements.written).await?.pop().unwrap_or_default());
        let LogEnd { end, history, .. } = end.ok_or(UNCLEAR)?;
        Ok((Box::new(Still { _backend: backend }), Position { end, history }))
    }

    fn unlogged(&self) -> u64 {
        self.unlogged.times()
    }

    async fn objection(&self, server: &Path, anew: bool) -> Result<Option<String>, String> {
        if self.unlogged.is_present() {
            return Ok(Some("a session writes what its log may not have".to_owned()));
        }
        let mut backend = self.connect(server).await?;
        let Some(statements) = E::replicating(&backend.logged_in) else {
            return Ok(Some(NOT_COPIED.to_owned()));
        };
        let all = if anew { statements.objections_anew } else { statements.objections };
        let found = objection(&mut backend, all).await?;
        backend.close();
        Ok(found.map(str::to_owned))
    }

    async fn follow(&self, copy: &Path, source: &Source) -> Result<(), String> {
        let mut backend = self.connect(copy).await?;
        let since = source.since.as_deref().map(str::trim);
        for statement in E::follow(&backend.logged_in, source.port, since, &self.login) {
            run(&mut backend, &statement).await?;
        }
        backend.close();
        Ok(())
    }

    async fn tell(&self, server: &Path, statements: &[String]) -> Result<(), String> {
        for statement in statements {
            self.ask(server, |_| statement).await?;
        }
        Ok(())
    }

    async fn settle(&self, server: &Path) -> Result<(), String> {
        let mut backend = self.connect(server).await?;
        let statements =
            E::replicating(&backend.logged_in).filter(|statements| !statements.source.is_empty());
        if let Some(statements) = statements {
            let rows = run(&mut backend, statements.source).await?;
            let is_ours = |row: &Vec<Option<String>>| {
                row.get(2).is_some_and(|user| *user == Some(self.login.user.clone()))
            };
            if rows.iter().any(is_ours) {
                for statement in statements.settle {
                    run(&mut backend, statement).await?;
                }
            }
        }
        backend.close();
        Ok(())
    }

    async fn written(&self, server: &Path) -> Result<Position, String> {
        let position = async || {
            let rows = self.ask(server, |statements| statements.written).await?;
            rows.first().and_then(|row| E::written(row)).ok_or_else(|| UNCLEAR.to_owned())
        };
        let found = position().await?;
        if found.on_disk {
            return Ok(Position { end: found.end, history: found.history });
        }
        self.ask(server, |statements| statements.write_out).await?;
        // That is a record more. While clients write, there is always something that is not on disk yet.
        position().await.map(|LogEnd { end, history, .. }| Position { end, history })
    }

    async fn repeated(&self, copy: &Path, of: &Position) -> Result<u64, String> {
        let rows = self.ask(copy, |statements| statements.repeated).await?;
        let reached = rows.first().and_then(|row| E::repeated(row, &of.history));
        reached.ok_or_else(|| "the copy does not follow".to_owned())
    }

    async fn is_writable(&self, copy: &Path) -> Result<bool, String> {
        Ok(value(self.ask(copy, |statements| statements.is_writable).await?)? == "t")
    }

    async fn let_go(&self) {
        let links = std::mem::take(&mut *self.links());
        links.into_values().for_each(Backend::close);
    }
}

struct Copying<E: Engine> {
    backend: Backend<E>,
    statements: &'static Replicating,
}

#[async_trait]
impl<E: Engine> CopyUnderWay for Copying<E> {
    async fn finish(mut self: Box<Self>) -> Result<Vec<CopyFile>, String> {
        let end = E::admin_query(self.statements.end_copy, &[]);
        let rows = self.backend.converse_within(end, CHECKPOINT).await.map_err(|error| error.to_string())?;
        self.backend.close();
        let texts = rows.into_iter().next().unwrap_or_default();
        let files = self.statements.copy_files.iter().copied().zip(texts);
        Ok(files.filter_map(|(name, text)| Some((name, text.filter(|text| !text.is_empty())?))).collect())
    }
}
