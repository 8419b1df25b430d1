//! Replication by global transaction identifiers, as far as it is a matter of statements. ("Using Global Transaction IDs" and
//! "gtid" in MariaDB's documentation, "Replication with Global Transaction Identifiers" and "The Clone Plugin" in MySQL's.)

use std::collections::BTreeMap;

use super::capability::Product;
use super::log_in::LoggedIn;
use crate::engine::{LogEnd, Objection, Replicating, RouterLogin};

/// What runs by itself would not go on where the copy takes over: there it is disabled.
const EVENTS: Objection = ("SELECT 1 FROM information_schema.EVENTS LIMIT 1", "it has scheduled events");
const PREPARED: Objection = ("XA RECOVER", "it has prepared transactions");
/// A clone has only InnoDB's tables, and files in the server's own folder.
const OTHER_ENGINES: Objection = (
    "SELECT 1 FROM information_schema.TABLES WHERE ENGINE <> 'InnoDB' AND TABLE_TYPE = 'BASE TABLE' AND TABLE_SCHEMA \
     NOT IN ('mysql', 'information_schema', 'performance_schema', 'sys') LIMIT 1",
    "it has tables that are not InnoDB's, which a clone has no rows of",
);
const OTHER_FOLDERS: Objection = (
    "SELECT 1 FROM information_schema.FILES WHERE FILE_NAME NOT LIKE './%' LIMIT 1",
    "it has tablespaces outside of its volume",
);
/// It would not go on where the copy takes over. (Asked when what is left of the router's own has been ended.)
const FOLLOWS: &str = "it follows a server of the operator's";
const LOG_OF_ROWS: Objection =
    ("SELECT 1 FROM DUAL WHERE @@global.binlog_format <> 'ROW'", "its log is not one of rows");

/// Whoever holds a table for longer is not waited for.
const LOCK_PATIENCE: &str = "SET SESSION lock_wait_timeout = 1";

const MARIADB: Replicating = Replicating {
    begin_copy: "DO 0",
    end_copy: "DO 0",
    copy_files: &[],
    objections: &[EVENTS, PREPARED, LOG_OF_ROWS, ("SHOW ALL SLAVES STATUS", FOLLOWS)],
    objections_anew: &[],
    needed_processes: "DO 0",
    // Waits for commits only, and closes no tables. ("BACKUP STAGE")
    hold_still: &[LOCK_PATIENCE, "BACKUP STAGE START", "BACKUP STAGE BLOCK_COMMIT"],
    written: "SELECT 'MariaDB', @@global.gtid_binlog_pos, @@global.gtid_binlog_state, @@global.server_id",
    write_out: "DO 0",
    repeated: "SELECT 'MariaDB', @@global.gtid_slave_pos, @@global.gtid_binlog_state FROM information_schema.GLOBAL_STATUS \
               WHERE VARIABLE_NAME = 'Slave_running' AND VARIABLE_VALUE = 'ON'",
    is_writable: "SELECT IF(@@global.read_only, 'f', 't')",
    source: "SHOW SLAVE STATUS",
    settle: &["STOP SLAVE", "RESET SLAVE ALL"],
};

const MYSQL: Replicating = Replicating {
    objections: &[EVENTS, PREPARED, ("SHOW REPLICA STATUS", FOLLOWS)],
    objections_anew: &[OTHER_ENGINES, OTHER_FOLDERS],
    hold_still: &[LOCK_PATIENCE, "FLUSH TABLES WITH READ LOCK"],
    written: "SELECT 'MySQL', @@global.gtid_executed, @@global.server_uuid",
    repeated: "SELECT 'MySQL', @@global.gtid_executed FROM performance_schema.replication_connection_status AS c \
               JOIN performance_schema.replication_applier_status AS a USING (CHANNEL_NAME) \
               WHERE c.SERVICE_STATE = 'ON' AND a.SERVICE_STATE = 'ON'",
    source: "SHOW REPLICA STATUS",
    settle: &["STOP REPLICA", "RESET REPLICA ALL"],
    ..MARIADB
};

pub(super) fn statements(router: &LoggedIn) -> Option<&'static Replicating> {
    match router.product() {
        Product::MariaDb => Some(&MARIADB),
        // The first with these words.
        Product::MySql if numbers(&router.contract().version) >= [8, 0, 23] => Some(&MYSQL),
        Product::MySql | Product::MySql56 => None,
    }
}

fn numbers(version: &str) -> [u32; 3] {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    std::array::from_fn(|_| numbers.next().unwrap_or(0))
}

/// The answer to `written`. Its history names the server first, then who has written what.
pub(super) fn written(row: &[Option<String>]) -> Option<LogEnd> {
    let text = |at: usize| row.get(at)?.as_deref();
    let (end, history) = match text(0)? {
        "MariaDB" => (sequence(text(1)?)?, format!("{};{}", text(3)?, text(2)?)),
        _ => {
            let end = transactions(text(1)?)?.values().sum();
            (end, format!("{};{}", text(2)?.to_ascii_lowercase(), text(1)?))
        }
    };
    Some(LogEnd { end, history, on_disk: true })
}

/// What the server itself has written comes by and by; of everybody else the copy may have nothing that the server has not.
pub(super) fn repeated(row: &[Option<String>], history: &str) -> Option<u64> {
    let text = |at: usize| row.get(at)?.as_deref();
    let (server, theirs) = history.split_once(';')?;
    let (end, theirs, own) = match text(0)? {
        "MariaDB" => (sequence(text(1)?)?, last_of_each(theirs)?, last_of_each(text(2)?)?),
        _ => {
            let own = transactions(text(1)?)?;
            (own.values().sum(), transactions(theirs)?, own)
        }
    };
    let is_known = |(origin, count): (&String, &u64)| {
        origin == server || theirs.get(origin).is_some_and(|known| count <= known)
    };
    own.iter().all(is_known).then_some(end)
}

/// The number of the last transaction in MariaDB's `domain-server-number`; only the domain 0 is followed.
fn sequence(position: &str) -> Option<u64> {
    if position.is_empty() {
        return Some(0);
    }
    match parts(position)? {
        ("0", _, number) => Some(number),
        _ => None,
    }
}

fn parts(position: &str) -> Option<(&str, &str, u64)> {
    let mut parts = position.trim().splitn(3, '-');
    Some((parts.next()?, parts.next()?, parts.next()?.parse().ok()?))
}

/// By server: the last transaction that it wrote.
fn last_of_each(state: &str) -> Option<BTreeMap<String, u64>> {
    let all = state.split(',').filter(|position| !position.is_empty());
    all.map(|position| parts(position).map(|(_, server, number)| (server.to_owned(), number))).collect()
}

/// By server (and tag, if there is one): how many transactions are in MySQL's `uuid:1-5:7, uuid:1-3:tag:1`.
fn transactions(set: &str) -> Option<BTreeMap<String, u64>> {
    let mut counts = BTreeMap::new();
    for origin in set.split(',').map(str::trim).filter(|origin| !origin.is_empty()) {
        let mut parts = origin.split(':');
        let server = parts.next()?.to_ascii_lowercase();
        let mut key = server.clone();
        for part in parts {
            if !part.starts_with(|c: char| c.is_ascii_digit()) {
                key = format!("{server}:{part}");
                continue;
            }
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?);
            *counts.entry(key.clone()).or_insert(0) += last.checked_sub(first)?.checked_add(1)?;
        }
    }
    Some(counts)
}

pub(super) fn follow(product: Product, port: u16, since: Option<&str>, login: &RouterLogin) -> Vec<String> {
    let (user, password) = (quoted(&login.user), quoted(&login.password));
    match product {
        Product::MariaDb => {
            // The binary log of a new copy is empty: it is told what came before it, so that others can follow from there.
            let place = match since {
                Some(position) => vec![
                    "RESET MASTER".to_owned(),
                    format!("SET GLOBAL gtid_binlog_state = {}", quoted(position)),
                    format!("SET GLOBAL gtid_slave_pos = {}", quoted(position)),
                ],
                None => vec!["SET GLOBAL gtid_slave_pos = @@global.gtid_current_pos".to_owned()],
            };
            let source = format!(
                "CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {port}, MASTER_USER = {user}, \
                 MASTER_PASSWORD = {password}, MASTER_SSL = 0, MASTER_USE_GTID = slave_pos, MASTER_CONNECT_RETRY = 1"
            );
            let begin = ["STOP SLAVE".to_owned()].into_iter();
            begin.chain(place).chain([source, "START SLAVE".to_owned()]).collect()
        }
        Product::MySql => vec![
            "STOP REPLICA".to_owned(),
            format!(
                "CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = {port}, SOURCE_USER = {user}, \
                 SOURCE_SSL = 0, SOURCE_AUTO_POSITION = 1, SOURCE_CONNECT_RETRY = 1, SOURCE_RETRY_COUNT = 0, GET_SOURCE_PUBLIC_KEY = 1"
            ),
            // A password that is named here is not written down.
            format!("START REPLICA USER = {user} PASSWORD = {password}"),
        ],
        Product::MySql56 => Vec::new(),
    }
}

pub(super) fn clone_to(folder: &str) -> String {
    format!("CLONE LOCAL DATA DIRECTORY = {}", quoted(folder))
}

/// In the default `sql_mode`, which the router's own sessions have.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', r"\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(columns: &[&str]) -> Vec<Option<String>> {
        columns.iter().map(|column| Some((*column).to_owned())).collect()
    }

    #[test]
    fn a_mariadb_follows_only_who_has_all_that_it_has() {
        let end = written(&row(&["MariaDB", "0-1-120", "0-2-90,0-1-120", "1"])).unwrap();
        assert_eq!(end.end, 120);
        let at = |position, state| repeated(&row(&["MariaDB", position, state]), &end.history);
        assert_eq!(at("0-1-119", "0-2-90,0-1-119"), Some(119));
        assert_eq!(at("0-2-90", ""), Some(90));
        assert_eq!(at("", ""), Some(0));
        // Already further than when the server was asked.
        assert_eq!(at("0-1-130", "0-1-130"), Some(130));
        assert_eq!(at("0-1-119", "0-2-121,0-1-119"), None);
        assert_eq!(at("0-1-119", "0-3-1"), None);
        assert_eq!(at("1-1-119", "0-1-119"), None);
        assert_eq!(written(&row(&["MariaDB", "0-1-120,1-1-3", "0-1-120", "1"])), None);
    }

    #[test]
    fn a_mysql_follows_only_who_has_all_that_it_has() {
        let (one, two) = ("3E11FA47-71CA-11E1-9E33-C80AA9429562", "4e11fa47-71ca-11e1-9e33-c80aa9429562");
        let end = written(&row(&["MySQL", &format!("{one}:1-5:7,\n{two}:1-100"), one])).unwrap();
        assert_eq!(end.end, 106);
        let at = |set: &str| repeated(&row(&["MySQL", set]), &end.history);
        assert_eq!(at(&format!("{one}:1-5,{two}:1-100")), Some(105));
        assert_eq!(at(&format!("{one}:1-9,{two}:1-100")), Some(109));
        assert_eq!(at(&format!("{one}:1-5,{two}:1-101")), None);
        assert_eq!(at(&format!("{one}:1-5:own:1,{two}:1-100")), None);
        assert_eq!(at(""), Some(0));
        assert_eq!(at("nonsense:5-1"), None);
    }

    #[test]
    fn only_servers_with_these_words_are_followed() {
        assert_eq!(numbers("8.0.36-28"), [8, 0, 36]);
        assert!(numbers("9.7.4-2") > [8, 0, 23] && numbers("8.0.22") < [8, 0, 23]);
    }
}
