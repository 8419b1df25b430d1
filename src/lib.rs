//! Scalepoint: database processes are swapped behind live client sessions.

pub mod api;
pub mod app;
pub mod cli;
pub mod compute;
pub mod config;
pub mod scaling;
pub mod telemetry;
