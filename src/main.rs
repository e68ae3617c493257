//! `sweep`: see `sweep --help`.

use clap::Parser;
use kernel_sweep::cli::{self, Cli};
use kernel_sweep::process;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = Cli::parse();
    let outcome = process::caught("sweep", || cli::run(arguments));
    if let Err(error) = &outcome {
        let _ = writeln!(std::io::stderr(), "error: {error}");
    }
    ExitCode::from(cli::exit_code(&outcome))
}
