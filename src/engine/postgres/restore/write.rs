//! What a restore sends: the statements that make a fresh backend the session.

use bytes::{Bytes, BytesMut};

use super::{Restore, Step};
use crate::engine::postgres::message;
use crate::engine::postgres::state::{LockKey, Prepared, Surroundings};
use crate::engine::postgres::statements::{PARSE_SETTINGS, ParseContext};

/// Set last: before, they could get in the way of the restore itself.
pub(in crate::engine::postgres) const LAST: [&[u8]; 8] = [
    b"default_transaction_isolation",
    b"default_transaction_read_only",
    b"default_transaction_deferrable",
    b"statement_timeout",
    b"lock_timeout",
    b"transaction_timeout",
    b"idle_in_transaction_session_timeout",
    b"idle_session_timeout",
];
const TEXT: u32 = 25;
/// The most settings in one statement (the server's limit is 1664 result columns).
const SETTINGS_AT_ONCE: usize = 500;

impl Restore {
    /// Everything, in the order of the module's diagram.
    pub(super) fn write_all(&mut self, out: &mut BytesMut) {
        let encoding = self.own_settings(|name| name == b"client_encoding");
        self.put_settings(out, &encoding, "client_encoding");
        self.put_loads(out);
        let waiting = self.put_shield(out);
        self.put_inherited(out, |name| !waiting.contains(&name));
        let settings = self.own_settings(|name| name != b"client_encoding" && !LAST.contains(&name));
        self.put_settings(out, &settings, "settings");
        let custom = std::mem::take(&mut self.state.custom);
        self.put_settings(out, &custom, "custom settings");
        self.put_identity(out);
        self.put_statements(out);
        self.put_visible(out);
        self.put_sequences(out);
        for name in &waiting {
            self.run(out, &[b"RESET ", *name].concat(), &[]);
            self.end(out, Step::Must("settings"));
        }
        self.put_inherited(out, |name| waiting.contains(&name));
        let last = self.own_settings(|name| LAST.contains(&name));
        self.put_settings(out, &last, "settings");
        // The common case, a session that is as it logged in, costs no round trip.
        if !self.steps.is_empty() || self.completes {
            // Everything that was reported comes before this answer.
            self.end(out, Step::May);
        }
    }

    fn run(&self, out: &mut BytesMut, sql: &[u8], parameters: &[&[u8]]) {
        let types = vec![TEXT; parameters.len()];
        message::put_close(out, &self.nonce);
        message::put_parse(out, &self.nonce, sql, &types);
        message::put_bind(out, &self.nonce, parameters);
        message::put_execute(out);
        message::put_close(out, &self.nonce);
    }

    pub(super) fn end(&mut self, out: &mut BytesMut, step: Step) {
        message::put_sync(out);
        self.steps.push_back(step);
    }

    /// Parameters instead of literals, one column a setting: nothing needs quoting, in whatever client encoding.
    fn put_settings(&mut self, out: &mut BytesMut, settings: &[(Bytes, Bytes)], what: &'static str) {
        for chunk in settings.chunks(SETTINGS_AT_ONCE) {
            let columns: Vec<String> = (0..chunk.len())
                .map(|i| format!("pg_catalog.set_config(${}, ${}, false)", 2 * i + 1, 2 * i + 2))
                .collect();
            let values: Vec<&[u8]> =
                chunk.iter().flat_map(|(name, value)| [name.as_ref(), value.as_ref()]).collect();
            self.run(out, format!("SELECT {}", columns.join(", ")).as_bytes(), &values);
            self.end(out, Step::Must(what));
        }
    }

    /// Time-outs and transaction defaults that came with the log in (`ALTER ROLE … SET`) would strike the restore itself:
    /// they are put out of force until its end. Returns their names.
    fn put_shield(&mut self, out: &mut BytesMut) -> Vec<&'static [u8]> {
        let inherited =
            |name: &&'static [u8]| self.state.settings.iter().any(|s| !s.own && s.name.as_ref() == *name);
        let names: Vec<&'static [u8]> = LAST.into_iter().filter(inherited).collect();
        if !names.is_empty() {
            let harmless = |name: &[u8]| match name {
                b"default_transaction_isolation" => "read committed",
                b"default_transaction_read_only" | b"default_transaction_deferrable" => "off",
                _ => "0",
            };
            // A standby refuses to say that it writes.
            let begin: &[u8] = match self.strict {
                true => b"BEGIN ISOLATION LEVEL READ COMMITTED NOT DEFERRABLE",
                false => b"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE NOT DEFERRABLE",
            };
            self.run(out, begin, &[]);
            for name in &names {
                self.run(
                    out,
                    b"SELECT pg_catalog.set_config($1, $2, false)",
                    &[name, harmless(name).as_bytes()],
                );
            }
            self.run(out, b"COMMIT", &[]);
            self.end(out, Step::Must("settings"));
        }
        names
    }

    /// Values that came with the log in are set only where they differ (`ALTER ROLE … SET` since then), one by one: what
    /// only a superuser may set came from a superuser's `ALTER ROLE`, and stays as the new log in has it.
    fn put_inherited(&mut self, out: &mut BytesMut, wanted: impl Fn(&[u8]) -> bool) {
        let inherited = self.state.settings.iter().filter(|s| !s.own && wanted(&s.name));
        let inherited: Vec<(Bytes, Bytes)> = inherited.map(|s| (s.name.clone(), s.value.clone())).collect();
        for (name, value) in inherited {
            self.run(
                out,
                b"SELECT CASE WHEN pg_catalog.current_setting($1) OPERATOR(pg_catalog.=) $2 THEN '' \
                  ELSE pg_catalog.set_config($1, $2, false) END",
                &[&name, &value],
            );
            self.end(out, Step::May);
        }
    }

    fn own_settings(&self, wanted: impl Fn(&[u8]) -> bool) -> Vec<(Bytes, Bytes)> {
        let own = self.state.settings.iter().filter(|s| s.own && wanted(&s.name));
        own.map(|s| (s.name.clone(), s.value.clone())).collect()
    }

    fn put_identity(&mut self, out: &mut BytesMut) {
        for (setting, value) in
            [("session_authorization", self.state.session_user.clone()), ("role", self.state.role.clone())]
        {
            if let Some(value) = value {
                self.put_settings(out, &[(Bytes::from_static(setting.as_bytes()), value)], setting);
            }
        }
    }

    /// Settings that hold to the end of this segment's implicit transaction only.
    fn put_context(&self, out: &mut BytesMut, context: &ParseContext) {
        let differing: Vec<usize> =
            (0..PARSE_SETTINGS.len()).filter(|&i| context[i] != self.context[i]).collect();
        if differing.is_empty() {
            return;
        }
        let columns: Vec<String> = (0..differing.len())
            .map(|i| format!("pg_catalog.set_config(${}, ${}, true)", 2 * i + 1, 2 * i + 2))
            .collect();
        let values: Vec<&[u8]> =
            differing.iter().flat_map(|&i| [PARSE_SETTINGS[i].as_bytes(), context[i].as_ref()]).collect();
        self.run(out, format!("SELECT {}", columns.join(", ")).as_bytes(), &values);
    }

    /// A statement that answers at every use that its result has changed, see [`Prepared::CHANGED`]. If it cannot be
    /// made (the session may make no temporary table), the session has none of this name.
    pub(super) fn put_changed(&mut self, out: &mut BytesMut, at: usize) {
        let Prepared { name, types, .. } = self.state.prepared[at].clone();
        put_close_statement(out, &name);
        self.end(out, Step::May);
        self.run(out, b"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE NOT DEFERRABLE", &[]);
        self.run(out, b"SELECT pg_catalog.set_config('search_path', '', true)", &[]);
        self.run(out, b"CREATE TEMPORARY TABLE pg_am (changed pg_catalog.int4)", &[]);
        put_parse(out, &name, Prepared::CHANGED.as_bytes(), &types);
        self.end(out, Step::May);
        self.run(out, b"ROLLBACK", &[]);
        self.end(out, Step::Must("ROLLBACK"));
    }

    pub(super) fn put_statement(&mut self, out: &mut BytesMut, at: usize, again: bool) {
        if self.state.prepared[at].is_changed() {
            return self.put_changed(out, at);
        }
        let Prepared { name, sql, types, by_sql, context, surroundings, .. } =
            self.state.prepared[at].clone();
        if again {
            self.put_surroundings(out, surroundings);
        }
        if let Some(context) = &context {
            self.put_context(out, context);
        }
        if self.completes {
            put_close_statement(out, &name);
        }
        if by_sql {
            self.run(out, &sql, &[]);
        } else {
            put_parse(out, &name, &sql, &types);
        }
        message::put(out, b'D', |out| {
            out.extend_from_slice(b"S");
            message::put_text(out, &name);
        });
        self.end(out, Step::Statement { at, again });
    }

    /// Where the statement was seen first: its names meant something there. Not known: where the log in begins.
    fn put_surroundings(&self, out: &mut BytesMut, surroundings: Option<Surroundings>) {
        let Some(Surroundings { search_path, role }) = surroundings else {
            return self.run(
                out,
                b"SELECT pg_catalog.set_config('role', 'none', true), pg_catalog.set_config('search_path', \
                  (SELECT s.reset_val FROM pg_catalog.pg_settings AS s \
                   WHERE s.name OPERATOR(pg_catalog.=) 'search_path'), true)",
                &[],
            );
        };
        self.run(
            out,
            b"SELECT pg_catalog.set_config('role', $1, true), pg_catalog.set_config('search_path', $2, true)",
            &[&role, &search_path],
        );
    }

    fn put_statements(&mut self, out: &mut BytesMut) {
        for at in 0..self.state.prepared.len() {
            self.put_statement(out, at, false);
        }
        if let Some((body, context)) = self.state.unnamed.clone() {
            self.put_context(out, &context);
            message::put(out, b'P', |out| out.extend_from_slice(&body));
            self.end(out, Step::Unnamed);
        }
    }

    fn put_visible(&mut self, out: &mut BytesMut) {
        for lock in std::mem::take(&mut self.state.locks) {
            let form = if lock.shared { "_shared" } else { "" };
            let arguments = match lock.key {
                LockKey::One(key) => format!("CAST('{key}' AS pg_catalog.int8)"),
                LockKey::Two(a, b) => {
                    format!("CAST('{a}' AS pg_catalog.int4), CAST('{b}' AS pg_catalog.int4)")
                }
            };
            let sql =
                format!("SELECT CAST(pg_catalog.pg_try_advisory_lock{form}({arguments}) AS pg_catalog.text)");
            self.run(out, sql.as_bytes(), &[]);
            self.end(out, Step::Lock);
        }
        for channel in std::mem::take(&mut self.state.channels) {
            let mut sql = b"LISTEN \"".to_vec();
            for &byte in &channel {
                sql.extend_from_slice(if byte == b'"' { b"\"\"" } else { std::slice::from_ref(&byte) });
            }
            sql.push(b'"');
            self.run(out, &sql, &[]);
            self.end(out, Step::Must("LISTEN"));
        }
    }

    /// Draws the value again from a sequence that is restarted there, and takes all of it back: what stays is what
    /// `currval()` and `lastval()` say.
    fn put_sequences(&mut self, out: &mut BytesMut) {
        for sequence in std::mem::take(&mut self.state.sequences).iter().filter(|s| s.restorable) {
            let mut restart = b"ALTER SEQUENCE ".to_vec();
            restart.extend_from_slice(&sequence.name);
            restart.extend_from_slice(format!(" RESTART WITH {}", sequence.value).as_bytes());
            self.run(out, b"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE", &[]);
            self.run(out, b"SET LOCAL lock_timeout = '500ms'", &[]);
            self.run(out, &restart, &[]);
            self.run(out, b"SELECT pg_catalog.nextval(CAST($1 AS pg_catalog.regclass))", &[&sequence.name]);
            self.end(out, Step::May);
            self.run(out, b"ROLLBACK", &[]);
            self.end(out, Step::May);
        }
    }

    fn put_loads(&mut self, out: &mut BytesMut) {
        for library in std::mem::take(&mut self.state.loads) {
            let mut sql = b"LOAD '".to_vec();
            sql.extend_from_slice(&library);
            sql.push(b'\'');
            self.run(out, &sql, &[]);
            // Loading is a hint from the text; the statement may have failed for the client, too.
            self.end(out, Step::May);
        }
    }
}

/// Also of what SQL has prepared. There need be none.
fn put_close_statement(out: &mut BytesMut, name: &[u8]) {
    message::put(out, b'C', |out| {
        out.extend_from_slice(b"S");
        message::put_text(out, name);
    });
}

/// `Parse` under whatever name the client gave it.
fn put_parse(out: &mut BytesMut, name: &[u8], sql: &[u8], types: &[u32]) {
    message::put(out, b'P', |out| {
        message::put_text(out, name);
        message::put_text(out, sql);
        out.extend_from_slice(&u16::try_from(types.len()).unwrap_or(0).to_be_bytes());
        types.iter().for_each(|oid| out.extend_from_slice(&oid.to_be_bytes()));
    });
}
