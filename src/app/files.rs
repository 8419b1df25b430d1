//! The folders and secrets of a data directory: made on the first start, checked on every other.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::Failure;
use crate::compute::process::{ServerKind, admit_server_user};
use crate::router::random;

/// A password in a file is not longer than this.
const MAX_PASSWORD: usize = 1024;

/// Makes the data directory, mode 0700 but for the users that the servers run as, and returns its absolute path.
pub(super) fn data_dir(path: &Path, servers: &[ServerKind]) -> Result<PathBuf, Failure> {
    private_dir(path)?;
    let path = fs::canonicalize(path).map_err(|error| format!("{}: {error}", path.display()))?;
    for server in servers {
        admit_server_user(&path, *server).map_err(|error| error.to_string())?;
    }
    Ok(path)
}

/// Makes a folder with mode 0700; one that is there stays as it is.
pub(super) fn private_dir(path: &Path) -> Result<(), Failure> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| format!("cannot make the folder {}: {error}", path.display()))
}

/// The secret that makes stand-ins for unknown accounts; the same at every start.
pub(super) fn secret(path: &Path) -> Result<[u8; 32], Failure> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    match fs::read(path) {
        Ok(bytes) => bytes.try_into().map_err(|_| format!("{} is damaged; remove it", path.display())),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let secret = random();
            write_new(path, &secret).map_err(failed)?;
            Ok(secret)
        }
        Err(error) => Err(failed(error)),
    }
}

/// The master password; `true` if it was made just now.
pub(super) fn password(path: &Path) -> Result<(Zeroizing<String>, bool), Failure> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    match fs::read_to_string(path).map(Zeroizing::new) {
        Ok(text) => {
            let password = text.trim_end_matches(['\n', '\r']);
            if password.is_empty() || password.len() > MAX_PASSWORD {
                return Err(format!(
                    "{}: a password of 1 to {MAX_PASSWORD} bytes is expected",
                    path.display()
                ));
            }
            Ok((Zeroizing::new(password.to_owned()), false))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let password = Zeroizing::new(hex::encode(random::<16>()));
            write_new(path, format!("{}\n", &*password).as_bytes()).map_err(failed)?;
            Ok((password, true))
        }
        Err(error) => Err(failed(error)),
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Which process listens on a local TCP port, if this user may know.
pub(super) fn holder_of(port: u16) -> Option<String> {
    let wanted = format!(":{port:04X}");
    let mut inodes = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in fs::read_to_string(table).unwrap_or_default().lines().skip(1) {
            let columns: Vec<&str> = line.split_whitespace().collect();
            let listens =
                columns.get(3) == Some(&"0A") && columns.get(1).is_some_and(|a| a.ends_with(&wanted));
            inodes.extend(columns.get(9).filter(|_| listens).map(|inode| format!("socket:[{inode}]")));
        }
    }
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else { continue };
        let links = descriptors.flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
        if links.map(|link| link.to_string_lossy().into_owned()).any(|link| inodes.contains(&link)) {
            let name = fs::read_to_string(process.path().join("comm")).ok()?;
            return Some(format!("{}, pid {}", name.trim(), process.file_name().to_string_lossy()));
        }
    }
    None
}
