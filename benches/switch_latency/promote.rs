//! A bare promotion of a PostgreSQL standby, by the fastest recipe known: sessions are open on it already, the old server is
//! stopped with SIGSTOP, its last position awaited, and the standby told by file and signal. Each turn has a new pair: what
//! was promoted is the next one's primary.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::postgres::value;
use crate::restart::{PATIENCE, Restart};
use crate::stage::postgres::fill;
use crate::stage::{PASSWORD, Stage, USER, free_port, run};
use crate::subject::Subject;

const HBA: &str =
    "local all all trust\nlocal replication all trust\nhost all all 127.0.0.1/32 scram-sha-256\n";
const LOOK: Duration = Duration::from_micros(500);
const POSITION: &str = "select pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0')";
const REPEATED: &str = "select pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0')";

/// One server.
struct Node {
    home: PathBuf,
    port: u16,
    server: Child,
}

impl Node {
    fn socket(&self, stage: &Stage) -> PathBuf {
        stage.engine.socket(&self.home, self.port)
    }

    fn start(stage: &Stage, home: PathBuf, more: &[String]) -> Node {
        let port = free_port();
        let log =
            std::fs::File::options().create(true).append(true).open(stage.path("twins.log")).expect("a log");
        let mut server = stage.engine.server(stage, &home, &home.join("volume"), port);
        server.args(more).stderr(log.try_clone().expect("a log")).stdout(log);
        let server = server.spawn().expect("a server");
        let deadline = Instant::now() + PATIENCE;
        while !stage.engine.looks_ready(&home.join("volume"), server.id()) {
            assert!(Instant::now() < deadline, "a server of the pair does not start");
            thread::sleep(LOOK);
        }
        Node { home, port, server }
    }

    /// Its main process and its children.
    fn processes(&self) -> Vec<i32> {
        let main = self.server.id();
        let children =
            std::fs::read_to_string(format!("/proc/{main}/task/{main}/children")).expect("children");
        let children = children.split_ascii_whitespace().filter_map(|child| child.parse().ok());
        std::iter::once(main.cast_signed()).chain(children).collect()
    }

    fn signal(pids: &[i32], signal: Signal) {
        for pid in pids {
            // One may have ended.
            let _ = kill(Pid::from_raw(*pid), signal);
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        Self::signal(&self.processes(), Signal::SIGKILL);
        let _ = self.server.wait();
        let _ = std::fs::remove_dir_all(&self.home);
    }
}

/// A primary, of which each turn makes a standby.
pub(crate) struct Twins<'a> {
    stage: &'a Stage,
    primary: Option<Node>,
    turns: u32,
}

impl<'a> Twins<'a> {
    /// Makes the first one, filled like the others.
    pub(crate) fn make(stage: &'a Stage, scale: u32) -> Twins<'a> {
        let home = stage.server_folder("twin");
        let password = stage.path("twin-password");
        std::fs::write(&password, PASSWORD).expect("a password file");
        let mut initdb = stage.as_server(&stage.engine.programs().join("initdb"));
        initdb.args(["-E", "UTF8", "--locale=C.UTF-8", "--auth-host=scram-sha-256", "--auth-local=trust"]);
        initdb.args(["--wal-segsize=1", "-U", USER, "-D"]).arg(home.join("volume"));
        run(initdb.arg("--pwfile").arg(&password));
        std::fs::write(home.join("volume/pg_hba.conf"), HBA).expect("access rules");
        let primary = Node::start(stage, home.clone(), &[]);
        stage.engine.set_up(stage, &home, primary.port);
        fill(stage, primary.port, scale);
        Twins { stage, primary: Some(primary), turns: 0 }
    }

    /// Promotes a standby on which so many sessions are open.
    pub(crate) fn promote(&mut self, subject: &dyn Subject, connections: usize) -> Restart {
        let old = self.primary.take().expect("a primary");
        self.turns += 1;
        let new = self.standby(&old);
        subject.warm(self.stage, new.port);
        let mut open: Vec<UnixStream> =
            (0..connections).map(|_| subject.greet(&new.socket(self.stage))).collect();
        let (mut there, mut here) =
            (subject.greet(&old.socket(self.stage)), subject.greet(&new.socket(self.stage)));
        value(&mut there, "checkpoint");
        let position = |stream: &mut UnixStream, what| value(stream, what).parse::<u64>().expect("a number");
        while position(&mut here, REPEATED) < position(&mut there, POSITION) {
            thread::sleep(LOOK);
        }
        let old_processes = old.processes();
        let begun = Instant::now();
        let since = || begun.elapsed().as_secs_f64() * 1000.0;
        let end = position(&mut there, POSITION);
        while position(&mut here, REPEATED) < end {
            thread::sleep(LOOK);
        }
        Node::signal(&old_processes, Signal::SIGSTOP);
        let gone = since();
        std::fs::write(new.home.join("volume/promote"), "").expect("a file");
        Node::signal(&[new.server.id().cast_signed()], Signal::SIGUSR1);
        while value(&mut here, "select pg_is_in_recovery()") != "f" {
            thread::sleep(LOOK);
        }
        let ready = since();
        let mut answered: Vec<f64> = thread::scope(|scope| {
            let since = &since;
            let write = |(number, stream): (usize, &'_ mut UnixStream)| {
                let update = format!("update pgbench_accounts set abalance = 1 where aid = {}", number + 1);
                value(stream, &update);
                since()
            };
            let threads: Vec<_> =
                open.iter_mut().enumerate().map(|one| scope.spawn(move || write(one))).collect();
            threads.into_iter().map(|thread| thread.join().expect("an answer")).collect()
        });
        answered.sort_by(f64::total_cmp);
        drop(old);
        self.primary = Some(new);
        Restart { gone, ready, first: answered[0], all: answered[answered.len() - 1] }
    }

    fn standby(&self, primary: &Node) -> Node {
        let home = self.stage.server_folder(&format!("twin{}", self.turns));
        let connection = format!("host={} port={} user={USER}", primary.home.display(), primary.port);
        let mut copy = self.stage.as_server(&self.stage.engine.programs().join("pg_basebackup"));
        run(copy.args(["-X", "stream", "-c", "fast", "-d", &connection, "-D"]).arg(home.join("volume")));
        own(self.stage, &home.join("volume/standby.signal"));
        Node::start(self.stage, home, &["-c".to_owned(), format!("primary_conninfo={connection}")])
    }
}

/// An empty file that the server may remove.
fn own(stage: &Stage, path: &Path) {
    std::fs::write(path, "").expect("a file");
    if let Some((user, group)) = stage.server_user() {
        std::os::unix::fs::chown(path, Some(user), Some(group)).expect("the server's file");
    }
}
