//! What a capacity means in PostgreSQL's words. All of it goes on the command line, where it wins over
//! `postgresql.conf` and `ALTER SYSTEM`.

use std::collections::BTreeMap;

use crate::compute::process::flavour::Site;
use crate::compute::{ComputeError, Resources};

const MIB: u64 = 1 << 20;
/// Below this PostgreSQL hardly works.
const SMALLEST_SHARED_BUFFERS_BYTES: u64 = 16 * MIB;
/// Connections for each ACU: 250 at the smallest PostgreSQL capacity of 2.
const CONNECTIONS_PER_ACU: u64 = 125;
/// No capacity has fewer ...
const FEWEST_CONNECTIONS: u64 = 100;
/// ... or more, as with the original.
const MOST_CONNECTIONS: u64 = 5000;
/// What an idle connection's process costs; capacity on a small machine does not promise more of them than fit ...
const BYTES_PER_CONNECTION: u64 = 2 * MIB;
/// ... and this is what one at work may cost beside the shared memory: the memory limit, which would end the whole
/// database, leaves room for all of them.
const BYTES_PER_BUSY_CONNECTION: u64 = 4 * MIB;
/// The router's own connections find a place on a full server.
const RESERVED_CONNECTIONS: u64 = 10;
/// A standby may fall behind so far; then it is made anew. (Since PostgreSQL 13.)
const KEPT_LOG: &str = "wal_keep_size=256MB";
/// The port is only the socket's name.
pub(super) const PORT: &str = "5432";

/// What the router depends on; an operator may not set it.
const RESERVED_NAMES: [&str; 11] = [
    "config_file",
    "data_directory",
    "external_pid_file",
    "hba_file",
    "ident_file",
    "listen_addresses",
    "port",
    "unix_socket_directories",
    "unix_socket_group",
    "unix_socket_permissions",
    "unix_socket_directory",
];

/// The operator's own parameters, checked.
#[derive(Debug, Clone)]
pub struct Parameters {
    own: BTreeMap<String, String>,
    /// There is a second server that follows: the largest capacity.
    largest: Option<Resources>,
}

impl Parameters {
    /// Refuses names that are no parameter names, values that no command line can carry, and what the router sets.
    /// `largest`: the largest capacity, where a second server follows.
    pub fn new(
        parameters: BTreeMap<String, String>,
        largest: Option<Resources>,
    ) -> Result<Self, ComputeError> {
        let mut checked = BTreeMap::new();
        for (name, value) in parameters {
            let folded = name.to_ascii_lowercase();
            let wrong = if RESERVED_NAMES.contains(&folded.as_str()) {
                Some("is set by the router and cannot be changed")
            } else if !is_name(&folded) {
                Some("is not a parameter name")
            } else if value.contains('\0') {
                Some("has a value with a zero byte")
            } else {
                None
            };
            if let Some(wrong) = wrong {
                return Err(ComputeError::Configuration(format!(
                    "parameter `{}` {wrong}",
                    name.escape_debug()
                )));
            }
            checked.insert(folded, value);
        }
        Ok(Self { own: checked, largest })
    }

    /// `name=value` for every setting, in an order in which later ones win: ours by capacity, the operator's, what
    /// may not be changed.
    pub fn settings(&self, site: &Site, resources: &Resources) -> Vec<String> {
        let governed = governed(&site.cluster, resources);
        let operators = self.own.iter().map(|(name, value)| format!("{name}={value}"));
        let followed = self.largest.iter().flat_map(followed);
        governed.into_iter().chain(followed).chain(operators).chain(fixed(site)).collect()
    }

    /// How many ordinary connections the server will take; `None` if the operator's value is not understood.
    pub fn places(&self, resources: &Resources) -> Option<u64> {
        let number = |name: &str, ours: u64| match self.own.get(name) {
            Some(own) => own.trim().parse().ok(),
            None => Some(ours),
        };
        let all: u64 = number("max_connections", max_connections(resources))?;
        let reserved = number("superuser_reserved_connections", RESERVED_CONNECTIONS)?
            .saturating_add(number("reserved_connections", 0)?);
        Some(all.saturating_sub(reserved))
    }

    /// The size of shared_buffers that the server will have, bytes; `None` if the operator's value is not understood.
    pub fn shared_buffers(&self, resources: &Resources) -> Option<u64> {
        match self.own.get("shared_buffers") {
            Some(own) => parse_memory(own),
            None => Some(shared_buffers(resources.memory_bytes)),
        }
    }

    /// What the server may come to use, its cache and its connections, bytes; `None` if that cannot be told.
    pub fn needed_bytes(&self, resources: &Resources) -> Option<u64> {
        let connections = self.places(resources)?.checked_mul(BYTES_PER_BUSY_CONNECTION)?;
        self.shared_buffers(resources)?.checked_add(connections)
    }
}

/// A quarter of the memory (the manual's advice), so at most 128 MiB below half a GiB.
fn shared_buffers(memory_bytes: u64) -> u64 {
    (memory_bytes / 4).max(SMALLEST_SHARED_BUFFERS_BYTES)
}

/// Grows with the capacity as far as the memory allows. Not simply the most: a start lengthens with it (by about
/// 25 ms from 20 to 1000), and the start is what clients wait for.
fn max_connections(resources: &Resources) -> u64 {
    let by_capacity = (u64::from(resources.capacity) * CONNECTIONS_PER_ACU).min(MOST_CONNECTIONS);
    by_capacity.min(resources.memory_bytes / BYTES_PER_CONNECTION).max(FEWEST_CONNECTIONS)
}

fn governed(cluster: &str, resources: &Resources) -> Vec<String> {
    let kib = |bytes: u64| bytes / 1024;
    vec![
        format!("cluster_name={cluster}"),
        format!("shared_buffers={}kB", kib(shared_buffers(resources.memory_bytes))),
        format!("effective_cache_size={}kB", kib(resources.memory_bytes / 4 * 3)),
        format!("max_connections={}", max_connections(resources)),
        format!("superuser_reserved_connections={RESERVED_CONNECTIONS}"),
        "password_encryption=scram-sha-256".to_owned(),
        "logging_collector=off".to_owned(),
    ]
}

/// What a server needs to be followed. A standby admits no fewer connections than its primary ("Hot Standby" in the
/// manual), so all capacities admit the same; how many of them a capacity uses is the router's to see to.
fn followed(largest: &Resources) -> Vec<String> {
    vec![
        format!("max_connections={}", max_connections(largest)),
        "wal_level=replica".to_owned(),
        KEPT_LOG.to_owned(),
        // As usual: with small segments a new volume's own configuration says a sixteenth.
        "max_wal_size=1GB".to_owned(),
        "min_wal_size=80MB".to_owned(),
    ]
}

fn fixed(site: &Site) -> Vec<String> {
    let volume = site.volume.display();
    vec![
        "listen_addresses=".to_owned(),
        format!("port={PORT}"),
        // A list in PostgreSQL's eyes: quoted, a comma or a space in the path does not end it.
        format!("unix_socket_directories=\"{}\"", site.run_dir.display().to_string().replace('"', "\"\"")),
        "unix_socket_permissions=0700".to_owned(),
        "unix_socket_group=".to_owned(),
        format!("hba_file={volume}/pg_hba.conf"),
        format!("ident_file={volume}/pg_ident.conf"),
    ]
}

fn is_name(name: &str) -> bool {
    let begins = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    begins && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'))
}

/// `128MB`, `16 kB`, or a bare number of 8 kB blocks.
fn parse_memory(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let unit = match text[digits..].trim() {
        "" => 8 << 10,
        "B" => 1,
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        "TB" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(capacity: u32, memory_bytes: u64) -> Resources {
        Resources { capacity, memory_bytes, cpu_cores: 1.0 }
    }

    fn parameters(list: &[(&str, &str)]) -> Result<Parameters, ComputeError> {
        Parameters::new(list.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect(), None)
    }

    #[test]
    fn more_capacity_never_means_fewer_connections() {
        let acus = [2, 4, 8, 16, 32, 64, 192, 384];
        let counts: Vec<u64> =
            acus.iter().map(|acu| max_connections(&resources(*acu, u64::from(*acu) << 31))).collect();
        assert_eq!(counts, [250, 500, 1000, 2000, 4000, 5000, 5000, 5000]);
        assert_eq!(max_connections(&resources(2, 64 * MIB)), 100);
        assert!(max_connections(&resources(4, 512 * MIB)) > 200 + RESERVED_CONNECTIONS);
    }

    #[test]
    fn what_the_router_depends_on_is_refused_in_any_case() {
        for name in ["listen_addresses", "Unix_Socket_Directories", "HBA_FILE", "data_directory", "port"] {
            let refusal = parameters(&[(name, "x")]).unwrap_err().to_string();
            assert!(refusal.contains(name) && refusal.contains("router"), "{refusal}");
        }
        assert!(parameters(&[("a b", "x")]).is_err());
        assert!(parameters(&[("work_mem", "1\0MB")]).is_err());
        assert!(parameters(&[("auto_explain.log_min_duration", "1s")]).is_ok());
    }

    #[test]
    fn the_operators_value_comes_after_ours_and_counts_for_the_cache() {
        let own = parameters(&[("shared_buffers", "64MB")]).unwrap();
        let site = Site { cluster: "c".into(), volume: "/v".into(), run_dir: "/r,1".into(), user: None };
        let settings = own.settings(&site, &resources(2, 1 << 30));
        let at = |wanted: &str| settings.iter().position(|setting| setting == wanted).unwrap();
        assert!(at("shared_buffers=262144kB") < at("shared_buffers=64MB"));
        assert_eq!(settings[at("unix_socket_directories=\"/r,1\"")..].len(), 5);
        assert_eq!(own.shared_buffers(&resources(2, 1 << 30)), Some(64 << 20));
        assert_eq!(parse_memory("16384"), Some(128 << 20));
        assert_eq!(parse_memory("1.5GB"), None);
    }
}
