//! The question that an idle session is asked, and how its rows are read.
//!
//! It must come out right whatever the session has done to itself: a hostile `search_path`, shadowing functions,
//! operators and domains, a default isolation level that waits. Hence every name is qualified, operators are written
//! `OPERATOR(pg_catalog.=)` or `ANY`/`ALL`, and casts are `CAST(… AS pg_catalog.…)`: `pg_temp` comes first for types.

use bytes::Bytes;

use super::capture::RESERVED;
use super::lexer::{self, Token, Tokens};
use super::restore::LAST;
use super::state::{AdvisoryLock, LockKey, Prepared, Setting, State};
use crate::engine::Obstacle;

/// One question for each kind of state, all in one transaction. Functions, not the views over them, and no `UNION`: to
/// plan those costs the server more than to run them, and clients wait meanwhile.
const SESSION: &str = "\
SELECT 'sess', SESSION_USER, pg_catalog.current_setting('role'), pg_catalog.pg_my_temp_schema()";

/// A session's temporary schema stays when its last object goes; this is what its end itself would look at.
const TEMPORARY: &str = "\
SELECT 'temp' FROM pg_catalog.pg_depend AS d WHERE d.refclassid OPERATOR(pg_catalog.=) CAST(2615 AS pg_catalog.oid) \
 AND d.refobjid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema() LIMIT 1";

/// `{mark}` is filled in by [`questions`]. Most settings are at their default: that is looked at first.
const SETTINGS: &str = "\
SELECT 'guc', g.name, g.setting, {mark}, pg_catalog.current_setting(g.name) \
 FROM pg_catalog.pg_show_all_settings() AS g \
 WHERE g.source OPERATOR(pg_catalog.<>) 'default' \
  AND g.source OPERATOR(pg_catalog.=) ANY (ARRAY['session','client','user','database','database user','global'])";

/// `$1`: candidate names of custom settings. `{longest}` is filled in by [`questions`].
const CUSTOM: &str = "\
SELECT 'cust', u.n, \
 CASE WHEN pg_catalog.octet_length(pg_catalog.current_setting(u.n, true)) OPERATOR(pg_catalog.<=) {longest} \
  THEN pg_catalog.current_setting(u.n, true) END \
 FROM pg_catalog.unnest(CAST($1 AS pg_catalog.text[])) AS u(n) \
 WHERE pg_catalog.current_setting(u.n, true) IS NOT NULL \
  AND pg_catalog.lower(u.n) OPERATOR(pg_catalog.<>) ALL \
   (SELECT pg_catalog.lower(s.name) FROM pg_catalog.pg_show_all_settings() AS s)";

/// `$1`: ordinary settings that some log in brings with it by now. A session that has another value, and not by its own
/// log in, must be given it back where the next one brings it.
const HELD: &str = "\
SELECT 'held', g.name, pg_catalog.current_setting(g.name) FROM pg_catalog.pg_show_all_settings() AS g \
 WHERE g.name OPERATOR(pg_catalog.=) ANY (CAST($1 AS pg_catalog.text[])) \
  AND g.context OPERATOR(pg_catalog.=) ANY (ARRAY['user','superuser']) \
  AND g.source OPERATOR(pg_catalog.<>) ALL (ARRAY['session','client','user','database','database user','global'])";

/// In the order in which they can be prepared again: an `EXECUTE` among them returns nothing before what it executes is
/// there. The router's own are left out when they are read.
const PREPARED: &str = "\
SELECT 'prep', p.name, \
 CASE WHEN pg_catalog.octet_length(p.statement) OPERATOR(pg_catalog.<=) {longest} THEN p.statement END, \
 CAST(p.parameter_types AS pg_catalog.oid[]), p.from_sql \
 FROM pg_catalog.pg_prepared_statement() AS p ORDER BY p.from_sql DESC, p.prepare_time";

const REST: [&str; 4] = [
    "SELECT 'curs' FROM pg_catalog.pg_cursor() AS c WHERE c.is_holdable",
    "SELECT 'lstn', l.ch FROM pg_catalog.pg_listening_channels() AS l(ch)",
    "SELECT 'lock', k.mode, k.classid, k.objid, k.objsubid FROM pg_catalog.pg_lock_status() AS k \
     WHERE k.locktype OPERATOR(pg_catalog.=) 'advisory' AND k.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()",
    "SELECT 'slot' FROM pg_catalog.pg_get_replication_slots() AS r \
     WHERE r.temporary AND r.active_pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()",
];

/// They are the question's own transaction's.
const OF_TRANSACTION: [&[u8]; 3] =
    [b"transaction_isolation", b"transaction_read_only", b"transaction_deferrable"];

/// A prepared statement or a setting of the client's own that is longer than this, bytes, blocks: every look at the
/// session would fetch it again.
pub const LONGEST_TEXT: usize = 8 * 1024 * 1024;

/// What a session turned out to have, so that there is more to ask about: most have neither.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct More {
    /// A schema for temporary objects.
    pub temporary: bool,
    /// It drew a value from a sequence.
    pub sequences: bool,
}

impl More {
    /// What either has.
    pub fn and(self, other: More) -> More {
        More { temporary: self.temporary || other.temporary, sequences: self.sequences || other.sequences }
    }
}

/// What is asked.
pub struct Questions {
    /// In the order in which they are asked.
    pub plain: Vec<String>,
    /// The one that takes the candidate names of custom settings.
    pub custom: String,
    /// The one that takes the names of ordinary settings that a log in may bring.
    pub held: &'static str,
}

/// The questions for a server of this major version.
pub fn questions(major: u32, superuser: bool, more: More) -> Questions {
    // Privileges on single parameters came with 15.
    let locked = match major {
        15.. => "pg_catalog.has_parameter_privilege(SESSION_USER, g.name, 'SET')",
        _ => {
            "(SELECT r.rolsuper FROM pg_catalog.pg_roles AS r WHERE r.rolname OPERATOR(pg_catalog.=) SESSION_USER)"
        }
    };
    let mark = match superuser {
        true => "g.source".to_owned(),
        false => format!(
            "pg_catalog.concat(g.source, \
             CASE WHEN g.context OPERATOR(pg_catalog.=) 'superuser' AND NOT {locked} THEN '!' END)"
        ),
    };
    let longest = LONGEST_TEXT.to_string();
    let mut plain =
        vec![SESSION.to_owned(), SETTINGS.replace("{mark}", &mark), PREPARED.replace("{longest}", &longest)];
    plain.extend(REST.map(str::to_owned));
    if more.temporary {
        plain.push(TEMPORARY.to_owned());
    }
    Questions { plain, custom: CUSTOM.replace("{longest}", &longest), held: HELD }
}

/// Asks for `lastval()` alone, in the way of [`sequence_probe`]: most sessions never drew a value.
pub fn lastval_probe(nonce: &str) -> String {
    format!(
        "DO $mv$ BEGIN PERFORM pg_catalog.set_config('lock_timeout', '20ms', true); \
         RAISE INFO USING MESSAGE = pg_catalog.concat('{nonce}lastval=', pg_catalog.lastval()); \
         EXCEPTION WHEN OTHERS THEN NULL; END $mv$"
    )
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
            state.more.temporary = column(3)? != b"0";
        }
        b"temp" => block(state, Some(Obstacle::TemporaryTable)),
        b"guc" => {
            let (name, source) = (column(1)?, column(3)?);
            // Values of source `client` come from the start-up packet, and the next log in sends the same one. (A client's
            // own `SET`, even to the same value, makes the source `session`.) Only what could strike the restore itself
            // must be known of.
            if source.starts_with(b"client") && !LAST.contains(&name) || OF_TRANSACTION.contains(&name) {
                return Some(());
            }
            let own = source.starts_with(b"session");
            let locked = own && source.ends_with(b"!") && !reading.superuser;
            block(state, locked.then_some(Obstacle::Setting));
            let value = kept(if own { 2 } else { 4 })?;
            state.settings.push(Setting { name: kept(1)?, value, own });
        }
        b"held" => state.settings.push(Setting { name: kept(1)?, value: kept(2)?, own: false }),
        b"cust" => match kept(2) {
            Some(value) => state.custom.push((kept(1)?, value)),
            None => block(state, Some(Obstacle::Setting)),
        },
        b"prep" if column(1)?.starts_with(RESERVED.as_bytes()) => {}
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
    let (name, by_sql) = (column(1)?, column(4)? == b"t");
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
    fn only_what_can_be_there_is_asked_for() {
        let temporary = More { temporary: true, sequences: false };
        let asked = |more| questions(18, true, more).plain.contains(&TEMPORARY.to_owned());
        assert!(asked(temporary) && !asked(More::default()));
        assert!(temporary.and(More { temporary: false, sequences: true }).temporary);
        for (major, superuser, marked) in [(14, false, "pg_roles"), (15, false, "has_parameter_privilege")] {
            assert!(questions(major, superuser, temporary).plain[1].contains(marked));
            assert!(!questions(major, true, temporary).plain[1].contains(marked));
        }
    }

    #[test]
    fn the_questions_own_settings_and_statements_are_not_the_sessions() {
        let reading = Reading { login_user: b"a", superuser: false, standard_strings: true };
        let read = |row: &[&'static str]| {
            let row: Vec<_> = row.iter().map(|column| Some(column.as_bytes())).collect();
            let mut state = State::default();
            read_row(&row, &reading, &mut state).unwrap();
            state
        };
        assert_eq!(read(&["guc", "transaction_read_only", "on", "session", "on"]), State::default());
        assert_eq!(read(&["guc", "application_name", "x", "client", "x"]), State::default());
        assert_eq!(read(&["guc", "lock_timeout", "7", "client", "7ms"]).settings.len(), 1);
        assert_eq!(
            read(&["guc", "log_statement", "all", "session!", "all"]).obstacle,
            Some(Obstacle::Setting)
        );
        assert_eq!(read(&["prep", "_mv_0i", "SELECT 1", "{}", "f"]), State::default());
        assert_eq!(read(&["temp"]).obstacle, Some(Obstacle::TemporaryTable));
        assert!(read(&["sess", "a", "none", "16400"]).more.temporary);
    }

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
