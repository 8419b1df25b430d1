//! The subcommands that ask a running server.

use std::io::Write;
use std::time::Duration;

use serde_json::{Value, json};

use super::client::Client;
use super::progress::while_waiting;
use super::table::{duration, or_dash, plain, shortened, table};
use super::{CliError, Command, Exit, OneCluster, ScaleArgs, print};
use crate::config::TimeoutAction;
use crate::scaling::report::{CHANGE_MARGIN, MOST_SECONDS_BEFORE_TIMEOUT};
use crate::scaling::report::{
    ClusterList, ClusterStatus, Event, EventList, ObstacleRow, Outcome, ScaleReport, SessionList, SessionRow,
};

/// Characters of a statement in a table; JSON has all of it.
const STATEMENT_WIDTH: usize = 60;
/// Beyond the server's own deadline, so that its answer is seen.
const PATIENCE: Duration = Duration::from_secs(15);

/// Does what `command` asks of the server at `admin`.
pub(super) fn ask(command: Command, admin: &str, out: &mut impl Write) -> Result<(), CliError> {
    let client = Client::new(admin)?;
    match command {
        Command::Status { cluster, json } => status(&client, cluster.as_deref(), json, out),
        Command::Sessions(of) => sessions(&client, &of, out),
        Command::Scale(args) => scale(&client, &args, out),
        Command::Pause(of) => change(&client, &of, "pause", out),
        Command::Resume(of) => change(&client, &of, "resume", out),
        Command::Events { of, follow: true } => follow(&client, &of, out),
        Command::Events { of, follow: false } => events(&client, &of, out),
        Command::Serve(_) | Command::Check { .. } => Ok(()),
    }
}

/// The path of a cluster. A name that cannot be one is refused here, so that it never becomes part of a path.
fn path(cluster: &str, rest: &str) -> Result<String, CliError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if cluster.is_empty() || !cluster.chars().all(plain) {
        let error = CliError::new(Exit::Usage, format!("`{cluster}` is not the name of a cluster"));
        return Err(error.with_hint("`scalepoint status` lists the clusters"));
    }
    Ok(format!("/v1/clusters/{cluster}{rest}"))
}

fn print_json(out: &mut impl Write, document: &Value) -> Result<(), CliError> {
    print(out, &format!("{document:#}\n"))
}

fn status(client: &Client, cluster: Option<&str>, json: bool, out: &mut impl Write) -> Result<(), CliError> {
    let (document, clusters) = match cluster {
        None => {
            let (document, list) = client.get::<ClusterList>("/v1/clusters")?;
            (document, list.clusters)
        }
        Some(name) => {
            let (one, cluster) = client.get::<ClusterStatus>(&path(name, "")?)?;
            (json!({"clusters": [one]}), vec![cluster])
        }
    };
    if json {
        return print_json(out, &document);
    }
    let header = ["CLUSTER", "ENGINE", "ENDPOINT", "STATE", "CAPACITY", "RANGE", "SESSIONS", "LAST CHANGE"];
    let rows: Vec<Vec<String>> = clusters.iter().map(status_row).collect();
    print(out, &table(&header, &rows))
}

fn status_row(cluster: &ClusterStatus) -> Vec<String> {
    let version = cluster.version.as_deref().unwrap_or_default();
    let last = cluster.last_change.as_ref().map(|change| {
        let stall = duration(change.stall_ms);
        format!("{} → {} {}, stall {stall}", change.from, change.to, change.outcome.as_str())
    });
    vec![
        cluster.name.clone(),
        format!("{} {version}", cluster.engine).trim_end().to_owned(),
        cluster.listen.clone(),
        cluster.state.as_str().to_owned(),
        cluster.capacity.to_string(),
        format!("{}-{}", cluster.min_capacity, cluster.max_capacity),
        cluster.sessions.to_string(),
        or_dash(last.as_deref()),
    ]
}

fn sessions(client: &Client, of: &OneCluster, out: &mut impl Write) -> Result<(), CliError> {
    let (document, list) = client.get::<SessionList>(&path(&of.cluster, "/sessions")?)?;
    if of.json {
        return print_json(out, &document);
    }
    let header =
        ["SESSION", "USER", "DATABASE", "CLIENT", "TLS", "STATE", "AGE", "OBSTACLE", "SINCE", "STATEMENT"];
    let rows: Vec<Vec<String>> = list.sessions.iter().map(session_row).collect();
    print(out, &table(&header, &rows))
}

fn session_row(session: &SessionRow) -> Vec<String> {
    vec![
        session.id.to_string(),
        session.user.clone(),
        session.database.clone(),
        session.client.clone(),
        or_dash(session.tls.as_deref()),
        session.state.clone(),
        duration(session.age_ms),
        or_dash(session.obstacle.as_deref()),
        or_dash(session.obstacle_since_ms.map(duration).as_deref()),
        shortened(&or_dash(session.statement.as_deref()), STATEMENT_WIDTH),
    ]
}

fn scale(client: &Client, args: &ScaleArgs, out: &mut impl Write) -> Result<(), CliError> {
    let path = path(&args.cluster, "/scale")?;
    let mut body = json!({"capacity": args.capacity, "wait": !args.no_wait});
    if let Some(seconds) = args.seconds_before_timeout {
        body["seconds_before_timeout"] = seconds.into();
    }
    if let Some(action) = args.timeout_action {
        body["timeout_action"] = TimeoutAction::from(action).as_str().into();
    }
    let search = args.seconds_before_timeout.unwrap_or(MOST_SECONDS_BEFORE_TIMEOUT);
    let deadline = Duration::from_secs(search.into()) + CHANGE_MARGIN + PATIENCE;
    let answer = while_waiting(client, &args.cluster, || client.post(&path, &body, deadline));
    let (document, report) = answer?;
    tell(&document, &report, args.json, out)
}

fn change(client: &Client, of: &OneCluster, what: &str, out: &mut impl Write) -> Result<(), CliError> {
    let path = path(&of.cluster, &format!("/{what}"))?;
    let deadline = CHANGE_MARGIN + PATIENCE;
    let (document, report) = while_waiting(client, &of.cluster, || client.post(&path, &json!({}), deadline))?;
    tell(&document, &report, of.json, out)
}

/// Shows how a change ended; one that did not succeed is an error besides.
fn tell(document: &Value, report: &ScaleReport, json: bool, out: &mut impl Write) -> Result<(), CliError> {
    if json {
        print_json(out, document)?;
    } else {
        print(out, &in_words(report))?;
    }
    let kept = format!("{} keeps capacity {}", report.cluster, report.from);
    match report.outcome {
        Outcome::Started | Outcome::Scaled | Outcome::Forced => Ok(()),
        Outcome::RolledBack => {
            let waited = duration(report.waited_ms);
            let message = format!("no scaling point within {waited}; {kept}");
            let hint = "`scalepoint sessions` shows what blocks; --timeout-action force does not wait for it";
            Err(CliError::new(Exit::NoScalingPoint, message).with_hint(hint))
        }
        Outcome::Failed => {
            let reason = report.error.as_deref().unwrap_or("for an unknown reason");
            let error = CliError::new(Exit::Failed, format!("the change failed: {reason}; {kept}"));
            Err(error.with_hint("look at the server's log"))
        }
    }
}

fn in_words(report: &ScaleReport) -> String {
    let change = format!("from {} to {}", report.from, report.to);
    let counts = report.sessions;
    let cluster = plain(&report.cluster);
    match report.outcome {
        Outcome::Started => format!("{cluster}: the change {change} has begun\n"),
        Outcome::Scaled | Outcome::Forced => format!(
            "{cluster}: {} {change} after {}; sessions: {} carried, {} aborted, {} closed; \
             stall {} (hold {}, hand-over {})\n",
            report.outcome.as_str(),
            duration(report.waited_ms),
            counts.carried,
            counts.aborted,
            counts.closed,
            duration(report.stall_ms),
            duration(report.hold_ms),
            duration(report.handover_ms),
        ),
        Outcome::RolledBack | Outcome::Failed if report.obstacles.is_empty() => String::new(),
        Outcome::RolledBack | Outcome::Failed => {
            let rows: Vec<Vec<String>> = report.obstacles.iter().map(obstacle_row).collect();
            table(&["SESSION", "USER", "OBSTACLE", "SINCE", "STATEMENT"], &rows)
        }
    }
}

fn obstacle_row(obstacle: &ObstacleRow) -> Vec<String> {
    vec![
        obstacle.session.to_string(),
        obstacle.user.clone(),
        obstacle.reason.clone(),
        duration(obstacle.since_ms),
        shortened(&or_dash(obstacle.statement.as_deref()), STATEMENT_WIDTH),
    ]
}

fn events(client: &Client, of: &OneCluster, out: &mut impl Write) -> Result<(), CliError> {
    let (document, list) = client.get::<EventList>(&path(&of.cluster, "/events")?)?;
    if of.json {
        return print_json(out, &document);
    }
    print(out, &list.events.iter().map(event_line).collect::<String>())
}

fn follow(client: &Client, of: &OneCluster, out: &mut impl Write) -> Result<(), CliError> {
    client.follow(&path(&of.cluster, "/events?follow")?, |line| {
        if of.json {
            return print(out, &format!("{line}\n"));
        }
        match serde_json::from_str::<Event>(line) {
            Ok(event) => print(out, &event_line(&event)),
            Err(error) => Err(CliError::new(Exit::Failed, format!("the server sent no event: {error}"))),
        }
    })
}

fn event_line(event: &Event) -> String {
    let id = event.event_id.as_deref().unwrap_or(&event.kind);
    plain(&format!("{}  {id:<15} {}", event.time, event.message)) + "\n"
}
