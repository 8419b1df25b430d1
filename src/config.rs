//! The configuration file: TOML in, a validated [`Config`] out, or *all* of its errors at once.
//!
//! ```text
//! load ──► parse ──► sections (read.rs, values.rs) ──► cross-checks (check.rs) ──► Config | ConfigErrors
//! ```
//!
//! Unknown keys are errors. Relative paths in a file are relative to the folder of that file, so that the same file
//! never finds two different volumes when it is started from two places.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

mod capacity;
mod check;
mod cluster;
mod limits;
mod problem;
mod read;
mod sections;
mod values;

#[cfg(test)]
mod tests;

pub use capacity::{Engine, Ladder};
pub use cluster::{GOVERNED_MYSQL, PREFIXES_MYSQL, ROUTER_ACCOUNT_MYSQL};
pub use limits::{descriptor_limit, raise_descriptor_limit};
pub use problem::{ConfigErrors, Problem};
pub use values::{format_size, parse_size};

use serde::{Deserialize, Serialize};

/// Where `serve` puts its control API, and where the other subcommands look for it.
pub const DEFAULT_ADMIN: &str = "127.0.0.1:8460";

/// The whole configuration of one `serve`, valid in itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The file it was read from; `None` for the default without a file.
    pub source: Option<PathBuf>,
    /// Volumes, certificates and the journal; created on first start with mode 0700.
    pub data_dir: PathBuf,
    /// The control API.
    pub admin: AdminConfig,
    /// The operator's certificate; without it a development CA is made in `data_dir`.
    pub tls: Option<TlsConfig>,
    /// What one capacity unit is on this machine.
    pub acu: AcuConfig,
    /// Limits of the router.
    pub router: RouterConfig,
    /// At least one cluster.
    pub clusters: Vec<ClusterConfig>,
    /// What is allowed but worth a line in the log.
    pub warnings: Vec<String>,
}

/// `[admin]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminConfig {
    /// Address of the control API, metrics and console.
    pub listen: SocketAddr,
    /// Host names (lower case, no port) that a request may name besides IP addresses and `localhost`.
    pub allowed_hosts: Vec<String>,
}

/// `[tls]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsConfig {
    /// PEM file with the server's certificate chain.
    pub certificate: PathBuf,
    /// PEM file with its private key.
    pub key: PathBuf,
}

/// `[acu]`
#[derive(Debug, Clone, PartialEq)]
pub struct AcuConfig {
    /// Memory of one capacity unit, bytes.
    pub memory_bytes: u64,
    /// CPU of one capacity unit, cores.
    pub cpu_cores: f64,
}

/// `[router]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterConfig {
    /// Client sessions at once, all clusters together; at most half of the process's file descriptors.
    pub max_sessions: usize,
    /// From accept until the session is logged in.
    pub handshake_timeout: Duration,
    /// How long transactions may take to end after SIGTERM.
    pub shutdown_grace: Duration,
}

/// One `[[cluster]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// A DNS label, lower case, unique.
    pub name: String,
    /// Which protocol and which server.
    pub engine: Engine,
    /// Where clients connect; several clusters of one engine may share an address (found by SNI).
    pub listen: SocketAddr,
    /// Folder with the server's programs; `None`: look for them.
    pub server: Option<PathBuf>,
    /// Lowest capacity, ACUs, on the engine's ladder.
    pub min_capacity: u32,
    /// Highest capacity, ACUs, on the engine's ladder.
    pub max_capacity: u32,
    /// Whether the cluster pauses when nobody is there.
    pub auto_pause: bool,
    /// 300..=86400.
    pub seconds_until_auto_pause: u32,
    /// 60..=600: how long a scaling point is sought.
    pub seconds_before_timeout: u32,
    /// What happens when none was found.
    pub timeout_action: TimeoutAction,
    /// How long clients may have to wait in one hold.
    pub stall_budget: Duration,
    /// How long a database process may take to be ready; a new capacity that is not by then is given up.
    pub start_timeout: Duration,
    /// How long a database process may take to end by itself in a change, before force.
    pub stop_timeout: Duration,
    /// For how long a session must have been idle to be parked; `None`: some seconds, and only where there are more
    /// sessions than places on the server.
    pub park_after: Option<Duration>,
    /// How long a client waits for a place on a server that is full.
    pub full_wait: Duration,
    /// How many statements outside a transaction begin at once; 0: as many as come, `None`: what the cores serve well.
    pub statements_at_once: Option<usize>,
    /// How a forced change ends a session that blocks it.
    pub forced_change: ForcedChange,
    /// How the volume moves to the new instance.
    pub handover: Handover,
    /// A superuser of the server.
    pub master_username: String,
    /// File with that user's password; `None`: made on first start, below `data_dir`.
    pub master_password_file: Option<PathBuf>,
    /// Created on first start, owned by the master user.
    pub database_name: Option<String>,
    /// The cluster's own parameter group, in the order of the file.
    pub parameters: Vec<(String, String)>,
}

/// What happens when no scaling point is found in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TimeoutAction {
    /// The capacity stays as it is.
    #[serde(alias = "rollback")]
    RollbackCapacityChange,
    /// The capacity changes all the same; sessions that block it are ended or their transactions aborted.
    #[serde(alias = "force")]
    ForceApplyCapacityChange,
}

/// How a forced change ends what blocks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForcedChange {
    /// The connection is closed; with PostgreSQL after `FATAL 57P01`, the original's way.
    Close,
    /// The transaction is aborted and the session kept: with SQLSTATE 40001, the gentler way, or with MySQL's error
    /// 1105, the original's way.
    AbortTransaction,
}

/// How the volume moves to a new instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handover {
    /// Stop the old process, start the new one on the same directory.
    Restart,
    /// Promote a streaming replica.
    Standby,
}

impl Config {
    /// Reads and validates a file.
    ///
    /// # Errors
    /// Everything that is wrong with it, each with its line, in the order of the file.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        const LONGEST: u64 = 1 << 20;
        let refuse = |message: String, hint: &str| {
            ConfigErrors::new(path, vec![Problem::new(0, message).with_hint(hint)])
        };
        let size = std::fs::metadata(path)
            .map_err(|e| refuse(format!("cannot be read: {e}"), "name a readable file with --config"))?
            .len();
        if size > LONGEST {
            return Err(refuse(format!("is {size} bytes long"), "a configuration has at most 1 MiB"));
        }
        let text = std::fs::read_to_string(path)
            .map_err(|e| refuse(format!("cannot be read: {e}"), "a configuration is UTF-8 text"))?;
        Self::parse(&text, path)
    }

    /// Validates the text of a file; `path` is for messages and for resolving relative paths.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigErrors> {
        sections::read_config(text, path).map_err(|problems| ConfigErrors::new(path, problems))
    }

    /// What `serve` runs with no file at all: a PostgreSQL cluster on 5432 and a MySQL one on 3306, data in
    /// `./scalepoint-data`. Whoever runs it leaves out what the machine has no server programs for.
    pub fn default_embedded() -> Self {
        Self {
            source: None,
            data_dir: PathBuf::from("scalepoint-data"),
            admin: AdminConfig::default(),
            tls: None,
            acu: AcuConfig::default(),
            router: RouterConfig::default(),
            clusters: [Engine::Postgres, Engine::Mysql]
                .map(|engine| ClusterConfig::with_defaults(engine.as_str(), engine))
                .into(),
            warnings: Vec::new(),
        }
    }
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8460)), allowed_hosts: Vec::new() }
    }
}

impl Default for AcuConfig {
    fn default() -> Self {
        Self { memory_bytes: 2 << 30, cpu_cores: 1.0 }
    }
}

impl Default for RouterConfig {
    fn default() -> Self {
        Self {
            max_sessions: limits::most_sessions().min(9000),
            handshake_timeout: Duration::from_secs(10),
            shutdown_grace: Duration::from_secs(30),
        }
    }
}

impl ClusterConfig {
    /// A cluster as it is when its section has only a name and an engine.
    pub fn with_defaults(name: &str, engine: Engine) -> Self {
        Self {
            name: name.to_owned(),
            engine,
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), engine.default_port()),
            server: None,
            min_capacity: engine.ladder().lowest(),
            max_capacity: 16,
            auto_pause: true,
            seconds_until_auto_pause: 300,
            seconds_before_timeout: 300,
            timeout_action: TimeoutAction::RollbackCapacityChange,
            stall_budget: Duration::from_millis(500),
            start_timeout: Duration::from_secs(60),
            stop_timeout: Duration::from_secs(30),
            park_after: None,
            full_wait: Duration::from_secs(5),
            statements_at_once: None,
            forced_change: match engine {
                Engine::Postgres => ForcedChange::Close,
                // Its original kept the connection.
                Engine::Mysql => ForcedChange::AbortTransaction,
            },
            handover: Handover::Restart,
            master_username: "admin".to_owned(),
            master_password_file: None,
            database_name: None,
            parameters: Vec::new(),
        }
    }
}

impl TimeoutAction {
    /// The name that AWS and the configuration file use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RollbackCapacityChange => "RollbackCapacityChange",
            Self::ForceApplyCapacityChange => "ForceApplyCapacityChange",
        }
    }
}
