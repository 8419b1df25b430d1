//! The accounts that a volume begins with, as SQL for a server that reads it while nobody can connect.
//!
//! There is no `root`: a client that comes through the router arrives on the socket as `localhost`, where MariaDB
//! would believe any `root` of the operating system. The router's own account takes its place.

use super::programs::Product;

/// A name and a password.
#[derive(Clone, Copy)]
pub(super) struct Account<'a> {
    /// The user.
    pub(super) name: &'a str,
    /// The host.
    pub(super) host: &'a str,
    /// The password, in clear: the server makes of it what its method keeps.
    pub(super) password: &'a str,
}

/// Statements that take away the accounts a new volume comes with.
pub(super) fn purge(product: Product) -> Vec<String> {
    let list: &[&str] = match product {
        Product::MariaDb => &[
            "DELETE FROM mysql.global_priv WHERE User IN ('', 'root', 'mysql')",
            "DELETE FROM mysql.proxies_priv WHERE User IN ('', 'root', 'mysql')",
            "FLUSH PRIVILEGES",
        ],
        Product::MySql => &["DROP USER IF EXISTS 'root'@'localhost'"],
        Product::MySql56 => &[
            "DELETE FROM mysql.user WHERE User IN ('', 'root')",
            "DELETE FROM mysql.db WHERE User = ''",
            "DELETE FROM mysql.proxies_priv WHERE User IN ('', 'root')",
        ],
    };
    list.iter().map(|statement| (*statement).to_owned()).collect()
}

/// Statements that make an account with all privileges, or give it these and its password again. Stating them twice
/// does no harm.
pub(super) fn make(product: Product, account: Account<'_>) -> Vec<String> {
    let Account { name, host, password } = account;
    let (name, host, password) = (quote(name), quote(host), quote(password));
    let user = format!("{name}@{host}");
    let grant = format!("GRANT ALL PRIVILEGES ON *.* TO {user}");
    match product {
        Product::MariaDb => vec![
            format!("CREATE USER IF NOT EXISTS {user}"),
            format!("ALTER USER {user} IDENTIFIED VIA mysql_native_password USING PASSWORD({password})"),
            format!("{grant} WITH GRANT OPTION"),
        ],
        Product::MySql => vec![
            format!("CREATE USER IF NOT EXISTS {user}"),
            format!("ALTER USER {user} IDENTIFIED WITH caching_sha2_password BY {password}"),
            format!("{grant} WITH GRANT OPTION"),
        ],
        Product::MySql56 => vec![format!("{grant} IDENTIFIED BY {password} WITH GRANT OPTION")],
    }
}

/// Statements that let an account of [`make`] stand in for any other. `GRANT PROXY` is refused to the server itself,
/// which runs these: nobody has granted it that right.
pub(super) fn let_proxy(account: Account<'_>) -> Vec<String> {
    let (name, host) = (quote(account.name), quote(account.host));
    vec![
        format!(
            "REPLACE INTO mysql.proxies_priv (Host, User, Proxied_host, Proxied_user, With_grant, Grantor) \
             VALUES ({host}, {name}, '', '', 1, '')"
        ),
        "FLUSH PRIVILEGES".to_owned(),
    ]
}

/// The statements as a server reads them by itself and then ends: one a line, which is how the oldest read them. MySQL
/// 5.6 has no statement to shut down, but a mode that ends with its input; it minds accounts there only when told to.
pub(super) fn script(product: Product, statements: &[String]) -> String {
    let (first, last): (&[&str], &[&str]) = match product {
        Product::MariaDb | Product::MySql => (&["SET NAMES utf8mb4"], &["SHUTDOWN"]),
        Product::MySql56 => (&["FLUSH PRIVILEGES", "SET NAMES utf8"], &[]),
    };
    let statements = statements.iter().map(String::as_str);
    let all = first.iter().copied().chain(statements).chain(last.iter().copied());
    all.fold(String::new(), |script, statement| script + statement + ";\n")
}

/// A string in the default `sql_mode`, where a backslash escapes.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_passwords_end_where_they_end() {
        let odd = Account { name: "a'b", host: "%", password: "x\\'; DROP" };
        let statements = make(Product::MySql56, odd);
        assert_eq!(
            statements,
            [r"GRANT ALL PRIVILEGES ON *.* TO 'a\'b'@'%' IDENTIFIED BY 'x\\\'; DROP' WITH GRANT OPTION"]
        );
        assert_eq!(script(Product::MySql56, &statements).lines().count(), 3);
    }
}
