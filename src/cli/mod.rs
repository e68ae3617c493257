//! The command line: clap types to validated options, one file a subcommand, and the exit codes.

mod archive;
mod arguments;
mod bundle;
mod compile;
mod derive;
mod devices;
mod diff;
mod evaluate;
mod export;
mod interrupt;
mod lookup;
mod measure;
mod new;
mod nightly;
mod outcome;
mod output;
mod report;
mod shell;
mod sweep;

pub use outcome::{Outcome, exit_code};

use crate::error::Result;
use crate::process;
use clap::{CommandFactory, Parser, Subcommand};
use std::time::Duration;

/// Which config should this kernel run with, on this shape, on this GPU?
///
/// Without a subcommand: sweeps the kernels of each family over their config spaces on a real device, and writes the best
/// config of each shape bucket as one JSON document of rules and fallbacks, which `sweep lookup` serves.
#[derive(Parser, Debug)]
#[command(
    version,
    about,
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  sweep --family elementwise --budget 10s
  sweep --gpu h200 --family all --budget 30m
  sweep lookup --gpu h200 --family matmul_fp4 --shape m=16,n=4096,k=4096
  sweep compile --gpu b200 --family elementwise --kernels 4

Exit codes: 0 done, 1 failed, 2 usage, 3 the device is not here, 4 some problem has no working config, 5 a regression, \
130 interrupted (everything measured is kept)"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    sweep: sweep::SweepArgs,
}

#[derive(Subcommand, Debug)]
enum Command {
    Compile(compile::CompileArgs),
    Derive(derive::DeriveArgs),
    Lookup(lookup::LookupArgs),
    Diff(diff::DiffArgs),
    Evaluate(evaluate::EvaluateArgs),
    Nightly(nightly::NightlyArgs),
    Report(report::ReportArgs),
    Export(export::ExportArgs),
    Archive(archive::ArchiveArgs),
    Bundle(bundle::BundleArgs),
    Devices(devices::DevicesArgs),
    New(new::NewArgs),
    Completions(shell::CompletionsArgs),
    Man(shell::ManArgs),
    /// The measuring process
    #[command(hide = true)]
    Worker,
    /// The compiling process
    #[command(hide = true)]
    CompileWorker,
}

/// Does what the command line says.
///
/// # Errors
/// Whatever went wrong, with the chain of what was being done.
pub fn run(cli: Cli) -> Result<Outcome> {
    let stdio = || (std::io::stdin().lock(), std::io::stdout().lock());
    match cli.command {
        Some(Command::Worker | Command::CompileWorker) => {} // they end with whoever started them
        None | Some(Command::Bundle(_) | Command::Compile(_) | Command::Evaluate(_) | Command::Nightly(_)) => {
            process::start_threads()?;
            interrupt::end_within(interrupt::GRACE)?;
        }
        Some(Command::Derive(_) | Command::Report(_)) => {
            process::start_threads()?;
            drop(interrupt::end_within(Duration::ZERO));
        }
        // Where that cannot be had, the system ends it all the same.
        Some(_) => drop(interrupt::end_within(Duration::ZERO)),
    }
    match cli.command {
        None => sweep::run(&cli.sweep),
        Some(Command::Compile(args)) => compile::run(&args),
        Some(Command::Derive(args)) => derive::run(&args),
        Some(Command::Lookup(args)) => lookup::run(&args).map(|()| Outcome::Done),
        Some(Command::Diff(args)) => {
            diff::run(&args).map(|regression| if regression { Outcome::Regression } else { Outcome::Done })
        }
        Some(Command::Evaluate(args)) => evaluate::run(&args),
        Some(Command::Nightly(args)) => nightly::run(&args),
        Some(Command::Report(args)) => report::run(&args),
        Some(Command::Export(args)) => export::run(&args),
        Some(Command::Archive(args)) => archive::run(&args),
        Some(Command::Bundle(args)) => bundle::run(&args),
        Some(Command::Devices(args)) => devices::run(&args),
        Some(Command::New(args)) => new::run(&args),
        Some(Command::Completions(args)) => shell::completions(&args, Cli::command()).map(|()| Outcome::Done),
        Some(Command::Man(args)) => shell::man(&args, Cli::command().name("sweep")).map(|()| Outcome::Done),
        Some(Command::Worker) => {
            let (mut input, mut output) = stdio();
            crate::worker::serve(&mut input, &mut output, None).map(|()| Outcome::Done)
        }
        Some(Command::CompileWorker) => {
            process::end_with_parent()?;
            let (mut input, mut output) = stdio();
            crate::device::cuda::serve_compiles(&mut input, &mut output).map(|()| Outcome::Done)
        }
    }
}
