//! The API over a real socket, with a fake control plane behind it.

#![expect(clippy::disallowed_methods, reason = "these threads have no runtime")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant, UNIX_EPOCH};

use serde_json::{Value, json};

use super::fake::FakeServer;
use crate::config::TimeoutAction;
use crate::scaling::report::{Event, Outcome};

/// Sends a request as it is and reads the answer to its end: status and body.
fn raw(server: &FakeServer, head: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect_timeout(&server.address, Duration::from_secs(20)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let length = body.len();
    write!(stream, "{head}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

fn get(server: &FakeServer, path: &str) -> (u16, Value) {
    let (status, body) = raw(server, &format!("GET {path} HTTP/1.1\r\nHost: localhost:8460"), "");
    (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
}

fn post(server: &FakeServer, path: &str, body: &str) -> (u16, Value) {
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json; charset=utf-8");
    let (status, body) = raw(server, &head, body);
    (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
}

#[test]
fn reads() {
    let server = FakeServer::start();
    assert_eq!(get(&server, "/healthz"), (200, json!({"status": "ok"})));
    let (status, list) = get(&server, "/v1/clusters");
    assert_eq!((status, &list["clusters"][0]["name"]), (200, &json!("orders")));
    let (status, one) = get(&server, "/v1/clusters/orders");
    assert_eq!((status, &one), (200, &list["clusters"][0]));
    let (status, sessions) = get(&server, "/v1/clusters/orders/sessions");
    assert_eq!((status, &sessions["sessions"][0]["obstacle"]), (200, &json!("open_transaction")));
    let (status, events) = get(&server, "/v1/clusters/orders/events");
    assert_eq!((status, &events["events"][1]["event_id"]), (200, &json!("RDS-EVENT-0142")));
    let (status, metrics) = get(&server, "/metrics");
    assert!(status == 200 && metrics.as_str().is_some_and(|text| text.contains("scalepoint_build")));
}

#[test]
fn errors_have_a_code_and_a_hint() {
    let server = FakeServer::start();
    let gets = [
        ("/nowhere", 404, "unknown_path"),
        ("/v1/clusters/nope", 404, "unknown_cluster"),
        ("/v1/clusters/nope/sessions", 404, "unknown_cluster"),
        ("/v1/clusters/nope/events?follow", 404, "unknown_cluster"),
        ("/v1/clusters/orders/scale", 405, "wrong_method"),
    ];
    for (path, status, code) in gets {
        let (got, body) = get(&server, path);
        assert_eq!((got, &body["code"]), (status, &json!(code)), "{path}: {body}");
        assert!(body["error"].is_string() && body.get("hint").is_some(), "{body}");
    }
    let scale = "/v1/clusters/orders/scale";
    let long = format!("{{\"capacity\": 4{}}}", " ".repeat(20_000));
    let posts = [
        (scale, r#"{"capacity": 5}"#, 400, "not_on_ladder"),
        (scale, r#"{"capacity": 32}"#, 400, "out_of_range"),
        (scale, r#"{"capacity": 16, "timeout_action": "force"}"#, 409, "change_in_progress"),
        (scale, r#"{"capacity": 4, "seconds_before_timeout": 9}"#, 400, "bad_request"),
        (scale, r#"{"capacity": 4, "seconds_before_timeout": 601}"#, 400, "bad_request"),
        (scale, r#"{"capacity": 4, "timeout_action": "explode"}"#, 400, "bad_request"),
        (scale, r#"{"capacity": 4, "colour": 1}"#, 400, "bad_request"),
        (scale, r#"{"capacity": -4}"#, 400, "bad_request"),
        (scale, "", 400, "bad_request"),
        (scale, &long, 413, "too_large"),
        ("/v1/clusters/nope/scale", r#"{"capacity": 4}"#, 404, "unknown_cluster"),
        ("/v1/clusters/orders/pause", "{}", 409, "not_available"),
        ("/v1/clusters/nope/pause", "{}", 404, "unknown_cluster"),
        ("/v1/clusters/orders/resume", "{}", 409, "not_available"),
        ("/v1/clusters", "{}", 405, "wrong_method"),
    ];
    for (path, body, status, code) in posts {
        let (got, answer) = post(&server, path, body);
        assert_eq!((got, &answer["code"]), (status, &json!(code)), "{path} {body:.60}: {answer}");
    }
    assert!(server.control.asked.lock().unwrap().is_empty());
}

#[test]
fn scales_with_what_was_asked() {
    let server = FakeServer::start();
    let body =
        r#"{"capacity": 4, "seconds_before_timeout": 10, "timeout_action": "ForceApplyCapacityChange"}"#;
    let (status, report) = post(&server, "/v1/clusters/orders/scale", body);
    assert_eq!((status, &report["outcome"], &report["to"]), (200, &json!("scaled"), &json!(4)));
    let (_, started) = post(&server, "/v1/clusters/orders/scale", r#"{"capacity": 8, "wait": false}"#);
    assert_eq!(started["outcome"], "started");
    let asked = server.control.asked.lock().unwrap();
    assert_eq!((asked[0].capacity, asked[0].seconds_before_timeout, asked[0].wait), (4, Some(10), true));
    assert_eq!(asked[0].timeout_action, Some(TimeoutAction::ForceApplyCapacityChange));
    assert_eq!((asked[1].timeout_action, asked[1].wait), (None, false));
}

#[test]
fn a_change_goes_on_when_its_client_leaves() {
    let server = FakeServer::start();
    *server.control.takes.lock().unwrap() = Duration::from_millis(300);
    let mut stream = TcpStream::connect_timeout(&server.address, Duration::from_secs(20)).unwrap();
    let head = "POST /v1/clusters/orders/scale HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json";
    write!(stream, "{head}\r\nContent-Length: 14\r\n\r\n{{\"capacity\":4}}").unwrap();
    std::thread::sleep(Duration::from_millis(100));
    drop(stream);
    let began = Instant::now();
    while server.control.asked.lock().unwrap().is_empty() {
        assert!(began.elapsed() < Duration::from_secs(10), "the change was dropped");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn browsers_on_other_pages_get_nothing() {
    let server = FakeServer::start();
    let json = "Content-Type: application/json";
    let post = "POST /v1/clusters/orders/scale HTTP/1.1";
    let cases = [
        ("GET /healthz HTTP/1.1\r\nHost: evil.example.org".to_owned(), 403),
        ("GET /healthz HTTP/1.1\r\nHost: scale.example.org:8460".to_owned(), 200),
        ("GET http://evil.example.org/healthz HTTP/1.1\r\nHost: localhost".to_owned(), 403),
        ("GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: localhost".to_owned(), 403),
        ("GET /healthz HTTP/1.1\r\nX: y".to_owned(), 403),
        (format!("{post}\r\nHost: evil.example.org\r\n{json}"), 403),
        (format!("{post}\r\nHost: localhost"), 415),
        (format!("{post}\r\nHost: localhost\r\nContent-Type: text/plain"), 415),
        (format!("{post}\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded"), 415),
        ("OPTIONS /v1/clusters/orders/scale HTTP/1.1\r\nHost: localhost".to_owned(), 415),
    ];
    for (head, status) in cases {
        let (got, answer) = raw(&server, &head, r#"{"capacity": 4}"#);
        assert_eq!(got, status, "{head}: {answer}");
    }
    assert!(server.control.asked.lock().unwrap().is_empty());
}

#[test]
fn events_are_followed_until_the_end() {
    let server = FakeServer::start();
    let mut stream = TcpStream::connect_timeout(&server.address, Duration::from_secs(20)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(
        stream,
        "GET /v1/clusters/orders/events?follow HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    let mut chunk = [0u8; 4096];
    while !answer.contains("RDS-EVENT-0142") {
        let read = stream.read(&mut chunk).unwrap();
        assert_ne!(read, 0, "{answer}");
        answer.push_str(std::str::from_utf8(&chunk[..read]).unwrap());
    }
    let sender = server.control.events.lock().unwrap().take().unwrap();
    for _ in 0..9 {
        let _ = sender.send(Event::new(UNIX_EPOCH, "orders", "tick", "tick"));
    }
    drop(sender);
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("\"kind\":\"tick\"") && answer.ends_with("0\r\n\r\n"), "{answer}");
}

#[test]
fn stopping_does_not_wait_for_followers() {
    let server = FakeServer::start();
    let mut stream = TcpStream::connect_timeout(&server.address, Duration::from_secs(20)).unwrap();
    write!(stream, "GET /v1/clusters/orders/events?follow HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut first = [0u8; 16];
    stream.read_exact(&mut first).unwrap();
    let began = Instant::now();
    drop(server);
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[test]
fn a_failed_change_is_an_answer_not_an_error() {
    let server = FakeServer::start();
    *server.control.outcome.lock().unwrap() = Outcome::Failed;
    let (status, report) = post(&server, "/v1/clusters/orders/scale", r#"{"capacity": 4}"#);
    assert_eq!((status, &report["error"]), (200, &json!("the server did not start")));
}
