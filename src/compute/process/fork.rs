//! Server processes, in two steps: fork, then exec on a word from us.
//!
//! ```text
//! Waiting::fork ──► [waiting: session, cgroups, user, files] ── release ──► exec ──► [server] ──► exited, reaped
//!                              │ dropped, or the router died
//!                              └──► exits
//! ```
//!
//! The fork and above all the move into a cgroup (the kernel waits for a grace period, 10 ms and more) are thus done
//! while the old server still runs. The waiting process has closed everything but its own pipe and log, so it holds no
//! client's socket, and it touches nothing on the volume.
//!
//! A server may also be let go ahead of its turn, up to a `barrier`.
//!
//! `PR_SET_PDEATHSIG` is not used on purpose. It fires when the *thread* that forked ends, and here that is a worker
//! of the runtime, which may end while the router lives: the database would be killed under its clients. A server
//! that outlives its router is found by `orphan` instead.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;

use nix::libc::{self, c_char};
use nix::sys::signal::Signal;
use tokio::sync::watch;

use super::os_user::OsUser;
use super::pidfd::Pidfd;
use super::spawn::Program;

/// Exit status 0, in the words of [`Process::exited`].
const CLEAN_EXIT: &str = "exit status: 0";
/// The waiting process' end of the pipe; 0 to 2 are taken, everything above is closed ...
const GATE: RawFd = 3;
/// ... but the anchor of its barrier, which the server keeps.
const ANCHOR: RawFd = 4;
/// Above the places of those two.
const ASIDE: RawFd = 16;
/// What a shell answers when a program cannot be run.
const CANNOT_RUN: i32 = 127;

/// A server process of ours.
#[derive(Debug, Clone)]
pub(super) struct Process {
    /// Its process id; valid until `exited` says otherwise.
    pub pid: u32,
    /// For signals.
    pub pidfd: Arc<Pidfd>,
    /// `Some(how)` once it has exited and been reaped.
    pub exited: watch::Receiver<Option<String>>,
}

impl Process {
    /// How it exited, if it has.
    pub(super) fn ending(&self) -> Option<String> {
        self.exited.borrow().clone()
    }

    /// Whether it has exited by itself with status 0: then it has also seen its children end.
    pub(super) fn ended_cleanly(&self) -> bool {
        self.exited.borrow().as_deref() == Some(CLEAN_EXIT)
    }

    /// Waits until it has exited and been reaped. Cancel-safe.
    pub(super) async fn ended(&self) -> String {
        let mut exited = self.exited.clone();
        let seen = exited.wait_for(Option::is_some).await;
        seen.ok().and_then(|how| how.clone()).unwrap_or_else(|| "unknown".to_owned())
    }

    /// Watches over a child of ours and reaps it when it ends.
    fn adopt(pid: libc::pid_t) -> io::Result<Self> {
        let number = pid.unsigned_abs();
        let pidfd = match Pidfd::open(number) {
            Ok(pidfd) => Arc::new(pidfd),
            Err(error) => {
                // SAFETY: our own child, not reaped yet, so the number is its.
                unsafe { libc::kill(pid, libc::SIGKILL) };
                reap(pid);
                return Err(error);
            }
        };
        let (ended, exited) = watch::channel(None);
        let watched = Arc::clone(&pidfd);
        tokio::spawn(async move {
            // An error here means that the runtime ends; the router then ends too and init reaps.
            if watched.exited().await.is_ok() {
                let how = reap(pid);
                tracing::debug!(pid, %how, "database process exited");
                ended.send_replace(Some(how));
            }
        });
        Ok(Self { pid: number, pidfd, exited })
    }
}

/// Collects a child that has exited (or is about to) and says how.
fn reap(pid: libc::pid_t) -> String {
    let mut status = 0;
    loop {
        // SAFETY: a system call that writes one integer of ours.
        if unsafe { libc::waitpid(pid, &raw mut status, 0) } == pid {
            return ExitStatus::from_raw(status).to_string();
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return error.to_string();
        }
    }
}

/// A process that will become a server when it is told to. Dropped, it ends.
#[derive(Debug)]
pub(super) struct Waiting {
    process: Process,
    gate: io::PipeWriter,
}

impl Waiting {
    /// Forks. The child moves into its cgroups through `entrances` (open `cgroup.procs` files), so that not one page
    /// of the server is charged elsewhere. The server's output goes to `log`, and it inherits the `anchor`. Must be called
    /// inside a runtime.
    pub(super) fn fork(
        program: &Program,
        entrances: &[File],
        log: &File,
        anchor: Option<BorrowedFd<'_>>,
    ) -> io::Result<Self> {
        let image = Image::new(program)?;
        let null = OwnedFd::from(File::open("/dev/null")?);
        let (gate, opener) = io::pipe()?;
        let birth = Birth {
            image: &image,
            user: program.user.as_ref(),
            entrances,
            null: null.as_raw_fd(),
            log: log.as_raw_fd(),
            gate: gate.as_raw_fd(),
            opener: opener.as_raw_fd(),
            anchor: anchor.map(|anchor| anchor.as_raw_fd()),
        };
        // SAFETY: the child only runs `Birth::child`, which makes system calls and allocates nothing.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => birth.child(),
            pid => Ok(Self { process: Process::adopt(pid)?, gate: opener }),
        }
    }

    /// The process, which is no server yet.
    pub(super) fn process(&self) -> Process {
        self.process.clone()
    }

    /// Lets it become the server. If it died meanwhile, its `exited` says so.
    pub(super) fn release(mut self) -> Process {
        if let Err(error) = io::Write::write_all(&mut self.gate, b"1") {
            tracing::warn!(pid = self.process.pid, %error, "a waiting process is gone");
            let _ = self.process.pidfd.signal(Signal::SIGKILL);
        }
        self.process.clone()
    }
}

/// What `execve` takes, laid out before the fork.
struct Image {
    file: CString,
    folder: CString,
    /// Owns what the pointers point to.
    _texts: Vec<CString>,
    arguments: Vec<*const c_char>,
    variables: Vec<*const c_char>,
}

impl Image {
    fn new(program: &Program) -> io::Result<Self> {
        let text = |text: &OsStr| CString::new(text.as_bytes()).map_err(io::Error::other);
        let file = text(program.file.as_os_str())?;
        let mut texts = vec![file.clone()];
        for argument in &program.arguments {
            texts.push(text(argument)?);
        }
        let first_variable = texts.len();
        for (name, value) in program.variables() {
            let mut pair = std::ffi::OsString::from(name);
            pair.push("=");
            pair.push(value);
            texts.push(text(&pair)?);
        }
        let pointers = |texts: &[CString]| {
            texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>()
        };
        let (arguments, variables) = (pointers(&texts[..first_variable]), pointers(&texts[first_variable..]));
        Ok(Self { file, folder: text(program.folder.as_os_str())?, _texts: texts, arguments, variables })
    }
}

/// Everything the child needs, without an allocation.
struct Birth<'a> {
    image: &'a Image,
    user: Option<&'a OsUser>,
    entrances: &'a [File],
    null: RawFd,
    log: RawFd,
    gate: RawFd,
    opener: RawFd,
    anchor: Option<RawFd>,
}

impl Birth<'_> {
    /// The child's life until the exec. Only async-signal-safe calls: other threads of the router may have held any
    /// lock at the fork.
    fn child(&self) -> ! {
        // SAFETY: system calls on descriptors and strings that exist since before the fork. The router's standard
        // descriptors are open (the runtime of Rust sees to it), so none of ours is below 3.
        unsafe {
            libc::setsid();
            for entrance in self.entrances {
                // A refusal is not fatal: a server without that limit is better than none.
                libc::write(entrance.as_raw_fd(), b"0".as_ptr().cast(), 1);
            }
            let placed =
                libc::dup2(self.null, 0) == 0 && libc::dup2(self.log, 1) == 1 && libc::dup2(self.log, 2) == 2;
            libc::close(self.opener);
            let first_closed = self.place_own();
            if !placed || first_closed == 0 || libc::chdir(self.image.folder.as_ptr()) != 0 {
                give_up(b"the server's process could not be set up\n");
            }
            // A kernel without it closes all at the exec: everything of ours has O_CLOEXEC.
            libc::syscall(libc::SYS_close_range, first_closed, libc::c_uint::MAX, 0);
            if self.user.is_some_and(|user| user.become_now().is_err()) {
                give_up(b"the server's user could not be assumed\n");
            }
            self.await_release();
            libc::close(GATE);
            libc::execve(
                self.image.file.as_ptr(),
                self.image.arguments.as_ptr(),
                self.image.variables.as_ptr(),
            );
            give_up(b"FATAL:  the server's program cannot be executed\n")
        }
    }

    /// Puts the pipe and the anchor into their places; says what is the first descriptor that goes, or 0 when that failed.
    unsafe fn place_own(&self) -> RawFd {
        // SAFETY: as in `child`.
        unsafe {
            // Each may be where the other one has to go.
            let gate = libc::fcntl(self.gate, libc::F_DUPFD, ASIDE);
            let anchor = self.anchor.map(|anchor| libc::fcntl(anchor, libc::F_DUPFD, ASIDE));
            if libc::dup2(gate, GATE) != GATE {
                return 0;
            }
            match anchor {
                None => GATE + 1,
                Some(anchor) if libc::dup2(anchor, ANCHOR) == ANCHOR => ANCHOR + 1,
                Some(_) => 0,
            }
        }
    }

    /// Returns at the word to go; ends the process when nobody is left to say it.
    unsafe fn await_release(&self) {
        // SAFETY: as in `child`; the buffers are on the stack.
        unsafe {
            let mut word = 0_u8;
            loop {
                match libc::read(GATE, (&raw mut word).cast(), 1) {
                    1 => break,
                    -1 if *libc::__errno_location() == libc::EINTR => {}
                    _ => libc::_exit(0),
                }
            }
            // The router ignores SIGPIPE and may have blocked others; both would be inherited.
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        }
    }
}

fn give_up(why: &[u8]) -> ! {
    // SAFETY: a write of a constant to the log, and the end. `exit` would run the router's clean-up.
    unsafe {
        libc::write(2, why.as_ptr().cast(), why.len());
        libc::_exit(CANNOT_RUN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::time::Duration;
    use tokio::time::{sleep, timeout};

    fn waiting(file: &str, arguments: &[&str], log: &File) -> Waiting {
        let program = Program::new(Path::new(file), arguments.iter().map(Into::into).collect(), None);
        Waiting::fork(&program, &[], log, None).unwrap()
    }

    #[tokio::test]
    async fn it_runs_only_when_released_and_holds_nothing_of_ours() {
        let mut log = tempfile::NamedTempFile::new().unwrap();
        let held = waiting("/bin/sh", &["-c", "ls /proc/self/fd; exit 3"], log.as_file());
        sleep(Duration::from_millis(50)).await;
        assert_eq!(held.process().ending(), None);
        let open = std::fs::read_dir(format!("/proc/{}/fd", held.process().pid)).unwrap().count();
        assert_eq!(open, 4, "0, 1, 2 and the gate");
        let how = timeout(Duration::from_secs(5), held.release().ended()).await.unwrap();
        assert_eq!(how, "exit status: 3");
        let mut said = String::new();
        io::Seek::rewind(log.as_file_mut()).unwrap();
        io::Read::read_to_string(log.as_file_mut(), &mut said).unwrap();
        assert_eq!(said, "0\n1\n2\n3\n", "3 is ls looking at the folder");
    }

    #[tokio::test]
    async fn it_ends_when_nobody_will_release_it_or_it_cannot_run() {
        let log = tempfile::tempfile().unwrap();
        let held = waiting("/bin/sh", &["-c", "exit 3"], &log);
        let process = held.process();
        drop(held);
        assert_eq!(timeout(Duration::from_secs(5), process.ended()).await.unwrap(), "exit status: 0");
        let missing = waiting("/nonexistent/server", &[], &log).release();
        assert_eq!(timeout(Duration::from_secs(5), missing.ended()).await.unwrap(), "exit status: 127");
    }
}
