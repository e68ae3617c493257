//! Models fitted to the committed archives, judged on problems left out: how near the best do their choices come?
//!
//! Run by hand, it takes a minute: `cargo test --release --test fit_archives -- --ignored --nocapture`.
#![allow(clippy::unwrap_used)]
#![cfg(feature = "harness")]

use kernel_sweep::families::{self, Arg, Description};
use kernel_sweep::fit::{self, Time, Trials};
use kernel_sweep::heuristics::{Model, ModelConfig, group_of};
use kernel_sweep::journal::{self, Stage, Trial};
use kernel_sweep::model::{Config, Family, GpuProfile, Mma};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// The config that a trial really ran with. The launches of these archives were free to deal a problem out otherwise than
/// the config says.
fn as_it_ran(trial: &Trial, profile: &GpuProfile) -> Option<Config> {
    let (kernel, launch) = families::spec(trial.family).program(&trial.config, &trial.problem(), profile).ok()?;
    let macros =
        |wanted| kernel.macros.iter().find(|(name, _)| *name == wanted).and_then(|(_, value)| value.parse().ok());
    let number = |index| {
        launch
            .args
            .iter()
            .filter_map(|arg| if let Arg::I32(value) = arg { Some(*value as u32) } else { None })
            .nth(index)
    };
    let mut config = trial.config.clone();
    match trial.family {
        Family::Attention => {
            config.block_sizes = vec![1, macros("BLOCK_Q")?, macros("BLOCK_KV")?];
            if config.mma == Some(Mma::Wgmma) {
                config.num_warps = Some(macros("BLOCK_Q")? / 16);
            }
            config.split_k = number(4);
        }
        Family::RowSoftmax => config.split_k = macros("SPLIT"),
        Family::Elementwise => {}
        family => {
            let packed = if family.packs_two_weights_a_byte() { 2 } else { 1 };
            config.block_sizes = vec![macros("BLOCK_M")?, macros("BLOCK_N")?, macros("BLOCK_K")? / packed];
            config.num_warps = macros("NUM_WARPS");
            config.num_stages = macros("NUM_STAGES");
            config.l2_groupings = vec![number(6)?];
            config.split_k = number(7);
        }
    }
    Some(config)
}

fn trials(family: Family, profile: &GpuProfile) -> Trials {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("output").join(&profile.name).join("archive");
    let contents = journal::read(&folder.join(format!("{family}.jsonl.zst"))).unwrap();
    let mut trials = Trials::default();
    let (mut problems, mut configs) = (BTreeMap::new(), BTreeMap::new());
    // Later stages are the better measured.
    for stage in [Stage::Screen, Stage::Refine, Stage::Cross, Stage::Final] {
        for trial in contents.trials.iter().filter(|trial| trial.stage == stage && !trial.null_arm) {
            let (Some(median), Some(config)) = (trial.median_us, as_it_ran(trial, profile)) else { continue };
            let problem = *problems.entry(trial.problem()).or_insert_with_key(|problem| {
                trials.problems.push(fit::Problem {
                    dims: problem.shape.dimensions().iter().map(|(_, extent)| *extent as i64).collect(),
                    dtype: problem.dtype.name().to_owned(),
                    group: group_of(problem).to_owned(),
                });
                trials.problems.len() - 1
            });
            let config = *configs.entry(config).or_insert_with_key(|config| {
                let template = serde_json::to_value(config).unwrap().as_object().cloned().unwrap();
                trials.configs.push(ModelConfig { template, ..ModelConfig::default() });
                trials.configs.len() - 1
            });
            let median_us = median.0;
            trials.times.push(Time { problem, config, median_us, is_final: stage == Stage::Final });
        }
    }
    trials
}

#[test]
#[ignore = "takes a minute"]
fn choices_on_problems_left_out_are_near_the_best() {
    let profile = GpuProfile::by_name("h200").unwrap();
    let mut fitting = Duration::ZERO;
    let mut count = 0;
    for family in Family::ALL {
        let trials = trials(family, &profile);
        let start = Instant::now();
        let fitted = fit::fit(&Description::of(family, &profile), &trials).unwrap();
        let took = start.elapsed();
        (fitting, count) = (fitting + took, count + trials.times.len());
        let text = serde_json::to_string(&fitted).unwrap();
        let all = fitted.cross_validation.regret["model"][0].clone(); // all groups and alignments
        let apart = fitted.cross_validation.apart.join(" ");
        let model = Model::new(fitted).unwrap();
        let asked = trials.problems.iter().map(|problem| {
            let start = Instant::now();
            assert!(!model.best(&problem.dims, &problem.dtype, 3).is_empty());
            start.elapsed()
        });
        let mut asked: Vec<_> = asked.collect();
        asked.sort_unstable();
        println!(
            "{family}: {} problems apart by {apart}: geomean {:.4}, p90 {:.3}, max {:.3}; {} trials fitted in {took:.1?}, {} configs, \
             {} KB, an answer in {:?}",
            all.problems,
            all.geomean,
            all.p90,
            all.max,
            trials.times.len(),
            model.configs().len(),
            text.len() / 1000,
            asked[asked.len() / 2]
        );
        assert!(all.geomean < 1.03 && all.p90 < 1.08, "{family}: {all:?}");
    }
    println!("{count} trials in {fitting:.1?}");
}
