//! A folder of character sets that only this cluster's server reads.
//!
//! MariaDB and MySQL open the index of the character sets when they have read their options and set themselves up, and
//! before they touch their volume: there a server that was started ahead can wait without anybody else being held up. (The
//! first files of the volume are no such place: MariaDB empties its log of DDL, and a clean stop of the old server removes
//! it; MySQL opens other ones with and without a binary log.)

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::compute::process::flavour::Site;

const INDEX: &str = "Index.xml";

/// Where it is: the file that the server opens first.
pub(super) fn index(site: &Site) -> PathBuf {
    site.beside_volume("charsets").join(INDEX)
}

/// Makes it anew from what the installation has: the index is a copy, the rest are links. Without, the server reads the
/// installation's own.
pub(super) fn make(site: &Site, share: Option<&Path>) -> io::Result<()> {
    let folder = site.beside_volume("charsets");
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let Some(share) = share else { return Ok(()) };
    let installed = fs::read_dir(share.join("charsets"))?;
    super::super::private_dir::ensure(&folder, site.user.as_ref()).map_err(io::Error::other)?;
    for file in installed {
        let file = file?;
        if file.file_name() != INDEX {
            symlink(fs::canonicalize(file.path())?, folder.join(file.file_name()))?;
        }
    }
    // Last: it is what the server is pointed at.
    let index = folder.join(INDEX);
    fs::copy(share.join("charsets").join(INDEX), &index)?;
    site.user.as_ref().map_or(Ok(()), |user| user.own(&index))
}
