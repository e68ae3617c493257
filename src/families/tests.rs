//! What every family's configs have in common: a config is what runs.

use super::{KernelSpec, Launch, spec};
use crate::model::{Config, Dtype, Family, GpuProfile, Mma, PidType, Problem};
use crate::plan::Plan;

#[test]
#[ignore]
fn sizes() {
    for family in Family::ALL {
        let plan = Plan::load(family, None).unwrap();
        for gpu in ["h200", "b200"] {
            let profile = GpuProfile::by_name(gpu).unwrap();
            for space in plan.spaces(&profile) {
                let legal = space.configs.iter().filter(|c| spec(family).check(c, &profile).is_ok()).count();
                let kernels: std::collections::BTreeSet<_> = space.configs.iter().filter(|c| spec(family).check(c, &profile).is_ok()).map(|c| spec(family).compiled_half(c)).collect();
                println!("{family} {gpu} {:?}: {} configs {} legal {} kernels", space.default.mma, space.configs.len(), legal, kernels.len());
                for c in space.configs.iter().filter(|c| spec(family).check(c, &profile).is_err()).take(3) { println!("   {c} {:?}", spec(family).check(c, &profile)); }
            }
            let problems = plan.problems(&profile).unwrap();
            let started = std::time::Instant::now();
            let counts: Vec<_> = problems.iter().map(|p| plan.legal_configs(&p.problem, &profile).len()).collect();
            let legal_ms = started.elapsed().as_secs_f64() * 1e3 / problems.len() as f64;
            let started = std::time::Instant::now();
            for p in problems { std::hint::black_box(plan.candidates(&p.problem, &profile)); }
            let ms = started.elapsed().as_secs_f64() * 1e3 / problems.len() as f64;
            println!("  {} problems, legal {}..{} mean {}, legal_configs {legal_ms:.2} ms candidates {ms:.2} ms", problems.len(), counts.iter().min().unwrap(), counts.iter().max().unwrap(), counts.iter().sum::<usize>() / counts.len());
        }
    }
}
