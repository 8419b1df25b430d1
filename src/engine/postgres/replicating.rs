//! Physical replication, as far as it is a matter of statements: a base backup, and how far a server and its standby are.
//! ("Continuous Archiving", "Log-Shipping Standby Servers" and "System Administration Functions" in the manual.)

use crate::engine::{LogEnd, Replicating};

/// The first whose standbys are configured like all later ones'.
const FIRST: u32 = 13;
/// Bytes of a page's header in the write-ahead log, and of the first page's of a segment (`xlog_internal.h`).
const SHORT_HEADER: u64 = 24;
const LONG_HEADER: u64 = 40;

/// Since 15.
const BEGIN_COPY: &str = "SELECT pg_catalog.pg_backup_start('scalepoint', true)";
const END_COPY: &str = "SELECT labelfile, spcmapfile FROM pg_catalog.pg_backup_stop(false)";
/// Up to 14; not exclusive.
const BEGIN_COPY_14: &str = "SELECT pg_catalog.pg_start_backup('scalepoint', true, false)";
const END_COPY_14: &str = "SELECT labelfile, spcmapfile FROM pg_catalog.pg_stop_backup(false, false)";

/// Whatever else runs, by itself or for a client, might write.
const NEEDED: &str = "SELECT a.pid FROM pg_catalog.pg_stat_activity AS a \
    WHERE a.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid() \
    OR a.backend_type OPERATOR(pg_catalog.=) 'walsender' OR a.backend_type OPERATOR(pg_catalog.=) 'walwriter'";

/// The insert position counts what is not on disk yet.
const WRITTEN: &str = "SELECT pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_insert_lsn(), '0/0'), \
    pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_flush_lsn(), '0/0'), \
    pg_catalog.current_setting('wal_block_size'), \
    pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size'))";

/// A commit is on disk when it is answered, and with it all before it.
const WRITE_OUT: &str = "SELECT pg_catalog.set_config('synchronous_commit', 'local', false), \
    pg_catalog.pg_logical_emit_message(true, 'scalepoint', '')";

/// Nothing, unless it follows: a primary streams only to a server of its own history that is not ahead of it.
const REPEATED: &str = "SELECT pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_last_wal_replay_lsn(), '0/0') \
    FROM pg_catalog.pg_stat_wal_receiver AS r \
    WHERE r.status OPERATOR(pg_catalog.=) 'streaming' AND pg_catalog.pg_is_in_recovery()";
const IS_WRITABLE: &str = "SELECT NOT pg_catalog.pg_is_in_recovery()";

const COPY_FILES: [&str; 2] = ["backup_label", "tablespace_map"];

const STATEMENTS: Replicating = Replicating {
    begin_copy: BEGIN_COPY,
    end_copy: END_COPY,
    copy_files: &COPY_FILES,
    objections: &[],
    objections_anew: &[],
    needed_processes: NEEDED,
    hold_still: &[],
    written: WRITTEN,
    write_out: WRITE_OUT,
    repeated: REPEATED,
    is_writable: IS_WRITABLE,
    source: "",
    settle: &[],
};
const STATEMENTS_14: Replicating =
    Replicating { begin_copy: BEGIN_COPY_14, end_copy: END_COPY_14, ..STATEMENTS };

pub(super) fn statements(major: u32) -> Option<&'static Replicating> {
    match major {
        15.. => Some(&STATEMENTS),
        FIRST..=14 => Some(&STATEMENTS_14),
        _ => None,
    }
}

/// The end of the log, and whether that much is on disk. Where a page has just begun, the server counts its header in,
/// which comes to be only with the next record: a standby will never have repeated that far.
pub(super) fn written(row: &[Option<String>]) -> Option<LogEnd> {
    let number = |at: usize| row.get(at)?.as_deref()?.parse::<u64>().ok();
    let (inserted, flushed, page, segment) = (number(0)?, number(1)?, number(2)?, number(3)?);
    let end = if inserted.checked_rem(segment)? == LONG_HEADER {
        inserted - LONG_HEADER
    } else if inserted.checked_rem(page)? == SHORT_HEADER {
        inserted - SHORT_HEADER
    } else {
        inserted
    };
    // The server itself refuses a standby with a history of its own.
    Some(LogEnd { end, history: String::new(), on_disk: flushed >= end })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(numbers: [u64; 4]) -> Vec<Option<String>> {
        numbers.iter().map(|number| Some(number.to_string())).collect()
    }

    #[test]
    fn the_header_of_a_page_with_nothing_on_it_does_not_count() {
        const SEGMENT: u64 = 1 << 20;
        let at = |inserted, flushed| {
            written(&row([inserted, flushed, 8192, SEGMENT])).map(|read| (read.end, read.on_disk))
        };
        assert_eq!(at(5 * SEGMENT + 40, 5 * SEGMENT), Some((5 * SEGMENT, true)));
        assert_eq!(at(5 * SEGMENT + 8192 + 24, 5 * SEGMENT + 8192), Some((5 * SEGMENT + 8192, true)));
        // Not the first page of a segment: 16 bytes of a record that began before.
        assert_eq!(at(8192 + 40, 8192 + 40), Some((8192 + 40, true)));
        assert_eq!(at(8192 + 48, 8192 + 40), Some((8192 + 48, false)));
        assert_eq!(written(&row([1, 2, 0, 0])), None);
        assert_eq!(written(&[None]), None);
    }

    #[test]
    fn only_servers_that_can_be_followed_are() {
        assert!(statements(12).is_none());
        assert!(statements(14).is_some_and(|made| made.begin_copy.contains("pg_start_backup")));
        assert!(statements(18).is_some_and(|made| made.begin_copy.contains("pg_backup_start")));
    }
}
