//! Tests with real servers: of the whole program, and of the parts of the MySQL engine alone.
//!
//! They are one program because each program of `tests/` compiles the harness and links the library and the drivers again,
//! which a fresh build does for every one of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod bulk;
mod cli;
mod forced;
mod harness;
mod live_mysql;
mod mysql_log_in;
mod mysql_state;
mod mysql_storm;
mod storm;
mod tls;
