//! The control plane: one task per cluster, which starts its database, changes its capacity and replaces it when it
//! dies.
//!
//! In reading order: [`driver`] is the task; [`change`] carries one capacity change out; [`scaling_point`] decides when
//! a hold is worth trying; [`journal`] survives a crash; [`board`] is what others may see; [`control_plane`] is what
//! they may ask, and [`clusters`] answers it; [`report`] holds the words of the API.

pub mod board;
pub mod change;
pub mod clusters;
pub mod control_plane;
pub mod driver;
pub mod journal;
pub mod report;
pub mod scaling_point;
