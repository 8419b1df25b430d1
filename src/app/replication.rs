//! What a provider that keeps a copy of its database has said in the two servers, in an engine's own statements.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::timeout;

use crate::compute::replication::{CopyFile, CopyUnderWay, Position, Replication};
use crate::engine::{Engine, Replicating, RouterLogin};
use crate::router::admin::Rows;
use crate::router::backend::{Backend, BackendError};

/// How long a server may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// A copy begins with a checkpoint.
const CHECKPOINT: Duration = Duration::from_secs(300);

/// See the module.
pub(super) struct Replicator<E: Engine> {
    login: Arc<RouterLogin>,
    /// Connections that nobody speaks on, by the socket that they lead to.
    links: Mutex<BTreeMap<PathBuf, Backend<E>>>,
}

impl<E: Engine> Replicator<E> {
    pub(super) fn new(login: Arc<RouterLogin>) -> Replicator<E> {
        Replicator { login, links: Mutex::default() }
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
    async fn ask(&self, server: &Path, which: impl Fn(&Replicating) -> &'static str) -> Result<Rows, String> {
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

    async fn ask_on(
        &self,
        server: &Path,
        mut backend: Backend<E>,
        which: impl Fn(&Replicating) -> &'static str,
    ) -> Result<Rows, BackendError> {
        let Some(statements) = E::replicating(&backend.logged_in) else { return Ok(Rows::new()) };
        let query = E::admin_query(which(statements), &[]);
        let rows = backend.converse_within(query, ANSWER).await?;
        self.links().insert(server.to_path_buf(), backend);
        Ok(rows)
    }
}

/// The first value of an answer.
fn value(rows: Rows) -> Result<String, String> {
    rows.into_iter().flatten().next().flatten().ok_or_else(|| "the server has no answer".to_owned())
}

#[async_trait]
impl<E: Engine> Replication for Replicator<E> {
    async fn begin_copy(&self, server: &Path) -> Result<Box<dyn CopyUnderWay>, String> {
        let mut backend = self.connect(server).await?;
        let Some(statements) = E::replicating(&backend.logged_in) else {
            return Err("servers of this release are not copied".to_owned());
        };
        let begin = E::admin_query(statements.begin_copy, &[]);
        backend.converse_within(begin, CHECKPOINT).await.map_err(|error| error.to_string())?;
        Ok(Box::new(Copying { backend, statements }))
    }

    async fn needed_processes(&self, server: &Path) -> Result<Vec<u32>, String> {
        let rows = self.ask(server, |statements| statements.needed_processes).await?;
        let number = |value: Option<String>| value.and_then(|text| text.parse().ok());
        Ok(rows.into_iter().flatten().filter_map(number).collect())
    }

    async fn written(&self, server: &Path) -> Result<Position, String> {
        let unclear = || "the server does not say how far its log is".to_owned();
        let position = async || {
            let rows = self.ask(server, |statements| statements.written).await?;
            rows.first().and_then(|row| E::written(row)).ok_or_else(unclear)
        };
        let (end, on_disk) = position().await?;
        if on_disk {
            return Ok(Position(end));
        }
        self.ask(server, |statements| statements.write_out).await?;
        // That is a record more. While clients write, there is always something that is not on disk yet.
        position().await.map(|(end, _)| Position(end))
    }

    async fn repeated(&self, copy: &Path) -> Result<Position, String> {
        let answer = value(self.ask(copy, |statements| statements.repeated).await?);
        let position = answer.ok().and_then(|number| number.parse().ok());
        position.map(Position).ok_or_else(|| "the copy does not follow".to_owned())
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
