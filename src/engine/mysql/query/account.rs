//! Reading how an account proves itself, and whether that has changed.

use bytes::BytesMut;

use super::{AdminQuery, Row};
use crate::engine::mysql::auth::account::{Account, Entry, MySqlRow};
use crate::engine::mysql::capability::Product;
use crate::engine::{Dialogue, DialogueError};

/// 64 bits of a fact. Not a secret, and nobody gains by two that are alike.
const SUM: &str = "CAST(CONV(LEFT(SHA2(f.fact, 256), 16), 16, 10) AS UNSIGNED)";

/// What a log in and the rights to be in a database and a role depend on, one a row; `?` is the account's name. What an
/// account may do once it is in is left out where that is easy: it changes more often.
fn facts(product: Product) -> String {
    let fact = |table: &str, account: &str, columns: &str| {
        format!(
            "SELECT CONCAT_WS('|', '{table}', {columns}) AS fact FROM mysql.{table} WHERE {account} IN (?, '')"
        )
    };
    let databases = fact("db", "User", "User, Host, Db");
    let more = match product {
        Product::MariaDb => vec![
            fact("global_priv", "User", "User, Host, JSON_REMOVE(Priv, '$.access', '$.version_id')"),
            fact("roles_mapping", "User", "User, Host, Role"),
        ],
        Product::MySql => vec![
            fact(
                "user",
                "User",
                "User, Host, plugin, HEX(authentication_string), account_locked, password_expired, \
                 password_last_changed, password_lifetime, max_connections, max_user_connections, ssl_type, \
                 User_attributes",
            ),
            fact("role_edges", "TO_USER", "TO_USER, TO_HOST, FROM_USER, FROM_HOST"),
        ],
        Product::MySql56 => vec![fact(
            "user",
            "User",
            "User, Host, plugin, authentication_string, Password, password_expired, max_connections, \
             max_user_connections, ssl_type",
        )],
    };
    [databases, more.join(" UNION ALL ")].join(" UNION ALL ")
}

/// Reads how the accounts of a name prove themselves.
pub struct AccountQuery {
    product: Product,
    user: String,
    query: AdminQuery,
}

impl AccountQuery {
    /// The rows of all accounts of that name, and of those for anybody. Whether an account may log in at all (locked,
    /// expired) is for the backend to say at log in, in its own words.
    pub fn new(product: Product, user: &str) -> AccountQuery {
        let (columns, table) = match product {
            Product::MariaDb => ("a.User, a.Host, a.Priv", "mysql.global_priv"),
            Product::MySql => (
                "a.User, a.Host, a.plugin, a.authentication_string, a.ssl_type, a.User_attributes",
                "mysql.user",
            ),
            Product::MySql56 => {
                ("a.User, a.Host, a.plugin, a.authentication_string, a.ssl_type, a.Password", "mysql.user")
            }
        };
        let facts = facts(product);
        // There is always a row, so that an unknown name takes as long as a known one.
        let sql = format!(
            "SELECT @@GLOBAL.skip_name_resolve, (SELECT BIT_XOR({SUM}) FROM ({facts}) AS f), {columns} \
             FROM (SELECT 1) AS one LEFT JOIN {table} AS a ON a.User IN (?, '') ORDER BY a.Host"
        );
        // Each of the facts, and the join, names it.
        let users = vec![user; sql.matches('?').count()];
        AccountQuery { product, user: user.to_owned(), query: AdminQuery::with(&sql, &users) }
    }

    fn account(&self, rows: &[Row]) -> Account {
        let first = |at: usize| rows.first().and_then(|row| row.get(at)).cloned().flatten();
        let resolves = first(0).is_some_and(|value| matches!(value.as_str(), "0" | "OFF"));
        let mark = first(1).and_then(|sum| sum.parse().ok()).unwrap_or(0);
        let entries = rows.iter().filter_map(|row| self.entry(row)).collect();
        Account { entries, product: self.product, resolves, mark }
    }

    fn entry(&self, row: &Row) -> Option<Entry> {
        let column = |at: usize| row.get(at).cloned().flatten();
        let text = |at: usize| column(at).unwrap_or_default();
        let (user, host) = (column(2)?, column(3)?);
        // The comparison in SQL may know of trailing spaces and letters that are alike; the server's own does not.
        if !user.is_empty() && user != self.user {
            return None;
        }
        match self.product {
            Product::MariaDb => Entry::of_mariadb(user, host, &text(4)),
            Product::MySql | Product::MySql56 => {
                let (plugin, kept, ssl_type, last) = (text(4), text(5), text(6), text(7));
                // The old release has no attributes, and two places for what it keeps.
                let old = self.product == Product::MySql56;
                let kept = if old && !last.is_empty() { &last } else { &kept };
                let attributes = if old { "" } else { &last };
                let (plugin, ssl_type) = (&plugin, &ssl_type);
                Some(Entry::of_mysql(MySqlRow { user, host, plugin, kept, ssl_type, attributes }))
            }
        }
    }
}

impl Dialogue for AccountQuery {
    type Output = Option<Account>;

    fn open(&mut self, out: &mut BytesMut) {
        self.query.open(out);
    }

    fn receive(
        &mut self,
        input: &mut BytesMut,
        out: &mut BytesMut,
    ) -> Result<Option<Option<Account>>, DialogueError> {
        let Some(rows) = self.query.receive(input, out)? else { return Ok(None) };
        Ok(Some(Some(self.account(&rows))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_of_another_spelling_are_not_meant() {
        let query = AccountQuery::new(Product::MySql56, "App");
        let row = |user: &str| -> Row {
            ["0", "7", user, "%", "", "", "", "*D821809F681A40A6E379B50D0463EFAE20BDD122"]
                .map(|text| Some(text.to_owned()))
                .into()
        };
        let none = vec![Some("1".to_owned()), None, None, None, None, None, None, None];
        let account = query.account(&[row("App"), row("app"), row("")]);
        assert!(account.resolves && account.mark == 7);
        let names: Vec<&str> = account.entries.iter().map(|entry| &*entry.user).collect();
        assert_eq!(names, ["App", ""]);
        let account = query.account(&[none]);
        assert!(account.entries.is_empty() && !account.resolves);
    }
}
