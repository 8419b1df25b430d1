//! Names of custom settings in the texts that a database stores: functions, policies, views, defaults.
//!
//! A custom setting is in no list of the server's; it must be asked for by name. Whoever reads one has its name from the
//! client's text, which the tracker sees, or from a stored text, which is read here.

use super::lexer::{Token, Tokens};
use super::sql::{self, dotted_name};

/// More texts than this are not read.
const MAX_TEXTS: u32 = 20_000;
/// Code in a literal in code in a literal; deeper ones are not read.
const MAX_DEPTH: u32 = 4;
/// `current_setting(text)`, `current_setting(text, bool)` and `set_config` in a stored expression (`pg_proc.dat`).
const CALLS: &str = ":funcid (2077|3294|2078) ";

/// Stands before the name of an ordinary setting that a log in brings with it by now (`ALTER ROLE … SET`).
const OF_LOG_IN: &str = "setting of a log in: ";

/// What to ask, in an order in which later ones may have to wait for a lock.
pub fn queries(major: u32) -> Vec<String> {
    let own = |column: &str| format!("{column} OPERATOR(pg_catalog.>=) CAST(16384 AS pg_catalog.oid)");
    let calls = |column: &str| format!("CAST({column} AS pg_catalog.text) OPERATOR(pg_catalog.~) '{CALLS}'");
    let body = match major {
        // Bodies in standard SQL came with 14.
        14.. => "pg_catalog.concat(p.prosrc, ' ', pg_catalog.pg_get_function_sqlbody(p.oid))",
        _ => "p.prosrc",
    };
    vec![
        format!(
            "SELECT {body} FROM pg_catalog.pg_proc AS p WHERE {own} \
              AND (p.prosrc OPERATOR(pg_catalog.~) '[.]' OR p.prosrc OPERATOR(pg_catalog.=) '') LIMIT {MAX_TEXTS}",
            own = own("p.oid"),
        ),
        format!(
            "SELECT CASE WHEN s.setting OPERATOR(pg_catalog.~) '^[^=]*[.]' THEN pg_catalog.concat('SET ', s.setting) \
              ELSE pg_catalog.concat('{OF_LOG_IN}', pg_catalog.split_part(s.setting, '=', 1)) END \
             FROM pg_catalog.pg_db_role_setting AS r, pg_catalog.unnest(r.setconfig) AS s(setting)"
        ),
        format!(
            "SELECT pg_catalog.concat(pg_catalog.pg_get_expr(p.polqual, p.polrelid), ' ', \
              pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid)) FROM pg_catalog.pg_policy AS p \
             UNION ALL SELECT pg_catalog.pg_get_expr(d.adbin, d.adrelid) FROM pg_catalog.pg_attrdef AS d \
              WHERE {default} \
             UNION ALL SELECT pg_catalog.pg_get_expr(c.conbin, c.conrelid) FROM pg_catalog.pg_constraint AS c \
              WHERE c.contype OPERATOR(pg_catalog.=) 'c' AND {check} LIMIT {MAX_TEXTS}",
            default = calls("d.adbin"),
            check = calls("c.conbin"),
        ),
        format!(
            "SELECT pg_catalog.pg_get_ruledef(r.oid) FROM pg_catalog.pg_rewrite AS r WHERE {own} AND {action} \
             UNION ALL SELECT pg_catalog.pg_get_triggerdef(t.oid) FROM pg_catalog.pg_trigger AS t \
              WHERE t.tgqual IS NOT NULL AND {when} LIMIT {MAX_TEXTS}",
            own = own("r.oid"),
            action = calls("r.ev_action"),
            when = calls("t.tgqual"),
        ),
    ]
}

/// Everything in a text that may be the name of a custom setting; or the one ordinary setting that it is about.
pub fn names(text: &str) -> Vec<String> {
    if let Some(name) = text.strip_prefix(OF_LOG_IN) {
        let is_plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        return Vec::from_iter(is_plain.then(|| name.to_owned()));
    }
    let mut found = Vec::new();
    collect(text.as_bytes(), MAX_DEPTH, &mut found);
    found.sort_unstable();
    found.dedup();
    found
}

fn collect(text: &[u8], depth: u32, found: &mut Vec<String>) {
    found.extend(sql::hints(text, true).setting_names);
    if depth == 0 {
        return;
    }
    for token in Tokens::new(text, true) {
        if let Token::Literal(literal) = token
            && dotted_name(literal).is_none()
            && literal.contains(&b'.')
        {
            collect(literal, depth - 1, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_bodies_and_in_code_that_code_runs() {
        assert_eq!(names("BEGIN RETURN set_config('a.b', v, false); END"), ["a.b"]);
        assert_eq!(names("setting of a log in: work_mem"), ["work_mem"]);
        assert!(names("setting of a log in: a\"b").is_empty());
        assert_eq!(names("(tenant = current_setting('policy.tenant'::text, true))"), ["policy.tenant"]);
        assert_eq!(
            names("EXECUTE 'SET x.y = 1'; EXECUTE $q$SELECT set_config('p.q', '', true)$q$"),
            ["p.q", "x.y"]
        );
        assert_eq!(names("SET my.default=1.5"), ["my.default"]);
        assert!(names("SELECT a.b FROM c.d WHERE e = 'no name'").is_empty());
    }
}
