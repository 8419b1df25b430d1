//! What statements do to what the wire knows, once the server has said that they were done.

use bytes::Bytes;

use super::Tracker;
use super::{MAX_NAMES, MAX_TOLD};
use crate::engine::mysql::sql::{Effect, Field, Hold, Traits};
use crate::engine::mysql::state::NamedStatement;
use crate::engine::{Drift, Obstacle};

impl Tracker {
    /// Everything is as after a log in, but for the database.
    pub(super) fn reset(&mut self) {
        self.statements.clear(&mut self.wire);
        self.named_keys.clear();
        let database = self.wire.context.database.take();
        let multi_statements = self.wire.multi_statements;
        let (row_count, collation) = (self.wire.row_count, self.wire.collation);
        self.wire = crate::engine::mysql::state::Wire {
            multi_statements,
            row_count,
            collation,
            ..Default::default()
        };
        self.wire.context.database = database;
        self.forget_context();
        self.seen.remove(Traits::SEQUENCE);
        self.names_overflown = false;
        self.xa = None;
    }

    pub(super) fn forget_context_of(&mut self, anything: bool) {
        if anything {
            return self.forget_context();
        }
        // A routine's own sql_mode ends with it.
        self.set_field(Field::CharacterSet, None);
        self.set_field(Field::Collation, None);
    }

    pub(super) fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::Use(name) => self.wire.context.database = Some(name),
            Effect::DropDatabase(name) => {
                self.wire.context.database.take_if(|current| current.eq_ignore_ascii_case(&name));
            }
            Effect::Set(field, value) => self.set_field(field, value),
            Effect::Names(character_set, collation) => self.set_names(character_set, collation),
            Effect::Prepare(name, text) => self.prepared_by_sql(name, text),
            Effect::Deallocate(name) => {
                self.wire.deallocations += 1;
                self.forget_named(&name);
            }
            Effect::MakeTemporary(name) => {
                self.wire.temporary_creates += 1;
                if !self.wire.temporary_tables.contains(&name) && self.wire.temporary_tables.len() < MAX_NAMES
                {
                    self.wire.temporary_tables.push(name);
                }
            }
            Effect::CreateTable => self.wire.creates += 1,
            Effect::Drop(name) => self.wire.temporary_tables.retain(|known| *known != name),
            Effect::Rename(from, to) => {
                if let Some(known) = self.wire.temporary_tables.iter_mut().find(|known| **known == from) {
                    *known = to;
                }
            }
            Effect::GiveUp(hold) => {
                let obstacle = obstacle_of(hold);
                self.wire.suspicion.take_if(|suspicion| *suspicion == obstacle);
            }
            Effect::ForgetCounts => {
                (self.wire.creates, self.wire.temporary_creates) = (0, 0);
                (self.wire.prepares, self.wire.deallocations) = (0, 0);
            }
            Effect::BeginXa(name) => self.xa = Some(name),
            Effect::Tells(text) => self.told(text),
            Effect::Run(_)
            | Effect::Variable(_)
            | Effect::Characteristic(_)
            | Effect::Begin(_)
            | Effect::EndXa
            | Effect::Hold(_) => {}
        }
    }

    pub(super) fn apply_perhaps(&mut self, effect: Effect) {
        match effect {
            Effect::Set(field, _) => self.set_field(field, None),
            Effect::Names(..) => {
                self.set_field(Field::CharacterSet, None);
                self.set_field(Field::Collation, None);
            }
            Effect::Prepare(name, _) => self.prepared_by_sql(name, None),
            Effect::Use(_) | Effect::MakeTemporary(_) => self.apply(effect),
            _ => {}
        }
    }

    /// This has been done since the last look.
    fn told(&mut self, text: Bytes) {
        if self.wire.told.len() < MAX_TOLD {
            self.wire.told.push(text);
            self.drift = self.drift.max(Drift::Known);
        } else {
            self.drift = Drift::Possible;
        }
    }

    fn prepared_by_sql(&mut self, name: Bytes, text: Option<Bytes>) {
        self.wire.prepares += 1;
        self.forget_named(&name);
        if self.wire.named_statements.len() < MAX_NAMES {
            let text = text.unwrap_or_default();
            let context = self.wire.context.clone();
            self.wire.named_statements.push(NamedStatement { name, text, context });
            self.named_keys.push(self.known.keys);
        }
    }

    fn forget_named(&mut self, name: &Bytes) {
        if let Some(at) = self.wire.named_statements.iter().position(|statement| statement.name == name) {
            self.wire.named_statements.remove(at);
            self.named_keys.remove(at);
        }
    }
}

/// What keeps a session that holds it.
pub(super) fn obstacle_of(hold: Hold) -> Obstacle {
    match hold {
        Hold::Tables => Obstacle::TableLock,
        Hold::Backup => Obstacle::Backup,
        Hold::Named => Obstacle::NamedLock,
        Hold::Handler => Obstacle::Handler,
    }
}

/// A statement with these findings does to the session what its text says, and nothing else.
pub(super) fn is_told(traits: Traits, effects: &[Effect]) -> bool {
    !traits.has(Traits::SEVERAL)
        && !traits.has(Traits::CALLS)
        && effects.iter().any(|effect| matches!(effect, Effect::Tells(_)))
}
