//! A standby by streaming replication over the primary's private socket ("Log-Shipping Standby Servers" in the manual).

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;

use nix::sys::signal::Signal;

use super::settings::PORT;
use super::{CONFIGURATION, Postgres, includes_others};
use crate::compute::process::flavour::{Following, Site};
use crate::compute::process::pidfd::Pidfd;
use crate::compute::process::secret_file;
use crate::compute::process::standby::copy::Part;

/// A server that finds it at its start follows.
const STANDBY_SIGNAL: &str = "standby.signal";
/// A standby that finds it when it is signalled takes over.
const PROMOTE: &str = "promote";
const SETTINGS: [&str; 4] = ["postgresql.conf", "postgresql.auto.conf", "pg_hba.conf", "pg_ident.conf"];

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
        match has_unlogged(&volume.join("base")) {
            Ok(false) => None,
            Ok(true) => Some("it has unlogged tables, of which a standby has no rows".to_owned()),
            Err(error) => Some(format!("it cannot be looked at: {error}")),
        }
    }

    fn part(&self) -> fn(&Path) -> Part {
        part
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
        settings.into_iter().flat_map(|setting| [OsString::from("-c"), setting.into()]).collect()
    }

    fn promote(&self, site: &Site, server: &Pidfd) -> io::Result<()> {
        // Not synced: only a running server ever looks for it.
        fs::write(site.volume.join(PROMOTE), b"")?;
        site.user.as_ref().map_or(Ok(()), |user| user.own(&site.volume.join(PROMOTE)))?;
        server.signal(Signal::SIGUSR1)
    }
}

/// A value in a connection string ("Connection Strings" in the manual).
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// Unlogged relations have a fork of their own for what they are after a crash ("Database File Layout").
fn has_unlogged(base: &Path) -> io::Result<bool> {
    for database in fs::read_dir(base)? {
        let files = match fs::read_dir(database?.path()) {
            // A database may be dropped at any time.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            files => files?,
        };
        for file in files {
            if file?.file_name().as_encoded_bytes().ends_with(b"_init") {
                return Ok(true);
            }
        }
    }
    Ok(false)
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
        assert!(!has_unlogged(&volume.path().join("base")).unwrap());
        fs::write(volume.path().join("base/5/16384_init"), "").unwrap();
        assert!(has_unlogged(&volume.path().join("base")).unwrap());
    }

    #[test]
    fn a_folder_with_a_quote_stays_one_value() {
        assert_eq!(quoted(r"/a b'c\d"), r"'/a b\'c\\d'");
    }
}
