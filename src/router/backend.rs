//! A logged-in connection to a database process, and conversations on it in the router's own name.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::buffers;
use super::fleet::{Aide, Place};
use crate::engine::{Dialogue, DialogueError, Engine, Obstacle, RouterLogin};

/// How long a backend may take to answer the router itself.
pub const CONVERSATION: Duration = Duration::from_secs(30);
/// How long a connect to the private socket may take.
const CONNECT: Duration = Duration::from_secs(5);
/// A cancel request is answered by a close.
const CANCEL: Duration = Duration::from_secs(5);
/// How long a server may take to end a connection after a goodbye.
const FAREWELL: Duration = Duration::from_secs(1);
/// `/proc/…/maps` of a backend is read up to this length, bytes.
const MAX_MAPS: usize = 4 * 1024 * 1024;

/// Why a conversation with a backend did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The connection failed.
    #[error("connection to the database: {0}")]
    Io(#[from] io::Error),
    /// The database closed the connection.
    #[error("the database closed the connection")]
    Closed,
    /// It took too long.
    #[error("the database did not answer in time")]
    TooSlow,
    /// It answered, but not as hoped.
    #[error(transparent)]
    Dialogue(#[from] DialogueError),
}

/// One connection. Dropping it closes the socket.
pub struct Backend<E: Engine> {
    /// The socket.
    pub stream: UnixStream,
    /// Bytes that came and were not consumed.
    pub input: BytesMut,
    /// What the server said at the log in.
    pub logged_in: E::LoggedIn,
    /// The place on the server that it takes, if it is a session's.
    pub place: Option<Place>,
    socket: PathBuf,
    login: Arc<RouterLogin>,
    /// See [`code_in_libraries`]; when the libraries were last looked at.
    code: Option<String>,
    /// What was found then.
    library_obstacle: Option<Obstacle>,
}

impl<E: Engine> Backend<E> {
    /// Connects and logs in. Not cancel-safe; dropping it drops the connection. `router`: who will cancel.
    pub async fn connect(
        socket: &Path,
        log_in: E::LogIn,
        router: &Arc<RouterLogin>,
    ) -> Result<Backend<E>, BackendError> {
        let connected = timeout(CONNECT, UnixStream::connect(socket)).await;
        let mut stream = connected.map_err(|_| BackendError::TooSlow)??;
        let mut input = BytesMut::new();
        let logged_in = converse(&mut stream, &mut input, log_in, CONVERSATION).await?;
        Ok(Backend {
            stream,
            input,
            logged_in,
            place: None,
            socket: socket.to_owned(),
            login: Arc::clone(router),
            code: None,
            library_obstacle: None,
        })
    }

    /// Leads a conversation. Not cancel-safe: after a dropped future the connection is of no use.
    pub async fn converse<D: Dialogue>(&mut self, dialogue: D) -> Result<D::Output, BackendError> {
        converse(&mut self.stream, &mut self.input, dialogue, CONVERSATION).await
    }

    /// The same with another deadline.
    pub async fn converse_within<D: Dialogue>(
        &mut self,
        dialogue: D,
        deadline: Duration,
    ) -> Result<D::Output, BackendError> {
        converse(&mut self.stream, &mut self.input, dialogue, deadline).await
    }

    /// Asks the server to cancel what runs on this connection; done when the server has sent its signal. `false`: it
    /// may not have heard of it.
    pub fn cancel(&self) -> impl Future<Output = bool> + Send + use<E> {
        self.canceller()()
    }

    /// The same, to be used while the connection is.
    pub fn canceller(&self) -> impl Fn() -> Cancelling + Send + Sync + use<E> {
        let (socket, request) = (self.socket.clone(), E::cancel(&self.logged_in, &self.login));
        move || Box::pin(cancel(socket.clone(), request.clone()))
    }

    /// Says goodbye and closes. Errors do not matter any more.
    pub fn close(mut self) {
        let _unsent = self.stream.try_write(E::goodbye());
        self.input.clear();
    }

    /// Says goodbye, and keeps the place taken until the server has ended its side: only then has it room for another.
    pub fn retire(self, aide: Aide) {
        let _unsent = self.stream.try_write(E::goodbye());
        let Backend { mut stream, place, .. } = self;
        tokio::spawn(async move {
            await_end(&mut stream).await;
            drop((stream, place, aide));
        });
    }

    /// Has what runs cancelled, says goodbye, and waits until the server has ended its side, a second at most.
    pub async fn part(mut self) {
        let _asked = timeout(FAREWELL, self.cancel()).await;
        let _unsent = self.stream.try_write(E::goodbye());
        await_end(&mut self.stream).await;
    }

    /// The server has said nothing that was not read.
    pub fn is_silent(&mut self) -> bool {
        if self.input.is_empty() {
            let read = self.stream.try_read_buf(&mut self.input);
            return matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        }
        false
    }

    /// What a shared library in the backend's memory keeps the session from being moved for; nothing where they cannot be
    /// read (another user's process, another machine).
    pub fn library_obstacle(&mut self) -> Option<Obstacle> {
        let process = E::process_id(&self.logged_in)?;
        // A list of all mappings costs the kernel fifteen times as much as their size, and a library brings code.
        let code = code_in_libraries(process);
        if code.is_none() || self.code != code {
            self.code = code;
            self.library_obstacle = E::library_obstacle(&libraries(process));
        }
        self.library_obstacle
    }
}

/// What a session has (locks) is free before the server ends its side.
async fn await_end(stream: &mut UnixStream) {
    let mut rest = [0; 512];
    let ended = async { while matches!(stream.read(&mut rest).await, Ok(1..)) {} };
    let _late = timeout(FAREWELL, ended).await;
}

/// How much executable memory a process has beside its own program, as the kernel prints it.
fn code_in_libraries(process: u32) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmLib:")).map(|size| size.trim().to_owned())
}

/// The shared libraries in a process's memory.
fn libraries(process: u32) -> Vec<String> {
    use std::io::Read as _;
    let path = format!("/proc/{process}/maps");
    let mut text = String::new();
    let read =
        std::fs::File::open(path).and_then(|file| file.take(MAX_MAPS as u64).read_to_string(&mut text));
    if read.is_err() {
        return Vec::new();
    }
    let mut paths: Vec<String> =
        text.lines().filter_map(|line| line.find('/').map(|at| line[at..].to_owned())).collect();
    paths.retain(|path| path.contains(".so"));
    paths.dedup();
    paths
}

/// A cancel request under way.
pub type Cancelling = std::pin::Pin<Box<dyn Future<Output = bool> + Send>>;

async fn cancel<D: Dialogue<Output = ()>>(socket: PathBuf, request: D) -> bool {
    let asked = timeout(CANCEL, async {
        let mut stream = UnixStream::connect(&socket).await?;
        converse(&mut stream, &mut BytesMut::new(), request, CANCEL).await
    });
    match asked.await {
        // Where the answer is a close.
        Ok(Ok(()) | Err(BackendError::Closed)) => true,
        Ok(Err(error)) => {
            tracing::debug!(%error, "cancel request failed");
            false
        }
        Err(_) => false,
    }
}

/// Adds what can be read, in one piece as far as possible. What is kept of an answer shares its memory, so none of that is spare.
///
/// Cancel-safe.
async fn read_on(stream: &mut (impl AsyncRead + Unpin), input: &mut BytesMut) -> io::Result<usize> {
    std::future::poll_fn(|cx| {
        let mut piece = BytesMut::new();
        buffers::lend(&mut piece);
        let read = pin!(stream.read_buf(&mut piece)).poll(cx);
        input.extend_from_slice(&piece);
        piece.clear();
        buffers::give_back(&mut piece);
        read
    })
    .await
}

/// Leads a dialogue over a stream: writes what it wants written while it reads, so that neither side can wait for the
/// other with full buffers.
async fn converse<D: Dialogue>(
    stream: &mut UnixStream,
    input: &mut BytesMut,
    mut dialogue: D,
    deadline: Duration,
) -> Result<D::Output, BackendError> {
    let lead = async {
        let mut out = BytesMut::new();
        dialogue.open(&mut out);
        let (mut reader, mut writer) = stream.split();
        loop {
            if let Some(output) = dialogue.receive(input, &mut out)? {
                return Ok(output);
            }
            tokio::select! {
                biased;
                written = writer.write_buf(&mut out), if !out.is_empty() => { written?; }
                read = read_on(&mut reader, input) => {
                    if read? == 0 {
                        return Err(BackendError::Closed);
                    }
                }
            }
        }
    };
    timeout(deadline, lead).await.map_err(|_| BackendError::TooSlow)?
}
