//! `sweep diff`: what changed from one document to the next.

use super::output;
use crate::diff::{IncomparableTimes, diff};
use crate::error::Result;
use crate::heuristics::Document;
use clap::Args;
use std::path::PathBuf;

/// Compare two documents: what is faster, slower, new or gone, beyond noise.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "The times of one problem shift by some per cent from sweep to sweep, so they are compared beside the programs \
that did not change. SLOW and FAST are beyond 2 %, and stand out by more than anything does in 99 of 100 nights \
without change; what is beyond 2 % and not sure is AMBIGUOUS. Exits with 5 where something is SLOW, a class is \
slower as a whole by more than 4 %, or covered no more, and with 2 where a class was measured by unlike \
protocols.

Examples:
  sweep diff old.json output/h200/observed_heuristics_h200.json
  sweep diff --markdown old.json new.json >> comment.md"
)]
pub(super) struct DiffArgs {
    /// The document to compare with
    #[arg(value_name = "OLD.json")]
    old: PathBuf,
    /// The document that is to replace it
    #[arg(value_name = "NEW.json")]
    new: PathBuf,
    /// Print the differences as JSON
    #[arg(long)]
    json: bool,
    /// Print the differences as Markdown, for a pull request
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
}

/// Prints the differences; returns whether there is a regression.
pub(super) fn run(args: &DiffArgs) -> Result<bool> {
    let diff = diff(&Document::load(&args.old)?, &Document::load(&args.new)?, IncomparableTimes::Refuse)?;
    if args.json {
        output::result(&(serde_json::to_string_pretty(&diff)? + "\n"))?;
    } else if args.markdown {
        output::result(&diff.to_markdown())?;
    } else {
        output::result(&diff.to_table())?;
    }
    Ok(diff.regression)
}
