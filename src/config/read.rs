//! Reads TOML tables key by key and remembers which keys were asked for, so that the others are unknown.
//!
//! The first error does not stop the reading: it is noted, the default takes the value's place, and the rest is
//! checked too.

use std::cell::RefCell;
use std::fmt::Display;

use toml_edit::{Item, TableLike};

use super::problem::Problem;
use super::values::nearest;

/// Collects the problems of one file.
pub(super) struct Notes<'a> {
    text: &'a str,
    problems: RefCell<Vec<Problem>>,
}

impl<'a> Notes<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, problems: RefCell::default() }
    }

    pub(super) fn add(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }

    /// The line (from 1) of a byte offset.
    pub(super) fn line_at(&self, offset: usize) -> usize {
        let end = offset.min(self.text.len());
        self.text.as_bytes()[..end].iter().filter(|byte| **byte == b'\n').count() + 1
    }
}

/// One table of the file.
pub(super) struct Section<'a> {
    notes: &'a Notes<'a>,
    table: &'a dyn TableLike,
    /// As the file shows it, `[admin]`; empty for the top of the file.
    title: String,
    /// Where the table begins, for problems with what is missing.
    pub(super) line: usize,
    asked: RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    pub(super) fn new(notes: &'a Notes<'a>, table: &'a dyn TableLike, title: &str, line: usize) -> Self {
        Self { notes, table, title: title.to_owned(), line, asked: RefCell::default() }
    }

    /// The item under a key, if there is one; from now on the key is known.
    pub(super) fn item(&self, key: &'static str) -> Option<&'a Item> {
        let mut asked = self.asked.borrow_mut();
        if !asked.contains(&key) {
            asked.push(key);
        }
        self.table.get(key).filter(|item| !item.is_none())
    }

    /// The line of a key's value, or of the section when the key is absent.
    pub(super) fn line_of(&self, key: &str) -> usize {
        let span = self.table.get_key_value(key).and_then(|(key, item)| key.span().or_else(|| item.span()));
        span.map_or(self.line, |span| self.notes.line_at(span.start))
    }

    /// The value of a key through `read`; absent or wrong (then noted): `None`.
    pub(super) fn read<T, E: Into<Wrong>>(
        &self,
        key: &'static str,
        read: impl FnOnce(&Item) -> Result<T, E>,
    ) -> Option<T> {
        match read(self.item(key)?) {
            Ok(value) => Some(value),
            Err(wrong) => {
                let wrong = wrong.into();
                self.wrong(key, wrong.message, wrong.hint.as_deref());
                None
            }
        }
    }

    /// As [`Section::read`], but an absent key is a problem too.
    pub(super) fn require<T, E: Into<Wrong>>(
        &self,
        key: &'static str,
        hint: &str,
        read: impl FnOnce(&Item) -> Result<T, E>,
    ) -> Option<T> {
        if self.item(key).is_none() {
            let problem = Problem::new(self.line, format!("{} lacks `{key}`", self.title));
            self.notes.add(problem.with_hint(hint));
            return None;
        }
        self.read(key, read)
    }

    /// Notes that the value of `key` is wrong.
    pub(super) fn wrong(&self, key: &str, message: impl Display, hint: Option<&str>) {
        let mut problem = Problem::new(self.line_of(key), format!("{key}: {message}"));
        problem.hint = hint.map(str::to_owned);
        self.notes.add(problem);
    }

    /// A sub-table, empty or not; anything else under that key is noted.
    pub(super) fn table(&self, key: &'static str) -> Option<Section<'a>> {
        let item = self.item(key)?;
        let line = self.line_of(key);
        match item.as_table_like() {
            Some(table) => Some(Section::new(self.notes, table, &format!("[{key}]"), line)),
            None => {
                self.wrong(key, "must be a table", Some(&format!("write [{key}] on a line of its own")));
                None
            }
        }
    }

    /// The tables of `[[key]]`, or of an array of inline tables.
    pub(super) fn tables(&self, key: &'static str) -> Vec<Section<'a>> {
        let Some(item) = self.item(key) else { return Vec::new() };
        let title = format!("[[{key}]]");
        let section = |table: &'a dyn TableLike, span: Option<std::ops::Range<usize>>| {
            let line = span.map_or(self.line_of(key), |span| self.notes.line_at(span.start));
            Section::new(self.notes, table, &title, line)
        };
        if let Some(array) = item.as_array_of_tables() {
            return array.iter().map(|table| section(table, table.span())).collect();
        }
        let inline = item.as_array().filter(|array| array.iter().all(|value| value.is_inline_table()));
        if let Some(array) = inline {
            let tables = array.iter().filter_map(|value| value.as_inline_table());
            return tables.map(|table| section(table, table.span())).collect();
        }
        self.wrong(key, "must be a list of tables", Some(&format!("write {title} with double brackets")));
        Vec::new()
    }

    /// Every key and value with its line; the keys are the user's, so none is unknown.
    pub(super) fn entries(&self) -> Vec<(&'a str, &'a Item, usize)> {
        self.table.iter().map(|(key, item)| (key, item, self.line_of(key))).collect()
    }

    /// Notes a problem at a line.
    pub(super) fn note(&self, problem: Problem) {
        self.notes.add(problem);
    }

    /// Notes every key that nobody asked for.
    pub(super) fn finish(self) {
        let asked = self.asked.borrow();
        for (key, _) in self.table.iter() {
            if asked.contains(&key) {
                continue;
            }
            let place = if self.title.is_empty() { String::new() } else { format!(" in {}", self.title) };
            let mut problem = Problem::new(self.line_of(key), format!("unknown key `{key}`{place}"));
            problem.hint = Some(match nearest(key, &asked) {
                Some(known) => format!("did you mean `{known}`?"),
                None => format!("known are {}", asked.join(", ")),
            });
            self.notes.add(problem);
        }
    }
}

/// Why a value is not what it should be.
pub(super) struct Wrong {
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

impl Wrong {
    pub(super) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: Some(hint.into()) }
    }
}
