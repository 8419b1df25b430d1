//! Statements after which the binary log does not tell all that is written, or tells it to some only.

use super::Token;

/// Variables that say what of a session goes into the log, and as whose. (`gtid_executed`, which is only read, is none.)
const NAMES: [&[u8]; 9] = [
    b"sql_log_bin",
    b"binlog_format",
    b"skip_replication",
    b"server_id",
    b"gtid_next",
    b"gtid_seq_no",
    b"gtid_domain_id",
    b"gtid_purged",
    b"gtid_binlog_state",
];

/// `text`: a statement that sets, makes or prepares something, and what follows it: the name may stand in a string there, or in the
/// body of a routine. `verb`: its first word.
pub(super) fn is_unlogged(verb: Token<'_>, text: &[u8]) -> bool {
    // Events of another log, under other servers' names; and the end of this log.
    if verb.is("binlog") || verb.is("reset") {
        return true;
    }
    // One pass: a text of this kind may have a value of megabytes in it.
    let mut underscores = text.iter().enumerate().filter(|&(_, byte)| *byte == b'_').map(|(at, _)| at);
    underscores.any(|at| NAMES.iter().any(|name| stands_around(name, text, at)))
}

/// Whether the name's first underscore is the one at `at`.
fn stands_around(name: &[u8], text: &[u8], at: usize) -> bool {
    let before = name.iter().position(|&byte| byte == b'_').unwrap_or(0);
    let start = at.checked_sub(before);
    let part = start.and_then(|start| text.get(start..start + name.len()));
    part.is_some_and(|part| part.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::super::{Mode, Traits, scan};

    #[test]
    fn whatever_changes_what_is_logged_is_seen() {
        let is_unlogged = |text: &str| scan(text.as_bytes(), Mode::default()).traits.has(Traits::UNLOGGED);
        for text in [
            "SET sql_log_bin = 0",
            "set @a = 1, session Sql_Log_Bin=OFF",
            "SET @@SESSION.SQL_LOG_BIN= 0;",
            "SELECT 1; SET sql_log_bin = 0",
            "/*!50000 SET sql_log_bin = 0 */",
            "SET STATEMENT sql_log_bin = 0 FOR INSERT INTO t VALUES (1)",
            "PREPARE p FROM 'SET sql_log_bin = 0'",
            "EXECUTE IMMEDIATE 'SET sql_log_bin = 0'",
            "CREATE PROCEDURE p() BEGIN INSERT INTO t VALUES (1); SET sql_log_bin = 0; END",
            "BINLOG 'abc'",
            "RESET MASTER",
            "SET GLOBAL gtid_purged = ''",
        ] {
            assert!(is_unlogged(text), "{text}");
        }
        for text in [
            "SELECT @@sql_log_bin",
            "SHOW VARIABLES LIKE 'sql_log_bin'",
            "SET sql_mode = ''",
            "INSERT INTO t VALUES (1)",
        ] {
            assert!(!is_unlogged(text), "{text}");
        }
    }
}
