//! What the operating system lets this process have.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The hard limit of open file descriptors: what [`raise_descriptor_limit`] can reach.
pub fn descriptor_limit() -> u64 {
    // Without an answer the usual soft limit is the careful guess.
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(_, hard)| hard)
}

/// Raises the soft limit of open file descriptors to the hard limit; returns it.
///
/// # Errors
/// The system's error; the limit is then as it was.
pub fn raise_descriptor_limit() -> std::io::Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

/// Sessions that fit the descriptors: each takes one for the client and one for its backend.
pub(super) fn most_sessions() -> usize {
    usize::try_from(descriptor_limit() / 2).unwrap_or(usize::MAX)
}
