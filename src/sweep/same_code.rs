//! Trials of kernels whose text has changed since, and whose code has not: they count on.

use crate::compile::{Cache, Compiler, Key, Outcome, read_cubin};
use crate::error::Result;
use crate::families::{self, KernelSpec};
use crate::journal::{Contents, Trial};
use crate::model::GpuProfile;
use crate::plan;
use std::collections::{BTreeMap, BTreeSet};

/// What became of the trials of changed kernels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Renewed {
    /// Kernels whose text has changed, by what was measured and what runs today.
    pub changed: usize,
    /// Those of them with the same code.
    pub same: usize,
    /// Trials that count on.
    pub trials: usize,
    /// Trials that do not: of kernels with other code, or whose cubin is not there to compare with.
    pub lost: usize,
}

/// Gives trials the key that their kernel has today, where today's text compiles to the code of the cubin in `then`, the cubin cache of
/// the time that they were made.
///
/// # Errors
/// Where the compiler does not run, or its cache cannot be written.
pub fn renew(contents: &mut Contents, profile: &GpuProfile, compiler: &Compiler, then: &Cache) -> Result<Renewed> {
    let today = |trial: &Trial| -> Option<KernelSpec> {
        let candidate = plan::candidate(trial.config.clone(), &trial.problem(), profile);
        candidate.program.ok().flatten().map(|(kernel, _)| kernel)
    };
    let mut changed: BTreeMap<(String, Key), KernelSpec> = BTreeMap::new();
    let mut changed_trials: Vec<(&mut Trial, Key)> = Vec::new();
    for trial in contents.trials.iter_mut().filter(|trial| !trial.kernel.is_empty()) {
        let Some(kernel) = today(trial) else { continue };
        let key = compiler.key(&kernel)?;
        if key.0 != trial.kernel {
            changed.insert((trial.kernel.clone(), key.clone()), kernel);
            changed_trials.push((trial, key));
        }
    }
    let of_then = |earlier: &String| then.cubin(&Key(earlier.clone()));
    let comparable = changed.iter().filter(|((earlier, _), _)| of_then(earlier).is_file());
    for kernel in comparable.map(|(_, kernel)| kernel).collect::<BTreeSet<_>>() {
        compiler.request(kernel)?;
    }
    let mut same: BTreeMap<&(String, Key), bool> = BTreeMap::new();
    for (keys, kernel) in &changed {
        let is_same = match read_cubin(&of_then(&keys.0)) {
            Err(_) => false,
            Ok(earlier) => match compiler.wait(kernel)? {
                Outcome::Compiled { cubin, .. } => families::same_code(&earlier, &read_cubin(&cubin)?),
                Outcome::Failed { .. } => false,
            },
        };
        same.insert(keys, is_same);
    }
    let mut renewed =
        Renewed { changed: same.len(), same: same.values().filter(|is_same| **is_same).count(), ..Renewed::default() };
    for (trial, key) in changed_trials {
        let keys = (trial.kernel.clone(), key);
        if same[&keys] {
            trial.kernel = keys.1.0;
            renewed.trials += 1;
        } else {
            renewed.lost += 1;
        }
    }
    Ok(renewed)
}
