//! Where the programs of MariaDB and MySQL are, whose they are, and what belongs to them. They are packed in many ways,
//! so this looks for the files instead of knowing the packages.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::super::spawn::Program;
use crate::compute::ComputeError;

/// Where packages put servers; then the PATH.
const FOLDERS: [&str; 6] =
    ["/usr/sbin", "/usr/libexec", "/usr/local/sbin", "/usr/local/mysql/bin", "/usr/local/bin", "/usr/bin"];
/// Where a server is below the prefix of an installation.
const BELOW_PREFIX: [&str; 8] =
    ["", "bin", "sbin", "libexec", "usr/sbin", "usr/bin", "usr/libexec", "server"];
/// The better name first: where both are, the second is an alias.
const SERVERS: [&str; 2] = ["mariadbd", "mysqld"];
const ADVICE: &str = "install the Debian package `mariadb-server`, or name the folder of `mariadbd` or `mysqld` \
                      with `server`";

/// The kinds of server that this flavour runs: their volumes differ, and so do their settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Product {
    /// MySQL 5.6.
    MySql56,
    /// MariaDB 10.4 and later.
    MariaDb,
    /// MySQL 8.0 and later.
    MySql,
}

impl Product {
    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::MariaDb => "MariaDB",
            Self::MySql => "MySQL",
            Self::MySql56 => "MySQL 5.6",
        }
    }

    /// The product whose data are in a folder.
    pub fn of_volume(volume: &Path) -> Option<Self> {
        let holds = |name: &str| volume.join(name).exists();
        if holds("mysql.ibd") {
            Some(Self::MySql)
        } else if holds("aria_log_control") {
            Some(Self::MariaDb)
        } else if holds("ibdata1") && holds("mysql/user.MYD") {
            Some(Self::MySql56)
        } else {
            None
        }
    }

    fn of_version(version: &str) -> Option<Self> {
        let (major, minor) = series(version)?;
        match (version.contains("MariaDB"), major, minor) {
            (true, 10, 4..) | (true, 11.., _) => Some(Self::MariaDb),
            (false, 5, 6) => Some(Self::MySql56),
            (false, 8.., _) => Some(Self::MySql),
            _ => None,
        }
    }
}

/// One installation.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The server.
    pub server: PathBuf,
    /// Whose it is.
    pub product: Product,
    /// As the server's program reports it: `10.11.19-MariaDB-0+deb12u1`, `9.7.4-2`.
    pub version: String,
    /// The folder that all paths are relative to.
    pub base: PathBuf,
    /// Messages, character sets and the tables' definitions.
    pub share: Option<PathBuf>,
    plugins: Option<PathBuf>,
    /// Libraries that were packed with the server.
    libraries: Option<PathBuf>,
}

impl Programs {
    /// The installation whose server is `server`.
    fn look(server: PathBuf) -> Result<Self, ComputeError> {
        let folder = server.parent().unwrap_or(Path::new("/"));
        let bases = [folder.parent().unwrap_or(folder), folder];
        let find = |names: &[&str], holds: &str| {
            let places = bases.iter().flat_map(|base| names.iter().map(move |name| base.join(name)));
            places.into_iter().find(|place| place.join(holds).exists())
        };
        let shares = ["share/mysql", "share/mariadb", "share/mysql-8.0", "share"];
        let share = find(&shares, "english/errmsg.sys");
        let of_folder = |share: &PathBuf| share.starts_with(folder.join("share"));
        let base = if share.as_ref().is_some_and(of_folder) { bases[1] } else { bases[0] }.to_path_buf();
        let places = ["lib/mysql/plugin", "lib64/mysql/plugin", "lib/mariadb/plugin", "lib/plugin"];
        let plugins = find(&places, ".");
        let libraries = has_libraries(folder).then(|| folder.to_path_buf());
        let (product, version) = identify(&server, libraries.as_deref())?;
        Ok(Self { server, product, version, base, share, plugins, libraries })
    }

    /// The options that every run of the server begins with.
    pub fn options(&self) -> Vec<OsString> {
        // No option file of the machine, above all, because it is some other server's.
        let mut options = vec!["--no-defaults".into(), option("--basedir=", &self.base)];
        if let Some(share) = &self.share {
            options.push(option("--lc-messages-dir=", share));
            options.push(option("--character-sets-dir=", &share.join("charsets")));
        }
        options.extend(self.plugins.as_ref().map(|plugins| option("--plugin-dir=", plugins)));
        options
    }

    /// The variables that the server needs.
    pub fn environment(&self) -> Vec<(String, OsString)> {
        environment(self.libraries.as_deref())
    }

    /// A plugin of the installation.
    pub fn plugin(&self, name: &str) -> Option<PathBuf> {
        let file = self.plugins.as_ref()?.join(name);
        file.is_file().then_some(file)
    }

    /// Another program of the installation.
    pub fn tool(&self, name: &str) -> Option<PathBuf> {
        let folders = [self.server.parent()?.to_path_buf(), self.base.join("bin"), self.base.join("scripts")];
        folders.into_iter().map(|folder| folder.join(name)).find(|tool| tool.is_file())
    }
}

/// `--name=` and a path.
pub fn option(name: &str, value: &Path) -> OsString {
    let mut option = OsString::from(name);
    option.push(value);
    option
}

/// The installation to use: in the `explicit` folder (of the server, or the prefix of its installation); else the one
/// of `wanted`, the product that the volume belongs to; else MySQL before MariaDB, and the newest of those.
pub fn find(explicit: Option<&Path>, wanted: Option<Product>) -> Result<Programs, ComputeError> {
    if let Some(prefix) = explicit {
        let server = BELOW_PREFIX.iter().find_map(|below| server_in(&prefix.join(below)));
        return Programs::look(server.ok_or_else(|| {
            ComputeError::MissingServer(format!(
                "there is no `mariadbd` or `mysqld` in {}: {ADVICE}",
                prefix.display()
            ))
        })?);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = FOLDERS.iter().map(PathBuf::from).chain(std::env::split_paths(&path));
    let mut seen = BTreeSet::new();
    let servers = folders.filter_map(|folder| server_in(&folder));
    let servers = servers.filter(|server| seen.insert(fs::canonicalize(server).ok()));
    let found: Vec<_> = servers.map(Programs::look).collect();
    let (fit, unfit): (Vec<_>, Vec<_>) = found.into_iter().partition(Result::is_ok);
    let fit = fit.into_iter().flatten();
    let best = fit.max_by_key(|one| (Some(one.product) == wanted, one.product, series(&one.version)));
    match (best, unfit.into_iter().find_map(Result::err)) {
        (Some(best), _) => Ok(best),
        (None, Some(error)) => Err(error),
        (None, None) => Err(ComputeError::MissingServer(format!(
            "there is no server program of MariaDB or MySQL (`mariadbd`, `mysqld`): {ADVICE}"
        ))),
    }
}

fn server_in(folder: &Path) -> Option<PathBuf> {
    SERVERS.iter().map(|name| folder.join(name)).find(|server| server.is_file())
}

fn has_libraries(folder: &Path) -> bool {
    // Not the system's own, which happen to lie beside its programs on some machines.
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name()).any(|name| {
        let name = name.to_string_lossy();
        name.starts_with("lib") && name.contains(".so")
    })
}

fn environment(libraries: Option<&Path>) -> Vec<(String, OsString)> {
    let Some(libraries) = libraries else { return Vec::new() };
    let mut value = OsString::from(libraries);
    if let Some(inherited) = std::env::var_os("LD_LIBRARY_PATH").filter(|value| !value.is_empty()) {
        value.push(":");
        value.push(inherited);
    }
    vec![("LD_LIBRARY_PATH".to_owned(), value)]
}

fn identify(server: &Path, libraries: Option<&Path>) -> Result<(Product, String), ComputeError> {
    let mut program = Program::new(server, vec!["--no-defaults".into(), "--version".into()], None);
    program.environment = environment(libraries);
    let printed = program.command().stdout(Stdio::piped()).stderr(Stdio::null()).output();
    let printed = printed
        .map_err(|source| ComputeError::Io { what: format!("running {}", server.display()), source })?;
    let printed = String::from_utf8_lossy(&printed.stdout).into_owned();
    let version = parse_version(&printed).ok_or_else(|| {
        ComputeError::MissingServer(format!(
            "{} is no server of MariaDB or MySQL, or does not run",
            server.display()
        ))
    })?;
    let product = Product::of_version(&version).ok_or_else(|| {
        ComputeError::MissingServer(format!(
            "{} is version {version}; served are MySQL 5.6, MySQL from 8.0 and MariaDB from 10.4: {ADVICE}",
            server.display()
        ))
    })?;
    Ok((product, version))
}

/// The version in what `mysqld --version` prints: `mysqld  Ver 9.7.4-2 for Linux on x86_64 ((Debian))`.
fn parse_version(printed: &str) -> Option<String> {
    let (_, version) = printed.split_once("Ver ")?;
    let version = version.split_whitespace().next()?;
    series(version).map(|_| version.to_owned())
}

/// The first two numbers of a version.
pub fn series(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_tell_the_products_apart() {
        let product = |printed: &str| Product::of_version(&parse_version(printed).unwrap());
        let mariadb = "mariadbd  Ver 10.11.19-MariaDB-0+deb12u1 for debian-linux-gnu on x86_64 (Debian 12)\n";
        assert_eq!(parse_version(mariadb).unwrap(), "10.11.19-MariaDB-0+deb12u1");
        assert_eq!(product(mariadb), Some(Product::MariaDb));
        assert_eq!(product("/x/mysqld  Ver 9.7.4-2 for Linux on x86_64 ((Debian))"), Some(Product::MySql));
        assert_eq!(product("mysqld  Ver 5.6.24 for linux-glibc2.5"), Some(Product::MySql56));
        assert_eq!(product("mysqld  Ver 5.7.44 for Linux"), None);
        assert_eq!(parse_version("postgres (PostgreSQL) 15.20"), None);
        assert!(series("10.11.19") > series("10.4.1"));
    }

    #[test]
    fn a_missing_server_names_the_package() {
        let folder = tempfile::tempdir().unwrap();
        let error = find(Some(folder.path()), None).unwrap_err().to_string();
        assert!(error.contains("package `mariadb-server`"), "{error}");
    }
}
