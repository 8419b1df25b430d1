//! Programs and how they are run: as the right user, in a session of their own, with nothing of ours but what they are
//! given. Short ones are run to their end here; servers are started by `fork`.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::libc;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::os_user::OsUser;
use crate::compute::ComputeError;

/// Variables a server may inherit; everything else (`PGDATA`, `LC_ALL`, secrets) stays with the router.
const INHERITED_VARIABLES: [&str; 3] = ["PATH", "TZ", "LD_LIBRARY_PATH"];

/// What to run and how.
#[derive(Debug)]
pub(super) struct Program {
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
    /// What a short program reads from its standard input; `None`: nothing.
    pub input: Option<File>,
}

impl Program {
    /// A program with arguments and nothing else set; it starts in `/`.
    pub(super) fn new(file: &Path, arguments: Vec<OsString>, user: Option<OsUser>) -> Self {
        Self {
            file: file.to_path_buf(),
            arguments,
            environment: Vec::new(),
            folder: PathBuf::from("/"),
            user,
            input: None,
        }
    }

    /// The variables it sees: its own, and the few inherited ones that are not among them.
    pub(super) fn variables(&self) -> impl Iterator<Item = (String, OsString)> + '_ {
        let is_own = |name: &str| self.environment.iter().any(|(own, _)| own == name);
        let inherited = INHERITED_VARIABLES.iter().filter(move |name| !is_own(name));
        let inherited =
            inherited.filter_map(|name| std::env::var_os(name).map(|value| ((*name).to_owned(), value)));
        inherited.chain(self.environment.iter().cloned())
    }

    /// The program as the standard library runs it.
    pub(super) fn command(self) -> Command {
        let mut command = Command::new(&self.file);
        command.args(&self.arguments).current_dir(&self.folder).env_clear().envs(self.variables());
        command.stdin(self.input.map_or_else(Stdio::null, Stdio::from));
        let user = self.user;
        let before_exec = move || {
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

/// What a short program printed.
#[derive(Debug)]
pub(super) struct Printed {
    /// Whether it exited with status 0.
    pub success: bool,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Runs a program to its end; kills it and all it started after `deadline`, or when dropped.
pub(super) async fn run(program: Program, deadline: Duration) -> Result<Printed, ComputeError> {
    let name = program.file.display().to_string();
    let (printed, in_time) = run_and_listen(program, deadline).await?;
    if in_time {
        Ok(printed)
    } else {
        Err(ComputeError::Io { what: format!("running {name}"), source: io::ErrorKind::TimedOut.into() })
    }
}

/// As [`run`], but what a program printed that had to be killed is kept; says whether it ended in time.
pub(super) async fn run_and_listen(
    program: Program,
    deadline: Duration,
) -> Result<(Printed, bool), ComputeError> {
    let name = program.file.display().to_string();
    let failed = |source| ComputeError::Io { what: format!("running {name}"), source };
    let mut command = tokio::process::Command::from(program.command());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let child = command.spawn().map_err(failed)?;
    let session = Session(child.id());
    let mut ending = std::pin::pin!(child.wait_with_output());
    let (output, in_time) = match tokio::time::timeout(deadline, &mut ending).await {
        Ok(output) => {
            let output = output.map_err(failed)?;
            session.has_ended();
            (output, true)
        }
        Err(_) => {
            drop(session);
            (ending.await.map_err(failed)?, false)
        }
    };
    let printed = Printed {
        success: in_time && output.status.success(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    Ok((printed, in_time))
}

/// The process group of a program that is still running: killed as a whole when dropped.
struct Session(Option<u32>);

impl Session {
    /// The program has ended, so its number may be another's by now.
    fn has_ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(leader) = self.0.and_then(|pid| i32::try_from(pid).ok()) {
            let _ = killpg(Pid::from_raw(leader), Signal::SIGKILL);
        }
    }
}
