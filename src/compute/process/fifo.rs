//! Holds a server up by its settings file, where the kernel does not let us hold it up otherwise (`barrier`).
//!
//! ```text
//! make ──► fork ──► first opening: fed ──► [waits in open()] ── the word ──► fed again ──► a link to the settings
//! ```
//!
//! The settings file that the server is given is a FIFO (fifo(7)): its opening waits until somebody opens the other end. PostgreSQL opens
//! the file twice, once for the place of its volume, and once, before it has touched that, for everything else (guc.c,
//! `SelectConfigFiles`). So the first time it is fed at once, and the second time is the threshold. What it reads there was
//! read from the real file at that moment. Afterwards the name has to lead to the real file, which is opened again by every
//! reload.
//!
//! A server that somebody else lets pass finds the lock of the one that works on the volume, and gives up.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::libc;
use nix::sys::stat::Mode;
use tokio::sync::{oneshot, watch};

use super::barrier::Stand;
use super::fork::Process;
use super::os_user::OsUser;

/// How the names in a run folder begin.
const NAME: &str = "settings.";
/// Between two looks at the server. It is a thread of its own that looks.
const LOOK: Duration = Duration::from_millis(1);

/// A FIFO in the place of a settings file, and later a link to it. It goes when this value does, which is when the server
/// has gone.
#[derive(Debug)]
pub(super) struct Fifo {
    path: PathBuf,
    settings: PathBuf,
}

impl Fifo {
    /// Makes it in the run folder, for `user`. No two have the same number.
    pub(super) fn make(
        run_dir: &Path,
        number: u64,
        settings: PathBuf,
        user: Option<&OsUser>,
    ) -> io::Result<Self> {
        let path = run_dir.join(format!("{NAME}{number}"));
        nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)?;
        let made = Self { path, settings };
        user.map_or(Ok(()), |user| user.own(&made.path))?;
        Ok(made)
    }

    /// Those that a router which was killed has left in the run folder.
    pub(super) fn leftovers(run_dir: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(run_dir).into_iter().flatten().flatten();
        let own = |entry: &fs::DirEntry| entry.file_name().as_encoded_bytes().starts_with(NAME.as_bytes());
        entries.filter(own).map(|entry| entry.path()).collect()
    }

    /// What the server is told to read.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the name lead to the settings themselves.
    pub(super) fn settle(&self) -> io::Result<()> {
        let fresh = self.path.with_extension("new");
        symlink(&self.settings, &fresh)?;
        fs::rename(&fresh, &self.path)
    }

    /// Waits until the process opens it, lets it read the settings, and waits until it has closed it again.
    fn feed(&self, process: &Process) -> io::Result<()> {
        let mut end = self.open_for(process)?;
        // Before that a second end would be taken for the first one's.
        until(process, || self.is_open_in(process))?;
        let mut text = fs::read(&self.settings)?;
        text.push(b'\n');
        let mut left = &text[..];
        while !left.is_empty() {
            match end.write(left) {
                Ok(count) => left = &left[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait(process)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        drop(end);
        until(process, || !self.is_open_in(process))
    }

    fn open_for(&self, process: &Process) -> io::Result<File> {
        loop {
            match File::options().write(true).custom_flags(libc::O_NONBLOCK).open(&self.path) {
                // Nobody opens the other end.
                Err(error) if error.raw_os_error() == Some(libc::ENXIO) => wait(process)?,
                opened => return opened,
            }
        }
    }

    fn is_open_in(&self, process: &Process) -> bool {
        let open = fs::read_dir(format!("/proc/{}/fd", process.pid)).into_iter().flatten().flatten();
        open.into_iter().any(|entry| fs::read_link(entry.path()).is_ok_and(|file| file == self.path))
    }
}

impl Drop for Fifo {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Whoever feeds a server. Dropped, it does so no more.
#[derive(Debug)]
pub(super) struct Feeder {
    word: oneshot::Sender<()>,
    /// Where the server is.
    pub(super) stand: watch::Receiver<Stand>,
}

impl Feeder {
    /// Begins with a process that is about to become the server.
    pub(super) fn begin(fifo: Arc<Fifo>, process: Process) -> io::Result<Self> {
        let (word, given) = oneshot::channel();
        let (tell, stand) = watch::channel(Stand::Coming);
        let feeding = move || {
            if let Err(error) = feed(&fifo, &process, given, &tell) {
                tracing::debug!(pid = process.pid, %error, "a server that was started ahead is not fed");
            }
        };
        std::thread::Builder::new().name("fifo".to_owned()).spawn(feeding)?;
        Ok(Self { word, stand })
    }

    /// Lets the server go on, for good.
    pub(super) fn give_word(self) -> io::Result<()> {
        self.word.send(()).map_err(|_| io::Error::other("nobody feeds it"))
    }
}

fn feed(
    fifo: &Fifo,
    process: &Process,
    word: oneshot::Receiver<()>,
    tell: &watch::Sender<Stand>,
) -> io::Result<()> {
    fifo.feed(process)?;
    tell.send_replace(Stand::Waits);
    if word.blocking_recv().is_err() {
        return Ok(());
    }
    fifo.feed(process)?;
    fifo.settle()
}

fn until(process: &Process, is_so: impl Fn() -> bool) -> io::Result<()> {
    while !is_so() {
        wait(process)?;
    }
    Ok(())
}

/// A moment, unless the process has ended.
#[expect(clippy::disallowed_methods, reason = "on a thread of its own")]
fn wait(process: &Process) -> io::Result<()> {
    if process.ending().is_some() {
        return Err(io::Error::other("it has ended"));
    }
    std::thread::sleep(LOOK);
    Ok(())
}
