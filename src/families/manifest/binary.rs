//! What a cubin or a file of PTX says of itself, without a GPU, held against a launch of it.

use super::cubin::Contents;
use super::ptx;
use crate::families::{Launch, Rejection, require};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

/// What a file has, read anew where it changed.
fn contents(file: &Path) -> Result<Arc<Contents>, Rejection> {
    type Known = BTreeMap<PathBuf, (Option<SystemTime>, Arc<Contents>)>;
    static KNOWN: RwLock<Known> = RwLock::new(BTreeMap::new());
    let changed = file.metadata().and_then(|metadata| metadata.modified()).ok();
    if let Some((then, contents)) = KNOWN.read().unwrap_or_else(PoisonError::into_inner).get(file)
        && *then == changed
    {
        return Ok(Arc::clone(contents));
    }
    let data = std::fs::read(file).map_err(|error| Rejection(format!("{}: {error}", file.display())))?;
    let (read, kind) = if is_ptx(file) { (ptx::read(&data), "PTX") } else { (Contents::read(&data), "cubin") };
    let contents = read.ok_or_else(|| Rejection(format!("{} is no {kind}", file.display())))?;
    let contents = Arc::new(contents);
    let mut known = KNOWN.write().unwrap_or_else(PoisonError::into_inner);
    known.insert(file.to_path_buf(), (changed, Arc::clone(&contents)));
    Ok(contents)
}

fn is_ptx(file: &Path) -> bool {
    file.extension().is_some_and(|ending| ending == "ptx")
}

/// Refuses a launch of a function that the file lacks, whose parameters are others, or that another architecture is needed for.
pub(super) fn check(file: &Path, entry: &str, launch: &Launch, arch: &str) -> Result<(), Rejection> {
    let contents = contents(file)?;
    if let Some(own) = &contents.arch {
        let runs = if is_ptx(file) { ptx::runs_on(own, arch) } else { ptx::version(own) == ptx::version(arch) };
        require!(runs, "{} is for {own}, not for {arch}", file.display());
    }
    check_entry(&contents, &file.display().to_string(), entry, launch)
}

/// The same of a cubin that was compiled just now; one that tells nothing of itself is not refused.
pub(crate) fn check_cubin(cubin: &Path, entry: &str, launch: &Launch) -> Result<(), Rejection> {
    contents(cubin).map_or(Ok(()), |contents| check_entry(&contents, "the code", entry, launch))
}

fn check_entry(contents: &Contents, what: &str, entry: &str, launch: &Launch) -> Result<(), Rejection> {
    let parameters = contents.functions.get(entry).ok_or_else(|| {
        let names: Vec<&str> = contents.functions.keys().map(String::as_str).collect();
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        Rejection(format!("{what} has no entry '{entry}'; it has {names}"))
    })?;
    match parameters {
        Some(sizes) => launch.check_parameters(sizes).map_err(|why| Rejection(format!("{entry}: {why}"))),
        None => Ok(()),
    }
}
