//! Good files, and a table of bad ones with every word they must be answered with.

use super::*;

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    Config::parse(text, Path::new("s.toml"))
}

/// The errors of a text, one per line.
fn errors(text: &str) -> String {
    parse(text).expect_err(text).to_string()
}

const CLUSTER: &str = "[[cluster]]\nname = \"orders\"\nengine = \"postgres\"\n";

const MYSQL: &str = "[[cluster]]\nname = \"orders\"\nengine = \"mysql\"\n";

#[test]
fn smallest_file_has_the_defaults() {
    let config = parse(CLUSTER).unwrap();
    assert_eq!(config.clusters, vec![ClusterConfig::with_defaults("orders", Engine::Postgres)]);
    assert_eq!(config.admin, AdminConfig::default());
    assert_eq!(config.admin.listen.to_string(), DEFAULT_ADMIN);
    assert_eq!(config.acu, AcuConfig { memory_bytes: 2 << 30, cpu_cores: 1.0 });
    assert_eq!(config.data_dir, Path::new("scalepoint-data"));
    assert_eq!(config.source.as_deref(), Some(Path::new("s.toml")));
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn every_key_is_read() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["server.pem", "server.key"] {
        std::fs::write(folder.path().join(name), "x").unwrap();
    }
    let text = r#"
        data_dir = "data"
        [admin]
        listen = "127.0.0.1:9000"
        allowed_hosts = ["Scale.Example.org"]
        [tls]
        certificate = "server.pem"
        key = "server.key"
        [acu]
        memory = "512MiB"
        cpu = 1
        [router]
        max_sessions = 10
        handshake_timeout_ms = 500
        shutdown_grace_seconds = 5
        [[cluster]]
        name = "orders"
        engine = "postgres"
        listen = "[::1]:6432"
        server = "."
        min_capacity = 4
        max_capacity = 384
        auto_pause = false
        seconds_until_auto_pause = 86400
        seconds_before_timeout = 60
        timeout_action = "ForceApplyCapacityChange"
        stall_budget_ms = 10
        start_timeout_seconds = 5
        stop_timeout_seconds = 6
        forced_change = "abort_transaction"
        master_username = "boss"
        master_password_file = "secret"
        database_name = "app"
        handover = "restart"
        [cluster.parameters]
        log_statement = "ddl"
        Work_Mem = 4096
        random_page_cost = 1.5
        jit = false
        auto_explain.log_min_duration = 5
        [[cluster]]
        name = "invoices"
        engine = "postgres"
        listen = "[::1]:6432"
        [[cluster]]
        name = "stock"
        engine = "mysql"
        listen = "[::1]:6433"
    "#;
    let config = Config::parse(text, &folder.path().join("s.toml")).unwrap();
    assert_eq!(config.data_dir, folder.path().join("data"));
    assert_eq!(config.admin.allowed_hosts, ["scale.example.org"]);
    assert_eq!(config.tls.unwrap().key, folder.path().join("server.key"));
    assert_eq!(config.acu, AcuConfig { memory_bytes: 512 << 20, cpu_cores: 1.0 });
    assert_eq!(config.router.max_sessions, 10);
    assert_eq!(config.router.handshake_timeout, Duration::from_millis(500));
    assert_eq!(config.router.shutdown_grace, Duration::from_secs(5));
    let orders = &config.clusters[0];
    assert_eq!((orders.min_capacity, orders.max_capacity), (4, 384));
    assert_eq!(orders.timeout_action, TimeoutAction::ForceApplyCapacityChange);
    assert_eq!(orders.forced_change, ForcedChange::AbortTransaction);
    assert_eq!(orders.stall_budget, Duration::from_millis(10));
    assert_eq!((orders.start_timeout, orders.stop_timeout), (Duration::from_secs(5), Duration::from_secs(6)));
    assert_eq!(orders.master_password_file, Some(folder.path().join("secret")));
    let expected = [
        ("log_statement", "ddl"),
        ("work_mem", "4096"),
        ("random_page_cost", "1.5"),
        ("jit", "off"),
        ("auto_explain.log_min_duration", "5"),
    ];
    assert_eq!(orders.parameters, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn all_errors_at_once_in_the_order_of_the_file() {
    let text = r#"daat_dir = "x"
[admin]
listen = "localhost:8460"
[acu]
memory = "2 gigs"
cpu = 0
[[cluster]]
name = "Orders"
engine = "postgers"
min_capacity = "2"
[[cluster]]
engine = "postgres"
min_capacity = 3
max_capacity = 5
auto_pause = "yes"
seconds_before_timeout = 30
timeout_action = "Rollback"
colour = "red"
"#;
    assert_eq!(
        errors(text),
        "s.toml:1: unknown key `daat_dir` (hint: did you mean `data_dir`?)\n\
s.toml:3: listen: `localhost:8460` is not an address (hint: write an IP address and a port: \"127.0.0.1:5432\", \"0.0.0.0:5432\" or \"[::1]:5432\")\n\
s.toml:5: memory: `2 gigs` is not a size (hint: write \"2GiB\", \"512MiB\", \"64MB\" or a number of bytes)\n\
s.toml:6: cpu: 0 is out of range (hint: 0.05 to 256 cores, such as 0.5)\n\
s.toml:8: name: `Orders` is not a DNS label (hint: 1 to 63 of a-z, 0-9 and -, neither first nor last a -)\n\
s.toml:9: engine: `postgers` is not known (hint: did you mean \"postgres\"?)\n\
s.toml:10: min_capacity: must be a whole number, not a string (hint: write a number without quotes)\n\
s.toml:11: [[cluster]] lacks `name` (hint: a name for the cluster, such as \"orders\")\n\
s.toml:13: min_capacity: 3 is not a capacity of this engine (hint: the nearest capacities are 2 and 4; all are 2, 4, 8, 16, 32, 64, 192, 384)\n\
s.toml:14: max_capacity: 5 is not a capacity of this engine (hint: the nearest capacities are 4 and 8; all are 2, 4, 8, 16, 32, 64, 192, 384)\n\
s.toml:15: auto_pause: must be true or false, not a string (hint: write true or false, without quotes)\n\
s.toml:16: seconds_before_timeout: 30 is out of range (hint: 60 to 600 seconds)\n\
s.toml:17: timeout_action: `Rollback` is not known (hint: one of \"RollbackCapacityChange\", \"ForceApplyCapacityChange\")\n\
s.toml:18: unknown key `colour` in [[cluster]] (hint: known are name, engine, listen, server, min_capacity, max_capacity, auto_pause, seconds_until_auto_pause, seconds_before_timeout, timeout_action, stall_budget_ms, park_after_ms, full_wait_ms, statements_at_once, start_timeout_seconds, stop_timeout_seconds, forced_change, handover, master_username, master_password_file, database_name, parameters)"
    );
}

/// One line added to a good cluster (line 4), and what the only error must contain.
#[test]
fn one_bad_line() {
    let cases = [
        ("max_capacity = 128", "128 is not a capacity"),
        ("min_capacity = 32", "min_capacity: 32 is above max_capacity 16 (the default)"),
        ("min_capacity = 0", "0 is out of range"),
        ("min_capacity = -9223372036854775808", "out of range"),
        ("seconds_before_timeout = 601", "60 to 600 seconds"),
        ("seconds_until_auto_pause = 299", "300 to 86400 seconds"),
        ("seconds_until_auto_pause = 86401", "300 to 86400 seconds"),
        ("stall_budget_ms = 9", "10 to 60000 ms"),
        ("stall_budget_ms = 60001", "10 to 60000 ms"),
        ("park_after_ms = -1", "0 to 86400000 ms"),
        ("full_wait_ms = 600001", "0 to 600000 ms"),
        ("statements_at_once = -1", "0 to 100000 statements"),
        ("handover = \"restrat\"", "did you mean \"restart\"?"),
        ("forced_change = \"abort\"", "one of \"close\", \"abort_transaction\""),
        ("listen = 5432", "must be a string, not an integer"),
        ("listen = \"5432\"", "is not an address"),
        ("listen = \"127.0.0.1:8460\"", "is taken by [admin]"),
        ("listen = \"0.0.0.0:8460\"", "is taken by [admin]"),
        ("server = \"/no/such/folder\"", "there is no folder"),
        ("master_username = \"pg_boss\"", "reserved"),
        ("master_username = \"a; drop\"", "not a plain name"),
        ("master_username = \"\"", "not a plain name"),
        ("database_name = \"template1\"", "the server's own"),
        ("master_password_file = \"\"", "is not a path"),
        ("parameters = 3", "must be a table"),
        ("parameters = { port = 1 }", "parameter port: is governed by Scalepoint"),
        ("parameters = { \"a b\" = 1 }", "is not the name of a parameter"),
        ("parameters = { a = \"x\\ny\" }", "control characters"),
        ("parameters = { a = [1] }", "must be a string, a number"),
        ("parameters = { a = 1, A = 2 }", "parameter a is there twice"),
        ("parameters = { a = nan }", "must be a string, a number"),
        ("lsiten = \"127.0.0.1:1\"", "did you mean `listen`?"),
        ("name = \"again\"", "not TOML"),
        ("= 3", "not TOML"),
    ];
    for (line, expected) in cases {
        let message = errors(&format!("{CLUSTER}{line}\n"));
        assert!(message.contains(expected), "{line}: {message}");
        assert!(message.starts_with("s.toml:4: ") && message.lines().count() == 1, "{line}: {message}");
    }
}

#[test]
fn mysql_has_defaults_of_its_own() {
    let config = parse(MYSQL).unwrap();
    let cluster = &config.clusters[0];
    assert_eq!(*cluster, ClusterConfig::with_defaults("orders", Engine::Mysql));
    assert_eq!(cluster.listen.to_string(), "127.0.0.1:3306");
    assert_eq!((cluster.min_capacity, cluster.max_capacity), (1, 16));
    assert_eq!(cluster.forced_change, ForcedChange::AbortTransaction);
    assert_eq!(cluster.master_username, "admin");
    let close = parse(&format!("{MYSQL}forced_change = \"close\"\nmax_capacity = 256\n")).unwrap();
    assert_eq!(close.clusters[0].forced_change, ForcedChange::Close);
    assert_eq!(close.clusters[0].max_capacity, 256);
    let group = "parameters = { Max-Allowed-Packet = 16777216, sql_mode = \"\", log_bin = true }\n";
    let expected = [("max_allowed_packet", "16777216"), ("sql_mode", ""), ("log_bin", "on")];
    let parameters = parse(&format!("{MYSQL}{group}")).unwrap().clusters[0].parameters.clone();
    assert_eq!(parameters, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

/// One line added to a good MySQL cluster (line 4), and what the only error must contain.
#[test]
fn one_bad_line_for_mysql() {
    let long = format!("master_username = \"{}\"", "a".repeat(33));
    let cases = [
        ("max_capacity = 384", "384 is not a capacity of this engine (hint: the nearest capacity is 256"),
        ("database_name = \"mysql\"", "the server's own"),
        ("database_name = \"Sys\"", "the server's own"),
        ("database_name = \"information_schema\"", "the server's own"),
        ("database_name = \"performance_schema\"", "the server's own"),
        ("master_username = \"scalepointrouter\"", "reserved"),
        (long.as_str(), "not a plain name"),
        ("parameters = { datadir = \"/tmp\" }", "parameter datadir: is governed by Scalepoint"),
        ("parameters = { skip-grant-tables = true }", "parameter skip_grant_tables: is governed"),
        ("parameters = { loose_skip_networking = 0 }", "is governed by Scalepoint"),
        ("parameters = { max-connections = 1, max_connections = 2 }", "max_connections is there twice"),
    ];
    for (line, expected) in cases {
        let message = errors(&format!("{MYSQL}{line}\n"));
        assert!(message.contains(expected), "{line}: {message}");
        assert!(message.starts_with("s.toml:4: ") && message.lines().count() == 1, "{line}: {message}");
    }
    // A log that another server follows by is the router's.
    for name in ["server_id", "skip-log-bin", "replicate_ignore_db"] {
        let parameter = format!("{MYSQL}parameters = {{ {name} = \"1\" }}\n");
        assert!(parse(&parameter).is_ok(), "{name}");
        let message = errors(&format!("{parameter}handover = \"standby\"\n"));
        assert!(message.contains("is governed by Scalepoint"), "{name}: {message}");
    }
    // What is the one engine's own is free for the other.
    for line in
        ["database_name = \"template1\"", "master_username = \"pg_boss\"", "parameters = { hba_file = 1 }"]
    {
        parse(&format!("{MYSQL}{line}\n")).unwrap();
    }
    for line in ["database_name = \"sys\"", "parameters = { datadir = 1 }"] {
        parse(&format!("{CLUSTER}{line}\n")).unwrap();
    }
}

#[test]
fn whole_files_that_are_wrong() {
    let two = |first: &str, second: &str| {
        format!("{CLUSTER}{first}\n[[cluster]]\nname = \"b\"\nengine = \"postgres\"\n{second}\n")
    };
    let cases = [
        (String::new(), "s.toml: there is no cluster"),
        ("cluster = []".to_owned(), "there is no cluster"),
        ("cluster = 3".to_owned(), "s.toml:1: cluster: must be a list of tables"),
        ("[cluster]\nname = \"a\"".to_owned(), "double brackets"),
        ("admin = 3\n".to_owned() + CLUSTER, "admin: must be a table"),
        (format!("{CLUSTER}[admin]\nlistn = 1\n"), "unknown key `listn` in [admin]"),
        (format!("{CLUSTER}[admin]\nallowed_hosts = [\"a:1\"]\n"), "\"a:1\" is not a host name"),
        (format!("{CLUSTER}[router]\nmax_sessions = 0\n"), "1 to 1000000 sessions"),
        (format!("{CLUSTER}[router]\nhandshake_timeout_ms = 99\n"), "100 to 120000 ms"),
        (format!("{CLUSTER}[acu]\nmemory = 5\n"), "5 is out of range (hint: 32MiB to 1TiB)"),
        (format!("{CLUSTER}[acu]\ncpu = nan\n"), "out of range"),
        (format!("{CLUSTER}[tls]\nkey = \"/no/such\"\n"), "there is no file /no/such"),
        (format!("{CLUSTER}{CLUSTER}"), "`orders` is the name of the cluster in line 2 too"),
        (two("listen = \"0.0.0.0:5432\"", ""), "overlaps 0.0.0.0:5432 of cluster `orders`"),
        (
            CLUSTER.to_owned() + &MYSQL.replace("orders", "b") + "listen = \"127.0.0.1:5432\"",
            "s.toml:7: listen: 127.0.0.1:5432 is shared with cluster `orders` of engine postgres",
        ),
    ];
    for (text, expected) in cases {
        let message = errors(&text);
        assert!(message.contains(expected), "{text}: {message}");
    }
}

#[test]
fn sharing_an_address_is_fine() {
    let text = CLUSTER.to_owned() + &CLUSTER.replace("orders", "b");
    assert_eq!(parse(&text).unwrap().clusters.len(), 2);
    let text = format!("[admin]\nlisten = \"127.0.0.1:0\"\n{CLUSTER}listen = \"127.0.0.1:0\"\n");
    assert!(parse(&text).is_ok());
}

#[test]
fn what_is_allowed_but_worth_a_warning() {
    let text = format!("{CLUSTER}[admin]\nlisten = \"0.0.0.0:8460\"\n[router]\nmax_sessions = 1000000\n");
    let config = parse(&text).unwrap();
    assert!(config.warnings.iter().any(|warning| warning.contains("open to the network")));
    if limits::most_sessions() < 1_000_000 {
        assert_eq!(config.router.max_sessions, limits::most_sessions());
        assert!(config.warnings.iter().any(|warning| warning.contains("lowered")));
    }
}

#[test]
fn a_missing_file_says_so() {
    let error = Config::load(Path::new("/no/such/file.toml")).unwrap_err();
    assert!(error.to_string().starts_with("/no/such/file.toml: cannot be read"), "{error}");
}

#[test]
fn without_a_file() {
    let config = Config::default_embedded();
    assert_eq!(config.clusters[0].listen.to_string(), "127.0.0.1:5432");
    assert_eq!((config.clusters[0].min_capacity, config.clusters[0].max_capacity), (2, 16));
    assert_eq!((config.clusters[1].name.as_str(), config.clusters[1].engine), ("mysql", Engine::Mysql));
    assert_eq!(config.clusters[1].listen.to_string(), "127.0.0.1:3306");
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,200}") {
        let _ = parse(&text);
    }

    #[test]
    fn no_value_panics(key in "[a-z_]{1,12}|listen|min_capacity|memory|parameters", value in "\\PC{0,20}") {
        let _ = parse(&format!("{CLUSTER}{key} = {value}\n[acu]\nmemory = {value}\n"));
    }
}
