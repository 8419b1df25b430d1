//! What a provider that keeps a copy of its database needs to have said inside the two servers. It speaks no database's
//! language, so somebody who does implements this.

use std::path::Path;

use async_trait::async_trait;

/// How far a server's log has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Comparable between a server and its copy.
    pub end: u64,
    /// What the log is made of up to there, in the engine's words: a copy has nothing else.
    pub history: String,
}

/// Whom a copy follows that is told so by a statement.
#[derive(Debug, Clone)]
pub struct Source {
    /// Where on 127.0.0.1 it reaches that server.
    pub port: u16,
    /// Up to where a new copy has the log, in the engine's words; `None`: it knows by itself.
    pub since: Option<String>,
}

/// A file to be written into a finished copy, and its content.
pub type CopyFile = (&'static str, String);

/// A copy of a server's files that is being made. Dropping it gives it up.
#[async_trait]
pub trait CopyUnderWay: Send {
    /// The files have been copied. Yields what is to be added to them.
    async fn finish(self: Box<Self>) -> Result<Vec<CopyFile>, String>;
}

/// A server whose log does not grow, whoever would write. Dropping it ends that.
pub trait Stillness: Send {}

/// See the module. A server is named by its private socket.
#[async_trait]
pub trait Replication: Send + Sync {
    /// From here until the copy is finished, the files of the running server may be copied one after the other.
    async fn begin_copy(&self, server: &Path) -> Result<Box<dyn CopyUnderWay>, String>;

    /// Has the server make a copy of its files in `folder`, which does not exist.
    async fn clone_to(&self, server: &Path, folder: &Path) -> Result<(), String>;

    /// Why a copy of the server would lack something; `None`: it would not. `anew`: one that is made now.
    async fn objection(&self, server: &Path, anew: bool) -> Result<Option<String>, String>;

    /// How often something has begun to be written that the log does not have.
    fn unlogged(&self) -> u64;

    /// Has the server on `copy` follow. Says nothing of whether it gets there.
    async fn follow(&self, copy: &Path, source: &Source) -> Result<(), String>;

    /// Waits for what writes, keeps everybody from writing, and says where the log ends.
    async fn hold_still(&self, server: &Path) -> Result<(Box<dyn Stillness>, Position), String>;

    /// Has these statements done by the server.
    async fn tell(&self, server: &Path, statements: &[String]) -> Result<(), String>;

    /// The server, which was a copy before, follows the router's other one no longer, and will not.
    async fn settle(&self, server: &Path) -> Result<(), String>;

    /// The operating system's processes of the server without which it cannot tell how far its log has come, or send it to
    /// the copy.
    async fn needed_processes(&self, server: &Path) -> Result<Vec<u32>, String>;

    /// How far the log of the server has come, after everything in it was written to disk.
    async fn written(&self, server: &Path) -> Result<Position, String>;

    /// How far the copy has repeated the log of which `of` is a position. An error if it does not follow that very server, or
    /// has something of its own.
    async fn repeated(&self, copy: &Path, of: &Position) -> Result<u64, String>;

    /// Whether the copy takes writes.
    async fn is_writable(&self, copy: &Path) -> Result<bool, String>;

    /// The router's own connections to these servers are not needed for the moment.
    async fn let_go(&self);
}
