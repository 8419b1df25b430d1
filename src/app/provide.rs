//! Which provider a section of the configuration asks for, and as whom the router logs in to what it provides.

use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{Failure, files};
use crate::compute::process::mysql::ROUTER_ACCOUNT;
use crate::compute::process::{ProcessConfig, ProcessProvider, ServerKind};
use crate::config::{ClusterConfig, Engine};
use crate::engine::RouterLogin;

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
    hex::encode(mac.finalize().into_bytes())
}

/// The database's processes. The master user's password is made, and printed once, if there is none.
pub(super) fn provider(
    section: &ClusterConfig,
    home: &Path,
    login: &RouterLogin,
) -> Result<ProcessProvider, Failure> {
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
        router_password: login.password.to_string(),
        database_name: section.database_name.clone(),
        parameters: section.parameters.iter().cloned().collect(),
        start_deadline: section.start_timeout,
        stop_deadline: section.stop_timeout,
    };
    let provider = match section.engine {
        Engine::Postgres => ProcessProvider::new(process),
        Engine::Mysql => ProcessProvider::mysql(process),
    };
    provider.map_err(|error| format!("cluster {}: {error}", section.name))
}
