//! The kernels that configs run as today: trials of others say nothing of what is served.

use crate::compile::{Key, Recipes, key_of_call};
use crate::device::cpu;
use crate::error::Result;
use crate::families::{KernelSpec, Launch};
use crate::journal::{Contents, Header, Status, Trial};
use crate::model::{Family, GpuProfile};
use crate::plan;
use std::borrow::Borrow;
use std::collections::BTreeMap;

/// The kernels that one compiler makes of the sources at hand, and those of the host.
#[derive(Clone)]
pub(crate) struct TodaysKernels<R> {
    profile: GpuProfile,
    /// None on the host, which runs kernels of its own, or calls.
    recipes: Option<R>,
    host: Key,
}

impl<R: Borrow<Recipes>> TodaysKernels<R> {
    pub(crate) fn new(profile: &GpuProfile, recipes: Option<R>) -> Self {
        let host = Key::of(&[cpu::kernels::SOURCE, env!("CARGO_PKG_VERSION")]);
        Self { profile: profile.clone(), recipes, host }
    }

    /// The device that they run on.
    pub(crate) fn profile(&self) -> &GpuProfile {
        &self.profile
    }

    /// The identity of what runs a program.
    ///
    /// # Errors
    /// Where its source is missing.
    pub(crate) fn key(&self, program: Option<&(KernelSpec, Launch)>) -> Result<Key> {
        match (&self.recipes, program) {
            (Some(recipes), Some((kernel, _))) => recipes.borrow().key(kernel),
            (None, Some((kernel, _))) => Ok(key_of_call(kernel, &self.profile.arch)),
            (_, None) => Ok(self.host.clone()),
        }
    }

    /// Whether a trial was made with the kernel that its config has now.
    ///
    /// # Errors
    /// Where its source is missing.
    pub(crate) fn made(&self, trial: &Trial) -> Result<bool> {
        match plan::candidate(trial.config.clone(), &trial.problem(), &self.profile).program {
            Ok(program) => Ok(trial.kernel == self.key(program.as_ref())?.0),
            Err(_) => Ok(trial.status == Status::Pruned),
        }
    }
}

/// Those of each family, by the compiler that its journals were last filled with: whoever derives has another one, or none. Of what
/// archives alone hold there are none: an archive counts as it is.
pub(super) struct ByFamily(BTreeMap<Family, TodaysKernels<Recipes>>);

impl ByFamily {
    pub(super) fn of(profile: &GpuProfile, journals: &[(String, Contents)]) -> Self {
        let is_journal = |contents: &&Contents| !contents.is_archive;
        let mut latest: BTreeMap<Family, &Header> = BTreeMap::new();
        for Contents { headers, trials, .. } in journals.iter().map(|(_, contents)| contents).filter(is_journal) {
            let Some(header) = headers.iter().max_by_key(|header| &header.started) else { continue };
            for trial in trials {
                let known = latest.entry(trial.family).or_insert(header);
                if known.started < header.started {
                    *known = header;
                }
            }
        }
        let kernels = latest.into_iter().map(|(family, header)| {
            let recipes = (!profile.is_cpu()).then(|| Recipes::found(&profile.arch, header.nvrtc.clone()));
            (family, TodaysKernels::new(profile, recipes))
        });
        Self(kernels.collect())
    }

    /// Whether a trial was made with the kernel that its config has now, as far as anybody here can tell.
    pub(super) fn made(&self, trial: &Trial) -> bool {
        // Own kernels may lie on another machine.
        self.0.get(&trial.family).is_none_or(|kernels| kernels.made(trial).unwrap_or(true))
    }
}
