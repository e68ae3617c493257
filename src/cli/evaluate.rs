//! `sweep evaluate`: how good the document is on shapes it was not made from.

use super::measure::MeasureArgs;
use super::outcome::Outcome;
use super::output;
use crate::error::{Error, Result};
use crate::evaluate::{self, Shapes};
use crate::paths::GpuFolder;
use crate::plan::MOST_RANDOM_PROBLEMS;
use crate::sweep::Options;
use clap::ArgGroup;
use std::path::PathBuf;

/// Measure what lookup picks against the best config, on shapes not in the plan
#[derive(clap::Args, Debug)]
#[command(
    group = ArgGroup::new("problems").required(true).args(["shapes", "random"]),
    after_help = "Each problem's space is searched; then the pick, the default and the search's best three race in interleaved \
rounds. Half of the rounds choose the best and the other half tells how far the pick is behind, and the other \
way round. Regret is the pick's time over the best's, under 1 where the pick came out ahead; intervals hold it \
with 95 %. Where the budget ended, the same command goes on. \
What --json prints is written to output/<gpu>/evaluation.json too, in place of what was there, for sweep report to draw.

Examples:
  sweep evaluate --gpu h200 --family matmul --shapes shapes.toml
  sweep evaluate --gpu h200 --family all --random 40 --seed 7
  sweep evaluate --gpu h200 --family all --shapes tests/shapes --json"
)]
pub(super) struct EvaluateArgs {
    /// GPU to measure on: h200, b200, …, cpu
    #[arg(long, value_name = "NAME")]
    gpu: String,
    #[command(flatten)]
    measure: MeasureArgs,
    /// File of [[problem]] entries as in a plan; for several families a folder that holds <family>.toml for each
    #[arg(long, value_name = "FILE")]
    shapes: Option<PathBuf>,
    /// In place of a file, so many problems of each family's domain, none of the plan, drawn by --seed; a quarter in another type
    /// than the family's first, where it has several
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MOST_RANDOM_PROBLEMS as i64))]
    random: Option<u32>,
    /// Accept problems of the plan too; their regret flatters the document
    #[arg(long, requires = "shapes")]
    allow_planned: bool,
    /// Start over; the old journal is kept aside
    #[arg(long)]
    fresh: bool,
}

pub(super) fn run(args: &EvaluateArgs) -> Result<Outcome> {
    let options = Options { fresh: args.fresh, journal_only: true, ..args.measure.options(&args.gpu)? };
    let shapes = shapes(args, options.families.len())?;
    let report = evaluate::run(&options, &shapes)?;
    report.write_atomically(&GpuFolder::new(&options.site.output, &report.gpu).evaluation_report())?;
    if args.measure.json {
        output::json(&report)?;
    } else {
        output::result(&format!("{report}\n"))?;
    }
    let unworkable = report.problems.iter().any(|problem| problem.best.is_none() && !problem.unfinished);
    Ok(if unworkable { Outcome::Unworkable } else { Outcome::Done })
}

fn shapes(args: &EvaluateArgs, families: usize) -> Result<Shapes> {
    match (&args.shapes, args.random) {
        (Some(path), _) if families > 1 && !path.is_dir() => Err(Error::usage(format!(
            "--shapes {} is one family's file: name that family, or give a folder that holds <family>.toml for each",
            path.display()
        ))),
        (Some(path), _) => Ok(Shapes::File { path: path.clone(), allow_planned: args.allow_planned }),
        (None, Some(count)) => Ok(Shapes::Random(count as usize)),
        (None, None) => Err(Error::usage("give --shapes FILE or --random N")),
    }
}
