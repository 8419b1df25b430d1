//! What a capacity means in the words of MariaDB and MySQL. All of it goes on the command line, where the last one of
//! two options wins: ours by capacity, the operator's, what may not be changed.

use std::collections::BTreeMap;

use super::binlog;
use super::programs::Product;
use crate::compute::process::flavour::Site;
use crate::compute::{ComputeError, Resources};
use crate::config::{GOVERNED_MYSQL, PREFIXES_MYSQL};

const MIB: u64 = 1 << 20;
/// Below this InnoDB hardly works.
const SMALLEST_POOL_BYTES: u64 = 32 * MIB;
/// InnoDB rounds a bigger pool up to a multiple of this, and a capacity's memory is no place for that.
const POOL_CHUNK_BYTES: u64 = 128 * MIB;
/// So many connections at 8 ACUs and at each doubling more, as with the original ...
const CONNECTIONS_PER_DOUBLING: u64 = 1000;
/// ... and so many at 1 ACU, and at each doubling below that.
const CONNECTIONS_PER_SMALL_DOUBLING: u64 = 90;
const FIRST_BIG_CAPACITY: u32 = 8;
/// No capacity has fewer, however small the machine.
const FEWEST_CONNECTIONS: u64 = 90;
const MOST_CONNECTIONS: u64 = 16_000;
/// What an idle connection costs; capacity on a small machine does not promise more than fit ...
const BYTES_PER_CONNECTION: u64 = MIB / 2;
/// ... and this is what one at work may cost beside the pool, for the memory limit that would end the whole database.
const BYTES_PER_BUSY_CONNECTION: u64 = 2 * MIB;
/// The router's own connections find a place on a full server.
const RESERVED_CONNECTIONS: u64 = 10;
/// Files that are open besides tables and connections: logs, tablespaces, the server's own.
const OTHER_FILES: u64 = 1000;
/// The server takes no smaller table cache for itself.
const FEWEST_TABLES: u64 = 400;

/// Options that a volume is made with, and never takes back.
const CREATION_NAMES: [&str; 8] = [
    "character_set_server",
    "collation_server",
    "innodb_checksum_algorithm",
    "innodb_data_file_path",
    "innodb_file_per_table",
    "innodb_page_size",
    "innodb_undo_tablespaces",
    "lower_case_table_names",
];

/// The operator's own parameters, checked.
#[derive(Debug, Clone)]
pub(super) struct Parameters {
    pub(super) own: BTreeMap<String, String>,
    /// The server's number, where it is followed by a second one, or follows one.
    pub(super) number: Option<u32>,
}

impl Parameters {
    /// Refuses names that are no parameter names, values that no command line can carry, and what the router sets.
    /// `number`: the server's, where there is to be a second one that follows.
    pub(super) fn new(
        parameters: BTreeMap<String, String>,
        number: Option<u32>,
    ) -> Result<Self, ComputeError> {
        let mut checked = BTreeMap::new();
        for (name, value) in parameters {
            let folded = name.to_ascii_lowercase().replace('-', "_");
            let wrong = if GOVERNED_MYSQL.contains(&bare(&folded)) {
                Some("is set by the router and cannot be changed")
            } else if !is_name(&folded) {
                Some("is not a parameter name")
            } else if value.contains('\0') {
                Some("has a value with a zero byte")
            } else {
                None
            };
            if let Some(wrong) = wrong {
                let name = name.escape_debug();
                return Err(ComputeError::Configuration(format!("parameter `{name}` {wrong}")));
            }
            checked.insert(folded, value);
        }
        Ok(Self { own: checked, number })
    }

    /// Whether the operator has set this.
    pub(super) fn has(&self, name: &str) -> bool {
        self.own.keys().any(|own| bare(own) == name)
    }

    /// The options of a server that serves. `most_files`: how many it may have open.
    pub(super) fn settings(
        &self,
        product: Product,
        site: &Site,
        resources: &Resources,
        most_files: u64,
    ) -> Vec<String> {
        let mut settings = governed(product, resources, most_files);
        settings.extend(self.number.iter().flat_map(|_| binlog::governed(product)));
        settings.extend(self.own.iter().map(|(name, value)| as_option(name, value)));
        settings.extend(fixed(product, site));
        settings.extend(self.number.iter().flat_map(|number| binlog::fixed(product, *number)));
        settings
    }

    /// The options that a volume is made with.
    pub(super) fn for_creation(&self) -> Vec<String> {
        let lasting = self.own.iter().filter(|(name, _)| CREATION_NAMES.contains(&name.as_str()));
        lasting.map(|(name, value)| as_option(name, value)).collect()
    }

    /// How many ordinary connections the server will take; `None` if the operator's value is not understood.
    pub(super) fn places(&self, resources: &Resources, most_files: u64) -> Option<u64> {
        let all = match self.own.get("max_connections") {
            Some(own) => own.trim().parse().ok()?,
            None => max_connections(resources, most_files),
        };
        Some(all.saturating_sub(RESERVED_CONNECTIONS))
    }

    /// What the server may come to use, its pool and its connections, bytes; `None` if that cannot be told.
    pub(super) fn needed_bytes(
        &self,
        product: Product,
        resources: &Resources,
        most_files: u64,
    ) -> Option<u64> {
        let connections = self.places(resources, most_files)?.checked_mul(BYTES_PER_BUSY_CONNECTION)?;
        let pool = match self.own.get("innodb_buffer_pool_size") {
            Some(own) => parse_memory(own)?,
            None => pool(product, resources.memory_bytes),
        };
        pool.checked_add(connections)?.checked_add(base_bytes(product))
    }
}

/// What the server takes before any pool.
fn base_bytes(product: Product) -> u64 {
    match product {
        Product::MariaDb => 128 * MIB,
        Product::MySql => 320 * MIB,
        Product::MySql56 => 256 * MIB,
    }
}

/// Three quarters of what the server itself leaves.
fn pool(product: Product, memory_bytes: u64) -> u64 {
    let wanted = (memory_bytes.saturating_sub(base_bytes(product)) / 4 * 3).max(SMALLEST_POOL_BYTES);
    let step = if wanted > POOL_CHUNK_BYTES { POOL_CHUNK_BYTES * pool_parts(wanted) } else { MIB };
    wanted / step * step
}

/// The parts that MySQL divides a pool into: one for each GiB, at most eight.
fn pool_parts(pool: u64) -> u64 {
    (pool >> 30).clamp(1, 8)
}

/// Grows with the capacity as far as the memory and the limit of open files allow.
fn max_connections(resources: &Resources, most_files: u64) -> u64 {
    let capacity = resources.capacity.max(1);
    let by_capacity = if capacity < FIRST_BIG_CAPACITY {
        u64::from(1 + capacity.ilog2()) * CONNECTIONS_PER_SMALL_DOUBLING
    } else {
        u64::from((capacity / (FIRST_BIG_CAPACITY / 2)).ilog2()) * CONNECTIONS_PER_DOUBLING
    };
    let by_memory = resources.memory_bytes / BYTES_PER_CONNECTION;
    let by_files = most_files.saturating_sub(OTHER_FILES + 2 * FEWEST_TABLES);
    by_capacity.min(MOST_CONNECTIONS).min(by_memory).min(by_files).max(FEWEST_CONNECTIONS)
}

fn governed(product: Product, resources: &Resources, most_files: u64) -> Vec<String> {
    let pool = pool(product, resources.memory_bytes);
    let connections = max_connections(resources, most_files);
    let usual_tables = if product == Product::MySql { 4000 } else { 2000 };
    let tables =
        (most_files.saturating_sub(OTHER_FILES + connections) / 2).clamp(FEWEST_TABLES, usual_tables);
    let mut settings = vec![
        format!("--innodb-buffer-pool-size={pool}"),
        format!("--max-connections={connections}"),
        format!("--table-open-cache={tables}"),
        format!("--thread-cache-size={}", connections.min(256)),
        "--skip-name-resolve".to_owned(),
        // A restart empties the pool: what was in it is read from the kernel's cache then, which O_DIRECT would have
        // passed by. Reading the whole list of its pages again would compete with the clients that waited.
        "--innodb-flush-method=fsync".to_owned(),
        "--innodb-buffer-pool-dump-at-shutdown=OFF".to_owned(),
        "--innodb-buffer-pool-load-at-startup=OFF".to_owned(),
    ];
    settings.extend(of_product(product).into_iter().map(str::to_owned));
    if product != Product::MariaDb {
        settings.push(format!("--innodb-buffer-pool-instances={}", pool_parts(pool)));
    }
    settings
}

/// What makes the stop and the start short, as measured, product by product; and no binary log unless the operator
/// wants it, as with the original: it costs every commit a second sync, and nobody reads it here.
fn of_product(product: Product) -> Vec<&'static str> {
    match product {
        Product::MariaDb => vec!["--performance-schema=OFF"],
        Product::MySql => {
            let mut settings = vec![
                "--disable-log-bin",
                // Its threads sleep half a second, and the stop waits for them.
                "--innodb-use-native-aio=OFF",
                "--innodb-purge-threads=4",
                "--innodb-log-writer-threads=OFF",
                "--loose-innodb-numa-interleave=OFF",
            ];
            settings.extend(PERFORMANCE_SCHEMA);
            settings
        }
        Product::MySql56 => vec!["--performance-schema=OFF", "--innodb-use-native-aio=OFF"],
    }
}

/// Of the performance schema, which the router asks about sessions, no more than it asks: the other instruments cost
/// a third of the start, the other tables 150 MB.
const PERFORMANCE_SCHEMA: [&str; 17] = [
    "--performance-schema=ON",
    "--performance-schema-instrument=%=OFF",
    "--performance-schema-instrument=wait/lock/metadata/sql/mdl=ON",
    // A statement begins as an abstract one, and is no event at all if that is off.
    "--performance-schema-instrument=statement/abstract/%=ON",
    "--performance-schema-instrument=statement/sql/prepare_sql=ON",
    "--performance-schema-instrument=statement/com/Prepare=ON",
    "--performance-schema-consumer-events-statements-current=OFF",
    "--performance-schema-consumer-events-statements-history=OFF",
    "--performance-schema-consumer-events-transactions-current=OFF",
    "--performance-schema-consumer-events-transactions-history=OFF",
    "--performance-schema-consumer-statements-digest=OFF",
    "--performance-schema-events-statements-history-long-size=0",
    "--performance-schema-events-waits-history-long-size=0",
    "--performance-schema-events-stages-history-long-size=0",
    "--performance-schema-events-transactions-history-long-size=0",
    "--performance-schema-digests-size=0",
    "--performance-schema-error-size=0",
];

fn fixed(product: Product, site: &Site) -> Vec<String> {
    let mut settings = places_of_files(site);
    settings.push("--skip-networking".to_owned());
    settings.extend(match product {
        Product::MariaDb => vec![
            "--plugin-load-add=metadata_lock_info".to_owned(),
            // The router says in front of the handshake where the client is; nobody else reaches the socket.
            "--proxy-protocol-networks=localhost".to_owned(),
        ],
        Product::MySql => vec!["--mysqlx=OFF".to_owned()],
        Product::MySql56 => Vec::new(),
    });
    settings
}

/// Everything that a server writes lies beside its volume.
fn places_of_files(site: &Site) -> Vec<String> {
    let volume = site.volume.display();
    vec![
        format!("--datadir={volume}"),
        format!("--pid-file={volume}/{}", super::LOCK_FILE),
        format!("--socket={}/{}", site.run_dir.display(), super::SOCKET),
        format!("--tmpdir={}", super::temporary_folder(site).display()),
        format!("--secure-file-priv={}", super::exchange_folder(site).display()),
    ]
}

/// An option as the command line takes it: switches that begin with `skip_` or the like have no value.
fn as_option(name: &str, value: &str) -> String {
    let is_switch = ["skip_", "disable_", "enable_"].iter().any(|prefix| name.starts_with(prefix));
    let is_on = ["", "1", "on", "true"].contains(&value.to_ascii_lowercase().as_str());
    if is_switch && is_on && name != "skip_name_resolve" {
        format!("--{name}")
    } else {
        format!("--{name}={value}")
    }
}

/// The name without the prefixes that a server ignores in it.
fn bare(name: &str) -> &str {
    let stripped = PREFIXES_MYSQL.iter().find_map(|prefix| name.strip_prefix(prefix));
    stripped.map_or(name, bare)
}

fn is_name(name: &str) -> bool {
    let begins = name.starts_with(|first: char| first.is_ascii_alphabetic());
    begins && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'))
}

/// `128M`, `1g`, or a bare number of bytes.
fn parse_memory(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let shift = match text[digits..].to_ascii_uppercase().as_str() {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return None,
    };
    number.checked_mul(1 << shift)
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
    fn connections_are_those_of_the_original_and_the_files_allow_them() {
        let of = |acu: u32, files| max_connections(&resources(acu, u64::from(acu) << 31), files);
        let counts: Vec<u64> = [1, 2, 4, 8, 16, 32, 64, 128, 256].map(|acu| of(acu, 1 << 20)).into();
        assert_eq!(counts, [90, 180, 270, 1000, 2000, 3000, 4000, 5000, 6000]);
        assert_eq!(of(256, 4096), 2296);
        assert_eq!(of(2, 256), 90);
    }

    #[test]
    fn a_pool_is_never_rounded_up_by_the_server() {
        for gib in [1, 2, 4, 16, 64, 512] {
            let size = pool(Product::MySql, gib << 30);
            assert!(size <= POOL_CHUNK_BYTES || size.is_multiple_of(POOL_CHUNK_BYTES * pool_parts(size)));
            assert!(size < gib << 30 && size >= (gib << 30) / 4, "{gib}: {size}");
        }
        assert_eq!(pool(Product::MySql, 64 * MIB), SMALLEST_POOL_BYTES);
    }

    #[test]
    fn what_the_router_depends_on_is_refused_however_it_is_written() {
        for name in ["datadir", "Skip-Networking", "loose_skip_grant_tables", "init-file", "enable-mysqlx"] {
            let refusal = parameters(&[(name, "x")]).unwrap_err().to_string();
            assert!(refusal.contains(name) && refusal.contains("router"), "{refusal}");
        }
        assert!(parameters(&[("a b", "x")]).is_err());
        assert!(parameters(&[("sql_mode", "A\0B")]).is_err());
        assert!(parameters(&[("skip_name_resolve", "off"), ("plugin-load-add", "x")]).is_ok());
    }

    #[test]
    fn the_operators_value_comes_after_ours_and_counts() {
        let own = parameters(&[("Max-Connections", "50"), ("innodb_buffer_pool_size", "64M")]).unwrap();
        let site = Site { cluster: "c".into(), volume: "/h/v".into(), run_dir: "/r".into(), user: None };
        let settings = own.settings(Product::MariaDb, &site, &resources(2, 1 << 30), 20_000);
        let at = |wanted: &str| settings.iter().position(|setting| setting == wanted).unwrap();
        assert!(at("--max-connections=180") < at("--max_connections=50"));
        assert!(at("--max_connections=50") < at("--skip-networking"));
        assert_eq!(own.places(&resources(2, 1 << 30), 20_000), Some(40));
        let needed = own.needed_bytes(Product::MariaDb, &resources(2, 1 << 30), 20_000);
        assert_eq!(needed, Some((64 + 40 * 2 + 128) * MIB));
        assert_eq!(parse_memory("1g"), Some(1 << 30));
        assert_eq!(parse_memory("1.5G"), None);
        assert_eq!(as_option("skip_log_bin", "ON"), "--skip_log_bin");
    }
}
