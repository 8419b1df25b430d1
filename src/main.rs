//! Parses the command line, dispatches, and turns the outcome into an exit code.

use std::process::ExitCode;

use clap::Parser;
use scalepoint::app;
use scalepoint::cli::{Cli, Run};

fn main() -> ExitCode {
    match Cli::parse().run() {
        Run::Serve(config, log) => app::serve(&config, &log),
        Run::Exit(exit) => exit.into(),
    }
}
