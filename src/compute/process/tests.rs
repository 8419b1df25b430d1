//! With the real server of this machine.

use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{sleep, timeout};

use super::*;

const MIB: u64 = 1 << 20;

struct Ground {
    folder: tempfile::TempDir,
}

impl Ground {
    /// A folder that the server's user can reach.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self { folder }
    }

    fn config(&self) -> ProcessConfig {
        ProcessConfig {
            cluster: "orders".to_owned(),
            volume: self.folder.path().join("volume"),
            run_dir: self.folder.path().join("run"),
            server_programs: None,
            master_username: "admin".to_owned(),
            master_password: "not-a-secret".to_owned(),
            database_name: None,
            parameters: BTreeMap::from([("log_min_messages".to_owned(), "warning".to_owned())]),
            start_deadline: START_DEADLINE,
            stop_deadline: STOP_DEADLINE,
        }
    }

    fn provider(&self) -> ProcessProvider {
        ProcessProvider::new(self.config()).unwrap()
    }

    fn running(&self) -> usize {
        let home = self.folder.path().join("volume");
        let processes = fs::read_dir("/proc").unwrap().flatten();
        processes.filter(|p| fs::read_link(p.path().join("cwd")).is_ok_and(|cwd| cwd == home)).count()
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

async fn moved(provider: &ProcessProvider, old: &Instance, to: &Resources) -> Instance {
    let (outcome, times) = provider.hand_over(old, to).await.unwrap();
    println!("hand-over {} -> {}: {times:?}", old.resources.capacity, to.capacity);
    match outcome {
        HandOver::Moved(instance) => instance,
        HandOver::Kept(_, error) => panic!("kept: {error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_made_moved_and_stopped() {
    let ground = Ground::new();
    let provider = ground.provider();
    provider.recover().await.unwrap();
    provider.recover().await.unwrap();
    let first = provider.launch(&resources(2)).await.unwrap();
    assert!(first.version.starts_with(char::is_numeric), "{}", first.version);
    assert!(provider.launch(&resources(2)).await.is_err(), "two writers");
    ask(&first, "create table kept as select 42 as n").await;
    assert_eq!(ask(&first, "show max_connections").await, "250");
    assert_eq!(ask(&first, "show shared_buffers").await, "128MB");
    assert_eq!(ask(&first, "show listen_addresses").await, "");
    assert!(
        ask(&first, "select rolpassword from pg_authid where rolname = 'admin'").await.starts_with("SCRAM-")
    );
    assert_eq!(ask(&first, "select count(*) from pg_hba_file_rules").await, "2");

    provider.prepare(&resources(4)).await.unwrap();
    let mut last = moved(&provider, &first, &resources(4)).await;
    assert!(first.exited.borrow().as_deref() == Some("exit status: 0"));
    assert_eq!(ask(&last, "show max_connections").await, "500");
    assert_eq!(ask(&last, "select n from kept").await, "42");
    for capacity in [2, 4, 2, 4] {
        ask(&last, "checkpoint").await;
        sleep(Duration::from_millis(30)).await;
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
async fn limits_hold_while_it_runs_and_the_cgroup_goes_with_it() {
    let ground = Ground::new();
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
    let quarter = Resources { capacity: 2, memory_bytes: 512 * MIB, cpu_cores: 0.25 };
    let instance = provider.launch(&quarter).await.unwrap();
    let own = fs::read_to_string(format!("/proc/{}/cgroup", instance.pid)).unwrap();
    let name = format!("scalepoint-{}", private_dir::fingerprint(&ground.folder.path().join("volume")));
    assert!(own.lines().any(|line| line.contains(&name)), "{own}");
    let client = connect(&instance).await;
    sleep(Duration::from_millis(300)).await;
    let began = Instant::now();
    client.simple_query("do $$ begin for i in 1..20000000 loop end loop; end $$").await.unwrap();
    println!("a busy loop at a quarter of a core: {:?}", began.elapsed());
    let find = |file: &str| {
        let roots = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
        let roots = roots.chain([PathBuf::from("/sys/fs/cgroup")]);
        roots.map(|root| root.join(&name).join(file)).find_map(|path| fs::read_to_string(path).ok())
    };
    if let Some(quota) = find("cpu.cfs_quota_us") {
        assert_eq!(quota.trim(), "25000");
        assert!(!find("cpu.stat").unwrap().contains("nr_throttled 0\n"));
        assert_eq!(own.lines().filter(|line| line.contains(&name)).count(), 2, "{own}");
        let limit: u64 = find("memory.limit_in_bytes").unwrap().trim().parse().unwrap();
        assert!((512 * MIB..2048 * MIB).contains(&limit), "{limit}");
    }
    provider.stop(&instance, Duration::from_secs(10)).await.unwrap();
    assert!(find("cgroup.procs").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_and_its_busy_children_are_cleared_before_the_next_start() {
    let ground = Ground::new();
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_crashed_router_left_is_stopped() {
    let ground = Ground::new();
    let crashed = ground.provider();
    crashed.recover().await.unwrap();
    let orphan = crashed.launch(&resources(2)).await.unwrap();
    ask(&orphan, "create table kept as select 42 as n").await;
    assert!(ground.provider().recover().await.unwrap_err().to_string().contains("another router"));
    drop(crashed);
    assert!(ground.running() > 0);

    let next = ground.provider();
    next.recover().await.unwrap();
    assert_eq!(ground.running(), 0);
    assert_eq!(orphan.exited.borrow().as_deref(), Some("exit status: 0"));
    let instance = next.launch(&resources(2)).await.unwrap();
    assert_eq!(ask(&instance, "select n from kept").await, "42");
    next.stop(&instance, Duration::from_secs(10)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_capacity_that_does_not_start_leaves_the_old_one_serving() {
    let ground = Ground::new();
    let provider = ground.provider();
    provider.recover().await.unwrap();
    let old = provider.launch(&resources(2)).await.unwrap();
    let absurd = Resources { capacity: 384, memory_bytes: 1 << 46, cpu_cores: 1.0 };
    let (outcome, times) = provider.hand_over(&old, &absurd).await.unwrap();
    println!("kept after {times:?}");
    let HandOver::Kept(kept, ComputeError::NotStarted(why)) = outcome else { panic!("{outcome:?}") };
    println!("{why}");
    assert!(why.lines().next().unwrap().contains("FATAL"), "{why}");
    assert_eq!(kept.resources, old.resources);
    assert_ne!(kept.pid, old.pid);
    assert_eq!(ask(&kept, "show max_connections").await, "250");
    provider.stop(&kept, Duration::from_secs(10)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_takes_too_long_or_is_dropped_leaves_nothing_behind() {
    let ground = Ground::new();
    ground.provider().recover().await.unwrap();
    let hasty =
        ProcessProvider::new(ProcessConfig { start_deadline: Duration::from_millis(2), ..ground.config() });
    let hasty = hasty.unwrap();
    let error = hasty.launch(&resources(2)).await.unwrap_err();
    assert!(error.to_string().contains("not ready"), "{error}");
    assert_eq!(ground.running(), 0);
    drop(hasty);

    let provider = ground.provider();
    let dropped = timeout(Duration::from_millis(8), provider.launch(&resources(2))).await;
    assert!(dropped.is_err());
    let instance = provider.launch(&resources(2)).await.unwrap();
    provider.stop(&instance, Duration::from_secs(10)).await.unwrap();
}

#[tokio::test]
async fn volumes_that_cannot_serve_are_refused_with_advice() {
    let ground = Ground::new();
    let volume = ground.folder.path().join("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("notes.txt"), "mine").unwrap();
    assert!(ground.provider().recover().await.unwrap_err().to_string().contains("not empty"));
    fs::write(volume.join("PG_VERSION"), "9\n").unwrap();
    let error = ground.provider().recover().await.unwrap_err().to_string();
    assert!(error.contains("postgresql-9"), "{error}");
}

#[tokio::test]
async fn a_folder_that_the_server_cannot_pass_is_named_and_can_be_opened() {
    if !nix::unistd::Uid::effective().is_root() {
        return;
    }
    let ground = Ground::new();
    fs::set_permissions(ground.folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let error = ground.provider().recover().await.unwrap_err().to_string();
    assert!(error.contains(&format!("may not pass {}", ground.folder.path().display())), "{error}");
    admit_server_user(ground.folder.path()).unwrap();
    ground.provider().recover().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_prepared_goes_when_it_is_not_wanted() {
    let ground = Ground::new();
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
    let before = ask(&instance, "show shared_buffers").await;
    let last = moved(&provider, &instance, &resources(2)).await;
    assert_eq!(ask(&last, "show shared_buffers").await, before);
    provider.stop(&last, Duration::from_secs(10)).await.unwrap();
}
