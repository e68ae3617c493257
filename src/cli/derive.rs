//! `sweep derive`: journals, or a Helion measurements file, to the document.

use super::arguments::{Families, OutputArgs, families, known_by_files};
use super::outcome::Outcome;
use super::output::{self, note};
use crate::derive::{self, Defaults, Derived, Evidence, Inputs, helion_csv};
use crate::device;
use crate::error::{Context, Error, Result};
use crate::heuristics::Document;
use crate::journal::{self, Contents, Header, Trial};
use crate::model::{Family, GpuProfile, Mma};
use crate::paths::{self, GpuFolder};
use crate::plan::{self, Plan};
use crate::report;
use clap::Args;
use rayon::prelude::*;
use serde_json::json;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

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
    /// Take together what was measured under unlike drivers, or under one that nobody told
    #[arg(long)]
    accept_driver: bool,
    /// Families of your own that the files hold trials of, by their manifests; those in sweeps/ are found by their names
    #[arg(long, value_name = "NAME|PATH[,…]", value_parser = families)]
    family: Option<Families>,
    /// The plan that the journals, of one family, were filled by, where it is not the family's own
    #[arg(long, value_name = "PATH")]
    plan: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
    /// Say for each axis of the config spaces how often the best config has its first or last value
    #[arg(short, long)]
    verbose: bool,
    /// Print what became of each class, and the edges of the spaces, as JSON on stdout
    #[arg(long)]
    json: bool,
}

/// Derives the document and writes it.
pub(super) fn run(args: &DeriveArgs) -> Result<Outcome> {
    let folder = args.output.of_gpu(&args.gpu)?;
    let files = if args.from.is_empty() { recorded_files(&folder, &args.gpu)? } else { args.from.clone() };
    let own = known_by_files(&files, args.family.as_ref())?;
    let (mut journals, mut measurements) = (Vec::new(), Evidence::default());
    let read: Vec<Result<Recorded>> = files.par_iter().map(|path| Recorded::read(path)).collect();
    for (path, recorded) in files.iter().zip(read) {
        let name = path.display().to_string();
        match recorded? {
            Recorded::Journal(contents) => {
                for warning in &contents.warnings {
                    note!("{warning}");
                }
                journals.push((name, contents));
            }
            Recorded::Measurements(file) => read_measurements(&mut measurements, file, &name)?,
        }
    }
    let profile = profile(&args.gpu, &journals)?;
    let plans = plans(args, &own, &journals)?;
    let path = folder.document();
    paths::check_outputs(Some(&path), &[])?;
    let before = if path.exists() { Some(Document::load(&path)?) } else { None };
    let derived = derive::run(Inputs {
        profile: &profile,
        journals: &journals,
        measurements,
        defaults: &defaults(&plans, &profile),
        before: before.as_ref(),
        accept_driver: args.accept_driver,
    })?;
    if derived.classes.is_empty() {
        let names: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
        return Err(Error::usage(format!("no trials in {}: nothing to derive from", names.join(", "))));
    }
    derived.document.write_atomically(&path)?;
    summarize(&derived, &path);
    if args.json || args.verbose {
        let of_latest = |contents: &Contents| -> Vec<Trial> {
            let trials: Vec<&Trial> = contents.trials.iter().collect();
            derive::of_latest_kernels(&trials).into_iter().cloned().collect()
        };
        let current: Vec<Trial> = journals.iter().flat_map(|(_, contents)| of_latest(contents)).collect();
        let edges: Vec<_> = plans
            .iter()
            .flat_map(|plan| report::edges(plan.family, &plan.spaces(&profile), &current))
            .filter(|axis| axis.problems > 0)
            .collect();
        if args.verbose {
            note!("{}", report::edges_table(&edges).trim_fmt());
        }
        if args.json {
            output::json(
                &json!({ "classes": derived.classes, "document": path.display().to_string(), "edges": edges }),
            )?;
        }
    }
    let works = derived.classes.iter().all(|class| class.unworkable.is_empty());
    Ok(if works { Outcome::Done } else { Outcome::Unworkable })
}

/// The GPU's profile, with as many multiprocessors as its journals tell; of one the tool does not know, as far as the
/// architecture in them tells.
pub(super) fn profile(gpu: &str, journals: &[(String, Contents)]) -> Result<GpuProfile> {
    let headers = || journals.iter().flat_map(|(_, contents)| &contents.headers);
    let profile = known_profile(gpu, headers().next())?;
    let multiprocessors = headers().find_map(|header| header.multiprocessors).unwrap_or(profile.multiprocessors);
    Ok(GpuProfile { multiprocessors, ..profile })
}

fn known_profile(gpu: &str, header: Option<&Header>) -> Result<GpuProfile> {
    if gpu == GpuProfile::CPU {
        return Ok(device::cpu::discover().profile);
    }
    GpuProfile::by_name(gpu).or_else(|unknown| {
        let arch = header.map(|header| header.arch.clone()).ok_or(unknown.clone())?;
        let mma = Mma::of_arch(&arch);
        let like = GpuProfile::known().into_iter().find(|known| known.mma == mma).ok_or(unknown)?;
        Ok(GpuProfile { name: gpu.to_owned(), arch, ..like })
    })
}

/// Every family's plan, or the one that the journals of one family were filled by.
fn plans(args: &DeriveArgs, own: &[Family], journals: &[(String, Contents)]) -> Result<Vec<Plan>> {
    let families: BTreeSet<Family> = match args.plan {
        None => Family::ALL.iter().chain(own).copied().collect(),
        Some(_) => journals.iter().flat_map(|(_, contents)| &contents.trials).map(|trial| trial.family).collect(),
    };
    plan::load_all(&families.into_iter().collect::<Vec<_>>(), args.plan.as_deref())
}

/// The default configs of every family that has a plan for this GPU.
fn defaults(plans: &[Plan], profile: &GpuProfile) -> Defaults {
    plans.iter().map(|plan| (plan.family, plan.defaults(profile))).collect()
}

/// The GPU's journals, or its archive where there are none.
fn recorded_files(folder: &GpuFolder, gpu: &str) -> Result<Vec<PathBuf>> {
    let files = folder.recorded()?;
    if files.is_empty() {
        let (journals, archives) = (folder.journals(), folder.archives());
        return Err(Error::usage(format!(
            "no journal in {} and no archive in {}: run sweep --gpu {gpu} first",
            journals.display(),
            archives.display()
        )));
    }
    Ok(files)
}

/// A file to derive from, by the ending of its name.
enum Recorded {
    Journal(Contents),
    Measurements(File),
}

impl Recorded {
    fn read(path: &Path) -> Result<Self> {
        let name = || path.display().to_string();
        let ending = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
        match ending.as_deref() {
            Some("jsonl" | "zst") => Ok(Self::Journal(journal::read(path)?)),
            Some("csv") => Ok(Self::Measurements(
                File::open(path).map_err(Error::of_named_file).context(|| format!("opening {}", name()))?,
            )),
            _ => {
                Err(Error::usage(format!("{}: neither a journal (.jsonl, .jsonl.zst) nor measurements (.csv)", name())))
            }
        }
    }
}

/// Adds what a measurements file holds to the evidence.
fn read_measurements(evidence: &mut Evidence, file: File, name: &str) -> Result<()> {
    let report = helion_csv::read(evidence, std::io::BufReader::new(file), name)?;
    note!("{name}: {} timed, {} failed, {} bad rows", report.timed, report.failed, report.bad_rows);
    for row in &report.bad {
        note!("{name}:{}: {}", row.line, row.reason);
    }
    if report.bad_rows > report.bad.len() {
        note!("{name}: and {} more bad rows", report.bad_rows - report.bad.len());
    }
    Ok(())
}

fn summarize(derived: &Derived, path: &Path) {
    for class in &derived.classes {
        note!(
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
            note!(
                "{}: {} buckets without a config that keeps up with the default",
                class.class,
                class.slower_than_default
            );
        }
        if !class.borrowed_fallbacks.is_empty() {
            let groups = class.borrowed_fallbacks.join(", ");
            note!("{}: no problem in group {groups}: its fallback is the best single config", class.class);
        }
        if let Some(model) = &class.model {
            let regret: Vec<_> =
                model.regret.iter().map(|(source, geomean)| format!("{source} {geomean:.3}")).collect();
            note!(
                "{}: a model of {} configs; slowdown on problems left out: {}",
                class.class,
                model.configs,
                regret.join(", ")
            );
        }
        if let Some(reason) = &class.no_model {
            note!("{}: no model: {reason}", class.class);
        }
        if class.carried_over > 0 {
            note!(
                "{}: {} rules, fallbacks and models stay as they were: they were measured on problems that were not measured anew",
                class.class,
                class.carried_over
            );
        }
        if class.rules + class.fallbacks == 0 {
            note!("{}: nothing to serve: what the document had of it stays", class.class);
        }
        if !class.unworkable.is_empty() {
            note!("{}: no working config for {}", class.class, class.unworkable.join("; "));
        }
    }
    if derived.unusable_trials > 0 {
        note!("{} trials are called ok but have no usable time: left out", derived.unusable_trials);
    }
    if derived.stray_trials > 0 {
        note!(
            "{} trials err far more than others of their problem, as with a race: their kernels are taken for wrong there",
            derived.stray_trials
        );
    }
    if derived.changed_trials > 0 {
        note!("{} trials are of kernels that have changed since: left out", derived.changed_trials);
    }
    for family in &derived.of_other_kernels {
        note!("{family}: no trial is of a kernel that these sources make: all count, as of the version that made them");
    }
    note!("wrote {}", path.display());
}
