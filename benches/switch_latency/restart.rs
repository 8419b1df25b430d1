//! A bare stop and start, by the most direct recipe there is without touching the server's settings: checkpoint, fast
//! stop, wait for the process itself, execute the next one, wait for its own `READY=1`.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::stage::bare::Bare;
use crate::stage::{DATABASE, Stage, USER, run};

/// Longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Milliseconds from the stop signal.
pub(crate) struct Restart {
    /// Until the old server had exited.
    pub(crate) gone: f64,
    /// Until the new one said that it is ready.
    pub(crate) ready: f64,
    /// Until the first fresh connection had its answer.
    pub(crate) first: f64,
    /// Until as many as there are clients had theirs.
    pub(crate) all: f64,
}

/// Stops and starts it with this many connections, which are closed at the signal and opened again when it is ready.
pub(crate) fn restart(stage: &Stage, bare: &mut Bare<'_>, connections: usize) -> Restart {
    let socket = bare.socket();
    let open: Vec<UnixStream> = (0..connections).map(|_| connect(&socket)).collect();
    let mut psql = stage.client("psql");
    psql.args(["-qX", "-c", "checkpoint", "-p", &bare.port.to_string(), "-h"]).arg(&bare.run_dir);
    run(&mut psql);
    let begun = Instant::now();
    let since = || begun.elapsed().as_secs_f64() * 1000.0;
    bare.signal_stop();
    drop(open);
    bare.await_end();
    let gone = since();
    bare.start(&[]);
    let ready = since();
    let mut answered: Vec<f64> = thread::scope(|scope| {
        let connect = || {
            scope.spawn(|| {
                connect(&socket);
                since()
            })
        };
        let threads: Vec<_> = (0..connections).map(|_| connect()).collect();
        threads.into_iter().map(|thread| thread.join().expect("an answer")).collect()
    });
    answered.sort_by(f64::total_cmp);
    let (first, all) = (answered[0], answered[answered.len() - 1]);
    Restart { gone, ready, first, all }
}

/// Logs in (the socket is trusted) and has `select 1` answered.
fn connect(socket: &Path) -> UnixStream {
    let mut stream = UnixStream::connect(socket).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let mut body = 196_608_u32.to_be_bytes().to_vec();
    body.extend_from_slice(format!("user\0{USER}\0database\0{DATABASE}\0\0").as_bytes());
    let mut startup = u32::try_from(body.len() + 4).expect("short").to_be_bytes().to_vec();
    startup.extend_from_slice(&body);
    stream.write_all(&startup).expect("a server that reads");
    await_ready(&mut stream);
    stream.write_all(b"Q\0\0\0\x0dselect 1\0").expect("a server that reads");
    await_ready(&mut stream);
    stream
}

/// Reads up to and including `ReadyForQuery`.
fn await_ready(stream: &mut UnixStream) {
    loop {
        let mut header = [0; 5];
        stream.read_exact(&mut header).expect("an answer");
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize - 4;
        let mut body = vec![0; length];
        stream.read_exact(&mut body).expect("an answer");
        assert!(header[0] != b'E', "the bare server: {}", String::from_utf8_lossy(&body));
        if header[0] == b'Z' {
            return;
        }
    }
}
