//! `GET DIAGNOSTICS`: what is asked, and where the answers go.
//!
//! Source: MySQL and MariaDB, "GET DIAGNOSTICS Statement".

use super::identity::{self, Placed};
use crate::engine::mysql::lexer::{Mode, Token};

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item {
    /// How many conditions there are.
    Number,
    /// How many rows were changed.
    RowCount,
    /// Of a condition: its number as an error.
    Code,
    /// Its message.
    Message,
    /// Its state.
    State,
}

/// What is asked of one statement's outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostics<'a> {
    /// Of which condition, from 1 on; `None`: of the statement.
    pub condition: Option<usize>,
    /// The variables, as they are written, and what each is to have.
    pub items: Vec<(&'a [u8], Item)>,
}

/// Reads a text that is this and nothing else. `None`: it is not, or asks what nobody but the server knows.
pub fn diagnostics(text: &[u8], mode: Mode) -> Option<Diagnostics<'_>> {
    let statements = identity::statements(text, mode);
    let [statement] = &statements[..] else { return None };
    let is = |at: usize, word: &str| statement.get(at).is_some_and(|(token, _): &Placed<'_>| token.is(word));
    let mut at = if is(1, "current") { 2 } else { 1 };
    if !is(0, "get") || !is(at, "diagnostics") {
        return None;
    }
    at += 1;
    let mut condition = None;
    if is(at, "condition") {
        let (token, range) = statement.get(at + 1)?;
        let number = std::str::from_utf8(&text[range.clone()]).ok()?;
        condition = (*token == Token::Number).then(|| number.parse().ok()).flatten();
        condition?;
        at += 2;
    }
    let assignments = statement[at..].split(|(token, _)| *token == Token::Symbol(b','));
    let items = assignments.map(|assignment| item(text, assignment, condition.is_some()));
    Some(Diagnostics { condition, items: items.collect::<Option<_>>()? })
}

fn item<'a>(text: &'a [u8], assignment: &[Placed<'_>], of_condition: bool) -> Option<(&'a [u8], Item)> {
    let [(Token::Variable(_), variable), (Token::Symbol(b'='), _), (asked, _)] = assignment else {
        return None;
    };
    let known: &[(&str, Item)] = match of_condition {
        true => &[
            ("mysql_errno", Item::Code),
            ("message_text", Item::Message),
            ("returned_sqlstate", Item::State),
        ],
        false => &[("number", Item::Number), ("row_count", Item::RowCount)],
    };
    let (_, item) = *known.iter().find(|(word, _)| asked.is(word))?;
    Some((&text[variable.clone()], item))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<Diagnostics<'_>> {
        diagnostics(text.as_bytes(), Mode::default())
    }

    #[test]
    fn what_is_asked_is_read() {
        let expected =
            Diagnostics { condition: None, items: vec![(b"@n", Item::Number), (b"@`r x`", Item::RowCount)] };
        assert_eq!(of("GET CURRENT DIAGNOSTICS @n = NUMBER, @`r x`=row_count;"), Some(expected));
        let expected =
            Diagnostics { condition: Some(2), items: vec![(b"@s", Item::State), (b"@m", Item::Message)] };
        assert_eq!(
            of("get diagnostics condition 2 @s = returned_sqlstate, @m = MESSAGE_TEXT"),
            Some(expected)
        );
        for text in [
            "GET STACKED DIAGNOSTICS @n = NUMBER",
            "GET DIAGNOSTICS CONDITION @i @m = MESSAGE_TEXT",
            "GET DIAGNOSTICS CONDITION 1 @m = CLASS_ORIGIN",
            "GET DIAGNOSTICS @n = NUMBER; SELECT 1",
            "GET DIAGNOSTICS n = NUMBER",
            "GET DIAGNOSTICS",
        ] {
            assert_eq!(of(text), None, "{text}");
        }
    }
}
