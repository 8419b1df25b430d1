//! A process by its descriptor: signals reach exactly this process, never one that got its number later, and its end
//! is an event instead of something to poll for.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::libc;
use nix::sys::signal::Signal;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// An open pidfd, registered with the runtime.
#[derive(Debug)]
pub(super) struct Pidfd(AsyncFd<OwnedFd>);

impl Pidfd {
    /// Opens the process `pid`. `Err` with `ESRCH` when there is none. Must be called inside a tokio runtime.
    pub(super) fn open(pid: u32) -> io::Result<Self> {
        let pid = libc::pid_t::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
        // SAFETY: a system call with two integers; the result is checked before it is used.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = i32::try_from(fd).map_err(io::Error::other)?;
        // SAFETY: the kernel has just given us this descriptor and nobody else knows it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: an `OwnedFd` keeps its descriptor open and the same for as long as it lives.
        let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        Ok(Self(registered?))
    }

    /// Sends a signal; a process that is gone already is not an error.
    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        // SAFETY: our own open descriptor, a signal number and two zeroes.
        let sent = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                signal as libc::c_int,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        match sent {
            0 => Ok(()),
            _ => match io::Error::last_os_error() {
                gone if gone.raw_os_error() == Some(libc::ESRCH) => Ok(()),
                other => Err(other),
            },
        }
    }

    /// Returns when the process has exited (all its threads), reaped or not. Cancel-safe.
    pub(super) async fn exited(&self) -> io::Result<()> {
        // The readiness is never cleared, because a process does not come back.
        self.0.readable().await.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sees_the_end_of_a_process_and_outlives_it() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pidfd = Pidfd::open(child.id()).unwrap();
        pidfd.signal(Signal::SIGKILL).unwrap();
        tokio::time::timeout(std::time::Duration::from_secs(5), pidfd.exited()).await.unwrap().unwrap();
        child.wait().unwrap();
        pidfd.signal(Signal::SIGKILL).unwrap();
    }
}
