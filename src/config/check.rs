//! What no section can know alone: names and addresses among the clusters.

use std::net::SocketAddr;

use super::AdminConfig;
use super::cluster::ReadCluster;
use super::problem::Problem;
use super::read::Notes;

/// Notes names that are there twice and addresses that cannot both be had.
pub(super) fn across_clusters(notes: &Notes<'_>, admin: &AdminConfig, clusters: &[ReadCluster]) {
    for (index, cluster) in clusters.iter().enumerate() {
        let config = &cluster.config;
        let name = &config.name;
        let twin = clusters[..index].iter().find(|other| !name.is_empty() && other.config.name == *name);
        if let Some(twin) = twin {
            let message = format!("name: `{name}` is the name of the cluster in line {} too", twin.name_line);
            notes.add(Problem::new(cluster.name_line, message).with_hint("give each cluster its own name"));
        }
        if !cluster.sound {
            continue;
        }
        if collide(config.listen, admin.listen) || config.listen == admin.listen && config.listen.port() != 0
        {
            let message = format!("listen: {} is taken by [admin] listen {}", config.listen, admin.listen);
            notes.add(Problem::new(cluster.listen_line, message).with_hint("choose another port"));
        }
        for other in clusters[..index].iter().filter(|other| other.sound) {
            if let Some(problem) = shared_address(cluster, other) {
                notes.add(problem);
                break;
            }
        }
    }
}

/// Two clusters may share an address if they speak one protocol: SNI tells them apart.
fn shared_address(cluster: &ReadCluster, other: &ReadCluster) -> Option<Problem> {
    let (this, that) = (&cluster.config, &other.config);
    if collide(this.listen, that.listen) {
        let message = format!("listen: {} overlaps {} of cluster `{}`", this.listen, that.listen, that.name);
        return Some(
            Problem::new(cluster.listen_line, message).with_hint("write the same address, or another port"),
        );
    }
    if this.listen == that.listen && this.listen.port() != 0 && this.engine != that.engine {
        let message = format!(
            "listen: {} is shared with cluster `{}` of engine {}",
            this.listen, that.name, that.engine
        );
        let hint = "clusters that share an address must have the same engine";
        return Some(Problem::new(cluster.listen_line, message).with_hint(hint));
    }
    None
}

/// Whether two different addresses cannot both be bound, because one is the wildcard of the other's port.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let wildcard = |address: SocketAddr| address.ip().is_unspecified();
    a != b
        && a.port() == b.port()
        && a.port() != 0
        && (wildcard(a) || wildcard(b))
        && a.is_ipv4() == b.is_ipv4()
}

/// What is allowed, but should be known.
pub(super) fn warnings(admin: &AdminConfig) -> Option<String> {
    (!admin.listen.ip().is_loopback()).then(|| {
        format!(
            "[admin] listen {} is open to the network, and the control API asks for no password",
            admin.listen
        )
    })
}
