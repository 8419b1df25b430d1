//! What may stand before a parenthesis and leaves the session as it was.

/// Keywords, types and the functions of both products that have no effect, sorted. (`LAST_INSERT_ID(n)` and `RAND(n)`
/// have one that every look at the session sees.)
#[rustfmt::skip]
const HARMLESS: [&[u8]; 408] = [
    b"abs", b"acos", b"adddate", b"addtime", b"aes_decrypt", b"aes_encrypt", b"all", b"analyze", b"and",
    b"any", b"as", b"ascii", b"asin", b"atan", b"atan2", b"avg", b"benchmark", b"between", b"bigint",
    b"bin", b"bin_to_uuid", b"binary", b"binlog_gtid_pos", b"bit", b"bit_and", b"bit_count", b"bit_length",
    b"bit_or", b"bit_xor", b"blob", b"by", b"case", b"cast", b"ceil", b"ceiling", b"char", b"char_length",
    b"character", b"character_length", b"charset", b"check", b"chr", b"coalesce", b"coercibility",
    b"collation", b"compress", b"concat", b"concat_ws", b"conv", b"convert", b"convert_tz", b"cos", b"cot",
    b"crc32", b"crc32c", b"cross", b"cume_dist", b"curdate", b"current_date", b"current_role",
    b"current_time", b"current_timestamp", b"current_user", b"curtime", b"database", b"date", b"date_add",
    b"date_format", b"date_sub", b"datediff", b"datetime", b"day", b"dayname", b"dayofmonth", b"dayofweek",
    b"dayofyear", b"dec", b"decimal", b"decode", b"decode_oracle", b"default", b"degrees", b"dense_rank",
    b"des_decrypt", b"des_encrypt", b"div", b"double", b"duplicate", b"else", b"elt", b"encode",
    b"encrypt", b"enum", b"except", b"exists", b"exp", b"explain", b"export_set", b"extract",
    b"extractvalue", b"field", b"find_in_set", b"first_value", b"fixed", b"float", b"floor", b"for",
    b"force", b"foreign", b"format", b"format_bytes", b"format_pico_time", b"from", b"from_base64",
    b"from_days", b"from_unixtime", b"fulltext", b"generated", b"get_format", b"greatest", b"group",
    b"group_concat", b"grouping", b"having", b"hex", b"hour", b"if", b"ifnull", b"ignore", b"in", b"index",
    b"inet6_aton", b"inet6_ntoa", b"inet_aton", b"inet_ntoa", b"inner", b"insert", b"instr", b"int",
    b"integer", b"intersect", b"interval", b"into", b"is", b"is_free_lock", b"is_ipv4", b"is_ipv4_compat",
    b"is_ipv4_mapped", b"is_ipv6", b"is_used_lock", b"is_uuid", b"isnull", b"join", b"json", b"json_array",
    b"json_array_append", b"json_array_insert", b"json_arrayagg", b"json_compact", b"json_contains",
    b"json_contains_path", b"json_depth", b"json_detailed", b"json_equals", b"json_exists",
    b"json_extract", b"json_insert", b"json_keys", b"json_length", b"json_loose", b"json_merge",
    b"json_merge_patch", b"json_merge_preserve", b"json_normalize", b"json_object", b"json_objectagg",
    b"json_overlaps", b"json_pretty", b"json_query", b"json_quote", b"json_remove", b"json_replace",
    b"json_schema_valid", b"json_search", b"json_set", b"json_storage_size", b"json_table", b"json_type",
    b"json_unquote", b"json_valid", b"json_value", b"key", b"lag", b"last_day", b"last_insert_id",
    b"last_value", b"lateral", b"lcase", b"lead", b"least", b"left", b"length", b"lengthb", b"like",
    b"limit", b"ln", b"load_file", b"localtime", b"localtimestamp", b"locate", b"log", b"log10", b"log2",
    b"longtext", b"lower", b"lpad", b"ltrim", b"make_set", b"makedate", b"maketime", b"match", b"max",
    b"mbrcontains", b"md5", b"median", b"mediumint", b"mediumtext", b"microsecond", b"mid", b"min",
    b"minute", b"mod", b"month", b"monthname", b"name_const", b"natural_sort_key", b"nchar", b"not",
    b"now", b"nth_value", b"ntile", b"nullif", b"numeric", b"nvarchar", b"nvl", b"nvl2", b"oct",
    b"octet_length", b"on", b"or", b"ord", b"order", b"over", b"partition", b"password", b"percent_rank",
    b"percentile_cont", b"percentile_disc", b"period_add", b"period_diff", b"pi", b"point", b"position",
    b"pow", b"power", b"primary", b"procedure", b"quarter", b"quote", b"radians", b"rand", b"random_bytes",
    b"range", b"rank", b"real", b"references", b"regexp", b"regexp_instr", b"regexp_like",
    b"regexp_replace", b"regexp_substr", b"repeat", b"replace", b"return", b"returns", b"reverse",
    b"right", b"rlike", b"round", b"row", b"row_number", b"rows", b"rpad", b"rtrim", b"schema",
    b"sec_to_time", b"second", b"select", b"separator", b"session_user", b"set", b"sformat", b"sha",
    b"sha1", b"sha2", b"sign", b"sin", b"sleep", b"smallint", b"some", b"soundex", b"space", b"spatial",
    b"sqrt", b"st_area", b"st_asgeojson", b"st_astext", b"st_aswkb", b"st_aswkt", b"st_buffer",
    b"st_centroid", b"st_contains", b"st_distance", b"st_distance_sphere", b"st_geomfromtext",
    b"st_geomfromwkb", b"st_intersects", b"st_srid", b"st_within", b"st_x", b"st_y", b"std", b"stddev",
    b"stddev_pop", b"stddev_samp", b"stored", b"str_to_date", b"straight_join", b"strcmp", b"subdate",
    b"substr", b"substring", b"substring_index", b"subtime", b"sum", b"sysdate", b"system_time",
    b"system_user", b"tan", b"text", b"then", b"time", b"time_format", b"time_to_sec", b"timediff",
    b"timestamp", b"timestampadd", b"timestampdiff", b"tinyint", b"tinytext", b"to_base64", b"to_char",
    b"to_days", b"to_seconds", b"trim", b"truncate", b"ucase", b"uncompress", b"uncompressed_length",
    b"unhex", b"union", b"unique", b"unix_timestamp", b"update", b"updatexml", b"upper", b"use", b"user",
    b"using", b"utc_date", b"utc_time", b"utc_timestamp", b"uuid", b"uuid_short", b"uuid_to_bin",
    b"uuid_v4", b"uuid_v7", b"value", b"values", b"var_pop", b"var_samp", b"varbinary", b"varchar",
    b"variance", b"vector", b"version", b"virtual", b"week", b"weekday", b"weekofyear", b"weight_string",
    b"when", b"where", b"window", b"with", b"xor", b"year", b"yearweek",
];

/// `name` is in lower case.
pub(super) fn is_harmless(name: &[u8]) -> bool {
    HARMLESS.binary_search(&name).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted() {
        assert!(HARMLESS.is_sorted());
        assert!(is_harmless(b"coalesce") && is_harmless(b"values") && !is_harmless(b"get_lock"));
    }
}
