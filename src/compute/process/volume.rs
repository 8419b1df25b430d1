//! The data directory: whose it is, how it comes to be, and that only one router works on it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::statvfs::statvfs;
use nix::unistd::Uid;
use tokio::time::{Instant, sleep};

use super::flavour::{Flavour, Site};
use super::spawn::{Program, run};
use crate::compute::ComputeError;

/// A router that is being replaced gets this long to let go of the volume.
const CLAIM_PATIENCE: Duration = Duration::from_secs(2);
const CLAIM_RETRY: Duration = Duration::from_millis(50);
const REACH_DEADLINE: Duration = Duration::from_secs(10);
/// A stop writes a checkpoint; a start writes its lock files and may need a new log segment. With less than this free
/// on the volume, bytes, a hand-over could end with no server that can start.
const ROOM: u64 = 32 << 20;

/// The right to work on a volume: a lock on `<volume>.lock` that ends with this value, or with the process.
#[derive(Debug)]
pub(super) struct Claim {
    _lock: File,
}

impl Claim {
    /// Takes it, or says that another router has it.
    pub(super) async fn take(volume: &Path) -> Result<Self, ComputeError> {
        let path = beside(volume, ".lock");
        let failed = |source| ComputeError::Io { what: format!("locking {}", path.display()), source };
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        let mut options = OpenOptions::new();
        let lock = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let lock = lock.map_err(failed)?;
        let deadline = Instant::now() + CLAIM_PATIENCE;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(Self { _lock: lock }),
                Err(fs::TryLockError::Error(error)) => return Err(failed(error)),
                Err(fs::TryLockError::WouldBlock) if Instant::now() < deadline => sleep(CLAIM_RETRY).await,
                Err(fs::TryLockError::WouldBlock) => {
                    return Err(refused(
                        volume,
                        format!("another router works on it ({} is locked)", path.display()),
                    ));
                }
            }
        }
    }
}

/// Makes the volume if there is none; all or nothing: it is built as `<volume>.new` and renamed when it is on disk.
/// Returns whether it was made.
pub(super) async fn create_if_absent(
    site: &Site,
    flavour: &dyn Flavour,
    password: &str,
) -> Result<bool, ComputeError> {
    let volume = &site.volume;
    if flavour.has_data(volume) {
        return Ok(false);
    }
    if fs::read_dir(volume).is_ok_and(|mut entries| entries.next().is_some()) {
        let reason = "it is not empty, and what is in it is not a database of this engine".to_owned();
        return Err(refused(volume, reason));
    }
    if password.is_empty() || password.contains(['\n', '\r', '\0']) {
        return Err(ComputeError::Configuration(
            "the master password is empty or more than one line".to_owned(),
        ));
    }
    let fresh = beside(volume, ".new");
    let failed =
        |source| ComputeError::Io { what: format!("making the volume {}", volume.display()), source };
    match fs::remove_dir_all(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    fs::DirBuilder::new().mode(0o700).create(&fresh).map_err(failed)?;
    site.user.as_ref().map_or(Ok(()), |user| user.own(&fresh)).map_err(failed)?;
    check_reach(site, &fresh).await?;
    tracing::info!(volume = %volume.display(), "making a new volume");
    flavour.create_volume(site, &fresh, password).await?;
    sync_folder(&fresh).and_then(|()| fs::rename(&fresh, volume)).map_err(failed)?;
    sync_folder(volume.parent().unwrap_or(volume)).map_err(failed)?;
    Ok(true)
}

/// Makes the volume the server user's own, with the mode that servers insist on.
pub(super) fn settle_owner(site: &Site) -> Result<(), ComputeError> {
    let volume = &site.volume;
    let failed = |source| ComputeError::Io { what: format!("taking over {}", volume.display()), source };
    let found = fs::metadata(volume).map_err(failed)?;
    match &site.user {
        Some(user) if found.uid() != user.uid => user.own_tree(volume).map_err(failed)?,
        None if found.uid() != Uid::effective().as_raw() => {
            return Err(refused(
                volume,
                format!("it belongs to uid {}: run the router as that user", found.uid()),
            ));
        }
        _ => {}
    }
    if found.permissions().mode() & 0o027 != 0 {
        fs::set_permissions(volume, fs::Permissions::from_mode(0o700)).map_err(failed)?;
    }
    Ok(())
}

/// Refuses a folder that the server's user cannot reach, naming the folder in the way.
pub(super) async fn check_reach(site: &Site, folder: &Path) -> Result<(), ComputeError> {
    let Some(user) = &site.user else { return Ok(()) };
    // Really tried, as that user, because access lists may grant what modes do not.
    let arguments = vec!["-c".into(), "test -x \"$0\"".into(), folder.into()];
    let tried =
        run(Program::new(Path::new("/bin/sh"), arguments, Some(user.clone())), REACH_DEADLINE).await?;
    if tried.success {
        return Ok(());
    }
    let barrier = user.barred_by(folder).unwrap_or_else(|| folder.to_path_buf());
    Err(refused(
        folder,
        format!(
            "the server runs as the user {0}, who may not pass {1}: chmod o+x, or chgrp {0} and chmod g+x",
            user.name,
            barrier.display()
        ),
    ))
}

/// Refuses to touch a running server whose volume is full: it may still read, and one that is started there may not.
pub(super) fn check_room(volume: &Path) -> Result<(), ComputeError> {
    check_free(volume, ROOM, "a change")
}

/// Refuses to make something of `size` bytes beside the volume that would leave no room for anything else.
pub(super) fn check_room_for(volume: &Path, size: u64) -> Result<(), ComputeError> {
    let folder = volume.parent().unwrap_or(volume);
    check_free(folder, size.saturating_add(size / 8).saturating_add(ROOM), "a copy")
}

fn check_free(volume: &Path, needed: u64, what: &str) -> Result<(), ComputeError> {
    let found = statvfs(volume).map_err(|error| ComputeError::Io {
        what: format!("looking for room on {}", volume.display()),
        source: error.into(),
    })?;
    // The reserve of the file system is root's, and servers do not run as root.
    let free = found.blocks_available().saturating_mul(found.fragment_size());
    if free < needed {
        let (free, needed) = (free >> 20, needed >> 20);
        return Err(refused(
            volume,
            format!("the disk is full: {free} MiB are free, {what} needs {needed} MiB"),
        ));
    }
    Ok(())
}

fn refused(path: &Path, reason: String) -> ComputeError {
    ComputeError::Volume { path: path.to_path_buf(), reason }
}

pub(super) fn beside(volume: &Path, suffix: &str) -> PathBuf {
    let mut path = volume.as_os_str().to_owned();
    path.push(suffix);
    PathBuf::from(path)
}

pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Server options and lock files carry paths as text.
pub(super) fn usable_path(what: &str, path: &Path) -> Result<PathBuf, ComputeError> {
    let absolute = std::path::absolute(path)
        .map_err(|source| ComputeError::Io { what: format!("{what} {}", path.display()), source })?;
    match absolute.to_str() {
        Some(text) if !text.contains(char::is_control) => Ok(absolute),
        _ => Err(ComputeError::Configuration(format!("{what} {}: not plain text", path.display()))),
    }
}
