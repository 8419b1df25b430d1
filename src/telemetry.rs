//! The log on stderr, and the numbers that Prometheus reads.

use std::str::FromStr;

use tracing_subscriber::EnvFilter;

mod metrics;

pub use metrics::{
    CapacityOutcome, ClusterMetrics, ENCODING, HoldOutcome, Metrics, NAMES, ParkingMetrics, RefusalReason,
    SessionGauge, TurnMetrics,
};

/// How `serve` writes its log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogOptions {
    /// What a line looks like.
    pub format: LogFormat,
    /// What is written, in the words of `RUST_LOG` ("info", "scalepoint=debug"); `None`: [`DEFAULT_FILTER`].
    pub filter: Option<String>,
}

/// What a line of the log looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people; colours only on a terminal.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// What is logged unless something else is asked for.
pub const DEFAULT_FILTER: &str = "info";

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter cannot be read.
    #[error("the log filter `{0}` cannot be read: {1}")]
    Filter(String, String),
    /// Something else in this process logs already.
    #[error("the log is set up already")]
    AlreadySet,
}

/// Sends the events of this process to stderr. Call it once, before anything that logs.
///
/// # Errors
/// An unreadable filter, or a second call; nothing has changed then.
pub fn init(options: &LogOptions) -> Result<(), LogError> {
    use std::io::IsTerminal;
    let filter = filter(options.filter.as_deref().unwrap_or(DEFAULT_FILTER))?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let done = match options.format {
        LogFormat::Human => lines.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    done.map_err(|_| LogError::AlreadySet)
}

fn filter(words: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::from_str(words).map_err(|error| LogError::Filter(words.to_owned(), error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        for good in ["info", "scalepoint=debug,info", "warn,scalepoint::router=trace"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        let error = filter("scalepoint=loud").unwrap_err();
        assert!(error.to_string().contains("`scalepoint=loud`"), "{error}");
    }
}
