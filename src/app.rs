//! The composition root: builds every part, orders start and shutdown. Alone names concrete engines and providers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::api;
use crate::compute::process::{ProcessConfig, ProcessProvider, ServerKind, admit_server_user};
use crate::config::{ClusterConfig, Config, raise_descriptor_limit};
use crate::engine::Engine as _;
use crate::engine::postgres::Postgres;
use crate::router::Cluster;
use crate::router::admin::Admin;
use crate::router::fleet::Fleet;
use crate::router::listener::{Door, Listener, places};
use crate::router::tls::{DevelopmentCertificates, Tls};
use crate::scaling::board::Board;
use crate::scaling::clusters::{Clusters, Handle};
use crate::scaling::driver::{Driver, Maintenance};
use crate::scaling::journal::Journal;
use crate::telemetry::{self, LogOptions, Metrics};

mod files;

/// Length of the kernel's queue of connections that are not accepted yet.
const BACKLOG: u32 = 4096;
/// The database that administrative statements run in.
const ADMIN_DATABASE: &str = "postgres";

/// Why `serve` could not start, in one line.
type Failure = String;

/// Runs the router and the control plane until a signal ends it.
pub fn serve(config: &Config, log: &LogOptions) -> ExitCode {
    if let Err(error) = telemetry::init(log) {
        eprintln!("scalepoint: {error}");
        return ExitCode::from(2);
    }
    if let Err(error) = raise_descriptor_limit() {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("scalepoint: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("scalepoint: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// One cluster's parts before they run.
struct Assembled {
    cluster: Arc<Cluster<Postgres>>,
    driver: Driver,
    config: ClusterConfig,
}

async fn run(config: &Config) -> Result<(), Failure> {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let data_dir = files::data_dir(&config.data_dir)?;
    let tls = Arc::new(certificates(config, &data_dir)?);
    let metrics = Arc::new(Metrics::new());
    let secret = files::secret(&data_dir.join("secret"))?;
    let admin = bind(config.admin.listen)?;
    let (stop, stopping) = watch::channel(false);
    let mut assembled = Vec::new();
    for cluster in &config.clusters {
        assembled.push(assemble(cluster, config, &data_dir, &metrics, secret, &stopping)?);
    }
    let sockets = bind_all(&mut assembled)?;
    // Before the first database: a signal that comes while one starts must not leave it behind.
    let mut signals = Signals::new().map_err(|error| format!("cannot watch for signals: {error}"))?;
    let mut drivers = JoinSet::new();
    let served = serve_clusters(config, assembled, sockets, &mut drivers, &stopping, &tls).await;
    let outcome = match served {
        Ok(handles) => {
            open_api(config, admin, Clusters { handles, metrics }, &stopping);
            println!("ready");
            signals.wait_for_end(&tls).await;
            Ok(())
        }
        Err(failure) => Err(failure),
    };
    tracing::info!("stopping");
    stop.send_replace(true);
    while drivers.join_next().await.is_some() {}
    outcome
}

/// Starts every database and opens every listener.
async fn serve_clusters(
    config: &Config,
    assembled: Vec<Assembled>,
    sockets: BTreeMap<SocketAddr, TcpListener>,
    drivers: &mut JoinSet<()>,
    stopping: &watch::Receiver<bool>,
    tls: &Arc<Tls>,
) -> Result<Vec<Handle>, Failure> {
    let mut handles = Vec::new();
    let mut clusters = Vec::new();
    for Assembled { cluster, mut driver, config: section } in assembled {
        driver.start().await.map_err(|error| format!("cluster {}: {error}", section.name))?;
        let (asks, asked) = mpsc::channel(1);
        handles.push(Handle { config: section.clone(), board: Arc::clone(&driver.board), asks });
        drivers.spawn(driver.run(asked, config.router.shutdown_grace));
        clusters.push((section, cluster));
    }
    let places = places(config.router.max_sessions);
    for (address, socket) in sockets {
        let behind = clusters.iter().filter(|(section, _)| section.listen == address);
        let door = Arc::new(Door {
            clusters: behind.map(|(_, cluster)| Arc::clone(cluster)).collect(),
            tls: Arc::clone(tls),
            handshake_timeout: config.router.handshake_timeout,
        });
        announce(address, &door);
        tokio::spawn(Listener { socket, door, places: Arc::clone(&places) }.run(stopping.clone()));
    }
    Ok(handles)
}

fn open_api(
    config: &Config,
    (socket, address): (TcpListener, SocketAddr),
    clusters: Clusters,
    stopping: &watch::Receiver<bool>,
) {
    let routes = api::router(Arc::new(clusters), config.admin.allowed_hosts.clone());
    println!("admin      http://{address}");
    let mut stopping = stopping.clone();
    tokio::spawn(api::serve(socket, routes, async move {
        // An error means that everything has stopped already.
        drop(stopping.wait_for(|stop| *stop).await);
    }));
}

fn announce(address: SocketAddr, door: &Door<Postgres>) {
    let names: Vec<&str> = door.clusters.iter().map(|cluster| cluster.name.as_str()).collect();
    println!("postgres   {address}   {}", names.join(", "));
}

/// The signals that the process listens to.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Serves until SIGTERM or SIGINT; SIGHUP reads the certificates again.
    async fn wait_for_end(&mut self, tls: &Tls) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hang_up.recv() => match tls.reload() {
                    Ok(()) => tracing::info!("certificates reloaded"),
                    Err(error) => tracing::error!(%error, "the certificates stay as they are"),
                },
            }
        }
    }
}

fn certificates(config: &Config, data_dir: &Path) -> Result<Tls, Failure> {
    let (certificate, key) = match &config.tls {
        Some(own) => (own.certificate.clone(), own.key.clone()),
        None => {
            let made = DevelopmentCertificates::ensure(&data_dir.join("certs")).map_err(|e| e.to_string())?;
            if made.made_authority {
                tracing::info!(ca = %made.ca.display(), "made a development CA; never for production");
            }
            (made.certificate, made.key)
        }
    };
    Tls::load(certificate, key).map_err(|error| error.to_string())
}

/// Listens on an address; says where, because the system chooses when the port is 0.
fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Failure> {
    let listen = || -> std::io::Result<(TcpListener, SocketAddr)> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?;
        let bound = listener.local_addr()?;
        Ok((listener, bound))
    };
    listen().map_err(|error| {
        let holder = files::holder_of(address.port()).map_or(String::new(), |who| format!(" ({who} has it)"));
        format!("cannot listen on {address}: {error}{holder}")
    })
}

/// One socket an address; several clusters may share one. Each cluster's address is then the one it really has.
fn bind_all(assembled: &mut [Assembled]) -> Result<BTreeMap<SocketAddr, TcpListener>, Failure> {
    let mut sockets = BTreeMap::new();
    let mut bound: BTreeMap<SocketAddr, SocketAddr> = BTreeMap::new();
    for part in assembled {
        let wanted = part.config.listen;
        if let Some(address) = bound.get(&wanted) {
            part.config.listen = *address;
            continue;
        }
        let (socket, address) = bind(wanted)?;
        sockets.insert(address, socket);
        bound.insert(wanted, address);
        part.config.listen = address;
    }
    Ok(sockets)
}

fn assemble(
    section: &ClusterConfig,
    config: &Config,
    data_dir: &Path,
    metrics: &Metrics,
    secret: [u8; 32],
    stopping: &watch::Receiver<bool>,
) -> Result<Assembled, Failure> {
    let home = data_dir.join(&section.name);
    files::private_dir(&home)?;
    admit_server_user(&home, ServerKind::Postgres).map_err(|error| error.to_string())?;
    let cluster_metrics = metrics.cluster(&section.name);
    let fleet = Fleet::new(config.router.max_sessions);
    let admin = || Admin::start(fleet.gate(), section.master_username.clone(), ADMIN_DATABASE.to_owned());
    // Two connections: nobody's log in waits for a checkpoint.
    let (accounts, chores) = (admin(), admin());
    let capacity = section.min_capacity;
    let board = Board::new(&section.name, capacity, Arc::clone(&fleet), cluster_metrics.clone());
    let driver = Driver {
        config: section.clone(),
        acu: config.acu.clone(),
        board,
        fleet: Arc::clone(&fleet),
        provider: Arc::new(provider(section, &home)?),
        maintenance: Arc::new(Chores {
            admin: chores,
            fleet: Arc::clone(&fleet),
            database: section.database_name.clone(),
        }),
        journal: Journal::new(home.join("journal.json")),
        capacity,
        instance: None,
        stopping: stopping.clone(),
    };
    let cluster = Arc::new(Cluster {
        name: section.name.clone(),
        fleet,
        admin: accounts,
        forced_change: section.forced_change,
        metrics: cluster_metrics,
        secret,
    });
    Ok(Assembled { cluster, driver, config: section.clone() })
}

fn provider(section: &ClusterConfig, home: &Path) -> Result<ProcessProvider, Failure> {
    let password_file: PathBuf =
        section.master_password_file.clone().unwrap_or_else(|| home.join("master_password"));
    let (master_password, made) = files::password(&password_file)?;
    if made {
        println!(
            "cluster    {}: user {} password {}",
            section.name, section.master_username, &*master_password
        );
        println!("           (printed this once; kept in {})", password_file.display());
    }
    let process = ProcessConfig {
        cluster: section.name.clone(),
        volume: home.join("volume"),
        run_dir: home.join("run"),
        server_programs: section.server.clone(),
        master_username: section.master_username.clone(),
        master_password: master_password.to_string(),
        router_password: String::new(),
        database_name: section.database_name.clone(),
        parameters: section.parameters.iter().cloned().collect(),
        start_deadline: section.start_timeout,
        stop_deadline: section.stop_timeout,
    };
    ProcessProvider::new(process).map_err(|error| format!("cluster {}: {error}", section.name))
}

/// What is done inside a PostgreSQL database.
struct Chores {
    admin: Admin<Postgres>,
    fleet: Arc<Fleet>,
    database: Option<String>,
}

#[async_trait]
impl Maintenance for Chores {
    async fn flush(&self) -> Result<(), String> {
        let Some(statement) = Postgres::flush_statement() else { return Ok(()) };
        self.admin.run(statement).await.map(drop).map_err(|error| error.to_string())
    }

    async fn study(&self) {
        for database in self.fleet.databases() {
            if let Ok(names) = self.admin.stored_names(&database).await {
                self.fleet.learn_setting_names(&database, &names);
            }
        }
    }

    async fn complete(&self) -> Result<(), String> {
        let Some(database) = &self.database else { return Ok(()) };
        // The configuration admits plain identifiers only, so quoting is for reserved words.
        let exists = format!("SELECT 1 FROM pg_catalog.pg_database WHERE datname = '{database}'");
        let run = async |sql: &str| self.admin.run(sql).await.map_err(|error| error.to_string());
        if run(&exists).await?.is_empty() {
            run(&format!("CREATE DATABASE \"{database}\"")).await?;
        }
        Ok(())
    }
}
