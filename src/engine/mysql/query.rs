//! The router's own questions on its own connections: one statement, text results.

use bytes::BytesMut;

use super::capability::Product;
use super::greet::Account;
use super::log_in::LoggedIn;
use crate::engine::{Dialogue, DialogueError, RouterLogin};

/// A row of text columns.
pub type Row = Vec<Option<String>>;

/// Runs one statement.
pub struct AdminQuery;

impl AdminQuery {
    /// A statement; each `?` is replaced by a quoted parameter.
    pub fn with(_sql: &str, _parameters: &[&str]) -> AdminQuery {
        AdminQuery
    }
}

impl Dialogue for AdminQuery {
    type Output = Vec<Row>;

    fn open(&mut self, _out: &mut BytesMut) {}

    fn receive(&mut self, _: &mut BytesMut, _: &mut BytesMut) -> Result<Option<Vec<Row>>, DialogueError> {
        Err(DialogueError::Protocol("not built".into()))
    }
}

/// Reads how an account proves itself.
pub struct AccountQuery;

impl AccountQuery {
    /// The rows of all accounts of that name.
    pub fn new(_product: Product, _user: &str) -> AccountQuery {
        AccountQuery
    }
}

impl Dialogue for AccountQuery {
    type Output = Option<Account>;

    fn open(&mut self, _out: &mut BytesMut) {}

    fn receive(
        &mut self,
        _: &mut BytesMut,
        _: &mut BytesMut,
    ) -> Result<Option<Option<Account>>, DialogueError> {
        Err(DialogueError::Protocol("not built".into()))
    }
}

/// `KILL QUERY` on a connection of its own, as the router.
#[derive(Clone)]
pub struct Cancel;

impl Cancel {
    /// Cancels what runs on that backend.
    pub fn of(_logged_in: &LoggedIn, _router: &RouterLogin) -> Cancel {
        Cancel
    }
}

impl Dialogue for Cancel {
    type Output = ();

    fn open(&mut self, _out: &mut BytesMut) {}

    fn receive(&mut self, _: &mut BytesMut, _: &mut BytesMut) -> Result<Option<()>, DialogueError> {
        Err(DialogueError::Protocol("not built".into()))
    }
}

/// Nothing is sent by a server unasked, so there is nothing to fetch.
pub struct Drain;

impl Dialogue for Drain {
    type Output = BytesMut;

    fn open(&mut self, _out: &mut BytesMut) {}

    fn receive(&mut self, _: &mut BytesMut, _: &mut BytesMut) -> Result<Option<BytesMut>, DialogueError> {
        Ok(Some(BytesMut::new()))
    }
}
