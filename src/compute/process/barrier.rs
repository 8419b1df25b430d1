//! Holds a server that was started ahead at the door of its volume, until the one before it has gone.
//!
//! ```text
//! raise ──► fork with the anchor ──► arm ──► exec ──► [waits in open()] ── open ──► goes on
//!                                                          │ dropped, or the router died
//!                                                          └──► killed, inside open()
//! ```
//!
//! fanotify(7) lets the opening of a file wait for our answer (`FAN_OPEN_PERM`), so the next server executes, links, reads
//! its settings and sets up its memory while the old one serves, and waits at the file that its [`Threshold`] names. Until
//! then it can open nothing in the volume's folder besides what the threshold lists: what would is denied and killed.
//!
//! The kernel lets the open pass when the last descriptor of the fanotify group is closed, so that must never be while the
//! old server lives, whoever is killed. Hence nobody who can die alone owns it: a copy of the descriptor lies, as a message
//! that nobody has read, in a socket (the *anchor*) that the waiting server has inherited. While that server exists, the
//! group exists, and it waits. And the socket's other end (the *tether*) is the router's: when it closes, whatever closes
//! it, the kernel sends the waiting server SIGKILL, because the anchor is set up for signals (`O_ASYNC`, `F_SETSIG`) with
//! that one for its own. Both are undone from outside at `open`: the message is read back and the signal switched off, so
//! the server is left with a dead socket.
//!
//! Where the kernel refuses all this (it takes `CAP_SYS_ADMIN`), a server may be held up by its settings file instead
//! (`fifo`), on the same tether.

use std::fs;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use nix::fcntl::AT_FDCWD;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::fanotify::{
    EventFFlags, Fanotify, FanotifyEvent, FanotifyResponse, InitFlags, MarkFlags, MaskFlags, Response,
};
use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use tokio::sync::watch;

use super::fifo::{Feeder, Fifo};
use super::fork::Process;

/// Where a server that is started while another one serves the volume is held up.
#[derive(Debug, Clone)]
pub(super) struct Threshold {
    /// It waits when it opens this file. Before, it has changed nothing in the volume.
    pub(super) file: PathBuf,
    /// What it may read in the volume's folder before that. It has to be started anew if one of these has changed.
    pub(super) read: Vec<PathBuf>,
    /// It may try whether files can be made there that end like this; it removes them at once.
    pub(super) trial: Option<&'static str>,
}

impl Threshold {
    /// What the files that are read ahead look like now.
    pub(super) fn look(&self) -> Vec<Option<Look>> {
        self.read.iter().map(|file| Look::at(file)).collect()
    }
}

/// How a file looks: equal looks are equal contents.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Look {
    place: (u64, u64),
    length: u64,
    modified: Option<SystemTime>,
    changed: (i64, i64),
}

impl Look {
    fn at(file: &Path) -> Option<Self> {
        let found = fs::metadata(file).ok()?;
        Some(Self {
            place: (found.dev(), found.ino()),
            length: found.len(),
            modified: found.modified().ok(),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

/// Where the server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stand {
    /// On its way.
    Coming,
    /// It waits at its threshold.
    Waits,
    /// It wanted to open something else in the volume first, and was killed.
    Strayed,
}

/// See the module. Dropped before it is opened, it takes the server with it.
#[derive(Debug)]
pub(super) struct Barrier {
    /// First, because its end is the waiting server's end.
    tether: UnixStream,
    anchor: UnixStream,
    armed: Option<Armed>,
}

#[derive(Debug)]
struct Armed {
    process: Process,
    stand: watch::Receiver<Stand>,
    means: Means,
}

/// By what a server is held up.
#[derive(Debug)]
enum Means {
    Kernel {
        door: Arc<Door>,
        /// Its end ends the door's watchman.
        _watching: PipeWriter,
    },
    Fifo(Feeder),
}

impl Barrier {
    /// Says why none can be put up at this volume, if so.
    pub(super) fn impossible(volume: &Path) -> Option<io::Error> {
        let tried = group().and_then(|group| guard(&group, volume, MaskFlags::FAN_EVENT_ON_CHILD));
        tried.err()
    }

    /// The sockets. Nothing waits yet.
    pub(super) fn raise() -> io::Result<Self> {
        let (tether, anchor) = UnixStream::pair()?;
        Ok(Self { tether, anchor, armed: None })
    }

    /// What the process has to inherit.
    pub(super) fn anchor(&self) -> BorrowedFd<'_> {
        self.anchor.as_fd()
    }

    /// From here on the process, which has inherited the anchor and is no server yet, is held up at the threshold, and
    /// ends when the router does. On `Err` it must not be executed while another server lives.
    pub(super) fn arm(&mut self, process: &Process, volume: &Path, threshold: &Threshold) -> io::Result<()> {
        let group = group()?;
        guard(&group, volume, MaskFlags::FAN_EVENT_ON_CHILD)?;
        guard(&group, &threshold.file, MaskFlags::empty())?;
        leave(&self.tether, group.as_fd())?;
        let pid = libc::pid_t::try_from(process.pid).map_err(io::Error::other)?;
        tie(&self.anchor, pid)?;
        let (stop, watching) = io::pipe()?;
        let (tell, stand) = watch::channel(Stand::Coming);
        let found = fs::metadata(&threshold.file)?;
        let door = Arc::new(Door {
            group,
            process: process.clone(),
            file: (found.dev(), found.ino()),
            threshold: threshold.clone(),
            held: Mutex::new(Held::Nobody),
        });
        let watchman = Arc::clone(&door);
        std::thread::Builder::new().name("barrier".to_owned()).spawn(move || watchman.watch(&stop, &tell))?;
        let means = Means::Kernel { door, _watching: watching };
        self.armed = Some(Armed { process: process.clone(), stand, means });
        Ok(())
    }

    /// The same for a process that has this for its settings file.
    pub(super) fn arm_with_fifo(&mut self, process: &Process, fifo: Arc<Fifo>) -> io::Result<()> {
        tie(&self.anchor, libc::pid_t::try_from(process.pid).map_err(io::Error::other)?)?;
        let feeder = Feeder::begin(fifo, process.clone())?;
        let stand = feeder.stand.clone();
        self.armed = Some(Armed { process: process.clone(), stand, means: Means::Fifo(feeder) });
        Ok(())
    }

    /// Waits until the server is held up, has strayed or is gone. Cancel-safe.
    pub(super) async fn reached(&self) -> Stand {
        let Some(armed) = &self.armed else { return Stand::Coming };
        let mut stand = armed.stand.clone();
        let mut exited = armed.process.exited.clone();
        tokio::select! {
            seen = stand.wait_for(|stand| *stand != Stand::Coming) => seen.map_or(Stand::Coming, |stand| *stand),
            _ = exited.wait_for(Option::is_some) => *armed.stand.borrow(),
        }
    }

    /// Lets the server go on, for good. Only when every earlier one has gone. On `Err` it has been killed.
    pub(super) fn open(mut self) -> io::Result<()> {
        if self.armed.is_none() {
            return Ok(());
        }
        untie(&self.anchor)?;
        if matches!(&self.armed, Some(Armed { means: Means::Kernel { .. }, .. })) {
            drop(take_back(&self.anchor)?);
        }
        match self.armed.take().map(|armed| armed.means) {
            Some(Means::Kernel { door, .. }) => door.open(),
            // If nobody feeds it any more, it has ended.
            Some(Means::Fifo(feeder)) => feeder.give_word()?,
            None => {}
        }
        Ok(())
    }
}

impl Drop for Barrier {
    /// The end of the tether does this as well; a server that is held up must not stay if it did not.
    fn drop(&mut self) {
        if let Some(armed) = &self.armed {
            let _ = armed.process.pidfd.signal(Signal::SIGKILL);
        }
    }
}

/// The group and whom it holds up.
#[derive(Debug)]
struct Door {
    group: Fanotify,
    process: Process,
    /// Device and inode of the threshold's file.
    file: (u64, u64),
    threshold: Threshold,
    held: Mutex<Held>,
}

#[derive(Debug)]
enum Held {
    Nobody,
    Server(FanotifyEvent),
    /// Nobody is held up any more.
    Open,
}

impl Door {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers whoever opens what is marked, until the other end of `stop` closes. On a thread of its own: threads of the
    /// runtime may themselves open such a file.
    fn watch(&self, stop: &PipeReader, tell: &watch::Sender<Stand>) {
        loop {
            let mut ready = [
                PollFd::new(self.group.as_fd(), PollFlags::POLLIN),
                PollFd::new(stop.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut ready, PollTimeout::NONE) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(_) => return,
            }
            if ready[1].revents().is_some_and(|seen| !seen.is_empty()) {
                return;
            }
            for event in self.group.read_events().unwrap_or_default() {
                self.judge(event, tell);
            }
        }
    }

    fn judge(&self, event: FanotifyEvent, tell: &watch::Sender<Stand>) {
        if !i32::try_from(self.process.pid).is_ok_and(|pid| pid == event.pid()) {
            return self.answer(&event, Response::FAN_ALLOW);
        }
        let mut held = self.held();
        if matches!(*held, Held::Open) || self.is_harmless(&event) {
            return self.answer(&event, Response::FAN_ALLOW);
        }
        if self.is_threshold(&event) {
            *held = Held::Server(event);
            tell.send_replace(Stand::Waits);
            return;
        }
        tracing::warn!(pid = self.process.pid, file = ?opened(&event), "a server that was started ahead goes astray and is killed");
        tell.send_replace(Stand::Strayed);
        let _ = self.process.pidfd.signal(Signal::SIGKILL);
        self.answer(&event, Response::FAN_DENY);
    }

    fn is_threshold(&self, event: &FanotifyEvent) -> bool {
        let place = event.fd().and_then(|fd| nix::sys::stat::fstat(fd).ok());
        place.is_some_and(|place| (place.st_dev, place.st_ino) == self.file)
    }

    fn is_harmless(&self, event: &FanotifyEvent) -> bool {
        // All that is marked lies in one folder, or is the threshold.
        let Some(name) = opened(event).and_then(|file| Some(file.file_name()?.to_owned())) else {
            return false;
        };
        let Threshold { read, trial, .. } = &self.threshold;
        let is_trial = trial.is_some_and(|ending| name.as_encoded_bytes().ends_with(ending.as_bytes()));
        is_trial || read.iter().any(|file| file.file_name() == Some(&name))
    }

    fn answer(&self, event: &FanotifyEvent, answer: Response) {
        let Some(fd) = event.fd() else { return };
        if let Err(error) = self.group.write_response(FanotifyResponse::new(fd, answer)) {
            tracing::warn!(%error, "the opening of a file cannot be answered");
        }
    }

    fn open(&self) {
        // What the server opens from here on need not ask any more; the group itself is closed by its watchman, because
        // that takes the kernel a while.
        let unmarked =
            self.group.mark(MarkFlags::FAN_MARK_FLUSH, MaskFlags::empty(), AT_FDCWD, None::<&Path>);
        if let Err(error) = unmarked {
            tracing::warn!(%error, "the volume stays watched for a moment");
        }
        let held = std::mem::replace(&mut *self.held(), Held::Open);
        if let Held::Server(event) = held {
            self.answer(&event, Response::FAN_ALLOW);
        }
    }
}

/// The name of the file that somebody opens.
fn opened(event: &FanotifyEvent) -> Option<PathBuf> {
    event.fd().and_then(|fd| fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok())
}

fn group() -> io::Result<Fanotify> {
    let flags = InitFlags::FAN_CLASS_CONTENT | InitFlags::FAN_CLOEXEC | InitFlags::FAN_NONBLOCK;
    let events = EventFFlags::O_RDONLY | EventFFlags::O_LARGEFILE | EventFFlags::O_CLOEXEC;
    Ok(Fanotify::init(flags, events)?)
}

fn guard(group: &Fanotify, path: &Path, more: MaskFlags) -> io::Result<()> {
    let mask = MaskFlags::FAN_OPEN_PERM | more;
    Ok(group.mark(MarkFlags::FAN_MARK_ADD, mask, AT_FDCWD, Some(path))?)
}

/// Leaves a descriptor in the socket's other end.
fn leave(socket: &UnixStream, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    let rights = [descriptor.as_raw_fd()];
    let message = [ControlMessage::ScmRights(&rights)];
    let word = [io::IoSlice::new(b"g")];
    sendmsg::<()>(socket.as_raw_fd(), &word, &message, MsgFlags::empty(), None)?;
    Ok(())
}

/// Takes the descriptor out again.
fn take_back(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut room = nix::cmsg_space!(libc::c_int);
    let mut word = [0; 1];
    let mut words = [io::IoSliceMut::new(&mut word)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut words, Some(&mut room), flags)?;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(rights) = part
            && let Some(descriptor) = rights.first()
        {
            // SAFETY: the kernel has just given us this descriptor and nobody else knows it.
            return Ok(unsafe { OwnedFd::from_raw_fd(*descriptor) });
        }
    }
    Err(io::Error::other("the copy of the barrier's descriptor is gone"))
}

/// The process is killed when the socket's other end closes.
fn tie(socket: &UnixStream, pid: libc::pid_t) -> io::Result<()> {
    // SAFETY: our own open descriptor and integers.
    unsafe {
        checked(libc::fcntl(socket.as_raw_fd(), libc::F_SETOWN, pid))?;
        checked(libc::fcntl(socket.as_raw_fd(), F_SETSIG, libc::SIGKILL))?;
        let flags = checked(libc::fcntl(socket.as_raw_fd(), libc::F_GETFL))?;
        checked(libc::fcntl(socket.as_raw_fd(), libc::F_SETFL, flags | libc::O_ASYNC))?;
    }
    Ok(())
}

/// Undoes [`tie`].
fn untie(socket: &UnixStream) -> io::Result<()> {
    // SAFETY: our own open descriptor and integers.
    unsafe {
        let flags = checked(libc::fcntl(socket.as_raw_fd(), libc::F_GETFL))?;
        checked(libc::fcntl(socket.as_raw_fd(), libc::F_SETFL, flags & !libc::O_ASYNC))?;
        checked(libc::fcntl(socket.as_raw_fd(), libc::F_SETOWN, 0))?;
    }
    Ok(())
}

/// fcntl(2); the number is the same on every architecture of Linux.
const F_SETSIG: libc::c_int = 10;

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::super::fork::Waiting;
    use super::super::spawn::Program;
    use super::*;

    struct Scene {
        folder: tempfile::TempDir,
        log: fs::File,
    }

    impl Scene {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            for name in ["settings", "a.test", "threshold", "data"] {
                fs::write(folder.path().join(name), name).unwrap();
            }
            let log = fs::File::options().create(true).append(true).open(folder.path().join("log")).unwrap();
            Self { folder, log }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        /// A program that copies these files of the folder to the log, one after the other.
        async fn send(&self, names: &[&str]) -> (Process, Barrier) {
            let mut arguments: Vec<OsString> = vec!["-u".into()];
            arguments.extend(names.iter().map(|name| self.path(name).into()));
            let program = Program::new(Path::new("/bin/cat"), arguments, None);
            let mut barrier = Barrier::raise().unwrap();
            let waiting = Waiting::fork(&program, &[], &self.log, Some(barrier.anchor())).unwrap();
            let threshold = Threshold {
                file: self.path("threshold"),
                read: vec![self.path("settings")],
                trial: Some(".test"),
            };
            barrier.arm(&waiting.process(), self.folder.path(), &threshold).unwrap();
            let process = waiting.release();
            timeout(Duration::from_secs(10), barrier.reached()).await.unwrap();
            (process, barrier)
        }

        fn said(&self) -> String {
            fs::read_to_string(self.path("log")).unwrap()
        }
    }

    async fn end(process: &Process) -> String {
        timeout(Duration::from_secs(10), process.ended()).await.unwrap()
    }

    #[tokio::test]
    async fn it_waits_for_the_word_and_others_need_not() {
        let scene = Scene::new();
        let (process, barrier) = scene.send(&["settings", "a.test", "threshold", "data"]).await;
        assert_eq!(barrier.reached().await, Stand::Waits);
        assert_eq!(scene.said(), "settingsa.test");
        assert_eq!(fs::read_to_string(scene.path("threshold")).unwrap(), "threshold");
        fs::write(scene.path("new"), "others").unwrap();
        assert_eq!(process.ending(), None);
        barrier.open().unwrap();
        assert_eq!(end(&process).await, "exit status: 0");
        assert_eq!(scene.said(), "settingsa.testthresholddata");
    }

    #[tokio::test]
    async fn it_never_gets_in_when_its_keeper_goes() {
        let scene = Scene::new();
        for _ in 0..50 {
            let (process, mut barrier) = scene.send(&["threshold"]).await;
            // All that the kernel closes when the router is killed.
            drop(std::mem::replace(&mut barrier.tether, UnixStream::pair().unwrap().0));
            assert!(end(&process).await.starts_with("signal: 9"));
        }
        assert_eq!(scene.said(), "");
    }

    #[tokio::test]
    async fn what_strays_is_killed_before_it_is_in() {
        let scene = Scene::new();
        let (process, barrier) = scene.send(&["settings", "data", "threshold"]).await;
        assert_eq!(barrier.reached().await, Stand::Strayed);
        assert!(end(&process).await.starts_with("signal: 9"));
        assert_eq!(scene.said(), "settings");
    }

    #[tokio::test]
    async fn opened_early_it_holds_nobody_up() {
        let scene = Scene::new();
        let program = Program::new(Path::new("/bin/cat"), vec![scene.path("data").into()], None);
        let mut barrier = Barrier::raise().unwrap();
        let waiting = Waiting::fork(&program, &[], &scene.log, Some(barrier.anchor())).unwrap();
        let threshold = Threshold { file: scene.path("threshold"), read: Vec::new(), trial: None };
        barrier.arm(&waiting.process(), scene.folder.path(), &threshold).unwrap();
        barrier.open().unwrap();
        let process = waiting.release();
        assert_eq!(end(&process).await, "exit status: 0");
        assert_eq!(scene.said(), "data");
    }
}
