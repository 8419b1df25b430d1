//! Sessions by the thousand: what an idle one costs the router's memory, and how soon a parked one answers.
//!
//! The router and the clients are two processes, because the limit of open files is a process's. The database (PostgreSQL)
//! takes 250 connections, so nearly all of the sessions are parked.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a benchmark fails by panicking")]

mod client;
#[path = "../stage/mod.rs"]
mod stage;

use std::sync::Arc;
use std::time::{Duration, Instant};

use client::{Connect, Settings};
use stage::bare::Bare;
use stage::engine::Product;
use stage::figures::{Figure, Figures, Target};
use stage::options::Options;
use stage::proxy::Proxy;
use stage::{Stage, median, quantile};
use tokio::task::JoinSet;
use tokio::time::sleep;

const HELP: &str = "\
cargo bench --bench sessions -- [--quick] [OPTION VALUE]...
  --sessions N  up to so many (9000; with --quick 1500)
  --answers N   of a parked session, and as many new connections (200; with --quick 40)
  --json FILE   write the figures there";

/// Growth counts from here on.
const FIRST: usize = 1000;
/// So many clients connect at once.
const AT_ONCE: usize = 16;
/// A session that idles for so long is parked.
const PARK_AFTER: Duration = Duration::from_millis(100);
/// What a log in or a rebuild has taken goes back to the system a little later.
const SETTLE: Duration = Duration::from_secs(3);

fn main() {
    let options = Options::read(&["--quick", "--sessions", "--answers", "--json", "--help"]);
    if options.has("--help") {
        println!("{HELP}");
        return;
    }
    let quick = options.has("--quick");
    let sessions = options.value("--sessions").unwrap_or(if quick { 1500 } else { 9000 });
    let answers = options.value("--answers").unwrap_or(if quick { 40 } else { 200 });
    let mut figures = Figures::new(&options);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        answer(&mut figures, answers).await;
        for tls in [false, true] {
            memory(&mut figures, sessions, tls).await;
        }
    });
    figures.write();
}

/// The next answer of a parked session with settings of its own, and in turn with it a new connection with the same ones:
/// what a client does that has given its connection up.
async fn answer(figures: &mut Figures, count: usize) {
    let stage = Stage::set(Product::Postgres);
    let bare = Bare::make(&stage, "bare");
    let proxy = park(&stage);
    let (ours, direct) = (Connect::to(proxy.port), Connect::to(bare.port));
    let parked = ours.with(&Settings::SOME).await;
    let (mut rebuilt, mut made, mut through) = (Vec::new(), Vec::new(), Vec::new());
    let mut backend = parked.backend().await;
    for _ in 0..count {
        sleep(4 * PARK_AFTER).await;
        let begun = Instant::now();
        let next = parked.backend().await;
        rebuilt.push(ms(begun));
        assert_ne!(std::mem::replace(&mut backend, next), next, "it was parked");
        for (connect, times) in [(&direct, &mut made), (&ours, &mut through)] {
            let begun = Instant::now();
            connect.with(&Settings::SOME).await.backend().await;
            times.push(ms(begun));
        }
    }
    println!("\nnext answer of a parked session, ms       p50      p99");
    for (name, times) in
        [("parked", &rebuilt), ("new, direct (TCP)", &made), ("new, through Scalepoint", &through)]
    {
        println!("  {name:36} {:7.2} {:8.2}", median(times), quantile(times, 0.99));
    }
    for (key, other, times, target) in [
        ("direct", "a new connection to the server, made by the client", &made, Target::AtMost(0.7)),
        ("scalepoint", "a new connection through Scalepoint", &through, Target::None),
    ] {
        figures.add(Figure {
            key: format!("parked.postgres.answer.vs_{key}"),
            what: format!("postgres: next answer of a parked session, p50 / {other}, with the same settings"),
            ours: median(&rebuilt),
            theirs: median(times),
            unit: "ms",
            runs: count,
            target,
        });
    }
}

/// The growth of the router's resident memory.
async fn memory(figures: &mut Figures, sessions: usize, tls: bool) {
    let stage = Stage::set(Product::Postgres);
    let proxy = park(&stage);
    let connect = if tls { Connect::by_tls(proxy.port, &stage) } else { Connect::to(proxy.port) };
    let connect = Arc::new(connect);
    let mut clients = Vec::new();
    let mut measured = Vec::new();
    for target in [FIRST.min(sessions / 3), sessions] {
        let mut connecting = JoinSet::new();
        while clients.len() < target {
            while clients.len() + connecting.len() < target && connecting.len() < AT_ONCE {
                let connect = Arc::clone(&connect);
                connecting.spawn(async move { connect.with(&Settings::NONE).await });
            }
            clients.push(connecting.join_next().await.expect("one connects").expect("a client"));
        }
        sleep(PARK_AFTER + SETTLE).await;
        measured.push((target, resident_kib(proxy.pid())));
    }
    let (kind, key, aim) = if tls { ("TLS", "tls", 12.0) } else { ("no TLS", "plain", 3.0) };
    let ((few, before), (many, after)) = (measured[0], measured[1]);
    let each = (after - before) / (many - few) as f64;
    println!(
        "\nidle sessions, {kind}: {before} KiB with {few}, {after} KiB with {many}: {each:.2} KiB each (aim {aim})"
    );
    figures.add(Figure {
        key: format!("memory.postgres.idle.{key}"),
        what: format!("memory of the router per idle session, {kind}, growth from {few} to {many} / the aim"),
        ours: each,
        theirs: aim,
        unit: "KiB",
        runs: many - few,
        target: Target::AtMost(1.0),
    });
}

fn park(stage: &Stage) -> Proxy {
    let more = format!("park_after_ms = {}\nfull_wait_ms = 60000\n", PARK_AFTER.as_millis());
    Proxy::start_with(stage, "warn", &more)
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

fn resident_kib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process that runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
