//! Statements whose whole effect on the session stands in their text, so that it is known without asking: what drivers say
//! first (`SET NAMES`, `SET autocommit = 0`, `USE`), and other assignments of literals.

use bytes::Bytes;

use super::{Effect, Scan, Traits, lower};
use crate::engine::mysql::lexer::Token;

/// Longer ones are not worth keeping.
const LONGEST: usize = 512;

/// Notes it, if it is one.
pub(super) fn tells(is_told: bool, text: &[u8], scan: &mut Scan) {
    // What is said of the next transaction is kept elsewhere, and ends with it.
    let of_transaction = scan.effects.iter().any(|effect| matches!(effect, Effect::Characteristic(_)));
    // The comment that it stands in may have begun before it.
    let ends_comment = text.windows(2).any(|two| two == b"*/");
    let is_short = text.is_ascii() && text.len() <= LONGEST;
    if is_told && is_short && !of_transaction && !ends_comment && !scan.traits.has(Traits::CALLS) {
        scan.effects.push(Effect::Tells(Bytes::copy_from_slice(text)));
    }
}

/// Whether one assignment of a `SET` says what becomes of the session.
pub(super) fn is_told(tokens: &[Token<'_>]) -> bool {
    match tokens {
        [names, Token::Word(_) | Token::Literal(_) | Token::Quoted(_), rest @ ..] if names.is("names") => {
            matches!(rest, [])
                || matches!(rest, [collate, Token::Word(_) | Token::Literal(_)] if collate.is("collate"))
        }
        [scope, transaction, rest @ ..] if is_session(scope) && transaction.is("transaction") => {
            rest.iter().all(|token| matches!(token, Token::Word(_)))
        }
        [scope, rest @ ..] if is_session(scope) => of_variable(rest),
        [Token::Variable(_), rest @ ..] => matches!(value(rest), Some(value) if is_constant(value)),
        _ => of_variable(tokens),
    }
}

fn is_session(token: &Token<'_>) -> bool {
    token.is("session") || token.is("local")
}

/// `name = literal`
fn of_variable(tokens: &[Token<'_>]) -> bool {
    let Some((name, rest)) = tokens.split_first() else { return false };
    let name = match name {
        Token::System(name) => match name.iter().position(|&byte| byte == b'.') {
            Some(dot) if !matches!(lower(&name[..dot], &mut [0; 24]), b"session" | b"local") => return false,
            Some(dot) => &name[dot + 1..],
            None => name,
        },
        Token::Word(name) => name,
        _ => return false,
    };
    let is_word = |value: &[Token<'_>]| matches!(value, [Token::Word(word)] if !is_function(word));
    is_setting(name) && value(rest).is_some_and(|value| is_constant(value) || is_word(value))
}

/// What stands behind `=` or `:=`.
fn value<'t, 'a>(tokens: &'t [Token<'a>]) -> Option<&'t [Token<'a>]> {
    match tokens {
        [Token::Symbol(b':'), Token::Symbol(b'='), value @ ..] | [Token::Symbol(b'='), value @ ..] => {
            Some(value)
        }
        _ => None,
    }
}

fn is_constant(value: &[Token<'_>]) -> bool {
    match value {
        [Token::Literal(_) | Token::Number] | [Token::Symbol(b'-'), Token::Number] => true,
        [word] => ["null", "true", "false"].iter().any(|constant| word.is(constant)),
        _ => false,
    }
}

/// Functions that need no brackets.
fn is_function(word: &[u8]) -> bool {
    let word = lower(word, &mut [0; 24]).to_vec();
    word.is_empty() || ["current_", "local", "utc_"].iter().any(|front| word.starts_with(front.as_bytes()))
}

/// Session variables whose value stays. Others are used up by the next statement, count on, are not what was assigned, or are
/// no variables at all (`SET PASSWORD`, `SET GLOBAL`).
fn is_setting(name: &[u8]) -> bool {
    const OTHERS: [&[u8]; 14] = [
        b"insert_id",
        b"last_insert_id",
        b"identity",
        b"timestamp",
        b"rand_seed1",
        b"rand_seed2",
        b"password",
        b"role",
        b"global",
        b"persist",
        b"persist_only",
        b"default",
        b"statement",
        b"transaction",
    ];
    let mut buffer = [0; 24];
    let name = lower(name, &mut buffer);
    // A name that is too long to be compared is none of these; most of them are settings of the optimizer.
    !OTHERS.contains(&name)
        && ![&b"gtid_"[..], b"pseudo_", b"debug"].iter().any(|front| name.starts_with(front))
}

#[cfg(test)]
mod tests {
    use super::super::scan;
    use super::*;
    use crate::engine::mysql::lexer::Mode;

    fn told(text: &str) -> bool {
        let effects = scan(text.as_bytes(), Mode::default()).effects;
        effects.iter().any(|effect| matches!(effect, Effect::Tells(told) if told == text.as_bytes()))
    }

    #[test]
    fn what_drivers_say_first_is_told() {
        for text in [
            "SET AUTOCOMMIT = 0",
            "SET @@session.autocommit = OFF",
            "SET NAMES 'utf8mb4' COLLATE 'utf8mb4_0900_ai_ci'",
            "set names utf8mb4",
            "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
            "SET character_set_results = NULL",
            "SET SESSION sql_mode = 'ANSI', time_zone := '+00:00', wait_timeout=28800",
            "SET @a = 5, @b = 'x', @c = -1, @d = NULL",
            "USE other",
        ] {
            assert!(told(text), "{text}");
        }
    }

    #[test]
    fn what_is_not_all_of_it_is_not_told() {
        for text in [
            "SET sql_mode = CONCAT(@@sql_mode, ',ANSI')",
            "SET @a = @b",
            "SET @a = 5, @b = @a + 1",
            "SET @a = CURRENT_TIMESTAMP",
            "SET GLOBAL wait_timeout = 5",
            "SET @@global.wait_timeout = 5",
            "SET insert_id = 5",
            "SET timestamp = 5",
            "SET gtid_next = 'AUTOMATIC'",
            "SET PASSWORD = 'x'",
            "SET ROLE x",
            "SET TRANSACTION READ ONLY",
            "SET @@tx_isolation = 'SERIALIZABLE'",
            "SET STATEMENT max_statement_time = 1 FOR SELECT 1",
            "SET x = (SELECT 1)",
            "SET @a = 'b' 'c'",
            "/*!40101 SET NAMES utf8 */",
            "SET time_zone = '\u{e4}'",
        ] {
            assert!(!told(text), "{text}");
        }
    }
}
