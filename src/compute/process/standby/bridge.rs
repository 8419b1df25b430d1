//! The way from a copy to the server that it follows, where it can follow only over TCP and that server listens on a private
//! socket: a port of the loopback address which admits connections of the copy's own process and of nobody else.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

/// A copy has one connection, and makes the next one when it has lost that.
const MOST_CONNECTIONS: usize = 4;
/// How long the server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// After a connection that could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);

/// See the module. It closes, with its connections, when this is dropped.
#[derive(Debug)]
pub(super) struct Bridge {
    /// Of 127.0.0.1.
    pub(super) port: u16,
    task: AbortHandle,
}

impl Bridge {
    /// From a free port to `socket`, for the process `pid`.
    pub(super) async fn open(socket: PathBuf, pid: u32) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let task = tokio::spawn(serve(listener, socket, pid)).abort_handle();
        Ok(Self { port, task })
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, socket: PathBuf, pid: u32) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, peer)) = listener.accept().await else {
            sleep(PAUSE).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        if connections.len() < MOST_CONNECTIONS {
            connections.spawn(carry(client, peer, socket.clone(), pid));
        }
    }
}

/// Errors end the connection; the copy makes another one.
async fn carry(mut client: TcpStream, peer: SocketAddr, socket: PathBuf, pid: u32) -> io::Result<()> {
    let own = client.local_addr()?;
    let admitted = tokio::task::spawn_blocking(move || belongs_to(peer, own, pid)).await;
    if !admitted.is_ok_and(|admitted| admitted) {
        tracing::warn!("somebody else than the copy of a database asked for its log");
        return Ok(());
    }
    client.set_nodelay(true)?;
    let mut server = timeout(CONNECT, UnixStream::connect(&socket)).await??;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

/// Whether the end `peer` of a connection to `own` is a socket of process `pid`. No other process can have that end: a port
/// that is in use is nobody else's.
fn belongs_to(peer: SocketAddr, own: SocketAddr, pid: u32) -> bool {
    let (SocketAddr::V4(peer), SocketAddr::V4(own)) = (peer, own) else { return false };
    let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let Some(inode) = inode_of(&table, peer, own) else { return false };
    let name = format!("socket:[{inode}]");
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    files.filter_map(|file| fs::read_link(file.path()).ok()).any(|target| target == Path::new(&name))
}

/// The inode of the socket that is bound to `local` and connected to `remote` (proc(5), `/proc/net/tcp`: the addresses in
/// hexadecimal, that of the host in the machine's own order).
fn inode_of(table: &str, local: SocketAddrV4, remote: SocketAddrV4) -> Option<u64> {
    let written = |address: SocketAddrV4| {
        format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port())
    };
    let (local, remote) = (written(local), written(remote));
    let mut lines = table.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let line = lines.find(|line| line.get(1) == Some(&&*local) && line.get(2) == Some(&&*remote))?;
    line.get(9)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixListener;

    use super::*;

    async fn echo(listener: UnixListener) {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut byte = [0];
            let _ = stream.read_exact(&mut byte).await;
            let _ = stream.write_all(&byte).await;
        }
    }

    async fn ask(bridge: &Bridge) -> io::Result<u8> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, bridge.port)).await?;
        stream.write_all(b"x").await?;
        stream.read_u8().await
    }

    #[tokio::test]
    async fn only_the_copys_process_is_let_through() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        tokio::spawn(echo(UnixListener::bind(&socket).unwrap()));
        let own = Bridge::open(socket.clone(), std::process::id()).await.unwrap();
        assert_eq!(ask(&own).await.unwrap(), b'x');
        assert_eq!(ask(&own).await.unwrap(), b'x');
        let others = Bridge::open(socket, 1).await.unwrap();
        assert!(ask(&others).await.is_err());
        let port = own.port;
        drop(own);
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok() {
            sleep(Duration::from_millis(1)).await;
        }
    }
}
