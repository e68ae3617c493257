//! Compiling one kernel at once, for whoever is to run it, with the same cache as the compile service.

use super::cache::{Entry, Found};
use super::{Answer, Cache, Job, Recipes, read_cubin};
use crate::error::{Error, Result};
use crate::families::KernelSpec;

/// What the cache holds of a kernel, which needs no compiler: its cubin, and its function's name in it.
///
/// # Errors
/// Where its source is missing.
pub fn cached(recipes: &Recipes, cache: &Cache, spec: &KernelSpec) -> Result<Option<(Vec<u8>, String)>> {
    let key = recipes.key(spec)?;
    if let Found::Entry(Entry { cubin: Some(_), function, .. }) = cache.get(&key)
        && let Ok(cubin) = read_cubin(&cache.cubin(&key))
    {
        return Ok(Some((cubin, function.unwrap_or_else(|| spec.entry.clone()))));
    }
    Ok(None)
}

/// A kernel's cubin and its function's name in it: out of the cache, else compiled by `compile` and put there.
///
/// # Errors
/// Where its source is missing, the compiler refuses it or does not run, or the cache cannot be written.
pub fn cubin(
    recipes: &Recipes,
    cache: &Cache,
    spec: &KernelSpec,
    compile: impl FnOnce(&Job) -> Result<Answer>,
) -> Result<(Vec<u8>, String)> {
    if let Some(bytes) = recipes.loaded(spec)? {
        return Ok((bytes.to_vec(), spec.entry.clone()));
    }
    if let Some(cached) = cached(recipes, cache, spec)? {
        return Ok(cached);
    }
    let key = recipes.key(spec)?;
    let Answer { cubin, entry, log } = compile(&recipes.job(spec)?)?;
    let entry = Entry { function: entry, ..Entry::new(cubin.as_deref(), log) };
    cache.put(&key, cubin.as_deref(), &entry)?;
    let cubin = cubin.ok_or_else(|| Error::failure(entry.first_error()))?;
    Ok((cubin, entry.function.unwrap_or_else(|| spec.entry.clone())))
}
