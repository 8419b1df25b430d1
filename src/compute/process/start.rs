//! One start of a server, in two steps: everything that needs no empty volume first, then the start itself. A start
//! that is given up half-way (an error, a dropped future) takes its process with it.

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::sync::watch;

use super::flavour::{Flavour, Site};
use super::fork::{Process, Waiting};
use super::log_file::ServerLog;
use super::readiness::{NotifySocket, Readiness, await_ready};
use super::spawn::Program;
use crate::compute::{ComputeError, Resources};

/// Names of notification sockets never repeat: the old server may still report while the next one's is made.
static STARTS: AtomicU64 = AtomicU64::new(0);

/// A start that only needs the volume to be free: its process exists and waits. Dropped, it goes away.
#[derive(Debug)]
pub(super) struct Staged {
    waiting: Waiting,
    log: ServerLog,
    notified: watch::Receiver<bool>,
}

impl Staged {
    /// Prepares the start, down to the process. Nothing here is noticed by a running server. `entrances`: where the
    /// process moves into its cgroups.
    pub(super) fn new(
        site: &Site,
        flavour: &dyn Flavour,
        resources: &Resources,
        entrances: &[File],
    ) -> Result<Self, ComputeError> {
        let failed = |what: &'static str| move |source| ComputeError::Io { what: what.to_owned(), source };
        let log_path = site.beside_volume("log").join(flavour.log_name());
        let log = ServerLog::open(&log_path).map_err(failed("opening the server's log"))?;
        let name = format!("notify.{}", STARTS.fetch_add(1, Ordering::Relaxed));
        let notify = NotifySocket::bind(&site.run_dir.join(name), site.user.as_ref())
            .map_err(failed("making the notification socket"))?;
        let (file, arguments) = flavour.server(site, resources);
        let mut environment = flavour.environment();
        environment.push(("NOTIFY_SOCKET".to_owned(), notify.path().as_os_str().to_owned()));
        let (folder, user) = (site.volume.clone(), site.user.clone());
        let program = Program { file, arguments, environment, folder, user, input: None };
        let waiting =
            Waiting::fork(&program, entrances, &log.file).map_err(failed("making the server's process"))?;
        let notified = notify.listen(waiting.process());
        Ok(Self { waiting, log, notified })
    }

    /// Whether its process still waits.
    pub(super) fn is_alive(&self) -> bool {
        self.waiting.process().ending().is_none()
    }

    /// Starts the server and waits until it is ready. On `Err` its main process is gone (children may still be
    /// ending). Dropping the future kills it.
    pub(super) async fn go(
        mut self,
        site: &Site,
        flavour: &dyn Flavour,
        deadline: Duration,
    ) -> Result<Process, ComputeError> {
        self.log.begin();
        let process = self.waiting.release();
        let notified = self.notified;
        let mut unfinished = Unfinished(Some(process.clone()));
        let looks_ready = || flavour.looks_ready(site, process.pid);
        let how = match await_ready(&process, notified, looks_ready, deadline).await {
            Readiness::Ready => {
                unfinished.0 = None;
                return Ok(process);
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
