//! Frees a server's shared memory after its end instead of before.
//!
//! Whoever is the last to have shared memory frees it page by page on its way out: 0.2 ms for each MiB, and clients wait
//! for that exit. The kernel shows each mapping as a file; with that open, the exit leaves the pages to us, and they are
//! freed while the next server starts. To open it takes `CAP_CHECKPOINT_RESTORE` or `CAP_SYS_ADMIN`: without, all is as
//! it would be otherwise.
//!
//! For the server this is no attachment: PostgreSQL looks at its small System V segment to see who is still there.

use std::fs::{self, File};

use tokio::task::JoinHandle;

/// How the kernel names anonymous shared memory. Huge pages have another name: they are freed in no time, and the next
/// server needs them.
const ANONYMOUS: &str = "/dev/zero (deleted)";
/// `vm.overcommit_memory`: memory that is promised twice may be refused, and then the next server would not start.
const STRICT: &str = "2";

/// A server's largest piece of shared memory, which stays until this is dropped.
#[derive(Debug)]
pub(super) struct SharedMemory {
    _mapping: Option<File>,
}

impl SharedMemory {
    /// Keeps that of a running process. `runs`: it has not been reaped yet, so that the number is still its own.
    pub(super) fn of(pid: u32, runs: impl FnOnce() -> bool) -> Self {
        let overcommit = fs::read_to_string("/proc/sys/vm/overcommit_memory").unwrap_or_default();
        if overcommit.trim() == STRICT {
            return Self { _mapping: None };
        }
        let mappings = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        let file = largest(&mappings).map(|range| format!("/proc/{pid}/map_files/{range}"));
        Self { _mapping: file.and_then(|file| File::open(file).ok()).filter(|_| runs()) }
    }

    /// Frees it if nobody else has it any more, on a thread that may take its time.
    pub(super) fn free(self) -> JoinHandle<()> {
        tokio::task::spawn_blocking(move || drop(self))
    }
}

/// The address range of the largest anonymous shared mapping in `/proc/PID/maps`.
fn largest(mappings: &str) -> Option<&str> {
    let shared = mappings.lines().filter_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let is_shared = rest.split(' ').next()?.ends_with('s') && rest.ends_with(ANONYMOUS);
        let (from, to) = range.split_once('-')?;
        let number = |address| u64::from_str_radix(address, 16).ok();
        is_shared.then_some((number(to)?.checked_sub(number(from)?)?, range))
    });
    shared.max().map(|(_, range)| range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_anonymous_shared_mapping_is_found() {
        let maps = "\
55e0c0a00000-55e0c0b00000 r-xp 00000000 08:01 11 /usr/lib/postgresql/15/bin/postgres
7f0000000000-7f0010000000 rw-p 00000000 00:00 0
7f1000000000-7f1000001000 rw-s 00000000 00:01 1031 /SYSV0052e2c1 (deleted)
7f1058027000-7f1060ebf000 rw-s 00000000 00:01 1030                       /dev/zero (deleted)
7f1070000000-7f1070010000 rw-s 00000000 00:01 1033                       /dev/zero (deleted)
7f2000000000-7f4000000000 rw-s 00000000 00:0f 1032                       /anon_hugepage (deleted)
";
        assert_eq!(largest(maps), Some("7f1058027000-7f1060ebf000"));
        assert_eq!(largest(""), None);
    }
}
