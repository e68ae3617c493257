//! `sweep evaluate`: how good the document is on shapes it was not made from.

use super::measure::{Time, choice, devices, stop_on_interrupt};
use super::{Families, Outcome, OutputArgs, families};
use crate::compile::Settings;
use crate::error::{Error, Result};
use crate::evaluate;
use crate::sweep::Options;
use crate::worker::Deadlines;
use std::path::PathBuf;

/// Measure what lookup picks against the best config, on shapes not in the plan
#[derive(clap::Args, Debug)]
#[command(after_help = "Each problem's space is searched; then the pick, the default and the best race in interleaved
rounds. Regret is the pick's time over the best's.

Examples:
  sweep evaluate --gpu h200 --family matmul --shapes shapes.toml
  sweep evaluate --gpu h200 --family all --shapes tests/shapes --json")]
pub(super) struct EvaluateArgs {
    /// GPU to measure on: h200, b200, …, cpu
    #[arg(long, value_name = "NAME")]
    gpu: String,
    /// Families, or all
    #[arg(long, value_name = "NAME[,NAME…]", value_parser = families)]
    family: Families,
    /// File of [[problem]] entries as in a plan; for several families a folder that holds <family>.toml for each
    #[arg(long, value_name = "FILE")]
    shapes: PathBuf,
    /// Accept problems of the plan too; their regret flatters the document
    #[arg(long)]
    allow_planned: bool,
    /// Plan in place of the family's own
    #[arg(long, value_name = "PATH")]
    plan: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
    /// How long to measure, as 90s, 10m or 2h; the same command goes on where it ended
    #[arg(long, value_name = "TIME")]
    budget: Option<Time>,
    /// CUDA devices by number, or all of that kind
    #[arg(long, value_name = "0,1|all")]
    devices: Option<String>,
    /// Start over; the old journal is kept aside
    #[arg(long)]
    fresh: bool,
    /// Seed of inputs and measuring orders
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Print the report as JSON on stdout
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &EvaluateArgs) -> Result<Outcome> {
    if args.family.0.len() > 1 && !args.shapes.is_dir() {
        return Err(Error::usage(format!(
            "--shapes {} is one family's file; with several families give a folder that holds <family>.toml for each",
            args.shapes.display()
        )));
    }
    let (ordinals, all_devices) = devices(args.devices.as_deref())?;
    let options = Options {
        choice: choice(&args.gpu)?,
        ordinals,
        all_devices,
        families: args.family.0.clone(),
        plan: args.plan.clone(),
        output: args.output.output.clone(),
        budget: args.budget.map(|budget| budget.0),
        trial_deadline: Deadlines::TRIAL,
        compile_deadline: Settings::DEADLINE,
        shard: (0, 1),
        fresh: args.fresh,
        exhaustive: false,
        seed: args.seed,
        quiet: args.json,
        verbose: false,
        journal_only: true,
    };
    stop_on_interrupt()?;
    let report = evaluate::run(&options, &args.shapes, args.allow_planned)?;
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{report}");
    }
    let unworkable = report.problems.iter().any(|problem| problem.best.is_none() && !problem.unfinished);
    Ok(if unworkable { Outcome::Unworkable } else { Outcome::Done })
}
