//! PostgreSQL 10 and later.
//!
//! The database believes whoever reaches its socket (`local all all trust`): the socket's folder is 0700 and belongs
//! to the server's user, so that is this user and root. The router has checked the client's password before.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use nix::sys::signal::Signal;

use super::barrier::Threshold;
use super::flavour::{Flavour, Following, Site};
use super::os_user::OsUser;
use super::secret_file::{self, SecretFile};
use super::spawn::{Printed, Program, run};
use crate::compute::{ComputeError, Resources};
use settings::Parameters;

mod follow;
pub mod programs;
mod settings;

/// initdb syncs what it made, and disks differ.
const INITDB_DEADLINE: Duration = Duration::from_secs(180);
const VERSION_DEADLINE: Duration = Duration::from_secs(10);
const LOCK_FILE: &str = "postmaster.pid";
/// The line of `postmaster.pid` (from 0) with the server's state, since PostgreSQL 10 (miscadmin.h).
const STATUS_LINE: usize = 7;
const HBA: &str = "local all all trust\n";
const NO_REPLICATION: &str = "local replication all reject\n";

/// A promotion makes and syncs a segment of the write-ahead log while clients wait. (Since PostgreSQL 11.)
const SMALL_SEGMENTS: &str = "--wal-segsize=1";

/// Older servers keep their log by another setting.
const FIRST_FOLLOWED: u32 = 13;

/// What it reads before it opens anything else in the volume.
const CONFIGURATION: [&str; 2] = ["postgresql.conf", "postgresql.auto.conf"];

/// Whom PostgreSQL runs as when we are root.
pub const OS_USERS: [&str; 2] = ["postgres", "nobody"];

/// PostgreSQL as found on this machine, for one cluster.
#[derive(Debug)]
pub struct Postgres {
    programs: PathBuf,
    parameters: Parameters,
    master_username: String,
    /// It is followed by a second server, or follows one.
    followed: bool,
    unlogged: follow::Unlogged,
}

impl Postgres {
    /// `programs`: the folder with `postgres` and `initdb`. `followed`: there is to be a second server that follows.
    pub fn new(
        programs: PathBuf,
        parameters: Parameters,
        master_username: String,
        followed: bool,
    ) -> Result<Self, ComputeError> {
        if master_username.is_empty() || master_username.contains('\0') || master_username.starts_with("pg_")
        {
            return Err(ComputeError::Configuration(format!(
                "master_username {master_username:?}: PostgreSQL takes no empty name and none that begins with pg_"
            )));
        }
        Ok(Self { programs, parameters, master_username, followed, unlogged: follow::Unlogged::default() })
    }

    async fn initdb(
        &self,
        fresh: &Path,
        secret: &Path,
        user: Option<OsUser>,
        locale: &str,
    ) -> Result<Printed, ComputeError> {
        let mut arguments: Vec<OsString> = [
            "-E",
            "UTF8",
            "--auth-local=trust",
            // Makes the first password a SCRAM one before PostgreSQL 14 too; pg_hba.conf is replaced anyway.
            "--auth-host=scram-sha-256",
        ]
        .map(OsString::from)
        .into();
        arguments.push(format!("--locale={locale}").into());
        if self.followed {
            arguments.push(SMALL_SEGMENTS.into());
        }
        for (option, value) in [
            ("--username=", OsString::from(&self.master_username)),
            ("--pwfile=", secret.into()),
            ("--pgdata=", fresh.into()),
        ] {
            let mut argument = OsString::from(option);
            argument.push(value);
            arguments.push(argument);
        }
        run(Program::new(&self.programs.join("initdb"), arguments, user), INITDB_DEADLINE).await
    }

    /// Puts our access rules in place, by renaming, and synced: a half-written file would lock everybody out.
    fn write_hba(&self, volume: &Path, user: Option<&OsUser>) -> Result<(), ComputeError> {
        let master = self.master_username.replace('"', "\"\"");
        let rules = match self.followed {
            true => format!("{HBA}local replication \"{master}\" trust\n{NO_REPLICATION}"),
            false => format!("{HBA}{NO_REPLICATION}"),
        };
        let target = volume.join("pg_hba.conf");
        if fs::read(&target).is_ok_and(|present| present == rules.as_bytes()) {
            return Ok(());
        }
        secret_file::replace(&target, rules.as_bytes(), user)
            .map_err(|source| ComputeError::Io { what: format!("writing {}", target.display()), source })
    }
}

#[async_trait]
impl Flavour for Postgres {
    async fn version(&self) -> Result<String, ComputeError> {
        let program = self.programs.join("postgres");
        let printed = run(Program::new(&program, vec!["--version".into()], None), VERSION_DEADLINE).await?;
        programs::parse_version(&printed.stdout).ok_or_else(|| {
            ComputeError::MissingServer(format!("{} is not a PostgreSQL server", program.display()))
        })
    }

    async fn create_volume(&self, site: &Site, fresh: &Path, password: &str) -> Result<(), ComputeError> {
        let failed = |source| ComputeError::Io { what: "writing the first password".to_owned(), source };
        let secret = SecretFile::write(
            site.run_dir.join("initdb.pw"),
            format!("{password}\n").as_bytes(),
            site.user.as_ref(),
        )
        .map_err(failed)?;
        let mut printed = self.initdb(fresh, secret.path(), site.user.clone(), "C.UTF-8").await?;
        if !printed.success && printed.stderr.contains("invalid locale name") {
            printed = self.initdb(fresh, secret.path(), site.user.clone(), "C").await?;
        }
        if !printed.success {
            let said: Vec<&str> =
                printed.stderr.lines().filter(|line| line.starts_with("initdb: ")).collect();
            let said = if said.is_empty() { printed.stderr.trim().to_owned() } else { said.join("; ") };
            return Err(ComputeError::Volume {
                path: site.volume.clone(),
                reason: format!("initdb failed: {said}"),
            });
        }
        self.write_hba(fresh, site.user.as_ref())
    }

    fn has_data(&self, volume: &Path) -> bool {
        volume.join("PG_VERSION").exists()
    }

    async fn accept_volume(&self, site: &Site, version: &str) -> Result<(), ComputeError> {
        let (data, server) = (programs::volume_major(&site.volume), programs::major(version));
        if self.followed && server.is_some_and(|server| server < FIRST_FOLLOWED) {
            return Err(ComputeError::Configuration(format!(
                "handover = \"standby\" takes PostgreSQL {FIRST_FOLLOWED} or later, and the server here is {version}"
            )));
        }
        match data {
            Some(data) if Some(data) != server => Err(ComputeError::Volume {
                path: site.volume.clone(),
                reason: format!(
                    "it was made by PostgreSQL {data}, but the server here is {version}: install the Debian package \
                     `postgresql-{data}`, or name the folder of its programs with `server`"
                ),
            }),
            Some(_) => self.write_hba(&site.volume, site.user.as_ref()),
            None => Err(ComputeError::Volume {
                path: site.volume.clone(),
                reason: "PG_VERSION in it cannot be read".to_owned(),
            }),
        }
    }

    fn server(&self, site: &Site, resources: &Resources) -> (PathBuf, Vec<OsString>) {
        let mut arguments: Vec<OsString> = vec!["-D".into(), site.volume.clone().into()];
        for setting in self.parameters.settings(site, resources) {
            arguments.extend(["-c".into(), setting.into()]);
        }
        (self.programs.join("postgres"), arguments)
    }

    fn places(&self, resources: &Resources) -> Option<u64> {
        self.parameters.places(resources)
    }

    fn socket_name(&self) -> &'static str {
        ".s.PGSQL.5432"
    }

    fn run_files(&self) -> &'static [&'static str] {
        &[".s.PGSQL.5432", ".s.PGSQL.5432.lock"]
    }

    fn log_name(&self) -> &'static str {
        "postgresql.log"
    }

    fn lock_file(&self) -> &'static str {
        LOCK_FILE
    }

    fn main_pid(&self, volume: &Path) -> Option<u32> {
        // Negative when a single-user server wrote it.
        let lock = fs::read_to_string(volume.join(LOCK_FILE)).ok()?;
        lock.lines().next()?.trim().parse::<i32>().ok().map(i32::unsigned_abs)
    }

    fn looks_ready(&self, site: &Site, pid: u32) -> bool {
        let Ok(lock) = fs::read_to_string(site.volume.join(LOCK_FILE)) else { return false };
        let mut lines = lock.lines();
        let is_its = lines.next().is_some_and(|line| line.trim() == pid.to_string());
        is_its && lines.nth(STATUS_LINE - 1).is_some_and(|line| line.trim() == "ready")
    }

    fn threshold(&self, site: &Site) -> Option<Threshold> {
        // It opens this after its settings and before `postmaster.pid`, which would turn it away.
        let file = site.volume.join("PG_VERSION");
        let read = CONFIGURATION.map(|name| site.volume.join(name)).to_vec();
        // Files that these include would have to be looked at as well.
        let includes = read.iter().any(|file| fs::read(file).map_or(true, |text| includes_others(&text)));
        (!includes).then_some(Threshold { file, read, trial: None })
    }

    fn held_by_settings(&self, site: &Site) -> Option<PathBuf> {
        // Relative names in it are taken from where it is.
        let settings = site.volume.join(CONFIGURATION[0]);
        fs::read(&settings).is_ok_and(|text| !includes_others(&text)).then_some(settings)
    }

    fn reading(&self, settings: &Path) -> Vec<OsString> {
        let mut option = OsString::from("config_file=");
        option.push(settings);
        vec!["-c".into(), option]
    }

    fn is_server(&self, program: &str) -> bool {
        program == "postgres" || program == "postmaster"
    }

    fn stop_signals(&self) -> (Signal, Signal) {
        (Signal::SIGINT, Signal::SIGQUIT)
    }

    fn is_grave(&self, line: &str) -> bool {
        ["FATAL:", "PANIC:"].iter().any(|level| line.contains(level))
    }

    fn following(&self) -> Option<&dyn Following> {
        self.followed.then_some(self as &dyn Following)
    }

    fn needed_bytes(&self, resources: &Resources) -> Option<u64> {
        self.parameters.needed_bytes(resources)
    }
}

/// Whether a configuration file has a line that begins with `include`, `include_dir` or `include_if_exists`.
fn includes_others(text: &[u8]) -> bool {
    let is_include = |line: &[u8]| {
        let line = line.trim_ascii_start();
        line.get(..7).is_some_and(|word| word.eq_ignore_ascii_case(b"include"))
    };
    text.split(|&byte| byte == b'\n' || byte == b'\r').any(is_include)
}

/// Checks the operator's parameters; see [`Parameters::new`].
pub fn parameters(
    own: std::collections::BTreeMap<String, String>,
    largest: Option<Resources>,
) -> Result<Parameters, ComputeError> {
    Parameters::new(own, largest)
}
