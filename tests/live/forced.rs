//! What tokio-postgres makes of a forced change: every lost transaction is an error, and nothing that it takes for
//! committed is missing. The bytes themselves are tested in `tests/drivers/test_forced.py`.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::SinkExt as _;
use serde_json::Value;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, NoTls};

use crate::harness::{PATIENCE, Server, cluster, eventually};

async fn connect(server: &Server) -> Client {
    let (client, connection) = server.rust_client().connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn in_transaction(server: &Server, what: &str) -> Client {
    let client = connect(server).await;
    client.batch_execute(&format!("BEGIN; INSERT INTO believed VALUES ('lost: {what}')")).await.unwrap();
    client
}

/// The session is usable; what it writes now stays.
async fn goes_on(client: &mut Client, what: &str) {
    let transaction = client.transaction().await.unwrap();
    transaction.execute("INSERT INTO believed VALUES ($1)", &[&what]).await.unwrap();
    transaction.commit().await.unwrap();
}

#[track_caller]
fn failed_with<T>(result: Result<T, Error>, code: &SqlState) {
    let error = result.err().expect("an error");
    assert_eq!(error.code(), Some(code), "{error:?}");
}

/// Forces a change, and returns the report.
async fn force(server: &Arc<Server>) -> Value {
    let scale =
        ["scale", "orders", "4", "--seconds-before-timeout", "10", "--timeout-action", "force", "--json"];
    let report = with(server, move |server| server.json(&scale)).await;
    assert_eq!(report["outcome"], "forced", "{report}");
    report
}

/// What blocks, apart from the runtime that the clients need.
async fn with<T: Send + 'static>(
    server: &Arc<Server>,
    work: impl FnOnce(&Server) -> T + Send + 'static,
) -> T {
    let server = Arc::clone(server);
    spawn_blocking(move || work(&server)).await.unwrap()
}

fn running(client: Client) -> JoinHandle<(Client, Result<u64, Error>)> {
    tokio::spawn(async move {
        let answer = client.execute("INSERT INTO believed SELECT 'lost: run' FROM pg_sleep(600)", &[]).await;
        (client, answer)
    })
}

async fn until_running(server: &Arc<Server>, count: usize) {
    let active = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%lost: run%' \
                  AND pid <> pg_backend_pid()";
    with(server, move |server| eventually("they run", || server.sql(active) == count.to_string())).await;
}

async fn start(forced_change: &str) -> Arc<Server> {
    let section = cluster("orders", &format!("forced_change = \"{forced_change}\""));
    let start = move || {
        let server = Server::of(&section);
        server.sql("CREATE TABLE believed (what text)");
        Arc::new(server)
    };
    spawn_blocking(start).await.unwrap()
}

/// What was committed is all that is there, and nothing is left when the server stops.
async fn end(server: Arc<Server>, committed: &str) {
    let found = "SELECT string_agg(what, ', ' ORDER BY what COLLATE \"C\") FROM believed";
    assert_eq!(with(&server, move |server| server.sql(found)).await, committed);
    let server = Arc::into_inner(server).unwrap();
    assert!(spawn_blocking(move || server.stop()).await.unwrap().success());
}

fn counts(report: &Value) -> [u64; 3] {
    ["carried", "aborted", "closed"].map(|fate| report["sessions"][fate].as_u64().unwrap())
}

/// Of three clients one commits, one rolls back, and one passes over the error and commits.
async fn every_end(mut commits: Client, mut rolls_back: Client, mut swallows: Client) {
    failed_with(commits.batch_execute("COMMIT").await, &SqlState::T_R_SERIALIZATION_FAILURE);
    goes_on(&mut commits, "commits").await;
    rolls_back.batch_execute("ROLLBACK").await.unwrap();
    goes_on(&mut rolls_back, "rolls back").await;
    let swallowed = swallows.execute("INSERT INTO believed VALUES ('lost: again')", &[]).await;
    failed_with(swallowed, &SqlState::T_R_SERIALIZATION_FAILURE);
    failed_with(swallows.simple_query("SELECT 1").await, &SqlState::IN_FAILED_SQL_TRANSACTION);
    failed_with(swallows.batch_execute("COMMIT").await, &SqlState::T_R_SERIALIZATION_FAILURE);
    goes_on(&mut swallows, "swallows").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_are_aborted_and_sessions_go_on() {
    let server = start("abort_transaction").await;
    let mut idle = connect(&server).await;
    let prepared = idle.prepare("SELECT $1::int4 + 1").await.unwrap();
    let commits = in_transaction(&server, "commit").await;
    let rolls_back = in_transaction(&server, "rollback").await;
    let swallows = in_transaction(&server, "swallowed").await;
    let mut nested = connect(&server).await;
    let mut outer = nested.transaction().await.unwrap();
    outer.execute("INSERT INTO believed VALUES ('lost: outer')", &[]).await.unwrap();
    let inner = outer.transaction().await.unwrap();
    inner.execute("INSERT INTO believed VALUES ('lost: inner')", &[]).await.unwrap();
    let busy = running(in_transaction(&server, "running").await);
    let alone = running(connect(&server).await);
    let mut copies = connect(&server).await;
    let mut copy = Box::pin(copies.copy_in::<_, Bytes>("COPY believed FROM STDIN").await.unwrap());
    copy.send(Bytes::from_static(b"lost: copied\n")).await.unwrap();
    copy.flush().await.unwrap();
    until_running(&server, 2).await;

    let report = force(&server).await;

    every_end(commits, rolls_back, swallows).await;
    failed_with(inner.rollback().await, &SqlState::T_R_SERIALIZATION_FAILURE);
    let half = outer.execute("INSERT INTO believed VALUES ('lost: half')", &[]).await;
    failed_with(half, &SqlState::IN_FAILED_SQL_TRANSACTION);
    failed_with(outer.commit().await, &SqlState::T_R_SERIALIZATION_FAILURE);
    goes_on(&mut nested, "nested").await;
    let (mut busy, cancelled) = busy.await.unwrap();
    failed_with(cancelled, &SqlState::QUERY_CANCELED);
    failed_with(busy.batch_execute("COMMIT").await, &SqlState::T_R_SERIALIZATION_FAILURE);
    goes_on(&mut busy, "busy").await;
    let (mut alone, cancelled) = alone.await.unwrap();
    failed_with(cancelled, &SqlState::QUERY_CANCELED);
    goes_on(&mut alone, "alone").await;
    failed_with(copy.as_mut().finish().await, &SqlState::QUERY_CANCELED);
    goes_on(&mut copies, "copies").await;
    let row = idle.query_one(&prepared, &[&41]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 42);
    goes_on(&mut idle, "idle").await;

    assert_eq!(counts(&report), [3, 5, 0], "{report}");
    end(server, "alone, busy, commits, copies, idle, nested, rolls back, swallows").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_block_are_closed() {
    let server = start("close").await;
    let mut idle = connect(&server).await;
    let (open, connection) = server.rust_client().connect(NoTls).await.unwrap();
    let end_of_open = tokio::spawn(connection);
    open.batch_execute("BEGIN; INSERT INTO believed VALUES ('lost: open')").await.unwrap();
    let owner = connect(&server).await;
    owner.batch_execute("CREATE TEMP TABLE own (a int)").await.unwrap();
    let busy = running(in_transaction(&server, "running").await);
    let alone = running(connect(&server).await);
    until_running(&server, 2).await;

    let report = force(&server).await;

    let told = tokio::time::timeout(PATIENCE, end_of_open).await.unwrap().unwrap().unwrap_err();
    assert_eq!(told.code(), Some(&SqlState::ADMIN_SHUTDOWN));
    assert_eq!(
        told.as_db_error().unwrap().message(),
        "terminating connection due to serverless scale event timeout"
    );
    for closed in [open, owner] {
        assert!(closed.batch_execute("COMMIT").await.unwrap_err().is_closed() && closed.is_closed());
    }
    let (busy, cancelled) = busy.await.unwrap();
    failed_with(cancelled, &SqlState::QUERY_CANCELED);
    assert!(busy.batch_execute("COMMIT").await.is_err());
    let (mut alone, cancelled) = alone.await.unwrap();
    failed_with(cancelled, &SqlState::QUERY_CANCELED);
    goes_on(&mut alone, "alone").await;
    goes_on(&mut idle, "idle").await;

    assert_eq!(counts(&report), [2, 0, 3], "{report}");
    end(server, "alone, idle").await;
}
