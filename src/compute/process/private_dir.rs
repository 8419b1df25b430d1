//! The folder of the private sockets. Who can enter it is a superuser of the database, so only the server's user and
//! root may: mode 0700, the right owner, no symbolic link.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::Uid;
use sha2::{Digest, Sha256};

use super::os_user::OsUser;
use crate::compute::ComputeError;

/// `sun_path` holds 108 bytes with the final zero (unix(7)).
const LONGEST_SOCKET_PATH: usize = 107;

/// `wanted` if a socket called `longest_name` in it has a path the kernel takes, else a short folder named after the
/// volume.
pub(super) fn choose(wanted: &Path, longest_name: &str, volume: &Path) -> PathBuf {
    if wanted.as_os_str().len() + 1 + longest_name.len() <= LONGEST_SOCKET_PATH {
        return wanted.to_path_buf();
    }
    let name = fingerprint(volume);
    match Uid::effective() {
        root if root.is_root() => PathBuf::from(format!("/run/scalepoint-{name}")),
        user => PathBuf::from(format!("/tmp/scalepoint-{user}-{name}")),
    }
}

/// Sixteen hexadecimal digits that stand for a path.
pub(super) fn fingerprint(path: &Path) -> String {
    hex::encode(&Sha256::digest(path.as_os_str().as_bytes())[..8])
}

/// Makes the folder, or checks the one that is there.
pub(super) fn ensure(folder: &Path, user: Option<&OsUser>) -> Result<(), ComputeError> {
    let failed = |source| ComputeError::Io { what: format!("making {}", folder.display()), source };
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    let found = fs::symlink_metadata(folder).map_err(failed)?;
    let ourselves = Uid::effective().as_raw();
    let owner = user.map_or(ourselves, |user| user.uid);
    if !found.is_dir() {
        return Err(refused(folder, "is not a folder (symbolic links are refused)"));
    }
    if found.uid() != owner && found.uid() != ourselves {
        return Err(refused(folder, &format!("belongs to uid {}, not to uid {owner}", found.uid())));
    }
    if let Some(user) = user {
        user.own(folder).map_err(failed)?;
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(failed)
}

fn refused(folder: &Path, why: &str) -> ComputeError {
    ComputeError::Volume {
        path: folder.to_path_buf(),
        reason: format!("the folder for the private sockets {why}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_too_deep_for_a_socket_is_replaced() {
        let volume = Path::new("/data/volume");
        let short = Path::new("/data/run");
        assert_eq!(choose(short, ".s.PGSQL.5432", volume), short);
        let long = PathBuf::from(format!("/{}", "x".repeat(95)));
        let chosen = choose(&long, ".s.PGSQL.5432", volume);
        assert!(chosen.as_os_str().len() < 60, "{chosen:?}");
        assert_eq!(chosen, choose(&long, ".s.PGSQL.5432", volume));
        let fits = PathBuf::from(format!("/{}", "x".repeat(107 - 15)));
        assert_eq!(choose(&fits, ".s.PGSQL.5432", volume), fits);
    }

    #[test]
    fn a_symbolic_link_is_refused_and_a_lax_mode_is_corrected() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path(), &link).unwrap();
        assert!(ensure(&link, None).unwrap_err().to_string().contains("symbolic"));
        let lax = folder.path().join("lax");
        fs::create_dir(&lax).unwrap();
        fs::set_permissions(&lax, fs::Permissions::from_mode(0o777)).unwrap();
        ensure(&lax, None).unwrap();
        assert_eq!(fs::metadata(&lax).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
