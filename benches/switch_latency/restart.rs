//! A bare stop and start. By the most direct recipe there is without touching the server's settings: flush, fast stop, wait
//! for the process itself, execute the next one, wait for its own `READY=1`. And by the fastest safe recipe.

use std::ffi::OsString;
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

/// How a bare server is restarted.
pub(crate) enum Recipe {
    /// As directly as can be, with the settings that it has anyway.
    Direct,
    /// The fastest safe one known, with these settings: the next server is started ahead and held up, the connections are
    /// closed a little before the signal, and that comes at the best moment.
    Best(Vec<OsString>),
}

/// Before the best signal the connections go, because servers that still have some take longer.
const LEAD: Duration = Duration::from_millis(30);

/// Stops and starts it with this many connections, which are closed at the signal (or as long before it as the server
/// needs) and opened again when it is ready.
pub(crate) fn restart(
    stage: &Stage,
    subject: &dyn Subject,
    bare: &mut Bare<'_>,
    connections: usize,
    recipe: &Recipe,
) -> Restart {
    let socket = bare.socket();
    let mut open: Vec<UnixStream> = (0..connections).map(|_| subject.greet(&socket)).collect();
    let ahead = match recipe {
        Recipe::Direct => None,
        Recipe::Best(options) => {
            let (door, more) = stage.engine.door(stage, &bare.run_dir, &bare.data);
            Some(bare.start_ahead(&[options.as_slice(), &more].concat(), &door))
        }
    };
    subject.before_stop(stage, bare.port);
    if let Some(lead) = subject.lead().or(ahead.as_ref().map(|_| LEAD)) {
        open.clear();
        thread::sleep(lead);
    }
    if ahead.is_some() {
        subject.await_moment(bare.pid());
    }
    let begun = Instant::now();
    let since = || begun.elapsed().as_secs_f64() * 1000.0;
    bare.signal_stop();
    drop(open);
    bare.await_end();
    let gone = since();
    match ahead {
        Some(ahead) => bare.go_on(ahead),
        None => bare.start(&[]),
    }
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
