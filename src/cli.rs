//! The command line: what can be asked, and where each question goes.
//!
//! `serve` and `check` read the configuration here; everything else is one request to the control API of a running
//! server. Results go to stdout, errors to stderr in one line with a hint, and the exit code says whose fault it was.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::{Config, DEFAULT_ADMIN, TimeoutAction};
use crate::scaling::report::{LEAST_SECONDS_BEFORE_TIMEOUT, MOST_SECONDS_BEFORE_TIMEOUT};
use crate::telemetry::{LogFormat, LogOptions};

mod ask;
mod client;
mod progress;
mod table;

#[cfg(test)]
mod tests;

/// Scalepoint: database processes are swapped behind live client sessions.
#[derive(Debug, Parser)]
#[command(name = "scalepoint", version, arg_required_else_help = true)]
pub struct Cli {
    /// Address of the server's control API (not for `serve` and `check`)
    #[arg(long, global = true, env = "SCALEPOINT_ADMIN", value_name = "ADDR", default_value = DEFAULT_ADMIN)]
    admin: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the router and the control plane in the foreground
    Serve(ServeArgs),
    /// Validate a configuration; print every error with its line
    Check {
        /// The file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Show clusters: engine, endpoint, state, capacity, sessions, last change
    Status {
        /// Only this cluster
        cluster: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show sessions, and what keeps each of them from a scaling point
    Sessions(OneCluster),
    /// Change the capacity of a cluster
    Scale(ScaleArgs),
    /// Take a cluster to capacity 0
    Pause(OneCluster),
    /// Bring a paused cluster back
    Resume(OneCluster),
    /// Show what happened to a cluster
    Events {
        #[command(flatten)]
        of: OneCluster,
        /// Go on as events come (with --json: one JSON document per line)
        #[arg(long)]
        follow: bool,
    },
}

#[derive(Debug, Args)]
struct ServeArgs {
    /// The configuration; without it a PostgreSQL cluster runs on 127.0.0.1:5432 and a MySQL one on 127.0.0.1:3306, of
    /// what the machine has
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What a line of the log looks like
    #[arg(long, value_enum, default_value = "human")]
    log_format: Format,
    /// What is logged, such as "info" or "scalepoint=debug"
    #[arg(long, env = "RUST_LOG", value_name = "FILTER")]
    log: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Human,
    Json,
}

#[derive(Debug, Args)]
struct OneCluster {
    /// Its name
    cluster: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ScaleArgs {
    /// Its name
    cluster: String,
    /// The capacity to have, ACUs
    capacity: u32,
    /// How long to look for a scaling point (default: the cluster's setting)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32)
        .range(LEAST_SECONDS_BEFORE_TIMEOUT as i64..=MOST_SECONDS_BEFORE_TIMEOUT as i64))]
    seconds_before_timeout: Option<u32>,
    /// What to do when none was found (default: the cluster's setting)
    #[arg(long, value_enum)]
    timeout_action: Option<Action>,
    /// Do not wait for the end
    #[arg(long)]
    no_wait: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Action {
    /// Change the capacity all the same
    Force,
    /// Keep the capacity
    Rollback,
}

impl From<Action> for TimeoutAction {
    fn from(action: Action) -> Self {
        match action {
            Action::Force => Self::ForceApplyCapacityChange,
            Action::Rollback => Self::RollbackCapacityChange,
        }
    }
}

/// How a command ended; the numbers are the published exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// The operation failed, and nothing changed.
    Failed = 1,
    /// Bad usage or configuration.
    Usage = 2,
    /// No scaling point; rolled back.
    NoScalingPoint = 3,
    /// Refused in the present state.
    Refused = 4,
    /// The server cannot be reached.
    Unreachable = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not end well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CliError {
    exit: Exit,
    message: String,
    hint: Option<String>,
}

impl CliError {
    fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: None }
    }

    fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// One line, whatever the server said.
    fn line(&self) -> String {
        let hint = self.hint.as_ref().map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
        format!("scalepoint: {}{hint}", self.message).replace(char::is_control, " ")
    }
}

/// What `main` has to do.
#[derive(Debug)]
pub enum Run {
    /// Serve with this configuration.
    Serve(Box<Config>, LogOptions),
    /// Nothing more.
    Exit(Exit),
}

impl Cli {
    /// Does what was asked, except for `serve`, which is the caller's.
    pub fn run(self) -> Run {
        let mut out = std::io::stdout().lock();
        let ended = match self.command {
            Command::Serve(args) => return prepare(args),
            Command::Check { config } => check(&config, &mut out),
            command => ask::ask(command, &self.admin, &mut out),
        };
        Run::Exit(match ended {
            Ok(()) => Exit::Done,
            Err(error) => {
                if error.exit != Exit::Done {
                    complain(&error.line());
                }
                error.exit
            }
        })
    }
}

/// Writes to stderr; that it is closed is no reason to fail otherwise.
fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn prepare(args: ServeArgs) -> Run {
    let config = match &args.config {
        None => Config::default_embedded(),
        Some(path) => match Config::load(path) {
            Ok(config) => config,
            Err(errors) => {
                complain(&errors.to_string());
                return Run::Exit(Exit::Usage);
            }
        },
    };
    let format = match args.log_format {
        Format::Human => LogFormat::Human,
        Format::Json => LogFormat::Json,
    };
    // An empty RUST_LOG is how shells say "unset".
    let filter = args.log.filter(|filter| !filter.is_empty());
    Run::Serve(Box::new(config), LogOptions { format, filter })
}

fn check(path: &std::path::Path, out: &mut impl Write) -> Result<(), CliError> {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(errors) => {
            complain(&errors.to_string());
            let count = errors.problems().len();
            let errors = if count == 1 { "error" } else { "errors" };
            return Err(CliError::new(Exit::Usage, format!("{}: {count} {errors}", path.display())));
        }
    };
    for warning in &config.warnings {
        complain(&format!("warning: {warning}"));
    }
    let count = config.clusters.len();
    let clusters = if count == 1 { "cluster" } else { "clusters" };
    print(out, &format!("{}: fine, {count} {clusters}\n", path.display()))
}

/// Writes a result. A reader that has gone away (`| head`) wanted no more: the command ends there, and well.
fn print(out: &mut impl Write, text: &str) -> Result<(), CliError> {
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| {
        let exit = match error.kind() {
            std::io::ErrorKind::BrokenPipe => Exit::Done,
            _ => Exit::Failed,
        };
        CliError::new(exit, format!("the result cannot be written: {error}"))
    })
}
