//! What clients feel while the capacity changes under them, beside a bare stop and start of the same server.
//!
//! Busy clients run short transactions on a schedule of their own (a statement that waits delays nothing but itself,
//! and the time that it should have begun counts, so a stall cannot hide). The capacity changes again and again; in
//! between, with the clients silent, a bare server with the same settings and the same data is stopped and started.
//! Both are measured in the same run, turn by turn, because only then is the ratio worth anything.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::too_many_lines,
    reason = "a benchmark fails by panicking"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "the clients have a thread and a runtime of their own; this one may sleep"
)]

mod clients;
mod mysql;
mod mysql_wire;
mod postgres;
mod promote;
mod promote_mysql;
mod report;
mod restart;
#[path = "../stage/mod.rs"]
mod stage;
mod subject;

use std::thread::sleep;
use std::time::{Duration, Instant};

use clients::{Clients, Load};
use restart::{Recipe, Restart, restart};
use scalepoint::scaling::report::{Outcome, ScaleReport};
use stage::bare::Bare;
use stage::engine::Product;
use stage::options::Options;
use stage::proxy::Proxy;
use stage::{Stage, median, quantile};
use subject::{ROWS, Subject};

const HELP: &str = "\
cargo bench --bench switch_latency -- [--quick] [OPTION VALUE]...
  --server X    postgres | mariadb | mysql9 (postgres)
  --handover X  restart | standby (restart; standby: beside a bare promotion)
  --changes N   capacity changes (24; with --quick 6)
  --clients N   busy clients (16)
  --idle N      idle ones beside them (0); the changes are made without them first
  --rate N      transactions per second and client (60)
  --scale N     pgbench's scale: 100,000 rows each (10)
  --load X      simple | prepared | write: what they run (prepared); see benches/README.md
  --pause-ms N  between two changes (1000)
  --log FILE    keep scalepoint's debug log
  --json FILE   write the figures there";

/// The scalepoint's change is over when its answer comes; what the clients felt, a little later.
const SETTLE: Duration = Duration::from_millis(400);
/// What was under way when the clients were told to be silent.
const SILENCE: Duration = Duration::from_millis(100);

/// One turn: a change, and a restart of the bare server.
struct Turn {
    report: ScaleReport,
    /// The longest wait of each client, ms.
    felt: Vec<f64>,
    /// When transactions ended, seconds since the gate was shut.
    ends: Vec<f64>,
    bare: Restart,
    best: Restart,
}

/// All turns that count.
struct Seen {
    /// Before the idle clients came; none without them.
    alone: Vec<Turn>,
    turns: Vec<Turn>,
}

/// The median over all changes of the longest wait among the clients, ms.
fn longest_wait(turns: &[Turn]) -> f64 {
    median(&turns.iter().map(|turn| quantile(&turn.felt, 1.0)).collect::<Vec<_>>())
}

fn main() {
    let known = [
        "--quick",
        "--server",
        "--handover",
        "--changes",
        "--clients",
        "--idle",
        "--rate",
        "--scale",
        "--load",
        "--pause-ms",
        "--log",
        "--json",
        "--help",
    ];
    let options = Options::read(&known);
    if options.has("--help") {
        println!("{HELP}");
        return;
    }
    let changes = options.value("--changes").unwrap_or(if options.has("--quick") { 6 } else { 24 });
    let scale: u32 = options.value("--scale").unwrap_or(10);
    let pause = Duration::from_millis(options.value("--pause-ms").unwrap_or(1000));
    let load = Load {
        clients: options.value("--clients").unwrap_or(16),
        idle: options.value("--idle").unwrap_or(0),
        rate: options.value("--rate").unwrap_or(60.0),
        kind: options.value("--load").unwrap_or(clients::Kind::Prepared),
        accounts: scale * ROWS,
    };

    let product = options.value("--server").unwrap_or(Product::Postgres);
    let standby = options.value::<String>("--handover").is_some_and(|handover| handover == "standby");
    let subject = subject::of(product);
    let stage = Stage::set(product);
    let mut bare = Bare::make(&stage, "bare");
    subject.fill(&stage, bare.port, scale);
    let handover = if standby { "handover = \"standby\"\n" } else { "" };
    let proxy = Proxy::start_with(&stage, "scalepoint=debug", handover);
    subject.fill(&stage, proxy.port, scale);
    let mut best = Bare::make(&stage, "best");
    subject.fill(&stage, best.port, scale);
    let recipe = Recipe::Best(if product == Product::Postgres { Vec::new() } else { proxy.own_options() });
    let clients = Clients::start(&load, subject::of(product), proxy.port);
    println!(
        "{} busy clients, {} idle, {} transactions/s each, {changes} changes",
        load.clients, load.idle, load.rate
    );

    // The first change and the first restart find everything cold, and are not counted.
    let mut pair = Pair {
        stage: &stage,
        subject: &*subject,
        proxy: &proxy,
        clients: &clients,
        bare: &mut bare,
        best: (&mut best, &recipe),
        twins: standby.then(|| Twins::make(&stage, product, scale)),
    };
    pair.turn(pause, 0);
    let mut alone: Vec<Turn> = Vec::new();
    if load.idle > 0 {
        alone = (1..=changes).map(|number| pair.turn(pause, number)).collect();
        clients.crowd();
        println!("{} idle clients have come", load.idle);
        pair.turn(pause, 0);
    }
    clients.forget();
    let turns: Vec<Turn> = (1..=changes).map(|number| pair.turn(pause, number)).collect();
    print_overall(&clients);
    print_comparison(&turns);
    if !alone.is_empty() {
        let ratio = longest_wait(&turns) / longest_wait(&alone);
        println!("  felt, with the idle ones / without     {ratio:.2}   (target: 1.2 or less)");
    }
    report::write(&options, product, standby, &load, &clients, &Seen { alone, turns });
    if options.has("--quick") {
        println!("(a quick run: too few changes for more than an impression)");
    }
    if let Some(file) = options.value::<String>("--log") {
        std::fs::copy(&proxy.log, file).expect("the log");
    }
    let errors = clients.stop();
    assert!(errors.is_empty(), "clients saw errors: {errors:?}");
}

/// Two servers, of which one is promoted.
enum Twins<'a> {
    Postgres(promote::Twins<'a>),
    Mysql(promote_mysql::Twins),
}

impl<'a> Twins<'a> {
    fn make(stage: &'a Stage, product: Product, scale: u32) -> Twins<'a> {
        match product {
            Product::Postgres => Twins::Postgres(promote::Twins::make(stage, scale)),
            Product::MariaDb | Product::MySql9 => {
                Twins::Mysql(promote_mysql::Twins::make(stage, product, scale))
            }
        }
    }
}

/// Those who are compared.
struct Pair<'a, 'b> {
    stage: &'a Stage,
    subject: &'a dyn Subject,
    proxy: &'a Proxy,
    clients: &'a Clients,
    bare: &'a mut Bare<'b>,
    best: (&'a mut Bare<'b>, &'a Recipe),
    /// Instead of the best restart.
    twins: Option<Twins<'b>>,
}

impl Pair<'_, '_> {
    fn turn(&mut self, pause: Duration, number: usize) -> Turn {
        let Pair { stage, subject, proxy, clients, .. } = *self;
        subject.warm(stage, proxy.port);
        clients.run();
        sleep(pause);
        clients.window();
        let report = proxy.scale(if number.is_multiple_of(2) { 4 } else { 8 });
        let shut = Instant::now() - Duration::from_millis(report.stall_ms);
        assert!(report.outcome == Outcome::Scaled, "the change was not carried out: {report:?}");
        sleep(SETTLE);
        let (felt, ends) = (clients.felt(), clients.ends(shut.into()));
        clients.pause();
        sleep(SILENCE);
        subject.warm(stage, self.bare.port);
        let bare = restart(stage, subject, self.bare, felt.len(), &Recipe::Direct);
        let best = match &mut self.twins {
            Some(Twins::Postgres(twins)) => twins.promote(subject, felt.len()),
            Some(Twins::Mysql(twins)) => twins.promote(felt.len()),
            None => {
                let (server, recipe) = &mut self.best;
                subject.warm(stage, server.port);
                restart(stage, subject, server, felt.len(), recipe)
            }
        };
        let worst = quantile(&felt, 1.0);
        println!(
            "{number:3}  felt {worst:6.1}   hold {:4}  hand-over {:4}  stall {:4}   bare: gone {:5.1}  ready {:5.1}  first {:5.1}  all {:5.1}   best: {:5.1} {:5.1} {:5.1} {:5.1}",
            report.hold_ms,
            report.handover_ms,
            report.stall_ms,
            bare.gone,
            bare.ready,
            bare.first,
            bare.all,
            best.gone,
            best.ready,
            best.first,
            best.all,
        );
        Turn { report, felt, ends, bare, best }
    }
}

fn print_overall(clients: &Clients) {
    let (all, quiet) = clients.latencies();
    println!("\ntransaction latency, ms        p50      p99    p99.9      max    count");
    for (name, seen) in [("changes included", all), ("outside of changes", quiet)] {
        let ms = |share: f64| seen.value_at_quantile(share) as f64 / 1000.0;
        println!(
            "  {name:22} {:9.2} {:8.2} {:8.2} {:8.2} {:8}",
            ms(0.5),
            ms(0.99),
            ms(0.999),
            seen.max() as f64 / 1000.0,
            seen.len()
        );
    }
}

fn print_comparison(turns: &[Turn]) {
    let of = |value: &dyn Fn(&Turn) -> f64| -> Vec<f64> { turns.iter().map(value).collect() };
    let felt = of(&|turn| quantile(&turn.felt, 1.0));
    let typical = of(&|turn| median(&turn.felt));
    let (first, all) = (of(&|turn| turn.bare.first), of(&|turn| turn.bare.all));
    println!("\nper change, ms                            median      p99      max");
    let row = |name: &str, values: &[f64]| {
        let (median, p99, max) = (median(values), quantile(values, 0.99), quantile(values, 1.0));
        println!("  {name:38} {median:8.1} {p99:8.1} {max:8.1}");
    };
    row("felt: longest wait among the clients", &felt);
    row("felt: median client", &typical);
    row("  gate shut to everybody quiet", &of(&|turn| turn.report.hold_ms as f64));
    row("  hand-over", &of(&|turn| turn.report.handover_ms as f64));
    row("  gate shut to gate open", &of(&|turn| turn.report.stall_ms as f64));
    row("bare: old server gone", &of(&|turn| turn.bare.gone));
    row("bare: ready", &of(&|turn| turn.bare.ready));
    row("bare: first `select 1`", &first);
    row("bare: all clients connected, answered", &all);
    row("best: old server gone", &of(&|turn| turn.best.gone));
    row("best: ready", &of(&|turn| turn.best.ready));
    row("best: first `select 1`", &of(&|turn| turn.best.first));
    row("best: all clients connected, answered", &of(&|turn| turn.best.all));
    println!(
        "\nratio of medians (target: 1.5 or less to bare; to best 1.15 or less, to a bare promotion 1.3)"
    );
    println!("  felt / bare until all answered       {:.2}", median(&felt) / median(&all));
    println!("  felt / bare until first `select 1`   {:.2}", median(&felt) / median(&first));
    let earliest = of(&|turn| quantile(&turn.felt, 0.0));
    println!(
        "  felt / best until all answered       {:.2}",
        median(&felt) / median(&of(&|turn| turn.best.all))
    );
    println!(
        "  least felt / best until first        {:.2}",
        median(&earliest) / median(&of(&|turn| turn.best.first))
    );
    let best_ready = of(&|turn| turn.best.ready);
    println!(
        "  gate shut to open / best until ready {:.2}",
        median(&of(&|turn| turn.report.stall_ms as f64)) / median(&best_ready)
    );
    let (open, ready) = (of(&|turn| turn.report.stall_ms as f64), of(&|turn| turn.bare.ready));
    println!("  gate shut to open / bare until ready {:.2}", median(&open) / median(&ready));
}
