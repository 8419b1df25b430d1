//! What a statement's text tells about the session, before the server has run it.
//!
//! Everything here is a *hint*: it decides when to look at a session again and which setting names to ask for. What a
//! session is made of is the server's to say (`capture`).

use super::lexer::{self, Token, Tokens};

/// How a statement touches the transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionCommand {
    /// `COMMIT`, `END`.
    Commit,
    /// `PREPARE TRANSACTION`: it ends here and is decided elsewhere.
    Prepare,
    /// `ROLLBACK`, `ABORT`.
    Rollback,
    /// `ROLLBACK TO SAVEPOINT`.
    RollbackTo,
    /// `COMMIT AND CHAIN` or `ROLLBACK AND CHAIN`.
    Chain,
}

/// Classifies the first statement of a text; `None` for everything that does not end a transaction.
pub fn transaction_command(text: &[u8]) -> Option<TransactionCommand> {
    let mut tokens = Tokens::new(text, true).skip_while(|t| *t == Token::End);
    let first = tokens.next()?;
    // Nearly every text ends here.
    if !["commit", "end", "rollback", "abort", "prepare"].iter().any(|word| first.is(word)) {
        return None;
    }
    let rest: Vec<Token<'_>> = tokens.take_while(|t| *t != Token::End).take(8).collect();
    let has = |word: &str| rest.iter().any(|t| t.is(word));
    let commit = first.is("commit") || first.is("end");
    let rollback = first.is("rollback") || first.is("abort");
    match () {
        () if (commit || rollback) && has("chain") && !has("no") => Some(TransactionCommand::Chain),
        () if first.is("rollback") && has("to") => Some(TransactionCommand::RollbackTo),
        // COMMIT PREPARED and ROLLBACK PREPARED end another transaction and fail inside one.
        () if (commit || rollback) && has("prepared") => None,
        () if commit => Some(TransactionCommand::Commit),
        () if first.is("prepare") && rest.first().is_some_and(|t| t.is("transaction")) => {
            Some(TransactionCommand::Prepare)
        }
        () if rollback => Some(TransactionCommand::Rollback),
        () => None,
    }
}

/// What a text may do to the session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "findings that do not exclude each other")]
pub struct Hints {
    /// It may end a transaction with a commit.
    pub commits: bool,
    /// A statement in it ends a transaction.
    pub ended: bool,
    /// A statement follows that one.
    pub runs_on: bool,
    /// It may be more than one transaction, or touch one that is open.
    pub several: bool,
    /// It may change what the session is made of.
    pub suspect: bool,
    /// Its verb is none of those that leave the session as it was.
    pub other_verb: bool,
    /// Values bound to it may be names of settings.
    pub binds_setting_names: bool,
    /// Dotted names that may be custom settings, as written.
    pub setting_names: Vec<String>,
    /// Libraries it loads.
    pub loads: Vec<Vec<u8>>,
    /// Names it gives to SQL-level prepared statements.
    pub prepares: Vec<Vec<u8>>,
    /// It touches a setting that a prepared statement's meaning hangs on and the server does not report.
    pub sets_parse_context: bool,
    /// `Some(true)` starts an online backup, `Some(false)` ends it.
    pub backup: Option<bool>,
    /// `Some(true)` sets up a replication origin, `Some(false)` resets it.
    pub origin: Option<bool>,
}

/// Settings that shape how a text is parsed and that the server does not report
/// (`src/backend/parser`: `GUC_REPORT` is missing on these).
const UNREPORTED_PARSE_SETTINGS: [&str; 4] =
    ["backslash_quote", "array_nulls", "transform_null_equals", "xmloption"];

/// First words of statements that leave the session as it was.
const BENIGN_VERBS: [&str; 24] = [
    "select",
    "insert",
    "update",
    "delete",
    "merge",
    "with",
    "values",
    "table",
    "show",
    "truncate",
    "copy",
    "lock",
    "explain",
    "begin",
    "start",
    "commit",
    "end",
    "rollback",
    "abort",
    "savepoint",
    "release",
    "vacuum",
    "analyze",
    "checkpoint",
];
/// So many of them, at the front, begin statements that are one transaction, or a part of one, whatever they do.
const OF_ONE_TRANSACTION: usize = 13;

/// Words inside a statement that make it suspect whatever its verb is.
const SUSPECT_WORDS: [&str; 4] = ["into_temp", "nextval", "setval", "temp"];

/// Words that may stand before a parenthesis without being a call, and calls that have no effect.
const BENIGN_BEFORE_PARENTHESIS: [&str; 63] = [
    "values",
    "in",
    "exists",
    "any",
    "all",
    "some",
    "and",
    "or",
    "not",
    "on",
    "using",
    "over",
    "filter",
    "as",
    "from",
    "where",
    "when",
    "then",
    "else",
    "by",
    "union",
    "except",
    "intersect",
    "select",
    "set",
    "row",
    "array",
    "case",
    "with",
    "lateral",
    "only",
    "conflict",
    "cast",
    "count",
    "sum",
    "min",
    "max",
    "avg",
    "coalesce",
    "nullif",
    "greatest",
    "least",
    "now",
    "length",
    "lower",
    "upper",
    "abs",
    "round",
    "floor",
    "ceil",
    "random",
    "generate_series",
    "extract",
    "substring",
    "to_char",
    "date_trunc",
    "row_number",
    "rank",
    "numeric",
    "varchar",
    "char",
    "pg_sleep",
    // A name that was not known before is looked at all the same.
    "current_setting",
];

/// Reads a text. `standard_strings`: `standard_conforming_strings` of the session.
pub fn hints(text: &[u8], standard_strings: bool) -> Hints {
    let mut hints = Hints::default();
    let mut statement = Statement::default();
    for token in Tokens::new(text, standard_strings) {
        statement.token(token, &mut hints);
        if token == Token::End {
            statement.end(&mut hints);
            statement = Statement { names_settings: statement.names_settings, ..Statement::default() };
        }
    }
    statement.end(&mut hints);
    if statement.names_settings {
        // Any literal may have a dot in it; it names a setting only beside a call that takes such names.
        let literals = Tokens::new(text, standard_strings).filter_map(|token| match token {
            Token::Literal(literal) => dotted_name(literal),
            _ => None,
        });
        hints.setting_names.extend(literals);
    }
    hints
}

/// Cheap, and true too often rather than too rarely.
fn mentions_setting_calls(text: &[u8]) -> bool {
    text.windows(7)
        .any(|window| window.eq_ignore_ascii_case(b"setting") || window.eq_ignore_ascii_case(b"set_con"))
}

/// What has been read of the statement so far.
#[derive(Default)]
struct Statement<'a> {
    position: usize,
    verb: Option<&'a [u8]>,
    /// The last three tokens, oldest first.
    last: [Option<Token<'a>>; 3],
    /// A dotted name is being read after `SET`.
    name: Option<String>,
    /// A call that takes names of settings was read.
    names_settings: bool,
}

impl<'a> Statement<'a> {
    fn token(&mut self, token: Token<'a>, hints: &mut Hints) {
        match (self.position, token) {
            (0, Token::Word(word)) => {
                self.verb = Some(word);
                self.first_word(word, hints);
            }
            (1.., _) | (_, Token::End) => {}
            // A statement in parentheses.
            _ => (hints.runs_on, hints.several) = (hints.runs_on || hints.ended, true),
        }
        match token {
            Token::Word(word) => self.word(word, hints),
            Token::Quoted(name) if self.position == 1 && self.verb_is("prepare") => {
                hints.prepares.push(lexer::identifier(name));
            }
            Token::Literal(literal) => self.literal(literal, hints),
            Token::Symbol(b'(') => self.parenthesis(hints),
            _ => {}
        }
        self.setting_name(token, hints);
        if token != Token::End {
            self.position += 1;
        }
        self.last = [self.last[1], self.last[2], Some(token)];
    }

    /// The statement is read to its end.
    fn end(&mut self, hints: &mut Hints) {
        // `SET a.b` at the very end of the text.
        hints.setting_names.extend(self.name.take().and_then(|name| dotted_name(name.as_bytes())));
    }

    fn verb_is(&self, verb: &str) -> bool {
        self.verb.is_some_and(|v| v.eq_ignore_ascii_case(verb.as_bytes()))
    }

    fn first_word(&self, word: &[u8], hints: &mut Hints) {
        let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
        let verb = BENIGN_VERBS.iter().position(|verb| is(verb));
        let other = verb.is_none();
        hints.several |= verb.is_none_or(|at| at >= OF_ONE_TRANSACTION);
        hints.other_verb |= other;
        hints.suspect |= other;
        hints.runs_on |= hints.ended;
        hints.ended |= ["commit", "end", "rollback", "abort"].into_iter().any(is);
        hints.commits |= is("commit") || is("end") || is("call") || is("do");
    }

    fn word(&mut self, word: &[u8], hints: &mut Hints) {
        let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
        hints.suspect |= SUSPECT_WORDS.iter().any(|name| is(name));
        hints.suspect |= is("into") && (self.verb_is("select") || self.verb_is("with"));
        hints.suspect |= is("temporary");
        hints.binds_setting_names |= is("set_config") || is("current_setting");
        self.names_settings |= is("set_config") || is("current_setting");
        hints.sets_parse_context |= UNREPORTED_PARSE_SETTINGS.iter().any(|name| is(name));
        hints.commits |= is("transaction") && self.verb_is("prepare");
        if is("pg_backup_start") || is("pg_start_backup") {
            hints.backup = Some(true);
        } else if is("pg_backup_stop") || is("pg_stop_backup") {
            hints.backup = Some(false);
        } else if is("pg_replication_origin_session_setup") {
            hints.origin = Some(true);
        } else if is("pg_replication_origin_session_reset") {
            hints.origin = Some(false);
        }
        if self.position == 1 && self.verb_is("prepare") && !is("transaction") {
            hints.prepares.push(word.to_ascii_lowercase());
        }
    }

    fn literal(&self, literal: &[u8], hints: &mut Hints) {
        if self.position == 1 && self.verb_is("load") {
            hints.loads.push(literal.to_vec());
        }
        hints.sets_parse_context |=
            UNREPORTED_PARSE_SETTINGS.iter().any(|n| literal.eq_ignore_ascii_case(n.as_bytes()));
        if literal.iter().any(u8::is_ascii_whitespace) && mentions_setting_calls(literal) {
            // The body of a `DO`, or text for an `EXECUTE`.
            hints.setting_names.extend(super::stored::names(&String::from_utf8_lossy(literal)));
        }
    }

    /// A call of anything that is not known to be harmless makes the statement suspect.
    fn parenthesis(&self, hints: &mut Hints) {
        let Some(Token::Word(word)) = self.last[2] else {
            hints.suspect |= matches!(self.last[2], Some(Token::Quoted(_))) && !self.names_a_target();
            return;
        };
        let known = BENIGN_BEFORE_PARENTHESIS.iter().any(|name| word.eq_ignore_ascii_case(name.as_bytes()));
        hints.suspect |= !known && !self.names_a_target();
    }

    /// `INTO t (`, `INTO s.t (`, `COPY t (`: a list of columns follows, not arguments.
    fn names_a_target(&self) -> bool {
        let introduces = |token: Option<Token<'_>>| {
            token.is_some_and(|t| {
                t.is("into") || t.is("copy") || t.is("table") || t.is("as") || t.is("analyze")
            })
        };
        introduces(self.last[1]) || self.last[1] == Some(Token::Symbol(b'.')) && self.verb_is("insert")
    }

    /// `SET [SESSION|LOCAL] a.b`: the name may be spelled in parts.
    fn setting_name(&mut self, token: Token<'a>, hints: &mut Hints) {
        let starts = self.position >= 1
            && self.last[2].is_some_and(|t| {
                t.is("set") || t.is("reset") || t.is("session") || t.is("local") || t.is("show")
            });
        match (token, self.name.as_mut()) {
            (Token::Word(_), None) if starts && (token.is("session") || token.is("local")) => {}
            (Token::Word(part) | Token::Quoted(part), None) if starts => {
                self.name = Some(String::from_utf8_lossy(part).into_owned());
            }
            (Token::Symbol(b'.'), Some(name)) => name.push('.'),
            (Token::Word(part) | Token::Quoted(part), Some(name)) if name.ends_with('.') => {
                name.push_str(&String::from_utf8_lossy(part));
            }
            (_, Some(name)) => {
                hints.setting_names.extend(dotted_name(name.as_bytes()));
                self.name = None;
            }
            _ => {}
        }
    }
}

/// The text as the name of a custom setting, if it can be one (`guc.c`, `valid_custom_variable_name`).
pub fn dotted_name(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text).ok()?;
    if text.len() > 127 || !text.contains('.') {
        return None;
    }
    let is_name = |part: &str| {
        let mut letters = part.chars();
        let first = letters.next().is_some_and(|c| c.is_alphabetic() || c == '_');
        first && letters.all(|c| c.is_alphanumeric() || c == '_' || c == '$')
    };
    text.split('.').all(is_name).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Hints {
        hints(text.as_bytes(), true)
    }

    #[test]
    fn transaction_commands_are_told_apart() {
        use TransactionCommand::*;
        for (text, expected) in [
            ("COMMIT", Some(Commit)),
            ("/* x */ end work;", Some(Commit)),
            ("PREPARE TRANSACTION 'x'", Some(Prepare)),
            ("PREPARE x AS SELECT 1", None),
            ("COMMIT PREPARED 'x'", None),
            ("rollback", Some(Rollback)),
            ("ABORT TRANSACTION", Some(Rollback)),
            ("ROLLBACK TO SAVEPOINT s", Some(RollbackTo)),
            ("ROLLBACK WORK TO s", Some(RollbackTo)),
            ("COMMIT AND CHAIN", Some(Chain)),
            ("ROLLBACK AND NO CHAIN", Some(Rollback)),
            ("SELECT 1; COMMIT", None),
            ("SAVEPOINT commit", None),
            ("", None),
        ] {
            assert_eq!(transaction_command(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn setting_names_are_found_wherever_they_are_spelled() {
        assert_eq!(of("SET myapp.user_id = '42'").setting_names, ["myapp.user_id"]);
        assert_eq!(of("set session \"MyApp\".x to 1").setting_names, ["MyApp.x"]);
        assert_eq!(of("SET LOCAL a.b.c = 1;").setting_names, ["a.b.c"]);
        assert_eq!(of("SELECT set_config('a.b', $1, false)").setting_names, ["a.b"]);
        assert_eq!(of("SELECT current_setting('a.b', true)").setting_names, ["a.b"]);
        assert!(of("SELECT set_config($1, $2, false)").binds_setting_names);
        assert!(of("SELECT a.b FROM public.t WHERE x = '1.5'").setting_names.is_empty());
    }

    #[test]
    fn harmless_statements_are_told_from_suspect_ones() {
        for text in [
            "SELECT abalance FROM pgbench_accounts WHERE aid = 5;",
            "INSERT INTO pgbench_history (tid, bid) VALUES (1, 2)",
            "INSERT INTO s.t (a) SELECT count(*) FROM x WHERE a IN (1,2)",
            "UPDATE t SET a = (a + 1) WHERE b = coalesce(c, 1)",
            "BEGIN; END;",
            "vacuum analyze pgbench_branches",
        ] {
            assert!(!of(text).suspect, "{text}");
        }
        for text in [
            "SELECT set_config('a','b',false)",
            "SELECT pg_advisory_lock(1)",
            "SELECT f()",
            "SELECT \"f\"(1)",
            "SELECT * INTO TEMP t FROM x",
            "CREATE TEMP TABLE t (a int)",
            "SET a = 1",
            "LISTEN x",
            "DO $$begin end$$",
            "SELECT 1; SET x = 1",
            "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
            "PREPARE p AS SELECT 1",
        ] {
            assert!(of(text).suspect, "{text}");
        }
    }

    #[test]
    fn one_transaction_is_told_from_several() {
        for text in
            ["SELECT 1", "INSERT INTO t VALUES (1); UPDATE t SET a = 2", "with x as (select 1) table x", ""]
        {
            assert!(!of(text).several, "{text}");
        }
        for text in [
            "VACUUM t",
            "CALL p()",
            "DO $$begin commit; end$$",
            "BEGIN; SELECT 1",
            "INSERT INTO t VALUES (1); COMMIT",
            "CREATE INDEX CONCURRENTLY ON t (a)",
            "EXECUTE p",
            "(SELECT 1)",
        ] {
            assert!(of(text).several, "{text}");
        }
        assert!(of("COMMIT; (SELECT f())").runs_on);
        assert!(!of("COMMIT;; ").runs_on);
    }

    #[test]
    fn libraries_backups_and_prepared_names() {
        assert_eq!(of("LOAD 'auto_explain'").loads, [b"auto_explain"]);
        assert_eq!(of("SELECT pg_backup_start('x')").backup, Some(true));
        assert_eq!(of("INSERT INTO t VALUES (1); PREPARE X AS SELECT 1").prepares, [b"x"]);
        assert_eq!(of("PREPARE \"a\"\"B\" AS SELECT 1").prepares, [b"a\"B"]);
        assert!(of("SET xmloption = document").sets_parse_context);
    }
}
