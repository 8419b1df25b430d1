//! The command line against the real API with a fake control plane: words, JSON and exit codes.

use clap::CommandFactory;

use super::*;
use crate::api::fake::{FakeServer, obstacle};
use crate::scaling::report::{ChangeProgress, Outcome};

fn parse(words: &[&str]) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once(&"scalepoint").chain(words))
}

/// Runs a command against a server: what it printed, and the error.
fn run(server: &FakeServer, words: &[&str]) -> (String, Option<CliError>) {
    let cli = parse(words).unwrap();
    let mut out = Vec::new();
    let ended = ask::ask(cli.command, &server.address.to_string(), &mut out);
    (String::from_utf8(out).unwrap(), ended.err())
}

#[test]
fn definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn usage() {
    let good: [&[&str]; 9] = [
        &["serve"],
        &["serve", "--config", "x", "--log-format", "json", "--log", "debug"],
        &["check", "--config", "x"],
        &["status"],
        &["--admin", "h:1", "status", "orders", "--json"],
        &["scale", "orders", "4", "--seconds-before-timeout", "10", "--timeout-action", "force"],
        &["scale", "orders", "4", "--no-wait", "--json", "--admin", "h:1"],
        &["pause", "orders", "--json"],
        &["events", "orders", "--json", "--follow"],
    ];
    for words in good {
        assert!(parse(words).is_ok(), "{words:?}");
    }
    let bad: [&[&str]; 8] = [
        &[],
        &["check"],
        &["sessions"],
        &["scale", "orders"],
        &["scale", "orders", "four"],
        &["scale", "orders", "4", "--seconds-before-timeout", "9"],
        &["scale", "orders", "4", "--seconds-before-timeout", "601"],
        &["scale", "orders", "4", "--timeout-action", "explode"],
    ];
    for words in bad {
        let error = parse(words).map(|_| ()).expect_err("bad usage");
        assert_eq!(error.exit_code(), 2, "{words:?}");
    }
}

#[test]
fn tables_for_people() {
    let server = FakeServer::start();
    let (text, error) = run(&server, &["status"]);
    assert_eq!(error, None);
    assert_eq!(
        text,
        "CLUSTER  ENGINE          ENDPOINT        STATE      CAPACITY  RANGE  SESSIONS  LAST CHANGE\n\
         orders   postgres 15.20  127.0.0.1:5432  available  2         2-16   1         2 → 2 scaled, stall 182 ms\n"
    );
    let (text, _) = run(&server, &["sessions", "orders"]);
    assert!(text.contains("open_transaction  4.2 s  update t  [31mset x = 1"), "{text}");
    assert!(!text.contains('\u{1b}'));
    let (text, _) = run(&server, &["events", "orders"]);
    assert!(
        text.ends_with(
            "RDS-EVENT-0142  The DB cluster has scaled from 2 capacity units to 4 capacity units.\n"
        )
    );
}

#[test]
fn json_is_one_document() {
    let server = FakeServer::start();
    let cases: [(&[&str], &str); 5] = [
        (&["status", "--json"], "clusters"),
        (&["status", "orders", "--json"], "clusters"),
        (&["sessions", "orders", "--json"], "sessions"),
        (&["events", "orders", "--json"], "events"),
        (&["scale", "orders", "4", "--json"], "outcome"),
    ];
    for (words, key) in cases {
        let (text, error) = run(&server, words);
        assert_eq!(error, None, "{words:?}");
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(document.get(key).is_some(), "{words:?}: {text}");
    }
}

#[test]
fn exit_codes() {
    let server = FakeServer::start();
    let cases: [(&[&str], Outcome, Exit, &str); 10] = [
        (&["scale", "orders", "4"], Outcome::Failed, Exit::Failed, "the server did not start; orders keeps"),
        (
            &["scale", "orders", "4"],
            Outcome::RolledBack,
            Exit::NoScalingPoint,
            "no scaling point within 900 ms",
        ),
        (&["scale", "orders", "5"], Outcome::Scaled, Exit::Usage, "the nearest capacities are 4 and 8"),
        (&["scale", "orders", "32"], Outcome::Scaled, Exit::Usage, "is not between 2 and 16"),
        (
            &["scale", "orders", "16", "--timeout-action", "force"],
            Outcome::Scaled,
            Exit::Refused,
            "under way",
        ),
        (&["scale", "nope", "4"], Outcome::Scaled, Exit::Usage, "there is no cluster `nope`"),
        (&["status", "nope"], Outcome::Scaled, Exit::Usage, "there is no cluster `nope`"),
        (&["status", "../../metrics"], Outcome::Scaled, Exit::Usage, "is not the name of a cluster"),
        (&["pause", "orders"], Outcome::Scaled, Exit::Refused, "pause is not available yet"),
        (&["resume", "orders"], Outcome::Scaled, Exit::Refused, "resume is not available yet"),
    ];
    for (words, outcome, exit, expected) in cases {
        *server.control.outcome.lock().unwrap() = outcome;
        let (_, error) = run(&server, words);
        let error = error.expect("an error");
        assert_eq!(error.exit, exit, "{words:?}");
        assert!(error.line().contains(expected) && error.line().lines().count() == 1, "{}", error.line());
    }
}

#[test]
fn a_change_in_words() {
    let server = FakeServer::start();
    let (text, error) = run(&server, &["scale", "orders", "4"]);
    assert_eq!(error, None);
    assert_eq!(
        text,
        "orders: scaled from 2 to 4 after 900 ms; sessions: 3 carried, 0 aborted, 0 closed; \
         stall 182 ms (hold 12 ms, hand-over 170 ms)\n"
    );
    let (text, error) = run(&server, &["scale", "orders", "4", "--no-wait"]);
    assert_eq!((text.as_str(), error), ("orders: the change from 2 to 4 has begun\n", None));
    *server.control.outcome.lock().unwrap() = Outcome::RolledBack;
    let (text, _) = run(&server, &["scale", "orders", "4"]);
    assert!(text.starts_with("SESSION  USER") && text.contains("open_transaction"), "{text}");
}

#[test]
fn following_ends_with_the_stream() {
    let server = FakeServer::start();
    drop(server.control.events.lock().unwrap().take());
    let (text, error) = run(&server, &["events", "orders", "--follow", "--json"]);
    assert_eq!((text.lines().count(), error), (2, None), "{text}");
    let (text, _) = run(&server, &["events", "orders", "--follow"]);
    assert!(text.starts_with("1970-01-01T00:00:00.000Z  RDS-EVENT-0147  The DB"), "{text}");
}

#[test]
fn a_server_that_is_not_there() {
    let address = FakeServer::start().address.to_string();
    for words in [&["status"][..], &["scale", "orders", "4"], &["events", "orders", "--follow"]] {
        let mut out = Vec::new();
        let error = ask::ask(parse(words).unwrap().command, &address, &mut out).unwrap_err();
        assert_eq!(error.exit, Exit::Unreachable);
        assert!(
            error.line().contains(&address) && error.line().contains("scalepoint serve"),
            "{}",
            error.line()
        );
    }
    let error = ask::ask(parse(&["status"]).unwrap().command, "not an address", &mut Vec::new()).unwrap_err();
    assert_eq!(error.exit, Exit::Usage);
}

#[test]
fn progress() {
    let server = FakeServer::start();
    let mut status = crate::scaling::control_plane::ControlPlane::clusters(&*server.control).remove(0);
    assert_eq!(progress::line(&status), "orders: available");
    status.change = Some(ChangeProgress { to: 4, busy: 3, oldest: Some(obstacle()), remaining_ms: 296_000 });
    assert_eq!(
        progress::line(&status),
        "orders: available, 2 → 4: 3 sessions busy, oldest 7 (app) open_transaction for 4.2 s; 4 min 56 s left"
    );
}

#[test]
fn checking_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("s.toml");
    std::fs::write(&file, "[[cluster]]\nname = \"a\"\nengine = \"postgres\"\n").unwrap();
    let mut out = Vec::new();
    check(&file, &mut out).unwrap();
    assert!(String::from_utf8(out).unwrap().ends_with("s.toml: fine, 1 cluster\n"));
    std::fs::write(&file, "colour = 1\n").unwrap();
    let error = check(&file, &mut Vec::new()).unwrap_err();
    assert_eq!(error.exit, Exit::Usage);
    assert!(error.message.ends_with("2 errors"), "{}", error.message);
}
