//! The sections of the file, top to bottom.

use std::path::{Path, PathBuf};
use std::time::Duration;

use toml_edit::{Document, Item};

use super::problem::Problem;
use super::read::{Notes, Section, Wrong};
use super::{AcuConfig, AdminConfig, Config, RouterConfig, TlsConfig, check, cluster, limits, values};

/// Reads the whole file, or all of its problems.
pub(super) fn read_config(text: &str, path: &Path) -> Result<Config, Vec<Problem>> {
    let notes = Notes::new(text);
    let document = match Document::parse(text) {
        Ok(document) => document,
        Err(error) => {
            let line = error.span().map_or(0, |span| notes.line_at(span.start));
            let message = error.message().replace('\n', ", ");
            return Err(vec![Problem::new(line, format!("this is not TOML: {message}"))]);
        }
    };
    let base = path.parent().unwrap_or(Path::new(""));
    let top = Section::new(&notes, document.as_table(), "", 0);
    let data_dir = top.read("data_dir", values::path(base));
    let mut config = Config {
        source: Some(path.to_owned()),
        data_dir: data_dir.unwrap_or_else(|| base.join("scalepoint-data")),
        admin: top.table("admin").map_or_else(AdminConfig::default, read_admin),
        tls: top.table("tls").and_then(|section| read_tls(section, base)),
        acu: top.table("acu").map_or_else(AcuConfig::default, read_acu),
        router: RouterConfig::default(),
        clusters: Vec::new(),
        warnings: Vec::new(),
    };
    if let Some(section) = top.table("router") {
        config.router = read_router(section, &mut config.warnings);
    }
    let sections = top.tables("cluster");
    if sections.is_empty() && !text_has_cluster(&top) {
        let problem = Problem::new(0, "there is no cluster");
        notes.add(problem.with_hint("add [[cluster]] with name = \"orders\" and engine = \"postgres\""));
    }
    let clusters: Vec<_> = sections.into_iter().map(|section| cluster::read_cluster(section, base)).collect();
    check::across_clusters(&notes, &config.admin, &clusters);
    top.finish();
    config.warnings.extend(check::warnings(&config.admin));
    config.clusters = clusters.into_iter().map(|cluster| cluster.config).collect();
    let problems = notes.into_problems();
    if problems.is_empty() { Ok(config) } else { Err(problems) }
}

/// Whether `cluster` is there in some form (its problems are then noted already).
fn text_has_cluster(top: &Section<'_>) -> bool {
    top.item("cluster").is_some_and(|item| item.as_array().is_none_or(|array| !array.is_empty()))
}

fn read_admin(section: Section<'_>) -> AdminConfig {
    let usual = AdminConfig::default();
    let admin = AdminConfig {
        listen: section.read("listen", values::address).unwrap_or(usual.listen),
        allowed_hosts: section.read("allowed_hosts", host_names).unwrap_or_default(),
    };
    section.finish();
    admin
}

/// Host names without ports, in lower case.
fn host_names(item: &Item) -> Result<Vec<String>, Wrong> {
    const HINT: &str = "write host names without ports: [\"scalepoint.example.org\"]";
    let array = item.as_array().ok_or_else(|| Wrong::new("must be a list of names", HINT))?;
    let is_name = |name: &&str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        !name.is_empty() && name.len() <= 253 && name.chars().all(plain)
    };
    let names = array.iter().map(|value| {
        let name = value.as_str().filter(is_name);
        name.map(str::to_ascii_lowercase)
            .ok_or_else(|| Wrong::new(format!("{value} is not a host name"), HINT))
    });
    names.collect()
}

fn read_tls(section: Section<'_>, base: &Path) -> Option<TlsConfig> {
    let hint = "[tls] needs both; leave [tls] out for a development certificate";
    let certificate: Option<PathBuf> = section.require("certificate", hint, values::file(base));
    let key = section.require("key", hint, values::file(base));
    section.finish();
    Some(TlsConfig { certificate: certificate?, key: key? })
}

fn read_acu(section: Section<'_>) -> AcuConfig {
    let usual = AcuConfig::default();
    let acu = AcuConfig {
        memory_bytes: section.read("memory", values::size(32 << 20..=1 << 40)).unwrap_or(usual.memory_bytes),
        cpu_cores: section.read("cpu", cores).unwrap_or(usual.cpu_cores),
    };
    section.finish();
    acu
}

fn cores(item: &Item) -> Result<f64, Wrong> {
    const HINT: &str = "0.05 to 256 cores, such as 0.5";
    // An integer is welcome where a float is meant; i64 to f64 is exact in this range.
    let cores = item.as_float().or_else(|| item.as_integer().map(|whole| whole as f64));
    let cores = cores.ok_or_else(|| Wrong::new("must be a number of cores", HINT))?;
    if (0.05..=256.0).contains(&cores) {
        return Ok(cores);
    }
    Err(Wrong::new(format!("{cores} is out of range"), HINT))
}

fn read_router(section: Section<'_>, warnings: &mut Vec<String>) -> RouterConfig {
    let usual = RouterConfig::default();
    let mut router = RouterConfig {
        max_sessions: section
            .read("max_sessions", values::number(1..=1_000_000, "sessions"))
            .and_then(|sessions| usize::try_from(sessions).ok())
            .unwrap_or(usual.max_sessions),
        handshake_timeout: section
            .read("handshake_timeout_ms", values::number(100..=120_000, "ms"))
            .map_or(usual.handshake_timeout, |ms| Duration::from_millis(ms.unsigned_abs())),
        shutdown_grace: section
            .read("shutdown_grace_seconds", values::number(0..=3600, "seconds"))
            .map_or(usual.shutdown_grace, |seconds| Duration::from_secs(seconds.unsigned_abs())),
    };
    section.finish();
    let most = limits::most_sessions();
    if router.max_sessions > most {
        warnings.push(format!(
            "max_sessions: {} lowered to {most}, half of the {} file descriptors this process may have",
            router.max_sessions,
            limits::descriptor_limit(),
        ));
        router.max_sessions = most;
    }
    router
}
