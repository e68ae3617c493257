//! The kernels that configs come to.

use super::{FamilySpec, KernelSpec, Launch, Values, knob_values, legality, values_on};
use crate::model::{Config, GpuProfile, Mma, Problem};
use std::collections::BTreeSet;

/// What some configs need on some problems.
#[derive(Debug, Default)]
pub struct Kernels {
    /// Each kernel once.
    pub all: Vec<Needed>,
    /// For each config that runs on some problem, its kernels' places among them.
    pub of_configs: Vec<BTreeSet<usize>>,
    /// Configs that are tried, and run on no problem.
    pub pruned: usize,
}

/// A kernel that some config needs.
#[derive(Clone, Debug)]
pub struct Needed {
    /// The kernel.
    pub kernel: KernelSpec,
    /// How one of these configs launches it.
    pub launch: Launch,
    /// The instructions of that config.
    pub mma: Option<Mma>,
}

impl Kernels {
    /// Of configs with the same compile-time half, on the family's problems; `is_tried` tells of a config, by its place among these, and
    /// a problem, by the values that they come to, whether it is run there. On one problem they need the same kernel, so that it is made
    /// once for each problem, and once a config is known to need a kernel, problems with the same one tell nothing new of it.
    pub fn of_half(
        spec: &dyn FamilySpec,
        configs: &[&Config],
        problems: &[&Problem],
        profile: &GpuProfile,
        is_tried: impl Fn(usize, &Values) -> bool,
    ) -> Self {
        let mut kernels = Self::default();
        let mut kernel_on: Vec<Option<usize>> = vec![None; problems.len()];
        for (config, place) in configs.iter().zip(0..) {
            let conditions = spec.check(config, profile).ok().map(|()| spec.conditions(config, profile));
            let knobs = knob_values(config, spec.family());
            let (mut own, mut is_tried_somewhere) = (BTreeSet::new(), false);
            for (problem, known) in problems.iter().zip(&mut kernel_on) {
                if known.is_some_and(|kernel| own.contains(&kernel)) {
                    continue;
                }
                let values = values_on(knobs, problem, profile);
                if !is_tried(place, &values) {
                    continue;
                }
                is_tried_somewhere = true;
                if !conditions.is_some_and(|conditions| legality::hold(conditions, &values)) {
                    continue;
                }
                let kernel = match *known {
                    Some(kernel) => kernel,
                    None => match spec.build(config, problem, profile) {
                        Ok((kernel, launch)) => kernels.place(Needed { kernel, launch, mma: config.mma }),
                        Err(_) => continue,
                    },
                };
                *known = Some(kernel);
                own.insert(kernel);
            }
            if !own.is_empty() {
                kernels.of_configs.push(own);
            } else if is_tried_somewhere {
                kernels.pruned += 1;
            }
        }
        kernels
    }

    /// Where a kernel is among all. Problems that follow each other mostly need the same.
    fn place(&mut self, needed: Needed) -> usize {
        self.all.iter().rposition(|known| known.kernel == needed.kernel).unwrap_or_else(|| {
            self.all.push(needed);
            self.all.len() - 1
        })
    }
}
