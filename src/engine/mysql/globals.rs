//! What is the server's own and not a session's: settings changed while it runs, tables in memory, dirty pages.

use crate::engine::Flush;
use crate::engine::mysql::capability::Product;

/// InnoDB writes dirty pages when none may be left: once a second, and no more of them than `innodb_io_capacity`, which is 200
/// where nobody has set it.
pub const FLUSH: Flush = Flush {
    begin: &[
        "SET GLOBAL innodb_io_capacity_max = 40000",
        "SET GLOBAL innodb_io_capacity = 20000",
        "SET GLOBAL innodb_max_dirty_pages_pct_lwm = 0",
        "SET GLOBAL innodb_max_dirty_pages_pct = 0",
    ],
    left: Some((
        "SHOW GLOBAL STATUS LIKE 'Innodb_buffer_pool_pages_dirty'",
        // A stop writes that many in a few milliseconds; the last few are dirtied again by InnoDB itself.
        50,
    )),
    changes: Some(
        "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('innodb_io_capacity', 'innodb_io_capacity_max', \
         'innodb_max_dirty_pages_pct', 'innodb_max_dirty_pages_pct_lwm')",
    ),
};

/// Every restart empties a MEMORY table. The row count of such a table is exact.
pub const MEMORY_TABLES: &str = "SELECT 1 FROM information_schema.TABLES WHERE ENGINE = 'MEMORY' AND TABLE_ROWS > 0 \
     AND TABLE_SCHEMA NOT IN ('information_schema', 'performance_schema', 'mysql', 'sys') LIMIT 1";

/// Name and value of every global variable.
pub fn query(product: Product) -> &'static str {
    match product {
        Product::MariaDb => {
            "SELECT VARIABLE_NAME, GLOBAL_VALUE FROM information_schema.SYSTEM_VARIABLES \
             WHERE GLOBAL_VALUE IS NOT NULL AND READ_ONLY = 'NO'"
        }
        Product::MySql => "SELECT VARIABLE_NAME, VARIABLE_VALUE FROM performance_schema.global_variables",
        Product::MySql56 => "SHOW GLOBAL VARIABLES",
    }
}

/// Not carried over by `SET GLOBAL`: capacity governs it, or it says what the server has done and not what it was told.
const NOT_CARRIED: [&str; 30] = [
    "error_count",
    "gtid_binlog_pos",
    "gtid_binlog_state",
    "gtid_executed",
    "gtid_purged",
    "gtid_slave_pos",
    "host_cache_size",
    "identity",
    "innodb_buffer_pool_chunk_size",
    "innodb_buffer_pool_dump_now",
    "innodb_buffer_pool_instances",
    "innodb_buffer_pool_load_abort",
    "innodb_buffer_pool_load_now",
    "innodb_buffer_pool_size",
    "innodb_log_buffer_size",
    "innodb_redo_log_capacity",
    "innodb_thread_concurrency",
    "insert_id",
    "key_buffer_size",
    "last_insert_id",
    "max_connections",
    "open_files_limit",
    "pseudo_thread_id",
    "rand_seed1",
    "rand_seed2",
    "table_definition_cache",
    "table_open_cache",
    "thread_cache_size",
    "timestamp",
    "warning_count",
];

/// Sets a variable for the whole server; `None`: it is not carried over.
pub fn set(name: &str, value: &str) -> Option<String> {
    let name = name.to_ascii_lowercase();
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    if NOT_CARRIED.contains(&name.as_str()) || !name.chars().all(plain) {
        return None;
    }
    // A number must not be quoted; anything else may be.
    if value.parse::<f64>().is_ok_and(f64::is_finite) {
        return Some(format!("SET GLOBAL {name} = {value}"));
    }
    let quoted = value.replace('\\', r"\\").replace('\'', "''");
    Some(format!("SET GLOBAL {name} = '{quoted}'"))
}

#[cfg(test)]
mod tests {
    use super::set;

    #[test]
    fn values_are_quoted_unless_they_are_numbers() {
        let set = |name, value| set(name, value).unwrap_or_default();
        assert_eq!(set("MAX_ALLOWED_PACKET", "1024"), "SET GLOBAL max_allowed_packet = 1024");
        assert_eq!(set("sql_mode", "A,B"), "SET GLOBAL sql_mode = 'A,B'");
        assert_eq!(set("init_connect", r"SET @a='\'"), r"SET GLOBAL init_connect = 'SET @a=''\\'''");
        assert_eq!(set("innodb_buffer_pool_size", "1"), "");
        assert_eq!(set("a b", "1"), "");
    }
}
