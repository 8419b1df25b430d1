//! Protocols, pure: no tokio, no clock, no I/O.

pub mod postgres;
