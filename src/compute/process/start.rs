//! One start of a server, in two steps: everything that needs no empty volume first, then the start itself. A start
//! that is given up half-way (an error, a dropped future) takes its process with it.

use std::ffi::OsString;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::sync::watch;
use tokio::time::timeout;

use super::barrier::{Barrier, Look, Stand, Threshold};
use super::fifo::Fifo;
use super::flavour::{Flavour, Site};
use super::fork::{Process, Waiting};
use super::log_file::ServerLog;
use super::readiness::{NotifySocket, Readiness, await_ready};
use super::spawn::Program;
use crate::compute::{ComputeError, Resources};

/// Names of notification sockets never repeat: the old server may still report while the next one's is made.
static STARTS: AtomicU64 = AtomicU64::new(0);

/// How long a server that is started ahead may take to its threshold; then it is let go when its turn comes, wherever it is.
const AHEAD: Duration = Duration::from_secs(5);

/// A start that only needs the volume to be free: its process exists and waits. Dropped, it goes away.
#[derive(Debug)]
pub(super) struct Staged {
    stage: Stage,
    /// What it reads instead of its settings file.
    fifo: Option<Arc<Fifo>>,
    log: ServerLog,
    notified: watch::Receiver<bool>,
}

/// How far it is.
#[derive(Debug)]
enum Stage {
    /// No server yet. The barrier is there for when it is sent ahead.
    Forked(Waiting, Option<Barrier>),
    /// A server, held up before it touches the volume.
    Ahead(Ahead),
}

/// See [`Stage::Ahead`]. The barrier ends its process when it is dropped.
#[derive(Debug)]
struct Ahead {
    process: Process,
    barrier: Barrier,
    /// Where it waits, if not at its settings.
    threshold: Option<Threshold>,
    /// What it has read of the volume looked like before.
    read: Option<Vec<Option<Look>>>,
}

/// What can hold a server up.
#[derive(Debug)]
pub(super) enum Way {
    /// The kernel, at a file.
    Kernel(Threshold),
    /// The FIFO that it was staged with.
    Fifo,
}

/// Servers of this kind do not wait where they should.
#[derive(Debug)]
pub(super) struct Unfit;

impl Staged {
    /// Prepares the start, down to the process. Nothing here is noticed by a running server. `more`: arguments behind the
    /// usual ones. `entrances`: where the process moves into its cgroups.
    ///
    /// `settings`: a file that it reads through a FIFO, so that it can be held up there.
    pub(super) fn new(
        site: &Site,
        flavour: &dyn Flavour,
        resources: &Resources,
        more: Vec<OsString>,
        settings: Option<PathBuf>,
        entrances: &[File],
    ) -> Result<Self, ComputeError> {
        let failed = |what: &'static str| move |source| ComputeError::Io { what: what.to_owned(), source };
        let log_path = site.beside_volume("log").join(flavour.log_name());
        let log = ServerLog::open(&log_path).map_err(failed("opening the server's log"))?;
        let number = STARTS.fetch_add(1, Ordering::Relaxed);
        let name = format!("notify.{number}");
        let notify = NotifySocket::bind(&site.run_dir.join(name), site.user.as_ref())
            .map_err(failed("making the notification socket"))?;
        let (file, mut arguments) = flavour.server(site, resources);
        arguments.extend(more);
        let mut fifo = None;
        if let Some(settings) = settings {
            let made = Fifo::make(&site.run_dir, number, settings, site.user.as_ref())
                .map_err(failed("making a FIFO for the server's settings"))?;
            arguments.extend(flavour.reading(made.path()));
            fifo = Some(Arc::new(made));
        }
        let mut environment = flavour.environment();
        environment.push(("NOTIFY_SOCKET".to_owned(), notify.path().as_os_str().to_owned()));
        let (folder, user) = (site.volume.clone(), site.user.clone());
        let program = Program { file, arguments, environment, folder, user, input: None };
        let barrier = Barrier::raise().ok();
        let waiting = Waiting::fork(&program, entrances, &log.file, barrier.as_ref().map(Barrier::anchor))
            .map_err(failed("making the server's process"))?;
        let notified = notify.listen(waiting.process());
        Ok(Self { stage: Stage::Forked(waiting, barrier), fifo, log, notified })
    }

    fn process(&self) -> Process {
        match &self.stage {
            Stage::Forked(waiting, _) => waiting.process(),
            Stage::Ahead(ahead) => ahead.process.clone(),
        }
    }

    /// Whether its process still waits, and what it has read is still so.
    pub(super) fn is_fresh(&self) -> bool {
        let is_so = match &self.stage {
            Stage::Forked(..) => true,
            Stage::Ahead(ahead) => ahead.threshold.as_ref().map(Threshold::look) == ahead.read,
        };
        is_so && self.process().ending().is_none()
    }

    /// Whether it is a server already, which is held up.
    pub(super) fn is_ahead(&self) -> bool {
        matches!(self.stage, Stage::Ahead(_))
    }

    /// Sends it ahead, while another server has the volume, and waits until it is held up. `Ok(None)`: it is gone. `Err`:
    /// the same, and no other one is to be sent. Dropping the future ends it.
    pub(super) async fn advance(self, site: &Site, way: Way) -> Result<Option<Self>, Unfit> {
        let Self { stage, fifo, mut log, notified } = self;
        let (waiting, mut barrier) = match stage {
            Stage::Forked(waiting, Some(barrier)) => (waiting, barrier),
            stage => return Ok(Some(Self { stage, fifo, log, notified })),
        };
        let armed = match (&way, &fifo) {
            (Way::Kernel(threshold), _) => barrier.arm(&waiting.process(), &site.volume, threshold),
            (Way::Fifo, Some(fifo)) => barrier.arm_with_fifo(&waiting.process(), Arc::clone(fifo)),
            (Way::Fifo, None) => return Ok(None),
        };
        if let Err(error) = armed {
            tracing::warn!(cluster = site.cluster, %error, "the next server cannot be started ahead");
            return Ok(None);
        }
        let threshold = match way {
            Way::Kernel(threshold) => Some(threshold),
            Way::Fifo => None,
        };
        let read = threshold.as_ref().map(Threshold::look);
        log.begin();
        let ahead = Ahead { process: waiting.release(), barrier, threshold, read };
        let reached = timeout(AHEAD, ahead.barrier.reached()).await.unwrap_or(Stand::Coming);
        tracing::debug!(
            cluster = site.cluster,
            pid = ahead.process.pid,
            ?reached,
            "the next server is there"
        );
        if reached == Stand::Strayed {
            return Err(Unfit);
        }
        if ahead.threshold.is_none() && reached != Stand::Waits {
            // Only the kernel can let it go wherever it is.
            tracing::warn!(
                cluster = site.cluster,
                "the next server does not open its settings; it is started in its turn"
            );
            return Ok(None);
        }
        if let Some(how) = ahead.process.ending() {
            let words = log.last_words(|_| false);
            tracing::warn!(cluster = site.cluster, how, words, "a server that was started ahead ended");
            return Ok(None);
        }
        Ok(Some(Self { stage: Stage::Ahead(ahead), fifo, log, notified }))
    }

    /// Ends it, and waits for that.
    pub(super) async fn dismiss(self) {
        let process = self.process();
        drop(self);
        let _ = timeout(AHEAD, process.ended()).await;
    }

    /// Starts the server and waits until it is ready; what it has for settings has to stay while it runs. On `Err`
    /// its main process is gone (children may still be ending). Dropping the future kills it.
    pub(super) async fn go(
        mut self,
        site: &Site,
        flavour: &dyn Flavour,
        deadline: Duration,
    ) -> Result<(Process, Option<Arc<Fifo>>), ComputeError> {
        let failed = |source| ComputeError::Io { what: "letting the next server go on".to_owned(), source };
        self.log.begin();
        let process = match self.stage {
            Stage::Forked(waiting, _) => {
                // It is not to be held up.
                self.fifo.as_ref().map_or(Ok(()), |fifo| fifo.settle()).map_err(failed)?;
                waiting.release()
            }
            Stage::Ahead(ahead) => {
                ahead.barrier.open().map_err(failed)?;
                ahead.process
            }
        };
        let notified = self.notified;
        let mut unfinished = Unfinished(Some(process.clone()));
        let looks_ready = || flavour.looks_ready(site, process.pid);
        let how = match await_ready(&process, notified, looks_ready, deadline).await {
            Readiness::Ready => {
                unfinished.0 = None;
                return Ok((process, self.fifo));
            }
            Readiness::Exited(how) => how,
            Readiness::TimedOut => {
                drop(unfinished);
                process.ended().await;
                format!("not ready after {} s, killed", deadline.as_secs())
            }
        };
        let words = self.log.last_words(|line| flavour.is_grave(line));
        Err(ComputeError::NotStarted(format!("{words} ({how})")))
    }
}

/// Kills a server that did not get as far as serving. Its write-ahead log makes that safe.
struct Unfinished(Option<Process>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(process) = &self.0 {
            let _ = process.pidfd.signal(Signal::SIGKILL);
        }
    }
}
