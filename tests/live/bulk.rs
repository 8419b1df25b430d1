//! Much at once, and of every kind, while the capacity changes: bulk copies, long texts, thousands of statements,
//! pipelines, large objects. What comes out must be what comes out when nothing changes.

use std::fmt::Write as _;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use tokio_postgres::config::SslMode;

use crate::harness::storm::Storm;
use crate::harness::tls_client::Tls;
use crate::harness::{PATIENCE, Server, stderr, stdout};

/// Runs a command that must succeed; what it wrote to stdout and stderr.
fn run(command: &mut Command, server: &Server) -> (String, String) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}\n{}", stderr(&output), server.log());
    (stdout(&output), stderr(&output))
}

#[test]
fn bulk_copies_both_ways() {
    const ROWS: usize = 1_000_000;
    let server = Arc::new(Server::start());
    server.sql("CREATE TABLE source (id int, text text); CREATE TABLE target (LIKE source)");
    server.sql(&format!(
        "INSERT INTO source SELECT i, repeat(md5(i::text), 3) FROM generate_series(1, {ROWS}) AS i"
    ));
    let file = server.path().join("copy");
    let (path, size) = (file.display(), |file| std::fs::metadata(file).unwrap().len());
    let storm = Storm::over(&server);
    for (round, sslmode) in ["verify-full", "disable"].into_iter().enumerate() {
        let words = [
            format!("\\copy source TO '{path}'"),
            format!("\\copy target FROM '{path}'"),
            "SELECT 'done'".to_owned(),
        ];
        let mut psql = server.client("psql", 2 * PATIENCE);
        psql.args(["-XqAt", "-v", "ON_ERROR_STOP=1"]).env("PGSSLMODE", sslmode);
        psql.args(words.iter().flat_map(|word| ["-c", word]));
        assert_eq!(run(&mut psql, &server).0.trim(), "done");
        assert!(size(&file) > 100_000_000, "{}", size(&file));
        assert_eq!(server.sql("SELECT count(*) FROM target"), ((round + 1) * ROWS).to_string());
    }
    storm.end("copies");
    let different =
        "SELECT count(*) FROM (SELECT *, count(*) FROM target GROUP BY 1, 2 HAVING count(*) <> 2) AS t";
    assert_eq!(server.sql(different), "0");
    let sum = |table: &str| server.sql(&format!("SELECT sum(hashtext(text)::bigint * id) FROM {table}"));
    assert_eq!(sum("target").parse::<i128>().unwrap(), 2 * sum("source").parse::<i128>().unwrap());
}

/// Thousands of statements whose output is always the same.
fn script() -> String {
    let mut script = String::from("\\set VERBOSITY verbose\n\\set ON_ERROR_STOP 0\n");
    script += "DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, text text);\n";
    script += "CREATE OR REPLACE FUNCTION tell(n int) RETURNS int LANGUAGE plpgsql AS \
               $$BEGIN RAISE NOTICE 'told %', n; RETURN n; END$$;\n";
    for n in 0..350 {
        let block = format!(
            "SET my.number = '{n}'; SHOW my.number;\n\
             SELECT tell({n});\n\
             BEGIN; INSERT INTO t VALUES ({n}, 'a;b''c'); SAVEPOINT s; INSERT INTO t VALUES ({n}, 'again');\n\
             ROLLBACK TO s; SELECT text FROM t WHERE id = {n}; COMMIT;\n\
             PREPARE p{n} (int) AS SELECT $1 + {n}; EXECUTE p{n} (1);\n\
             SELECT {n} / ({n} % 7);\n\
             COPY t FROM STDIN;\n{}\tcopied\n\\.\n\
             COPY (SELECT id, text FROM t WHERE id % 1000 = {n} ORDER BY id) TO STDOUT;\n\
             BEGIN; DECLARE c CURSOR FOR SELECT generate_series(1, 20); FETCH 3 FROM c; MOVE 2 FROM c; FETCH 1 FROM c;\n\
             COMMIT;\n\
             SELECT {n} AS a \\; SELECT {n} + 1 AS b;\n\
             SET search_path = {}; SHOW search_path;\n",
            n + 1000,
            if n % 2 == 0 { "public, pg_temp" } else { "\"$user\", public" },
        );
        script += &block;
        if n % 10 == 9 {
            writeln!(script, "DEALLOCATE p{}; SELECT count(*) FROM pg_prepared_statements;", n - 5).unwrap();
        }
    }
    script
}

#[test]
fn thousands_of_statements() {
    let server = Arc::new(Server::start());
    let file = server.path().join("script.sql");
    std::fs::write(&file, script()).unwrap();
    server.sql("CREATE TABLE t ()");
    let play = |sslmode: &str| {
        let mut psql = server.client("psql", 2 * PATIENCE);
        run(psql.args(["-X", "-a", "-f"]).arg(&file).env("PGSSLMODE", sslmode), &server)
    };
    let expected = play("disable");
    assert!(expected.0.lines().count() > 5000 && expected.1.contains("NOTICE:  00000: told 349"));
    assert!(expected.1.contains("division by zero") && expected.1.contains("duplicate key"));
    let storm = Storm::over(&server);
    for sslmode in ["verify-full", "disable"] {
        let (out, errors) = play(sslmode);
        // assert_eq would print all of it.
        for (got, wanted) in [(out, &expected.0), (errors, &expected.1)] {
            let differs = got.lines().zip(wanted.lines()).find(|(got, wanted)| got != wanted);
            assert!(differs.is_none() && got.len() == wanted.len(), "{differs:?}\n{}", server.log());
        }
    }
    storm.end("script");
}

/// A client of the Rust driver whose connection is driven by a task of its own.
async fn connect(server: &Server) -> tokio_postgres::Client {
    let mut config = server.rust_client();
    let (client, connection) =
        config.ssl_mode(SslMode::Require).connect(Tls::new(&server.ca())).await.unwrap();
    tokio::spawn(async { connection.await.inspect_err(|error| eprintln!("{error:?}")) });
    client
}

/// A text and a parameter of `length` bytes, and a result of 20 MB. The rows keep the driver's prepared statements, which
/// are closed with them.
async fn long(client: &tokio_postgres::Client, length: usize) {
    let text = "x".repeat(length);
    let length = i32::try_from(length).unwrap();
    let rows = client.query(&format!("SELECT length('{text}')"), &[]).await.unwrap();
    assert_eq!(rows[0].get::<_, i32>(0), length);
    let rows = client.query("SELECT length($1), $1", &[&text]).await.unwrap();
    assert_eq!(rows[0].get::<_, i32>(0), length);
    assert!(rows[0].get::<_, &str>(1) == text);
    let rows = client.simple_query(&format!("SELECT md5('{text}')")).await.unwrap();
    assert_eq!(rows.len(), 3);
    let rows = client.query("SELECT repeat('y', 1000) FROM generate_series(1, 20000)", &[]).await.unwrap();
    assert_eq!(rows.len(), 20_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_texts_and_large_parameters() {
    const LONG: usize = 20_000_000;
    let server = Arc::new(Server::start());
    let client = connect(&server).await;
    let storm = Storm::over(&server);
    let mut round = 0;
    // On a busy machine a rest may pass without a change.
    while round < 4 || (storm.changes() < 2 && round < 20) {
        round += 1;
        long(&client, LONG + round).await;
        // Without a rest there is no scaling point. A prepared statement this long stands in the way until the session
        // has looked at itself once more without it, and data that were written since are flushed first.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    tokio::task::spawn_blocking(|| storm.end("long texts")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelines_of_the_rust_driver() {
    let server = Arc::new(Server::start());
    let client = connect(&server).await;
    client.batch_execute("SET my.own = '7'; CREATE TABLE pipelined (id int)").await.unwrap();
    let statement = client.prepare("SELECT $1::int4 + current_setting('my.own')::int4").await.unwrap();
    let insert = client.prepare("INSERT INTO pipelined VALUES ($1)").await.unwrap();
    let storm = Storm::over(&server);
    let mut sent = 0;
    for _round in 0..10 {
        let numbers: Vec<i32> = (sent..sent + 500).collect();
        let rows = try_join_all(numbers.iter().map(async |n| client.query_one(&statement, &[n]).await));
        let inserts = try_join_all(numbers.iter().map(async |n| client.execute(&insert, &[n]).await));
        let (rows, inserted) = futures_util::future::try_join(rows, inserts).await.unwrap();
        assert!(rows.iter().zip(&numbers).all(|(row, n)| row.get::<_, i32>(0) == n + 7));
        assert!(inserted.iter().all(|count| *count == 1));
        sent += 500;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::task::spawn_blocking(|| storm.end("pipelines")).await.unwrap();
    let found = client.query_one("SELECT count(*), count(DISTINCT id) FROM pipelined", &[]).await.unwrap();
    assert_eq!((found.get::<_, i64>(0), found.get::<_, i64>(1)), (sent.into(), sent.into()));
}

#[test]
fn pipelines_of_libpq() {
    let server = Arc::new(Server::start());
    server.sql("CREATE TABLE pipelined (client int, value int)");
    let script = server.path().join("pipeline.sql");
    let text = "\\startpipeline\nINSERT INTO pipelined VALUES (:client_id, 1);\nSELECT 1;\nBEGIN;\n\
                INSERT INTO pipelined VALUES (:client_id, 2);\nCOMMIT;\n\\endpipeline\n";
    std::fs::write(&script, text).unwrap();
    let storm = Storm::over(&server);
    let mut pgbench = server.client("pgbench", 2 * PATIENCE);
    pgbench.args(["--no-vacuum", "-M", "prepared", "-c", "8", "-j", "2", "--time=10", "-f"]).arg(&script);
    let (out, errors) = run(&mut pgbench, &server);
    storm.end("pgbench pipelines");
    assert!(!errors.contains("error"), "{errors}");
    let processed =
        out.lines().find_map(|line| line.strip_prefix("number of transactions actually processed: "));
    let processed: u64 = processed.unwrap().parse().unwrap();
    assert_eq!(
        server.sql("SELECT count(*), sum(value) FROM pipelined"),
        format!("{}|{}", 2 * processed, 3 * processed)
    );
}

/// libpq reads and writes large objects by function calls, the protocol's oldest kind of request.
#[test]
fn large_objects_by_function_calls() {
    let server = Arc::new(Server::start());
    let (file, back) = (server.path().join("object"), server.path().join("back"));
    let bytes: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(&file, &bytes).unwrap();
    let storm = Storm::over(&server);
    for _round in 0..2 {
        let mut psql = server.client("psql", 2 * PATIENCE);
        psql.args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-c", &format!("\\lo_import '{}'", file.display())]);
        run(&mut psql, &server);
        let oid = server.sql("SELECT max(oid) FROM pg_largeobject_metadata");
        run(server.psql().args(["-c", &format!("\\lo_export {oid} '{}'", back.display())]), &server);
        assert!(std::fs::read(&back).unwrap() == bytes);
    }
    storm.end("large objects");
}
