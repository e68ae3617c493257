//! `sweep archive`: journals packed for committing, and unpacked for a sweep to go on from.

use super::arguments::{Families, OutputArgs, families, known_by_files};
use super::outcome::Outcome;
use super::output::note;
use crate::compile::Cache;
use crate::derive::Evidence;
use crate::error::{Context, Error, Result};
use crate::journal::{self, Contents, Lock};
use crate::model::{Bytes, Family, GpuProfile};
use crate::paths::GpuFolder;
use crate::site::{self, Progress};
use crate::sweep::{Renewed, renew as renew_trials};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Pack journals for committing, one archive a family
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  sweep archive --gpu h200
  sweep archive --gpu h200 --unpack && sweep --gpu h200")]
pub(super) struct ArchiveArgs {
    /// GPU whose journals to pack: h200, b200, …, cpu
    #[arg(long, value_name = "NAME")]
    gpu: String,
    /// Make journals of the archives instead, so that a sweep on another machine goes on where they end
    #[arg(long)]
    unpack: bool,
    /// Let trials in journals count on whose kernel's text has changed since, where it compiles to the very code that the cubin
    /// cache of then, a copy of which is in FOLDER, holds for them
    #[arg(long, value_name = "FOLDER", conflicts_with = "unpack")]
    same_code: Option<PathBuf>,
    /// Families of your own, by their manifests; those in sweeps/ are found by their names
    #[arg(long, value_name = "NAME|PATH[,…]", value_parser = families)]
    family: Option<Families>,
    #[command(flatten)]
    output: OutputArgs,
}

/// The most an archive may weigh to be committed: 4 MB.
const LIMIT: Bytes = Bytes(4_000_000);

pub(super) fn run(args: &ArchiveArgs) -> Result<Outcome> {
    let folder = args.output.of_gpu(&args.gpu)?;
    match &args.same_code {
        Some(then) => renew(args, &folder, then),
        None if args.unpack => unpack(args, &folder),
        None => pack(args, &folder),
    }
}

/// The longest that a kernel may compile.
const COMPILE_DEADLINE: Duration = Duration::from_secs(120);

fn renew(args: &ArchiveArgs, folder: &GpuFolder, then: &Path) -> Result<Outcome> {
    let profile = GpuProfile::by_name(&args.gpu)?;
    let progress = Progress::new(false, false);
    let compiler = site::compiler(COMPILE_DEADLINE, &profile, &progress)?;
    let then = Cache::in_folder(then)?;
    let _lock = Lock::take(&folder.lock((0, 1)))?;
    let own = known_by_files(&files_in(&folder.journals()), args.family.as_ref())?;
    let mut journals = 0;
    for family in Family::ALL.into_iter().chain(own) {
        for journal in folder.journals_of(family)? {
            let mut contents = together(std::slice::from_ref(&journal), &args.gpu)?;
            let Renewed { changed, same, trials, lost } = renew_trials(&mut contents, &profile, &compiler, &then)?;
            if trials > 0 {
                journal::replace(&journal, contents)?;
            }
            note!(
                "{}: {changed} kernels have another text, {same} of them the same code; {trials} trials count on, {lost} do not",
                journal.display()
            );
            journals += 1;
        }
    }
    if journals == 0 {
        return Err(Error::usage(format!(
            "no journal in {}: run sweep archive --unpack first",
            folder.path().display()
        )));
    }
    Ok(Outcome::Done)
}

/// What a folder holds; nothing where it cannot be read.
fn files_in(folder: &Path) -> Vec<PathBuf> {
    let entries = folder.read_dir().into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn pack(args: &ArchiveArgs, folder: &GpuFolder) -> Result<Outcome> {
    let mut packed = 0;
    let own = known_by_files(&files_in(&folder.journals()), args.family.as_ref())?;
    for family in Family::ALL.into_iter().chain(own) {
        let journals = folder.journals_of(family)?;
        if journals.is_empty() {
            continue;
        }
        let archive = folder.archive(family);
        let contents = together(&journals, &args.gpu).context(|| format!("packing the journals of {family}"))?;
        let size = Bytes(journal::pack(contents, &archive)?);
        note!("{}: {size}", archive.display());
        if size > LIMIT {
            note!(
                "{}: more than the {LIMIT} that may be committed; start the next sweep with --fresh",
                archive.display()
            );
        }
        packed += 1;
    }
    if packed == 0 {
        return Err(Error::usage(format!(
            "no journal in {}: run sweep --gpu {} first",
            folder.path().display(),
            args.gpu
        )));
    }
    Ok(Outcome::Done)
}

/// What journals hold, which an archive does not tell apart.
fn together(journals: &[PathBuf], gpu: &str) -> Result<Contents> {
    let (mut all, mut evidence) = (Contents::default(), Evidence::default());
    for journal in journals {
        let Contents { headers, trials, warnings, .. } = journal::read(journal)?;
        for warning in &warnings {
            note!("{warning}");
        }
        headers.iter().try_for_each(|header| header.refuse_other_gpu(gpu)).context(|| journal.display())?;
        evidence.add_journal(&headers, &[]).context(|| journal.display())?;
        all.headers.extend(headers);
        all.trials.extend(trials);
    }
    Ok(all)
}

fn unpack(args: &ArchiveArgs, folder: &GpuFolder) -> Result<Outcome> {
    let own = known_by_files(&files_in(&folder.archives()), args.family.as_ref())?;
    let archives: Vec<(Family, PathBuf)> = Family::ALL
        .into_iter()
        .chain(own)
        .map(|family| (family, folder.archive(family)))
        .filter(|(_, path)| path.is_file())
        .collect();
    if archives.is_empty() {
        return Err(Error::usage(format!("no archive in {}", folder.archives().display())));
    }
    let _lock = Lock::take(&folder.lock((0, 1)))?;
    for (family, _) in &archives {
        if let Some(journal) = folder.journals_of(*family)?.first() {
            return Err(Error::usage(format!(
                "{} is there already: move it away to unpack the archive",
                journal.display()
            )));
        }
    }
    for (family, archive) in archives {
        let journal = folder.journal(family, (0, 1));
        journal::replace(&journal, together(std::slice::from_ref(&archive), &args.gpu)?)?;
        note!("{}", journal.display());
    }
    Ok(Outcome::Done)
}
