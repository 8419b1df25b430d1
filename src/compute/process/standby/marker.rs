//! Which of two volumes is the database, on disk. Changing it is the moment at which a promotion counts: before, a router
//! that starts anew goes on with the old volume, after it with the new one, and the other is a copy at best.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::compute::process::secret_file;

/// One of the two volumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::compute::process) enum Side {
    /// Where every cluster begins.
    First,
    /// Its copy, at first.
    Second,
}

impl Side {
    /// The other one.
    pub(super) fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::First => "first\n",
            Self::Second => "second\n",
        }
    }
}

/// The file; there is none until the first promotion.
#[derive(Debug)]
pub(super) struct Marker {
    pub(super) path: PathBuf,
    /// What the file says that only has to be put in its place.
    prepared: Mutex<Option<Side>>,
}

impl Marker {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, prepared: Mutex::default() }
    }

    fn fresh(&self) -> PathBuf {
        self.path.with_extension("new")
    }

    /// Does of [`write`](Self::write) what changes nothing, while nobody waits.
    pub(super) fn prepare(&self, side: Side) -> io::Result<()> {
        let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        if *prepared != Some(side) {
            *prepared = None;
            let mut file = secret_file::create_private(&self.fresh())?;
            file.write_all(side.word().as_bytes())?;
            file.sync_all()?;
            *prepared = Some(side);
        }
        Ok(())
    }

    /// What it says. A file that cannot be read, or says something else, is an error: to guess would be to serve old data.
    pub(super) fn read(&self) -> io::Result<Side> {
        match fs::read_to_string(&self.path) {
            Ok(word) if word == Side::First.word() => Ok(Side::First),
            Ok(word) if word == Side::Second.word() => Ok(Side::Second),
            Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "it says neither `first` nor `second`")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Side::First),
            Err(error) => Err(error),
        }
    }

    /// Changes it, all or nothing. On `Err` it says what it said. `Ok(false)`: it is changed, but that may not be on disk.
    pub(super) fn write(&self, side: Side) -> io::Result<bool> {
        self.prepare(side)?;
        *self.prepared.lock().unwrap_or_else(PoisonError::into_inner) = None;
        // Opened before: when the name is changed nothing may fail that is not understood.
        let folder = fs::File::open(self.path.parent().unwrap_or(Path::new(".")))?;
        fs::rename(self.fresh(), &self.path)?;
        Ok(folder.sync_all().is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_was_written_and_nothing_is_guessed() {
        let folder = tempfile::tempdir().unwrap();
        let marker = Marker::new(folder.path().join("primary"));
        assert_eq!(marker.read().unwrap(), Side::First);
        for side in [Side::Second, Side::First] {
            let before = marker.read().unwrap();
            marker.prepare(side).unwrap();
            assert_eq!(marker.read().unwrap(), before);
            assert!(marker.write(side).unwrap());
            assert_eq!(marker.read().unwrap(), side);
        }
        fs::write(&marker.path, "").unwrap();
        assert!(marker.read().is_err());
    }
}
