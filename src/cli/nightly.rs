//! `sweep nightly`: regenerate everything, compare, replace.

use super::measure::MeasureArgs;
use super::outcome::Outcome;
use super::output::{self, note};
use crate::error::Result;
use crate::nightly::{self, Event, Report, Verdict};
use crate::sweep;

/// Regenerate everything, compare with the document that is there, replace it where nothing got slower
#[derive(clap::Args, Debug)]
#[command(
    after_help = "What did not change (kernels, compiler, driver, GPU, protocol) is spot-checked; a drift beyond noise measures \
the family again, and so does another environment or protocol: the journal is then set aside. What looks slower \
than in the document before races it, the old program in the same rounds as the new one, and only what that \
confirms is a regression. Whatever fails or is cut leaves the old document in place. Exits with 5 where the new \
one has a regression, unless that is accepted.

Examples:
  sweep nightly --gpu h200 --budget 2h
  sweep nightly --gpu h200 --accept --json"
)]
pub(super) struct NightlyArgs {
    /// GPU to measure on: auto (a CUDA device, else the cpu), h200, b200, …, cpu
    #[arg(long, value_name = "NAME")]
    gpu: String,
    #[command(flatten)]
    measure: MeasureArgs,
    /// Replace the document even where something got slower
    #[arg(long)]
    accept: bool,
    /// Good nights whose journals and documents are kept; nights that failed, or came to a regression, are not counted
    #[arg(long, value_name = "N", default_value_t = 7)]
    keep: usize,
}

pub(super) fn run(args: &NightlyArgs) -> Result<Outcome> {
    let options = nightly::Options {
        sweep: sweep::Options { journal_only: true, ..args.measure.options(&args.gpu)? },
        accept: args.accept,
        keep: args.keep,
    };
    let tell = |event: &Event| {
        if args.measure.json {
            output::json(event)?;
        }
        Ok(())
    };
    let report = nightly::run(&options, &tell)?;
    if !args.measure.json {
        summarize(&report)?;
    }
    Ok(match report.verdict {
        Verdict::Kept => Outcome::Regression,
        _ if report.unworkable => Outcome::Unworkable,
        _ => Outcome::Done,
    })
}

fn summarize(report: &Report) -> Result<()> {
    if let Some(diff) = &report.diff {
        output::result(&diff.to_table())?;
    }
    for confirmation in &report.confirmations {
        note!("{}", confirmation.line());
    }
    if report.cut_short {
        note!("the budget ran out before the plan did");
    }
    let document = report.document.display();
    match report.verdict {
        Verdict::Replaced => note!("wrote {document}"),
        Verdict::Same => note!("{document} stays as it is: nothing changed"),
        Verdict::Unchecked => {
            note!("{document} stays as it is: the device had other work, and nothing could be checked");
        }
        Verdict::Kept => note!(
            "{document} stays: the new one has a regression; see {} or replace it with --accept",
            report.night.display()
        ),
    }
    Ok(())
}
