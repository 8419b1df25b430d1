//! What a router that starts after a crash must know: the capacity that the cluster had, and whether a change was
//! under way.
//!
//! Exactly one writer is not the journal's doing but the provider's (`recover` stops whatever runs on the volume). So it
//! is written before a hold and after it, never inside one.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The capacity that serves, ACUs.
    pub capacity: u32,
    /// The capacity that a change under way leads to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change_to: Option<u32>,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Journal {
    path: PathBuf,
}

impl Journal {
    /// The journal in this file; it need not exist.
    pub fn new(path: impl Into<PathBuf>) -> Journal {
        Journal { path: path.into() }
    }

    /// What was written last; `None` on the first start. A journal that cannot be read is an error: guessing the
    /// capacity of somebody's database is not for us.
    pub fn read(&self) -> io::Result<Option<Entry>> {
        let text = match fs::read_to_string(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read?,
        };
        let entry =
            serde_json::from_str(&text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(Some(entry))
    }

    /// Replaces it, all or nothing. Blocks for two syncs of a small file.
    pub fn write(&self, entry: Entry) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(serde_json::to_string(&entry)?.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        let folder = self.path.parent().unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::new(folder.path().join("journal.json"));
        assert_eq!(journal.read().unwrap(), None);
        let entry = Entry { capacity: 2, change_to: Some(8) };
        journal.write(entry).unwrap();
        assert_eq!(journal.read().unwrap(), Some(entry));
        fs::write(folder.path().join("journal.json"), "{").unwrap();
        assert!(journal.read().is_err());
    }
}
