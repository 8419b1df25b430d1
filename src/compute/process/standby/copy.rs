//! Copies the files of a running server's volume. What the server changes meanwhile does not matter: its log has it.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::compute::process::os_user::OsUser;

/// What becomes of a file or folder of the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::compute::process) enum Part {
    /// It is copied.
    Whole,
    /// A folder that the copy has, too, but empty.
    Empty,
    /// It is the running server's own.
    None,
}

/// Copies `from` to `to`, which does not exist, and gives it all to `user`; by reflink where the file system can
/// (`copy_file_range` shares what it may). Dropping the future ends it.
pub(in crate::compute::process) async fn copy_volume(
    from: &Path,
    to: &Path,
    part: fn(&Path) -> Part,
    user: Option<OsUser>,
) -> io::Result<()> {
    let (from, to) = (from.to_path_buf(), to.to_path_buf());
    let wanted = Wanted(Arc::new(AtomicBool::new(true)));
    let still_wanted = Arc::clone(&wanted.0);
    let copying = tokio::task::spawn_blocking(move || {
        Copier { part, user, wanted: &still_wanted }.folder(&from, &to, Path::new(""))
    });
    copying.await.map_err(io::Error::other)?
}

/// Somebody waits for the copy.
struct Wanted(Arc<AtomicBool>);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

struct Copier<'a> {
    part: fn(&Path) -> Part,
    user: Option<OsUser>,
    wanted: &'a AtomicBool,
}

impl Copier<'_> {
    /// `relative`: where in the volume this folder is.
    fn folder(&self, from: &Path, to: &Path, relative: &Path) -> io::Result<()> {
        fs::DirBuilder::new().mode(0o700).create(to)?;
        self.own(to)?;
        if (self.part)(relative) == Part::Empty {
            return Ok(());
        }
        for entry in fs::read_dir(from)? {
            if !self.wanted.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let name = entry?.file_name();
            let (source, target, relative): (PathBuf, PathBuf, PathBuf) =
                (from.join(&name), to.join(&name), relative.join(&name));
            if (self.part)(&relative) == Part::None {
                continue;
            }
            match fs::symlink_metadata(&source) {
                Ok(found) if found.is_dir() => match self.folder(&source, &target, &relative) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound && !source.exists() => {}
                    copied => copied?,
                },
                Ok(found) if found.is_file() => self.file(&source, &target)?,
                // A socket or a link is nobody's data; the server says so before it is copied.
                Ok(_) => {}
                Err(error) => unless_gone(error)?,
            }
        }
        Ok(())
    }

    fn file(&self, source: &Path, target: &Path) -> io::Result<()> {
        match fs::copy(source, target) {
            Ok(_) => self.own(target),
            Err(error) => unless_gone(error),
        }
    }

    fn own(&self, path: &Path) -> io::Result<()> {
        self.user.as_ref().map_or(Ok(()), |user| user.own(path))
    }
}

/// Files come and go while a server works.
fn unless_gone(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(relative: &Path) -> Part {
        match relative.to_str() {
            Some("log") => Part::Empty,
            Some("pid") => Part::None,
            _ => Part::Whole,
        }
    }

    #[tokio::test]
    async fn what_is_the_servers_own_is_left_out() {
        let ground = tempfile::tempdir().unwrap();
        let (from, to) = (ground.path().join("from"), ground.path().join("to"));
        for folder in ["log/deep", "base/1"] {
            fs::create_dir_all(from.join(folder)).unwrap();
        }
        for file in ["pid", "log/1", "base/1/2", "version"] {
            fs::write(from.join(file), file).unwrap();
        }
        std::os::unix::fs::symlink("/nowhere", from.join("link")).unwrap();
        copy_volume(&from, &to, part, None).await.unwrap();
        assert_eq!(fs::read_to_string(to.join("base/1/2")).unwrap(), "base/1/2");
        assert!(to.join("version").exists() && to.join("log").is_dir());
        for gone in ["pid", "log/1", "log/deep", "link"] {
            assert!(!to.join(gone).exists(), "{gone}");
        }
        assert!(copy_volume(&from, &to, part, None).await.is_err(), "it exists");
    }
}
