//! What a provider that keeps a copy of its database needs to have said inside the two servers. It speaks no database's
//! language, so somebody who does implements this.

use std::path::Path;

use async_trait::async_trait;

/// How far a server's log has come; comparable between a server and its copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position(pub u64);

/// A file to be written into a finished copy, and its content.
pub type CopyFile = (&'static str, String);

/// A copy of a server's files that is being made. Dropping it gives it up.
#[async_trait]
pub trait CopyUnderWay: Send {
    /// The files have been copied. Yields what is to be added to them.
    async fn finish(self: Box<Self>) -> Result<Vec<CopyFile>, String>;
}

/// See the module. A server is named by its private socket.
#[async_trait]
pub trait Replication: Send + Sync {
    /// From here until the copy is finished, the files of the running server may be copied one after the other.
    async fn begin_copy(&self, server: &Path) -> Result<Box<dyn CopyUnderWay>, String>;

    /// The operating system's processes of the server without which it cannot tell how far its log has come, or send it to
    /// the copy.
    async fn needed_processes(&self, server: &Path) -> Result<Vec<u32>, String>;

    /// How far the log of the server has come, after everything in it was written to disk.
    async fn written(&self, server: &Path) -> Result<Position, String>;

    /// How far the copy has repeated that log. An error if it does not follow that very server.
    async fn repeated(&self, copy: &Path) -> Result<Position, String>;

    /// Whether the copy takes writes.
    async fn is_writable(&self, copy: &Path) -> Result<bool, String>;

    /// The router's own connections to these servers are not needed for the moment.
    async fn let_go(&self);
}
