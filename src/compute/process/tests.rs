//! With the real servers of this machine: one set of tests for all kinds, and what only one kind has.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{sleep, timeout};

use super::*;

const MIB: u64 = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Postgres,
    MariaDb,
    MySql9,
    MySql56,
}

impl Kind {
    fn programs(self) -> Option<PathBuf> {
        let name = match self {
            Self::Postgres => return None,
            Self::MariaDb => "SCALEPOINT_MARIADB_BIN",
            Self::MySql9 => "SCALEPOINT_MYSQL9_BIN",
            Self::MySql56 => "SCALEPOINT_MYSQL56_BIN",
        };
        Some(environment(name))
    }

    /// A client that knows how the kind checks passwords.
    fn client(self) -> PathBuf {
        match self {
            Self::MySql9 => environment("SCALEPOINT_MYSQL9_CLIENT_BIN").join("mysql"),
            _ => environment("SCALEPOINT_MARIADB_CLIENT_BIN").join("mariadb"),
        }
    }

    fn connections(self) -> [&'static str; 2] {
        if self == Self::Postgres { ["250", "500"] } else { ["180", "270"] }
    }

    fn show_connections(self) -> &'static str {
        if self == Self::Postgres { "show max_connections" } else { "select @@max_connections" }
    }

    /// A table that a crash does not take: it is committed.
    fn keep(self) -> &'static str {
        if self == Self::Postgres {
            "create table kept as select 42 as n"
        } else {
            "create database app; create table app.kept engine=innodb as select 42 as n"
        }
    }

    fn kept(self) -> &'static str {
        if self == Self::Postgres { "select n from kept" } else { "select n from app.kept" }
    }
}

fn environment(name: &str) -> PathBuf {
    let value = std::env::var_os(name);
    PathBuf::from(value.unwrap_or_else(|| panic!("{name} is not set: see scripts/install-test-servers")))
}

struct Ground {
    folder: tempfile::TempDir,
    kind: Kind,
}

impl Ground {
    /// A folder that the server's user can reach.
    fn new(kind: Kind) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self { folder, kind }
    }

    /// With a volume, which is the same as one that it would make.
    #[expect(clippy::disallowed_methods, reason = "a test's own thread serves nobody")]
    fn with_volume(kind: Kind) -> Self {
        let ground = Self::new(kind);
        template::copy(&format!("provider {kind:?}"), &ground.folder.path().join("volume"), |volume| {
            let first = Self::new(kind);
            let made = tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(first.provider().recover())
            });
            made.unwrap();
            let moved = std::process::Command::new("cp")
                .arg("-a")
                .args([&first.folder.path().join("volume"), volume])
                .status();
            assert!(moved.unwrap().success());
        });
        ground
    }

    fn config(&self) -> ProcessConfig {
        let parameters = match self.kind {
            Kind::Postgres => BTreeMap::from([("log_min_messages".to_owned(), "warning".to_owned())]),
            _ => BTreeMap::new(),
        };
        ProcessConfig {
            cluster: "orders".to_owned(),
            volume: self.folder.path().join("volume"),
            run_dir: self.folder.path().join("run"),
            server_programs: self.kind.programs(),
            master_username: "admin".to_owned(),
            master_password: "not-a'secret\\".to_owned(),
            router_password: "router's own".to_owned(),
            database_name: None,
            parameters,
            pair: None,
            start_deadline: START_DEADLINE,
            stop_deadline: STOP_DEADLINE,
        }
    }

    fn with(&self, config: ProcessConfig) -> ProcessProvider {
        match self.kind {
            Kind::Postgres => ProcessProvider::new(config),
            _ => ProcessProvider::mysql(config),
        }
        .unwrap()
    }

    fn provider(&self) -> ProcessProvider {
        self.with(self.config())
    }

    fn running(&self) -> usize {
        let home = self.folder.path().join("volume");
        let processes = fs::read_dir("/proc").unwrap().flatten();
        processes.filter(|p| fs::read_link(p.path().join("cwd")).is_ok_and(|cwd| cwd == home)).count()
    }

    async fn ask(&self, instance: &Instance, query: &str) -> String {
        match self.kind {
            Kind::Postgres => ask(instance, query).await,
            kind => {
                let user = super::mysql::ROUTER_ACCOUNT;
                mysql(kind, instance, [user, "router's own"], query).await.unwrap()
            }
        }
    }
}

fn resources(capacity: u32) -> Resources {
    Resources {
        capacity,
        memory_bytes: u64::from(capacity) * 256 * MIB,
        cpu_cores: f64::from(capacity) / 4.0,
    }
}

async fn connect(instance: &Instance) -> tokio_postgres::Client {
    let mut config = tokio_postgres::Config::new();
    config.host_path(instance.socket.parent().unwrap()).user("admin").dbname("postgres");
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn ask(instance: &Instance, query: &str) -> String {
    let rows = connect(instance).await.simple_query(query).await.unwrap();
    rows.iter()
        .find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        })
        .unwrap_or_default()
}

/// The rows that the query gives, or the error.
async fn mysql(
    kind: Kind,
    instance: &Instance,
    [user, password]: [&str; 2],
    query: &str,
) -> Result<String, String> {
    let mut client = tokio::process::Command::new(kind.client());
    client.args(["--no-defaults", "--batch", "--skip-column-names", "--user", user, "--execute", query]);
    client.arg("--socket").arg(&instance.socket).env("MYSQL_PWD", password);
    let output = client.output().await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// The tests that every kind of server passes.
macro_rules! for_every_kind {
    ($($ground:ident: $($test:ident),+;)+) => {
        for_every_kind!(@ postgres Postgres $($ground: $($test)+;)+);
        for_every_kind!(@ mariadb MariaDb $($ground: $($test)+;)+);
        for_every_kind!(@ mysql9 MySql9 $($ground: $($test)+;)+);
        for_every_kind!(@ mysql56 MySql56 $($ground: $($test)+;)+);
    };
    (@ $module:ident $kind:ident $($ground:ident: $($test:ident)+;)+) => {
        mod $module {
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test(super::Ground::$ground(super::Kind::$kind)).await;
                }
            )+)+
        }
    };
}

mod ahead;
#[path = "../../../tests/live/harness/template.rs"]
mod template;

for_every_kind!(
    new: a_cluster_is_made_moved_and_stopped, volumes_that_cannot_serve_are_refused;
    with_volume:
        a_killed_server_loses_nothing,
        what_a_crashed_router_left_is_stopped,
        a_wrong_parameter_is_named,
        a_start_that_takes_too_long_or_is_dropped_leaves_nothing_behind,
        what_was_prepared_goes_when_it_is_not_wanted;
);

async fn moved(provider: &ProcessProvider, old: &Instance, to: &Resources) -> Instance {
    let (outcome, times) = provider.hand_over(old, to).await.unwrap();
    println!("hand-over {} -> {}: {times:?}", old.resources.capacity, to.capacity);
    match outcome {
        HandOver::Moved(instance) => instance,
        HandOver::Kept(_, error) => panic!("kept: {error}"),
    }
}

async fn a_cluster_is_made_moved_and_stopped(ground: Ground) {
    let (provider, kind) = (ground.provider(), ground.kind);
    provider.recover().await.unwrap();
    provider.recover().await.unwrap();
    let first = provider.launch(&resources(2)).await.unwrap();
    assert!(first.version.starts_with(char::is_numeric), "{}", first.version);
    assert!(provider.launch(&resources(2)).await.is_err(), "two writers");
    ground.ask(&first, kind.keep()).await;
    assert_eq!(ground.ask(&first, kind.show_connections()).await, kind.connections()[0]);

    provider.prepare(&resources(4)).await.unwrap();
    let mut last = moved(&provider, &first, &resources(4)).await;
    assert!(first.exited.borrow().as_deref() == Some("exit status: 0"));
    assert_eq!(ground.ask(&last, kind.show_connections()).await, kind.connections()[1]);
    assert_eq!(ground.ask(&last, kind.kept()).await, "42");
    for capacity in [2, 4, 2, 4] {
        if kind == Kind::Postgres {
            ask(&last, "checkpoint").await;
        }
        sleep(Duration::from_millis(30)).await;
        provider.prepare(&resources(capacity)).await.unwrap();
        last = moved(&provider, &last, &resources(capacity)).await;
    }
    println!("{:?}", provider.limitations());
    provider.stop(&last, Duration::from_secs(10)).await.unwrap();
    assert_eq!(ground.running(), 0);
    // The task that reads the last notification socket sees the end a moment later.
    sleep(Duration::from_millis(200)).await;
    assert_eq!(fs::read_dir(ground.folder.path().join("run")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_listens_nowhere_and_believes_its_socket() {
    let ground = Ground::new(Kind::Postgres);
    let provider = ground.provider();
    provider.recover().await.unwrap();
    let first = provider.launch(&resources(2)).await.unwrap();
    assert_eq!(ask(&first, "show shared_buffers").await, "128MB");
    assert_eq!(ask(&first, "show listen_addresses").await, "");
    assert!(
        ask(&first, "select rolpassword from pg_authid where rolname = 'admin'").await.starts_with("SCRAM-")
    );
    assert_eq!(ask(&first, "select count(*) from pg_hba_file_rules").await, "2");
    provider.stop(&first, Duration::from_secs(10)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_hold_while_it_runs_and_the_cgroup_goes_with_it() {
    let ground = Ground::new(Kind::Postgres);
    let provider = ground.provider();
    if !provider.limitations().is_empty() {
        // Not enforced is said, and the capacity served all the same.
        let said = provider.limitations();
        assert!(said.iter().all(|limitation| limitation.contains("is not enforced")), "{said:?}");
        provider.recover().await.unwrap();
        let instance = provider.launch(&resources(2)).await.unwrap();
        return provider.stop(&instance, Duration::from_secs(10)).await.unwrap();
    }
    provider.recover().await.unwrap();
    let tenth = Resources { capacity: 2, memory_bytes: 512 * MIB, cpu_cores: 0.1 };
    let instance = provider.launch(&tenth).await.unwrap();
    let own = fs::read_to_string(format!("/proc/{}/cgroup", instance.pid)).unwrap();
    let name = format!("scalepoint-{}", private_dir::fingerprint(&ground.folder.path().join("volume")));
    assert!(own.lines().any(|line| line.contains(&name)), "{own}");
    let client = connect(&instance).await;
    sleep(Duration::from_millis(300)).await;
    let find = |file: &str| {
        let roots = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
        let roots = roots.chain([PathBuf::from("/sys/fs/cgroup")]);
        roots.map(|root| root.join(&name).join(file)).find_map(|path| fs::read_to_string(path).ok())
    };
    if let Some(quota) = find("cpu.cfs_quota_us") {
        assert_eq!(quota.trim(), "10000");
        // On a busy machine a process may not get a tenth of a core for a while, and then nothing holds it back.
        for _ in 0..50 {
            client.simple_query("do $$ begin for i in 1..2000000 loop end loop; end $$").await.unwrap();
            if !find("cpu.stat").unwrap().contains("nr_throttled 0\n") {
                break;
            }
        }
        assert!(!find("cpu.stat").unwrap().contains("nr_throttled 0\n"));
        assert_eq!(own.lines().filter(|line| line.contains(&name)).count(), 2, "{own}");
        let limit: u64 = find("memory.limit_in_bytes").unwrap().trim().parse().unwrap();
        assert!((512 * MIB..2048 * MIB).contains(&limit), "{limit}");
    }
    provider.stop(&instance, Duration::from_secs(10)).await.unwrap();
    assert!(find("cgroup.procs").is_none());
}

/// It needs no limit, but the weight while it is replaced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_may_use_all_cores_is_in_the_cgroup_for_the_cpu() {
    let ground = Ground::new(Kind::Postgres);
    let provider = ground.provider();
    let enforced = provider.limitations().is_empty();
    provider.recover().await.unwrap();
    let all = Resources { capacity: 2, memory_bytes: 512 * MIB, cpu_cores: 4096.0 };
    let instance = provider.launch(&all).await.unwrap();
    let own = fs::read_to_string(format!("/proc/{}/cgroup", instance.pid)).unwrap();
    // In the second generation one cgroup is for all, and has no names.
    let of_cpu = |line: &&str| {
        let names = line.split(':').nth(1).unwrap_or_default();
        names.is_empty() || names.split(',').any(|name| name == "cpu")
    };
    let inside = own.lines().filter(of_cpu).any(|line| line.contains("scalepoint-"));
    assert_eq!(inside, enforced, "{own}");
    provider.stop(&instance, Duration::from_secs(10)).await.unwrap();
}

async fn a_killed_server_loses_nothing(ground: Ground) {
    let (provider, kind) = (ground.provider(), ground.kind);
    provider.recover().await.unwrap();
    let first = provider.launch(&resources(2)).await.unwrap();
    ground.ask(&first, kind.keep()).await;
    kill(Pid::from_raw(first.pid.cast_signed()), Signal::SIGKILL).unwrap();
    let mut exited = first.exited.clone();
    let how =
        timeout(Duration::from_secs(5), exited.wait_for(Option::is_some)).await.unwrap().unwrap().clone();
    assert!(how.unwrap().starts_with("signal: 9"));
    let second = provider.launch(&resources(4)).await.unwrap();
    assert_eq!(ground.ask(&second, kind.kept()).await, "42");
    // Killed, and its lock still names it, when the next router comes.
    kill(Pid::from_raw(second.pid.cast_signed()), Signal::SIGKILL).unwrap();
    drop(provider);
    let next = ground.provider();
    next.recover().await.unwrap();
    let third = next.launch(&resources(2)).await.unwrap();
    assert_eq!(ground.ask(&third, kind.kept()).await, "42");
    next.stop(&third, Duration::from_secs(10)).await.unwrap();
    assert_eq!(ground.running(), 0);
}

async fn a_wrong_parameter_is_named(ground: Ground) {
    ground.provider().recover().await.unwrap();
    let mut config = ground.config();
    config.parameters.insert("no_such_thing".to_owned(), "7".to_owned());
    let provider = ground.with(config);
    let error = provider.launch(&resources(2)).await.unwrap_err().to_string();
    assert!(error.lines().next().unwrap().contains("no_such_thing"), "{error}");
    assert_eq!(ground.running(), 0);
    drop(provider);
    let provider = ground.provider();
    let instance = provider.launch(&resources(2)).await.unwrap();
    provider.stop(&instance, Duration::from_secs(10)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_and_its_busy_children_are_cleared_before_the_next_start() {
    let ground = Ground::with_volume(Kind::Postgres);
    let provider = ground.provider();
    provider.recover().await.unwrap();
    let first = provider.launch(&resources(2)).await.unwrap();
    ask(&first, "create table kept as select 42 as n").await;
    let busy = connect(&first).await;
    tokio::spawn(async move { busy.simple_query("do $$ begin loop end loop; end $$").await });
    sleep(Duration::from_millis(100)).await;

    kill(Pid::from_raw(first.pid.cast_signed()), Signal::SIGKILL).unwrap();
    let mut exited = first.exited.clone();
    let how =
        timeout(Duration::from_secs(5), exited.wait_for(Option::is_some)).await.unwrap().unwrap().clone();
    assert!(how.unwrap().starts_with("signal: 9"));
    assert!(ground.running() > 0, "the busy child does not notice");

    let second = provider.launch(&resources(2)).await.unwrap();
    assert_eq!(ask(&second, "select n from kept").await, "42");
    kill(Pid::from_raw(second.pid.cast_signed()), Signal::SIGKILL).unwrap();
    provider.stop(&second, Duration::from_secs(5)).await.unwrap();
    assert_eq!(ground.running(), 0);
}

async fn what_a_crashed_router_left_is_stopped(ground: Ground) {
    let crashed = ground.provider();
    crashed.recover().await.unwrap();
    let orphan = crashed.launch(&resources(2)).await.unwrap();
    ground.ask(&orphan, ground.kind.keep()).await;
    assert!(ground.provider().recover().await.unwrap_err().to_string().contains("another router"));
    drop(crashed);
    assert!(ground.running() > 0);

    let next = ground.provider();
    next.recover().await.unwrap();
    assert_eq!(ground.running(), 0);
    assert_eq!(orphan.exited.borrow().as_deref(), Some("exit status: 0"));
    let instance = next.launch(&resources(2)).await.unwrap();
    assert_eq!(ground.ask(&instance, ground.kind.kept()).await, "42");
    next.stop(&instance, Duration::from_secs(10)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_capacity_that_does_not_start_leaves_the_old_one_serving() {
    // Not the MySQLs: they would really try to have so much memory.
    for kind in [Kind::Postgres, Kind::MariaDb] {
        a_capacity_that_does_not_start(Ground::with_volume(kind)).await;
    }
}

async fn a_capacity_that_does_not_start(ground: Ground) {
    let provider = ground.provider();
    provider.recover().await.unwrap();
    let old = provider.launch(&resources(2)).await.unwrap();
    let absurd = Resources { capacity: 384, memory_bytes: 1 << 46, cpu_cores: 1.0 };
    let (outcome, times) = provider.hand_over(&old, &absurd).await.unwrap();
    println!("kept after {times:?}");
    let HandOver::Kept(kept, ComputeError::NotStarted(why)) = outcome else { panic!("{outcome:?}") };
    println!("{why}");
    let grave = ["FATAL", "[ERROR]"];
    assert!(grave.iter().any(|mark| why.lines().next().unwrap().contains(mark)), "{why}");
    assert_eq!(kept.resources, old.resources);
    assert_ne!(kept.pid, old.pid);
    assert_eq!(ground.ask(&kept, ground.kind.show_connections()).await, ground.kind.connections()[0]);
    provider.stop(&kept, Duration::from_secs(10)).await.unwrap();
}

async fn a_start_that_takes_too_long_or_is_dropped_leaves_nothing_behind(ground: Ground) {
    ground.provider().recover().await.unwrap();
    let hasty = ground.with(ProcessConfig { start_deadline: Duration::ZERO, ..ground.config() });
    let mut tries = 0;
    let error = loop {
        match hasty.launch(&resources(2)).await {
            Err(error) => break error,
            // On a machine that stands still for a moment it is ready before anybody looks.
            Ok(instance) => hasty.stop(&instance, Duration::from_secs(10)).await.unwrap(),
        }
        tries += 1;
        assert!(tries < 5, "it is always in time");
    };
    assert!(error.to_string().contains("not ready"), "{error}");
    assert_eq!(ground.running(), 0);
    drop(hasty);

    let provider = ground.provider();
    let mut tries = 0;
    while let Ok(started) = timeout(Duration::from_millis(8), provider.launch(&resources(2))).await {
        // As above.
        provider.stop(&started.unwrap(), Duration::from_secs(10)).await.unwrap();
        tries += 1;
        assert!(tries < 5, "it is always in time");
    }
    let instance = provider.launch(&resources(2)).await.unwrap();
    provider.stop(&instance, Duration::from_secs(10)).await.unwrap();
}

async fn volumes_that_cannot_serve_are_refused(ground: Ground) {
    let volume = ground.folder.path().join("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("notes.txt"), "mine").unwrap();
    assert!(ground.provider().recover().await.unwrap_err().to_string().contains("not empty"));
    let (foreign, said) = match ground.kind {
        Kind::Postgres => ("PG_VERSION", "postgresql-9"),
        Kind::MariaDb => ("mysql.ibd", "made by MySQL, but the server here is MariaDB"),
        Kind::MySql9 | Kind::MySql56 => ("aria_log_control", "made by MariaDB, but the server here is MySQL"),
    };
    fs::write(volume.join(foreign), "9\n").unwrap();
    let error = ground.provider().recover().await.unwrap_err().to_string();
    assert!(error.contains(said), "{error}");
}

#[tokio::test]
async fn a_folder_that_the_server_cannot_pass_is_named_and_can_be_opened() {
    if !nix::unistd::Uid::effective().is_root() {
        return;
    }
    let ground = Ground::new(Kind::Postgres);
    fs::set_permissions(ground.folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let error = ground.provider().recover().await.unwrap_err().to_string();
    assert!(error.contains(&format!("may not pass {}", ground.folder.path().display())), "{error}");
    admit_server_user(ground.folder.path(), ServerKind::Postgres).unwrap();
    ground.provider().recover().await.unwrap();
}

async fn what_was_prepared_goes_when_it_is_not_wanted(ground: Ground) {
    let provider = ground.provider();
    provider.recover().await.unwrap();
    let instance = provider.launch(&resources(2)).await.unwrap();
    let sockets = || {
        let entries = fs::read_dir(ground.folder.path().join("run")).unwrap().flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("notify.")).count()
    };
    let running = sockets();
    provider.prepare(&resources(4)).await.unwrap();
    assert_eq!(sockets(), running + 1, "the next server's process waits");
    provider.dismiss();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while sockets() > running {
        assert!(tokio::time::Instant::now() < deadline, "it still waits");
        sleep(Duration::from_millis(20)).await;
    }
    // Prepared for one capacity, moved to another: what was prepared is not used.
    provider.prepare(&resources(4)).await.unwrap();
    let before = ground.ask(&instance, ground.kind.show_connections()).await;
    let last = moved(&provider, &instance, &resources(2)).await;
    assert_eq!(ground.ask(&last, ground.kind.show_connections()).await, before);
    provider.stop(&last, Duration::from_secs(10)).await.unwrap();
}

const MYSQLS: [Kind; 3] = [Kind::MariaDb, Kind::MySql9, Kind::MySql56];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysqls_have_two_accounts_and_no_other_way_in() {
    for kind in MYSQLS {
        let ground = Ground::new(kind);
        let provider = ground.provider();
        provider.recover().await.unwrap();
        let instance = provider.launch(&resources(2)).await.unwrap();
        let users = "select concat(user, '@', host) from mysql.user where user not like 'm%.%' order by 1";
        let router = super::mysql::ROUTER_ACCOUNT;
        assert_eq!(ground.ask(&instance, users).await, format!("admin@%\n{router}@localhost"), "{kind:?}");
        let admin = ["admin", "not-a'secret\\"];
        mysql(kind, &instance, admin, "create user x@y; grant all on *.* to x@y").await.unwrap();
        for wrong in [["admin", ""], ["admin", "not-a'secret"], ["root", ""], ["", ""], ["mysql", ""]] {
            let refused = mysql(kind, &instance, wrong, "select 1").await.unwrap_err();
            assert!(refused.contains("Access denied"), "{kind:?} {wrong:?}: {refused}");
        }
        assert_eq!(ground.ask(&instance, "select @@skip_networking").await, "1");
        let proxy = "select concat(user, with_grant) from mysql.proxies_priv";
        assert_eq!(ground.ask(&instance, proxy).await, format!("{router}1"));
        let sockets = fs::read_to_string(format!("/proc/{}/net/unix", instance.pid)).unwrap();
        assert!(!sockets.contains("mysqlx"));
        provider.stop(&instance, Duration::from_secs(10)).await.unwrap();
        drop(provider);

        // The router has lost its secret: it gives itself a new one, and touches no other account.
        let config = ProcessConfig { router_password: "another".to_owned(), ..ground.config() };
        let provider = ground.with(config);
        provider.recover().await.unwrap();
        let instance = provider.launch(&resources(2)).await.unwrap();
        let router = [router, "another"];
        assert_eq!(mysql(kind, &instance, router, "select 7").await.as_deref(), Ok("7"));
        assert_eq!(mysql(kind, &instance, admin, "select 7").await.as_deref(), Ok("7"));
        provider.stop(&instance, Duration::from_secs(10)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysqls_show_the_router_what_it_asks_about_sessions() {
    for kind in [Kind::MariaDb, Kind::MySql9] {
        let ground = Ground::with_volume(kind);
        let provider = ground.provider();
        provider.recover().await.unwrap();
        let instance = provider.launch(&resources(2)).await.unwrap();
        let queries: &[(&str, &str)] = if kind == Kind::MariaDb {
            &[(
                "create database d; create table d.t (n int); lock tables d.t write; \
                 select count(*) from information_schema.metadata_lock_info where table_name = 't'",
                "1",
            )]
        } else {
            &[
                (
                    "select get_lock('mine', 0); select object_name from performance_schema.metadata_locks \
                     where object_type = 'USER LEVEL LOCK'",
                    "1\nmine",
                ),
                (
                    "set @seen = 7; select variable_value from performance_schema.user_variables_by_thread \
                     where variable_name = 'seen'",
                    "7",
                ),
                (
                    "prepare p from 'select 1'; \
                     select statement_name from performance_schema.prepared_statements_instances",
                    "p",
                ),
                (
                    "set sort_buffer_size = 65536; select variable_value from performance_schema.session_variables \
                     where variable_name = 'sort_buffer_size'",
                    "65536",
                ),
            ]
        };
        for (query, answer) in queries {
            assert_eq!(ground.ask(&instance, query).await, *answer, "{query}");
        }
        provider.stop(&instance, Duration::from_secs(10)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysqls_write_nothing_beside_their_cluster() {
    for kind in MYSQLS {
        let ground = Ground::with_volume(kind);
        let provider = ground.provider();
        provider.recover().await.unwrap();
        let instance = provider.launch(&resources(2)).await.unwrap();
        let home = ground.folder.path().display().to_string();
        let files = fs::read_dir(format!("/proc/{}/fd", instance.pid)).unwrap().flatten();
        for open in files.filter_map(|file| fs::read_link(file.path()).ok()) {
            let open = open.display().to_string();
            let is_a_place =
                open.starts_with('/') && !open.starts_with("/dev/") && !open.starts_with("/proc/");
            assert!(!is_a_place || open.starts_with(&home), "{kind:?}: {open}");
        }
        let router = [super::mysql::ROUTER_ACCOUNT, "router's own"];
        let outside = "select 1 into outfile '/tmp/scalepoint-outside'";
        let refused = mysql(kind, &instance, router, outside).await.unwrap_err();
        assert!(refused.contains("secure"), "{refused}");
        provider.stop(&instance, Duration::from_secs(10)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_takes_the_clients_address_from_the_router() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let ground = Ground::with_volume(Kind::MariaDb);
    let provider = ground.provider();
    provider.recover().await.unwrap();
    let instance = provider.launch(&resources(2)).await.unwrap();
    let mut client = tokio::net::UnixStream::connect(&instance.socket).await.unwrap();
    client.write_all(b"PROXY TCP4 10.9.8.7 127.0.0.1 56324 3306\r\n").await.unwrap();
    let mut greeting = [0; 5];
    timeout(Duration::from_secs(5), client.read_exact(&mut greeting)).await.unwrap().unwrap();
    assert_eq!(greeting[4], 10, "the handshake of protocol 10");
    let hosts = "select host from information_schema.processlist where user = 'unauthenticated user'";
    assert_eq!(ground.ask(&instance, hosts).await, "10.9.8.7:56324");
    drop(client);
    provider.stop(&instance, Duration::from_secs(10)).await.unwrap();
}

#[tokio::test]
async fn a_server_is_found_in_its_folder_and_in_its_prefix() {
    let folder = Kind::MySql9.programs().unwrap();
    let prefix = folder.parent().unwrap().parent().unwrap();
    for place in [folder.as_path(), prefix, folder.parent().unwrap()] {
        let found = super::mysql::programs::find(Some(place), None).unwrap();
        assert_eq!(found.server, folder.join("mysqld"));
        assert_eq!(found.base, folder.parent().unwrap());
        assert!(found.share.unwrap().join("english/errmsg.sys").exists());
    }
    let folder = Kind::MySql56.programs().unwrap();
    let found = super::mysql::programs::find(Some(&folder), None).unwrap();
    assert_eq!(found.base, folder);
    assert_eq!(found.environment()[0].0, "LD_LIBRARY_PATH", "it brings a library");
}

#[test]
fn servers_of_two_kinds_may_pass_one_folder() {
    if !nix::unistd::Uid::effective().is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mode = || fs::metadata(folder.path()).unwrap().permissions().mode() & 0o777;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    admit_server_user(folder.path(), ServerKind::Postgres).unwrap();
    admit_server_user(folder.path(), ServerKind::Postgres).unwrap();
    assert_eq!(mode(), 0o710);
    admit_server_user(folder.path(), ServerKind::MySql).unwrap();
    assert_eq!(mode(), 0o711);
}
