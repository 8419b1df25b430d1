//! The least that a relay in this language and runtime can do: two copies, no look at the bytes.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::thread;

use tokio::net::{TcpListener, UnixStream};

/// Relays from a TCP port to a Unix socket until the process ends.
pub(crate) fn start(port: u16, socket: PathBuf) {
    let listener =
        std::net::TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).expect("a port");
    listener.set_nonblocking(true).expect("a socket");
    thread::spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(2).enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = TcpListener::from_std(listener).expect("a socket");
            loop {
                let (mut client, _) = listener.accept().await.expect("a client");
                let socket = socket.clone();
                tokio::spawn(async move {
                    client.set_nodelay(true).expect("an option");
                    let mut server = UnixStream::connect(&socket).await.expect("a server");
                    // Who hangs up first does not matter.
                    drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
                });
            }
        });
    });
}
