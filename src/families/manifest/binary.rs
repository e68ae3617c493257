//! What a cubin or a file of PTX says of itself, without a GPU, held against a launch of it.

use super::cubin::Contents;
use super::{cuda, ptx};
use crate::families::{Code, Launch, Rejection, require};
use std::collections::BTreeMap;
use std::fmt::Display;
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
    check_entry(&contents, &file.display(), entry, launch, &|| Vec::new())
}

/// The same of a cubin that was compiled of `code` just now; one that tells nothing of itself is not refused.
pub(crate) fn check_cubin(cubin: &Path, entry: &str, launch: &Launch, code: &Code) -> Result<(), Rejection> {
    contents(cubin).map_or(Ok(()), |contents| check_entry(&contents, code, entry, launch, &|| cuda::kernels(code)))
}

/// `source_names` are those of what the functions were compiled from, where their own names are not all there is to say: one without
/// C linkage has another there, and a template without an instance none.
fn check_entry(
    contents: &Contents,
    what: &dyn Display,
    entry: &str,
    launch: &Launch,
    source_names: &dyn Fn() -> Vec<String>,
) -> Result<(), Rejection> {
    let parameters = contents.functions.get(entry).ok_or_else(|| {
        let names: Vec<&str> = contents.functions.keys().map(String::as_str).collect();
        let (source_names, is_plain) = (source_names(), |name: &String| contents.functions.contains_key(name));
        let told = match (names.is_empty(), source_names.iter().all(is_plain)) {
            (true, true) => "none".to_owned(),
            (false, true) => names.join(", "),
            (_, false) => {
                let names = source_names.join(", ");
                format!("{names}; one that is not extern \"C\" is named by an expression such as {0}<4> or (void (*)(float *)){0}", source_names[0])
            }
        };
        Rejection(format!("{what} has no entry '{entry}'; it has {told}"))
    })?;
    match parameters {
        Some(sizes) => launch.check_parameters(sizes).map_err(|why| Rejection(format!("{entry}: {why}"))),
        None => Ok(()),
    }
}
