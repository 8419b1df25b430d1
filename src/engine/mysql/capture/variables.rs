//! Session variables that differ from the server's own values.
//!
//! A list of all that there are in the releases that are known makes for a question that costs a tenth of what the
//! server's own tables of variables cost; where the list does not fit, those are asked.

use bytes::Bytes;

use super::super::answer::ascii;
use super::super::capability::Product;
use super::super::save;

/// Names that are never set again: they follow from others, tell of the past, are read-only, or are seen to by hand.
const NOT_SET: [&str; 33] = [
    "character_set_connection",
    "character_set_database",
    "collation_database",
    "debug",
    "debug_sync",
    "error_count",
    "external_user",
    "gtid_executed",
    "gtid_owned",
    "hostname",
    "identity",
    "immediate_server_version",
    "in_transaction",
    "insert_id",
    "last_gtid",
    "last_insert_id",
    "max_allowed_packet",
    "max_user_connections",
    "net_buffer_length",
    "original_commit_timestamp",
    "original_server_version",
    "proxy_user",
    "pseudo_slave_mode",
    "pseudo_replica_mode",
    "pseudo_thread_id",
    "query_cache_type",
    "rand_seed1",
    "rand_seed2",
    "statement_id",
    "storage_engine",
    "timestamp",
    "warning_count",
    "wsrep_gtid_seq_no",
];

/// Whoever sets these takes part in replication: what he began belongs to this backend.
pub(super) const REPLICATION: [&str; 2] = ["gtid_next", "gtid_seq_no"];

/// A variable of that name is captured, and not one of [`save::variables`].
pub(super) fn is_carried(product: Product, name: &str) -> bool {
    !NOT_SET.contains(&name) && !save::variables(product).any(|always| always == name)
}

/// Names of session variables that have a global value to be compared with, in the release that the list was made of;
/// then those that have none, with the value of a session that has just logged in.
fn known(product: Product, version: &str) -> Option<(&'static str, &'static [(&'static str, &'static str)])> {
    let version = version.strip_prefix("5.5.5-").unwrap_or(version);
    match product {
        Product::MariaDb if version.starts_with("10.11.") => Some((MARIADB_10_11, &MARIADB_SESSION_ONLY)),
        Product::MySql if version.starts_with("9.7.") => Some((MYSQL_9_7, &MYSQL_SESSION_ONLY)),
        Product::MySql56 if version.starts_with("5.6.") => Some((MYSQL_5_6, &MYSQL_56_SESSION_ONLY)),
        Product::MariaDb | Product::MySql | Product::MySql56 => None,
    }
}

/// The names in the order of [`differing`]'s answer; `None`: no list fits this release.
pub(super) fn names(product: Product, version: &str) -> Option<Vec<&'static str>> {
    let (compared, own) = known(product, version)?;
    Some(compared.split_ascii_whitespace().chain(own.iter().map(|(name, _)| *name)).collect())
}

/// Yields a `1` for each variable that is as the server's own, and a `0` for each that is not.
pub(super) fn differing(product: Product, version: &str) -> Option<String> {
    let (compared, own) = known(product, version)?;
    let mut terms: Vec<String> =
        compared.split_ascii_whitespace().map(|name| format!("@@session.{name}<=>@@global.{name}")).collect();
    terms.extend(own.iter().map(|(name, value)| format!("@@session.{name}<=>{value}")));
    Some(format!("SELECT CONCAT({})", terms.join(",")))
}

/// The values of variables, in hexadecimal.
pub(super) fn values(names: &[&str]) -> String {
    let terms: Vec<String> =
        names.iter().map(|name| format!("HEX(CONVERT(@@session.{name} USING utf8mb4))")).collect();
    format!("SELECT {}", terms.join(","))
}

/// Names and values of all that differ, as the server lists them. On MySQL 5.6, of all that there are.
pub(super) fn listed(product: Product) -> &'static str {
    match product {
        Product::MariaDb => {
            "SELECT VARIABLE_NAME,HEX(SESSION_VALUE) FROM information_schema.SYSTEM_VARIABLES \
             WHERE VARIABLE_SCOPE='SESSION' AND READ_ONLY='NO' AND NOT(SESSION_VALUE<=>GLOBAL_VALUE)"
        }
        Product::MySql => {
            "SELECT s.VARIABLE_NAME,HEX(s.VARIABLE_VALUE) FROM performance_schema.session_variables s \
             JOIN performance_schema.global_variables g USING(VARIABLE_NAME) \
             WHERE NOT(s.VARIABLE_VALUE<=>g.VARIABLE_VALUE)"
        }
        Product::MySql56 => {
            "SELECT s.VARIABLE_NAME,HEX(s.VARIABLE_VALUE) FROM information_schema.SESSION_VARIABLES s \
             JOIN information_schema.GLOBAL_VARIABLES g USING(VARIABLE_NAME) \
             WHERE NOT(s.VARIABLE_VALUE<=>g.VARIABLE_VALUE)"
        }
    }
}

/// The answer to [`listed`].
pub(super) fn read_listed(
    product: Product,
    rows: &[Vec<Option<Bytes>>],
) -> Option<Vec<(Bytes, Option<Bytes>)>> {
    let mut settings = Vec::new();
    for row in rows {
        let name = ascii(row.first()?.as_deref()?).to_ascii_lowercase();
        let value = match row.get(1)? {
            Some(value) => Some(Bytes::from(hex::decode(ascii(value)).ok()?)),
            None => None,
        };
        if std::str::from_utf8(&name).is_ok_and(|name| is_carried(product, name)) {
            settings.push((Bytes::from(name), value));
        }
    }
    settings.sort_unstable();
    Some(settings)
}

const MARIADB_10_11: &str = "
    alter_algorithm analyze_max_length analyze_sample_percentage aria_repair_threads aria_sort_buffer_size
    aria_stats_method auto_increment_increment auto_increment_offset big_tables binlog_alter_two_phase
    binlog_annotate_row_events binlog_direct_non_transactional_updates binlog_format binlog_row_image
    bulk_insert_buffer_size character_set_filesystem character_set_server check_constraint_checks
    collation_server column_compression_threshold column_compression_zlib_level
    column_compression_zlib_strategy column_compression_zlib_wrap completion_type
    deadlock_search_depth_long deadlock_search_depth_short deadlock_timeout_long deadlock_timeout_short
    default_regex_flags default_storage_engine default_tmp_storage_engine default_week_format
    div_precision_increment enforce_storage_engine eq_range_index_dive_limit expensive_subquery_limit
    explicit_defaults_for_timestamp group_concat_max_len gtid_domain_id histogram_size histogram_type
    idle_readonly_transaction_timeout idle_transaction_timeout idle_write_transaction_timeout
    in_predicate_conversion_threshold innodb_compression_default innodb_default_encryption_key_id
    innodb_ft_enable_stopword innodb_ft_user_stopword_table innodb_lock_wait_timeout
    innodb_snapshot_isolation innodb_strict_mode innodb_table_locks innodb_tmpdir interactive_timeout
    join_buffer_size join_buffer_space_limit join_cache_level keep_files_on_create lc_messages
    lock_wait_timeout log_disabled_statements log_queries_not_using_indexes log_slow_admin_statements
    log_slow_disabled_statements log_slow_filter log_slow_max_warnings log_slow_rate_limit
    log_slow_slave_statements log_slow_verbosity log_warnings long_query_time low_priority_updates
    max_delayed_threads max_error_count max_heap_table_size max_insert_delayed_threads
    max_length_for_sort_data max_recursive_iterations max_relay_log_size max_rowid_filter_size
    max_seeks_for_key max_session_mem_used max_sort_length max_sp_recursion_depth min_examined_row_limit
    mrr_buffer_size myisam_repair_threads myisam_sort_buffer_size myisam_stats_method net_read_timeout
    net_retry_count net_write_timeout note_verbosity old old_alter_table old_mode old_passwords
    optimizer_adjust_secondary_key_costs optimizer_extra_pruning_depth optimizer_join_limit_pref_ratio
    optimizer_max_sel_arg_weight optimizer_max_sel_args optimizer_prune_level optimizer_search_depth
    optimizer_selectivity_sampling_limit optimizer_switch optimizer_trace optimizer_trace_max_mem_size
    optimizer_use_condition_selectivity preload_buffer_size profiling profiling_history_size
    progress_report_time query_alloc_block_size query_cache_strip_comments query_cache_wlock_invalidate
    query_prealloc_size range_alloc_block_size read_buffer_size read_rnd_buffer_size rowid_merge_buff_size
    server_id session_track_schema session_track_state_change session_track_system_variables
    session_track_transaction_info slow_query_log sort_buffer_size sql_buffer_result sql_if_exists
    sql_log_bin sql_log_off sql_notes sql_quote_show_create sql_safe_updates sql_warnings
    standard_compliant_cte system_versioning_alter_history system_versioning_insert_history
    thread_pool_priority tmp_disk_table_size tmp_memory_table_size tmp_table_size
    transaction_alloc_block_size transaction_prealloc_size updatable_views_with_limit use_stat_tables
    wait_timeout wsrep_dirty_reads wsrep_on wsrep_osu_method wsrep_retry_autocommit wsrep_sync_wait
    wsrep_trx_fragment_size wsrep_trx_fragment_unit
";

const MYSQL_9_7: &str = "
    auto_increment_increment auto_increment_offset big_tables binlog_direct_non_transactional_updates
    binlog_format binlog_row_image binlog_row_value_options binlog_rows_query_log_events
    binlog_transaction_compression binlog_transaction_compression_level_zstd block_encryption_mode
    bulk_insert_buffer_size character_set_filesystem character_set_server collation_server completion_type
    connection_memory_chunk_size connection_memory_limit cte_max_recursion_depth
    default_collation_for_utf8mb4 default_storage_engine default_table_encryption
    default_tmp_storage_engine default_week_format div_precision_increment enable_cascade_triggers
    enable_secondary_engine_statistics end_markers_in_json eq_range_index_dive_limit explain_format
    explain_json_format_version explicit_defaults_for_timestamp external_table_secondary_storage_engine
    external_table_storage_engine generated_random_password_length global_connection_memory_tracking
    group_concat_max_len group_replication_consistency histogram_generation_max_mem_size
    information_schema_stats_expiry innodb_ddl_buffer_size innodb_ddl_threads innodb_ft_enable_stopword
    innodb_ft_user_stopword_table innodb_lock_wait_timeout innodb_parallel_read_threads innodb_strict_mode
    innodb_table_locks innodb_tmpdir interactive_timeout internal_tmp_mem_storage_engine join_buffer_size
    keep_files_on_create lc_messages lock_wait_timeout long_query_time low_priority_updates
    max_delayed_threads max_error_count max_heap_table_size max_insert_delayed_threads
    max_length_for_sort_data max_points_in_geometry max_seeks_for_key max_sort_length
    max_sp_recursion_depth min_examined_row_limit myisam_sort_buffer_size myisam_stats_method
    net_read_timeout net_retry_count net_write_timeout old_alter_table optimizer_max_subgraph_pairs
    optimizer_prune_level optimizer_search_depth optimizer_switch optimizer_trace optimizer_trace_features
    optimizer_trace_limit optimizer_trace_max_mem_size optimizer_trace_offset parser_max_mem_size
    preload_buffer_size print_identified_with_as_hex profiling profiling_history_size
    query_alloc_block_size query_prealloc_size range_alloc_block_size range_optimizer_max_mem_size
    rbr_exec_mode read_buffer_size read_rnd_buffer_size restrict_fk_on_non_standard_key
    secondary_engine_cost_threshold select_into_buffer_size select_into_disk_sync
    select_into_disk_sync_delay session_track_gtids session_track_schema session_track_state_change
    session_track_system_variables session_track_transaction_info set_operations_buffer_size
    show_create_table_verbosity show_gipk_in_create_table_and_information_schema sort_buffer_size
    sql_buffer_result sql_generate_invisible_primary_key sql_log_off sql_notes sql_quote_show_create
    sql_require_primary_key sql_safe_updates sql_warnings terminology_use_previous tmp_table_size
    transaction_alloc_block_size transaction_prealloc_size updatable_views_with_limit wait_timeout
    windowing_use_high_precision xa_detach_on_prepare
";

const MYSQL_5_6: &str = "
    auto_increment_increment auto_increment_offset big_tables binlog_direct_non_transactional_updates
    binlog_format binlog_row_image binlog_rows_query_log_events block_encryption_mode
    bulk_insert_buffer_size character_set_filesystem character_set_server collation_server completion_type
    default_storage_engine default_tmp_storage_engine default_week_format div_precision_increment
    end_markers_in_json eq_range_index_dive_limit group_concat_max_len innodb_ft_enable_stopword
    innodb_ft_user_stopword_table innodb_lock_wait_timeout innodb_strict_mode innodb_support_xa
    innodb_table_locks interactive_timeout join_buffer_size keep_files_on_create lc_messages
    lock_wait_timeout long_query_time low_priority_updates max_delayed_threads max_error_count
    max_heap_table_size max_insert_delayed_threads max_length_for_sort_data max_seeks_for_key
    max_sort_length max_sp_recursion_depth min_examined_row_limit multi_range_count myisam_repair_threads
    myisam_sort_buffer_size myisam_stats_method net_read_timeout net_retry_count net_write_timeout new
    old_alter_table old_passwords optimizer_prune_level optimizer_search_depth optimizer_switch
    optimizer_trace optimizer_trace_features optimizer_trace_limit optimizer_trace_max_mem_size
    optimizer_trace_offset preload_buffer_size profiling profiling_history_size query_alloc_block_size
    query_cache_wlock_invalidate query_prealloc_size range_alloc_block_size read_buffer_size
    read_rnd_buffer_size show_old_temporals sort_buffer_size sql_buffer_result sql_log_bin sql_log_off
    sql_notes sql_quote_show_create sql_safe_updates sql_warnings tmp_table_size
    transaction_alloc_block_size transaction_prealloc_size updatable_views_with_limit wait_timeout
";

const MARIADB_SESSION_ONLY: [(&str, &str); 4] = [
    ("default_master_connection", "''"),
    ("skip_parallel_replication", "0"),
    ("skip_replication", "0"),
    ("gtid_seq_no", "0"),
];

const MYSQL_SESSION_ONLY: [(&str, &str); 7] = [
    ("gtid_next", "'AUTOMATIC'"),
    ("require_row_format", "0"),
    ("resultset_metadata", "'FULL'"),
    ("show_create_table_skip_secondary_engine", "0"),
    ("sql_log_bin", "1"),
    ("transaction_allow_batching", "0"),
    ("use_secondary_engine", "'ON'"),
];

const MYSQL_56_SESSION_ONLY: [(&str, &str); 2] =
    [("gtid_next", "'AUTOMATIC'"), ("transaction_allow_batching", "0")];
