//! A standby by streaming replication over the primary's private socket ("Log-Shipping Standby Servers" in the manual).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use nix::sys::signal::Signal;

use super::settings::PORT;
use super::{CONFIGURATION, Postgres, includes_others};
use crate::compute::process::flavour::{Flavour as _, Following, LastRead, Reach, Site};
use crate::compute::process::pidfd::Pidfd;
use crate::compute::process::secret_file;
use crate::compute::process::standby::copy::{Part, copy_volume};
use crate::compute::replication::Replication;

/// A server that finds it at its start follows.
const STANDBY_SIGNAL: &str = "standby.signal";
/// A standby that finds it when it is signalled takes over.
const PROMOTE: &str = "promote";
const SETTINGS: [&str; 4] = ["postgresql.conf", "postgresql.auto.conf", "pg_hba.conf", "pg_ident.conf"];

/// Coarser than any file system's clock.
const GRAIN: Duration = Duration::from_secs(2);

/// Settings of a recovery that is none.
const NO_RECOVERY: [&str; 8] = [
    "restore_command",
    "archive_cleanup_command",
    "recovery_end_command",
    "recovery_target",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
];

/// What a base backup leaves out, or leaves empty ("Base Backup Protocol", `basebackup.c`).
const OWN_FILES: [&str; 9] = [
    "postmaster.pid",
    "postmaster.opts",
    "backup_label",
    "backup_label.old",
    "tablespace_map",
    "tablespace_map.old",
    "current_logfiles",
    STANDBY_SIGNAL,
    PROMOTE,
];
const OWN_FOLDERS: [&str; 8] = [
    "pg_wal/archive_status",
    "pg_replslot",
    "pg_dynshmem",
    "pg_notify",
    "pg_serial",
    "pg_snapshots",
    "pg_stat_tmp",
    "pg_subtrans",
];

#[async_trait]
impl Following for Postgres {
    fn objection(&self, volume: &Path) -> Option<String> {
        let has_any =
            |folder: &str| fs::read_dir(volume.join(folder)).is_ok_and(|mut all| all.next().is_some());
        if has_any("pg_tblspc") {
            return Some("it has tablespaces".to_owned());
        }
        if has_any("pg_replslot") {
            return Some("it has replication slots".to_owned());
        }
        if CONFIGURATION
            .iter()
            .any(|name| fs::read(volume.join(name)).map_or(true, |text| includes_others(&text)))
        {
            return Some("its configuration includes other files".to_owned());
        }
        if has_unarchived(&volume.join("pg_wal/archive_status")) {
            return Some("some of its log is not archived yet, and a standby would not do it".to_owned());
        }
        match self.unlogged.are_in(&volume.join("base")) {
            Ok(false) => None,
            Ok(true) => Some("it has unlogged tables, of which a standby has no rows".to_owned()),
            Err(error) => Some(format!("it cannot be looked at: {error}")),
        }
    }

    async fn copy(
        &self,
        primary: &Site,
        follower: &Site,
        fresh: &Path,
        replication: &dyn Replication,
    ) -> Result<(), String> {
        let text = |error: io::Error| format!("the volume cannot be copied: {error}");
        let under_way = replication.begin_copy(&primary.run_dir.join(self.socket_name())).await?;
        copy_volume(&primary.volume, fresh, part, follower.user.clone()).await.map_err(text)?;
        for (name, content) in under_way.finish().await? {
            let path = fresh.join(name);
            secret_file::replace(&path, content.as_bytes(), follower.user.as_ref()).map_err(text)?;
        }
        Ok(())
    }

    fn settings_files(&self) -> &'static [&'static str] {
        &SETTINGS
    }

    fn follow(&self, site: &Site) -> io::Result<()> {
        match fs::remove_file(site.volume.join(PROMOTE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        secret_file::replace(&site.volume.join(STANDBY_SIGNAL), b"", site.user.as_ref())
    }

    fn arguments(&self, primary: &Site) -> Vec<OsString> {
        let folder = primary.run_dir.display().to_string();
        let connection = format!(
            "host={} port={PORT} user={} application_name=scalepoint",
            quoted(&folder),
            quoted(&self.master_username)
        );
        let settings = [
            format!("primary_conninfo={connection}"),
            "primary_slot_name=".to_owned(),
            "recovery_target_timeline=latest".to_owned(),
            "hot_standby=on".to_owned(),
            // It retries at once when the other server has come up again.
            "wal_retrieve_retry_interval=200ms".to_owned(),
        ];
        // What a restore from an archive may have left is not to lead it astray.
        let none = NO_RECOVERY.iter().map(|name| format!("{name}="));
        settings.into_iter().chain(none).flat_map(|setting| [OsString::from("-c"), setting.into()]).collect()
    }

    fn reach(&self) -> Reach {
        Reach::Socket
    }

    fn last_read(&self) -> LastRead {
        LastRead::Stopped
    }

    fn sync(&self, _volume: &Path) -> io::Result<()> {
        // What a standby has repeated it has written to disk before.
        Ok(())
    }

    fn outlasts_machine(&self) -> bool {
        true
    }

    async fn promote(&self, site: &Site, server: &Pidfd, _: &dyn Replication) -> Result<(), String> {
        let text = |error: io::Error| format!("the copy cannot be told to take over: {error}");
        // Not synced: only a running server ever looks for it.
        let file = site.volume.join(PROMOTE);
        fs::write(&file, b"").map_err(text)?;
        site.user.as_ref().map_or(Ok(()), |user| user.own(&file)).map_err(text)?;
        server.signal(Signal::SIGUSR1).map_err(text)
    }
}

/// A value in a connection string ("Connection Strings" in the manual).
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn has_unarchived(folder: &Path) -> bool {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    files.into_iter().any(|file| file.file_name().as_encoded_bytes().ends_with(b".ready"))
}

/// Which databases were seen to have no unlogged relations. Those have a fork of their own, for what they are after a crash
/// ("Database File Layout"). To list a folder of many files takes a while, and clients wait, so it is done again only when
/// the folder has changed.
#[derive(Debug, Default)]
pub(super) struct Unlogged(Mutex<BTreeMap<PathBuf, SystemTime>>);

impl Unlogged {
    fn are_in(&self, base: &Path) -> io::Result<bool> {
        for database in fs::read_dir(base)? {
            let folder = database?.path();
            match self.are_in_database(&folder) {
                Ok(false) => {}
                // A database may be dropped at any time.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                found => return found,
            }
        }
        Ok(false)
    }

    fn are_in_database(&self, folder: &Path) -> io::Result<bool> {
        let mut clean = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = fs::metadata(folder)?.modified()?;
        if clean.get(folder) == Some(&changed) {
            return Ok(false);
        }
        clean.remove(folder);
        for file in fs::read_dir(folder)? {
            if file?.file_name().as_encoded_bytes().ends_with(b"_init") {
                return Ok(true);
            }
        }
        // Within the clock's grain another change would not show.
        if changed.elapsed().is_ok_and(|age| age > GRAIN) {
            clean.insert(folder.to_path_buf(), changed);
        }
        Ok(false)
    }
}

fn part(relative: &Path) -> Part {
    let Some(path) = relative.to_str() else { return Part::Whole };
    let name = path.rsplit('/').next().unwrap_or(path);
    if OWN_FOLDERS.contains(&path) {
        Part::Empty
    } else if OWN_FILES.contains(&path)
        || name.starts_with("pgsql_tmp")
        || name.starts_with("pg_internal.init")
        // The standby fetches the log from where the copy began.
        || path.starts_with("pg_wal/")
    {
        Part::None
    } else {
        Part::Whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_running_servers_own_is_not_copied() {
        for (path, expected) in [
            ("", Part::Whole),
            ("base/5/1259", Part::Whole),
            ("global/pg_control", Part::Whole),
            ("pg_wal", Part::Whole),
            ("pg_wal/archive_status", Part::Empty),
            ("pg_wal/000000010000000000000001", Part::None),
            ("pg_notify", Part::Empty),
            ("base/pgsql_tmp", Part::None),
            ("base/5/pg_internal.init", Part::None),
            ("postmaster.pid", Part::None),
            ("base/5/postmaster.pid", Part::Whole),
        ] {
            assert_eq!(part(Path::new(path)), expected, "{path}");
        }
    }

    #[test]
    fn unlogged_tables_are_seen() {
        let volume = tempfile::tempdir().unwrap();
        fs::create_dir_all(volume.path().join("base/5")).unwrap();
        fs::write(volume.path().join("base/5/16384"), "").unwrap();
        let (unlogged, base) = (Unlogged::default(), volume.path().join("base"));
        assert!(!unlogged.are_in(&base).unwrap());
        let old = SystemTime::now() - 2 * GRAIN;
        fs::File::open(base.join("5")).unwrap().set_modified(old).unwrap();
        assert!(!unlogged.are_in(&base).unwrap() && unlogged.0.lock().unwrap().len() == 1);
        fs::write(base.join("5/16384_init"), "").unwrap();
        assert!(unlogged.are_in(&base).unwrap() && unlogged.0.lock().unwrap().is_empty());
    }

    #[test]
    fn a_folder_with_a_quote_stays_one_value() {
        assert_eq!(quoted(r"/a b'c\d"), r"'/a b\'c\\d'");
    }
}
