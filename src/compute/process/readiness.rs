//! When is a server ready? It may tell us (`READY=1` on `NOTIFY_SOCKET`, sd_notify(3)); servers built without systemd
//! only say so in their own files. Both are watched at once, and the first counts.
//!
//! Nothing connects to find out: the kernel completes a connect as soon as the socket listens, long before the server
//! serves, and each try costs a server process on the very cores that are busy starting.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixDatagram;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::fork::Process;
use super::os_user::OsUser;

/// How often a server's own files are looked at while it starts. A look is one small read from the page cache.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// Longer notifications are cut; `READY=1` stands at the start of a line.
const NOTIFICATION_BYTES: usize = 4096;

/// Sockets that an earlier router left in the private folder.
pub(super) fn stale_sockets(run_dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(run_dir).into_iter().flatten().flatten();
    let ours = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("notify."));
    ours.map(|entry| entry.path()).collect()
}

/// The socket a server reports to.
#[derive(Debug)]
pub(super) struct NotifySocket {
    socket: UnixDatagram,
    path: PathBuf,
}

impl NotifySocket {
    /// Binds `path`, which lies in the private folder, so that `user` may write to it.
    pub(super) fn bind(path: &Path, user: Option<&OsUser>) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let bound = Self { socket: UnixDatagram::bind(path)?, path: path.to_path_buf() };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        user.map_or(Ok(()), |user| user.own(path))?;
        Ok(bound)
    }

    /// Where the server finds it.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads until the process has exited and says when it is ready. It reads on after that, and while the server
    /// stops: some servers report at length and would hang in `sendmsg` on a full queue.
    pub(super) fn listen(self, process: Process) -> watch::Receiver<bool> {
        let (tell, ready) = watch::channel(false);
        tokio::spawn(async move {
            let mut notification = vec![0; NOTIFICATION_BYTES];
            loop {
                let received = tokio::select! {
                    received = self.socket.recv(&mut notification) => received,
                    _ = process.ended() => break,
                };
                match received {
                    Ok(length) if says_ready(&notification[..length]) => {
                        tell.send_replace(true);
                    }
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
        });
        ready
    }
}

impl Drop for NotifySocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn says_ready(notification: &[u8]) -> bool {
    notification.split(|&byte| byte == b'\n').any(|line| line == b"READY=1")
}

/// How the wait for a server ended.
#[derive(Debug)]
pub(super) enum Readiness {
    /// It serves.
    Ready,
    /// It has exited, and how.
    Exited(String),
    /// It did neither within the deadline.
    TimedOut,
}

/// Waits until the server is ready by `notified` or by `looks_ready`, has exited, or `deadline` has passed.
pub(super) async fn await_ready(
    process: &Process,
    mut notified: watch::Receiver<bool>,
    looks_ready: impl Fn() -> bool,
    deadline: Duration,
) -> Readiness {
    let look = async {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if looks_ready() {
                return;
            }
        }
    };
    let told = async {
        if notified.wait_for(|ready| *ready).await.is_err() {
            // Nobody will tell any more; the server's end or its files decide.
            std::future::pending::<()>().await;
        }
    };
    let first = async {
        tokio::select! {
            () = told => Readiness::Ready,
            () = look => Readiness::Ready,
            how = process.ended() => Readiness::Exited(how),
        }
    };
    timeout(deadline, first).await.unwrap_or(Readiness::TimedOut)
}

#[cfg(test)]
mod tests {
    use super::says_ready;

    #[test]
    fn ready_is_a_whole_line() {
        assert!(says_ready(b"READY=1"));
        assert!(says_ready(b"STATUS=up\nREADY=1\n"));
        assert!(!says_ready(b"NOTREADY=1"));
        assert!(!says_ready(b"READY=0"));
    }
}
