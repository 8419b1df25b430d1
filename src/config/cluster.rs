//! One `[[cluster]]` section.

use std::path::Path;
use std::time::Duration;

use toml_edit::Item;

use super::problem::Problem;
use super::read::{Section, Wrong};
use super::{ClusterConfig, Engine, ForcedChange, Handover, TimeoutAction, values};

const ENGINES: &[(&str, Engine)] = &[("postgres", Engine::Postgres), ("mysql", Engine::Mysql)];
const TIMEOUT_ACTIONS: &[(&str, TimeoutAction)] = &[
    ("RollbackCapacityChange", TimeoutAction::RollbackCapacityChange),
    ("ForceApplyCapacityChange", TimeoutAction::ForceApplyCapacityChange),
];
const FORCED_CHANGES: &[(&str, ForcedChange)] =
    &[("close", ForcedChange::Close), ("abort_transaction", ForcedChange::AbortTransaction)];
const HANDOVERS: &[(&str, Handover)] = &[("restart", Handover::Restart), ("standby", Handover::Standby)];

/// What the operator of a parameter group may not set: the provider needs it, or the sockets and files would no
/// longer be private.
const GOVERNED_POSTGRES: [&str; 10] = [
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
];
/// The same, in MySQL's words, without the prefixes below. `log_bin` and the like are the operator's.
pub const GOVERNED_MYSQL: [&str; 23] = [
    "admin_address",
    "admin_port",
    "basedir",
    "bind_address",
    "bootstrap",
    "console",
    "daemonize",
    "datadir",
    "defaults_extra_file",
    "defaults_file",
    "defaults_group_suffix",
    "grant_tables",
    "init_file",
    "initialize",
    "initialize_insecure",
    "log_error",
    "mysqlx",
    "networking",
    "pid_file",
    "port",
    "proxy_protocol_networks",
    "socket",
    "user",
];
/// The same, where another server follows by the log: a copy must not lack anything.
const LOG_MYSQL: [&str; 19] = [
    "binlog_do_db",
    "binlog_format",
    "binlog_ignore_db",
    "enforce_gtid_consistency",
    "gtid_domain_id",
    "gtid_mode",
    "log_bin",
    "log_bin_index",
    "log_replica_updates",
    "log_slave_updates",
    "read_only",
    "relay_log",
    "relay_log_index",
    "replica_exec_mode",
    "replica_skip_errors",
    "server_id",
    "slave_exec_mode",
    "slave_skip_errors",
    "super_read_only",
];
/// With these MySQL means the same option.
pub const PREFIXES_MYSQL: [&str; 5] = ["skip_", "disable_", "enable_", "loose_", "maximum_"];
/// Databases that a server makes for itself.
const OWN_DATABASES_POSTGRES: [&str; 2] = ["template0", "template1"];
const OWN_DATABASES_MYSQL: [&str; 4] = ["information_schema", "mysql", "performance_schema", "sys"];
/// The account that the router has for itself. MySQL 5.6 takes no name of more than 16 characters.
pub const ROUTER_ACCOUNT_MYSQL: &str = "scalepointrouter";

/// A cluster with what the checks across clusters need.
pub(super) struct ReadCluster {
    pub(super) config: ClusterConfig,
    /// Whether `name`, `engine` and `listen` are what the file means, not stand-ins for what is wrong.
    pub(super) sound: bool,
    pub(super) name_line: usize,
    pub(super) listen_line: usize,
}

/// Reads a section; what is wrong is noted and replaced by the default.
pub(super) fn read_cluster(section: Section<'_>, base: &Path) -> ReadCluster {
    let name = section.require("name", "a name for the cluster, such as \"orders\"", cluster_name);
    let engine = section.require(
        "engine",
        "engine = \"postgres\" or engine = \"mysql\" (MySQL or MariaDB)",
        values::one_of(ENGINES),
    );
    let listen = section.read("listen", values::address);
    let listen_is_wrong = listen.is_none() && section.item("listen").is_some();
    let sound = name.is_some() && engine.is_some() && !listen_is_wrong;

    let mut config =
        ClusterConfig::with_defaults(&name.unwrap_or_default(), engine.unwrap_or(Engine::Postgres));
    config.listen = listen.unwrap_or(config.listen);
    config.server = section.read("server", folder(base));
    read_capacities(&section, engine, &mut config);
    read_scaling(&section, &mut config);
    read_accounts(&section, base, &mut config);
    if let Some(group) = section.table("parameters") {
        config.parameters = read_parameters(&group, config.engine, config.handover);
    }
    let (name_line, listen_line) = (section.line_of("name"), section.line_of("listen"));
    section.finish();
    ReadCluster { config, sound, name_line, listen_line }
}

fn read_capacities(section: &Section<'_>, engine: Option<Engine>, config: &mut ClusterConfig) {
    let ladder = engine.map(Engine::ladder);
    let capacity = |item: &Item| -> Result<u32, Wrong> {
        let value = values::number(1..=384, "capacity units")(item)?;
        let value = u32::try_from(value).unwrap_or(0);
        match ladder {
            Some(ladder) if !ladder.contains(value) => Err(Wrong::new(
                format!("{value} is not a capacity of this engine"),
                format!("{}; all are {ladder}", ladder.nearest_in_words(value)),
            )),
            _ => Ok(value),
        }
    };
    let (low, high) = (section.read("min_capacity", capacity), section.read("max_capacity", capacity));
    // A capacity that was wrong must not cause a second error about its stand-in.
    let high_is_wrong = high.is_none() && section.item("max_capacity").is_some();
    config.min_capacity = low.unwrap_or(config.min_capacity);
    config.max_capacity = high.unwrap_or(config.max_capacity);
    if config.min_capacity > config.max_capacity && !high_is_wrong {
        let usual = if high.is_none() { " (the default)" } else { "" };
        let message = format!("{} is above max_capacity {}{usual}", config.min_capacity, config.max_capacity);
        let key = if low.is_some() { "min_capacity" } else { "max_capacity" };
        section.wrong(key, message, Some("min_capacity must be at most max_capacity"));
    }
}

fn read_scaling(section: &Section<'_>, config: &mut ClusterConfig) {
    let seconds = |key, range| {
        section.read(key, values::number(range, "seconds")).and_then(|value| u32::try_from(value).ok())
    };
    if let Some(auto_pause) = section.read("auto_pause", values::boolean) {
        config.auto_pause = auto_pause;
    }
    if let Some(value) = seconds("seconds_until_auto_pause", 300..=86_400) {
        config.seconds_until_auto_pause = value;
    }
    if let Some(value) = seconds("seconds_before_timeout", 60..=600) {
        config.seconds_before_timeout = value;
    }
    if let Some(action) = section.read("timeout_action", values::one_of(TIMEOUT_ACTIONS)) {
        config.timeout_action = action;
    }
    if let Some(ms) = section.read("stall_budget_ms", values::number(10..=60_000, "ms")) {
        config.stall_budget = Duration::from_millis(ms.unsigned_abs());
    }
    if let Some(ms) = section.read("park_after_ms", values::number(0..=86_400_000, "ms")) {
        config.park_after = Some(Duration::from_millis(ms.unsigned_abs()));
    }
    if let Some(ms) = section.read("full_wait_ms", values::number(0..=600_000, "ms")) {
        config.full_wait = Duration::from_millis(ms.unsigned_abs());
    }
    if let Some(most) = section.read("statements_at_once", values::number(0..=100_000, "statements")) {
        config.statements_at_once = usize::try_from(most).ok();
    }
    if let Some(value) = seconds("start_timeout_seconds", 1..=3600) {
        config.start_timeout = Duration::from_secs(value.into());
    }
    if let Some(value) = seconds("stop_timeout_seconds", 1..=3600) {
        config.stop_timeout = Duration::from_secs(value.into());
    }
    if let Some(forced) = section.read("forced_change", values::one_of(FORCED_CHANGES)) {
        config.forced_change = forced;
    }
    if let Some(handover) = section.read("handover", values::one_of(HANDOVERS)) {
        config.handover = handover;
    }
}

fn read_accounts(section: &Section<'_>, base: &Path, config: &mut ClusterConfig) {
    let engine = config.engine;
    let (most_user, most_database, own): (_, _, &[&str]) = match engine {
        Engine::Postgres => (63, 63, &OWN_DATABASES_POSTGRES),
        Engine::Mysql => (32, 64, &OWN_DATABASES_MYSQL),
    };
    if let Some(user) = section.read("master_username", |item| identifier(item, most_user, engine)) {
        config.master_username = user;
    }
    config.master_password_file = section.read("master_password_file", values::path(base));
    config.database_name = section.read("database_name", |item| {
        let name = identifier(item, most_database, engine)?;
        if own.iter().any(|own| name.eq_ignore_ascii_case(own)) {
            return Err(Wrong::new(format!("{name} is the server's own"), "choose another name"));
        }
        Ok(name)
    });
}

fn folder(base: &Path) -> impl FnOnce(&Item) -> Result<std::path::PathBuf, Wrong> + '_ {
    move |item| {
        let path = values::path(base)(item)?;
        if path.is_dir() {
            return Ok(path);
        }
        let hint =
            "name the folder with the server's programs, such as /usr/lib/postgresql/15/bin or /usr/sbin";
        Err(Wrong::new(format!("there is no folder {}", path.display()), hint))
    }
}

/// A DNS label (RFC 1123), because clients name clusters by SNI.
fn cluster_name(item: &Item) -> Result<String, Wrong> {
    const HINT: &str = "1 to 63 of a-z, 0-9 and -, neither first nor last a -";
    let name = values::text(item)?;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let label = (1..=63).contains(&name.len())
        && name.chars().all(plain)
        && !name.starts_with('-')
        && !name.ends_with('-');
    if label {
        Ok(name)
    } else {
        Err(Wrong::new(format!("`{}` is not a DNS label", name.escape_debug()), HINT))
    }
}

/// A name that needs no quotes in SQL.
fn identifier(item: &Item, most: usize, engine: Engine) -> Result<String, Wrong> {
    let name = values::text(item)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let first = name.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    if !first || name.len() > most || !name.chars().all(plain) {
        let hint = format!("1 to {most} of a-z, A-Z, 0-9 and _, not a digit first");
        return Err(Wrong::new(format!("`{}` is not a plain name", name.escape_debug()), hint));
    }
    let reserved = match engine {
        Engine::Postgres => name.starts_with("pg_") || ["public", "none"].contains(&name.as_str()),
        Engine::Mysql => name == ROUTER_ACCOUNT_MYSQL,
    };
    if reserved {
        return Err(Wrong::new(format!("`{name}` is reserved"), "choose another name"));
    }
    Ok(name)
}

/// Names and values of the parameter group; `a.b = 1` is the parameter "a.b" of an extension.
fn read_parameters(group: &Section<'_>, engine: Engine, handover: Handover) -> Vec<(String, String)> {
    const MOST: usize = 512;
    let mut found: Vec<(String, String)> = Vec::new();
    let mut flat: Vec<(String, &Item, usize)> = Vec::new();
    for (key, item, line) in group.entries() {
        match item.as_table_like() {
            Some(extension) => {
                flat.extend(extension.iter().map(|(name, item)| (format!("{key}.{name}"), item, line)));
            }
            None => flat.push((key.to_owned(), item, line)),
        }
    }
    for (name, item, line) in flat.into_iter().take(MOST) {
        let mut name = name.to_ascii_lowercase();
        if engine == Engine::Mysql {
            name = name.replace('-', "_");
        }
        match parameter(&name, item, engine, handover) {
            Ok(_) if found.iter().any(|(known, _)| *known == name) => {
                group.note(Problem::new(line, format!("parameter {name} is there twice")));
            }
            Ok(value) => found.push((name, value)),
            Err(wrong) => {
                let problem =
                    Problem::new(line, format!("parameter {}: {}", name.escape_debug(), wrong.message));
                group.note(problem.with_hint(wrong.hint.unwrap_or_default()));
            }
        }
    }
    found
}

fn is_governed(name: &str, engine: Engine, handover: Handover) -> bool {
    match engine {
        Engine::Postgres => GOVERNED_POSTGRES.contains(&name),
        Engine::Mysql => {
            let mut bare = name;
            while let Some(rest) = PREFIXES_MYSQL.iter().find_map(|prefix| bare.strip_prefix(prefix)) {
                bare = rest;
            }
            let of_log = || LOG_MYSQL.contains(&bare) || bare.starts_with("replicate_");
            GOVERNED_MYSQL.contains(&bare) || handover == Handover::Standby && of_log()
        }
    }
}

fn parameter(name: &str, item: &Item, engine: Engine, handover: Handover) -> Result<String, Wrong> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || name.len() > 128 || !name.chars().all(plain) {
        return Err(Wrong::new("is not the name of a parameter", "a-z, 0-9, _, - and ."));
    }
    if is_governed(&name.to_ascii_lowercase().replace('-', "_"), engine, handover) {
        return Err(Wrong::new(
            "is governed by Scalepoint",
            "remove it; see `listen`, `server`, `data_dir` and `handover`",
        ));
    }
    let value = if let Some(text) = item.as_str() {
        text.to_owned()
    } else if let Some(switch) = item.as_bool() {
        if switch { "on" } else { "off" }.to_owned()
    } else if let Some(whole) = item.as_integer() {
        whole.to_string()
    } else if let Some(number) = item.as_float().filter(|number| number.is_finite()) {
        number.to_string()
    } else {
        return Err(Wrong::new("must be a string, a number, true or false", "put it in \"quotes\""));
    };
    // A line break would begin a new setting in the server's configuration file.
    if value.len() > 4096 || value.chars().any(char::is_control) {
        return Err(Wrong::new(
            "has a value that is too long or has control characters",
            "write it in one line",
        ));
    }
    Ok(value)
}
