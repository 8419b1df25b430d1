//! The first word of a statement.

use super::{Traits, lower};

/// What one look at the first word tells.
pub(super) enum Verb {
    /// Reads or writes rows; nothing but expressions in it can touch the session.
    Rows(Traits),
    /// Its tokens are looked at one by one.
    Detailed,
}

impl Verb {
    /// What the word tells.
    pub(super) fn of(word: &[u8]) -> Self {
        match lower(word, &mut [0; 24]) {
            b"select" | b"values" | b"table" => Verb::Rows(Traits::default()),
            b"insert" | b"update" | b"delete" | b"replace" => Verb::Rows(Traits::WRITES),
            b"show" => Verb::Rows(Traits::KEEPS),
            b"savepoint" | b"release" | b"desc" | b"describe" | b"help" => Verb::Rows(Traits::default()),
            b"do" | b"with" | b"explain" => Verb::Rows(Traits::WRITES),
            b"load" => Verb::Rows(Traits::WRITES | Traits::LOADS),
            b"kill" => Verb::Rows(Traits::WRITES | Traits::KILLS),
            b"commit" => Verb::Rows(Traits::COMMITS | Traits::ENDS | Traits::WRITES),
            _ => Verb::Detailed,
        }
    }
}
