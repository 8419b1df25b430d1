//! Scalepoint: database processes are swapped behind live client sessions.

pub mod compute;
pub mod engine;
pub mod router;
