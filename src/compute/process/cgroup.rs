//! Making a capacity real: CPU quota and memory limit of the server's process tree, with whatever cgroups the machine
//! lets us use (v1 or v2, or a mix; each controller on its own).
//!
//! A server that may use every core is in the one for the CPU, too: for the weight that it has while it is replaced. Without,
//! a hand-over beside other busy processes takes half as long again (`benches/README.md`, "The database's cgroup").
//!
//! The limits are lifted while the server stops and starts (the stall would grow with a small quota) and set when it
//! is ready. The memory limit is set in the background: lowering it makes the kernel reclaim page cache first.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;

/// Microseconds per CPU accounting period (the kernel's default).
const PERIOD_US: u64 = 100_000;
/// How many processes a database without a CPU limit counts as, against others.
const UNLIMITED_WEIGHT: f64 = 16.0;
/// The smallest quota the kernel takes.
const SMALLEST_QUOTA_US: u64 = 1_000;
/// A capacity with less memory than this is not held to it: the server's own floor is near.
const SMALLEST_MEMORY_BYTES: u64 = 256 << 20;

/// What a process tree may use; `None`: no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Limits {
    /// CPU, in cores.
    pub cpu_cores: Option<f64>,
    /// Memory, bytes.
    pub memory_bytes: Option<u64>,
}

/// The memory limit for a capacity. Never one that the server's normal work would hit: an exhausted limit kills.
/// `needed_bytes` is what the server may come to use: its cache and its connections. `None`: not enforced.
pub(super) fn memory_limit(memory_bytes: u64, needed_bytes: Option<u64>) -> Option<u64> {
    if memory_bytes < SMALLEST_MEMORY_BYTES {
        return None;
    }
    let needed = needed_bytes?.checked_add(SMALLEST_MEMORY_BYTES)?;
    Some(memory_bytes.max(needed))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Controller {
    Cpu,
    Memory,
}

impl Controller {
    fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
        }
    }
}

/// One controller's folder for our processes.
#[derive(Debug, Clone)]
struct Seat {
    controller: Controller,
    unified: bool,
    folder: PathBuf,
}

/// The cgroups of one cluster. Removed when dropped, unless processes are still in them.
#[derive(Debug)]
pub(super) struct Cgroup {
    seats: Vec<Seat>,
    limitations: Vec<String>,
    wanted: Mutex<Limits>,
    pending: Mutex<Pending>,
}

/// What is under way in the background.
#[derive(Debug, Default)]
struct Pending {
    /// Counts what was wanted: limits of an earlier generation are not set any more.
    generation: u64,
    /// Memory of servers that are gone counts until it is freed.
    freeing: Vec<JoinHandle<()>>,
    /// The latest limits that are about to be set; waits for those before it.
    enforcing: Option<JoinHandle<()>>,
}

impl Cgroup {
    /// Finds and makes the cgroups called `name`. Never fails: what is not to be had is a limitation.
    pub(super) fn create(name: &str) -> Self {
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mut seats = Vec::new();
        let mut limitations = Vec::new();
        for controller in [Controller::Cpu, Controller::Memory] {
            match hierarchies(&mounts, &own, controller).into_iter().find_map(|place| place.take(name)) {
                Some(seat) => seats.push(seat),
                None => limitations.push(format!(
                    "no cgroup controller `{0}` can be used here: the {0} of a capacity is not enforced",
                    controller.name()
                )),
            }
        }
        Self { seats, limitations, wanted: Mutex::default(), pending: Mutex::default() }
    }

    /// What cannot be enforced on this machine.
    pub(super) fn limitations(&self) -> &[String] {
        &self.limitations
    }

    /// Makes the folders again if they are gone (they are removed when a cluster stops).
    pub(super) fn restore(&self) {
        for seat in &self.seats {
            let _ = fs::create_dir(&seat.folder);
        }
    }

    /// Files to which a process writes "0" to move in.
    pub(super) fn entrances(&self) -> Vec<File> {
        let mut folders: Vec<&Path> = self.seats.iter().map(|seat| seat.folder.as_path()).collect();
        folders.dedup();
        let open = |folder: &&Path| OpenOptions::new().write(true).open(folder.join("cgroup.procs")).ok();
        folders.iter().filter_map(open).collect()
    }

    /// Lifts all limits, also those that are still to be set. What those wait for is waited for by the next.
    pub(super) fn lift(&self) {
        hold(&self.pending).generation += 1;
        self.set(Limits::default(), None);
    }

    /// The next limits come after this: memory that is being freed could exceed them, and an exhausted limit kills.
    pub(super) fn wait_for(&self, freeing: JoinHandle<()>) {
        hold(&self.pending).freeing.push(freeing);
    }

    /// Sets limits, in the background.
    pub(super) fn enforce(self: &Arc<Self>, limits: Limits) {
        let cgroup = Arc::clone(self);
        let mut pending = hold(&self.pending);
        pending.generation += 1;
        let generation = pending.generation;
        let before = pending.enforcing.take().into_iter().chain(std::mem::take(&mut pending.freeing));
        let before: Vec<JoinHandle<()>> = before.collect();
        pending.enforcing = Some(tokio::spawn(async move {
            for earlier in before {
                let _done = earlier.await;
            }
            let _set = tokio::task::spawn_blocking(move || cgroup.set(limits, Some(generation))).await;
        }));
    }

    /// Sets limits, now, unless others than those of this generation are wanted. May take a while (page cache is
    /// reclaimed): not for a thread of the runtime.
    fn set(&self, limits: Limits, generation: Option<u64>) {
        let mut wanted = hold(&self.wanted);
        // Looked at under the lock: whoever wants others from here on sets them after these.
        let outdated = generation.is_some_and(|generation| generation != hold(&self.pending).generation);
        if outdated || *wanted == limits {
            return;
        }
        *wanted = limits;
        for seat in &self.seats {
            if let Err(error) = seat.set(limits) {
                tracing::warn!(folder = %seat.folder.display(), %error, "a cgroup limit was refused");
            }
        }
    }

    /// Removes the folders if nothing runs in them; says whether they are gone. A process that has exited but was not
    /// reaped yet (its new parent may be slow) still holds them.
    pub(super) fn remove(&self) -> bool {
        *hold(&self.wanted) = Limits::default();
        self.seats.iter().fold(true, |gone, seat| {
            let removed = fs::remove_dir(&seat.folder);
            gone && removed.map_or_else(|error| error.kind() == io::ErrorKind::NotFound, |()| true)
        })
    }
}

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        self.remove();
    }
}

impl Seat {
    fn set(&self, limits: Limits) -> io::Result<()> {
        match self.controller {
            Controller::Cpu => {
                self.set_cpu_weight(limits.cpu_cores)?;
                self.set_cpu(limits.cpu_cores)
            }
            Controller::Memory => self.set_memory(limits.memory_bytes),
        }
    }

    fn set_cpu(&self, cores: Option<f64>) -> io::Result<()> {
        let all = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        // A quota of the whole machine only costs accounting.
        let quota = cores.filter(|cores| *cores < all);
        let quota = quota
            .map(|cores| Duration::from_secs_f64(cores.max(0.0)).as_millis() * u128::from(PERIOD_US) / 1000);
        let quota = quota.map(|quota| quota.max(SMALLEST_QUOTA_US.into()).to_string());
        if self.unified {
            let quota = quota.unwrap_or_else(|| "max".to_owned());
            return fs::write(self.folder.join("cpu.max"), format!("{quota} {PERIOD_US}"));
        }
        fs::write(self.folder.join("cpu.cfs_quota_us"), quota.unwrap_or_else(|| "-1".to_owned()))
    }

    /// A cgroup competes with every single process outside of it as if it were one process. A database is many, and on
    /// a busy machine it would get the share of one: it gets that of as many as it has cores; without a limit (while
    /// it is replaced, and clients wait for it) of as many as clients usually wait. Not of more: with four at least, one that
    /// computes all the time leaves too little for its clients and for us (`benches/README.md`).
    fn set_cpu_weight(&self, cores: Option<f64>) -> io::Result<()> {
        let weight = cores.map_or(UNLIMITED_WEIGHT, |cores| cores.clamp(1.0, UNLIMITED_WEIGHT));
        let (file, one) = if self.unified { ("cpu.weight", 100.0) } else { ("cpu.shares", 1024.0) };
        fs::write(self.folder.join(file), format!("{:.0}", weight * one))
    }

    fn set_memory(&self, bytes: Option<u64>) -> io::Result<()> {
        let (file, none) = if self.unified { ("memory.max", "max") } else { ("memory.limit_in_bytes", "-1") };
        fs::write(self.folder.join(file), bytes.map_or_else(|| none.to_owned(), |bytes| bytes.to_string()))
    }

    /// Whether the controller really is there, and ours to set.
    fn works(&self) -> bool {
        self.set(Limits::default()).is_ok()
    }
}

/// A folder in which a cgroup might be made.
struct Place {
    controller: Controller,
    unified: bool,
    parent: PathBuf,
}

impl Place {
    fn take(self, name: &str) -> Option<Seat> {
        if self.unified {
            // Refused in a cgroup that has processes of its own, unless it is the root.
            let _ =
                fs::write(self.parent.join("cgroup.subtree_control"), format!("+{}", self.controller.name()));
        }
        let seat =
            Seat { controller: self.controller, unified: self.unified, folder: self.parent.join(name) };
        let made = match fs::create_dir(&seat.folder) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(_) => return None,
        };
        if seat.works() {
            return Some(seat);
        }
        if made {
            let _ = fs::remove_dir(&seat.folder);
        }
        None
    }
}

/// Where to try, best first. v2: below our own cgroup, the only place that delegation gives us, then at the top (in a
/// container our own path may not be visible). v1: at the top, because a folder below our own would keep whoever
/// started us from removing that after a crash; then below our own, for those who may do no more.
fn hierarchies(mounts: &str, own: &str, controller: Controller) -> Vec<Place> {
    let mut places = Vec::new();
    for mount in mounts.lines() {
        let mut fields = mount.split(' ').skip(1);
        let (Some(point), Some(kind), Some(options)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let unified = kind == "cgroup2";
        let holds =
            unified || (kind == "cgroup" && options.split(',').any(|option| option == controller.name()));
        if !holds {
            continue;
        }
        let ours = own.lines().find_map(|line| own_path(line, unified, controller));
        let below = ours.unwrap_or("/");
        for path in if unified { [below, "/"] } else { ["/", below] } {
            places.push(Place {
                controller,
                unified,
                parent: Path::new(point).join(path.trim_start_matches('/')),
            });
        }
    }
    places
}

/// One line of `/proc/self/cgroup`: `id:controllers:path` (v2: `0::path`).
fn own_path(line: &str, unified: bool, controller: Controller) -> Option<&str> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (controllers, path) = (fields.next()?, fields.next()?);
    let fits =
        if unified { controllers.is_empty() } else { controllers.split(',').any(|c| c == controller.name()) };
    fits.then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_limit_leaves_room_for_the_cache() {
        const MIB: u64 = 1 << 20;
        assert_eq!(memory_limit(128 * MIB, Some(32 * MIB)), None);
        assert_eq!(memory_limit(1024 * MIB, Some(256 * MIB)), Some(1024 * MIB));
        assert_eq!(memory_limit(256 * MIB, Some(64 * MIB)), Some(320 * MIB));
        assert_eq!(memory_limit(1024 * MIB, Some(1024 * MIB)), Some(1280 * MIB));
        assert_eq!(memory_limit(1024 * MIB, None), None);
    }

    #[tokio::test]
    async fn limits_wait_for_memory_that_is_being_freed() {
        let cgroup = Arc::new(Cgroup {
            seats: Vec::new(),
            limitations: Vec::new(),
            wanted: Mutex::default(),
            pending: Mutex::default(),
        });
        let wanted = |cgroup: &Cgroup| *hold(&cgroup.wanted);
        let limits = Limits { cpu_cores: Some(1.0), memory_bytes: None };
        let others = Limits { cpu_cores: Some(2.0), memory_bytes: None };
        let freeing = || {
            let (free, freed) = tokio::sync::oneshot::channel::<()>();
            cgroup.wait_for(tokio::spawn(async { drop(freed.await) }));
            free
        };
        let settle = async || {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        };
        // Two servers are gone, and the first one's limits were replaced before either was freed.
        let (first, second) = (freeing(), freeing());
        cgroup.enforce(others);
        cgroup.lift();
        cgroup.enforce(limits);
        drop(second);
        settle().await;
        assert!(!hold(&cgroup.pending).enforcing.as_ref().unwrap().is_finished());
        assert_eq!(wanted(&cgroup), Limits::default());
        drop(first);
        let enforcing = hold(&cgroup.pending).enforcing.take().unwrap();
        enforcing.await.unwrap();
        assert_eq!(wanted(&cgroup), limits);
        // Lifted before they came: they never do.
        let free = freeing();
        cgroup.enforce(others);
        cgroup.lift();
        drop(free);
        let enforcing = hold(&cgroup.pending).enforcing.take().unwrap();
        enforcing.await.unwrap();
        assert_eq!(wanted(&cgroup), Limits::default());
    }

    #[test]
    fn both_generations_of_mounts_are_understood() {
        let mounts = "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let own = "4:cpu,cpuacct:/service\n0::/slice/unit\n";
        let found = hierarchies(mounts, own, Controller::Cpu);
        let parents: Vec<String> = found.iter().map(|place| place.parent.display().to_string()).collect();
        assert_eq!(
            parents,
            [
                "/sys/fs/cgroup/cpu,cpuacct/",
                "/sys/fs/cgroup/cpu,cpuacct/service",
                "/sys/fs/cgroup/unified/slice/unit",
                "/sys/fs/cgroup/unified/",
            ]
        );
        assert!(hierarchies(mounts, own, Controller::Memory).iter().all(|place| place.unified));
    }
}
