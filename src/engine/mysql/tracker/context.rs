//! What is known of the settings that a statement's meaning hangs on, without asking.
//!
//! A value that the text of a `SET` does not tell still has an identity, a *key*: what `SET NAMES utf8mb4` makes of the
//! collation is the same each time. A capture says the value of the present key, and so of every statement that was
//! prepared under it.

use bytes::Bytes;

use super::Tracker;
use crate::engine::Obstacle;
use crate::engine::mysql::capability::Product;
use crate::engine::mysql::sql::{Field, Traits};
use crate::engine::mysql::state::{Context, Names, State};

/// How many values are remembered by their keys.
const MAX_LEARNT: usize = 64;
/// How many contexts are told apart by [`Context::era`] and found again.
const MAX_ERAS: usize = 256;
const FIELDS: [Field; 3] = [Field::SqlMode, Field::CharacterSet, Field::Collation];

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The keys of [`FIELDS`], in their order.
    pub(super) keys: [u64; 3],
    fresh: u64,
    learnt: Vec<(usize, u64, Bytes)>,
    eras: Vec<[u64; 3]>,
    era: u32,
}

impl Known {
    /// A value that nobody has seen.
    fn fresh_key(&mut self) -> u64 {
        self.fresh += 1;
        self.fresh << 1
    }

    fn value(&self, field: usize, key: u64) -> Option<Bytes> {
        self.learnt.iter().find(|(f, k, _)| (*f, *k) == (field, key)).map(|(_, _, value)| value.clone())
    }

    fn learn(&mut self, field: usize, key: u64, value: &Bytes) {
        if self.value(field, key).is_none() {
            if self.learnt.len() == MAX_LEARNT {
                self.learnt.remove(0);
            }
            self.learnt.push((field, key, value.clone()));
        }
    }

    /// The number of the present keys.
    pub(super) fn era(&mut self) -> u32 {
        if let Some(at) = self.eras.iter().position(|keys| *keys == self.keys) {
            return self.era - u32::try_from(self.eras.len() - 1 - at).unwrap_or(0);
        }
        if self.eras.len() == MAX_ERAS {
            self.eras.remove(0);
        }
        self.eras.push(self.keys);
        self.era += 1;
        self.era
    }
}

/// The same text makes the same key. Odd ones are of texts, even ones are fresh.
fn key_of(what: &str, value: &[u8]) -> u64 {
    let bytes = what.bytes().chain([0]).chain(value.iter().map(u8::to_ascii_lowercase));
    // FNV-1a.
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
        | 1
}

fn place(field: Field) -> usize {
    match field {
        Field::SqlMode => 0,
        Field::CharacterSet => 1,
        Field::Collation => 2,
    }
}

fn variable(field: Field) -> &'static [u8] {
    match field {
        Field::SqlMode => b"sql_mode",
        Field::CharacterSet => b"character_set_client",
        Field::Collation => b"collation_connection",
    }
}

fn slot(context: &mut Context, field: Field) -> &mut Option<Bytes> {
    match field {
        Field::SqlMode => &mut context.sql_mode,
        Field::CharacterSet => &mut context.character_set,
        Field::Collation => &mut context.collation,
    }
}

impl Tracker {
    /// A setting was set; `None`: to what, the text does not tell.
    pub(super) fn set_field(&mut self, field: Field, value: Option<Bytes>) {
        let key = match &value {
            Some(value) => key_of("value", value),
            None => self.known.fresh_key(),
        };
        self.enter(field, key, value);
    }

    /// `SET NAMES`
    pub(super) fn set_names(&mut self, character_set: Bytes, collation: Option<Bytes>) {
        match collation {
            Some(collation) => self.set_field(Field::Collation, Some(collation)),
            // The default one of that character set, which is the server's to say.
            None => self.enter(Field::Collation, key_of("names", &character_set), None),
        }
        self.set_field(Field::CharacterSet, Some(character_set));
    }

    fn enter(&mut self, field: Field, key: u64, value: Option<Bytes>) {
        let at = place(field);
        self.known.keys[at] = key;
        *slot(&mut self.wire.context, field) = value.or_else(|| self.known.value(at, key));
        self.wire.context.era = self.known.era();
        self.wire.context.names = self.names();
    }

    /// How the present character set and collation came about.
    fn names(&self) -> Names {
        let [_, character_set, collation] = self.known.keys;
        let of_names =
            |name: &Bytes| (character_set, collation) == (key_of("value", name), key_of("names", name));
        match &self.wire.context.character_set {
            _ if (character_set, collation) == (0, 0) => Names::LogIn,
            Some(name) if of_names(name) => Names::Default,
            _ => Names::Unknown,
        }
    }

    /// A text that may set anything has run.
    pub(super) fn forget_context(&mut self) {
        for field in FIELDS {
            self.set_field(field, None);
        }
    }

    /// A capture says what the settings are.
    pub(super) fn learn(&mut self, state: &mut State) {
        self.wire.context.database.clone_from(&state.database);
        for field in FIELDS {
            let (at, Some(value)) = (place(field), state.variable(variable(field))) else { continue };
            let key = self.known.keys[at];
            self.known.learn(at, key, value);
            *slot(&mut self.wire.context, field) = Some(value.clone());
        }
        let known = &self.known;
        for (statement, live) in self.statements.all(&mut self.wire) {
            for field in FIELDS {
                let slot = slot(&mut statement.context, field);
                if slot.is_none() {
                    *slot = known.value(place(field), live.keys[place(field)]);
                }
            }
        }
        state.statements.clone_from(&self.wire.statements);
        for (statement, keys) in self.wire.named_statements.iter_mut().zip(&self.named_keys) {
            for field in FIELDS {
                let slot = slot(&mut statement.context, field);
                if slot.is_none() {
                    *slot = known.value(place(field), keys[place(field)]);
                }
            }
            // Its text may have been found out where the wire did not see it.
            if let Some(found) = state.named_statements.iter_mut().find(|one| one.name == statement.name) {
                found.context.clone_from(&statement.context);
            }
        }
    }

    /// What cannot be carried, as far as only the wire tells.
    pub(super) fn wire_obstacle(&self, state: &State) -> Option<Obstacle> {
        // What the log in made must be the first: before anything changes the character set.
        let places = || {
            let named = state.named_statements.iter().map(|statement| &statement.context);
            state.statements.iter().map(|statement| &statement.context).chain(named)
        };
        let later = |context: &Context| context.database.is_none() && !context.is_of_log_in();
        let too_late = state.role.as_ref().is_some_and(|role| !role.is_ascii()) || places().any(later);
        let unknown = |context: &Context| {
            let ascii = context.database.as_ref().is_none_or(|name| name.is_ascii());
            !context.is_known() || context.is_of_log_in() && (too_late || !ascii)
        };
        let lost_text =
            |text: &Bytes, context: &Context| text.is_empty() || context.is_of_log_in() && !text.is_ascii();
        let lost = self.statements.any(|live| live.lost || live.types_lost)
            || state.statements.iter().any(|statement| unknown(&statement.context))
            || state.named_statements.iter().any(|s| lost_text(&s.text, &s.context) || unknown(&s.context));
        match () {
            () if lost => Some(Obstacle::PreparedStatement),
            // It would be NULL elsewhere; only who has ever asked for it would notice.
            () if self.seen.has(Traits::SEQUENCE) => Some(Obstacle::SequenceValue),
            () if self.names_overflown && self.product != Product::MariaDb => Some(Obstacle::Setting),
            () => None,
        }
    }
}
