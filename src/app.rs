//! The composition root: builds every part, orders start and shutdown. Alone names concrete engines and providers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{OnceCell, Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use crate::api;
use crate::compute::process::admit_server_user;
use crate::config::{self, ClusterConfig, Config, raise_descriptor_limit};
use crate::engine::Engine;
use crate::engine::mysql::Mysql;
use crate::engine::postgres::Postgres;
use crate::router::Cluster;
use crate::router::admin::{Admin, Hours};
use crate::router::fleet::{Fleet, Ids};
use crate::router::listener::{Door, Listener, places};
use crate::router::tls::{DevelopmentCertificates, Tls};
use crate::router::turns::Turns;
use crate::router::workers::Workers;
use crate::scaling::board::Board;
use crate::scaling::clusters::{Clusters, Handle};
use crate::scaling::driver::Driver;
use crate::scaling::journal::Journal;
use crate::telemetry::{self, LogOptions, Metrics};

mod chores;
mod files;
mod machine;
mod provide;
mod replication;

use chores::Chores;

/// Length of the kernel's queue of connections that are not accepted yet.
const BACKLOG: u32 = 4096;
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
struct Assembled<E: Engine> {
    cluster: Arc<Cluster<E>>,
    driver: Driver,
    config: ClusterConfig,
}

/// What all clusters share.
struct Shared<'a> {
    config: &'a Config,
    data_dir: PathBuf,
    metrics: Arc<Metrics>,
    secret: [u8; 32],
    tls: Arc<Tls>,
    ids: Arc<Ids>,
    places: Arc<Semaphore>,
    workers: Arc<Workers>,
    stopping: watch::Receiver<bool>,
}

async fn run(config: &Config) -> Result<(), Failure> {
    // No file, no wishes: what the machine has.
    let fit = if config.source.is_none() { Some(machine::fit(config)?) } else { None };
    let config = fit.as_ref().unwrap_or(config);
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let servers: Vec<_> = config.clusters.iter().map(|c| provide::server_kind(c.engine)).collect();
    let data_dir = files::data_dir(&config.data_dir, &servers)?;
    let (stop, stopping) = watch::channel(false);
    let shared = Shared {
        config,
        metrics: Arc::new(Metrics::new()),
        secret: files::secret(&data_dir.join("secret"))?,
        tls: Arc::new(certificates(config, &data_dir)?),
        data_dir,
        ids: Arc::default(),
        places: places(config.router.max_sessions),
        workers: Arc::new(Workers::start().map_err(|error| format!("cannot start threads: {error}"))?),
        stopping,
    };
    let admin = bind(config.admin.listen)?;
    let mut clusters = Assemblies::of(&shared)?;
    let mut sockets = bind_all(clusters.sections())?;
    // Before the first database: a signal that comes while one starts must not leave it behind.
    let mut signals = Signals::new().map_err(|error| format!("cannot watch for signals: {error}"))?;
    let mut drivers = JoinSet::new();
    let outcome = match clusters.serve(&shared, &mut sockets, &mut drivers).await {
        Ok(handles) => {
            let metrics = Arc::clone(&shared.metrics);
            open_api(config, admin, Clusters { handles, metrics }, &shared.stopping);
            if config.source.is_none() {
                machine::explain(config, &shared.data_dir);
            }
            println!("ready");
            signals.wait_for_end(&shared.tls).await;
            Ok(())
        }
        Err(failure) => Err(failure),
    };
    tracing::info!("stopping");
    stop.send_replace(true);
    while drivers.join_next().await.is_some() {}
    outcome
}

/// All clusters, by engine.
struct Assemblies {
    postgres: Vec<Assembled<Postgres>>,
    mysql: Vec<Assembled<Mysql>>,
}

impl Assemblies {
    fn of(shared: &Shared<'_>) -> Result<Assemblies, Failure> {
        let mut all = Assemblies { postgres: Vec::new(), mysql: Vec::new() };
        for section in &shared.config.clusters {
            match section.engine {
                config::Engine::Postgres => all.postgres.push(assemble(section, shared)?),
                config::Engine::Mysql => all.mysql.push(assemble(section, shared)?),
            }
        }
        Ok(all)
    }

    fn sections(&mut self) -> impl Iterator<Item = &mut ClusterConfig> {
        let postgres = self.postgres.iter_mut().map(|part| &mut part.config);
        postgres.chain(self.mysql.iter_mut().map(|part| &mut part.config))
    }

    /// Starts every database and opens every listener.
    async fn serve(
        self,
        shared: &Shared<'_>,
        sockets: &mut BTreeMap<SocketAddr, TcpListener>,
        drivers: &mut JoinSet<()>,
    ) -> Result<Vec<Handle>, Failure> {
        let (mut handles, postgres) = start(self.postgres, shared, drivers).await?;
        let (more, mysql) = start(self.mysql, shared, drivers).await?;
        handles.extend(more);
        // In the order of the configuration.
        let position = |handle: &Handle| {
            shared.config.clusters.iter().position(|section| section.name == handle.config.name)
        };
        handles.sort_by_key(position);
        open(&postgres, "postgres", shared, sockets);
        open(&mysql, "mysql", shared, sockets);
        Ok(handles)
    }
}

/// A cluster that runs, and its section of the configuration.
type Running<E> = (ClusterConfig, Arc<Cluster<E>>);

async fn start<E: Engine>(
    assembled: Vec<Assembled<E>>,
    shared: &Shared<'_>,
    drivers: &mut JoinSet<()>,
) -> Result<(Vec<Handle>, Vec<Running<E>>), Failure> {
    let mut handles = Vec::new();
    let mut running = Vec::new();
    for Assembled { cluster, mut driver, config: section } in assembled {
        driver.start().await.map_err(|error| format!("cluster {}: {error}", section.name))?;
        let (asks, asked) = mpsc::channel(1);
        handles.push(Handle { config: section.clone(), board: Arc::clone(&driver.board), asks });
        drivers.spawn(driver.run(asked, shared.config.router.shutdown_grace));
        running.push((section, cluster));
    }
    Ok((handles, running))
}

/// Opens the listeners of an engine's clusters.
fn open<E: Engine>(
    clusters: &[Running<E>],
    engine: &str,
    shared: &Shared<'_>,
    sockets: &mut BTreeMap<SocketAddr, TcpListener>,
) {
    for (first, _) in clusters {
        // Taken by the first of several clusters behind one address.
        let Some(socket) = sockets.remove(&first.listen) else { continue };
        let behind = clusters.iter().filter(|(section, _)| section.listen == first.listen);
        let door = Arc::new(Door {
            clusters: behind.map(|(_, cluster)| Arc::clone(cluster)).collect(),
            ids: Arc::clone(&shared.ids),
            tls: Arc::clone(&shared.tls),
            handshake_timeout: shared.config.router.handshake_timeout,
        });
        let names: Vec<&str> = door.clusters.iter().map(|cluster| cluster.name.as_str()).collect();
        println!("{engine:<10} {}   {}", first.listen, names.join(", "));
        let listener = Listener {
            socket,
            door,
            places: Arc::clone(&shared.places),
            workers: Arc::clone(&shared.workers),
        };
        tokio::spawn(listener.run(shared.stopping.clone()));
    }
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
fn bind_all<'a>(
    sections: impl Iterator<Item = &'a mut ClusterConfig>,
) -> Result<BTreeMap<SocketAddr, TcpListener>, Failure> {
    let mut sockets = BTreeMap::new();
    let mut bound: BTreeMap<SocketAddr, SocketAddr> = BTreeMap::new();
    for section in sections {
        let wanted = section.listen;
        if let Some(address) = bound.get(&wanted) {
            section.listen = *address;
            continue;
        }
        let (socket, address) = bind(wanted)?;
        sockets.insert(address, socket);
        bound.insert(wanted, address);
        section.listen = address;
    }
    Ok(sockets)
}

fn assemble<E: Engine>(section: &ClusterConfig, shared: &Shared<'_>) -> Result<Assembled<E>, Failure> {
    let home = shared.data_dir.join(&section.name);
    files::private_dir(&home)?;
    admit_server_user(&home, provide::server_kind(section.engine)).map_err(|error| error.to_string())?;
    let metrics = shared.metrics.cluster(&section.name);
    let known = Arc::default();
    let fleet = Fleet::new(shared.config.router.max_sessions, E::STOPS_WHEN_EMPTY);
    let login = Arc::new(provide::router_login(section, &shared.secret));
    let admin = |hours| Admin::start(&fleet, Arc::clone(&login), hours);
    // Several connections: nobody's log in waits for a checkpoint.
    let (accounts, chores, observer) = (admin(Hours::Open), admin(Hours::Open), admin(Hours::Held));
    let capacity = section.min_capacity;
    let board = Board::new(&section.name, capacity, Arc::clone(&fleet), metrics.clone());
    let turns = Turns::start(metrics.turns.clone());
    let driver = Driver {
        config: section.clone(),
        turns: Arc::clone(&turns),
        acu: shared.config.acu.clone(),
        board,
        fleet: Arc::clone(&fleet),
        provider: provide::provider::<E>(section, &shared.config.acu, &home, &login, fleet.unlogged())?,
        maintenance: Arc::new(Chores::<E> {
            observer: observer.clone(),
            login: Arc::clone(&login),
            settings: Mutex::default(),
            admin: chores,
            fleet: Arc::clone(&fleet),
            accounts: Arc::clone(&known),
            database: section.database_name.clone(),
        }),
        journal: Journal::new(home.join("journal.json")),
        capacity,
        instance: None,
        stopping: shared.stopping.clone(),
    };
    let cluster = Arc::new(Cluster {
        name: section.name.clone(),
        fleet,
        admin: accounts,
        accounts: known,
        observer,
        login,
        vault: Arc::default(),
        contract: OnceCell::new(),
        forced_change: section.forced_change,
        park_after: section.park_after,
        full_wait: section.full_wait,
        turns,
        metrics,
        secret: shared.secret,
    });
    Ok(Assembled { cluster, driver, config: section.clone() })
}
