//! Putting together what was asked, what was known before and what the wire knows.

use bytes::Bytes;

use super::super::save::Saved;
use super::super::state::{Context, NamedStatement, State, Statement};
use super::{Capture, evidence, variables};
use crate::engine::Obstacle;

impl Capture {
    /// The state, once everything is answered.
    pub(super) fn finish(&mut self) -> State {
        let mut state = std::mem::take(&mut self.state);
        let Some(saved) = self.saved.take() else { return state };
        if self.brief {
            state.user_variables.clone_from(&self.last.user_variables);
        } else {
            // One that was begun and has done nothing is begun again.
            let open = saved.in_transaction && !self.wire.begun;
            state.block(open.then_some(Obstacle::OpenTransaction));
            state.block(evidence::obstacle(
                self.product(),
                &self.observed,
                self.counters.as_ref(),
                &self.wire,
            ));
            if self.knows_user_variables() {
                state.user_variables.clone_from(&self.last.user_variables);
            }
        }
        self.set_variables(&mut state, &saved);
        self.set_statements(&mut state);
        state.last_insert_id = Some(saved.last_insert_id);
        state.found_rows = Some(saved.found_rows);
        state.insert_id = Some(saved.insert_id).filter(|&id| id > 0);
        state.timestamp = Some(saved.timestamp).filter(|time| *time == self.clock);
        state.rand_seeds = Some(saved.rand_seeds).filter(|&seeds| seeds != (0, 0));
        (state.database, state.role) = (saved.database, saved.role);
        state
    }

    fn set_variables(&mut self, state: &mut State, saved: &Saved) {
        let mut others = std::mem::take(&mut self.settings);
        if self.knows_variables() {
            let known = self.last.variables.iter();
            let is_saved = |name: &Bytes| saved.variables.iter().any(|(saved, _)| saved == name);
            others = known.filter(|(name, _)| !is_saved(name)).cloned().collect();
        }
        let is_replication = |name: &[u8]| variables::REPLICATION.iter().any(|one| one.as_bytes() == name);
        if others.iter().any(|(name, _)| is_replication(name)) {
            state.block(Some(Obstacle::Replication));
        }
        state.variables = saved.variables.iter().cloned().chain(others).collect();
    }

    fn set_statements(&self, state: &mut State) {
        let here = Context {
            database: None,
            sql_mode: state.variable(b"sql_mode").cloned(),
            character_set: state.variable(b"character_set_client").cloned(),
            collation: state.variable(b"collation_connection").cloned(),
            era: 0,
        };
        let mut statements = self.wire.statements.clone();
        for statement in &mut statements {
            let before = self.last.statements.iter().find(|before| is_same(before, statement));
            self.complete(&mut statement.context, before.map(|before| &before.context), &here);
        }
        let mut named = self.named_statements(state);
        for statement in &mut named {
            let before = self.last.named_statements.iter().find(|before| {
                before.name == statement.name
                    && before.text == statement.text
                    && before.context.era == statement.context.era
            });
            self.complete(&mut statement.context, before.map(|before| &before.context), &here);
        }
        // Whether all is known of them now, the tracker says.
        (state.statements, state.named_statements) = (statements, named);
    }

    /// What is not known of a context: it was found out before, or it is still as it is now.
    fn complete(&self, context: &mut Context, before: Option<&Context>, here: &Context) {
        let now = &self.wire.context;
        let fill = |field: &mut Option<Bytes>, of: fn(&Context) -> &Option<Bytes>| {
            if field.is_none() {
                *field = before.and_then(|before| of(before).clone());
            }
            if field.is_none() && context.era == now.era && of(now).is_none() {
                field.clone_from(of(here));
            }
        };
        let Context { sql_mode, character_set, collation, .. } = &mut context.clone();
        fill(sql_mode, |context| &context.sql_mode);
        fill(character_set, |context| &context.character_set);
        fill(collation, |context| &context.collation);
        context.sql_mode.clone_from(sql_mode);
        context.character_set.clone_from(character_set);
        context.collation.clone_from(collation);
    }

    /// Those that the wire has seen; where the server tells, those that there are.
    fn named_statements(&self, state: &mut State) -> Vec<NamedStatement> {
        let mut named = self.wire.named_statements.clone();
        if self.brief || !self.observed.is_complete() {
            return named;
        }
        let is = |name: &Bytes, other: &Bytes| name.eq_ignore_ascii_case(other);
        named.retain(|seen| self.observed.statements.iter().any(|(name, _)| is(name, &seen.name)));
        for (name, text) in &self.observed.statements {
            match named.iter_mut().find(|seen| is(&seen.name, name)) {
                Some(seen) if seen.text.is_empty() => seen.text = text.clone(),
                Some(_) => {}
                // A routine has prepared it: nobody knows where.
                None => state.block(Some(Obstacle::PreparedStatement)),
            }
        }
        named
    }
}

fn is_same(before: &Statement, statement: &Statement) -> bool {
    before.id == statement.id && before.text == statement.text
}
