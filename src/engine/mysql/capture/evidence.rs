//! What the server tells of locks, counters and hidden statements, and which obstacle follows.
//!
//! * MariaDB's plugin `metadata_lock_info` and MySQL's `performance_schema` list every lock-like state, however it came
//!   about. Where there is neither (MySQL 5.6, the plugin not loaded), the counters of `HANDLER` and what was seen in the
//!   client's statements must do.
//! * `Com_*` counters of the session count what stored routines do, too. More than the wire has seen: something is hidden.

use bytes::Bytes;

use super::super::answer::ascii;
use super::super::capability::Product;
use super::super::log_in::LoggedIn;
use super::super::state::Wire;
use crate::engine::Obstacle;

/// Under which id the router finds in its own name what the session's user may not see. MariaDB shows it everything.
pub fn observable(logged_in: &LoggedIn) -> Option<u32> {
    (logged_in.product() == Product::MySql).then_some(logged_in.connection_id)
}

/// What the router asks about those connections. The first column is the connection's id; names and texts are in
/// hexadecimal. Without autocommit, whoever asks `performance_schema` (`SHOW STATUS` does) keeps its tables locked: that
/// is no obstacle.
pub fn observation(connection_ids: &[u32]) -> String {
    let ids: Vec<String> = connection_ids.iter().map(u32::to_string).collect();
    let them = format!("t.PROCESSLIST_ID IN ({})", ids.join(","));
    let of = |table: &str, column: &str| {
        format!(
            "performance_schema.threads t JOIN performance_schema.{table} x ON x.{column}=t.THREAD_ID WHERE {them}"
        )
    };
    let (locks, variables, statements) = (
        of("metadata_locks", "OWNER_THREAD_ID"),
        of("user_variables_by_thread", "THREAD_ID"),
        of("prepared_statements_instances", "OWNER_THREAD_ID"),
    );
    format!(
        "SELECT t.PROCESSLIST_ID,'S',(SELECT i.ENABLED FROM performance_schema.setup_instruments i \
         WHERE i.NAME='wait/lock/metadata/sql/mdl'),t.INSTRUMENTED FROM performance_schema.threads t WHERE {them} \
         UNION ALL SELECT t.PROCESSLIST_ID,'L',CONCAT_WS(' ',x.OBJECT_TYPE,x.LOCK_TYPE,x.LOCK_DURATION),NULL FROM {locks} \
         AND x.LOCK_STATUS='GRANTED' AND NOT(x.OBJECT_SCHEMA<=>'performance_schema') \
         UNION ALL SELECT t.PROCESSLIST_ID,'V',HEX(x.VARIABLE_NAME),NULL FROM {variables} \
         UNION ALL SELECT t.PROCESSLIST_ID,'P',HEX(x.STATEMENT_NAME),HEX(x.SQL_TEXT) FROM {statements} \
         AND x.STATEMENT_NAME IS NOT NULL"
    )
}

/// MariaDB's locks of one connection. `CONNECTION_ID()` would say what the client has set `pseudo_thread_id` to.
pub(super) fn locks(connection_id: u32) -> String {
    format!(
        "SELECT LOCK_TYPE,LOCK_MODE FROM information_schema.METADATA_LOCK_INFO WHERE THREAD_ID={connection_id}"
    )
}

/// What was observed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Observed {
    /// The locks were asked for; the gravest one.
    locks: Option<Option<Obstacle>>,
    /// A lock that lasts as long as `LOCK TABLES` does, or as the statement that has just been answered: the server
    /// releases those of a `COM_STMT_PREPARE` after it has answered.
    brief: bool,
    complete: bool,
    /// Names of user variables.
    pub(super) names: Vec<Bytes>,
    /// Names and texts of statements of `PREPARE`.
    pub(super) statements: Vec<(Bytes, Bytes)>,
}

impl Observed {
    /// Reads the answer to [`observation`].
    pub(super) fn read(rows: &[Vec<Option<String>>]) -> Observed {
        let mut observed = Observed::default();
        for row in rows {
            let [_id, Some(tag), first, second] = &row[..] else { continue };
            let text = |value: &Option<String>| {
                value.as_ref().and_then(|text| hex::decode(text).ok()).map(Bytes::from).unwrap_or_default()
            };
            match tag.as_str() {
                "S" => {
                    observed.complete = second.as_deref() == Some("YES");
                    if observed.complete && first.as_deref() == Some("YES") {
                        observed.locks.get_or_insert_default();
                    }
                }
                "L" => match first.as_deref().and_then(lock_of_mysql) {
                    Some(found) => observed.locks = Some(observed.locks.flatten().or(Some(found))),
                    None => observed.brief = true,
                },
                "V" => observed.names.push(text(first)),
                "P" => observed.statements.push((text(first), text(second))),
                _ => {}
            }
        }
        observed
    }

    /// The session could be observed.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// They will be asked for again.
    pub(super) fn forget_locks(&mut self, product: Product) {
        if product == Product::MariaDb {
            self.locks = None;
        }
    }

    /// The answer to [`locks`].
    pub(super) fn locks_of_mariadb(&mut self, rows: &[Vec<Option<Bytes>>]) {
        let text = |row: &[Option<Bytes>], at: usize| {
            row.get(at).and_then(|value| value.as_deref()).map(ascii).unwrap_or_default()
        };
        let found = rows.iter().map(|row| lock_of_mariadb(&text(row, 0), &text(row, 1))).min_by_key(grave);
        self.locks = Some(found);
    }
}

/// A lock of a table while something graver is held, too, is not the point.
fn grave(obstacle: &Obstacle) -> u8 {
    match obstacle {
        Obstacle::NamedLock => 0,
        Obstacle::Backup => 1,
        Obstacle::TableLock => 2,
        _ => 3,
    }
}

/// What is held until it is given up; `None`: to the end of a statement, a transaction, or of `LOCK TABLES`.
fn lock_of_mysql(lock: &str) -> Option<Obstacle> {
    match lock.strip_suffix(" EXPLICIT")? {
        lock if lock.starts_with("USER LEVEL LOCK") => Some(Obstacle::NamedLock),
        lock if lock.starts_with("TABLE ") => Some(Obstacle::Handler),
        _ => Some(Obstacle::TableLock),
    }
}

fn lock_of_mariadb(kind: &[u8], mode: &[u8]) -> Obstacle {
    match (kind, mode) {
        (b"User lock", _) => Obstacle::NamedLock,
        (_, b"MDL_SHARED_READ") => Obstacle::Handler,
        (_, mode) if mode.starts_with(b"MDL_BACKUP_FTWRL") => Obstacle::TableLock,
        (_, b"MDL_BACKUP_DDL" | b"MDL_BACKUP_DML" | b"MDL_BACKUP_TRANS_DML") => Obstacle::TableLock,
        (_, mode) if mode.starts_with(b"MDL_BACKUP") => Obstacle::Backup,
        _ => Obstacle::TableLock,
    }
}

/// The counters that are asked for; MySQL counts temporary tables together with the others.
fn counted(product: Product) -> [&'static str; 7] {
    let creates = match product {
        Product::MariaDb => "Com_create_temporary_table",
        Product::MySql | Product::MySql56 => "Com_create_table",
    };
    [
        creates,
        "Com_prepare_sql",
        "Com_dealloc_sql",
        "Com_ha_open",
        "Com_ha_close",
        "Com_lock_tables",
        "Com_flush",
    ]
}

/// What the session has done since its log in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counters {
    creates: u64,
    prepares: u64,
    deallocations: u64,
    opened: u64,
    closed: u64,
    /// `LOCK TABLES`, and `FLUSH TABLES … WITH READ LOCK` among others.
    locks: u64,
}

impl Counters {
    pub(super) fn query(product: Product) -> String {
        format!("SHOW SESSION STATUS WHERE Variable_name IN ('{}')", counted(product).join("','"))
    }

    /// `None`: not every one of them is there, so none means anything.
    pub(super) fn read(rows: &[Vec<Option<Bytes>>]) -> Option<Counters> {
        let mut counters = Counters::default();
        for row in rows {
            let [Some(name), Some(value)] = &row[..] else { return None };
            let value: u64 = std::str::from_utf8(&ascii(value)).ok()?.parse().ok()?;
            match ascii(name).as_ref() {
                b"Com_create_temporary_table" | b"Com_create_table" => counters.creates = value,
                b"Com_prepare_sql" => counters.prepares = value,
                b"Com_dealloc_sql" => counters.deallocations = value,
                b"Com_ha_open" => counters.opened = value,
                b"Com_ha_close" => counters.closed = value,
                b"Com_lock_tables" | b"Com_flush" => counters.locks += value,
                _ => return None,
            }
        }
        (rows.len() == 7).then_some(counters)
    }

    fn hides_tables(&self, product: Product, wire: &Wire) -> bool {
        let seen = match product {
            Product::MariaDb => wire.temporary_creates,
            Product::MySql | Product::MySql56 => wire.creates,
        };
        self.creates > seen
    }

    /// Statements were prepared that the wire has not seen, and not given up again.
    fn hides_statements(&self, wire: &Wire) -> bool {
        let hidden = self.prepares.saturating_sub(wire.prepares);
        hidden > self.deallocations.saturating_sub(wire.deallocations)
    }
}

/// What keeps the session where it is.
pub(super) fn obstacle(
    product: Product,
    observed: &Observed,
    counters: Option<&Counters>,
    wire: &Wire,
) -> Option<Obstacle> {
    let Some(counters) = counters else { return Some(Obstacle::Unknown) };
    if let Some(lock) = observed.locks.flatten() {
        return Some(lock);
    }
    if observed.brief && counters.locks > 0 {
        return Some(Obstacle::TableLock);
    }
    if !wire.temporary_tables.is_empty() || counters.hides_tables(product, wire) {
        return Some(Obstacle::TemporaryTable);
    }
    if !observed.complete && counters.hides_statements(wire) {
        return Some(Obstacle::PreparedStatement);
    }
    if observed.locks.is_none() && counters.opened > counters.closed {
        return Some(Obstacle::Handler);
    }
    wire.suspicion.filter(|suspicion| match suspicion {
        // What can be seen need not be suspected.
        Obstacle::TableLock | Obstacle::NamedLock | Obstacle::Backup | Obstacle::Handler => {
            observed.locks.is_none()
        }
        Obstacle::TemporaryTable => false,
        _ => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(creates: u64, prepares: u64, deallocations: u64, handlers: u64) -> Counters {
        Counters { creates, prepares, deallocations, opened: handlers, closed: 0, locks: 0 }
    }

    fn row(values: &[&str]) -> Vec<Option<String>> {
        values.iter().map(|text| (!text.is_empty()).then(|| (*text).to_owned())).collect()
    }

    #[test]
    fn every_counter_must_be_there() {
        let bytes = |text: &str| Some(Bytes::copy_from_slice(text.as_bytes()));
        let row = |name: &str| vec![bytes(name), bytes("2")];
        let mut rows: Vec<_> = counted(Product::MariaDb).into_iter().map(row).collect();
        assert_eq!(Counters::read(&rows).map(|counters| (counters.creates, counters.closed)), Some((2, 2)));
        rows.pop();
        assert_eq!(Counters::read(&rows), None);
    }

    #[test]
    fn more_than_was_seen_is_hidden() {
        let wire =
            Wire { creates: 3, temporary_creates: 1, prepares: 2, deallocations: 1, ..Wire::default() };
        let judge =
            |product, counters: Counters| obstacle(product, &Observed::default(), Some(&counters), &wire);
        assert_eq!(judge(Product::MariaDb, counters(1, 2, 1, 0)), None);
        assert_eq!(judge(Product::MariaDb, counters(2, 2, 1, 0)), Some(Obstacle::TemporaryTable));
        assert_eq!(judge(Product::MySql56, counters(3, 2, 1, 0)), None);
        assert_eq!(judge(Product::MySql56, counters(4, 2, 1, 0)), Some(Obstacle::TemporaryTable));
        // A routine that gives up what it has prepared leaves nothing behind.
        assert_eq!(judge(Product::MySql56, counters(3, 5, 4, 0)), None);
        assert_eq!(judge(Product::MySql56, counters(3, 5, 3, 0)), Some(Obstacle::PreparedStatement));
        assert_eq!(judge(Product::MySql56, counters(3, 2, 1, 1)), Some(Obstacle::Handler));
        assert_eq!(obstacle(Product::MySql56, &Observed::default(), None, &wire), Some(Obstacle::Unknown));
    }

    #[test]
    fn what_is_seen_need_not_be_suspected() {
        let seen = Observed::read(&[row(&["7", "S", "YES", "YES"]), row(&["7", "V", "C3A4", ""])]);
        assert_eq!((seen.is_complete(), &seen.names[0][..]), (true, "\u{e4}".as_bytes()));
        let wire = Wire { suspicion: Some(Obstacle::NamedLock), ..Wire::default() };
        let none = counters(0, 0, 0, 0);
        assert_eq!(obstacle(Product::MySql, &seen, Some(&none), &wire), None);
        let off = Observed::read(&[row(&["7", "S", "NO", "YES"])]);
        assert_eq!(obstacle(Product::MySql, &off, Some(&none), &wire), Some(Obstacle::NamedLock));
        let locked =
            Observed::read(&[row(&["7", "S", "YES", "YES"]), row(&["7", "L", "TABLE SHARED EXPLICIT", ""])]);
        assert_eq!(obstacle(Product::MySql, &locked, Some(&none), &wire), Some(Obstacle::Handler));
        assert!(!Observed::read(&[]).is_complete());
        // What the last statement has locked is released a moment after its answer.
        let row = row(&["7", "L", "TABLE SHARED_READ TRANSACTION", ""]);
        let passing = Observed { brief: true, ..seen };
        assert_eq!(Observed::read(&[row]).locks, None);
        assert_eq!(obstacle(Product::MySql, &passing, Some(&none), &wire), None);
        let locking = Counters { locks: 1, ..none };
        assert_eq!(obstacle(Product::MySql, &passing, Some(&locking), &wire), Some(Obstacle::TableLock));
    }
}
