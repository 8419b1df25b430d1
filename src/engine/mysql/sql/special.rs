//! The few texts that the router answers itself.

use std::ops::Range;

use crate::engine::mysql::lexer::{Mode, Token, Tokens};

/// Longer texts are none of these.
const LONGEST: usize = 256;
/// Nor are texts of more tokens.
const MOST: usize = 12;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Special {
    /// `SHOW WARNINGS`: which of them.
    Warnings(Limit),
    /// `SHOW ERRORS`
    Errors(Limit),
    /// `SHOW COUNT(*) WARNINGS`, `SELECT @@warning_count`: the column's name.
    WarningCount(Vec<u8>),
    /// `SHOW COUNT(*) ERRORS`, `SELECT @@error_count`.
    ErrorCount(Vec<u8>),
    /// `SELECT ROW_COUNT()`
    RowCount(Vec<u8>),
    /// `SELECT FOUND_ROWS()`
    FoundRows(Vec<u8>),
}

/// `LIMIT`: how many rows are left out first, and how many then follow at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// See above.
    pub skip: usize,
    /// See above.
    pub take: usize,
}

/// A token and where it stands.
type Placed<'a> = (Token<'a>, Range<usize>);

/// Recognises a text that is one of these and nothing else.
pub fn special(text: &[u8], mode: Mode) -> Option<Special> {
    if text.len() > LONGEST {
        return None;
    }
    let mut tokens = Tokens::new(text, mode);
    let mut all: Vec<Placed<'_>> = Vec::with_capacity(MOST);
    while let Some(token) = tokens.next() {
        if all.len() == MOST {
            return None;
        }
        all.push((token, tokens.start()..tokens.end()));
    }
    while all.last().is_some_and(|(token, _)| *token == Token::End) {
        all.pop();
    }
    let (first, rest) = all.split_first()?;
    match () {
        () if first.0.is("show") => show(rest, text),
        () if first.0.is("select") => select(rest, text),
        () => None,
    }
}

fn show(rest: &[Placed<'_>], text: &[u8]) -> Option<Special> {
    let is = |at: usize, word: &str| rest.get(at).is_some_and(|(token, _)| token.is(word));
    let symbol = |at: usize, byte: u8| rest.get(at).is_some_and(|(token, _)| *token == Token::Symbol(byte));
    let counts = rest.len() == 5 && is(0, "count") && symbol(1, b'(') && symbol(2, b'*') && symbol(3, b')');
    match () {
        () if is(0, "warnings") => limit(&rest[1..], text).map(Special::Warnings),
        () if is(0, "errors") => limit(&rest[1..], text).map(Special::Errors),
        () if counts && is(4, "warnings") => Some(Special::WarningCount(b"@@session.warning_count".to_vec())),
        () if counts && is(4, "errors") => Some(Special::ErrorCount(b"@@session.error_count".to_vec())),
        () => None,
    }
}

/// `LIMIT n`, `LIMIT skip, n`, or nothing.
fn limit(rest: &[Placed<'_>], text: &[u8]) -> Option<Limit> {
    let number = |(token, range): &Placed<'_>| match token {
        Token::Number => std::str::from_utf8(&text[range.clone()]).ok()?.parse().ok(),
        _ => None,
    };
    match rest {
        [] => Some(Limit { skip: 0, take: usize::MAX }),
        [(word, _), take] if word.is("limit") => Some(Limit { skip: 0, take: number(take)? }),
        [(word, _), skip, (Token::Symbol(b','), _), take] if word.is("limit") => {
            Some(Limit { skip: number(skip)?, take: number(take)? })
        }
        _ => None,
    }
}

/// One expression, perhaps with a name.
fn select(rest: &[Placed<'_>], text: &[u8]) -> Option<Special> {
    let (first, range) = rest.first()?;
    let (expression, tail) = match first {
        Token::Word(_) => {
            let called = matches!(rest.get(1), Some((Token::Symbol(b'('), _)));
            let end = rest.get(2).filter(|(token, _)| called && *token == Token::Symbol(b')'))?;
            (range.start..end.1.end, &rest[3..])
        }
        Token::System(_) => (range.clone(), &rest[1..]),
        _ => return None,
    };
    let alias = match tail {
        [] => None,
        [(name, _)] => Some(alias(name)?),
        [(word, _), (name, _)] if word.is("as") => Some(alias(name)?),
        _ => return None,
    };
    let is = |name: &str| match first {
        Token::Word(word) => word.eq_ignore_ascii_case(name.as_bytes()),
        _ => false,
    };
    let variable = |name: &str| match first {
        Token::System(word) => {
            let prefixes = ["session.", "local.", ""];
            let word = word.to_ascii_lowercase();
            prefixes.iter().any(|p| word.strip_prefix(p.as_bytes()) == Some(name.as_bytes()))
        }
        _ => false,
    };
    let column = || alias.clone().unwrap_or_else(|| text[expression.clone()].to_vec());
    match () {
        () if variable("warning_count") => Some(Special::WarningCount(column())),
        () if variable("error_count") => Some(Special::ErrorCount(column())),
        () if is("row_count") => Some(Special::RowCount(column())),
        () if is("found_rows") => Some(Special::FoundRows(column())),
        () => None,
    }
}

fn alias(token: &Token<'_>) -> Option<Vec<u8>> {
    match token {
        Token::Word(name) | Token::Quoted(name) | Token::Literal(name)
            if !["from", "into", "limit", "union", "where", "for"].iter().any(|word| token.is(word)) =>
        {
            Some(name.to_vec())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<Special> {
        special(text.as_bytes(), Mode::default())
    }

    #[test]
    fn questions_are_read_only_if_nothing_else_is_asked() {
        assert_eq!(of("SELECT ROW_COUNT ( ) n"), Some(Special::RowCount(b"n".to_vec())));
        assert_eq!(of("SELECT FOUND_ROWS()"), Some(Special::FoundRows(b"FOUND_ROWS()".to_vec())));
        let limit = |skip, take| Limit { skip, take };
        assert_eq!(of("SHOW  warnings"), Some(Special::Warnings(limit(0, usize::MAX))));
        assert_eq!(of("SHOW WARNINGS LIMIT 1"), Some(Special::Warnings(limit(0, 1))));
        assert_eq!(of("SHOW ERRORS limit 2, 3;"), Some(Special::Errors(limit(2, 3))));
        assert_eq!(of("SHOW COUNT(*) ERRORS"), Some(Special::ErrorCount(b"@@session.error_count".to_vec())));
        assert_eq!(of("SELECT @@warning_count"), Some(Special::WarningCount(b"@@warning_count".to_vec())));
        for text in [
            "SELECT row_count() FROM t",
            "SELECT 1, ROW_COUNT()",
            "SHOW WARNINGS LIMIT ?",
            "SHOW ERRORS LIMIT",
            "SELECT",
            "",
        ] {
            assert_eq!(of(text), None, "{text}");
        }
    }
}
