//! `sweep evaluate`: how good the document is on shapes it was not made from.

use super::measure::{MeasureArgs, stop_on_interrupt};
use super::{Outcome, output};
use crate::error::{Error, Result};
use crate::evaluate;
use crate::sweep::Options;
use std::path::PathBuf;

/// Measure what lookup picks against the best config, on shapes not in the plan
#[derive(clap::Args, Debug)]
#[command(after_help = "Each problem's space is searched; then the pick, the default and the best race in interleaved
rounds. Regret is the pick's time over the best's. Where the budget ended, the same command goes on.

Examples:
  sweep evaluate --gpu h200 --family matmul --shapes shapes.toml
  sweep evaluate --gpu h200 --family all --shapes tests/shapes --json")]
pub(super) struct EvaluateArgs {
    /// GPU to measure on: h200, b200, …, cpu
    #[arg(long, value_name = "NAME")]
    gpu: String,
    #[command(flatten)]
    measure: MeasureArgs,
    /// File of [[problem]] entries as in a plan; for several families a folder that holds <family>.toml for each
    #[arg(long, value_name = "FILE")]
    shapes: PathBuf,
    /// Accept problems of the plan too; their regret flatters the document
    #[arg(long)]
    allow_planned: bool,
    /// Start over; the old journal is kept aside
    #[arg(long)]
    fresh: bool,
}

pub(super) fn run(args: &EvaluateArgs) -> Result<Outcome> {
    let options = Options { fresh: args.fresh, journal_only: true, ..args.measure.options(&args.gpu)? };
    if options.families.len() > 1 && !args.shapes.is_dir() {
        return Err(Error::usage(format!(
            "--shapes {} is one family's file: name that family, or give a folder that holds <family>.toml for each",
            args.shapes.display()
        )));
    }
    stop_on_interrupt()?;
    let report = evaluate::run(&options, &args.shapes, args.allow_planned)?;
    if args.measure.json {
        output::json(&report)?;
    } else {
        output::result(&format!("{report}\n"))?;
    }
    let unworkable = report.problems.iter().any(|problem| problem.best.is_none() && !problem.unfinished);
    Ok(if unworkable { Outcome::Unworkable } else { Outcome::Done })
}
