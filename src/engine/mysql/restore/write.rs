//! What is written to the new backend.

use bytes::{Bytes, BytesMut};

use super::super::entry::set_role;
use super::super::literal;
use super::super::save;
use super::super::state::Context;
use super::{Restore, Step};

/// About how long a `SET` of user variables gets.
const LONG: usize = 256 * 1024;
/// What results are converted to.
const RESULTS: &[u8] = b"character_set_results";
/// The setting under which names in UTF-8 are understood.
pub(in crate::engine::mysql) const UTF8: &[u8] = b"SET character_set_client=utf8mb4";

impl Restore {
    /// Everything, in the order of the module's diagram.
    pub(super) fn write_all(&mut self, out: &mut BytesMut) {
        self.put_role(out);
        self.put_statements(out);
        self.put_database(out);
        self.put_user_variables(out);
        self.put_settings(out);
        self.put_rest(out);
    }

    fn run(&mut self, out: &mut BytesMut, sql: &[u8], step: Step) {
        self.script.query(out, sql, step);
    }

    /// Rights may come from roles, and statements need rights to be prepared.
    fn put_role(&mut self, out: &mut BytesMut) {
        let Some(role) = self.state.role.clone() else { return };
        if !role.is_ascii() {
            self.run(out, UTF8, Step::Must("character set"));
        }
        self.run(out, &set_role(self.product, &role), Step::Must("roles"));
    }

    /// Group by group of those that were prepared in the same place.
    fn put_statements(&mut self, out: &mut BytesMut) {
        let state = &self.state;
        let contexts = state.statements.iter().map(|one| &one.context);
        let mut groups: Vec<Context> = Vec::new();
        for context in contexts.chain(state.named_statements.iter().map(|one| &one.context)) {
            if !groups.iter().any(|group| is_same(group, context)) {
                groups.push(context.clone());
            }
        }
        // Nothing leaves a database again, or gives back the character set of the log in.
        groups.sort_by_key(|context| (context.database.is_some(), !context.is_of_log_in()));
        for context in groups {
            self.put_context(out, &context);
            for at in 0..self.state.statements.len() {
                let statement = &self.state.statements[at];
                if is_same(&statement.context, &context) {
                    self.script.prepare(out, &statement.text, Step::Statement(at));
                }
            }
            for at in 0..self.state.named_statements.len() {
                let statement = &self.state.named_statements[at];
                if is_same(&statement.context, &context) {
                    let sql = prepare(&statement.name, &statement.text, &context);
                    self.run(out, &sql, Step::Named(at));
                }
            }
        }
    }

    fn put_context(&mut self, out: &mut BytesMut, context: &Context) {
        if let Some(database) = &context.database {
            if !database.is_ascii() {
                self.run(out, UTF8, Step::Must("character set"));
            }
            self.script.init_database(out, database, Step::May);
        }
        let mut settings = vec![literal::assigned(b"sql_mode", context.sql_mode.as_ref())];
        if let Some(character_set) = context.is_of_names() {
            settings.push([b"NAMES ", &character_set[..]].concat());
        } else if !context.is_of_log_in() {
            settings.push(literal::assigned(b"character_set_client", context.character_set.as_ref()));
            settings.push(literal::assigned(b"collation_connection", context.collation.as_ref()));
        }
        let sql = [b"SET ", &settings.join(&b","[..])[..]].concat();
        self.run(out, &sql, Step::Must("prepared statement"));
    }

    fn put_database(&mut self, out: &mut BytesMut) {
        let names = self.state.user_variables.iter().map(|(name, _)| name);
        if !names.chain(&self.state.database).all(|name| name.is_ascii()) {
            self.run(out, UTF8, Step::Must("character set"));
        }
        if let Some(database) = self.state.database.clone() {
            self.script.init_database(out, &database, Step::Database);
        }
    }

    fn put_user_variables(&mut self, out: &mut BytesMut) {
        let mut sql = Vec::new();
        for (name, value) in std::mem::take(&mut self.state.user_variables) {
            let assignments = literal::assignments(&name, &value);
            let in_pieces = assignments.len() > 1;
            for assignment in assignments {
                if !sql.is_empty() && (in_pieces || sql.len() + assignment.len() > LONG) {
                    self.run(out, &std::mem::take(&mut sql), Step::Must("user variable"));
                }
                sql.extend_from_slice(if sql.is_empty() { b"SET " } else { b"," });
                sql.extend_from_slice(&assignment);
            }
        }
        if !sql.is_empty() {
            self.run(out, &sql, Step::Must("user variable"));
        }
    }

    /// The log in has made results what they were, down to the collation; a `SET` would have the default one.
    fn has_results(&self) -> bool {
        let state = &self.state;
        let statements = state.statements.iter().map(|statement| &statement.context);
        let mut places = statements.chain(state.named_statements.iter().map(|statement| &statement.context));
        state.results == u16::from(self.wire.collation)
            && state.variable(RESULTS).is_some()
            && places.all(|context| context.is_of_names().is_none())
    }

    fn put_settings(&mut self, out: &mut BytesMut) {
        let has_results = self.has_results();
        let settings: Vec<Vec<u8>> = self
            .state
            .variables
            .iter()
            .filter(|(name, _)| literal::is_plain(name) && !(has_results && name == RESULTS))
            .map(|(name, value)| literal::assigned(name, value.as_ref()))
            .collect();
        let sql = [b"SET ", &settings.join(&b","[..])[..]].concat();
        self.run(out, &sql, Step::Settings);
    }

    pub(super) fn put_settings_one_by_one(&mut self, out: &mut BytesMut) {
        let has_results = self.has_results();
        for at in 0..self.state.variables.len() {
            let (name, value) = &self.state.variables[at];
            if literal::is_plain(name) && !(has_results && name == RESULTS) {
                let sql = [b"SET ", &literal::assigned(name, value.as_ref())[..]].concat();
                self.run(out, &sql, Step::Setting(at));
            }
        }
    }

    /// What every statement changes, and so comes last.
    pub(super) fn put_rest(&mut self, out: &mut BytesMut) {
        let state = &self.state;
        let mut settings: Vec<String> = Vec::new();
        if let Some((first, second)) = state.rand_seeds {
            settings.push(format!("rand_seed1={first},rand_seed2={second}"));
        }
        if let Some(time) = state.timestamp.as_ref().filter(|time| literal::is_number(time)) {
            settings.push(format!("timestamp={}", String::from_utf8_lossy(time)));
        }
        settings.extend(state.last_insert_id.map(|id| format!("last_insert_id={id}")));
        settings.extend(state.insert_id.map(|id| format!("insert_id={id}")));
        if !settings.is_empty() {
            self.run(out, format!("SET {}", settings.join(",")).as_bytes(), Step::Must("last insert id"));
        }
        self.run(out, save::query(self.product).as_bytes(), Step::Save);
        self.put_found_rows(out);
        for sql in self.wire.characteristics.clone() {
            self.run(out, &sql, Step::Must("transaction"));
        }
    }

    /// What the session has said since it was looked at, and nobody had to ask about.
    pub(super) fn put_told(&mut self, out: &mut BytesMut) {
        for sql in self.wire.told.clone() {
            self.run(out, &sql, Step::Must("what was set last"));
        }
    }

    fn put_found_rows(&mut self, out: &mut BytesMut) {
        let variables: Vec<(Bytes, Option<Bytes>)> = self.state.variables.clone();
        let of = |name: &str| variables.iter().find(|(known, _)| known == name.as_bytes())?.1.as_ref();
        let found_rows = self.state.found_rows.filter(|&rows| rows <= save::MOST_FOUND_ROWS);
        let unlimit = save::unlimit(of).filter(|_| found_rows.is_some_and(|rows| rows > 0));
        if let Some(sql) = &unlimit {
            self.run(out, sql.as_bytes(), Step::Must("limits"));
        }
        if let Some(rows) = found_rows {
            self.run(out, save::found_rows(rows).as_bytes(), Step::Must("found rows"));
        }
        if let Some(sql) = save::put_back(self.product, of, unlimit.is_some(), None) {
            self.run(out, &sql, Step::Must("limits"));
        }
        self.script.set_option(out, self.multi_statements, Step::Must("multi-statements"));
        if self.wire.row_count == 0 {
            self.script.ping(out, Step::Must("row count"));
        }
    }
}

/// Prepared in the same place.
fn is_same(one: &Context, other: &Context) -> bool {
    let place = |context: &Context| Context { era: 0, ..context.clone() };
    place(one) == place(other)
}

fn prepare(name: &Bytes, text: &Bytes, context: &Context) -> Vec<u8> {
    let mut sql = b"PREPARE ".to_vec();
    literal::name(&mut sql, name);
    sql.extend_from_slice(b" FROM ");
    let charset = context.character_set.as_deref().unwrap_or_default();
    sql.extend_from_slice(&literal::quoted(text, charset, context.sql_mode.as_deref().unwrap_or_default()));
    sql
}

#[cfg(test)]
mod tests {
    use super::super::super::log_in::LoggedIn;
    use super::super::super::packet;
    use super::super::super::state::{NamedStatement, Names, State, Statement, Wire};
    use super::*;

    fn context(database: Option<&'static str>, sql_mode: &'static str, era: u32) -> Context {
        Context {
            database: database.map(Bytes::from),
            sql_mode: Some(sql_mode.into()),
            character_set: Some("latin1".into()),
            collation: Some("latin1_bin".into()),
            names: Names::Unknown,
            era,
        }
    }

    fn statement(id: u32, context: Context) -> Statement {
        let text = Bytes::from(format!("statement {id}"));
        Statement { id, text, context, parameters: 0, columns: 0, definitions: Bytes::new() }
    }

    fn written(state: &State) -> Vec<String> {
        let mut restore = Restore::new(&Wire::default(), &LoggedIn::default(), state);
        let mut out = BytesMut::new();
        restore.put_statements(&mut out);
        let mut written = Vec::new();
        while let Some(packet) = packet::take(&mut out, packet::SPLIT).unwrap() {
            written.push(String::from_utf8(packet.body.to_vec()).unwrap());
        }
        written
    }

    #[test]
    fn what_the_log_in_made_comes_first() {
        let unknown = |names: Names| Context { collation: None, names, ..context(Some("a"), "", 1) };
        let of_log_in = Context { character_set: None, ..unknown(Names::LogIn) };
        let statements = vec![statement(1, unknown(Names::Default)), statement(2, of_log_in)];
        let state = State { captured: true, statements, ..State::default() };
        let expected = [
            "\u{2}a",
            "\u{3}SET sql_mode=_utf8mb4 X''",
            "\u{16}statement 2",
            "\u{2}a",
            "\u{3}SET sql_mode=_utf8mb4 X'',NAMES latin1",
            "\u{16}statement 1",
        ];
        assert_eq!(written(&state), expected);
    }

    #[test]
    fn results_are_left_as_the_log_in_made_them() {
        let settings = |results, value: Option<&'static str>| {
            let variables = vec![("character_set_results".into(), value.map(Bytes::from))];
            let state = State { captured: true, results, variables, ..State::default() };
            let wire = Wire { collation: 45, ..Wire::default() };
            let mut restore = Restore::new(&wire, &LoggedIn::default(), &state);
            let mut out = BytesMut::new();
            restore.put_settings_one_by_one(&mut out);
            !out.is_empty()
        };
        // The character set is the same, and the collation only if nothing has set it.
        assert_eq!([settings(45, Some("utf8mb4")), settings(255, Some("utf8mb4"))], [false, true]);
        assert!(settings(45, None));
    }

    #[test]
    fn statements_are_prepared_where_they_were() {
        let state = State {
            captured: true,
            statements: vec![
                statement(1, context(Some("a"), "", 1)),
                statement(2, context(None, "ANSI", 1)),
                statement(3, context(Some("a"), "", 2)),
            ],
            named_statements: vec![NamedStatement {
                name: "n`".into(),
                text: "it's".into(),
                context: context(None, "ANSI", 1),
            }],
            ..State::default()
        };
        let written = written(&state);
        let settings = |mode: &str| {
            format!(
                "\u{3}SET sql_mode=_utf8mb4 X'{mode}',character_set_client=_utf8mb4 X'6c6174696e31',\
                 collation_connection=_utf8mb4 X'6c6174696e315f62696e'"
            )
        };
        let expected = [
            &settings("414e5349")[..],
            "\u{16}statement 2",
            "\u{3}PREPARE `n``` FROM 'it''s'",
            "\u{2}a",
            &settings(""),
            "\u{16}statement 1",
            "\u{16}statement 3",
        ];
        assert_eq!(written, expected);
    }
}
