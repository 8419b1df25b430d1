//! A secret on disk for as long as one program needs it, because a command line is everybody's to read.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::os_user::OsUser;

/// A private file that goes when this value does.
#[derive(Debug)]
pub(super) struct SecretFile(PathBuf);

impl SecretFile {
    /// Writes `secret` to `path`, for `user` alone.
    pub(super) fn write(path: PathBuf, secret: &[u8], user: Option<&OsUser>) -> io::Result<Self> {
        let mut file = create_private(&path)?;
        let written = Self(path);
        file.write_all(secret)?;
        user.map_or(Ok(()), |user| user.own(&written.0))?;
        Ok(written)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for SecretFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Makes a new file of mode 0600, in the place of one that is there.
pub(super) fn create_private(path: &Path) -> io::Result<fs::File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Puts `content` in place of the file, by renaming, and synced: nobody ever reads half of it.
pub(super) fn replace(target: &Path, content: &[u8], user: Option<&OsUser>) -> io::Result<()> {
    let mut fresh = target.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    let mut file = create_private(&fresh)?;
    file.write_all(content)?;
    file.sync_all()?;
    user.map_or(Ok(()), |user| user.own(&fresh))?;
    fs::rename(&fresh, target)?;
    target.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
}
