//! A server without Scalepoint, started and stopped as directly as can be.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::AT_FDCWD;
use nix::sys::fanotify::{
    EventFFlags, Fanotify, FanotifyEvent, FanotifyResponse, InitFlags, MarkFlags, MaskFlags, Response,
};
use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::{Stage, free_port};

/// Longer than any start or stop takes.
const PATIENCE: Duration = Duration::from_secs(30);
/// What we say on the server's notification socket when it has ended; no server says this.
const ENDED: &[u8] = b"X_ENDED=1";

/// A server that waits to open a file.
pub struct Ahead {
    server: Child,
    group: Fanotify,
    event: FanotifyEvent,
}

fn allow(group: &Fanotify, event: &FanotifyEvent) {
    let response = FanotifyResponse::new(event.fd().expect("a file"), Response::FAN_ALLOW);
    group.write_response(response).expect("an answer");
}

/// A server of ours. Dropping it stops it.
pub struct Bare<'a> {
    stage: &'a Stage,
    /// The data directory.
    pub data: PathBuf,
    /// The folder with its Unix socket.
    pub run_dir: PathBuf,
    /// On TCP.
    pub port: u16,
    notified: UnixDatagram,
    notify: PathBuf,
    server: Option<Child>,
}

impl<'a> Bare<'a> {
    /// Makes the volume with an empty database and starts the server.
    pub fn make(stage: &'a Stage, name: &str) -> Bare<'a> {
        let home = stage.server_folder(name);
        let data = home.join("volume");
        stage.engine.make_volume(stage, &home, &data);
        let notify = home.join("notify");
        let notified = UnixDatagram::bind(&notify).expect("a notification socket");
        std::fs::set_permissions(&notify, PermissionsExt::from_mode(0o666)).expect("an open socket");
        notified.set_read_timeout(Some(Duration::from_millis(1))).expect("a time-out");
        let mut bare = Bare { stage, data, run_dir: home, port: free_port(), notified, notify, server: None };
        bare.start(&[]);
        stage.engine.set_up(stage, &bare.run_dir, bare.port);
        bare
    }

    /// Its Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.stage.engine.socket(&self.run_dir, self.port)
    }

    /// Executes the server and waits for its `READY=1` (or, without systemd in it, until it looks ready).
    pub fn start(&mut self, more: &[OsString]) {
        let server = self.spawn(more);
        self.await_ready(server);
    }

    fn spawn(&self, more: &[OsString]) -> Child {
        let log = File::options().create(true).append(true).open(self.stage.path("bare.log")).expect("a log");
        let mut server = self.stage.engine.server(self.stage, &self.run_dir, &self.data, self.port);
        server.args(more).env("NOTIFY_SOCKET", &self.notify);
        server.stderr(log.try_clone().expect("a log")).stdout(log);
        server.spawn().expect("a server")
    }

    fn await_ready(&mut self, mut server: Child) {
        let deadline = Instant::now() + PATIENCE;
        while !self.says_ready(server.id()) {
            let ended = server.try_wait().expect("a child");
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "the bare server does not start: {ended:?}: {}",
                std::fs::read_to_string(self.stage.path("bare.log")).unwrap_or_default()
            );
        }
        self.server = Some(server);
    }

    /// Executes the next server beside the one that runs, and lets it come as far as the opening of this file, which
    /// nobody else waits for. Takes CAP_SYS_ADMIN.
    pub fn start_ahead(&self, more: &[OsString], door: &Path) -> Ahead {
        let flags = InitFlags::FAN_CLASS_CONTENT | InitFlags::FAN_NONBLOCK | InitFlags::FAN_CLOEXEC;
        let group = Fanotify::init(flags, EventFFlags::O_RDONLY).expect("fanotify");
        group.mark(MarkFlags::FAN_MARK_ADD, MaskFlags::FAN_OPEN_PERM, AT_FDCWD, Some(door)).expect("a mark");
        let mut server = self.spawn(more);
        let pid = server.id().cast_signed();
        let mut waiting = None;
        while waiting.is_none() {
            thread::park_timeout(Duration::from_millis(1));
            assert!(server.try_wait().expect("a child").is_none(), "the next server does not start");
            for event in group.read_events().unwrap_or_default() {
                if event.pid() == pid {
                    waiting = Some(event);
                } else {
                    allow(&group, &event);
                }
            }
        }
        Ahead { server, group, event: waiting.expect("a server that waits") }
    }

    /// Lets the server go on that waits, and waits until it is ready.
    pub fn go_on(&mut self, ahead: Ahead) {
        let Ahead { server, group, event } = ahead;
        allow(&group, &event);
        // The kernel takes its time to close it.
        thread::spawn(move || drop((event, group)));
        self.await_ready(server);
    }

    /// The process id of the server.
    pub fn pid(&self) -> u32 {
        self.server.as_ref().expect("a server").id()
    }

    fn says_ready(&self, pid: u32) -> bool {
        let mut words = [0; 4096];
        if let Ok(length) = self.notified.recv(&mut words) {
            return words[..length].split(|&byte| byte == b'\n').any(|line| line == b"READY=1");
        }
        self.stage.engine.looks_ready(&self.data, pid)
    }

    /// Sends the signal of a fast stop.
    pub fn signal_stop(&self) {
        let server = self.server.as_ref().expect("a server");
        let signal = self.stage.engine.stop_signal();
        kill(Pid::from_raw(server.id().cast_signed()), signal).expect("a server that runs");
    }

    /// Waits until it has exited. What it says meanwhile is read: MariaDB says so much that it would wait for us, and
    /// none of it must be taken for the next one's words.
    pub fn await_end(&mut self) {
        let mut server = self.server.take().expect("a server");
        let how = thread::scope(|scope| {
            scope.spawn(|| {
                let mut words = [0; 4096];
                while !self.notified.recv(&mut words).is_ok_and(|length| &words[..length] == ENDED) {}
            });
            let how = server.wait().expect("a child");
            let ours = UnixDatagram::unbound().expect("a socket");
            ours.send_to(ENDED, &self.notify).expect("a thread that reads");
            how
        });
        assert!(how.success(), "the bare server was not stopped cleanly: {how}");
    }

    /// Puts a file into the data directory, readable by the server alone.
    pub fn put(&self, name: &str, contents: &str) -> PathBuf {
        let path = self.data.join(name);
        std::fs::write(&path, contents).expect("a file");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("a private file");
        if let Some((user, group)) = self.stage.server_user() {
            std::os::unix::fs::chown(&path, Some(user), Some(group)).expect("the server's file");
        }
        path
    }
}

impl Drop for Bare<'_> {
    fn drop(&mut self) {
        if self.server.is_some() {
            self.signal_stop();
            self.await_end();
        }
    }
}
