//! The copy of a database: how it comes to be, follows, and is known to be fit.
//!
//! A volume is a copy of the one that serves only while it has its mark, a file beside it. It gets it when it has been copied, or
//! when it served and has been put down; it loses it before it is promoted. A volume without it may have gone its own way.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::super::flavour::{Following, Reach};
use super::super::{ProcessProvider, secret_file, volume};
use super::bridge::Bridge;
use super::setbacks::Setbacks;
use crate::compute::replication::{Position, Replication, Source};
use crate::compute::{ComputeError, Instance, Resources};

/// A copy that gets no nearer for so long does not follow.
const STUCK: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(5);

/// Who follows whom.
#[derive(Clone, Copy)]
pub(super) struct Pair<'a> {
    /// Whose database serves.
    pub primary: &'a ProcessProvider,
    /// Whose volume is the copy.
    pub follower: &'a ProcessProvider,
    /// How it is done.
    pub following: &'a dyn Following,
    /// What is said in the two servers.
    pub replication: &'a dyn Replication,
    /// What became of earlier copies.
    pub setbacks: &'a Mutex<Setbacks>,
}

impl<'a> Pair<'a> {
    fn setbacks(&self) -> MutexGuard<'a, Setbacks> {
        self.setbacks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The server that follows, if one does.
#[derive(Debug, Default)]
pub(super) struct Standby {
    instance: Option<Instance>,
    /// It has been as far as the database was when it was made ready.
    caught_up: bool,
    /// Its way to the one that serves.
    bridge: Option<Bridge>,
}

impl Standby {
    /// Has a copy follow with these resources, as far as the database is now. A volume that cannot is copied anew.
    pub(super) async fn ready(&mut self, pair: Pair<'_>, to: &Resources) -> Result<(), String> {
        if let Some(objection) = pair.following.objection(&pair.primary.site.volume) {
            return Err(objection);
        }
        // From an earlier promotion it may believe that it follows, itself perhaps.
        pair.replication.settle(&pair.primary.socket()).await?;
        if let Some(objection) = pair.replication.objection(&pair.primary.socket(), false).await? {
            return Err(objection);
        }
        if self.fit(pair, to).is_none() {
            self.start(pair, to).await?;
        }
        self.caught_up = false;
        let goal = pair.replication.written(&pair.primary.socket()).await?;
        if catch_up(&goal, pair).await.is_err() {
            self.begin_anew(pair, to).await?;
        }
        // What is on disk already does not have to get there while clients wait.
        pair.follower.sync_log().await.map_err(|error| format!("the copy is not on disk: {error}"))?;
        self.caught_up = true;
        Ok(())
    }

    /// Has it follow, on the volume that is there if there is one.
    async fn start(&mut self, pair: Pair<'_>, to: &Resources) -> Result<(), String> {
        let Pair { primary, follower, .. } = pair;
        self.stop(follower).await.map_err(|error| error.to_string())?;
        if !is_marked(&follower.site.volume) || !follower.flavour.has_data(&follower.site.volume) {
            return self.begin_anew(pair, to).await;
        }
        match self.follow(pair, to).await {
            Err(reason) if primary.alive().is_some() => {
                tracing::info!(reason, "the copy does not start and is made anew");
                self.begin_anew(pair, to).await
            }
            followed => followed,
        }
    }

    /// Has it follow, on a new copy of the volume.
    async fn begin_anew(&mut self, pair: Pair<'_>, to: &Resources) -> Result<(), String> {
        if let Some(reason) = pair.setbacks().pause(Instant::now()) {
            return Err(format!("{reason}; the next copy is made after a pause"));
        }
        self.stop(pair.follower).await.map_err(|error| error.to_string())?;
        let made = async {
            make(pair).await?;
            self.follow(pair, to).await?;
            let goal = pair.replication.written(&pair.primary.socket()).await?;
            catch_up(&goal, pair).await
        };
        match made.await {
            Ok(()) => pair.setbacks().overcome(),
            // Without the one that serves nothing is known of the copy.
            Err(_) if pair.primary.alive().is_none() => return Err("the database has ended".to_owned()),
            Err(reason) => {
                pair.setbacks().failed(Instant::now(), &reason);
                return Err(reason);
            }
        }
        Ok(())
    }

    async fn follow(&mut self, pair: Pair<'_>, to: &Resources) -> Result<(), String> {
        let Pair { primary, follower, following, .. } = pair;
        let user = follower.site.user.as_ref();
        for (name, content) in settings(&primary.site.volume, following) {
            let copied = secret_file::replace(&follower.site.volume.join(name), &content, user);
            copied.map_err(|error| format!("{name} cannot be copied: {error}"))?;
        }
        let started = follower.follow(primary, following, to).await;
        let instance = self.instance.insert(started.map_err(|error| error.to_string())?);
        let Reach::Port { since } = following.reach() else { return Ok(()) };
        let failed = |error: io::Error| format!("the copy cannot reach the database: {error}");
        let bridge = Bridge::open(primary.socket(), instance.pid).await.map_err(failed)?;
        let file = follower.site.volume.join(since);
        let source = Source { port: bridge.port, since: fs::read_to_string(&file).ok() };
        pair.replication.follow(&instance.socket, &source).await?;
        self.bridge = Some(bridge);
        unless_missing(fs::remove_file(&file)).map_err(failed)
    }

    /// The server that follows, if it runs.
    pub(super) fn instance(&self) -> Option<&Instance> {
        self.instance.as_ref().filter(|instance| instance.exited.borrow().is_none())
    }

    /// The copy, if it follows with these resources and nothing would be lost.
    pub(super) fn fit(&self, pair: Pair<'_>, to: &Resources) -> Option<Instance> {
        let Pair { primary, follower, following, .. } = pair;
        let instance = self.instance().filter(|instance| {
            self.caught_up && instance.resources == *to && is_marked(&follower.site.volume)
        })?;
        if let Some(objection) = following.objection(&primary.site.volume) {
            tracing::info!(objection, "the copy is not promoted");
            return None;
        }
        // It was started with them.
        let same = settings(&primary.site.volume, following) == settings(&follower.site.volume, following);
        same.then(|| instance.clone())
    }

    /// It serves, or has gone.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Ends it. After `Ok` nothing runs on its volume.
    pub(super) async fn stop(&mut self, follower: &ProcessProvider) -> Result<(), ComputeError> {
        *self = Self::default();
        follower.vacate().await
    }
}

/// The files with settings that a volume has, and what is in them.
fn settings(volume: &Path, following: &dyn Following) -> Vec<(&'static str, Vec<u8>)> {
    let read = |name: &&'static str| Some((*name, fs::read(volume.join(name)).ok()?));
    following.settings_files().iter().filter_map(read).collect()
}

/// Waits until the copy has repeated the log up to `goal`.
async fn catch_up(goal: &Position, pair: Pair<'_>) -> Result<(), String> {
    let Pair { follower, replication, .. } = pair;
    let mut furthest = None;
    let mut since = Instant::now();
    loop {
        let reached = replication.repeated(&follower.socket(), goal).await.ok();
        if reached >= Some(goal.end) {
            return Ok(());
        }
        if reached > furthest {
            (furthest, since) = (reached, Instant::now());
        }
        if since.elapsed() > STUCK || follower.alive().is_none() {
            return Err("the copy gets no nearer".to_owned());
        }
        sleep(LOOK).await;
    }
}

/// Copies the volume that serves; all or nothing.
async fn make(Pair { primary, follower, following, replication, .. }: Pair<'_>) -> Result<(), String> {
    let text = |error: io::Error| format!("the volume cannot be copied: {error}");
    let (from, to) = (&primary.site.volume, &follower.site.volume);
    if let Some(objection) = replication.objection(&primary.socket(), true).await? {
        return Err(objection);
    }
    let unlogged = replication.unlogged();
    let fresh = Fresh(volume::beside(to, ".new"));
    unmark(to).map_err(text)?;
    let old = [fresh.0.clone(), volume::beside(&fresh.0, ".trash"), to.clone()];
    let source = from.clone();
    let cleared = tokio::task::spawn_blocking(move || {
        old.iter().try_for_each(|folder| remove_tree(folder))?;
        size_of(&source)
    });
    let size = cleared.await.map_err(io::Error::other).and_then(|size| size).map_err(text)?;
    volume::check_room_for(to, size).map_err(|error| error.to_string())?;
    let started = Instant::now();
    following.copy(&primary.site, &follower.site, &fresh.0, replication).await?;
    fs::rename(&fresh.0, to).and_then(|()| volume::sync_folder(to.parent().unwrap_or(to))).map_err(text)?;
    mark_unless(to, unlogged, replication)?;
    tracing::info!(cluster = primary.site.cluster, took = ?started.elapsed(), "made a copy of the volume");
    Ok(())
}

/// A folder that is being filled. Half of a copy takes room and is of no use.
struct Fresh(PathBuf);

impl Drop for Fresh {
    fn drop(&mut self) {
        // Clients may wait for whoever drops it, and there may be much in it.
        let trash = volume::beside(&self.0, ".trash");
        if fs::rename(&self.0, &trash).is_ok() {
            tokio::task::spawn_blocking(move || drop(fs::remove_dir_all(trash)));
        }
    }
}

fn remove_tree(folder: &Path) -> io::Result<()> {
    unless_missing(fs::remove_dir_all(folder))
}

fn unless_missing(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// How much room the files of a folder take, bytes. Some may go meanwhile.
fn size_of(root: &Path) -> io::Result<u64> {
    let mut folders = vec![root.to_path_buf()];
    let mut size: u64 = 0;
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let entry = entry?;
            match entry.metadata() {
                Ok(found) if found.is_dir() => folders.push(entry.path()),
                Ok(found) => size = size.saturating_add(found.blocks().saturating_mul(512)),
                Err(_) => {}
            }
        }
    }
    Ok(size)
}

fn mark_of(volume: &Path) -> PathBuf {
    volume::beside(volume, ".copy")
}

/// See the module.
pub(super) fn is_marked(volume: &Path) -> bool {
    mark_of(volume).exists()
}

/// See the module. It says since when the machine runs.
pub(super) fn mark(volume: &Path) -> io::Result<()> {
    fs::write(mark_of(volume), boot())
}

/// Marks it, unless something was written since `unlogged` that its log will not bring.
pub(super) fn mark_unless(volume: &Path, unlogged: u64, replication: &dyn Replication) -> Result<(), String> {
    mark(volume).map_err(|error| error.to_string())?;
    // After it: whoever begins to now takes the mark away.
    if replication.unlogged() != unlogged {
        unmark(volume).map_err(|error| error.to_string())?;
        return Err("something was written meanwhile that the log does not have".to_owned());
    }
    Ok(())
}

/// Whether the mark was made since the machine was started.
pub(super) fn is_recent(volume: &Path) -> bool {
    let boot = boot();
    !boot.is_empty() && fs::read(mark_of(volume)).is_ok_and(|mark| mark == boot)
}

/// A name of this run of the machine (random(4)); empty where the kernel has none.
fn boot() -> Vec<u8> {
    fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

/// See the module. It need not be on disk: a server that took over does not follow, and that is seen.
pub(super) fn unmark(volume: &Path) -> io::Result<()> {
    unless_missing(fs::remove_file(mark_of(volume)))
}
