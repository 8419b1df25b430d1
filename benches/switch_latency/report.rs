//! The same figures for `scripts/bench`.

use crate::clients::{Clients, Load};
use crate::restart::Restart;
use crate::stage::engine::Product;
use crate::stage::figures::{Figure, Figures, Target};
use crate::stage::options::Options;
use crate::stage::{median, quantile};
use crate::{Seen, Turn, longest_wait};

/// One point of throughput over time, seconds.
const BIN: f64 = 0.02;
/// How far the picture goes, seconds before and after the gate is shut.
const PICTURE: (f64, f64) = (-0.1, 0.5);
/// Of the latency distribution.
const SHARES: [f64; 12] = [0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9995, 0.9999, 1.0];

/// Writes them to what `--json` names.
pub(crate) fn write(
    options: &Options,
    product: Product,
    standby: bool,
    load: &Load,
    clients: &Clients,
    seen: &Seen,
) {
    let turns = &seen.turns;
    let mut figures = Figures::new(options);
    let server = product.name();
    let of = |value: &dyn Fn(&Turn) -> f64| median(&turns.iter().map(value).collect::<Vec<_>>());
    let stall = of(&|turn| turn.report.stall_ms as f64);
    let felt = longest_wait(turns);
    let first_served = of(&|turn| quantile(&turn.felt, 0.0));
    let idle = if load.idle > 0 { format!(".idle{}", load.idle) } else { String::new() };
    let (handover, best, aim) = match standby {
        true => ("standby", ["bare promotion by the fastest recipe", "best"], 1.3),
        false => ("restart", ["bare restart by the fastest safe recipe", "best"], 1.15),
    };
    let direct = ["bare restart by the direct recipe", "direct"];
    for ([other, name], restart, target) in [
        (best, (|turn| &turn.best) as fn(&Turn) -> &Restart, Target::AtMost(aim)),
        (direct, |turn| &turn.bare, Target::None),
    ] {
        // What is promised is promised of the busy ones alone.
        let target = if load.idle > 0 { Target::None } else { target };
        let ready = of(&|turn| restart(turn).ready);
        let first = of(&|turn| restart(turn).first);
        let all = of(&|turn| restart(turn).all);
        let compared = [
            ("open_vs_ready", "gate shut to open", "until ready", stall, ready),
            ("first_vs_first", "shortest wait of a client", "until the first answer", first_served, first),
            ("last_vs_all", "longest wait of a client", "until all have answered", felt, all),
        ];
        for (key, what, until, ours, theirs) in compared {
            let key = format!("switch.{server}.{handover}{idle}.{key}.{name}");
            let what = format!("{server}{idle}, {handover}: {what} / {other} {until}");
            figures.add(Figure { key, what, ours, theirs, unit: "ms", runs: turns.len(), target });
        }
    }
    if !seen.alone.is_empty() {
        figures.add(Figure {
            key: format!("switch.{server}.{handover}{idle}.last.vs_none_idle"),
            what: format!(
                "{server}{idle}, {handover}: longest wait of a busy client / the same without the idle ones"
            ),
            ours: felt,
            theirs: longest_wait(&seen.alone),
            unit: "ms",
            runs: turns.len(),
            target: Target::AtMost(1.2),
        });
    }
    let by = if standby { " (standby)" } else { "" };
    let (all, quiet) = clients.latencies();
    for (name, seen) in [("changes included", all), ("outside of changes", quiet)] {
        let ms = |share: &f64| (*share, seen.value_at_quantile(*share) as f64 / 1000.0);
        let points: Vec<(f64, f64)> = SHARES.iter().map(ms).collect();
        figures.curve("latency", &format!("{server}{idle}{by}, {name}"), &points);
    }
    figures.curve("throughput", &format!("{server}{idle}{by}"), &throughput(turns));
    figures.curve("stall", &format!("{server}{by}"), &[((load.clients + load.idle) as f64, stall)]);
    figures.write();
}

/// Transactions per second before, in and after a change, the mean of all changes.
fn throughput(turns: &[Turn]) -> Vec<(f64, f64)> {
    let mut points = Vec::new();
    let mut at = PICTURE.0;
    while at < PICTURE.1 {
        let ended =
            turns.iter().flat_map(|turn| &turn.ends).filter(|end| (at..at + BIN).contains(*end)).count();
        points.push((at + BIN / 2.0, ended as f64 / BIN / turns.len().max(1) as f64));
        at += BIN;
    }
    points
}
