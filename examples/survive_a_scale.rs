//! A client that keeps a prepared statement and a setting while the database under it is replaced.
//!
//! ```text
//! scripts/quickstart                          # in one terminal
//! cargo run --example survive_a_scale         # in another, in the same folder
//! ```
//!
//! It talks to the default cluster that the quickstart starts, and asks the control API for the changes itself. `PGHOST`,
//! `PGPORT`, `PGUSER`, `PGPASSWORD`, `PGDATABASE`, `SCALEPOINT_ADMIN` and `SCALEPOINT_CLUSTER` name another one.

use std::error::Error;
use std::time::Duration;

use tokio_postgres::{Client, Config, NoTls, Statement};

/// The capacities to go through.
const CAPACITIES: [u32; 4] = [4, 8, 4, 2];

/// A setting of the environment, or the quickstart's.
fn setting(name: &str, usual: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| usual.to_owned())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let password = match std::env::var("PGPASSWORD") {
        Ok(password) => password,
        Err(_) => std::fs::read_to_string("scalepoint-data/postgres/master_password")?,
    };
    let mut config = Config::new();
    config
        .host(setting("PGHOST", "127.0.0.1"))
        .port(setting("PGPORT", "5432").parse()?)
        .user(setting("PGUSER", "admin"))
        .password(password.trim())
        .dbname(setting("PGDATABASE", "postgres"));
    let (client, connection) = config.connect(NoTls).await?;
    let connection = tokio::spawn(connection);

    client.batch_execute("SET TimeZone = 'Antarctica/Troll'; SET my.answer = '42'").await?;
    let statement = client
        .prepare("SELECT current_setting('my.answer'), current_setting('TimeZone'), current_setting('shared_buffers')")
        .await?;
    look(&client, &statement).await?;
    for capacity in CAPACITIES {
        tokio::task::spawn_blocking(move || scale(capacity)).await??;
        look(&client, &statement).await?;
    }
    drop(client);
    connection.await??;
    println!("one connection, one prepared statement, {} databases", CAPACITIES.len() + 1);
    Ok(())
}

/// Runs the prepared statement: its settings are the session's, its buffers are the database's.
async fn look(client: &Client, statement: &Statement) -> Result<(), tokio_postgres::Error> {
    let row = client.query_one(statement, &[]).await?;
    let columns: [&str; 3] = [row.get(0), row.get(1), row.get(2)];
    println!("my.answer = {}, TimeZone = {}; shared_buffers = {}", columns[0], columns[1], columns[2]);
    Ok(())
}

/// As `scalepoint scale` does.
fn scale(capacity: u32) -> Result<(), ureq::Error> {
    let admin = setting("SCALEPOINT_ADMIN", "127.0.0.1:8460");
    let cluster = setting("SCALEPOINT_CLUSTER", "postgres");
    let request = ureq::post(format!("http://{admin}/v1/clusters/{cluster}/scale"))
        .config()
        .timeout_global(Some(Duration::from_secs(400)))
        .build();
    let mut answer =
        request.content_type("application/json").send(format!("{{\"capacity\": {capacity}}}"))?;
    let report: serde_json::Value =
        serde_json::from_str(&answer.body_mut().read_to_string()?).unwrap_or_default();
    println!("  to {capacity} ACUs: {}, clients waited {} ms at most", report["outcome"], report["stall_ms"]);
    Ok(())
}
