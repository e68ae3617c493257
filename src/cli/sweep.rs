//! `sweep`: the main job.

use super::measure::MeasureArgs;
use super::outcome::Outcome;
use super::output::{self, note};
use crate::error::{Error, Result};
use crate::report;
use crate::site;
use crate::sweep::{self, Options};

#[derive(clap::Args, Debug)]
pub(super) struct SweepArgs {
    /// Device to measure on: auto (a CUDA device, else the cpu), cpu, b200, h200, h100, a100, …
    #[arg(long, value_name = "NAME", default_value = "auto")]
    gpu: String,
    #[command(flatten)]
    measure: MeasureArgs,
    /// Only the I-th of N parts of the problems, counted from 0, into a journal of its own; sweep derive merges them. Run
    /// all shards once more when all are done: each crosses its problems with the finalists of the others
    #[arg(long, value_name = "I/N", default_value = "0/1", value_parser = shard)]
    shard: (usize, usize),
    /// Start over; the old journal is kept aside
    #[arg(long)]
    fresh: bool,
    /// Screen every legal config of each problem in place of the guided search; the same final follows. With --fresh, and
    /// a document that a guided sweep made, the summary says how far what that one serves is from the best there is
    #[arg(long)]
    exhaustive: bool,
    /// No progress, no table
    #[arg(short, long, conflicts_with = "verbose")]
    quiet: bool,
    /// Name the configs that fail
    #[arg(short, long)]
    verbose: bool,
}

fn shard(text: &str) -> Result<(usize, usize)> {
    let parts = text.split_once('/').and_then(|(index, count)| Some((index.parse().ok()?, count.parse().ok()?)));
    parts
        .filter(|(index, count)| index < count && *count <= MOST_SHARDS)
        .ok_or_else(|| Error::usage(format!("'{text}' is no shard I/N with I from 0 to N-1 and N up to {MOST_SHARDS}")))
}

/// More shards than any plan has problems for; each run looks for the journals of all others.
const MOST_SHARDS: usize = 1000;

pub(super) fn run(args: &SweepArgs) -> Result<Outcome> {
    let options = args.measure.options(&args.gpu)?;
    let site = site::Options { shard: args.shard, quiet: args.quiet, verbose: args.verbose, ..options.site };
    let options = Options { site, fresh: args.fresh, exhaustive: args.exhaustive, ..options };
    let summary = sweep::run(&options)?;
    if args.measure.json {
        output::json(&summary)?;
    }
    if !args.quiet {
        note!("{}", report::sweep(&summary));
    }
    if summary.left() > 0 {
        return Err(Error::failure(format!(
            "{} problems are left to the next run: the machine kept them from being measured, and no config is blamed",
            summary.left()
        )));
    }
    let unworkable = summary.families.values().any(|family| !family.unworkable.is_empty());
    Ok(if unworkable { Outcome::Unworkable } else { Outcome::Done })
}
