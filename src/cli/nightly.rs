//! `sweep nightly`: regenerate everything, compare, replace.

use super::sweep::{choice, devices, duration, stop_on_interrupt};
use super::{Families, Outcome, OutputArgs, families};
use crate::error::Result;
use crate::nightly::{self, Event, Report, Verdict};
use crate::sweep;
use std::path::PathBuf;
use std::time::Duration;

/// Regenerate everything, compare with the document that is there, replace it where nothing got slower
#[derive(clap::Args, Debug)]
#[command(after_help = "What did not change (kernels, compiler, driver, GPU) is spot-checked; a drift beyond noise
measures the family again. Whatever fails or is cut leaves the old document in place. Exits with
5 where the new one has a regression.

Examples:
  sweep nightly --gpu h200 --budget 2h
  sweep nightly --gpu h200 --accept --json")]
pub(super) struct NightlyArgs {
    /// GPU to measure on: auto (a CUDA device, else the cpu), h200, b200, …, cpu
    #[arg(long, value_name = "NAME")]
    gpu: String,
    /// Families, or all
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
    /// Replace the document even where something got slower
    #[arg(long)]
    accept: bool,
    /// Nights whose journals and documents are kept
    #[arg(long, value_name = "N", default_value_t = 7)]
    keep: usize,
    /// CUDA devices by number, or all of that kind
    #[arg(long, value_name = "0,1|all")]
    devices: Option<String>,
    /// Seed of inputs and measuring orders
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Print each step as a line of JSON on stdout
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &NightlyArgs) -> Result<Outcome> {
    let (ordinals, all_devices) = devices(args.devices.as_deref())?;
    let options = nightly::Options {
        sweep: sweep::Options {
            choice: choice(&args.gpu)?,
            ordinals,
            all_devices,
            families: args.family.0.clone(),
            plan: args.plan.clone(),
            output: args.output.output.clone(),
            budget: args.budget,
            shard: (0, 1),
            fresh: false,
            seed: args.seed,
            quiet: args.json,
            verbose: false,
            journal_only: true,
        },
        accept: args.accept,
        keep: args.keep,
    };
    stop_on_interrupt()?;
    let tell = |event: &Event| {
        if args.json {
            println!("{}", serde_json::to_string(event)?);
        }
        Ok(())
    };
    let report = nightly::run(&options, &tell)?;
    if !args.json {
        summarize(&report);
    }
    Ok(match report.verdict {
        Verdict::Kept => Outcome::Regression,
        _ if report.unworkable => Outcome::Unworkable,
        _ => Outcome::Done,
    })
}

fn summarize(report: &Report) {
    if let Some(diff) = &report.diff {
        print!("{}", diff.to_table());
    }
    if report.cut_short {
        eprintln!("the budget ran out before the plan did");
    }
    let document = report.document.display();
    match report.verdict {
        Verdict::Replaced => eprintln!("wrote {document}"),
        Verdict::Same => eprintln!("{document} stays as it is: nothing changed"),
        Verdict::Kept => eprintln!(
            "{document} stays: the new one has a regression; see {} or replace it with --accept",
            report.night.display()
        ),
    }
}
