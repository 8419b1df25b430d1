//! A brief question: whether a session is what it was when it was last asked for everything.
//!
//! Nearly all of what a full question costs the server is `pg_show_all_settings()`: seventeen columns of every setting.
//! A session that has run nothing since but statements which by their text cannot change it (a trigger or a function that
//! they call may) is asked for the values of those settings that it could have changed, and for all else that a full
//! question asks for, as one row. If that is the same row as before, so is the session.
//!
//! What the row cannot tell is whether a function has set a setting to the very value that it had: then the session has a
//! default that it would call its own, until it is asked for everything the next time.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use super::capture::RESERVED;

/// Settings that a session may change (`pg_settings.context` is `user` or `superuser`), of the versions 10 to 18; what a
/// version does not have is null there. Without those of the question's own transaction, and `role`, which is not shown.
const SETTINGS: &str = "\
DateStyle,IntervalStyle,TimeZone,allow_in_place_tablespaces,allow_system_table_mods,application_name,array_nulls\
,backend_flush_after,backslash_quote,backtrace_functions,bytea_output,check_function_bodies\
,client_connection_check_interval,client_encoding,client_min_messages,commit_delay,commit_siblings\
,compute_query_id,constraint_exclusion,cpu_index_tuple_cost,cpu_operator_cost,cpu_tuple_cost\
,createrole_self_grant,cursor_tuple_fraction,deadlock_timeout,debug_discard_caches\
,debug_logical_replication_streaming,debug_parallel_query,debug_pretty_print,debug_print_parse,debug_print_plan\
,debug_print_rewritten,default_statistics_target,default_table_access_method,default_tablespace\
,default_text_search_config,default_toast_compression,default_transaction_deferrable\
,default_transaction_isolation,default_transaction_read_only,default_with_oids,effective_cache_size\
,effective_io_concurrency,enable_async_append,enable_bitmapscan,enable_distinct_reordering,enable_gathermerge\
,enable_group_by_reordering,enable_hashagg,enable_hashjoin,enable_incremental_sort,enable_indexonlyscan\
,enable_indexscan,enable_material,enable_memoize,enable_mergejoin,enable_nestloop,enable_parallel_append\
,enable_parallel_hash,enable_partition_pruning,enable_partitionwise_aggregate,enable_partitionwise_join\
,enable_presorted_aggregate,enable_self_join_elimination,enable_seqscan,enable_sort,enable_tidscan\
,escape_string_warning,event_triggers,exit_on_error,extra_float_digits,file_copy_method,force_parallel_mode\
,from_collapse_limit,geqo,geqo_effort,geqo_generations,geqo_pool_size,geqo_seed,geqo_selection_bias\
,geqo_threshold,gin_fuzzy_search_limit,gin_pending_list_limit,hash_mem_multiplier,icu_validation_level\
,idle_in_transaction_session_timeout,idle_session_timeout,ignore_checksum_failure,io_combine_limit,jit\
,jit_above_cost,jit_dump_bitcode,jit_expressions,jit_inline_above_cost,jit_optimize_above_cost\
,jit_tuple_deforming,join_collapse_limit,lc_messages,lc_monetary,lc_numeric,lc_time,lo_compat_privileges\
,local_preload_libraries,lock_timeout,log_duration,log_error_verbosity,log_executor_stats,log_lock_failures\
,log_lock_waits,log_min_duration_sample,log_min_duration_statement,log_min_error_statement,log_min_messages\
,log_parameter_max_length,log_parameter_max_length_on_error,log_parser_stats,log_planner_stats\
,log_replication_commands,log_statement,log_statement_sample_rate,log_statement_stats,log_temp_files\
,log_transaction_sample_rate,logical_decoding_work_mem,maintenance_io_concurrency,maintenance_work_mem\
,max_parallel_maintenance_workers,max_parallel_workers,max_parallel_workers_per_gather,max_stack_depth\
,md5_password_warnings,min_parallel_index_scan_size,min_parallel_table_scan_size,operator_precedence_warning\
,parallel_leader_participation,parallel_setup_cost,parallel_tuple_cost,password_encryption,plan_cache_mode\
,quote_all_identifiers,random_page_cost,recursive_worktable_factor,replacement_sort_tuples\
,restrict_nonsystem_relation_kind,row_security,scram_iterations,search_path,seq_page_cost\
,session_replication_role,standard_conforming_strings,statement_timeout,stats_fetch_consistency\
,synchronize_seqscans,synchronous_commit,tcp_keepalives_count,tcp_keepalives_idle,tcp_keepalives_interval\
,tcp_user_timeout,temp_buffers,temp_file_limit,temp_tablespaces,timezone_abbreviations,trace_notify,trace_sort\
,track_activities,track_cost_delay_timing,track_counts,track_functions,track_io_timing,track_wal_io_timing\
,transaction_timeout,transform_null_equals,update_process_title,vacuum_buffer_usage_limit\
,vacuum_cleanup_index_scale_factor,vacuum_cost_delay,vacuum_cost_limit,vacuum_cost_page_dirty\
,vacuum_cost_page_hit,vacuum_cost_page_miss,vacuum_failsafe_age,vacuum_freeze_min_age,vacuum_freeze_table_age\
,vacuum_max_eager_freeze_failure_rate,vacuum_multixact_failsafe_age,vacuum_multixact_freeze_min_age\
,vacuum_multixact_freeze_table_age,vacuum_truncate,wal_compression,wal_consistency_checking,wal_init_zero\
,wal_recycle,wal_sender_timeout,wal_skip_threshold,work_mem,xmlbinary,xmloption,zero_damaged_pages";

/// Those that not everybody may read ("Server Configuration" in the manual; `extension_destdir` is Debian's).
const HIDDEN: &str =
    "{dynamic_library_path,extension_control_path,extension_destdir,session_preload_libraries}";

/// The last version whose settings are known here.
const NEWEST: u32 = 18;

/// `$1`: names of settings.
const ROW: &str = "\
SELECT 'same', SESSION_USER, pg_catalog.current_setting('role'), pg_catalog.pg_my_temp_schema(), \
 (SELECT pg_catalog.string_agg(pg_catalog.concat(u.n, '=', pg_catalog.current_setting(u.n, true)), ',') \
  FROM pg_catalog.unnest(CAST($1 AS pg_catalog.text[])) AS u(n)), \
 CASE WHEN pg_catalog.pg_has_role('pg_read_all_settings', 'USAGE') THEN \
  (SELECT pg_catalog.string_agg(pg_catalog.concat(u.n, '=', pg_catalog.current_setting(u.n, true)), ',') \
   FROM pg_catalog.unnest(CAST('{hidden}' AS pg_catalog.text[])) AS u(n)) END, \
 (SELECT pg_catalog.string_agg(pg_catalog.concat(p.name, '=', p.prepare_time), ',') \
  FROM pg_catalog.pg_prepared_statement() AS p \
  WHERE pg_catalog.left(p.name, 4) OPERATOR(pg_catalog.<>) '{reserved}'), \
 (SELECT pg_catalog.count(*) FROM pg_catalog.pg_cursor() AS c WHERE c.is_holdable), \
 (SELECT pg_catalog.string_agg(l.ch, ',') FROM pg_catalog.pg_listening_channels() AS l(ch)), \
 (SELECT pg_catalog.string_agg(pg_catalog.concat(k.mode, ' ', k.classid, ' ', k.objid, ' ', k.objsubid), ',') \
  FROM pg_catalog.pg_lock_status() AS k \
  WHERE k.locktype OPERATOR(pg_catalog.=) 'advisory' AND k.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()), \
 (SELECT pg_catalog.count(*) FROM pg_catalog.pg_get_replication_slots() AS r \
  WHERE r.temporary AND r.active_pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid())";

/// The answer, of one backend: with another one's it is not to be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest {
    /// Its process id.
    backend: u32,
    hash: u64,
    /// A transaction of the session's usual kind begins at once.
    prompt: bool,
}

/// So the row says that no transaction waits for a safe snapshot unless it is told to ("SET TRANSACTION" in the manual).
const PROMPT: &[u8] = b",default_transaction_deferrable=off,";

impl Digest {
    /// Of the row as it came, and of the candidate names that were asked for.
    pub fn of(row: &[u8], names: &[String], backend: u32) -> Digest {
        let mut hasher = DefaultHasher::new();
        (row, names).hash(&mut hasher);
        let prompt = row.windows(PROMPT.len()).any(|text| text == PROMPT);
        Digest { backend, hash: hasher.finish(), prompt }
    }

    /// The question can be asked in a transaction of the session's usual kind.
    pub fn is_prompt(self) -> bool {
        self.prompt
    }

    /// It is an answer of this backend.
    pub fn is_of(self, backend: u32) -> bool {
        self.backend == backend
    }
}

/// The question; `None`: there is none for this version.
pub fn question(major: u32) -> Option<String> {
    (major <= NEWEST).then(|| ROW.replace("{reserved}", RESERVED).replace("{hidden}", HIDDEN))
}

/// Its parameter. `names`: candidate names of custom settings; names of others are among those known here.
pub fn names(names: &[String]) -> String {
    let mut list = String::with_capacity(SETTINGS.len() + 256);
    list.push('{');
    list.push_str(SETTINGS);
    for name in names.iter().filter(|name| name.contains('.')) {
        list.extend([",\"", name, "\""]);
    }
    list.push('}');
    list
}
