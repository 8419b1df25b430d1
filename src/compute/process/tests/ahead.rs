//! The next server, started ahead and held up: real servers, and whoever may be killed is.

use std::sync::atomic::Ordering;

use super::*;

impl Ground {
    /// What works on the volume but these.
    fn others(&self, known: &[u32]) -> Vec<u32> {
        let home = self.folder.path().join("volume");
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let here = processes.filter(|p| fs::read_link(p.path().join("cwd")).is_ok_and(|cwd| cwd == home));
        let pids = here.filter_map(|p| p.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| !known.contains(pid) && parent(*pid) == Some(std::process::id())).collect()
    }

    /// Sends a server ahead and finds it.
    async fn ahead(&self, provider: &ProcessProvider, old: &Instance, to: &Resources) -> u32 {
        provider.prepare(to).await.unwrap();
        provider.advance(to).await;
        assert!(!provider.unfit.load(Ordering::Relaxed), "{:?}", provider.limitations());
        let next = self.others(&[old.pid]);
        assert_eq!(next.len(), 1, "one waits");
        let program = fs::read_link(format!("/proc/{}/exe", next[0])).unwrap();
        let name = program.file_name().unwrap().to_str().unwrap();
        assert!(provider.flavour.is_server(name), "{name} is the server itself");
        assert_eq!(provider.flavour.main_pid(&self.folder.path().join("volume")), Some(old.pid));
        next[0]
    }

    /// Sends another one ahead until its death is known.
    async fn ahead_again(&self, provider: &ProcessProvider, old: &Instance, killed: u32) -> u32 {
        let to = resources(4);
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        loop {
            provider.advance(&to).await;
            if let [next] = self.others(&[old.pid, killed])[..] {
                return next;
            }
            assert!(tokio::time::Instant::now() < deadline, "no other one waits");
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn until_alone(&self, known: &[u32]) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while !self.others(known).is_empty() {
            assert!(tokio::time::Instant::now() < deadline, "something is left: {:?}", self.others(known));
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn grow(&self) -> &'static str {
        if self.kind == Kind::Postgres {
            "insert into kept values (1)"
        } else {
            "insert into app.kept values (1)"
        }
    }

    fn count(&self) -> &'static str {
        if self.kind == Kind::Postgres {
            "select count(*) from kept"
        } else {
            "select count(*) from app.kept"
        }
    }
}

fn parent(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

for_every_kind!(with_volume: a_server_sent_ahead_waits_for_the_end_of_the_old_one;);

async fn a_server_sent_ahead_waits_for_the_end_of_the_old_one(ground: Ground) {
    let provider = ground.provider();
    provider.recover().await.unwrap();
    one_waits_for_the_end_of_the_other(ground, provider).await;
}

/// What is left where the kernel lets nobody be held up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_held_up_by_its_settings_waits_as_well() {
    let ground = Ground::with_volume(Kind::Postgres);
    let provider = ground.provider();
    provider.recover().await.unwrap();
    provider.by_settings.store(true, Ordering::Relaxed);
    let run_dir = provider.site.run_dir.clone();
    one_waits_for_the_end_of_the_other(ground, provider).await;
    assert_eq!(super::super::fifo::Fifo::leftovers(&run_dir), Vec::<PathBuf>::new());
}

async fn one_waits_for_the_end_of_the_other(ground: Ground, provider: ProcessProvider) {
    let kind = ground.kind;
    let first = provider.launch(&resources(2)).await.unwrap();
    ground.ask(&first, kind.keep()).await;

    // The old one writes while the next one waits, and the next one, killed, is replaced.
    let killed = ground.ahead(&provider, &first, &resources(4)).await;
    ground.ask(&first, ground.grow()).await;
    kill(Pid::from_raw(killed.cast_signed()), Signal::SIGKILL).unwrap();
    let next = ground.ahead_again(&provider, &first, killed).await;
    ground.ask(&first, ground.grow()).await;
    let second = moved(&provider, &first, &resources(4)).await;
    assert_eq!(second.pid, next, "the one that waited serves");
    assert_eq!(ground.ask(&second, kind.show_connections()).await, kind.connections()[1]);
    assert_eq!(ground.ask(&second, ground.count()).await, "3");

    // Given up: it goes, and the old one has noticed nothing.
    ground.ahead(&provider, &second, &resources(2)).await;
    provider.dismiss();
    ground.until_alone(&[second.pid]).await;
    ground.ask(&second, ground.grow()).await;

    // The old one is killed, before the hand-over and as it begins: whoever waited does not work beside its children.
    ground.ahead(&provider, &second, &resources(2)).await;
    kill(Pid::from_raw(second.pid.cast_signed()), Signal::SIGKILL).unwrap();
    let third = moved(&provider, &second, &resources(2)).await;
    ground.until_alone(&[third.pid]).await;
    assert_eq!(ground.ask(&third, ground.count()).await, "4");
    ground.ahead(&provider, &third, &resources(4)).await;
    kill(Pid::from_raw(third.pid.cast_signed()), Signal::SIGKILL).unwrap();
    let mut exited = third.exited.clone();
    exited.wait_for(Option::is_some).await.unwrap();
    let last = provider.launch(&resources(4)).await.unwrap();
    ground.until_alone(&[last.pid]).await;
    assert_eq!(ground.ask(&last, ground.count()).await, "4");
    provider.stop(&last, Duration::from_secs(10)).await.unwrap();
    assert_eq!(ground.running(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_next_server_has_read_too_early_it_reads_again() {
    let ground = Ground::with_volume(Kind::Postgres);
    let provider = ground.provider();
    provider.recover().await.unwrap();
    let first = provider.launch(&resources(2)).await.unwrap();
    let early = ground.ahead(&provider, &first, &resources(4)).await;
    ask(&first, "alter system set work_mem = '5MB'").await;
    let second = moved(&provider, &first, &resources(4)).await;
    assert_ne!(second.pid, early);
    assert_eq!(ask(&second, "show work_mem").await, "5MB");
    provider.stop(&second, Duration::from_secs(10)).await.unwrap();
    assert_eq!(ground.running(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_through_a_fifo_are_the_settings_of_the_last_moment() {
    let ground = Ground::with_volume(Kind::Postgres);
    let provider = ground.provider();
    provider.recover().await.unwrap();
    provider.by_settings.store(true, Ordering::Relaxed);
    let first = provider.launch(&resources(2)).await.unwrap();
    let next = ground.ahead(&provider, &first, &resources(4)).await;
    ask(&first, "alter system set work_mem = '5MB'").await;
    let file = ground.folder.path().join("volume/postgresql.conf");
    let own = fs::read_to_string(&file).unwrap();
    // More than fits into a pipe at once.
    let much = "# much of nothing\n".repeat(10_000);
    fs::write(&file, format!("{own}\n{much}maintenance_work_mem = '33MB'")).unwrap();
    let second = moved(&provider, &first, &resources(4)).await;
    assert_eq!(second.pid, next, "the one that waited serves");
    assert_eq!(ask(&second, "show work_mem").await, "5MB");
    assert_eq!(ask(&second, "show maintenance_work_mem").await, "33MB");
    assert_eq!(
        ask(&second, "show hba_file").await,
        provider.site.volume.join("pg_hba.conf").to_str().unwrap()
    );

    // It reads the file itself when it is told to reload.
    let settings = PathBuf::from(ask(&second, "show config_file").await);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while fs::read_link(&settings).ok().as_ref() != Some(&file) {
        assert!(tokio::time::Instant::now() < deadline, "{settings:?} leads to the settings");
        sleep(Duration::from_millis(5)).await;
    }
    fs::write(&file, format!("{own}\nmaintenance_work_mem = '44MB'\n")).unwrap();
    ask(&second, "select pg_reload_conf()").await;
    while ask(&second, "show maintenance_work_mem").await != "44MB" {
        assert!(tokio::time::Instant::now() < deadline, "it reloads");
        sleep(Duration::from_millis(5)).await;
    }
    provider.stop(&second, Duration::from_secs(10)).await.unwrap();
    assert_eq!(ground.running(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_are_included_are_not_read_ahead() {
    let ground = Ground::with_volume(Kind::Postgres);
    let provider = ground.provider();
    provider.recover().await.unwrap();
    assert!(provider.flavour.threshold(&provider.site).is_some());
    assert!(provider.flavour.held_by_settings(&provider.site).is_some());
    let file = ground.folder.path().join("volume/postgresql.conf");
    let own = fs::read_to_string(&file).unwrap();
    fs::write(&file, own + "  Include_dir 'more'\n").unwrap();
    assert!(provider.flavour.threshold(&provider.site).is_none());
    assert!(provider.flavour.held_by_settings(&provider.site).is_none());
}
