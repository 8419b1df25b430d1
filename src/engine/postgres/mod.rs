//! The PostgreSQL protocol.

pub mod auth;
