//! Who else works on this volume? A router that crashed leaves a server behind; a server that was killed leaves its
//! children. Before anything is started, all of them are found and seen to exit.
//!
//! A process is a *tenant* of a volume when its program is a server's and its working directory *is* the volume
//! (device and inode, not a name: mounts, links and renames make no difference). PostgreSQL and MySQL both change into
//! their data directory, and `spawn` starts them there.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::{Instant, timeout};

use super::flavour::Flavour;
use super::pidfd::Pidfd;
use crate::compute::ComputeError;

/// How long a server that was asked to stop at once may take before it is killed.
const FIRM_STOP: Duration = Duration::from_secs(5);
/// How long the children of a dead server may take to notice; they are killed after it.
const LEFTOVER_PATIENCE: Duration = Duration::from_secs(3);
/// How long a killed process may take to vanish (it may hang in a disk that does not answer).
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// One process on the volume.
#[derive(Debug)]
struct Tenant {
    pid: u32,
    pidfd: Pidfd,
}

/// Stops everything that works on the volume and removes what it left lying about. `grace` is for a whole server; the
/// children of a dead one get a few seconds. After `Ok` nothing runs on the volume.
pub(super) async fn clear(volume: &Path, flavour: &dyn Flavour, grace: Duration) -> Result<(), ComputeError> {
    let found = tenants(volume, flavour)?;
    let main = flavour.main_pid(volume);
    match found.iter().find(|tenant| Some(tenant.pid) == main) {
        Some(server) => {
            // A router that died in a promotion may have left it stopped (`standby::fence`): it would hear nothing.
            for tenant in &found {
                let _ = tenant.pidfd.signal(Signal::SIGCONT);
            }
            tracing::warn!(pid = server.pid, volume = %volume.display(), "stopping a database left by an earlier router");
            end(server.pid, &server.pidfd, flavour, grace).await?;
        }
        None if !found.is_empty() => {
            tracing::warn!(count = found.len(), volume = %volume.display(), "a dead database left processes behind");
        }
        None => {}
    }
    let _ = timeout(LEFTOVER_PATIENCE, all_exited(&found)).await;
    kill_all(volume, flavour).await?;
    remove_stale_lock(volume, flavour)
}

/// Kills everything that works on the volume, whatever it does. After `Ok` nothing runs on it.
pub(super) async fn kill(volume: &Path, flavour: &dyn Flavour) -> Result<(), ComputeError> {
    kill_all(volume, flavour).await?;
    remove_stale_lock(volume, flavour)
}

/// Stops one server: gently, then firmly, then by force. `Ok` when its main process has exited.
pub(super) async fn end(
    pid: u32,
    pidfd: &Pidfd,
    flavour: &dyn Flavour,
    grace: Duration,
) -> Result<(), ComputeError> {
    let (gentle, firm) = flavour.stop_signals();
    for (signal, patience) in [(gentle, grace), (firm, FIRM_STOP), (Signal::SIGKILL, KILL_PATIENCE)] {
        if signal != gentle {
            tracing::warn!(pid, %signal, "the database has not stopped in time");
        }
        pidfd.signal(signal).map_err(|error| ComputeError::NotStopped { pid, reason: error.to_string() })?;
        if let Ok(Ok(())) = timeout(patience, pidfd.exited()).await {
            return Ok(());
        }
    }
    Err(ComputeError::NotStopped { pid, reason: format!("{gentle}, {firm} and SIGKILL had no effect") })
}

/// Kills what is left until nothing is.
async fn kill_all(volume: &Path, flavour: &dyn Flavour) -> Result<(), ComputeError> {
    let deadline = Instant::now() + KILL_PATIENCE;
    loop {
        // Again and again, because a process that is being killed may just have forked.
        let left = tenants(volume, flavour)?;
        let Some(first) = left.first() else { return Ok(()) };
        for tenant in &left {
            tracing::warn!(pid = tenant.pid, "killing a leftover database process");
            tenant
                .pidfd
                .signal(Signal::SIGKILL)
                .map_err(|error| ComputeError::NotStopped { pid: tenant.pid, reason: error.to_string() })?;
        }
        if timeout(deadline.saturating_duration_since(Instant::now()), all_exited(&left)).await.is_err() {
            return Err(ComputeError::NotStopped {
                pid: first.pid,
                reason: "SIGKILL had no effect".to_owned(),
            });
        }
    }
}

async fn all_exited(tenants: &[Tenant]) {
    for tenant in tenants {
        let _ = tenant.pidfd.exited().await;
    }
}

fn tenants(volume: &Path, flavour: &dyn Flavour) -> Result<Vec<Tenant>, ComputeError> {
    let failed = |source| ComputeError::Io { what: "looking for processes on the volume".to_owned(), source };
    let home = match fs::metadata(volume) {
        Ok(found) => (found.dev(), found.ino()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").map_err(failed)?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if pid == std::process::id() || !is_tenant(pid, home, flavour) {
            continue;
        }
        // Looked at again through the descriptor's eyes: the number may have changed hands in between.
        match Pidfd::open(pid) {
            Ok(pidfd) if is_tenant(pid, home, flavour) => found.push(Tenant { pid, pidfd }),
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(found)
}

fn is_tenant(pid: u32, home: (u64, u64), flavour: &dyn Flavour) -> bool {
    let lives_here = fs::metadata(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| (cwd.dev(), cwd.ino()) == home);
    lives_here && program_name(pid).is_ok_and(|name| flavour.is_server(&name))
}

fn program_name(pid: u32) -> io::Result<String> {
    let program = fs::read_link(format!("/proc/{pid}/exe"))?;
    let name = program.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    // An upgrade replaces the file under a running server.
    Ok(name.trim_end_matches(" (deleted)").to_owned())
}

/// Removes the server's lock file when the process it names is certainly not a server on this volume. A server would
/// refuse to start if the number now belongs to somebody else.
fn remove_stale_lock(volume: &Path, flavour: &dyn Flavour) -> Result<(), ComputeError> {
    let lock = volume.join(flavour.lock_file());
    if let Some(pid) = flavour.main_pid(volume)
        && is_doubtful(pid, volume)
    {
        let reason = format!("{} names process {pid}, and what that is cannot be seen", lock.display());
        return Err(ComputeError::Volume { path: volume.to_path_buf(), reason });
    }
    match fs::remove_file(&lock) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(ComputeError::Io { what: format!("removing {}", lock.display()), source: error })
        }
        _ => Ok(()),
    }
}

/// A process of the volume's owner (no other can serve it) whose program we may not look at.
fn is_doubtful(pid: u32, volume: &Path) -> bool {
    let Ok(process) = fs::metadata(format!("/proc/{pid}")) else { return false };
    let same_owner = fs::metadata(volume).is_ok_and(|volume| volume.uid() == process.uid());
    let unseen = program_name(pid).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
    same_owner && unseen
}
