//! The control plane: what is asked of a cluster, and what is told about it.

pub mod control_plane;
pub mod report;
