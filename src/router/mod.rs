//! The data plane: one task per client.

pub mod tls;
