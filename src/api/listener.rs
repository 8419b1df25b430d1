//! The accept loop of the control API: every connection is limited in number, time and size.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::sys::socket::{setsockopt, sockopt::TcpUserTimeout};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::{HEADER_TIMEOUT, MOST_CONNECTIONS};

/// What requests under way may take after `shutdown`.
const GRACE: Duration = Duration::from_secs(2);
/// A peer that takes nothing off its socket for so long is gone, milliseconds.
const STUCK_MS: u32 = 60_000;

/// Serves until `shutdown` resolves; then requests under way get two seconds, and nothing is left running.
pub async fn serve(listener: TcpListener, router: Router, shutdown: impl Future<Output = ()>) {
    let connections = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let (stop, stopping) = watch::channel(());
    let mut tasks = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = async {
            // A full house leaves new connections in the kernel's queue. The semaphore is never closed.
            let permit = connections.clone().acquire_owned().await.ok();
            (listener.accept().await, permit)
        };
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(_) = tasks.join_next() => {}
            (accepted, permit) = accepted => match accepted {
                Ok((stream, peer)) => {
                    let connection = converse(stream, peer, router.clone(), stopping.clone());
                    tasks.spawn(async move {
                        connection.await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    // Most likely out of descriptors: without a pause this loop would spin.
                    warn!(%error, "the control API cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    drop(listener);
    drop(stop);
    let ends = async { while tasks.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(GRACE, ends).await;
    tasks.shutdown().await;
}

/// One connection, until its client leaves or the server stops (`stopping` loses its sender).
async fn converse(stream: TcpStream, peer: SocketAddr, router: Router, mut stopping: watch::Receiver<()>) {
    if let Err(error) = setsockopt(&stream, TcpUserTimeout, &STUCK_MS) {
        debug!(%peer, %error, "no time limit for a stuck client");
    }
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_headers(64).max_buf_size(32 * 1024);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = stopping.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%peer, %error, "a connection to the control API ended early");
    }
}
