//! Which provider a section of the configuration asks for, and as whom the router logs in to what it provides.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::replication::Replicator;
use super::{Failure, files};
use crate::compute::process::mysql::ROUTER_ACCOUNT;
use crate::compute::process::standby::StandbyProvider;
use crate::compute::process::{Pair, ProcessConfig, ProcessProvider, ServerKind, admit_server_user};
use crate::compute::{ComputeError, ComputeProvider, Resources};
use crate::config::{AcuConfig, ClusterConfig, Engine, Handover};
use crate::engine::{self, RouterLogin};
use crate::router::fleet::Unlogged;

/// The folder of a cluster's second volume, with its own logs and sockets, in the cluster's own.
const SECOND: &str = "second";
/// The file that says which volume is the database.
const PRIMARY: &str = "primary";

/// Which servers serve an engine.
pub(super) fn server_kind(engine: Engine) -> ServerKind {
    match engine {
        Engine::Postgres => ServerKind::Postgres,
        Engine::Mysql => ServerKind::MySql,
    }
}

/// As whom the router logs in. `secret` outlives restarts of the router, and so does what is made of it.
pub(super) fn router_login(section: &ClusterConfig, secret: &[u8; 32]) -> RouterLogin {
    match section.engine {
        // The private socket trusts whoever comes through it.
        Engine::Postgres => RouterLogin {
            user: section.master_username.clone(),
            password: Zeroizing::default(),
            database: "postgres".to_owned(),
        },
        Engine::Mysql => RouterLogin {
            user: ROUTER_ACCOUNT.to_owned(),
            password: Zeroizing::new(derived_password(&section.name, secret)),
            database: "mysql".to_owned(),
        },
    }
}

fn derived_password(cluster: &str, secret: &[u8; 32]) -> String {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else { return String::new() };
    mac.update(b"router account of ");
    mac.update(cluster.as_bytes());
    // MySQL's replicas take no password of more than 32 characters.
    hex::encode(&mac.finalize().into_bytes()[..16])
}

/// Where the database runs: on one volume, or on two of which one follows the other. The master user's password is made, and
/// printed once, if there is none.
pub(super) fn provider<E: engine::Engine>(
    section: &ClusterConfig,
    acu: &AcuConfig,
    home: &Path,
    login: &Arc<RouterLogin>,
    unlogged: &Arc<Unlogged>,
) -> Result<Arc<dyn ComputeProvider>, Failure> {
    let failed = |error: ComputeError| format!("cluster {}: {error}", section.name);
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
    let wanted = section.handover == Handover::Standby;
    let process = |home: &Path, other: &Path| ProcessConfig {
        cluster: section.name.clone(),
        volume: home.join("volume"),
        run_dir: home.join("run"),
        server_programs: section.server.clone(),
        master_username: section.master_username.clone(),
        master_password: master_password.to_string(),
        router_password: login.password.to_string(),
        database_name: section.database_name.clone(),
        parameters: section.parameters.iter().cloned().collect(),
        pair: wanted.then(|| Pair {
            largest: Resources::of(acu, section.max_capacity),
            other_volume: other.join("volume"),
            is_second: home.ends_with(SECOND),
        }),
        start_deadline: section.start_timeout,
        stop_deadline: section.stop_timeout,
    };
    let make = |home: &Path, other: &Path| match section.engine {
        Engine::Postgres => ProcessProvider::new(process(home, other)),
        Engine::Mysql => ProcessProvider::mysql(process(home, other)),
    };
    let (second_home, marker) = (home.join(SECOND), home.join(PRIMARY));
    let first = make(home, &second_home).map_err(failed)?;
    // The database may be the second one since an earlier configuration.
    if !wanted && !second_home.exists() && !marker.exists() {
        return Ok(Arc::new(first));
    }
    files::private_dir(&second_home)?;
    admit_server_user(&second_home, server_kind(section.engine)).map_err(failed)?;
    let second = make(&second_home, home).map_err(failed)?;
    let replication = Arc::new(Replicator::<E>::new(Arc::clone(login), Arc::clone(unlogged)));
    let both = StandbyProvider::new(first, second, marker, wanted, replication);
    Ok(watchful(both.map_err(failed)?, unlogged))
}

/// The same provider, which hears of what no log will bring to its copy.
fn watchful(provider: StandbyProvider, unlogged: &Unlogged) -> Arc<StandbyProvider> {
    let provider = Arc::new(provider);
    let noticed = Arc::downgrade(&provider);
    unlogged.on_notice(move || {
        if let Some(provider) = noticed.upgrade() {
            provider.distrust_copy();
        }
    });
    provider
}
