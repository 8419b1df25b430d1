//! A server that cannot write: all its processes are stopped (SIGSTOP) but those that are needed to say so.
//!
//! ```text
//! raise ──► Fence: nothing of it runs but what is needed ──┬─ drop ─────► goes on as if nothing had been
//!                                                          └─ defeat ──► Defeated ── drop ──► killed; it never ran again
//! ```
//!
//! What a server does by itself (clean up, run background workers' jobs) could otherwise write between the last look at its
//! log and the moment at which its copy takes over. Stopping and going on again is quick and takes nothing from it, so until the
//! copy serves all can be undone. The main process is stopped first: from then on it neither makes children nor reaps
//! them, so that their numbers stay theirs.

use std::fs;
use std::io;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};

/// How long processes may take to stop; one that waits for a disk stops after that.
const PATIENCE: Duration = Duration::from_millis(200);
/// Between two looks; the runtime's timer counts milliseconds.
const LOOK: Duration = Duration::from_millis(1);
/// Most processes sleep, and stop as soon as they are run: so many looks without a pause.
const AT_ONCE: u32 = 50;

/// See the module.
#[derive(Debug)]
pub(super) struct Fence {
    main: u32,
    stopped: Vec<u32>,
}

impl Fence {
    /// Stops the server whose main process, a child of ours, is `main`; not those of its children that are `needed`.
    /// On `Err`, or dropped, it goes on.
    pub(super) async fn raise(main: u32, needed: &[u32]) -> io::Result<Self> {
        let deadline = Instant::now() + PATIENCE;
        let mut fence = Self { main, stopped: Vec::new() };
        fence.stop(main)?;
        await_stopped(&[main], deadline).await?;
        // If it has ended instead, its children are nobody's that we know of.
        if state(main)? != Some('T') {
            return Err(io::Error::other("the old server has ended"));
        }
        let idle: Vec<u32> = children(main)?.into_iter().filter(|child| !needed.contains(child)).collect();
        for child in &idle {
            fence.stop(*child)?;
        }
        await_stopped(&idle, deadline).await?;
        Ok(fence)
    }

    fn stop(&mut self, pid: u32) -> io::Result<()> {
        send(pid, Signal::SIGSTOP)?;
        self.stopped.push(pid);
        Ok(())
    }

    /// It will not go on.
    pub(super) fn defeat(mut self) -> Defeated {
        self.stopped.clear();
        Defeated(self.main)
    }
}

impl Drop for Fence {
    fn drop(&mut self) {
        // The main process last: what it hears of its children it has missed nothing of.
        for pid in self.stopped.drain(..).rev() {
            if let Err(error) = send(pid, Signal::SIGCONT) {
                tracing::error!(pid, %error, "a stopped process of the server does not go on");
            }
        }
    }
}

/// A stopped server that is killed, with all its processes, when this is dropped. It does not run again, also before it is
/// gone.
#[derive(Debug)]
pub(super) struct Defeated(u32);

impl Drop for Defeated {
    fn drop(&mut self) {
        // While the main process is there, stopped, its children's numbers are theirs.
        let children = children(self.0).unwrap_or_default();
        for pid in children.into_iter().chain([self.0]) {
            if let Err(error) = send(pid, Signal::SIGKILL) {
                tracing::error!(pid, %error, "a process of the old server cannot be killed");
            }
        }
    }
}

/// One that has gone is not an error.
fn send(pid: u32, signal: Signal) -> io::Result<()> {
    let Ok(number) = i32::try_from(pid) else { return Ok(()) };
    match kill(Pid::from_raw(number), signal) {
        Err(nix::errno::Errno::ESRCH) => Ok(()),
        sent => sent.map_err(Into::into),
    }
}

/// A signal is only acted upon when the process comes to it.
async fn await_stopped(pids: &[u32], deadline: Instant) -> io::Result<()> {
    let mut looks = 0;
    for &pid in pids {
        while !is_stopped(pid)? {
            looks += 1;
            if Instant::now() > deadline {
                return Err(io::Error::new(io::ErrorKind::TimedOut, format!("process {pid} does not stop")));
            }
            if looks < AT_ONCE {
                tokio::task::yield_now().await;
            } else {
                sleep(LOOK).await;
            }
        }
    }
    Ok(())
}

/// Whether it is stopped or gone.
fn is_stopped(pid: u32) -> io::Result<bool> {
    Ok(matches!(state(pid)?, None | Some('T' | 'Z' | 'X')))
}

/// What the process does (proc(5), `/proc/PID/stat`); `None`: there is none.
fn state(pid: u32) -> io::Result<Option<char>> {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        // The name before it may contain anything.
        Ok(stat) => Ok(stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The children of a process, whichever of its threads made them.
fn children(pid: u32) -> io::Result<Vec<u32>> {
    let mut all = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let listed = fs::read_to_string(thread?.path().join("children"))?;
        all.extend(listed.split_ascii_whitespace().filter_map(|child| child.parse::<u32>().ok()));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    /// A shell with two children that sleep.
    async fn family() -> (Child, Vec<u32>) {
        let child = Command::new("/bin/sh").args(["-c", "sleep 60 & sleep 60 & wait"]).spawn().unwrap();
        let mut theirs = Vec::new();
        for _ in 0..500 {
            theirs = children(child.id()).unwrap();
            if theirs.len() == 2 {
                break;
            }
            sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(theirs.len(), 2);
        (child, theirs)
    }

    #[tokio::test]
    async fn all_but_the_needed_are_stopped_and_go_on() {
        let (mut parent, children) = family().await;
        let fence = Fence::raise(parent.id(), &children[..1]).await.unwrap();
        let stopped = |pid| is_stopped(pid).unwrap();
        assert!(stopped(parent.id()) && !stopped(children[0]) && stopped(children[1]));
        drop(fence);
        for pid in [parent.id(), children[1]] {
            while stopped(pid) {
                sleep(Duration::from_millis(1)).await;
            }
        }
        drop(Fence::raise(parent.id(), &[]).await.unwrap().defeat());
        parent.wait().unwrap();
        for child in children {
            while !stopped(child) {
                sleep(Duration::from_millis(1)).await;
            }
        }
    }
}
