//! Log ins with real servers: that a client which proves itself to the router gets a backend as itself, by every plugin,
//! and is told what the server would tell it when it does not.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, OptsBuilder};
use scalepoint::engine::Engine as _;
use scalepoint::engine::mysql::Mysql;

use crate::live_mysql::Live;

/// What a client is told: its account and where the server says it comes from, or the error.
async fn log_in(
    door: SocketAddr,
    user: &str,
    password: &str,
    database: Option<&str>,
) -> Result<String, String> {
    let options = OptsBuilder::default()
        .ip_or_hostname(door.ip().to_string())
        .tcp_port(door.port())
        .user(Some(user))
        .pass((!password.is_empty()).then_some(password))
        .db_name(database)
        .prefer_socket(false)
        .secure_auth(false);
    let mut conn = Conn::new(options).await.map_err(|error| error.to_string())?;
    let row: Option<(String, String)> = conn.query_first("SELECT USER(), CURRENT_USER()").await.unwrap();
    conn.disconnect().await.unwrap();
    row.map(|(user, account)| format!("{user} {account}")).ok_or_else(|| "no row".to_owned())
}

/// The same by a command line client; what it printed.
fn command(program: &str, door: SocketAddr, words: &[&str]) -> String {
    let (folder, no_tls) = match program {
        "mariadb" => ("SCALEPOINT_MARIADB_CLIENT_BIN", "--skip-ssl"),
        _ => ("SCALEPOINT_MYSQL9_CLIENT_BIN", "--ssl-mode=DISABLED"),
    };
    let program = std::path::PathBuf::from(std::env::var(folder).unwrap()).join(program);
    let output = Command::new("timeout")
        .arg("20")
        .arg(program)
        .args(["--no-defaults", "-N", "-B", no_tls, "-h127.0.0.1", &format!("-P{}", door.port())])
        .args(words)
        .output()
        .unwrap();
    let printed =
        [output.stderr, output.stdout].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    printed.lines().filter(|line| !line.contains("[Warning]")).collect::<Vec<_>>().join("\n")
}

/// The accounts of the tests with MariaDB.
const ACCOUNTS: &[&str] = &[
    "CREATE USER app@'10.%' IDENTIFIED BY 'pw'",
    "CREATE USER app@'10.0.0.0/255.255.255.0' IDENTIFIED BY 'pw of the network'",
    "CREATE USER app@localhost IDENTIFIED BY 'local'",
    "GRANT ALL ON app.* TO app@'10.%'",
    "CREATE USER open@'%'",
    "CREATE USER locked@'%' IDENTIFIED BY 'pw' ACCOUNT LOCK",
    "CREATE USER safe@'%' IDENTIFIED BY 'pw' REQUIRE SSL",
    "CREATE USER signs@'%' IDENTIFIED VIA ed25519 USING PASSWORD('pw')",
    "CREATE USER two@'%' IDENTIFIED VIA ed25519 USING PASSWORD('pw') \
     OR mysql_native_password USING PASSWORD('other') OR mysql_native_password USING PASSWORD('pw')",
    "CREATE USER socket@'%' IDENTIFIED VIA unix_socket",
];

#[tokio::test(flavor = "multi_thread")]
async fn mariadb() {
    let live = Arc::new(Live::mariadb(ACCOUNTS).await);
    let door = live.door("10.1.2.3").await;
    let ok = |text: &str| Ok(text.to_owned());
    assert_eq!(log_in(door, "app", "pw", Some("app")).await, ok("app@10.1.2.3 app@10.%"));
    assert_eq!(log_in(door, "open", "", None).await, ok("open@10.1.2.3 open@%"));
    assert_eq!(log_in(door, "two", "pw", None).await, ok("two@10.1.2.3 two@%"));
    assert_eq!(command("mariadb", door, &["-uapp", "-ppw", "-e", "SELECT USER()", "app"]), "app@10.1.2.3");

    let network = live.door("10.0.0.9").await;
    let of_network = ok("app@10.0.0.9 app@10.0.0.0/255.255.255.0");
    assert_eq!(log_in(network, "app", "pw of the network", None).await, of_network);
    let local = live.door("127.0.0.1").await;
    assert_eq!(log_in(local, "app", "local", None).await, ok("app@localhost app@localhost"));
    let six = live.door("fd00::5").await;
    assert_eq!(log_in(six, "open", "", None).await, ok("open@fd00::5 open@%"));
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_refuses() {
    let live = Arc::new(Live::mariadb(ACCOUNTS).await);
    let door = live.door("10.1.2.3").await;
    let denied = |text: Result<String, String>, wanted: &str| {
        let text = text.unwrap_err();
        assert!(text.contains(wanted), "{text} instead of {wanted}");
    };
    let wrong = "Access denied for user 'app'@'10.1.2.3' (using password: YES)";
    denied(log_in(door, "app", "wrong", None).await, wrong);
    denied(log_in(door, "app", "", None).await, &wrong.replace("YES", "NO"));
    denied(log_in(door, "nobody", "pw", None).await, &wrong.replace("app", "nobody"));
    denied(
        log_in(door, "app", "pw", Some("nowhere")).await,
        "Access denied for user 'app'@'10.%' to database",
    );
    denied(log_in(door, "locked", "pw", None).await, "this account is locked");
    denied(
        log_in(door, "safe", "pw", None).await,
        "Access denied for user 'safe'@'10.1.2.3' (using password: YES)",
    );
    denied(log_in(door, "socket", "pw", None).await, "'unix_socket' cannot be used through the router");
    let signs = command("mariadb", door, &["-usigns", "-ppw", "-e", "SELECT 1"]);
    assert!(signs.contains("OR mysql_native_password USING PASSWORD"), "{signs}");
    let signs = command("mariadb", door, &["-usigns", "-pwrong", "-e", "SELECT 1"]);
    assert!(signs.contains("Access denied for user 'signs'@'10.1.2.3' (using password: YES)"), "{signs}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql9() {
    let live = Arc::new(
        Live::mysql9(&[
            "CREATE USER app@'%' IDENTIFIED BY 'pw'",
            "CREATE USER open@'%' IDENTIFIED BY ''",
            "CREATE USER two@'%' IDENTIFIED BY 'first'",
            "ALTER USER two@'%' IDENTIFIED BY 'second' RETAIN CURRENT PASSWORD",
            "CREATE USER sha@'%' IDENTIFIED WITH sha256_password BY 'pw'",
            "CREATE USER network@'10.%' IDENTIFIED BY 'pw'",
            "CREATE USER network@'localhost' IDENTIFIED BY 'pw'",
            "CREATE USER locked@'%' IDENTIFIED BY 'pw' ACCOUNT LOCK",
        ])
        .await,
    );
    let door = live.door("10.1.2.3").await;
    let mysql = |user: &str, password: &str| {
        let words = [&*format!("-u{user}"), &*format!("-p{password}"), "--get-server-public-key"];
        command("mysql", door, &[&words[..], &["-e", "SELECT CURRENT_USER()"]].concat())
    };
    // The first time by the password sealed, then by what the vault knows; the server's own cache is cold, then warm, then
    // cold again.
    for _ in 0..2 {
        assert_eq!(mysql("app", "pw"), "app@%");
    }
    live.router().await.converse(Mysql::admin_query("FLUSH PRIVILEGES", &[])).await.unwrap();
    assert_eq!(mysql("app", "pw"), "app@%");
    assert_eq!(log_in(door, "app", "pw", None).await, Ok("app@localhost app@%".to_owned()));
    assert_eq!((mysql("two", "first"), mysql("two", "second")), ("two@%".into(), "two@%".into()));
    assert_eq!(mysql("sha", "pw"), "sha@%");
    assert_eq!(log_in(door, "open", "", None).await, Ok("open@localhost open@%".to_owned()));
    for (user, password) in [("app", "wrong"), ("nobody", "pw"), ("sha", "wrong")] {
        let denied = format!("Access denied for user '{user}'@'10.1.2.3' (using password: YES)");
        assert!(mysql(user, password).contains(&denied), "{}", mysql(user, password));
    }
    let hint = mysql("network", "pw");
    assert!(hint.contains("would choose account 'network'@'localhost'"), "{hint}");
    assert!(mysql("locked", "pw").contains("Account is locked"));
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql56() {
    let live = Arc::new(
        Live::mysql56(&[
            "DELETE FROM mysql.user WHERE User = ''",
            "FLUSH PRIVILEGES",
            "CREATE USER app@'%' IDENTIFIED BY 'pw'",
        ])
        .await,
    );
    let door = live.door("10.1.2.3").await;
    assert_eq!(log_in(door, "app", "pw", None).await, Ok("app@localhost app@%".to_owned()));
    assert_eq!(command("mariadb", door, &["-uapp", "-ppw", "-e", "SELECT 7"]), "7");
    let wrong = log_in(door, "app", "wrong", None).await.unwrap_err();
    assert!(wrong.contains("Access denied for user 'app'@'10.1.2.3' (using password: YES)"), "{wrong}");
    let unknown = log_in(door, "app", "pw", Some("nowhere")).await.unwrap_err();
    assert!(unknown.contains("to database 'nowhere'"), "{unknown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_and_their_end() {
    let live = Live::mariadb(&[]).await;
    let mut router = live.router().await;
    let rows = Mysql::admin_query("SELECT NULL, '', ?, 'it''s'; SELECT 2", &[r"a'b\c"]);
    assert!(router.converse(rows).await.is_err(), "several statements are not asked for");
    let rows = router.converse(Mysql::admin_query("SELECT NULL, '', ?, 'it''s'", &[r"a'b\c"])).await.unwrap();
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(rows, [[None, text(""), text(r"a'b\c"), text("it's")]]);
    let none = router.converse(Mysql::admin_query("SELECT 1 FROM mysql.user WHERE User = ?", &["x"])).await;
    assert!(none.unwrap().is_empty());

    let cancel = router.canceller();
    let began = Instant::now();
    let (cancelled, ()) = tokio::join!(router.converse(Mysql::admin_query("SELECT SLEEP(20)", &[])), async {
        // The statement may take a moment to begin; a KILL before it does nothing.
        tokio::time::sleep(Duration::from_millis(300)).await;
        cancel().await;
    });
    assert!(cancelled.is_err() && began.elapsed() < Duration::from_secs(15));
    let still = router.converse(Mysql::admin_query("SELECT 5", &[])).await.unwrap();
    assert_eq!(still, [[text("5")]]);
}
