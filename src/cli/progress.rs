//! The line that shows how a change comes along, on stderr and only on a terminal.

use std::io::IsTerminal;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget};

use super::client::Client;
use super::table::{duration, plain};
use crate::scaling::report::ClusterStatus;

/// How often the server is asked.
const POLL: Duration = Duration::from_millis(500);

/// Runs `work`, and meanwhile shows what `cluster` is doing. The line is gone when this returns.
pub(super) fn while_waiting<T>(client: &Client, cluster: &str, work: impl FnOnce() -> T) -> T {
    if !std::io::stderr().is_terminal() {
        return work();
    }
    let line_shown = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    line_shown.enable_steady_tick(Duration::from_millis(100));
    let (done, is_done) = sync_channel::<()>(1);
    std::thread::scope(|scope| {
        let line_shown = &line_shown;
        scope.spawn(move || {
            while is_done.recv_timeout(POLL) == Err(RecvTimeoutError::Timeout) {
                if let Ok((_, status)) = client.get::<ClusterStatus>(&format!("/v1/clusters/{cluster}")) {
                    line_shown.set_message(line(&status));
                }
            }
        });
        let result = work();
        drop(done);
        line_shown.finish_and_clear();
        result
    })
}

/// "orders: seeking, 2 → 4: 3 sessions busy, oldest 7 (app) open_transaction for 4.2 s; 4 min 56 s left"
pub(super) fn line(status: &ClusterStatus) -> String {
    let state = format!("{}: {}", status.name, status.state.as_str());
    let Some(change) = &status.change else { return plain(&state) };
    let sessions = if change.busy == 1 { "session" } else { "sessions" };
    let mut text = format!("{state}, {} → {}: {} {sessions} busy", status.capacity, change.to, change.busy);
    if let Some(oldest) = &change.oldest {
        let age = duration(oldest.since_ms);
        text += &format!(", oldest {} ({}) {} for {age}", oldest.session, oldest.user, oldest.reason);
    }
    plain(&format!("{text}; {} left", duration(change.remaining_ms)))
}
