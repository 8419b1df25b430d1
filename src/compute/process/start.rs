//! One start of a server, in two steps: everything that needs no empty volume first, then the start itself. A start
//! that is given up half-way (an error, a dropped future) takes its process with it.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::flavour::{Flavour, Site};
use super::log_file::ServerLog;
use super::readiness::{NotifySocket, Readiness, await_ready};
use super::spawn::{Process, Program};
use crate::compute::{ComputeError, Resources};

/// Names of notification sockets never repeat: the old server may still report while the next one's is made.
static STARTS: AtomicU64 = AtomicU64::new(0);

/// A start that only needs the volume to be free.
#[derive(Debug)]
pub struct Staged {
    program: Program,
    log: ServerLog,
    notify: NotifySocket,
}

impl Staged {
    /// Opens what the start needs. Nothing here is noticed by a running server.
    pub fn new(site: &Site, flavour: &dyn Flavour, resources: &Resources) -> Result<Self, ComputeError> {
        let failed = |what: &'static str| move |source| ComputeError::Io { what: what.to_owned(), source };
        let log_path = site.volume.parent().unwrap_or(Path::new("/")).join("log").join(flavour.log_name());
        let log = ServerLog::open(&log_path).map_err(failed("opening the server's log"))?;
        let name = format!("notify.{}", STARTS.fetch_add(1, Ordering::Relaxed));
        let notify = NotifySocket::bind(&site.run_dir.join(name), site.user.as_ref())
            .map_err(failed("making the notification socket"))?;
        let (file, arguments) = flavour.server(site, resources);
        let environment = vec![("NOTIFY_SOCKET".to_owned(), notify.path().as_os_str().to_owned())];
        let (folder, user) = (site.volume.clone(), site.user.clone());
        Ok(Self { program: Program { file, arguments, environment, folder, user }, log, notify })
    }

    /// Starts the server and waits until it is ready. On `Err` its main process is gone (children may still be
    /// ending). Dropping the future kills it.
    pub async fn go(
        self,
        site: &Site,
        flavour: &dyn Flavour,
        entrances: Vec<File>,
        deadline: Duration,
    ) -> Result<Process, ComputeError> {
        let file = self.program.file.display().to_string();
        let process = Process::start(self.program, entrances, &self.log.file)
            .map_err(|source| ComputeError::Io { what: format!("starting {file}"), source })?;
        let mut unfinished = Unfinished(Some(process.clone()));
        let notified = self.notify.listen(process.clone());
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
