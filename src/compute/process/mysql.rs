//! MariaDB, MySQL 8.0 and later, and MySQL 5.6.
//!
//! Unlike PostgreSQL these check a password on the private socket too: the router logs in as its clients' own users,
//! and as [`ROUTER_ACCOUNT`] for its chores.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::Signal;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::barrier::Threshold;
use super::config::Pair;
use super::flavour::{Flavour, Following, Site};
use super::secret_file;
use crate::compute::{ComputeError, Resources};
use accounts::Account;
use making::sync_tree;
use programs::{Product, Programs, series};
use settings::Parameters;

mod accounts;
mod binlog;
mod charsets;
mod follow;
mod making;
pub mod programs;
mod settings;
mod tick;

const SOCKET: &str = "mysql.sock";
const LOCK_FILE: &str = "mysqld.pid";
const LOG: &str = "mysql.log";
/// Our own file in the volume: which server last served it, and which password the router's account has there.
const NOTE: &str = "scalepoint-volume";
/// How much of the log's end is searched for the line that says that a server is ready.
const READY_TAIL_BYTES: u64 = 64 << 10;

/// Whom MariaDB and MySQL run as when we are root.
pub const OS_USERS: [&str; 2] = ["mysql", "nobody"];

/// The user that the router logs in as for its own chores, at `localhost`, with [`ProcessConfig::router_password`].
///
/// [`ProcessConfig::router_password`]: super::ProcessConfig::router_password
pub const ROUTER_ACCOUNT: &str = crate::config::ROUTER_ACCOUNT_MYSQL;

/// MariaDB or MySQL as found on this machine, for one cluster. No `Debug`: it carries a password.
pub struct MySql {
    programs: Programs,
    parameters: Parameters,
    master_username: String,
    router_password: Zeroizing<String>,
    most_files: u64,
}

impl MySql {
    /// `programs`: see [`programs::find`]. `parameters`: the operator's. `pair`: there is to be another server that follows.
    pub fn new(
        programs: Programs,
        parameters: BTreeMap<String, String>,
        master_username: String,
        router_password: Zeroizing<String>,
        pair: Option<&Pair>,
    ) -> Result<Self, ComputeError> {
        let longest = if programs.product == Product::MySql56 { 16 } else { 32 };
        let length = master_username.chars().count();
        let own = ROUTER_ACCOUNT;
        let is_taken = ["root", own].contains(&master_username.as_str()) || master_username.contains('\0');
        if length == 0 || length > longest || is_taken || master_username.starts_with("mysql.") {
            return Err(ComputeError::Configuration(format!(
                "master_username {master_username:?}: {} takes no empty name and none of more than {longest} characters, \
                 and `root`, `{own}` and `mysql.*` are not to be had",
                programs.product.name()
            )));
        }
        if router_password.is_empty() || router_password.contains(['\n', '\r', '\0']) {
            let wrong = "the password of the router's own account is empty or more than one line";
            return Err(ComputeError::Configuration(wrong.to_owned()));
        }
        let most_files = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(_, hard)| hard);
        let number = pair.map(|pair| binlog::FIRST_NUMBER + u32::from(pair.is_second));
        let parameters = Parameters::new(parameters, number)?;
        Ok(Self { programs, parameters, master_username, router_password, most_files })
    }

    fn router(&self) -> Account<'_> {
        Account { name: ROUTER_ACCOUNT, host: "localhost", password: &self.router_password }
    }

    fn note(&self) -> String {
        let mut digest = Sha256::new();
        digest.update(b"the router's account\0");
        digest.update(self.router_password.as_bytes());
        let fingerprint = hex::encode(digest.finalize());
        format!("{} {}\nrouter {fingerprint}\n", self.programs.product.name(), self.programs.version)
    }

    fn write_note(&self, site: &Site, volume: &Path) -> Result<(), ComputeError> {
        let path = volume.join(NOTE);
        secret_file::replace(&path, self.note().as_bytes(), site.user.as_ref())
            .map_err(|source| ComputeError::Io { what: format!("writing {}", path.display()), source })
    }

    /// The index of the character sets that only this cluster's server reads: it waits there if it is started ahead.
    fn own_charsets(&self, site: &Site) -> Option<PathBuf> {
        let index = charsets::index(site);
        (!self.parameters.has("character_sets_dir") && index.exists()).then_some(index)
    }

    /// Whether manifests name components that come with the server (a keyring is one).
    fn has_components(&self, volume: &Path) -> bool {
        let manifests = [self.programs.server.with_extension("my"), volume.join("mysqld.my")];
        manifests.iter().any(|file| file.exists())
    }

    fn check_product(&self, site: &Site) -> Result<(), ComputeError> {
        let server = self.programs.product;
        let reason = match Product::of_volume(&site.volume) {
            Some(data) if data == server => return Ok(()),
            Some(data) => format!(
                "it was made by {}, but the server here is {} {}: name the folder of its own server with `server`",
                data.name(),
                server.name(),
                self.programs.version
            ),
            None => "what is in it is not a database of MariaDB or MySQL".to_owned(),
        };
        Err(ComputeError::Volume { path: site.volume.clone(), reason })
    }

    /// MariaDB would open the files of a newer one and trip over its tables; MySQL refuses by itself.
    fn check_age(&self, site: &Site, noted: &str) -> Result<(), ComputeError> {
        let noted = noted.lines().next().and_then(|line| line.rsplit(' ').next()).unwrap_or_default();
        let (data, server) = (series(noted), series(&self.programs.version));
        if self.programs.product != Product::MariaDb || data.is_none() || data == server {
            return Ok(());
        }
        if data > server {
            let reason = format!(
                "it was last served by MariaDB {noted}, and the server here is the older {}",
                self.programs.version
            );
            return Err(ComputeError::Volume { path: site.volume.clone(), reason });
        }
        tracing::warn!(from = noted, to = %self.programs.version, "a newer MariaDB serves the volume: run mariadb-upgrade");
        Ok(())
    }
}

#[async_trait]
impl Flavour for MySql {
    async fn version(&self) -> Result<String, ComputeError> {
        Ok(self.programs.version.clone())
    }

    async fn create_volume(&self, site: &Site, fresh: &Path, password: &str) -> Result<(), ComputeError> {
        make_folders(site)?;
        self.make_tables(site, fresh).await?;
        let product = self.programs.product;
        let master = Account { name: &self.master_username, host: "%", password };
        let mut statements = accounts::purge(product);
        for account in [master, self.router()] {
            statements.extend(accounts::make(product, account));
        }
        statements.extend(accounts::let_proxy(self.router()));
        self.execute(site, fresh, &statements).await?;
        self.write_note(site, fresh)?;
        sync_tree(fresh).map_err(|source| ComputeError::Io { what: "writing the volume".to_owned(), source })
    }

    fn has_data(&self, volume: &Path) -> bool {
        Product::of_volume(volume).is_some()
    }

    async fn accept_volume(&self, site: &Site, _version: &str) -> Result<(), ComputeError> {
        self.check_product(site)?;
        make_folders(site)?;
        if let Err(error) = charsets::make(site, self.programs.share.as_deref()) {
            tracing::warn!(cluster = site.cluster, %error, "no copy of the character sets");
        }
        let noted = fs::read_to_string(site.volume.join(NOTE)).unwrap_or_default();
        if noted == self.note() {
            return Ok(());
        }
        self.check_age(site, &noted)?;
        let (router, own) = (noted.lines().nth(1), self.note());
        if router != own.lines().nth(1) {
            tracing::info!(volume = %site.volume.display(), "giving the router its account");
            let mut statements = accounts::make(self.programs.product, self.router());
            statements.extend(accounts::let_proxy(self.router()));
            self.execute(site, &site.volume, &statements).await?;
        }
        self.write_note(site, &site.volume)
    }

    fn server(&self, site: &Site, resources: &Resources) -> (PathBuf, Vec<OsString>) {
        let mut options = self.programs.options();
        let settings = self.parameters.settings(self.programs.product, site, resources, self.most_files);
        options.extend(settings.into_iter().map(OsString::from));
        if let Some(folder) = self.own_charsets(site).as_deref().and_then(Path::parent) {
            options.push(programs::option("--character-sets-dir=", folder));
        }
        (self.programs.server.clone(), options)
    }

    fn environment(&self) -> Vec<(String, OsString)> {
        self.programs.environment()
    }

    fn places(&self, resources: &Resources) -> Option<u64> {
        self.parameters.places(resources, self.most_files)
    }

    fn socket_name(&self) -> &'static str {
        SOCKET
    }

    fn run_files(&self) -> &'static [&'static str] {
        &[
            SOCKET,
            "mysql.sock.lock",
            "making.sock",
            "making.sock.lock",
            "making.sql",
            "tables.sql",
            "copying.cnf",
        ]
    }

    fn log_name(&self) -> &'static str {
        LOG
    }

    fn lock_file(&self) -> &'static str {
        LOCK_FILE
    }

    fn main_pid(&self, volume: &Path) -> Option<u32> {
        fs::read_to_string(volume.join(LOCK_FILE)).ok()?.trim().parse().ok()
    }

    fn looks_ready(&self, site: &Site, pid: u32) -> bool {
        // The socket and the lock come a little before the grant tables are read; the log says the rest.
        self.main_pid(&site.volume) == Some(pid)
            && site.run_dir.join(SOCKET).exists()
            && log_tail(site).is_ok_and(|log| says_ready(&log, pid))
    }

    fn threshold(&self, site: &Site) -> Option<Threshold> {
        // They begin their work before.
        if self.has_components(&site.volume) {
            return None;
        }
        let file = self.own_charsets(site)?;
        let read = vec![site.volume.join("mysqld-auto.cnf")];
        // So it learns whether the file system tells capital letters from small ones.
        Some(Threshold { file, read, trial: Some(".lower-test") })
    }

    async fn next_look(&self, pid: u32) -> Option<Instant> {
        match self.programs.product {
            Product::MySql => tick::next_look(pid).await,
            // MariaDB's thread is woken; MySQL 5.6 names none.
            Product::MariaDb | Product::MySql56 => None,
        }
    }

    fn is_server(&self, program: &str) -> bool {
        program == "mysqld" || program == "mariadbd"
    }

    fn stop_signals(&self) -> (Signal, Signal) {
        // There is no signal between: SIGQUIT is SIGTERM to it. Its log of changes makes the last one safe.
        (Signal::SIGTERM, Signal::SIGKILL)
    }

    fn is_grave(&self, line: &str) -> bool {
        is_grave_line(line)
    }

    fn following(&self) -> Option<&dyn Following> {
        self.parameters.number.is_some().then_some(self as &dyn Following)
    }

    fn needed_bytes(&self, resources: &Resources) -> Option<u64> {
        self.parameters.needed_bytes(self.programs.product, resources, self.most_files)
    }
}

fn is_grave_line(line: &str) -> bool {
    let is_last_word = line.ends_with("Aborting");
    let marks = ["[ERROR]", "[FATAL]", "FATAL:", "ERROR:", "FATAL ERROR"];
    !is_last_word && marks.iter().any(|mark| line.contains(mark))
}

fn log_tail(site: &Site) -> io::Result<Vec<u8>> {
    let mut log = File::open(site.beside_volume("log").join(LOG))?;
    let length = log.metadata()?.len();
    log.seek(SeekFrom::Start(length.saturating_sub(READY_TAIL_BYTES)))?;
    let mut tail = Vec::new();
    log.take(READY_TAIL_BYTES).read_to_end(&mut tail)?;
    Ok(tail)
}

/// Whether the log says, after `... as process <pid>`, that this process is ready.
fn says_ready(log: &[u8], pid: u32) -> bool {
    let log = String::from_utf8_lossy(log);
    let begun = log.rfind(&format!("as process {pid}"));
    begun.is_some_and(|begun| log[begun..].contains(": ready for connections."))
}

/// Where the server puts what it cannot keep in memory.
fn temporary_folder(site: &Site) -> PathBuf {
    site.beside_volume("tmp")
}

/// The only folder that `LOAD DATA INFILE` and `INTO OUTFILE` reach: the server's user may read the volumes of other
/// clusters, and a client must not.
fn exchange_folder(site: &Site) -> PathBuf {
    site.beside_volume("files")
}

fn make_folders(site: &Site) -> Result<(), ComputeError> {
    for folder in [temporary_folder(site), exchange_folder(site)] {
        super::private_dir::ensure(&folder, site.user.as_ref())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_present_process_is_ready() {
        let log = b"mysqld (mysqld 9.7.4) starting as process 7\nmysqld: ready for connections. Version\n\
                    mysqld (mysqld 9.7.4) starting as process 8\n";
        assert!(says_ready(log, 7));
        assert!(!says_ready(log, 8));
        assert!(!says_ready(log, 9));
    }

    #[test]
    fn the_reason_is_grave_and_not_the_end() {
        assert!(is_grave_line("2026-11-21 18:40:12 0 [ERROR] mariadbd: unknown variable 'x=1'"));
        assert!(!is_grave_line("2026-11-21 18:40:12 0 [ERROR] Aborting"));
        assert!(!is_grave_line("2026-11-21 18:40:12 0 [Note] InnoDB: all is well"));
    }
}
