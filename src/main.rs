//! `sweep`: see `sweep --help`.

use clap::Parser;
use kernel_sweep::cli::{self, Cli};
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let outcome = cli::run(Cli::parse());
    if let Err(error) = &outcome {
        let _ = writeln!(std::io::stderr(), "error: {error}");
    }
    ExitCode::from(cli::exit_code(&outcome))
}
