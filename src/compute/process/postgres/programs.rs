//! Where PostgreSQL's programs are.

use std::fs;
use std::path::{Path, PathBuf};

use crate::compute::ComputeError;

/// Debian's packages put each major version into a folder of its own here.
const DEBIAN_ROOT: &str = "/usr/lib/postgresql";

/// The folder with `postgres` and `initdb`: the `explicit` one; else the one that fits `volume_major`; else Debian's
/// newest; else what the PATH finds.
pub fn find(explicit: Option<&Path>, volume_major: Option<u32>) -> Result<PathBuf, ComputeError> {
    if let Some(folder) = explicit {
        return if has_programs(folder) {
            Ok(folder.to_path_buf())
        } else {
            Err(ComputeError::MissingServer(format!(
                "there is no `postgres` and `initdb` in {}; Debian's package `postgresql` brings them, in \
                 {DEBIAN_ROOT}/<version>/bin",
                folder.display()
            )))
        };
    }
    let mut debian = debian_versions();
    debian.sort_unstable();
    let fitting = debian.iter().find(|(major, _)| Some(*major) == volume_major);
    if let Some((_, folder)) = fitting.or(debian.last()) {
        return Ok(folder.clone());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).find(|folder| has_programs(folder)).ok_or_else(|| {
        ComputeError::MissingServer(format!(
            "PostgreSQL's server programs (`postgres`, `initdb`) are neither in {DEBIAN_ROOT}/*/bin nor in the PATH: \
             install the Debian package `postgresql`, or name their folder with `server`"
        ))
    })
}

fn debian_versions() -> Vec<(u32, PathBuf)> {
    let entries = fs::read_dir(DEBIAN_ROOT).into_iter().flatten().flatten();
    let versions = entries.filter_map(|entry| {
        let major: u32 = entry.file_name().to_str()?.parse().ok()?;
        Some((major, entry.path().join("bin")))
    });
    versions.filter(|(_, folder)| has_programs(folder)).collect()
}

fn has_programs(folder: &Path) -> bool {
    ["postgres", "initdb"].iter().all(|program| folder.join(program).is_file())
}

/// The version in the output of `postgres --version`: `postgres (PostgreSQL) 15.20 (Debian ...)`.
pub fn parse_version(printed: &str) -> Option<String> {
    let (_, version) = printed.split_once("(PostgreSQL) ")?;
    version.split_whitespace().next().map(str::to_owned)
}

/// The number before the first dot (or letter: `19beta1`).
pub fn major(version: &str) -> Option<u32> {
    let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    version[..digits].parse().ok()
}

/// The major version whose data are in this volume.
pub fn volume_major(volume: &Path) -> Option<u32> {
    major(fs::read_to_string(volume.join("PG_VERSION")).ok()?.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        let debian = parse_version("postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)\n").unwrap();
        assert_eq!((debian.as_str(), major(&debian)), ("15.20", Some(15)));
        assert_eq!(major(&parse_version("postgres (PostgreSQL) 19beta1\n").unwrap()), Some(19));
        assert_eq!(parse_version("mysqld  Ver 9.7"), None);
    }

    #[test]
    fn a_missing_server_names_the_package() {
        let folder = tempfile::tempdir().unwrap();
        let error = find(Some(folder.path()), None).unwrap_err().to_string();
        assert!(error.contains("package `postgresql`"), "{error}");
    }
}
