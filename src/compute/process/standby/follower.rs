//! What a provider does for the other one of a pair.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::super::flavour::Following;
use super::super::{ProcessProvider, orphan, private_dir, volume};
use crate::compute::{ComputeError, ComputeProvider as _, Instance, Resources};

/// How long a copy that is told to stop at once may take before it is killed.
const VACATED: Duration = Duration::from_secs(2);

impl ProcessProvider {
    /// Where its server is reached.
    pub(super) fn socket(&self) -> PathBuf {
        self.site.run_dir.join(self.flavour.socket_name())
    }

    /// Ends whatever runs on its volume, at once.
    pub(super) async fn vacate(&self) -> Result<(), ComputeError> {
        let _turn = self.take_turn()?;
        self.dismiss();
        if let Some(process) = self.alive() {
            let (_, firm) = self.flavour.stop_signals();
            let _ = process.pidfd.signal(firm);
            let _ = timeout(VACATED, process.ended()).await;
        }
        orphan::kill(&self.site.volume, self.flavour.as_ref()).await?;
        *self.running() = None;
        for name in self.flavour.run_files() {
            let _ = fs::remove_file(self.site.run_dir.join(name));
        }
        Ok(())
    }

    /// Writes to disk what its server has of the log.
    pub(super) async fn sync_log(&self) -> io::Result<()> {
        let (flavour, volume) = (Arc::clone(&self.flavour), self.site.volume.clone());
        let sync = move || flavour.following().map_or(Ok(()), |following| following.sync(&volume));
        tokio::task::spawn_blocking(sync).await.map_err(io::Error::other)?
    }

    /// Starts a server on its volume that follows the one of `primary`.
    pub(super) async fn follow(
        &self,
        primary: &ProcessProvider,
        following: &dyn Following,
        resources: &Resources,
    ) -> Result<Instance, ComputeError> {
        self.vacate().await?;
        let _turn = self.take_turn()?;
        let failed = |source| ComputeError::Io { what: "preparing a copy".to_owned(), source };
        private_dir::ensure(&self.site.run_dir, self.site.user.as_ref())?;
        self.cgroup.restore();
        self.cgroup.lift();
        following.follow(&self.site).map_err(failed)?;
        volume::settle_owner(&self.site)?;
        let staged = self.stage_with(resources, following.arguments(&primary.site))?;
        self.start(staged, resources).await
    }
}
