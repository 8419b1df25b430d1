//! Where a text names connections by their numbers.
//!
//! The client knows its connection by a number of the router's, the server by one of its own that changes at a move. So
//! `CONNECTION_ID()` and `@@pseudo_thread_id` are replaced by the client's number, except in a statement that reads what
//! the server itself keeps of connections (its list of processes and the like): that one speaks the server's numbers, and
//! those of the client's that are written in it are replaced by the server's.

use std::ops::Range;

use crate::engine::mysql::lexer::{self, Mode, Token, Tokens};
use crate::engine::mysql::literal;

/// An implicit name of a column that is longer is not kept: servers refuse an alias of more than 255 letters.
const LONGEST_NAME: usize = 200;

/// A token and where it stands.
pub(super) type Placed<'a> = (Token<'a>, Range<usize>);

/// A part of a text that is to be replaced.
pub type Edit = (Range<usize>, Vec<u8>);

/// The statements of a text, up to the first that has the body of a routine; that one is not among them.
pub(super) fn statements(text: &[u8], mode: Mode) -> Vec<Vec<Placed<'_>>> {
    let mut all = vec![Vec::new()];
    let mut tokens = Tokens::new(text, mode);
    while let Some(token) = tokens.next() {
        match all.last_mut() {
            _ if token == Token::End => all.push(Vec::new()),
            Some(last) => last.push((token, tokens.start()..tokens.end())),
            None => {}
        }
    }
    let end = all.iter().position(|statement| is_routine(statement)).unwrap_or(all.len());
    all.truncate(end);
    all.retain(|statement| !statement.is_empty());
    all
}

fn is(statement: &[Placed<'_>], at: usize, word: &str) -> bool {
    statement.get(at).is_some_and(|(token, _)| token.is(word))
}

fn symbol(statement: &[Placed<'_>], at: usize, byte: u8) -> bool {
    statement.get(at).is_some_and(|(token, _)| *token == Token::Symbol(byte))
}

fn is_routine(statement: &[Placed<'_>]) -> bool {
    let kinds = ["procedure", "function", "trigger", "event", "package"];
    let front = &statement[..statement.len().min(13)];
    let others = ["table", "view", "index", "user", "role", "database"];
    let kind = front.iter().skip(1).find(|(token, _)| kinds.iter().chain(&others).any(|word| token.is(word)));
    (is(statement, 0, "create") || is(statement, 0, "alter"))
        && kind.is_some_and(|(token, _)| kinds.iter().any(|word| token.is(word)))
}

/// A word by which a statement names what the server keeps of connections. `sys` is one only before a dot.
pub(super) fn is_of_server(name: &[u8]) -> bool {
    let known: &[&[u8]] = match name.len() {
        10 => &[b"innodb_trx"],
        11 => &[b"processlist"],
        12 => &[b"is_used_lock", b"ps_thread_id"],
        14 => &[b"processlist_id"],
        18 => &[b"performance_schema", b"metadata_lock_info"],
        19 => &[b"trx_mysql_thread_id"],
        _ => return false,
    };
    known.iter().any(|word| name.eq_ignore_ascii_case(word))
}

/// A statement speaks the server's numbers.
pub(super) fn speaks_of_server(statement: &[Placed<'_>]) -> bool {
    statement.iter().enumerate().any(|(at, (token, _))| {
        let name = token.name().unwrap_or_default();
        is_of_server(name) || name.eq_ignore_ascii_case(b"sys") && symbol(statement, at + 1, b'.')
    })
}

/// `@@pseudo_thread_id`, without the signs.
pub(super) fn is_own_variable(name: &[u8]) -> bool {
    let (scope, name) = match name.iter().position(|&byte| byte == b'.') {
        Some(dot) => (&name[..dot], &name[dot + 1..]),
        None => (&b"session"[..], name),
    };
    name.eq_ignore_ascii_case(b"pseudo_thread_id")
        && (scope.eq_ignore_ascii_case(b"session") || scope.eq_ignore_ascii_case(b"local"))
}

/// How many tokens from `at` on are the session's own number; 0: they are not.
pub(super) fn own(statement: &[Placed<'_>], at: usize) -> usize {
    match statement.get(at) {
        Some((Token::Word(name), _)) if name.eq_ignore_ascii_case(b"connection_id") => {
            let called = symbol(statement, at + 1, b'(') && symbol(statement, at + 2, b')');
            // A table or a routine may have that name, too.
            let before = |back: usize| at.checked_sub(back).and_then(|at| statement.get(at));
            let names = ["into", "insert", "replace", "ignore", "table", "call"];
            let other = before(1).is_some_and(|(token, _)| {
                *token == Token::Symbol(b'.') || names.iter().any(|word| token.is(word))
            });
            if called && !other { 3 } else { 0 }
        }
        Some((Token::System(name), _)) if is_own_variable(name) => {
            let assigned = symbol(statement, at + 1, b'=')
                || symbol(statement, at + 1, b':') && symbol(statement, at + 2, b'=');
            let target = at > 0 && (is(statement, at - 1, "set") || symbol(statement, at - 1, b','));
            let sets = is(statement, 0, "set") && assigned && target;
            usize::from(!sets)
        }
        _ => 0,
    }
}

/// The text with the session's own number in it, if it asks for that. `own_number`: an expression of the type that the
/// server would give; `server_only`: the current database is one of the server's own.
pub fn with_own_number(text: &[u8], mode: Mode, own_number: &str, server_only: bool) -> Option<Vec<u8>> {
    let mut edits = Vec::new();
    for statement in statements(text, mode) {
        if let Some(at) = prepared(&statement) {
            edits.extend(in_literal(text, &statement[at], mode, own_number, server_only));
        } else if !server_only && !speaks_of_server(&statement) {
            in_statement(text, &statement, own_number, &mut edits);
        }
    }
    (!edits.is_empty()).then(|| edited(text, edits))
}

/// Makes the replacements.
pub(super) fn edited(text: &[u8], mut edits: Vec<Edit>) -> Vec<u8> {
    // An alias stands behind what it is the alias of.
    edits.sort_by_key(|(range, _)| (range.start, range.end));
    let mut out = Vec::with_capacity(text.len() + 32 * edits.len());
    let mut at = 0;
    for (range, with) in edits {
        out.extend_from_slice(&text[at..range.start]);
        out.extend_from_slice(&with);
        at = range.end;
    }
    out.extend_from_slice(&text[at..]);
    out
}

/// Which token is the text of `PREPARE … FROM '…'` or `EXECUTE IMMEDIATE '…'`.
pub(super) fn prepared(statement: &[Placed<'_>]) -> Option<usize> {
    let at = match () {
        () if is(statement, 0, "prepare") && is(statement, 2, "from") => 3,
        () if is(statement, 0, "execute") && is(statement, 1, "immediate") => 2,
        () => return None,
    };
    matches!(statement.get(at), Some((Token::Literal(_), _))).then_some(at)
}

/// What a literal token says.
pub(super) fn said(text: &[u8], literal: &Placed<'_>, mode: Mode) -> Vec<u8> {
    let (Token::Literal(inner), range) = literal else { return Vec::new() };
    lexer::unescaped(inner, text[range.start], mode)
}

fn in_literal(
    text: &[u8],
    literal: &Placed<'_>,
    mode: Mode,
    own_number: &str,
    server_only: bool,
) -> Option<Edit> {
    let with = with_own_number(&said(text, literal, mode), mode, own_number, server_only)?;
    let sql_mode: &[u8] = if mode.no_escapes { b"NO_BACKSLASH_ESCAPES" } else { b"" };
    Some((literal.1.clone(), literal::quoted(&with, b"", sql_mode)))
}

/// A bracket, or the statement itself.
#[derive(Default)]
struct Level {
    /// Where the item of a list of results begins that is being read.
    item: Option<usize>,
    /// The list's next item has not begun.
    expects: bool,
    /// The item has the number in it.
    has: bool,
}

fn in_statement(text: &[u8], statement: &[Placed<'_>], own_number: &str, edits: &mut Vec<Edit>) {
    let Some(from) = first_query(statement) else { return };
    let mut levels = vec![Level::default()];
    let mut at = from;
    while at < statement.len() {
        let length = own(statement, at);
        let (token, range) = &statement[at];
        let ends = *token == Token::Symbol(b')') && length == 0;
        if (ends || *token == Token::Symbol(b',') || ends_list(token))
            && let Some(level) = levels.last_mut()
            && (level.item.is_some() || level.expects)
        {
            edits.extend(level.close(text, statement, at));
            level.expects = *token == Token::Symbol(b',');
        } else if let Some(level) = levels.last_mut()
            && level.expects
            && !is_modifier(token)
        {
            (level.item, level.expects) = (Some(at), false);
        }
        match token {
            Token::Symbol(b'(') => levels.push(Level::default()),
            Token::Symbol(b')') if levels.len() > 1 => drop(levels.pop()),
            _ if token.is("select") || token.is("returning") => {
                if let Some(level) = levels.last_mut() {
                    *level = Level { expects: true, ..Level::default() };
                }
            }
            _ => {}
        }
        if length > 0 {
            let end = statement[at + length - 1].1.end;
            edits.push((range.start..end, own_number.as_bytes().to_vec()));
            levels.iter_mut().for_each(|level| level.has |= level.item.is_some());
        }
        at += length.max(1);
    }
    for level in levels.iter_mut().rev() {
        edits.extend(level.close(text, statement, statement.len()));
    }
}

/// Where the expressions begin that are evaluated now: not in what is stored by a definition.
fn first_query(statement: &[Placed<'_>]) -> Option<usize> {
    if is(statement, 0, "kill") || is(statement, 0, "alter") {
        return None;
    }
    if !is(statement, 0, "create") {
        return Some(0);
    }
    let table = (1..statement.len().min(5)).any(|at| is(statement, at, "table"));
    statement.iter().position(|(token, _)| token.is("select")).filter(|_| table)
}

fn ends_list(token: &Token<'_>) -> bool {
    let words = [
        "from",
        "into",
        "where",
        "group",
        "having",
        "order",
        "limit",
        "union",
        "except",
        "intersect",
        "minus",
        "for",
        "lock",
        "procedure",
        "window",
        "offset",
        "fetch",
        "on",
        "qualify",
    ];
    words.iter().any(|word| token.is(word))
}

/// What stands between `SELECT` and the first item.
fn is_modifier(token: &Token<'_>) -> bool {
    let words = [
        "all",
        "distinct",
        "distinctrow",
        "high_priority",
        "straight_join",
        "sql_small_result",
        "sql_big_result",
        "sql_buffer_result",
        "sql_cache",
        "sql_no_cache",
        "sql_calc_found_rows",
    ];
    words.iter().any(|word| token.is(word))
}

impl Level {
    /// The item is over: without a name of its own it keeps the one that the server would give it.
    fn close(&mut self, text: &[u8], statement: &[Placed<'_>], end: usize) -> Option<Edit> {
        let item = self.item.take();
        let has = std::mem::take(&mut self.has);
        let item = statement.get(item?..end)?;
        let (first, last) = (item.first()?, item.last()?);
        let typed = &text[first.1.start..last.1.end];
        if !has || is_named(item) || typed.len() > LONGEST_NAME {
            return None;
        }
        let mut alias = b" AS ".to_vec();
        literal::name(&mut alias, typed);
        Some((last.1.end..last.1.end, alias))
    }
}

/// It may have a name. To take an operand for a name costs no more than the column's looks.
fn is_named(item: &[Placed<'_>]) -> bool {
    let [.., (before, _), (last, _)] = item else { return false };
    match last {
        Token::Symbol(b')') | Token::Number | Token::System(_) => false,
        Token::Word(_) | Token::Quoted(_) | Token::Literal(_) => match before {
            Token::Symbol(symbol) => *symbol == b')',
            Token::Word(_) => {
                let operators =
                    ["and", "or", "xor", "not", "is", "in", "like", "div", "mod", "regexp", "rlike"];
                !operators.iter().any(|word| before.is(word))
            }
            _ => true,
        },
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> String {
        let found = with_own_number(text.as_bytes(), Mode::default(), "<7>", false);
        found.map_or_else(|| "-".to_owned(), |text| String::from_utf8(text).unwrap())
    }

    #[test]
    fn the_number_stands_wherever_it_is_asked_for() {
        for (text, expected) in [
            ("SELECT CONNECTION_ID()", "SELECT <7> AS `CONNECTION_ID()`"),
            ("select distinct connection_id ( ) , @@x", "select distinct <7> AS `connection_id ( )` , @@x"),
            ("SELECT @@x, CONNECTION_ID() + 1 FROM t", "SELECT @@x, <7> + 1 AS `CONNECTION_ID() + 1` FROM t"),
            ("SELECT CONNECTION_ID() AS me, 1", "SELECT <7> AS me, 1"),
            ("SELECT CONNECTION_ID() me", "SELECT <7> me"),
            ("SELECT CONNECTION_ID() 'me'; ;", "SELECT <7> 'me'; ;"),
            ("SELECT a = 'x' OR CONNECTION_ID()", "SELECT a = 'x' OR <7> AS `a = 'x' OR CONNECTION_ID()`"),
            ("SELECT CONNECTION_ID() = b", "SELECT <7> = b AS `CONNECTION_ID() = b`"),
            ("SELECT CONNECTION_ID() IS NULL", "SELECT <7> IS NULL AS `CONNECTION_ID() IS NULL`"),
            (
                "SELECT GET_LOCK(CONCAT('a',CONNECTION_ID()),0)",
                "SELECT GET_LOCK(CONCAT('a',<7>),0) AS `GET_LOCK(CONCAT('a',CONNECTION_ID()),0)`",
            ),
            ("SELECT `a``b` + CONNECTION_ID()", "SELECT `a``b` + <7> AS ```a````b`` + CONNECTION_ID()`"),
            ("INSERT INTO t (a) VALUES (CONNECTION_ID()),(2)", "INSERT INTO t (a) VALUES (<7>),(2)"),
            (
                "INSERT INTO t SELECT CONNECTION_ID() ON DUPLICATE KEY UPDATE a = CONNECTION_ID()",
                "INSERT INTO t SELECT <7> AS `CONNECTION_ID()` ON DUPLICATE KEY UPDATE a = <7>",
            ),
            ("UPDATE t SET a = 1 WHERE b = CONNECTION_ID()", "UPDATE t SET a = 1 WHERE b = <7>"),
            ("SELECT * FROM (SELECT CONNECTION_ID()) x", "SELECT * FROM (SELECT <7> AS `CONNECTION_ID()`) x"),
            (
                "SELECT (SELECT CONNECTION_ID())",
                "SELECT (SELECT <7> AS `CONNECTION_ID()`) AS `(SELECT CONNECTION_ID())`",
            ),
            (
                "SELECT 1 UNION SELECT CONNECTION_ID() LIMIT 1",
                "SELECT 1 UNION SELECT <7> AS `CONNECTION_ID()` LIMIT 1",
            ),
            ("SET @a = CONNECTION_ID(), @b = @@session.pseudo_thread_id", "SET @a = <7>, @b = <7>"),
            ("SET @@pseudo_thread_id = 5", "-"),
            ("SELECT @@local.pseudo_thread_id", "SELECT <7> AS `@@local.pseudo_thread_id`"),
            ("CREATE TABLE t AS SELECT CONNECTION_ID()", "CREATE TABLE t AS SELECT <7> AS `CONNECTION_ID()`"),
            ("SELECT 1; DO CONNECTION_ID()", "SELECT 1; DO <7>"),
            ("SELECT NEXT VALUE FOR s + CONNECTION_ID()", "SELECT NEXT VALUE FOR s + <7>"),
        ] {
            assert_eq!(of(text), expected, "{text}");
        }
    }

    #[test]
    fn a_prepared_text_is_changed_inside_its_quotes() {
        assert_eq!(
            of("PREPARE s FROM 'SELECT CONNECTION_ID() = ''x'''"),
            "PREPARE s FROM 'SELECT <7> = ''x'' AS `CONNECTION_ID() = ''x''`'"
        );
        assert_eq!(of("EXECUTE IMMEDIATE \"DO CONNECTION_ID()\""), "EXECUTE IMMEDIATE 'DO <7>'");
        assert_eq!(of("PREPARE s FROM @text"), "-");
    }

    #[test]
    fn other_things_of_that_name_and_what_is_stored_stay() {
        for text in [
            "SELECT 'CONNECTION_ID()', `CONNECTION_ID()` /* CONNECTION_ID() */ -- CONNECTION_ID()",
            "SELECT connection_id FROM t",
            "SELECT d.connection_id()",
            "INSERT INTO connection_id() VALUES ()",
            "CREATE VIEW v AS SELECT CONNECTION_ID()",
            "CREATE TABLE t (a int DEFAULT (CONNECTION_ID()))",
            "ALTER TABLE t ALTER a SET DEFAULT (CONNECTION_ID())",
            "CREATE PROCEDURE p() BEGIN SELECT CONNECTION_ID(); SELECT CONNECTION_ID(); END",
            "KILL CONNECTION_ID()",
        ] {
            assert_eq!(of(text), "-", "{text}");
        }
    }

    #[test]
    fn what_the_server_keeps_of_connections_has_its_own_numbers() {
        for text in [
            "SELECT * FROM information_schema.processlist WHERE id = CONNECTION_ID()",
            "SELECT * FROM INFORMATION_SCHEMA.`PROCESSLIST` WHERE id = CONNECTION_ID()",
            "SELECT IS_USED_LOCK('a') = CONNECTION_ID()",
            "SELECT * FROM sys.session WHERE conn_id = CONNECTION_ID()",
            "SELECT * FROM performance_schema.threads WHERE processlist_id = CONNECTION_ID()",
        ] {
            assert_eq!(of(text), "-", "{text}");
        }
        assert_eq!(
            of("SELECT id FROM processlist WHERE id = CONNECTION_ID(); DO CONNECTION_ID()"),
            "SELECT id FROM processlist WHERE id = CONNECTION_ID(); DO <7>"
        );
        assert_eq!(with_own_number(b"DO CONNECTION_ID()", Mode::default(), "7", true), None);
    }
}
