//! What the tracker makes of a look at the session, and of a restore.

use super::{Echo, Standing, Tracker};
use crate::engine::mysql::log_in::LoggedIn;
use crate::engine::mysql::restore::Restored;
use crate::engine::mysql::save::MOST_FOUND_ROWS;
use crate::engine::mysql::sql::Traits;
use crate::engine::mysql::state::State;
use crate::engine::{Drift, Obstacle};

impl Tracker {
    /// A capture is done: adds to it what only the wire knows, and learns what it says of the present context.
    pub fn complete(&mut self, state: &mut State) {
        if let Some(status) = state.status {
            self.asked(status);
        }
        if self.standing == Standing::Open {
            // It was not asked for more, and has to be when the transaction is over.
            state.obstacle = state.obstacle.or(Some(Obstacle::OpenTransaction));
            self.look_again = true;
            return;
        }
        self.learn(state);
        state.obstacle = state.obstacle.or_else(|| self.wire_obstacle(state));
        (self.wire.variables_known, self.wire.user_variables_known) = (true, true);
        self.wire.told.clear();
        (self.drift, self.look_again) = (Drift::None, false);
        self.keep_echo(state);
    }

    /// What was asked has disturbed what the last statement left, which from now on is the router's to say.
    fn keep_echo(&mut self, state: &mut State) {
        match &self.echo {
            // No statement of the client's has run since: what was asked now is of the router's own making.
            Some(echo) => {
                state.set_warnings(echo.warnings.clone());
                state.found_rows = echo.found_rows.or(state.found_rows);
            }
            None => {
                let row_count = self.wire.row_count;
                // What was lost before is not what the server says now.
                state.found_rows = state.found_rows.filter(|_| !self.found_rows_lost);
                let found_rows = state.found_rows.filter(|&rows| rows > MOST_FOUND_ROWS);
                self.echo = Some(Echo { warnings: state.warnings.clone(), row_count, found_rows });
            }
        }
        (self.wire.failed, self.wire.warnings) = (false, 0);
    }

    /// The session goes on on another backend.
    pub fn restored(&mut self, logged_in: &LoggedIn, restored: Restored) {
        self.product = logged_in.product();
        self.statements.renumber(&mut self.wire, &restored.statements, &restored.gone);
        (self.wire.creates, self.wire.prepares) = (restored.creates, restored.prepares);
        (self.wire.temporary_creates, self.wire.deallocations) = (0, 0);
        self.wire.called = false;
        self.wire.suspicion = None;
        self.wire.temporary_tables.clear();
        self.seen.remove(Traits::SEQUENCE);
        let Restored { warnings, found_rows, .. } = restored;
        self.echo = Some(Echo { warnings, row_count: self.wire.row_count, found_rows });
    }
}
