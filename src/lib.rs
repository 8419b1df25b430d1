//! Scalepoint: database processes are swapped behind live client sessions.
//!
//! Two journeys lead through the code:
//!
//! ```text
//! bytes:     client → listener → tls → handshake → session ⇄ gate → backend          (router/ + engine/)
//! capacity:  load → driver → change:  launch → hold → hand over → restore → resume   (scaling/ + compute/)
//! ```
//!
//! A reader who follows a client's bytes stays in [`router`] and sees [`engine`] only as pure functions. A reader who
//! follows a capacity change stays in [`scaling`], meets the sessions only through the router's `Hold`, and the
//! databases only through [`compute::ComputeProvider`].

pub mod app;
pub mod cli;
pub mod config;
pub mod telemetry;

pub mod router;

pub mod engine;

pub mod scaling;

pub mod compute;

pub mod api;
