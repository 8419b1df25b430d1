//! Making a volume and its accounts, with servers that nobody can connect to.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

use super::programs::{Product, option};
use super::{LOCK_FILE, MySql, accounts, exchange_folder, is_grave_line, temporary_folder};
use crate::compute::ComputeError;
use crate::compute::process::flavour::Site;
use crate::compute::process::secret_file::SecretFile;
use crate::compute::process::spawn::{Printed, Program, run, run_and_listen};

/// Disks differ.
const MAKING_DEADLINE: Duration = Duration::from_secs(180);

impl MySql {
    /// The options of a server that makes something in `volume` and serves nobody.
    fn making(&self, site: &Site, volume: &Path) -> Vec<OsString> {
        let mut options = self.programs.options();
        options.extend([
            option("--datadir=", volume),
            option("--tmpdir=", &temporary_folder(site)),
            option("--secure-file-priv=", &exchange_folder(site)),
            "--innodb-buffer-pool-size=64M".into(),
            "--innodb-buffer-pool-dump-at-shutdown=OFF".into(),
            "--innodb-buffer-pool-load-at-startup=OFF".into(),
            "--performance-schema=OFF".into(),
        ]);
        match self.programs.product {
            Product::MySql => options.extend(["--disable-log-bin", "--mysqlx=OFF"].map(OsString::from)),
            Product::MariaDb | Product::MySql56 => {}
        }
        options.extend(self.parameters.for_creation().into_iter().map(OsString::from));
        options
    }

    fn run_in(&self, file: &Path, options: Vec<OsString>, site: &Site, input: Option<File>) -> Program {
        let environment = self.programs.environment();
        let folder = PathBuf::from("/");
        Program {
            file: file.to_path_buf(),
            arguments: options,
            environment,
            folder,
            user: site.user.clone(),
            input,
        }
    }

    /// Runs the server without a listener over statements, until it has done them.
    pub(super) async fn execute(
        &self,
        site: &Site,
        volume: &Path,
        statements: &[String],
    ) -> Result<(), ComputeError> {
        let product = self.programs.product;
        let script = Zeroizing::new(accounts::script(product, statements));
        let file = SecretFile::write(site.run_dir.join("making.sql"), script.as_bytes(), site.user.as_ref());
        let file =
            file.map_err(|source| ComputeError::Io { what: "writing the accounts".to_owned(), source })?;
        let mut options = self.making(site, volume);
        let mut input = None;
        if product == Product::MySql56 {
            options.push("--bootstrap".into());
            let opened = File::open(file.path());
            input =
                Some(opened.map_err(|source| ComputeError::Io {
                    what: "reading the accounts".to_owned(),
                    source,
                })?);
        } else {
            options.extend([
                "--skip-networking".into(),
                option("--socket=", &site.run_dir.join("making.sock")),
                option("--pid-file=", &volume.join(LOCK_FILE)),
                option("--init-file=", file.path()),
            ]);
        }
        let program = self.run_in(&self.programs.server, options, site, input);
        // After a statement that fails the newer servers do not read the one that shuts them down, and stay.
        let (printed, in_time) = run_and_listen(program, MAKING_DEADLINE).await?;
        if printed.success && in_time && !printed.stderr.lines().any(is_statement_error) {
            return Ok(());
        }
        Err(self.failed(site, "making the accounts", &printed))
    }

    /// What a server said that failed, without the lines that may repeat a statement.
    fn failed(&self, site: &Site, what: &str, printed: &Printed) -> ComputeError {
        let is_safe = |line: &&str| !line.contains("near '") && !line.contains("IDENTIFIED");
        let grave = printed.stderr.lines().filter(|line| is_grave_line(line)).filter(is_safe);
        let mut said: Vec<&str> = grave.take(3).collect();
        if said.is_empty() {
            said = printed.stderr.lines().filter(is_safe).collect();
            said = said.split_off(said.len().saturating_sub(3));
        }
        let reason = format!("{what} failed: {}", said.join("; "));
        ComputeError::Volume { path: site.volume.clone(), reason }
    }

    /// The tables that every volume has, and nothing else.
    pub(super) async fn make_tables(&self, site: &Site, fresh: &Path) -> Result<(), ComputeError> {
        let product = self.programs.product;
        let program = match product {
            Product::MySql => {
                let mut options = self.making(site, fresh);
                options.push("--initialize-insecure".into());
                self.run_in(&self.programs.server, options, site, None)
            }
            Product::MariaDb => self.mariadb_installer(site, fresh)?,
            Product::MySql56 => self.bootstrap_of_5_6(site, fresh)?,
        };
        let mut printed = run(program, MAKING_DEADLINE).await?;
        if printed.success {
            return Ok(());
        }
        // MariaDB's script says on its standard output what went wrong.
        printed.stderr.push_str(&printed.stdout);
        Err(self.failed(site, "making the tables", &printed))
    }

    fn mariadb_installer(&self, site: &Site, fresh: &Path) -> Result<Program, ComputeError> {
        let names = ["mariadb-install-db", "mysql_install_db"];
        let installer = names.iter().find_map(|name| self.programs.tool(name)).ok_or_else(|| {
            ComputeError::MissingServer(format!(
                "there is no `mariadb-install-db` with {}: it makes a new volume",
                self.programs.server.display()
            ))
        })?;
        let mut options = vec!["--no-defaults".into(), option("--basedir=", &self.programs.base)];
        options.extend([
            option("--datadir=", fresh),
            option("--tmpdir=", &temporary_folder(site)),
            "--auth-root-authentication-method=normal".into(),
            "--skip-test-db".into(),
            "--skip-name-resolve".into(),
        ]);
        options.extend(self.parameters.for_creation().into_iter().map(OsString::from));
        Ok(self.run_in(&installer, options, site, None))
    }

    fn bootstrap_of_5_6(&self, site: &Site, fresh: &Path) -> Result<Program, ComputeError> {
        let failed = |source| ComputeError::Io {
            what: "reading the definitions of MySQL's tables".to_owned(),
            source,
        };
        let share = self.programs.share.as_deref().unwrap_or(&self.programs.base);
        let mut script = "use mysql;\n".to_owned();
        for name in ["mysql_system_tables.sql", "mysql_system_tables_data.sql", "fill_help_tables.sql"] {
            script.push_str(&fs::read_to_string(share.join(name)).map_err(failed)?);
            script.push('\n');
        }
        let folder = fresh.join("mysql");
        fs::create_dir(&folder).map_err(failed)?;
        site.user.as_ref().map_or(Ok(()), |user| user.own(&folder)).map_err(failed)?;
        let path = site.run_dir.join("tables.sql");
        let file = SecretFile::write(path, script.as_bytes(), site.user.as_ref()).map_err(failed)?;
        // Open, it may lose its name.
        let input = File::open(file.path()).map_err(failed)?;
        let mut options = self.making(site, fresh);
        options.push("--bootstrap".into());
        Ok(self.run_in(&self.programs.server, options, site, Some(input)))
    }
}

/// `ERROR: 1064 ...` (MariaDB, MySQL 5.6): a statement failed, and the server went on or ended as if all were well.
fn is_statement_error(line: &str) -> bool {
    line.starts_with("ERROR: ")
}

/// Not every table of theirs is written through.
pub(super) fn sync_tree(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else if entry.file_type()?.is_file() {
            File::open(entry.path())?.sync_all()?;
        }
    }
    File::open(folder)?.sync_all()
}
