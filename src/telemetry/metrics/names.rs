//! Every metric's name, labels and meaning.

/// Every metric: name, labels, meaning. Durations are seconds.
pub const NAMES: [(&str, &str, &str); 23] = [
    ("scalepoint_sessions", "cluster, state", "Client sessions by state"),
    ("scalepoint_obstacles", "cluster, obstacle", "Sessions that block a scaling point, by obstacle"),
    ("scalepoint_holds_total", "cluster, outcome", "Holds begun, by how they ended"),
    ("scalepoint_stall_seconds", "cluster", "From closing the gate to opening it"),
    (
        "scalepoint_hold_seconds",
        "cluster",
        "From the start of a hold until every session was quiet or it gave up",
    ),
    (
        "scalepoint_hand_over_seconds",
        "cluster",
        "From the last session quiet until the new instance is ready",
    ),
    ("scalepoint_restore_seconds", "cluster", "Rebuilding one session on a new backend"),
    ("scalepoint_capture_seconds", "cluster", "Asking one session's backend for its state"),
    ("scalepoint_bytes_total", "cluster, direction", "Bytes relayed"),
    ("scalepoint_authentication_failures_total", "cluster", "Logins refused for their credentials"),
    ("scalepoint_backend_restarts_total", "cluster", "Database processes replaced because they died or hung"),
    (
        "scalepoint_sessions_refused_total",
        "cluster, reason",
        "Connections refused before they became a session",
    ),
    ("scalepoint_capacity", "cluster", "Capacity now, ACUs; 0 while paused"),
    ("scalepoint_capacity_changes_total", "cluster, outcome", "Capacity changes, by outcome"),
    ("scalepoint_parkings_total", "cluster", "Idle sessions that gave their backends up"),
    ("scalepoint_rebuilds_total", "cluster", "Parked sessions that have a backend again"),
    ("scalepoint_rebuild_seconds", "cluster", "How long clients of parked sessions waited for that"),
    ("scalepoint_place_waits_total", "cluster", "Sessions that found no place on the server at once"),
    ("scalepoint_place_refusals_total", "cluster", "Sessions that found none in time"),
    (
        "scalepoint_sessions_made_ahead_total",
        "cluster",
        "Sessions that went on as they had been made ahead on a standby",
    ),
    (
        "scalepoint_statements_at_once",
        "cluster",
        "How many statements outside a transaction may run at once; 0: as many as come",
    ),
    (
        "scalepoint_statement_waits_total",
        "cluster",
        "Statements that did not begin at once because others ran",
    ),
    ("scalepoint_build", "version", "Always 1; the version that runs"),
];

/// The meaning of a metric; the name is without the prefix and the suffixes that the encoder adds.
pub(super) fn meaning(name: &str) -> &'static str {
    let full = |known: &str| {
        let known = known.strip_prefix("scalepoint_").unwrap_or(known);
        let known = known.strip_suffix("_total").unwrap_or(known);
        known.strip_suffix("_seconds").unwrap_or(known) == name
    };
    NAMES.iter().find(|(known, _, _)| full(known)).map_or("", |(_, _, meaning)| meaning)
}
