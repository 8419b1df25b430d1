//! The server's own log: where its standard error goes, and what of it an operator reads when a start fails.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A log bigger than this is moved away (one generation is kept) when the server starts.
const ROTATE_BYTES: u64 = 10 << 20;
/// How much of the end of a log is read for an error message.
const TAIL_BYTES: u64 = 64 << 10;
/// How many lines an error message carries.
const TAIL_LINES: usize = 5;

/// An open log and where the present start begins in it.
#[derive(Debug)]
pub(super) struct ServerLog {
    /// Open for appending.
    pub file: File,
    path: PathBuf,
    begins: u64,
}

impl ServerLog {
    /// Opens (and makes, mode 0640) the log at `path`, moving one that has grown too big to `<path>.1`.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        if fs::metadata(path).is_ok_and(|log| log.len() > ROTATE_BYTES) {
            let mut earlier = path.as_os_str().to_owned();
            earlier.push(".1");
            fs::rename(path, earlier)?;
        }
        let file = OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
        let begins = file.metadata()?.len();
        Ok(Self { file, path: path.to_path_buf(), begins })
    }

    /// The start begins now: what others have said since the log was opened is not this one's.
    pub(super) fn begin(&mut self) {
        self.begins = self.file.metadata().map_or(self.begins, |log| log.len());
    }

    /// What the server said since this start: the first grave line foremost, then the last few.
    pub(super) fn last_words(&self, is_grave: impl Fn(&str) -> bool) -> String {
        let text = self.tail().unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let grave = lines.iter().find(|line| is_grave(line)).copied();
        let last = lines[lines.len().saturating_sub(TAIL_LINES)..].iter().copied();
        let words: Vec<&str> = grave.into_iter().chain(last.filter(|line| Some(*line) != grave)).collect();
        if words.is_empty() {
            format!("it said nothing in {}", self.path.display())
        } else {
            words.join("\n")
        }
    }

    fn tail(&self) -> io::Result<String> {
        let mut log = File::open(&self.path)?;
        let from = self.begins.max(log.metadata()?.len().saturating_sub(TAIL_BYTES));
        log.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        log.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn the_grave_line_comes_first_and_only_this_start_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log/server.log");
        writeln!(ServerLog::open(&path).unwrap().file, "FATAL: an earlier start").unwrap();
        let mut log = ServerLog::open(&path).unwrap();
        writeln!(log.file, "LOG: one\nFATAL: bad\nLOG: 2\nLOG: 3\nLOG: 4\nLOG: 5\nLOG: 6").unwrap();
        let words = log.last_words(|line| line.contains("FATAL"));
        assert_eq!(words, "FATAL: bad\nLOG: 2\nLOG: 3\nLOG: 4\nLOG: 5\nLOG: 6");
    }

    #[test]
    fn a_big_log_is_moved_away_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server.log");
        File::create(&path).unwrap().set_len(ROTATE_BYTES + 1).unwrap();
        let log = ServerLog::open(&path).unwrap();
        assert_eq!(log.file.metadata().unwrap().len(), 0);
        assert!(folder.path().join("server.log.1").exists());
    }
}
