use super::*;

const H: &str = "*D821809F681A40A6E379B50D0463EFAE20BDD122";

#[test]
fn rows_of_mariadb() {
    let read = |json: &str| Entry::of_mariadb("u".into(), "%".into(), json);
    let native = Method::Native(vec![native::parse(H).unwrap()]);
    let row = read(&format!(
        r#"{{"access":0,"plugin":"mysql_native_password","authentication_string":"{H}","ssl_type":1,
        "auth_or":[{{"plugin":"unix_socket","authentication_string":""}},{{}}]}}"#
    ))
    .unwrap();
    assert!(row.methods == [Method::Unknown("unix_socket".into()), native]);
    assert_eq!(row.encryption, Encryption::Required);
    let row = read(r#"{"access":18446744073709551615}"#).unwrap();
    assert!(row.methods == [Method::Native(vec![])] && row.encryption == Encryption::Any);
    assert!(read(r#"{"is_role":true}"#).is_none());
    assert!(read("no json").is_none());
}

#[test]
fn rows_of_mysql() {
    let kept = &*format!("$A$005$12345678901234567890{}", "x".repeat(43));
    let attributes = &*format!(r#"{{"additional_password":"{kept}"}}"#);
    let (user, host, plugin, ssl_type) = ("u".into(), "%".into(), sha2::CACHING, "ANY");
    let row = Entry::of_mysql(MySqlRow { user, host, plugin, kept, ssl_type, attributes });
    assert!(matches!(&row.methods[..], [Method::Sha2(sha2::CACHING, kept)] if kept.len() == 2));
    assert_eq!(row.encryption, Encryption::Required);
}

#[test]
fn forms_of_what_is_kept() {
    assert!(Method::of(sha2::CACHING, &["$A$broken"]) == Method::Unknown(sha2::CACHING.into()));
    assert!(Method::of(sha2::CACHING, &[""]) == Method::Sha2(sha2::CACHING, vec![]));
    assert!(Method::of("", &[""]) == Method::Native(vec![]));
    assert!(Method::of("", &["5d2e19393cc5ef67"]) == Method::Unknown(String::new()));
    assert!(matches!(
        Method::of("ed25519", &["vRq+ROSzhW4MwhdoPvlkL1fHkT0w6ZDDbTpVQwSNQ90"]),
        Method::Ed25519(_)
    ));
}

#[test]
fn anonymous_accounts_may_come_first() {
    let entry = |user: &str, host: &str| Entry {
        user: user.into(),
        host: host.into(),
        methods: vec![],
        encryption: Encryption::Any,
    };
    let entries = vec![entry("", "localhost"), entry("u", "%"), entry("", "%")];
    let account = Account { entries, product: Product::MariaDb, resolves: true, mark: 0 };
    let chosen = |client| account.choose(client).map(|entry| entry.user.as_str());
    assert_eq!(chosen(Client::tcp([127, 0, 0, 1].into(), true)), Some(""));
    assert_eq!(chosen(Client::tcp([10, 0, 0, 1].into(), true)), Some("u"));
    assert_eq!(chosen(Client::unix()), Some(""));
}

#[test]
fn a_decoy_is_the_same_at_every_attempt() {
    for product in [Product::MariaDb, Product::MySql, Product::MySql56] {
        let decoy = |user| Method::decoy(product, user, &[7; 32]);
        assert!(decoy("u") == decoy("u") && decoy("u") != decoy("v"));
    }
}
