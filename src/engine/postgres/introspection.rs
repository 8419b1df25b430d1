//! The question that an idle session is asked, and how its rows are read.
//!
//! It must come out right whatever the session has done to itself: a hostile `search_path`, shadowing functions,
//! operators and domains, a default isolation level that waits. Hence every name is qualified, operators are written
//! `OPERATOR(pg_catalog.=)` or `ANY`/`ALL`, and casts are `CAST(… AS pg_catalog.…)`: `pg_temp` comes first for types.

use bytes::Bytes;

use super::lexer::{self, Token, Tokens};
use super::restore::LAST;
use super::state::{AdvisoryLock, LockKey, Prepared, Setting, State};
use crate::engine::Obstacle;

/// `$1`: candidate names of custom settings, `$2`: prefix of the router's own statement names.
/// Statements come in the order in which they can be prepared again: an `EXECUTE` among them returns nothing before what
/// it executes is there. `{locked}` and `{longest}` are filled in by [`query`].
///
/// Values of source `client` come from the start-up packet, and the next log in sends the same one. (A client's own `SET`,
/// even to the same value, makes the source `session`.) Only those that could strike the restore itself are asked for.
const QUERY: &str = "\
SELECT 'sess' AS k, CAST(SESSION_USER AS pg_catalog.text) AS a, pg_catalog.current_setting('role') AS b, \
 CAST((SELECT pg_catalog.count(*) FROM pg_catalog.pg_depend AS d \
  WHERE d.refclassid OPERATOR(pg_catalog.=) CAST(2615 AS pg_catalog.oid) \
   AND d.refobjid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()) AS pg_catalog.text) AS c, \
 CAST(pg_catalog.pg_backend_pid() AS pg_catalog.text) AS d \
UNION ALL SELECT 'guc', g.name, g.setting, \
 pg_catalog.concat(g.source, CASE WHEN g.context OPERATOR(pg_catalog.=) 'superuser' AND NOT {locked} THEN '!' ELSE '' END), \
 pg_catalog.current_setting(g.name) \
 FROM pg_catalog.pg_settings AS g \
 WHERE (g.source OPERATOR(pg_catalog.=) ANY (ARRAY['session','user','database','database user','global']) \
   OR g.source OPERATOR(pg_catalog.=) 'client' AND g.name OPERATOR(pg_catalog.=) ANY (ARRAY['statement_timeout', \
    'lock_timeout','transaction_timeout','default_transaction_isolation','default_transaction_read_only', \
    'default_transaction_deferrable'])) \
  AND g.name OPERATOR(pg_catalog.<>) ALL (ARRAY['transaction_isolation','transaction_read_only','transaction_deferrable']) \
UNION ALL SELECT 'cust', u.n, \
 CASE WHEN pg_catalog.octet_length(pg_catalog.current_setting(u.n, true)) OPERATOR(pg_catalog.<=) {longest} \
  THEN pg_catalog.current_setting(u.n, true) END, NULL, NULL \
 FROM pg_catalog.unnest(CAST($1 AS pg_catalog.text[])) AS u(n) \
 WHERE pg_catalog.current_setting(u.n, true) IS NOT NULL \
  AND pg_catalog.lower(u.n) OPERATOR(pg_catalog.<>) ALL (SELECT pg_catalog.lower(s.name) FROM pg_catalog.pg_settings AS s) \
UNION ALL SELECT 'prep', p.name, \
 CASE WHEN pg_catalog.octet_length(p.statement) OPERATOR(pg_catalog.<=) {longest} THEN p.statement END, \
 CAST(CAST(p.parameter_types AS pg_catalog.oid[]) AS pg_catalog.text), CAST(p.from_sql AS pg_catalog.text) \
 FROM (SELECT q.* FROM pg_catalog.pg_prepared_statements AS q ORDER BY q.from_sql DESC, q.prepare_time) AS p \
 WHERE NOT pg_catalog.starts_with(p.name, CAST($2 AS pg_catalog.text)) \
UNION ALL SELECT 'curs', c.name, NULL, NULL, NULL FROM pg_catalog.pg_cursors AS c WHERE c.is_holdable \
UNION ALL SELECT 'lstn', l.ch, NULL, NULL, NULL FROM pg_catalog.pg_listening_channels() AS l(ch) \
UNION ALL SELECT 'lock', k.mode, CAST(k.classid AS pg_catalog.text), CAST(k.objid AS pg_catalog.text), \
 CAST(k.objsubid AS pg_catalog.text) FROM pg_catalog.pg_locks AS k \
 WHERE k.locktype OPERATOR(pg_catalog.=) 'advisory' AND k.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid() \
UNION ALL SELECT 'slot', CAST(r.slot_name AS pg_catalog.text), NULL, NULL, NULL \
 FROM pg_catalog.pg_replication_slots AS r \
 WHERE r.temporary AND r.active_pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()";

/// A prepared statement or a setting of the client's own that is longer than this, bytes, blocks: every look at the
/// session would fetch it again.
pub const LONGEST_TEXT: usize = 8 * 1024 * 1024;

/// The query for a server of this major version.
pub fn query(major: u32) -> String {
    // Privileges on single parameters came with 15.
    let locked = match major {
        15.. => "pg_catalog.has_parameter_privilege(SESSION_USER, g.name, 'SET')",
        _ => {
            "(SELECT r.rolsuper FROM pg_catalog.pg_roles AS r WHERE r.rolname OPERATOR(pg_catalog.=) SESSION_USER)"
        }
    };
    let query = QUERY.replace("{locked}", locked).replace("{longest}", &LONGEST_TEXT.to_string());
    match major {
        // `starts_with` came with 11.
        11.. => query,
        _ => query.replace(
            "NOT pg_catalog.starts_with(p.name, CAST($2 AS pg_catalog.text))",
            "pg_catalog.strpos(p.name, CAST($2 AS pg_catalog.text)) OPERATOR(pg_catalog.<>) 1",
        ),
    }
}

/// Reports `lastval()` and every `currval()` without an error in the log: an `INFO` is always sent and, at the default
/// log level, never logged. Leaves at once in a session that never drew a value.
pub fn sequence_probe(nonce: &str) -> String {
    format!(
        "DO $mv$ DECLARE s record; BEGIN \
         PERFORM pg_catalog.set_config('lock_timeout', '20ms', true); \
         RAISE INFO USING MESSAGE = pg_catalog.concat('{nonce}lastval=', pg_catalog.lastval()); \
         FOR s IN SELECT c.oid, pg_catalog.concat(pg_catalog.quote_ident(n.nspname), '.', \
          pg_catalog.quote_ident(c.relname)) AS name, pg_catalog.pg_has_role(c.relowner, 'USAGE') AS own \
          FROM pg_catalog.pg_class AS c, pg_catalog.pg_namespace AS n \
          WHERE n.oid OPERATOR(pg_catalog.=) c.relnamespace AND c.relkind OPERATOR(pg_catalog.=) 'S' LIMIT 200 LOOP \
         BEGIN RAISE INFO USING MESSAGE = pg_catalog.concat('{nonce}currval=', \
          pg_catalog.currval(CAST(s.oid AS pg_catalog.regclass)), ' ', s.own, ' ', s.name); \
         EXCEPTION WHEN OTHERS THEN NULL; END; \
         END LOOP; EXCEPTION WHEN OTHERS THEN NULL; END $mv$"
    )
}

/// What the rows are read with.
pub struct Reading<'a> {
    /// Who logged in.
    pub login_user: &'a [u8],
    /// Whether that user is a superuser, who may set everything again.
    pub superuser: bool,
    /// `standard_conforming_strings` is on.
    pub standard_strings: bool,
}

/// Adds one row of the answer to `state`. `None`: malformed.
pub fn read_row(row: &[Option<&[u8]>], reading: &Reading<'_>, state: &mut State) -> Option<()> {
    let column = |at: usize| row.get(at).copied().flatten();
    let kept = |at: usize| column(at).map(Bytes::copy_from_slice);
    match column(0)? {
        b"sess" => {
            state.session_user = kept(1).filter(|user| user.as_ref() != reading.login_user);
            // Also `none`: the log in may begin with another (`ALTER ROLE … SET role`).
            state.role = kept(2);
            block(state, (column(3)? != b"0").then_some(Obstacle::TemporaryTable));
        }
        b"guc" => {
            let source = column(3)?;
            // The next log in sends the same start-up packet. Only what could strike the restore must be known of.
            if source.starts_with(b"client") && !LAST.contains(&column(1)?) {
                return Some(());
            }
            let own = source.starts_with(b"session");
            let locked = own && source.ends_with(b"!") && !reading.superuser;
            block(state, locked.then_some(Obstacle::Setting));
            let value = kept(if own { 2 } else { 4 })?;
            state.settings.push(Setting { name: kept(1)?, value, own });
        }
        b"cust" => match kept(2) {
            Some(value) => state.custom.push((kept(1)?, value)),
            None => block(state, Some(Obstacle::Setting)),
        },
        b"prep" => {
            let prepared = read_prepared(row, reading)?;
            block(state, prepared.is_none().then_some(Obstacle::PreparedStatement));
            state.prepared.extend(prepared);
        }
        b"curs" => block(state, Some(Obstacle::HeldCursor)),
        b"lstn" => state.channels.push(kept(1)?),
        b"lock" => state.locks.push(read_lock(row)?),
        b"slot" => block(state, Some(Obstacle::Replication)),
        _ => return None,
    }
    Some(())
}

/// The first obstacle found is the one that is named.
pub fn block(state: &mut State, obstacle: Option<Obstacle>) {
    state.obstacle = state.obstacle.or(obstacle);
}

/// `None`: malformed. `Some(None)`: the statement is too long, or cannot be cut out of the text it came in.
fn read_prepared(row: &[Option<&[u8]>], reading: &Reading<'_>) -> Option<Option<Prepared>> {
    let column = |at: usize| row.get(at).copied().flatten();
    let (name, by_sql) = (column(1)?, column(4)? == b"true");
    let Some(text) = column(2) else { return Some(None) };
    let types = std::str::from_utf8(column(3)?).ok()?.trim_matches(['{', '}']);
    let types: Vec<u32> = types.split(',').filter_map(|oid| oid.parse().ok()).collect();
    let sql = if by_sql { cut_prepare(name, text, reading.standard_strings) } else { Some(text) };
    Some(sql.map(|sql| Prepared {
        name: Bytes::copy_from_slice(name),
        sql: Bytes::copy_from_slice(sql),
        types,
        by_sql,
        description: None,
        context: None,
        surroundings: None,
    }))
}

/// The server keeps the whole `Query` that a `PREPARE` came in; running that again would run its neighbours too.
fn cut_prepare<'a>(name: &[u8], text: &'a [u8], standard_strings: bool) -> Option<&'a [u8]> {
    let mut found = None;
    for statement in lexer::statements(text, standard_strings) {
        let mut tokens = Tokens::new(statement, standard_strings);
        if !tokens.next().is_some_and(|token| token.is("prepare")) {
            continue;
        }
        let names = match tokens.next() {
            Some(Token::Word(word)) => word.eq_ignore_ascii_case(name),
            Some(Token::Quoted(quoted)) => lexer::identifier(quoted) == name,
            _ => false,
        };
        if names && found.replace(statement).is_some() {
            return None;
        }
    }
    found
}

fn read_lock(row: &[Option<&[u8]>]) -> Option<AdvisoryLock> {
    let column = |at: usize| row.get(at).copied().flatten();
    let number = |at: usize| std::str::from_utf8(column(at)?).ok()?.parse::<u32>().ok();
    let (high, low) = (number(2)?, number(3)?);
    let key = match column(4)? {
        b"1" => LockKey::One((i64::from(high.cast_signed()) << 32) | i64::from(low)),
        _ => LockKey::Two(high.cast_signed(), low.cast_signed()),
    };
    Some(AdvisoryLock { shared: column(1)? == b"ShareLock", key })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prepare_is_cut_from_its_neighbours() {
        let cut = |name: &str, text: &'static str| cut_prepare(name.as_bytes(), text.as_bytes(), true);
        assert_eq!(
            cut("x", "INSERT INTO t VALUES (';'); PREPARE x AS SELECT 1"),
            Some(&b" PREPARE x AS SELECT 1"[..])
        );
        assert_eq!(cut("X", "PREPARE \"X\" AS SELECT 1;"), Some(&b"PREPARE \"X\" AS SELECT 1"[..]));
        assert_eq!(
            cut("a\"B", "PREPARE \"a\"\"B\" AS SELECT 1"),
            Some(&b"PREPARE \"a\"\"B\" AS SELECT 1"[..])
        );
        assert_eq!(cut("x", "PREPARE x AS SELECT 1; DEALLOCATE x; PREPARE x AS SELECT 2"), None);
        assert_eq!(cut("x", "DO $$ begin execute 'prepare x as select 1'; end $$"), None);
    }

    #[test]
    fn advisory_keys_keep_their_sign() {
        let row = |class: &'static str, id: &'static str, sub: &'static str| {
            [
                Some(&b"lock"[..]),
                Some(b"ExclusiveLock"),
                Some(class.as_bytes()),
                Some(id.as_bytes()),
                Some(sub.as_bytes()),
            ]
        };
        assert_eq!(read_lock(&row("2147483648", "0", "1")).unwrap().key, LockKey::One(i64::MIN));
        assert_eq!(read_lock(&row("0", "4294967295", "1")).unwrap().key, LockKey::One(4_294_967_295));
        assert_eq!(read_lock(&row("4294967295", "7", "2")).unwrap().key, LockKey::Two(-1, 7));
    }
}
