//! A copy that follows by the binary log. It is made by `mariadb-backup`, or by MySQL's clone plugin; it reaches the other
//! server over TCP, because neither product can follow through a Unix socket.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use zeroize::Zeroizing;

use super::programs::{Product, option};
use super::{MySql, ROUTER_ACCOUNT, SOCKET, charsets};
use crate::compute::process::flavour::{Following, LastRead, Reach, Site};
use crate::compute::process::pidfd::Pidfd;
use crate::compute::process::private_dir;
use crate::compute::process::secret_file::{self, SecretFile};
use crate::compute::process::spawn::{Program, run};
use crate::compute::replication::Replication;

/// Up to where a copy that has just been made has the log.
const SINCE: &str = "scalepoint-since";
/// Where `mariadb-backup` says that, by release.
const INFORMATION: [&str; 2] = ["mariadb_backup_binlog_info", "xtrabackup_binlog_info"];
/// What else it leaves.
const BACKUP_FILES: [&str; 8] = [
    "backup-my.cnf",
    "mariadb_backup_binlog_info",
    "mariadb_backup_checkpoints",
    "mariadb_backup_info",
    "xtrabackup_binlog_info",
    "xtrabackup_checkpoints",
    "xtrabackup_info",
    "xtrabackup_binlog_pos_innodb",
];
/// To copy a large volume takes a disk's whole time.
const COPYING: Duration = Duration::from_secs(24 * 3600);

#[async_trait]
impl Following for MySql {
    fn objection(&self, volume: &Path) -> Option<String> {
        match self.programs.product {
            Product::MySql56 => Some("MySQL 5.6 is not followed".to_owned()),
            Product::MariaDb if self.backup_tool().is_none() => {
                Some("there is no `mariadb-backup`: install the Debian package of that name".to_owned())
            }
            Product::MySql if self.programs.plugin("mysql_clone.so").is_none() => {
                Some("there is no clone plugin".to_owned())
            }
            Product::MySql if self.has_components(volume) => {
                Some("it has components, whose files a clone does not have".to_owned())
            }
            Product::MariaDb | Product::MySql => match has_links(volume) {
                Ok(false) => None,
                Ok(true) => Some("it has tables outside of its volume".to_owned()),
                Err(error) => Some(format!("it cannot be looked at: {error}")),
            },
        }
    }

    async fn copy(
        &self,
        primary: &Site,
        follower: &Site,
        fresh: &Path,
        replication: &dyn Replication,
    ) -> Result<(), String> {
        match self.programs.product {
            Product::MariaDb => self.back_up(primary, follower, fresh).await?,
            Product::MySql | Product::MySql56 => clone(primary, follower, fresh, replication).await?,
        }
        self.write_note(follower, fresh).map_err(|error| error.to_string())?;
        super::make_folders(follower).map_err(|error| error.to_string())?;
        if let Err(error) = charsets::make(follower, self.programs.share.as_deref()) {
            tracing::warn!(cluster = follower.cluster, %error, "no copy of the character sets");
        }
        Ok(())
    }

    fn settings_files(&self) -> &'static [&'static str] {
        &["mysqld-auto.cnf"]
    }

    fn follow(&self, _site: &Site) -> io::Result<()> {
        // Its arguments and a statement say so.
        Ok(())
    }

    fn arguments(&self, _primary: &Site) -> Vec<OsString> {
        self.parameters.following(self.programs.product).into_iter().map(OsString::from).collect()
    }

    fn reach(&self) -> Reach {
        Reach::Port { since: SINCE }
    }

    fn last_read(&self) -> LastRead {
        LastRead::Locked
    }

    fn sync(&self, volume: &Path) -> io::Result<()> {
        for folder in [volume.to_path_buf(), volume.join("#innodb_redo")] {
            let Ok(files) = fs::read_dir(folder) else { continue };
            for file in files {
                let file = file?;
                if is_log(&file.file_name().to_string_lossy()) {
                    File::open(file.path())?.sync_data()?;
                }
            }
        }
        Ok(())
    }

    fn outlasts_machine(&self) -> bool {
        // It writes nothing to disk until it takes over.
        false
    }

    async fn promote(&self, site: &Site, _: &Pidfd, replication: &dyn Replication) -> Result<(), String> {
        replication.tell(&site.run_dir.join(SOCKET), &self.parameters.serving(self.programs.product)).await
    }
}

impl MySql {
    fn backup_tool(&self) -> Option<PathBuf> {
        ["mariadb-backup", "mariabackup"].iter().find_map(|name| self.programs.tool(name))
    }

    async fn back_up(&self, primary: &Site, follower: &Site, fresh: &Path) -> Result<(), String> {
        let text = |error: io::Error| format!("the volume cannot be copied: {error}");
        let tool = self.backup_tool().ok_or("there is no `mariadb-backup`")?;
        private_dir::ensure(fresh, follower.user.as_ref()).map_err(|error| error.to_string())?;
        private_dir::ensure(&follower.run_dir, follower.user.as_ref()).map_err(|error| error.to_string())?;
        let login = format!(
            "[mariadb-backup]\nuser={ROUTER_ACCOUNT}\npassword=\"{}\"\nsocket=\"{}\"\n",
            &*self.router_password,
            primary.run_dir.join(SOCKET).display()
        );
        let login = Zeroizing::new(login);
        let file = follower.run_dir.join("copying.cnf");
        let file = SecretFile::write(file, login.as_bytes(), follower.user.as_ref()).map_err(text)?;
        let defaults = option("--defaults-file=", file.path());
        let target = option("--target-dir=", fresh);
        let backup = [defaults.clone(), "--backup".into(), target.clone()];
        self.run_tool(&tool, backup.to_vec(), follower).await?;
        self.run_tool(&tool, vec![defaults, "--prepare".into(), target], follower).await?;
        let said = INFORMATION.iter().find_map(|name| fs::read_to_string(fresh.join(name)).ok());
        let said = said.ok_or("the backup does not say up to where it has the log")?;
        let position = position(&said);
        let since = fresh.join(SINCE);
        secret_file::replace(&since, position.as_bytes(), follower.user.as_ref()).map_err(text)?;
        for name in BACKUP_FILES {
            let _ = fs::remove_file(fresh.join(name));
        }
        Ok(())
    }

    async fn run_tool(&self, tool: &Path, arguments: Vec<OsString>, site: &Site) -> Result<(), String> {
        let mut program = Program::new(tool, arguments, site.user.clone());
        program.environment = self.programs.environment();
        let printed = run(program, COPYING).await.map_err(|error| error.to_string())?;
        if printed.success {
            return Ok(());
        }
        let last = printed.stderr.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        Err(format!("the volume cannot be copied: mariadb-backup: {last}"))
    }
}

/// The server makes the folder itself, so it lies in one of its own until it is done.
async fn clone(
    primary: &Site,
    follower: &Site,
    fresh: &Path,
    replication: &dyn Replication,
) -> Result<(), String> {
    let text = |error: io::Error| format!("the volume cannot be copied: {error}");
    let yard = follower.beside_volume("clone");
    match fs::remove_dir_all(&yard) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(text(error)),
        _ => {}
    }
    private_dir::ensure(&yard, primary.user.as_ref()).map_err(|error| error.to_string())?;
    let made = yard.join("volume");
    replication.clone_to(&primary.run_dir.join(SOCKET), &made).await?;
    fs::rename(&made, fresh).and_then(|()| fs::remove_dir_all(&yard)).map_err(text)
}

/// The third column: the global transaction identifier; none, if there has been no transaction.
fn position(information: &str) -> &str {
    information.lines().next().unwrap_or_default().split('\t').nth(2).unwrap_or_default().trim()
}

/// What a server's recovery after a crash goes by.
fn is_log(name: &str) -> bool {
    ["ib_logfile", "#ib_redo", "binlog.", "aria_log."].iter().any(|prefix| name.starts_with(prefix))
}

/// Whether files or folders of a volume are elsewhere: as links, or as InnoDB's files that say where.
fn has_links(volume: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(volume)? {
        let entry = entry?;
        if entry.file_type()?.is_symlink() {
            return Ok(true);
        }
        if !entry.file_type()?.is_dir() {
            continue;
        }
        // A database may be dropped at any time.
        for file in fs::read_dir(entry.path()).into_iter().flatten().flatten() {
            let is_link = file.file_type().is_ok_and(|kind| kind.is_symlink());
            if is_link || file.file_name().as_encoded_bytes().ends_with(b".isl") {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_position_is_the_third_column() {
        assert_eq!(position("binlog.000001\t5678\t0-1-42\n"), "0-1-42");
        assert_eq!(position("binlog.000001\t328\t\n"), "");
        assert_eq!(position("binlog.000001\t328"), "");
    }

    #[test]
    fn what_is_elsewhere_is_seen() {
        let volume = tempfile::tempdir().unwrap();
        fs::create_dir(volume.path().join("d")).unwrap();
        fs::write(volume.path().join("d/t.ibd"), "").unwrap();
        assert!(!has_links(volume.path()).unwrap());
        fs::write(volume.path().join("d/u.isl"), "").unwrap();
        assert!(has_links(volume.path()).unwrap());
    }
}
