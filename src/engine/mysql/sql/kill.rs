//! Whom a text names by number: to end it, to end what it runs, or to ask the server about it.

use std::ops::Range;

use super::identity::{self, Placed};
use crate::engine::FIRST_CONNECTION_ID;
use crate::engine::mysql::lexer::{Mode, Token};

/// What is wanted of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// `KILL`, `KILL CONNECTION`
    End,
    /// `KILL QUERY`
    EndStatement,
    /// A statement that reads what the server keeps of connections compares with it.
    Compare,
}

/// Which connection it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// The one of this number.
    Number(u64),
    /// The session's own.
    Own,
    /// Only the server can tell: a variable, the number of a query.
    Unknown,
}

/// A connection is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Naming {
    /// Where in the text.
    pub at: Range<usize>,
    /// What for.
    pub purpose: Purpose,
    /// Which one.
    pub who: Who,
}

/// Everything of that kind in a text, in its order.
pub fn namings(text: &[u8], mode: Mode) -> Vec<Naming> {
    let mut all = Vec::new();
    for statement in identity::statements(text, mode) {
        if statement.first().is_some_and(|(token, _)| token.is("kill")) {
            all.extend(kill(text, &statement));
        } else if identity::speaks_of_server(&statement) {
            all.extend(statement.iter().filter_map(|placed| compared(text, placed)));
        }
    }
    all
}

fn compared(text: &[u8], (token, at): &Placed<'_>) -> Option<Naming> {
    let id = (*token == Token::Number).then(|| number(text, at)).flatten()?;
    let naming = Naming { at: at.clone(), purpose: Purpose::Compare, who: Who::Number(id) };
    (id >= u64::from(FIRST_CONNECTION_ID)).then_some(naming)
}

fn number(text: &[u8], at: &Range<usize>) -> Option<u64> {
    std::str::from_utf8(&text[at.clone()]).ok()?.parse().ok()
}

/// `None`: it names an account, which is the same everywhere.
fn kill(text: &[u8], statement: &[Placed<'_>]) -> Option<Naming> {
    let words = ["hard", "soft", "connection", "query"];
    let front = statement.iter().skip(1).take_while(|(token, _)| words.iter().any(|word| token.is(word)));
    let (mut at, mut purpose) = (1, Purpose::End);
    for (token, _) in front {
        at += 1;
        if token.is("query") {
            purpose = Purpose::EndStatement;
        }
    }
    let (first, range) = statement.get(at)?;
    let (_, last) = statement.last()?;
    let whole = range.start..last.end;
    let own = identity::own(statement, at);
    let who = match first {
        _ if first.is("user") && statement.len() > at + 1 => return None,
        _ if own > 0 && at + own == statement.len() => Who::Own,
        Token::Number if at + 1 == statement.len() => number(text, range).map_or(Who::Unknown, Who::Number),
        _ => Who::Unknown,
    };
    Some(Naming { at: whole, purpose, who })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<(&str, Purpose, Who)> {
        let named = |naming: Naming| (&text[naming.at], naming.purpose, naming.who);
        namings(text.as_bytes(), Mode::default()).into_iter().map(named).collect()
    }

    #[test]
    fn kills_are_read() {
        use Purpose::{End, EndStatement};
        for (text, expected) in [
            ("KILL 5", vec![("5", End, Who::Number(5))]),
            ("kill query 77 ;", vec![("77", EndStatement, Who::Number(77))]),
            ("KILL /*!50000 QUERY */ 5", vec![("5", EndStatement, Who::Number(5))]),
            ("KILL HARD CONNECTION 5", vec![("5", End, Who::Number(5))]),
            ("KILL 99999999999", vec![("99999999999", End, Who::Number(99_999_999_999))]),
            ("KILL CONNECTION_ID()", vec![("CONNECTION_ID()", End, Who::Own)]),
            ("KILL QUERY ID 5", vec![("ID 5", EndStatement, Who::Unknown)]),
            ("KILL 5 + 1", vec![("5 + 1", End, Who::Unknown)]),
            ("KILL @a", vec![("@a", End, Who::Unknown)]),
            ("KILL USER u", vec![]),
            ("KILL", vec![]),
            (
                "SELECT 1; KILL QUERY 17; KILL 3",
                vec![("17", EndStatement, Who::Number(17)), ("3", End, Who::Number(3))],
            ),
            ("CREATE PROCEDURE p() BEGIN KILL 5; KILL 6; END", vec![]),
        ] {
            assert_eq!(of(text), expected, "{text}");
        }
    }

    #[test]
    fn numbers_that_the_server_is_asked_about_are_read() {
        let expected = vec![("1073741830", Purpose::Compare, Who::Number(1_073_741_830))];
        assert_eq!(of("SELECT 5 FROM information_schema.processlist WHERE id = 1073741830"), expected);
        assert_eq!(of("SELECT 1073741830"), []);
    }
}
