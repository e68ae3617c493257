//! `sweep`: the main job.

use super::{Families, Outcome, OutputArgs, families};
use crate::error::{Context, Error, Result};
use crate::model::GpuProfile;
use crate::report;
use crate::sweep::{self, Choice, INTERRUPTED, Options};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

#[derive(clap::Args, Debug)]
pub(super) struct SweepArgs {
    /// Device to measure on: auto (a CUDA device, else the cpu), cpu, b200, h200, h100, a100, …
    #[arg(long, value_name = "NAME", default_value = "auto")]
    gpu: String,
    /// Families: matmul, matmul_int4, matmul_int16, matmul_fp4, attention, row_softmax, elementwise, or all
    #[arg(long, value_name = "NAME[,NAME…]", default_value = "all", value_parser = families)]
    family: Families,
    /// Plan in place of the family's own
    #[arg(long, value_name = "PATH")]
    plan: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
    /// Stop measuring after this long: 90s, 10m, 2h
    #[arg(long, value_name = "TIME", value_parser = duration)]
    budget: Option<Duration>,
    /// CUDA devices by number, or all of that kind
    #[arg(long, value_name = "0,1|all")]
    devices: Option<String>,
    /// Only the I-th of N parts of the problems, counted from 0, into a journal of its own; sweep derive merges them. Run
    /// all shards once more when all are done: each crosses its problems with the finalists of the others
    #[arg(long, value_name = "I/N", default_value = "0/1", value_parser = shard)]
    shard: (usize, usize),
    /// Start over; the old journal is kept aside
    #[arg(long)]
    fresh: bool,
    /// Seed of inputs and measuring orders
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Print the summary as JSON on stdout
    #[arg(long)]
    json: bool,
    /// No progress, no table
    #[arg(short, long, conflicts_with = "verbose")]
    quiet: bool,
    /// Name the configs that fail
    #[arg(short, long)]
    verbose: bool,
}

pub(super) fn duration(text: &str) -> Result<Duration> {
    let wrong = || Error::usage(format!("'{text}' is no time such as 90s, 10m or 2h"));
    let split = text.find(|character: char| !character.is_ascii_digit() && character != '.').ok_or_else(wrong)?;
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    Duration::try_from_secs_f64(number * seconds)
        .map_err(|_| wrong())
        .and_then(|budget| if budget.is_zero() { Err(wrong()) } else { Ok(budget) })
}

fn shard(text: &str) -> Result<(usize, usize)> {
    let parts = text.split_once('/').and_then(|(index, count)| Some((index.parse().ok()?, count.parse().ok()?)));
    parts
        .filter(|(index, count)| index < count)
        .ok_or_else(|| Error::usage(format!("'{text}' is no shard I/N with I from 0 to N-1")))
}

pub(super) fn run(args: &SweepArgs) -> Result<Outcome> {
    let (ordinals, all_devices) = devices(args.devices.as_deref())?;
    let options = Options {
        choice: choice(&args.gpu)?,
        ordinals,
        all_devices,
        families: args.family.0.clone(),
        plan: args.plan.clone(),
        output: args.output.output.clone(),
        budget: args.budget,
        shard: args.shard,
        fresh: args.fresh,
        seed: args.seed,
        quiet: args.quiet,
        verbose: args.verbose,
        journal_only: false,
    };
    stop_on_interrupt()?;
    let summary = sweep::run(&options)?;
    if args.json {
        println!("{}", serde_json::to_string(&summary)?);
    }
    if !args.quiet {
        eprintln!("{}", report::sweep(&summary));
    }
    let unworkable = summary.families.values().any(|family| !family.unworkable.is_empty());
    Ok(if unworkable { Outcome::Unworkable } else { Outcome::Done })
}

/// Reads `--gpu`.
pub(super) fn choice(gpu: &str) -> Result<Choice> {
    Ok(match gpu {
        "auto" => Choice::Auto,
        GpuProfile::CPU => Choice::Named(GpuProfile::CPU.into()),
        name => Choice::Named(known_gpu(name)?),
    })
}

/// Reads `--devices`: the ordinals, and whether it is all.
pub(super) fn devices(list: Option<&str>) -> Result<(Vec<u32>, bool)> {
    match list {
        None => Ok((Vec::new(), false)),
        Some("all") => Ok((Vec::new(), true)),
        Some(list) => {
            let ordinals = list.split(',').map(|ordinal| ordinal.trim().parse()).collect::<Result<_, _>>();
            let wrong = |_| Error::usage(format!("--devices '{list}' is neither 'all' nor numbers such as 0,1"));
            Ok((ordinals.map_err(wrong)?, false))
        }
    }
}

/// From now on an interrupt ends the sweep at its next trial, and a second one at once.
pub(super) fn stop_on_interrupt() -> Result<()> {
    ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            std::process::exit(130); // asked twice: the journal is whole line by line
        }
    })
    .map_err(Error::failure)
    .context(|| "interrupt handler")
}

/// A GPU's short name: one the tool knows, or one of a device that is here.
fn known_gpu(name: &str) -> Result<String> {
    let here = || crate::device::discover().into_iter().any(|found| found.profile.name == name);
    match GpuProfile::by_name(name) {
        Ok(profile) => Ok(profile.name),
        Err(_) if here() => Ok(name.to_string()),
        Err(error) => Err(error.context("--gpu")),
    }
}
