//! What a provider is made from, and how: the place that names the kinds of server.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{OnceCell, Semaphore};
use zeroize::Zeroizing;

use super::ahead::Lead;
use super::cgroup::Cgroup;
use super::flavour::{Flavour, Site};
use super::mysql::{self, MySql};
use super::os_user::{self, OsUser};
use super::postgres::{self, Postgres};
use super::volume::usable_path;
use super::{ProcessProvider, private_dir};
use crate::compute::{ComputeError, Resources};

/// The default for [`ProcessConfig::start_deadline`].
pub const START_DEADLINE: Duration = Duration::from_secs(60);
/// The default for [`ProcessConfig::stop_deadline`].
pub const STOP_DEADLINE: Duration = Duration::from_secs(30);

/// One cluster's database on this machine. No `Debug`: it carries a password.
pub struct ProcessConfig {
    /// The cluster's name.
    pub cluster: String,
    /// The data directory. Beside it: `<volume>.lock`, and `log/` for the server's log.
    pub volume: PathBuf,
    /// The folder for the private sockets; replaced by a short one when it is too deep for a socket's path.
    pub run_dir: PathBuf,
    /// The folder with the server's programs; `None`: the newest that the machine has.
    pub server_programs: Option<PathBuf>,
    /// The superuser made with the volume.
    pub master_username: String,
    /// Its password; needed only when the volume is made, erased after that.
    pub master_password: String,
    /// The password of the router's own account, which stays the same for as long as the router's secret does. Servers
    /// that believe whoever reaches the private socket (PostgreSQL) ignore it.
    pub router_password: String,
    /// The database that is to exist. It is made in SQL, by whoever can speak it.
    pub database_name: Option<String>,
    /// The operator's own server parameters; they win over those that capacity governs.
    pub parameters: BTreeMap<String, String>,
    /// There is another volume whose server follows this one's, or the other way round.
    pub pair: Option<Pair>,
    /// How long a start may take (see [`START_DEADLINE`]).
    pub start_deadline: Duration,
    /// How long a clean stop may take in a hand-over, before force (see [`STOP_DEADLINE`]).
    pub stop_deadline: Duration,
}

/// What a provider knows of the other one of a pair.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The largest capacity: what both must have alike is made for it.
    pub largest: Resources,
    /// The other data directory, if it is there yet: both are of one version.
    pub other_volume: PathBuf,
    /// This one is the second.
    pub is_second: bool,
}

impl ProcessProvider {
    /// A provider for PostgreSQL. Finds the programs and checks the settings; touches neither volume nor processes.
    ///
    /// # Errors
    /// `MissingServer` (with the package to install), or `Configuration` for a setting that cannot work.
    pub fn new(mut config: ProcessConfig) -> Result<Self, ComputeError> {
        let volume = usable_path("volume", &config.volume)?;
        let pair = config.pair.take();
        let other_major = pair.as_ref().and_then(|pair| postgres::programs::volume_major(&pair.other_volume));
        let followed = pair.is_some();
        let parameters =
            postgres::parameters(std::mem::take(&mut config.parameters), pair.map(|pair| pair.largest))?;
        let major = postgres::programs::volume_major(&volume).or(other_major);
        let programs = postgres::programs::find(config.server_programs.as_deref(), major)?;
        let flavour = Postgres::new(programs, parameters, config.master_username.clone(), followed)?;
        Self::assemble(config, Arc::new(flavour), &postgres::OS_USERS)
    }

    /// A provider for MariaDB and MySQL, whichever the volume, `server_programs` or the machine has. Runs the server
    /// to learn its version, and otherwise does as [`ProcessProvider::new`].
    ///
    /// # Errors
    /// As [`ProcessProvider::new`].
    pub fn mysql(mut config: ProcessConfig) -> Result<Self, ComputeError> {
        let router_password = Zeroizing::new(std::mem::take(&mut config.router_password));
        let volume = usable_path("volume", &config.volume)?;
        let pair = config.pair.take();
        let product = mysql::programs::Product::of_volume(&volume)
            .or_else(|| mysql::programs::Product::of_volume(&pair.as_ref()?.other_volume));
        let programs = mysql::programs::find(config.server_programs.as_deref(), product)?;
        let parameters = std::mem::take(&mut config.parameters);
        let user = config.master_username.clone();
        let flavour = MySql::new(programs, parameters, user, router_password, pair.as_ref())?;
        Self::assemble(config, Arc::new(flavour), &mysql::OS_USERS)
    }

    fn assemble(
        config: ProcessConfig,
        flavour: Arc<dyn Flavour>,
        users: &[&str],
    ) -> Result<Self, ComputeError> {
        let password = Zeroizing::new(config.master_password);
        let volume = usable_path("volume", &config.volume)?;
        let run_dir = usable_path("run_dir", &config.run_dir)?;
        if config.cluster.contains('\0') {
            return Err(ComputeError::Configuration("the cluster's name contains a zero byte".to_owned()));
        }
        let run_dir = private_dir::choose(&run_dir, flavour.socket_name(), &volume);
        let user = OsUser::for_server(users)?;
        let cgroup = Cgroup::create(&format!("scalepoint-{}", private_dir::fingerprint(&volume)));
        Ok(Self {
            site: Site { cluster: config.cluster, volume, run_dir, user },
            flavour,
            cgroup: Arc::new(cgroup),
            version: OnceCell::new(),
            password: Mutex::new(Some(password)),
            claim: OnceCell::new(),
            running: Mutex::new(None),
            prepared: Mutex::new(None),
            serving: Mutex::new(None),
            unfit: AtomicBool::new(false),
            by_settings: AtomicBool::new(false),
            settings: Mutex::new(None),
            moment: Mutex::new(None),
            lead: Lead::default(),
            turn: Semaphore::new(1),
            remarks: Mutex::default(),
            start_deadline: config.start_deadline,
            stop_deadline: config.stop_deadline,
        })
    }
}

/// Lets the users that servers run as pass through a folder that only the router should see: 0710 and the group of the
/// first that may not pass it; 0711 when another may not pass it then. Does nothing when the router is not root. For the
/// folders above a volume.
///
/// # Errors
/// `MissingServer` when there is no such user, `Io` when the system refuses.
pub fn admit_server_user(folder: &Path, server: ServerKind) -> Result<(), ComputeError> {
    let users = match server {
        ServerKind::Postgres => postgres::OS_USERS,
        ServerKind::MySql => mysql::OS_USERS,
    };
    os_user::admit_server_user(folder, &users)
}

/// Whose users [`admit_server_user`] admits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerKind {
    /// PostgreSQL's.
    Postgres,
    /// MariaDB's and MySQL's.
    MySql,
}
