//! The same figures for `scripts/bench`: Scalepoint against each of the others.

use crate::driver::{Protocol, Run};
use crate::stage::engine::Product;
use crate::stage::figures::{Figure, Figures, Target};
use crate::{Rounds, Seen};

/// Adds one run's ratios.
pub(crate) fn add(figures: &mut Figures, product: Product, run: Run, all: &[Rounds]) {
    let Some(ours) = all.iter().find(|rounds| rounds.name == "scalepoint") else { return };
    for theirs in all.iter().filter(|rounds| rounds.name != "scalepoint") {
        let mut compare = |measure: &str, unit, of: fn(&Seen) -> f64, target| {
            let protocol = run.protocol.name();
            let tls = if run.tls { ".tls" } else { "" };
            let server = product.name();
            let key = format!("relay.{server}.{protocol}.{}{tls}.{measure}.vs_{}", run.clients, theirs.name);
            let tls = if run.tls { ", TLS" } else { "" };
            let what = format!(
                "{server}, {protocol}, {} clients{tls}: {measure} / that of {}",
                run.clients, theirs.name
            );
            let (ours, others) = (ours.median(of), theirs.median(of));
            figures.add(Figure { key, what, ours, theirs: others, unit, runs: theirs.seen.len(), target });
        };
        compare("throughput", "1/s", |seen| seen.per_second, throughput(run, theirs.name));
        if theirs.name != "direct" && run.protocol.asks() {
            compare("cpu", "s per 1M", |seen| seen.cpu_seconds, cpu(run, theirs.name));
        }
        if run.clients == 1 && run.protocol.asks() && theirs.name == "relay" {
            compare("latency", "ms", |seen| seen.latency_ms, Target::AtMost(1.1));
        }
    }
}

fn throughput(run: Run, peer: &str) -> Target {
    match (run.protocol, peer) {
        (Protocol::Connect, "pgbouncer" | "pgbouncer-tcp") => return Target::AtLeast(1.0),
        (Protocol::Copy, "relay") => return Target::AtLeast(0.95),
        (Protocol::Copy, "pgbouncer" | "pgbouncer-tcp") if run.tls => return Target::AtLeast(1.0),
        (Protocol::Connect | Protocol::Copy, _) => return Target::None,
        (Protocol::Simple | Protocol::Prepared, _) => {}
    }
    match (run.clients, run.tls, peer) {
        (16 | 64, false, "haproxy" | "pgbouncer-tcp") => Target::AtLeast(1.1),
        (16 | 64, false, "pgbouncer") => Target::AtLeast(1.0),
        (16 | 64, true, "pgbouncer" | "pgbouncer-tcp") => Target::AtLeast(1.1),
        (200, false, "direct") => Target::AtLeast(1.0),
        (200, false, "pgbouncer") => Target::AtLeast(1.5),
        _ => Target::None,
    }
}

fn cpu(run: Run, peer: &str) -> Target {
    match (run.tls, peer) {
        _ if !run.protocol.asks() => Target::None,
        (false, "relay") => Target::AtMost(1.1),
        (false, "pgbouncer-tcp") => Target::AtMost(0.9),
        _ => Target::None,
    }
}
