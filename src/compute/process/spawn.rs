//! Starting programs: as the right user, in a session of their own, with nothing of ours but what they are given.
//!
//! `PR_SET_PDEATHSIG` is not used on purpose. It fires when the *thread* that forked ends, and here that is a worker
//! of the runtime, which may end while the router lives: the database would be killed under its clients. A server
//! that outlives its router is found by `orphan` instead.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::libc;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::sync::watch;

use super::os_user::OsUser;
use super::pidfd::Pidfd;
use crate::compute::ComputeError;

/// Variables a server may inherit; everything else (`PGDATA`, `LC_ALL`, secrets) stays with the router.
const INHERITED_VARIABLES: [&str; 3] = ["PATH", "TZ", "LD_LIBRARY_PATH"];

/// What to run and how.
#[derive(Debug)]
pub struct Program {
    /// The program's file.
    pub file: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Variables on top of the few inherited ones.
    pub environment: Vec<(String, OsString)>,
    /// Where it starts.
    pub folder: PathBuf,
    /// Whom it runs as; `None`: ourselves.
    pub user: Option<OsUser>,
}

impl Program {
    /// A program with arguments and nothing else set; it starts in `/`.
    pub fn new(file: &Path, arguments: Vec<OsString>, user: Option<OsUser>) -> Self {
        Self {
            file: file.to_path_buf(),
            arguments,
            environment: Vec::new(),
            folder: PathBuf::from("/"),
            user,
        }
    }

    /// `entrances`: open `cgroup.procs` files through which the child puts itself into its cgroups before the exec,
    /// so that not one page of it is charged elsewhere.
    fn command(self, entrances: Vec<File>) -> Command {
        let mut command = Command::new(&self.file);
        command.args(&self.arguments).current_dir(&self.folder).env_clear().stdin(Stdio::null());
        let inherited =
            INHERITED_VARIABLES.iter().filter_map(|name| std::env::var_os(name).map(|v| (name, v)));
        command.envs(inherited).envs(self.environment);
        let user = self.user;
        let before_exec = move || {
            for entrance in &entrances {
                // SAFETY: an open descriptor and a constant buffer. A refusal is not fatal: the server then runs
                // without that limit, which is better than not at all.
                unsafe { libc::write(entrance.as_raw_fd(), b"0".as_ptr().cast(), 1) };
            }
            // SAFETY: system calls with integers only. Everything from 3 on closes at the exec, also what a library
            // opened without O_CLOEXEC; a kernel without close_range leaves that to O_CLOEXEC.
            unsafe {
                libc::setsid();
                libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
            }
            user.as_ref().map_or(Ok(()), OsUser::become_now)
        };
        // SAFETY: the closure makes only async-signal-safe system calls and allocates nothing.
        unsafe { command.pre_exec(before_exec) };
        command
    }
}

/// A server process of ours.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its process id; valid until `exited` says otherwise.
    pub pid: u32,
    /// For signals.
    pub pidfd: Arc<Pidfd>,
    /// `Some(how)` once it has exited and been reaped.
    pub exited: watch::Receiver<Option<String>>,
}

/// Exit status 0, in the words of [`Process::exited`].
const CLEAN_EXIT: &str = "exit status: 0";

impl Process {
    /// Starts a server whose output goes to `log`. A task reaps it when it ends. Must be called inside a runtime.
    pub fn start(program: Program, entrances: Vec<File>, log: &File) -> io::Result<Self> {
        let mut command = program.command(entrances);
        command.stdout(log.try_clone()?).stderr(log.try_clone()?);
        let mut child = command.spawn()?;
        let pid = child.id();
        let pidfd = match Pidfd::open(pid) {
            Ok(pidfd) => Arc::new(pidfd),
            Err(refused) => {
                child.kill()?;
                child.wait()?;
                return Err(refused);
            }
        };
        let (ended, exited) = watch::channel(None);
        let watched = Arc::clone(&pidfd);
        tokio::spawn(async move {
            // An error here means that the runtime ends; the router then ends too and init reaps.
            if watched.exited().await.is_ok() {
                let how = child.wait().map_or_else(|error| error.to_string(), describe);
                tracing::info!(pid, %how, "database process exited");
                ended.send_replace(Some(how));
            }
        });
        Ok(Self { pid, pidfd, exited })
    }

    /// How it exited, if it has.
    pub fn ending(&self) -> Option<String> {
        self.exited.borrow().clone()
    }

    /// Whether it has exited by itself with status 0: then it has also seen its children end.
    pub fn ended_cleanly(&self) -> bool {
        self.exited.borrow().as_deref() == Some(CLEAN_EXIT)
    }

    /// Waits until it has exited and been reaped. Cancel-safe.
    pub async fn ended(&self) -> String {
        let mut exited = self.exited.clone();
        let seen = exited.wait_for(Option::is_some).await;
        seen.ok().and_then(|how| how.clone()).unwrap_or_else(|| "unknown".to_owned())
    }
}

fn describe(status: ExitStatus) -> String {
    status.to_string()
}

/// What a short program printed.
#[derive(Debug)]
pub struct Printed {
    /// Whether it exited with status 0.
    pub success: bool,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Runs a program to its end; kills it and all it started after `deadline`, or when dropped.
pub async fn run(program: Program, deadline: Duration) -> Result<Printed, ComputeError> {
    let name = program.file.display().to_string();
    let failed = |source| ComputeError::Io { what: format!("running {name}"), source };
    let mut command = tokio::process::Command::from(program.command(Vec::new()));
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let child = command.spawn().map_err(failed)?;
    let session = Session(child.id());
    let output = tokio::time::timeout(deadline, child.wait_with_output()).await;
    let output = output.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(failed)?;
    std::mem::forget(session);
    Ok(Printed {
        success: output.status.success(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// The process group of a program that is still running: killed as a whole when dropped.
struct Session(Option<u32>);

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(leader) = self.0.and_then(|pid| i32::try_from(pid).ok()) {
            let _ = killpg(Pid::from_raw(leader), Signal::SIGKILL);
        }
    }
}
