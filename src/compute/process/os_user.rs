//! Whom the database runs as. Servers refuse root, rightly: as root we hand everything to an unprivileged user.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::libc;
use nix::unistd::{Uid, User, getgrouplist};

use crate::compute::ComputeError;

/// An unprivileged user of the operating system, with its groups looked up beforehand: between fork and exec nothing
/// may read `/etc/group`.
#[derive(Debug, Clone)]
pub struct OsUser {
    /// Its name, for messages.
    pub name: String,
    /// Its user id.
    pub uid: u32,
    /// Its main group.
    pub gid: u32,
    groups: Vec<libc::gid_t>,
}

impl OsUser {
    /// The user to run a server as: `None` when we are not root (then it runs as ourselves), else the first of
    /// `candidates` that exists.
    pub fn for_server(candidates: &[&str]) -> Result<Option<Self>, ComputeError> {
        if !Uid::effective().is_root() {
            return Ok(None);
        }
        for name in candidates {
            let Ok(Some(user)) = User::from_name(name) else { continue };
            if user.uid.is_root() {
                continue;
            }
            let c_name = CString::new(*name).map_err(|e| ComputeError::Configuration(e.to_string()))?;
            let groups = getgrouplist(&c_name, user.gid).unwrap_or_else(|_| vec![user.gid]);
            return Ok(Some(Self {
                name: user.name,
                uid: user.uid.as_raw(),
                gid: user.gid.as_raw(),
                groups: groups.into_iter().map(|group| group.as_raw()).collect(),
            }));
        }
        Err(ComputeError::MissingServer(format!(
            "the server refuses to run as root, and there is no user {} on this machine to run it as",
            candidates.join(" or ")
        )))
    }

    /// Becomes this user for good. Only system calls: it runs between fork and exec.
    pub fn become_now(&self) -> io::Result<()> {
        // SAFETY: plain system calls; the pointer and the length belong to one live vector.
        let refused = unsafe {
            libc::setgroups(self.groups.len(), self.groups.as_ptr()) != 0
                || libc::setgid(self.gid) != 0
                || libc::setuid(self.uid) != 0
        };
        if refused { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Gives one file or folder to this user (a symbolic link itself, never its target).
    pub fn own(&self, path: &Path) -> io::Result<()> {
        std::os::unix::fs::lchown(path, Some(self.uid), Some(self.gid))
    }

    /// Gives a whole tree to this user, without following symbolic links.
    pub fn own_tree(&self, root: &Path) -> io::Result<()> {
        let mut folders = vec![root.to_path_buf()];
        self.own(root)?;
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder)? {
                let entry = entry?;
                self.own(&entry.path())?;
                if entry.file_type()?.is_dir() {
                    folders.push(entry.path());
                }
            }
        }
        Ok(())
    }

    /// The first folder on the way to `path` that, by its mode, this user may not pass.
    pub fn barred_by(&self, path: &Path) -> Option<PathBuf> {
        let mut way: Vec<&Path> = path.ancestors().collect();
        way.reverse();
        way.into_iter()
            .find(|folder| fs::metadata(folder).is_ok_and(|found| found.is_dir() && !self.may_pass(&found)))
            .map(Path::to_path_buf)
    }

    fn may_pass(&self, folder: &fs::Metadata) -> bool {
        let bit = if folder.uid() == self.uid {
            0o100
        } else if self.groups.contains(&folder.gid()) {
            0o010
        } else {
            0o001
        };
        folder.permissions().mode() & bit != 0
    }
}

/// Lets the server's user pass through a folder of ours that others may not see: when we are root, the folder's group
/// becomes that user's and gets the right to pass (0710). A folder that a group may pass already is some other server's
/// way too; then everybody may pass (not look). Does nothing when we are not root.
pub(super) fn admit_server_user(folder: &Path, candidates: &[&str]) -> Result<(), ComputeError> {
    let Some(user) = OsUser::for_server(candidates)? else { return Ok(()) };
    let failed = |source| ComputeError::Io {
        what: format!("letting {} into {}", user.name, folder.display()),
        source,
    };
    if user.barred_by(folder).as_deref() != Some(folder) {
        return Ok(());
    }
    let mode = fs::metadata(folder).map_err(failed)?.permissions().mode();
    let wanted = if mode & 0o010 != 0 {
        mode | 0o001
    } else {
        std::os::unix::fs::chown(folder, None, Some(user.gid)).map_err(failed)?;
        0o710
    };
    fs::set_permissions(folder, fs::Permissions::from_mode(wanted)).map_err(failed)
}
