//! A model's conditions are the family's: it refuses a config on a shape where the family does, and nowhere else.
#![allow(clippy::unwrap_used)] // a test that cannot go on may stop
#![cfg(feature = "harness")]

#[path = "common/amount.rs"]
mod amount;

use kernel_sweep::families::{self, Description, Legality};
use kernel_sweep::heuristics::{FittedModel, Floor, MODEL_FORM, Model, ModelConfig};
use kernel_sweep::model::{Config, Dtype, Family, GpuProfile, Problem};
use kernel_sweep::plan::{Limits, Plan, Purpose, draw};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use std::collections::BTreeSet;

/// A model that knows where its configs may run, and nothing else.
fn model(description: &Description, configs: Vec<ModelConfig>) -> Model {
    let (bytes, flops) = (description.bytes.clone(), description.flops.clone());
    Model::new(FittedModel {
        form: MODEL_FORM.to_owned(),
        dims: description.dims.clone(),
        dtypes: description.dtypes.clone(),
        constants: description.constants.clone(),
        knobs: description.knobs.clone(),
        config_constants: description.config_constants.clone(),
        legal: description.legal.clone(),
        aligned: description.aligned(),
        floor: Floor { bytes, flops, launch_us: 1.0, bytes_per_us: 1.0, flops_per_us: 1.0 },
        configs,
        ..FittedModel::default()
    })
    .unwrap()
}

/// Some of all configs of a family's spaces.
fn configs(family: Family, profile: &GpuProfile, most: usize) -> Vec<Config> {
    let plan = Plan::load(family, None).unwrap();
    let drawn = draw(family, Purpose::Evaluation, 1, Limits::GPU, []).take(12);
    let all: BTreeSet<Config> = drawn
        .flat_map(|drawn| plan.configs(&drawn.problem, profile).into_iter().cloned().collect::<Vec<_>>())
        .collect();
    let mut all: Vec<Config> = all.into_iter().collect();
    all.shuffle(&mut ChaCha8Rng::seed_from_u64(7));
    all.truncate(most);
    all
}

/// Shapes of the family's domain, and of any size: tiny, odd, huge.
fn shapes(family: Family, count: usize) -> Vec<Problem> {
    let mut random = ChaCha8Rng::seed_from_u64(11 + amount::seed());
    let mut drawn = draw(family, Purpose::Evaluation, 2, Limits::GPU, []);
    (0..count)
        .filter_map(|index| {
            let dtypes: Vec<Dtype> =
                Dtype::ALL.into_iter().filter(|dtype| Problem::new(family, &ones(family), *dtype).is_ok()).collect();
            let dtype = dtypes[random.random_range(0..dtypes.len())];
            if index % 2 == 0 {
                return drawn.next().map(|drawn| Problem { dtype, ..drawn.problem });
            }
            let most_bits = f64::min(45.0, 100.0 / family.dimensions().len() as f64);
            let bits = if index % 4 == 1 { 1.0..7.0 } else { 1.0..most_bits };
            let extent = |name: &&'static str| {
                let extent = f64::exp2(random.random_range(bits.clone())) as i64;
                let even = family.packs_two_weights_a_byte() && *name == "k";
                (*name, if even { extent * 2 } else { extent })
            };
            let dimensions: Vec<_> = family.dimensions().iter().map(extent).collect();
            Some(Problem::new(family, &dimensions, dtype).unwrap())
        })
        .collect()
}

fn ones(family: Family) -> Vec<(&'static str, i64)> {
    family.dimensions().iter().map(|name| (*name, 2)).collect()
}

fn compare(gpus: &[&str], count: usize, most_configs: usize) {
    for gpu in gpus {
        let profile = GpuProfile::by_name(gpu).unwrap();
        for family in Family::ALL {
            let spec = families::spec(family);
            if Plan::load(family, None).unwrap().spaces(&profile).is_empty() {
                continue;
            }
            let configs = configs(family, &profile, most_configs);
            let legality = Legality::new(family, &profile, true, &configs);
            let known: Vec<(&Config, ModelConfig)> =
                configs.iter().filter_map(|config| Some((config, legality.model_config(config)?))).collect();
            for config in &configs {
                let is_known = known.iter().any(|(known, _)| *known == config);
                assert_eq!(is_known, spec.check(config, &profile).is_ok(), "{gpu} {family}: {config}");
            }
            assert!(known.len() > 10, "{gpu} {family}: {} configs", known.len());
            let model = model(&legality.description([]), known.iter().map(|(_, config)| config.clone()).collect());
            let verdicts: Vec<[usize; 2]> = shapes(family, count)
                .par_iter()
                .map(|problem| {
                    let dims: Vec<i64> = problem.shape.extents().iter().map(|extent| *extent as i64).collect();
                    let dtype = problem.dtype.name();
                    let chosen = model.best(&dims, dtype, usize::MAX);
                    let chosen: BTreeSet<usize> = chosen.iter().map(|choice| choice.config).collect();
                    // What is beyond counting is answered nothing.
                    let is_counted = model.work(&dims, dtype).is_some();
                    assert!(is_counted || chosen.is_empty());
                    assert!(is_counted || spec.fits_memory(problem).is_err(), "{problem} is a problem like others");
                    let mut verdicts = [0, 0];
                    for (place, (config, _)) in known.iter().enumerate().filter(|_| is_counted) {
                        let is_legal = spec.legal(config, problem, &profile).is_ok();
                        assert_eq!(chosen.contains(&place), is_legal, "{gpu} {problem}: {config}");
                        assert_eq!(spec.meets_conditions(config, problem, &profile), is_legal);
                        verdicts[usize::from(is_legal)] += 1;
                    }
                    verdicts
                })
                .collect();
            let sum = |verdict: usize| verdicts.iter().map(|both| both[verdict]).sum::<usize>();
            assert!(sum(0) > count / 2 && sum(1) > count, "{gpu} {family}: {} refused, {} legal", sum(0), sum(1));
        }
    }
}

#[test]
fn a_models_legality_is_its_familys_on_any_shape() {
    compare(&["h200", "a100", "b200", "l40s"], amount::times(60), 60);
}

#[test]
fn a_models_legality_is_its_familys_on_many_shapes() {
    compare(&["h200"], amount::times(2_500), 100);
}
