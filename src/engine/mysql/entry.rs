//! Trying what only the restore of a session would show of its account's rights: its roles and its database.

use bytes::BytesMut;

use super::answer::{Answer, Script};
use super::capability::Product;
use super::literal;
use super::log_in::{LoggedIn, refused};
use super::restore::{UNKNOWN_DATABASE, UTF8};
use super::state::State;
use crate::engine::{Dialogue, DialogueError};

/// See the module. The first refusal ends it.
pub struct Entry {
    role: Option<Vec<u8>>,
    database: Option<Vec<u8>>,
    script: Script<()>,
}

impl Entry {
    /// `None`: the session is in no role that it has asked for, and in no database.
    pub fn new(logged_in: &LoggedIn, state: &State) -> Option<Entry> {
        let role = state.role.as_ref().map(|role| set_role(logged_in.product(), role));
        let database = state.database.as_ref().map(|name| name.to_vec());
        let script = Script::new(logged_in.capabilities);
        (role.is_some() || database.is_some()).then_some(Entry { role, database, script })
    }
}

/// The statement that makes `role`, as `CURRENT_ROLE()` has it, the current one.
pub fn set_role(product: Product, role: &[u8]) -> Vec<u8> {
    let mut sql = b"SET ROLE ".to_vec();
    match product {
        // It is a list, quoted as a statement wants it.
        Product::MySql => sql.extend_from_slice(role),
        Product::MariaDb | Product::MySql56 => literal::name(&mut sql, role),
    }
    sql
}

impl Dialogue for Entry {
    type Output = ();

    fn open(&mut self, out: &mut BytesMut) {
        self.script.query(out, UTF8, ());
        if let Some(role) = &self.role {
            self.script.query(out, role, ());
        }
        if let Some(database) = &self.database {
            self.script.init_database(out, database, ());
        }
    }

    fn receive(&mut self, input: &mut BytesMut, _out: &mut BytesMut) -> Result<Option<()>, DialogueError> {
        while !self.script.is_done() {
            match self.script.take(input)? {
                None => return Ok(None),
                Some(((), Answer::Failed(body))) => match refused(&body, 0) {
                    // Another session has dropped it: the restore leaves it out.
                    DialogueError::Refused { code, .. } if code == UNKNOWN_DATABASE.to_string() => {}
                    error => return Err(error),
                },
                Some(((), _)) => {}
            }
        }
        Ok(Some(()))
    }
}
