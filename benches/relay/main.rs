//! What the way through Scalepoint costs, against the direct connection, PgBouncer in session mode, HAProxy in TCP mode
//! and a bare relay that does nothing but copy bytes.
//!
//! pgbench runs its `SELECT` against one after the other, round by round, because only measurements of the same minute
//! can be compared. Scalepoint has a PostgreSQL of its own with the same settings and the same data; all the others
//! lead to one and the same server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a benchmark fails by panicking")]

mod bare_relay;
mod peers;
#[path = "../stage/mod.rs"]
mod stage;

use std::ffi::OsString;

use peers::{Peer, certificate};
use stage::bare::Bare;
use stage::options::Options;
use stage::proxy::Proxy;
use stage::{Stage, median};

const HELP: &str = "\
cargo bench --bench relay -- [--quick] [OPTION VALUE]...
  --rounds N    (3; with --quick 1)
  --seconds N   of each measurement (2; with --quick 1)
  --scale N     pgbench's scale (10)
  --only A,B    only these of direct, scalepoint, relay, pgbouncer, pgbouncer-tcp, haproxy (all that are installed)
  --no-tls      without the measurements through TLS";

/// Everything trusts the Unix socket, which only this user and root can reach; TCP takes a password.
const HBA: &str = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n";

/// What pgbench is told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    protocol: &'static str,
    clients: u32,
    tls: bool,
}

/// What it said.
#[derive(Debug, Clone, Copy)]
struct Seen {
    per_second: f64,
    latency_ms: f64,
    /// Of the process in the middle, per million transactions.
    cpu_seconds: f64,
}

fn main() {
    let options =
        Options::read(&["--quick", "--rounds", "--seconds", "--scale", "--only", "--no-tls", "--help"]);
    if options.has("--help") {
        println!("{HELP}");
        return;
    }
    let quick = options.has("--quick");
    let rounds: u32 = options.value("--rounds").unwrap_or(if quick { 1 } else { 3 });
    let seconds: u32 = options.value("--seconds").unwrap_or(if quick { 1 } else { 2 });
    let scale: u32 = options.value("--scale").unwrap_or(10);
    let only: Option<String> = options.value("--only");

    let stage = Stage::set();
    let mut bare = Bare::make(&stage, "bare", HBA);
    let (certificate, key) = certificate(&bare);
    bare.signal_stop();
    bare.await_end();
    let tls = [("ssl", "on"), ("ssl_cert_file", &certificate), ("ssl_key_file", &key)];
    let tls: Vec<OsString> =
        tls.iter().flat_map(|(name, value)| ["-c".into(), format!("{name}={value}").into()]).collect();
    bare.start(&tls);
    stage.fill(bare.run_dir.as_os_str(), bare.port, scale);
    let proxy = Proxy::start(&stage, "warn");
    stage.fill("127.0.0.1".as_ref(), proxy.port, scale);

    let mut peers = vec![Peer::direct(&bare), Peer::scalepoint(&proxy), Peer::bare_relay(&bare)];
    peers.extend(Peer::pgbouncer(&stage, &bare, &certificate, &key));
    peers.extend(Peer::haproxy(&stage, &bare));
    if let Some(only) = only {
        peers.retain(|peer| peer.name == "direct" || only.split(',').any(|name| name == peer.name));
    }
    for run in runs(!options.has("--no-tls")) {
        measure(&stage, &peers, run, rounds, seconds);
    }
}

fn runs(with_tls: bool) -> Vec<Run> {
    let mut runs = Vec::new();
    for protocol in ["simple", "prepared"] {
        for clients in [1, 16, 64] {
            runs.push(Run { protocol, clients, tls: false });
        }
    }
    if with_tls {
        runs.extend(["simple", "prepared"].map(|protocol| Run { protocol, clients: 16, tls: true }));
    }
    runs
}

fn measure(stage: &Stage, peers: &[Peer], run: Run, rounds: u32, seconds: u32) {
    let peers: Vec<&Peer> = peers.iter().filter(|peer| peer.has_tls || !run.tls).collect();
    let mut seen: Vec<Vec<Seen>> = peers.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (peer, seen) in peers.iter().zip(&mut seen) {
            seen.push(pgbench(stage, peer, run, seconds));
        }
    }
    let tls = if run.tls { ", TLS" } else { "" };
    println!("\n{} protocol, {} client(s){tls}", run.protocol, run.clients);
    println!(
        "  {:14} {:>9} {:>7} {:>10} {:>9} {:>12}",
        "", "tps", "ratio", "latency ms", "added ms", "CPU s / 1M"
    );
    let middle = |seen: &[Seen], of: fn(&Seen) -> f64| median(&seen.iter().map(of).collect::<Vec<_>>());
    let direct_tps = middle(&seen[0], |s| s.per_second);
    let direct_ms = middle(&seen[0], |s| s.latency_ms);
    for (peer, seen) in peers.iter().zip(&seen) {
        let (tps, ms) = (middle(seen, |s| s.per_second), middle(seen, |s| s.latency_ms));
        println!(
            "  {:14} {tps:9.0} {:7.2} {ms:10.3} {:9.3} {:12.1}",
            peer.name,
            tps / direct_tps,
            ms - direct_ms,
            middle(seen, |s| s.cpu_seconds),
        );
    }
}

fn pgbench(stage: &Stage, peer: &Peer, run: Run, seconds: u32) -> Seen {
    let before = peer.cpu_seconds();
    let mut pgbench = stage.client("pgbench");
    pgbench.env("PGSSLMODE", if run.tls { "require" } else { "disable" });
    pgbench.args([
        "-n",
        "-S",
        "-j",
        "2",
        "-h",
        "127.0.0.1",
        "-p",
        &peer.port.to_string(),
        "-M",
        run.protocol,
    ]);
    pgbench.args(["-c", &run.clients.to_string(), "-T", &seconds.to_string()]);
    let said = stage::run(&mut pgbench);
    let number = |before: &str| -> f64 {
        let found = said.split(before).nth(1).and_then(|rest| rest.split_whitespace().next());
        found.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("pgbench said {said}"))
    };
    let transactions = number("actually processed: ");
    Seen {
        per_second: number("tps = "),
        latency_ms: number("latency average = "),
        cpu_seconds: (peer.cpu_seconds() - before) / transactions * 1e6,
    }
}
