//! What the way through Scalepoint costs, against the direct connection, PgBouncer in session mode, HAProxy in TCP mode
//! and a bare relay that does nothing but copy bytes.
//!
//! pgbench or sysbench runs its `SELECT` against one after the other, round by round, because only measurements of the
//! same minute can be compared. Scalepoint has a server of its own with the same settings and the same data; all the
//! others lead to one and the same server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a benchmark fails by panicking")]
#![expect(
    clippy::disallowed_methods,
    reason = "the bare relay has a runtime of its own; this thread may sleep"
)]

mod bare_relay;
mod driver;
mod peers;
mod pgbench;
mod report;
#[path = "../stage/mod.rs"]
mod stage;
mod sysbench;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use driver::{Driver, Protocol, Run};
use peers::{Certificate, Peer};
use stage::bare::Bare;
use stage::engine::Product;
use stage::figures::Figures;
use stage::options::Options;
use stage::proxy::Proxy;
use stage::{Stage, median};

const HELP: &str = "\
cargo bench --bench relay -- [--quick] [OPTION VALUE]...
  --server X    postgres | mariadb | mysql9 (postgres)
  --rounds N    (3; with --quick 1)
  --seconds N   of each measurement (2; with --quick 1)
  --scale N     of the table: 100,000 rows each with pgbench, 10,000 with sysbench (10)
  --only A,B    only these of direct, scalepoint, relay, pgbouncer, pgbouncer-tcp, haproxy (all that are installed)
  --protocol X  only simple, prepared, connect (each transaction on a connection of its own) or copy (200 MB out)
  --no-tls      without the measurements through TLS, which only PostgreSQL has
  --json FILE   write the figures there";

/// Between two looks at what a process has used.
const LOOK: Duration = Duration::from_millis(20);
/// So many clients are more than two cores serve well.
const CROWD: u32 = 200;

/// What the driver said, and the process in the middle used.
#[derive(Debug, Clone, Copy)]
struct Seen {
    per_second: f64,
    latency_ms: f64,
    /// Of the process in the middle, per million transactions.
    cpu_seconds: f64,
}

fn main() {
    let known = [
        "--quick",
        "--server",
        "--rounds",
        "--seconds",
        "--scale",
        "--only",
        "--protocol",
        "--no-tls",
        "--json",
        "--help",
    ];
    let options = Options::read(&known);
    if options.has("--help") {
        println!("{HELP}");
        return;
    }
    let quick = options.has("--quick");
    let rounds: u32 = options.value("--rounds").unwrap_or(if quick { 1 } else { 3 });
    let seconds: u32 = options.value("--seconds").unwrap_or(if quick { 1 } else { 2 });
    let scale: u32 = options.value("--scale").unwrap_or(10);
    let only: Option<String> = options.value("--only");

    let product = options.value("--server").unwrap_or(Product::Postgres);
    let driver = driver::of(product, scale);
    let stage = Stage::set(product);
    let mut bare = Bare::make(&stage, "bare");
    let proxy = Proxy::start(&stage, "warn");
    driver.fill(&stage, proxy.port);
    let certificate = (product == Product::Postgres).then(|| Certificate::make(&bare));
    let more = match &certificate {
        Some(certificate) => certificate.options(),
        None => proxy.own_options(),
    };
    bare.signal_stop();
    bare.await_end();
    bare.start(&more);
    driver.fill(&stage, bare.port);

    let peers = peers(&stage, &bare, &proxy, certificate.as_ref(), only.as_deref());
    let mut figures = Figures::new(&options);
    let wanted: Option<String> = options.value("--protocol");
    let mut runs = runs(product, quick, certificate.is_some() && !options.has("--no-tls"));
    runs.retain(|run| wanted.as_deref().is_none_or(|name| run.protocol.name() == name));
    for run in runs {
        let seen = measure(&stage, &*driver, &peers, run, (rounds, seconds));
        print(run, &seen);
        report::add(&mut figures, product, run, &seen);
    }
    figures.write();
}

fn peers(
    stage: &Stage,
    bare: &Bare<'_>,
    proxy: &Proxy,
    certificate: Option<&Certificate>,
    only: Option<&str>,
) -> Vec<Peer> {
    let has_tls = certificate.is_some();
    let mut peers = vec![Peer::direct(bare, has_tls), Peer::scalepoint(proxy), Peer::bare_relay(bare)];
    if let Some(certificate) = certificate {
        peers.extend(Peer::pgbouncer(stage, bare, certificate));
    }
    peers.extend(Peer::haproxy(stage, bare));
    if let Some(only) = only {
        peers.retain(|peer| peer.name == "direct" || only.split(',').any(|name| name == peer.name));
    }
    peers
}

fn runs(product: Product, quick: bool, with_tls: bool) -> Vec<Run> {
    let mut runs = Vec::new();
    for protocol in [Protocol::Simple, Protocol::Prepared] {
        for clients in [1, 16, 64, CROWD] {
            // They take long to connect.
            if clients < CROWD || !quick || (product == Product::Postgres && protocol == Protocol::Simple) {
                runs.push(Run { protocol, clients, tls: false });
            }
        }
    }
    if with_tls {
        runs.extend([Protocol::Simple, Protocol::Prepared].map(|protocol| Run {
            protocol,
            clients: 16,
            tls: true,
        }));
    }
    if product == Product::Postgres {
        for (protocol, clients) in [(Protocol::Connect, 16), (Protocol::Copy, 1)] {
            let run = |tls| Run { protocol, clients, tls };
            runs.extend([false, true].map(run).iter().filter(|run| with_tls || !run.tls));
        }
    }
    runs
}

/// What was seen of one peer, round by round.
struct Rounds {
    name: &'static str,
    seen: Vec<Seen>,
}

impl Rounds {
    fn median(&self, of: fn(&Seen) -> f64) -> f64 {
        median(&self.seen.iter().map(of).collect::<Vec<_>>())
    }
}

fn measure(
    stage: &Stage,
    driver: &dyn Driver,
    peers: &[Peer],
    run: Run,
    (rounds, seconds): (u32, u32),
) -> Vec<Rounds> {
    let has_target = |peer: &&Peer| ["direct", "scalepoint", "pgbouncer"].contains(&peer.name);
    let peers: Vec<&Peer> = peers
        .iter()
        .filter(|peer| (peer.has_tls || !run.tls) && (run.clients < CROWD || has_target(peer)))
        .collect();
    // Scalepoint looks at every session once when it has said its first words.
    let seconds = if run.clients < CROWD { seconds } else { seconds.max(5) };
    let mut all: Vec<Rounds> =
        peers.iter().map(|peer| Rounds { name: peer.name, seen: Vec::new() }).collect();
    for _ in 0..rounds {
        for (peer, rounds) in peers.iter().zip(&mut all) {
            if run.clients >= CROWD {
                std::thread::sleep(3 * peers::POOLED);
            }
            rounds.seen.push(see(stage, driver, peer, run, seconds));
        }
    }
    all
}

fn print(run: Run, all: &[Rounds]) {
    let tls = if run.tls { ", TLS" } else { "" };
    println!("\n{} protocol, {} client(s){tls}", run.protocol.name(), run.clients);
    println!(
        "  {:14} {:>9} {:>7} {:>10} {:>9} {:>12}",
        "", "tps", "ratio", "latency ms", "added ms", "CPU s / 1M"
    );
    let direct_tps = all[0].median(|s| s.per_second);
    let direct_ms = all[0].median(|s| s.latency_ms);
    for rounds in all {
        let (tps, ms) = (rounds.median(|s| s.per_second), rounds.median(|s| s.latency_ms));
        println!(
            "  {:14} {tps:9.*} {:7.2} {ms:10.3} {:9.3} {:12.1}",
            rounds.name,
            if tps < 10.0 { 2 } else { 0 },
            tps / direct_tps,
            ms - direct_ms,
            rounds.median(|s| s.cpu_seconds),
        );
    }
}

fn see(stage: &Stage, driver: &dyn Driver, peer: &Peer, run: Run, seconds: u32) -> Seen {
    let looks = Mutex::new(vec![(Instant::now(), peer.cpu_seconds())]);
    let ended = AtomicBool::new(false);
    let said = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                std::thread::sleep(LOOK);
                looks.lock().expect("a lock").push((Instant::now(), peer.cpu_seconds()));
            }
        });
        let said = driver.measure(stage, peer.port, run, seconds);
        ended.store(true, Ordering::Relaxed);
        said
    });
    let (end, after) = (Instant::now(), peer.cpu_seconds());
    let looks = looks.into_inner().expect("a lock");
    // What the clients ask is counted from when all are connected.
    let asked = end.checked_sub(Duration::from_secs(seconds.into())).filter(|_| run.protocol.asks());
    let begun = asked.and_then(|asked| looks.iter().rev().find(|(at, _)| *at <= asked));
    let (_, before) = begun.unwrap_or(&looks[0]);
    Seen {
        per_second: said.per_second,
        latency_ms: said.latency_ms,
        cpu_seconds: (after - before) / said.transactions * 1e6,
    }
}
