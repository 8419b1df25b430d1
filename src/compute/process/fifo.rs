//! Holds a server up by its settings file, where the kernel does not let us hold it up otherwise (`barrier`).
//!
//! ```text
//! make ──► fork ──► first opening: fed ──► [waits in open()] ── the word ──► a link to the settings, fed again
//! ```
//!
//! The settings file that the server is given is a FIFO (fifo(7)): its opening waits until somebody opens the other end. PostgreSQL opens
//! the file twice, once for the place of its volume, and once, before it has touched that, for everything else (guc.c,
//! `SelectConfigFiles`). So the first time it is fed at once, and the second time is the threshold. What it reads there was
//! read from the real file at that moment. Afterwards the name has to lead to the real file, which is opened again by every
//! reload.
//!
//! Our end can be opened when the server has begun to open its own; before we write, the name leads to something else, so
//! that no later opening can get at the same FIFO. Nothing has to be known of the process: where there is no `CAP_SYS_ADMIN`, there
//! is often no `CAP_SYS_PTRACE` for its `/proc` either.
//!
//! A server that somebody else lets pass finds the lock of the one that works on the volume, and gives up.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::libc;
use nix::sys::signal::Signal;
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
    user: Option<OsUser>,
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
        let made = Self { path, settings, user: user.cloned() };
        made.renew()?;
        Ok(made)
    }

    /// Puts a new FIFO in the place of what has the name.
    fn renew(&self) -> io::Result<()> {
        let fresh = self.fresh()?;
        nix::unistd::mkfifo(&fresh, Mode::S_IRUSR | Mode::S_IWUSR)?;
        self.user.as_ref().map_or(Ok(()), |user| user.own(&fresh))?;
        fs::rename(&fresh, &self.path)
    }

    /// A name beside its own that nothing has.
    fn fresh(&self) -> io::Result<PathBuf> {
        let mut name = self.path.as_os_str().to_owned();
        name.push(".new");
        let name = PathBuf::from(name);
        match fs::remove_file(&name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(name),
        }
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
        let fresh = self.fresh()?;
        symlink(&self.settings, &fresh)?;
        fs::rename(&fresh, &self.path)
    }

    /// Waits until the process opens it, does `then`, and lets it read the settings.
    fn feed(&self, process: &Process, then: impl Fn(&Self) -> io::Result<()>) -> io::Result<()> {
        let mut end = self.open_for(process)?;
        then(self)?;
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
        Ok(())
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
                if process.ending().is_some() {
                    return;
                }
                tracing::warn!(pid = process.pid, %error, "a server that was started ahead is not fed");
                // It would wait for ever.
                let _ = process.pidfd.signal(Signal::SIGKILL);
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
    fifo.feed(process, Fifo::renew)?;
    tell.send_replace(Stand::Waits);
    match word.blocking_recv() {
        Ok(()) => fifo.feed(process, Fifo::settle),
        // It was given up, and ends.
        Err(_) => Ok(()),
    }
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
