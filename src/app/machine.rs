//! What is run without a configuration file: a cluster for each kind of server that the machine has.

use std::path::Path;

use super::Failure;
use crate::compute::ComputeError;
use crate::compute::process::{mysql, postgres};
use crate::config::{ClusterConfig, Config, Engine};

/// Leaves out the clusters that the machine has no server for, and says what is left.
pub(super) fn fit(config: &Config) -> Result<Config, Failure> {
    let mut fit = config.clone();
    let mut missing = Vec::new();
    fit.clusters.retain(|cluster| match server_of(cluster, &config.data_dir) {
        Ok(server) => {
            println!("cluster    {}: {server}", cluster.name);
            true
        }
        Err(error) => {
            println!("cluster    {} is left out: {error}", cluster.name);
            missing.push(error.to_string());
            false
        }
    });
    if fit.clusters.is_empty() {
        return Err(format!("there is no server to run: {}", missing.join("; ")));
    }
    Ok(fit)
}

/// The server of a cluster that is to run where its volume is, or would be.
fn server_of(cluster: &ClusterConfig, data_dir: &Path) -> Result<String, ComputeError> {
    let volume = data_dir.join(&cluster.name).join("volume");
    match cluster.engine {
        Engine::Postgres => {
            let folder = postgres::programs::find(None, postgres::programs::volume_major(&volume))?;
            Ok(format!("PostgreSQL of {}", folder.display()))
        }
        Engine::Mysql => {
            let product = mysql::programs::Product::of_volume(&volume);
            let found = mysql::programs::find(None, product)?;
            Ok(format!("{} {} of {}", found.product.name(), found.version, found.server.display()))
        }
    }
}

/// Says where the data are and how to connect.
pub(super) fn explain(config: &Config, data_dir: &Path) {
    println!("data       {}", data_dir.display());
    for cluster in &config.clusters {
        println!("connect    {}", command(cluster, &data_dir.join("certs/ca.pem")));
    }
}

/// What connects to a cluster, for a shell.
fn command(cluster: &ClusterConfig, ca: &Path) -> String {
    let (user, port, ca) = (&cluster.master_username, cluster.listen.port(), ca.display());
    match cluster.engine {
        Engine::Postgres => format!(
            "psql \"host=localhost port={port} user={user} dbname=postgres sslmode=verify-full sslrootcert={ca}\""
        ),
        Engine::Mysql => format!(
            "mariadb --host=localhost --protocol=tcp --port={port} --user={user} --password --ssl-verify-server-cert \
             --ssl-ca={ca}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_without_a_server_are_left_out() {
        let mut config = Config::default_embedded();
        let folder = tempfile::tempdir().unwrap();
        config.data_dir = folder.path().to_owned();
        let names = |config: &Config| -> Vec<String> {
            config.clusters.iter().map(|cluster| cluster.name.clone()).collect()
        };
        // The tests' machine has both.
        assert_eq!(names(&fit(&config).unwrap()), ["postgres", "mysql"]);
        config.clusters.clear();
        assert!(fit(&config).unwrap_err().starts_with("there is no server to run"));
    }

    #[test]
    fn commands_to_connect() {
        let config = Config::default_embedded();
        let commands: Vec<_> =
            config.clusters.iter().map(|cluster| command(cluster, Path::new("/d/certs/ca.pem"))).collect();
        assert_eq!(
            commands,
            [
                "psql \"host=localhost port=5432 user=admin dbname=postgres sslmode=verify-full \
                 sslrootcert=/d/certs/ca.pem\"",
                "mariadb --host=localhost --protocol=tcp --port=3306 --user=admin --password \
                 --ssl-verify-server-cert --ssl-ca=/d/certs/ca.pem",
            ]
        );
    }
}
