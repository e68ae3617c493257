//! `sweep report`: one page about a GPU.

use super::arguments::{Families, OutputArgs, families, known_by_files};
use super::derive::profile;
use super::outcome::Outcome;
use super::output::note;
use crate::error::{Context, Error, Result};
use crate::evaluate::Evaluation;
use crate::heuristics::{self, Document, builtin_document};
use crate::journal;
use crate::model::{Bytes, Family};
use crate::nightly;
use crate::plan;
use crate::report::{Inputs, Night, page};
use crate::sweep::Effort;
use clap::Args;
use rayon::prelude::*;
use std::path::PathBuf;

/// Make one page about a GPU: what changed, what is served, how near it comes to the best
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "The page is one file that needs no server and no network: whether anything regressed, what is served where and \
how far behind the best that is, a roofline of every problem's winner, which knobs matter, where time went, what \
failed, and how nights compare. It is made of what lies in the GPU's folder: the document, the journals or else \
the archives, evaluation.json of sweep evaluate, and nights of sweep nightly. What is not there is left out, and \
the page says how to make it.

Examples:
  sweep report --gpu h200 -o report.html
  sweep report --gpu h200 --against old.json -o report.html"
)]
pub(super) struct ReportArgs {
    /// Short name of the GPU: h200, b200, …, cpu
    #[arg(long, value_name = "NAME")]
    gpu: String,
    /// Document to compare with
    #[arg(long, value_name = "OLD.json")]
    against: Option<PathBuf>,
    /// The page, which is replaced
    #[arg(short = 'o', long = "out", value_name = "FILE")]
    out: PathBuf,
    /// Families of your own, by their manifests; those in sweeps/ are found by their names
    #[arg(long, value_name = "NAME|PATH[,…]", value_parser = families)]
    family: Option<Families>,
    #[command(flatten)]
    output: OutputArgs,
}

/// Reads what there is and writes the page.
pub(super) fn run(args: &ReportArgs) -> Result<Outcome> {
    let folder = args.output.of_gpu(&args.gpu)?;
    let document = document(args)?;
    let load = |path: &PathBuf| Ok::<_, Error>((path.display().to_string(), Document::load(path)?));
    let against = args.against.as_ref().map(load).transpose()?;
    let read = |path: &PathBuf| {
        let contents = journal::read(path)?;
        contents.headers.iter().try_for_each(|header| header.refuse_other_gpu(&args.gpu)).context(|| path.display())?;
        Ok((path.display().to_string(), contents))
    };
    // A document alone has a page too.
    let files = folder.recorded()?;
    let own = known_by_files(&files, args.family.as_ref())?;
    let journals = files.par_iter().map(read).collect::<Result<Vec<_>>>()?;
    for warning in journals.iter().flat_map(|(_, contents)| &contents.warnings) {
        note!("{warning}");
    }
    let evaluation = folder.evaluation_report();
    let evaluation = evaluation
        .is_file()
        .then(|| Ok::<_, Error>((evaluation.display().to_string(), Evaluation::load(&evaluation)?)))
        .transpose()?;
    let mut nights = Vec::new();
    for night in nightly::kept(&folder)? {
        match Document::load(&night.document) {
            Ok(document) => nights.push(Night { when: night.when, verdict: night.verdict, document }),
            Err(error) => note!("left out: {error}"),
        }
    }
    let inputs = Inputs {
        gpu: args.gpu.clone(),
        profile: profile(&args.gpu, &journals)?,
        plans: plan::load_all(&Family::ALL.into_iter().chain(own).collect::<Vec<_>>(), None)?,
        document,
        against,
        journals,
        effort: Effort::load(&folder),
        evaluation,
        nights,
    };
    let html = page(&inputs)?;
    heuristics::replace(&args.out, |file| Ok(file.write_all(html.as_bytes())?))
        .context(|| format!("writing {}", args.out.display()))?;
    note!("wrote {} ({})", args.out.display(), Bytes(html.len() as u64));
    Ok(Outcome::Done)
}

/// The GPU's document, else the one built in, with what to call it.
fn document(args: &ReportArgs) -> Result<(String, Document)> {
    let path = args.output.of_gpu(&args.gpu)?.document();
    if path.is_file() {
        return Ok((path.display().to_string(), Document::load(&path)?));
    }
    let text = builtin_document(&args.gpu).ok_or_else(|| {
        let gpu = &args.gpu;
        Error::usage(format!("no {} and none built in for {gpu}: run sweep --gpu {gpu} first", path.display()))
    })?;
    Ok((format!("built in for {}", args.gpu), Document::from_bytes(text.as_bytes())?))
}
