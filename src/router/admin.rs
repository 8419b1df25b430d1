//! The router's own connection to the database: account look-ups and administrative statements.
//!
//! One task owns the connection. It works only while the gate is open and gives the connection up when the gate shuts,
//! so that it never delays a hand-over; questions wait meanwhile.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::backend::{Backend, BackendError};
use super::fleet::{Aide, Fleet};
use super::gate::{Gate, Phase};
use crate::engine::{DialogueError, Engine, RouterLogin};

mod observe;

use observe::Observer;

/// Questions that may wait; further ones are turned away.
const MAX_WAITING: usize = 4096;
/// How long a question may wait for a database, and for its answer.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a log in may take: one that takes longer meets a server that hangs.
const LOG_IN: Duration = Duration::from_secs(10);
/// Between two tries.
const RETRY: Duration = Duration::from_millis(20);

/// How long the texts of one database may take to be read; a lock may be in the way of the last of them.
const READING: Duration = Duration::from_secs(3);

/// Rows of text.
pub type Rows = Vec<Vec<Option<String>>>;

enum Ask<E: Engine> {
    Account(String, Purpose, oneshot::Sender<Option<E::Account>>),
    Run(String, oneshot::Sender<Result<Rows, BackendError>>),
    Contract(oneshot::Sender<E::Contract>),
    Names(String, oneshot::Sender<Vec<String>>),
    Observe(Observer),
}

/// What an account is looked up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// A client is to prove itself.
    LogIn,
    /// Sessions of it may have to log in again.
    Standing,
}

/// Asks the database in the router's name.
pub struct Admin<E: Engine> {
    asks: mpsc::Sender<Ask<E>>,
    fleet: Arc<Fleet>,
    login: Arc<RouterLogin>,
}

impl<E: Engine> Clone for Admin<E> {
    fn clone(&self) -> Self {
        Admin { asks: self.asks.clone(), fleet: Arc::clone(&self.fleet), login: Arc::clone(&self.login) }
    }
}

/// When a connection of the router's own may be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hours {
    /// While the gate is open.
    Open,
    /// Also while sessions are held; it is given up when they are let go.
    Held,
}

impl Hours {
    fn include(self, phase: Phase) -> bool {
        match phase {
            Phase::Open => true,
            Phase::Shut { .. } => self == Hours::Held,
            Phase::Down | Phase::LetGo | Phase::Reattach | Phase::Closing => false,
        }
    }
}

/// The database could not be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAvailable;

impl<E: Engine> Admin<E> {
    /// Starts the task; it ends with the last handle.
    pub fn start(fleet: &Arc<Fleet>, login: Arc<RouterLogin>, hours: Hours) -> Admin<E> {
        let (asks, received) = mpsc::channel(MAX_WAITING);
        let admin = Admin { asks, fleet: Arc::clone(fleet), login: Arc::clone(&login) };
        let task = Task { gate: fleet.gate(), fleet: Arc::clone(fleet), login, hours, connection: None };
        tokio::spawn(task.run(received));
        admin
    }

    /// How an account proves itself; `Ok(None)`: there is no such account.
    pub async fn account(&self, user: &str) -> Result<Option<E::Account>, NotAvailable> {
        self.look_up(user, Purpose::LogIn).await
    }

    /// The same for sessions that were let in ([`Engine::standing_query`]).
    pub async fn standing(&self, user: &str) -> Result<Option<E::Account>, NotAvailable> {
        self.look_up(user, Purpose::Standing).await
    }

    async fn look_up(&self, user: &str, purpose: Purpose) -> Result<Option<E::Account>, NotAvailable> {
        let (answer, answered) = oneshot::channel();
        self.asks.try_send(Ask::Account(user.to_owned(), purpose, answer)).map_err(|_| NotAvailable)?;
        timeout(PATIENCE, answered).await.map_err(|_| NotAvailable)?.map_err(|_| NotAvailable)
    }

    /// What the server may be announced as.
    pub async fn contract(&self) -> Result<E::Contract, NotAvailable> {
        let (answer, answered) = oneshot::channel();
        self.asks.try_send(Ask::Contract(answer)).map_err(|_| NotAvailable)?;
        timeout(PATIENCE, answered).await.map_err(|_| NotAvailable)?.map_err(|_| NotAvailable)
    }

    /// The names of settings in the texts that a database stores.
    pub async fn stored_names(&self, database: &str) -> Result<Vec<String>, NotAvailable> {
        let (answer, answered) = oneshot::channel();
        self.asks.try_send(Ask::Names(database.to_owned(), answer)).map_err(|_| NotAvailable)?;
        timeout(PATIENCE, answered).await.map_err(|_| NotAvailable)?.map_err(|_| NotAvailable)
    }

    /// Runs one statement on a connection of its own, wherever the gate stands, and returns its first value: for a
    /// session that a hold waits for. Dropping it closes the connection.
    pub async fn value_at(&self, socket: &Path, sql: &str) -> Result<Option<String>, BackendError> {
        let _aide = Aide::new(&self.fleet);
        let mut backend =
            Backend::<E>::connect(socket, E::log_in_as_router(&self.login), &self.login).await?;
        let rows = backend.converse(E::admin_query(sql, &[])).await?;
        backend.close();
        Ok(rows.into_iter().flatten().next().flatten())
    }

    /// What [`Engine::observation`] says of a session. Sessions that ask while another question is being answered share
    /// the next one, so that a thousand of them wait for sixteen answers, not for a thousand.
    ///
    /// # Cancel safety
    /// Who asks no longer is not waited for.
    pub async fn observe(&self, id: u32) -> Result<Rows, Arc<BackendError>> {
        let (answer, answered) = oneshot::channel();
        self.asks.try_send(Ask::Observe((id, answer))).map_err(|_| BackendError::TooSlow)?;
        timeout(PATIENCE, answered)
            .await
            .map_err(|_| BackendError::TooSlow)?
            .map_err(|_| BackendError::Closed)?
    }

    /// Runs one statement and returns its rows.
    pub async fn run(&self, sql: &str) -> Result<Rows, BackendError> {
        let (answer, answered) = oneshot::channel();
        self.asks.try_send(Ask::Run(sql.to_owned(), answer)).map_err(|_| BackendError::TooSlow)?;
        timeout(PATIENCE, answered)
            .await
            .map_err(|_| BackendError::TooSlow)?
            .map_err(|_| BackendError::Closed)?
    }
}

/// What a later try may not meet: the connection or the server was lost, or the server is not ready.
fn is_passing(error: &BackendError) -> bool {
    match error {
        BackendError::Io(_) | BackendError::Closed => true,
        BackendError::Dialogue(DialogueError::Refused { cause, .. }) => cause.is_passing(),
        BackendError::Dialogue(_) | BackendError::TooSlow => false,
    }
}

struct Task<E: Engine> {
    gate: Gate,
    fleet: Arc<Fleet>,
    login: Arc<RouterLogin>,
    hours: Hours,
    connection: Option<Connection<E>>,
}

/// A connection of the router's own, counted in the fleet.
struct Connection<E: Engine> {
    backend: Option<Backend<E>>,
    era: u64,
    _aide: Aide,
}

impl<E: Engine> Drop for Connection<E> {
    fn drop(&mut self) {
        if let Some(backend) = self.backend.take() {
            backend.close();
        }
    }
}

impl<E: Engine> Task<E> {
    async fn run(mut self, mut asks: mpsc::Receiver<Ask<E>>) {
        loop {
            let open = self.hours.include(self.gate.borrow_and_update().phase);
            if !open {
                self.connection = None;
            }
            tokio::select! {
                changed = self.gate.changed() => if changed.is_err() { return },
                ask = asks.recv(), if open => match ask {
                    Some(Ask::Observe(first)) => self.observe(first, &mut asks).await,
                    Some(ask) => self.answer(ask).await,
                    None => return,
                },
            }
        }
    }

    async fn answer(&mut self, ask: Ask<E>) {
        match ask {
            Ask::Observe(asker) => self.observe_all(vec![asker]).await,
            Ask::Account(user, purpose, answer) => {
                if answer.is_closed() {
                    return;
                }
                match self.look_up(&user, purpose, &answer).await {
                    // Who asked may have left meanwhile.
                    Ok(account) => drop(answer.send(account)),
                    Err(error) => tracing::warn!(%error, "an account cannot be looked up"),
                }
            }
            Ask::Run(sql, mut answer) => {
                if answer.is_closed() {
                    return;
                }
                let rows = tokio::select! {
                    rows = self.run_one(&sql) => rows,
                    // Who asked waits no longer, and who comes next need not wait for this answer.
                    () = answer.closed() => Err(BackendError::TooSlow),
                };
                self.keep_if_sound(&rows);
                drop(answer.send(rows));
            }
            Ask::Contract(answer) => match self.connection().await {
                Ok(backend) => drop(answer.send(E::contract(&backend.logged_in))),
                Err(error) => tracing::warn!(%error, "the server cannot be asked what it is"),
            },
            Ask::Names(database, answer) => {
                let mut names = Vec::new();
                match timeout(READING, self.read_texts(&database, &mut names)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::warn!(database, %error, "stored texts cannot be read"),
                    Err(_) => tracing::warn!(database, "stored texts cannot be read in time"),
                }
                drop(answer.send(names));
            }
        }
    }

    async fn run_one(&mut self, sql: &str) -> Result<Rows, BackendError> {
        let backend = self.connection().await?;
        backend.converse_within(E::admin_query(sql, &[]), PATIENCE).await
    }

    /// Asks until there is an answer: the connection may have died since the last question, and a server that has
    /// crashed and is starting anew will be there in a moment.
    async fn look_up(
        &mut self,
        user: &str,
        purpose: Purpose,
        asker: &oneshot::Sender<Option<E::Account>>,
    ) -> Result<Option<E::Account>, BackendError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.account(user, purpose).await {
                Err(error) if is_passing(&error) && Instant::now() < deadline && !asker.is_closed() => {
                    tracing::debug!(%error, "an account is looked up again");
                }
                answered => return answered,
            }
            tokio::time::sleep(RETRY).await;
            let open = self.gate.wait_for(|signal| signal.phase == Phase::Open);
            timeout_at(deadline, open)
                .await
                .map_err(|_| BackendError::TooSlow)?
                .map_err(|_| BackendError::Closed)?;
        }
    }

    async fn account(&mut self, user: &str, purpose: Purpose) -> Result<Option<E::Account>, BackendError> {
        let asked = match self.connection().await {
            Ok(backend) => {
                let query = match purpose {
                    Purpose::LogIn => E::account_query(&backend.logged_in, user),
                    Purpose::Standing => E::standing_query(&backend.logged_in, user),
                };
                backend.converse(query).await
            }
            Err(error) => Err(error),
        };
        self.keep_if_sound(&asked);
        asked
    }

    /// On a connection of its own, because each database has its own texts.
    async fn read_texts(&self, database: &str, names: &mut Vec<String>) -> Result<(), BackendError> {
        let socket = self.gate.borrow().socket.clone().ok_or(BackendError::Closed)?;
        let _aide = Aide::new(&self.fleet);
        let RouterLogin { user, password, .. } = &*self.login;
        let there =
            RouterLogin { user: user.clone(), password: password.clone(), database: database.to_owned() };
        let mut backend = Backend::<E>::connect(&socket, E::log_in_as_router(&there), &self.login).await?;
        for query in E::stored_texts(&backend.logged_in) {
            let rows = backend.converse(E::admin_query(&query, &[])).await?;
            names.extend(rows.iter().flatten().flatten().flat_map(|text| E::stored_names(text)));
        }
        backend.close();
        Ok(())
    }

    fn keep_if_sound<T>(&mut self, asked: &Result<T, BackendError>) {
        let sound = matches!(asked, Ok(_) | Err(BackendError::Dialogue(DialogueError::Refused { .. })));
        if !sound {
            self.connection = None;
        }
    }

    async fn connection(&mut self) -> Result<&mut Backend<E>, BackendError> {
        let signal = self.gate.borrow().clone();
        if self.connection.as_ref().is_some_and(|connection| connection.era != signal.era) {
            self.connection = None;
        }
        if self.connection.is_none() {
            let socket = signal.socket.ok_or(BackendError::Closed)?;
            // Counted from here on: a database that is to be empty is not to meet it half way.
            let aide = Aide::new(&self.fleet);
            let connect = Backend::connect(&socket, E::log_in_as_router(&self.login), &self.login);
            let backend = timeout(LOG_IN, connect).await.map_err(|_| BackendError::TooSlow)??;
            self.connection = Some(Connection { backend: Some(backend), era: signal.era, _aide: aide });
        }
        let backend = self.connection.as_mut().and_then(|connection| connection.backend.as_mut());
        backend.ok_or(BackendError::Closed)
    }
}
