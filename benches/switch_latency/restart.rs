//! A bare stop and start, by the most direct recipe there is without touching the server's settings: flush, fast stop, wait
//! for the process itself, execute the next one, wait for its own `READY=1`.

use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::stage::Stage;
use crate::stage::bare::Bare;
use crate::subject::Subject;

/// Longer than any answer takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

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

/// Stops and starts it with this many connections, which are closed at the signal (or as long before it as the server
/// needs) and opened again when it is ready.
pub(crate) fn restart(
    stage: &Stage,
    subject: &dyn Subject,
    bare: &mut Bare<'_>,
    connections: usize,
) -> Restart {
    let socket = bare.socket();
    let mut open: Vec<UnixStream> = (0..connections).map(|_| subject.greet(&socket)).collect();
    subject.before_stop(stage, bare.port);
    if let Some(lead) = subject.lead() {
        open.clear();
        thread::sleep(lead);
    }
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
                subject.greet(&socket);
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
