//! `sweep derive`: journals, or a Helion measurements file, to the document.

use crate::derive::{self, Defaults, Derived, Evidence, helion_csv};
use crate::error::{Context, Error, Result};
use crate::heuristics::Document;
use crate::journal::{self, Trial};
use crate::model::{Bytes, Family, GpuProfile};
use crate::plan::{self, Plan};
use crate::report;
use clap::Args;
use serde_json::json;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Bad rows of a file that are named one by one; the rest are counted.
const NAMED_ROWS: usize = 10;

/// Turn journals, or a Helion ahead-of-time measurements file, into the document.
///
/// Classes that the files say nothing of are kept as they are in the document that is there.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  sweep derive --gpu h200
  sweep derive --gpu h200 --from shard0.jsonl --from shard1.jsonl.zst
  sweep derive --gpu b200 --from measurements_b200.csv")]
pub(super) struct DeriveArgs {
    /// Short name of the GPU the files were measured on: h200, b200, …, cpu
    #[arg(long, value_name = "NAME")]
    gpu: String,
    /// Journals (.jsonl, .jsonl.zst) or measurements (.csv) [default: the GPU's journals, else its archive]
    #[arg(long, value_name = "FILE", num_args = 1..)]
    from: Vec<PathBuf>,
    /// Folder that holds a folder for each GPU
    #[arg(long, value_name = "DIR", default_value = "output")]
    output: PathBuf,
    /// Say for each axis of the config spaces how often the best config has its first or last value
    #[arg(short, long)]
    verbose: bool,
    /// Print what became of each class, and the edges of the spaces, as JSON on stdout
    #[arg(long)]
    json: bool,
}

/// Derives the document and writes it.
pub(super) fn run(args: &DeriveArgs) -> Result<()> {
    let folder = args.output.join(&args.gpu);
    let files = if args.from.is_empty() { recorded(&folder, &args.gpu)? } else { args.from.clone() };
    let mut evidence = Evidence::default();
    let mut trials = Vec::new();
    for file in &files {
        trials.extend(add_file(&mut evidence, file)?);
    }
    let profile = profile(&args.gpu)?;
    let plans = plan::load_all(&Family::ALL, None)?;
    let mut derived = derive::document(&evidence, &args.gpu, &defaults(&plans, &profile));
    if derived.classes.is_empty() {
        let names: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
        return Err(Error::usage(format!("no trials in {}: nothing to derive from", names.join(", "))));
    }
    let path = crate::sweep::document_path(&args.output, &args.gpu);
    if path.exists() {
        let classes: BTreeSet<String> = derived.classes.iter().map(|report| report.class.clone()).collect();
        derived.document = derive::merge(Document::load(&path)?, derived.document, &classes);
    }
    derived.document.write_atomically(&path)?;
    summarize(&derived, &path);
    if args.json || args.verbose {
        let edges: Vec<_> = plans
            .iter()
            .flat_map(|plan| report::edges(plan.family, &plan.spaces(&profile), &trials))
            .filter(|axis| axis.problems > 0)
            .collect();
        if args.verbose {
            eprintln!("{}", report::edges_table(&edges).trim_fmt());
        }
        if args.json {
            println!("{}", json!({ "classes": derived.classes, "document": path, "edges": edges }));
        }
    }
    Ok(())
}

fn profile(gpu: &str) -> Result<GpuProfile> {
    if gpu == GpuProfile::CPU { Ok(GpuProfile::cpu(1, Bytes(0))) } else { GpuProfile::by_name(gpu) }
}

/// The default configs of every family that has a plan for this GPU.
fn defaults(plans: &[Plan], profile: &GpuProfile) -> Defaults {
    plans.iter().map(|plan| (plan.family, plan.defaults(profile))).collect()
}

/// The GPU's journals, or its archive where there are none.
fn recorded(folder: &Path, gpu: &str) -> Result<Vec<PathBuf>> {
    for (place, ending) in [("journal", ".jsonl"), ("archive", ".jsonl.zst")] {
        let files = files_ending(&folder.join(place), ending)?;
        if !files.is_empty() {
            return Ok(files);
        }
    }
    let folder = folder.display();
    Err(Error::usage(format!(
        "no journal in {folder}/journal and no archive in {folder}/archive: run sweep --gpu {gpu} first"
    )))
}

/// The files of a folder by the end of their names, sorted; none where there is no such folder.
fn files_ending(folder: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    for entry in folder.read_dir().context(|| format!("reading {}", folder.display()))? {
        let path = entry.context(|| format!("reading {}", folder.display()))?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(ending)) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Adds a file to the evidence and returns a journal's trials that count.
fn add_file(evidence: &mut Evidence, path: &Path) -> Result<Vec<Trial>> {
    let name = path.display().to_string();
    if path.extension().is_some_and(|extension| extension == "csv") {
        let file = File::open(path).map_err(Error::usage).context(|| format!("opening {name}"))?;
        let report = helion_csv::read(evidence, std::io::BufReader::new(file), &name)?;
        eprintln!("{name}: {} timed, {} failed, {} bad rows", report.timed, report.failed, report.bad.len());
        for row in report.bad.iter().take(NAMED_ROWS) {
            eprintln!("{name}:{}: {}", row.line, row.reason);
        }
        if report.bad.len() > NAMED_ROWS {
            eprintln!("{name}: and {} more bad rows", report.bad.len() - NAMED_ROWS);
        }
        return Ok(Vec::new());
    }
    let contents = journal::read(path)?;
    evidence.add_journal(&contents.headers, &contents.trials).context(|| name)?;
    Ok(derive::of_latest_kernels(&contents.trials).into_iter().cloned().collect())
}

fn summarize(derived: &Derived, path: &Path) {
    for class in &derived.classes {
        eprintln!(
            "{}: {} trials, {} problems in {} buckets: {} rules, {} left to the fallback, {} fallbacks",
            class.class,
            class.trials,
            class.problems,
            class.buckets,
            class.rules,
            class.left_to_fallback,
            class.fallbacks
        );
        if class.slower_than_default > 0 {
            eprintln!(
                "{}: {} buckets without a config that keeps up with the default",
                class.class, class.slower_than_default
            );
        }
        if !class.borrowed_fallbacks.is_empty() {
            let groups = class.borrowed_fallbacks.join(", ");
            eprintln!("{}: no problem in group {groups}: its fallback is the best single config", class.class);
        }
        if !class.unworkable.is_empty() {
            eprintln!("{}: no working config for {}", class.class, class.unworkable.join("; "));
        }
    }
    if derived.unusable_trials > 0 {
        eprintln!("{} trials are called ok but have no usable time: left out", derived.unusable_trials);
    }
    if derived.stray_trials > 0 {
        eprintln!(
            "{} trials err far more than others of their problem, as with a race: their kernels are taken for wrong there",
            derived.stray_trials
        );
    }
    eprintln!("wrote {}", path.display());
}
