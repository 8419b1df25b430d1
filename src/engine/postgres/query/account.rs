//! Reading how a role proves itself, and whether it may still log in.

use bytes::BytesMut;

use super::AdminQuery;
use crate::engine::postgres::auth::Verifier;
use crate::engine::postgres::greet::Startup;
use crate::engine::{Access, Dialogue, DialogueError};

/// How one role proves itself, and where it may not log in.
pub struct Account {
    /// Its password verifier.
    pub verifier: Verifier,
    /// It may not log in at all (`NOLOGIN`).
    is_shut_out: bool,
    /// Databases that it may not connect to (`CONNECT`, `ALLOW_CONNECTIONS`); not asked for at a log in, where the server
    /// itself says it.
    closed: Vec<String>,
}

/// Reads a role's verifier. Whether the role may log in at all is for the backend to say at log in, in its own words.
pub struct AccountQuery(AdminQuery);

impl AccountQuery {
    /// `rolvaliduntil` is checked here, because the backend does not check it when no password is sent to it
    /// (`src/backend/libpq/crypt.c`, `get_role_password`).
    pub fn new(user: &str) -> AccountQuery {
        let sql = "SELECT rolpassword FROM pg_catalog.pg_authid WHERE rolname = CAST($1 AS pg_catalog.text) \
                   AND (rolvaliduntil IS NULL OR rolvaliduntil > pg_catalog.now())";
        AccountQuery(AdminQuery::with(sql, &[user]))
    }

    /// For sessions that were let in. No password is asked for on the private socket, so neither a changed one nor
    /// `rolvaliduntil` is in the way of another log in; sessions outlive both on the server itself, too.
    pub fn of_standing(user: &str) -> AccountQuery {
        let sql = "SELECT NULL, CASE WHEN r.rolcanlogin THEN 1 ELSE 0 END, pg_catalog.array_to_json(ARRAY( \
                    SELECT d.datname FROM pg_catalog.pg_database AS d WHERE NOT d.datallowconn \
                    OR NOT pg_catalog.has_database_privilege(r.oid, d.oid, 'CONNECT'))) \
                   FROM pg_catalog.pg_roles AS r WHERE r.rolname = CAST($1 AS pg_catalog.text)";
        AccountQuery(AdminQuery::with(sql, &[user]))
    }
}

impl Dialogue for AccountQuery {
    type Output = Option<Account>;

    fn open(&mut self, out: &mut BytesMut) {
        self.0.open(out);
    }

    fn receive(
        &mut self,
        input: &mut BytesMut,
        out: &mut BytesMut,
    ) -> Result<Option<Option<Account>>, DialogueError> {
        let Some(rows) = self.0.receive(input, out)? else { return Ok(None) };
        Ok(Some(rows.into_iter().next().map(|row| {
            let mut columns = row.into_iter();
            let mut column = || columns.next().flatten();
            Account {
                verifier: Verifier::parse(column().as_deref()),
                is_shut_out: column().is_some_and(|may| may == "0"),
                closed: column().and_then(|names| serde_json::from_str(&names).ok()).unwrap_or_default(),
            }
        })))
    }
}

/// Whether a client's role may log in as it did.
pub fn access(startup: &Startup, account: Option<&Account>) -> Access {
    match account {
        None => Access::Changed(1),
        Some(account) if account.is_shut_out => Access::Changed(2),
        Some(account) if account.closed.iter().any(|closed| closed == startup.database()) => {
            Access::Changed(3)
        }
        Some(_) => Access::Unchanged,
    }
}
