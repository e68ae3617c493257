//! Deriving keeps up with large journals.

/// Only in optimized builds, whose speed is what people see.
#[cfg(not(debug_assertions))]
#[test]
fn ten_times_the_trials_take_ten_times_as_long() {
    use super::trials::{derive, finalist, trial};
    use kernel_sweep::derive::Defaults;
    use kernel_sweep::journal::{Stage, Trial};
    use kernel_sweep::model::{Config, Family};
    use std::time::Instant;

    let journal = |problems: u32, configs: u32| -> Vec<Trial> {
        let of_problem = |problem: u32| {
            let shape = format!("m={},n={},k={}", 1 + problem * 37, 64 << (problem % 7), 512 << (problem % 5));
            let of_config = move |index: u32| {
                let config = Config {
                    block_sizes: vec![16 << (index % 4), 16 << (index / 4 % 4), 16 << (index / 16 % 4)],
                    num_stages: Some(index / 64),
                    ..Config::default()
                };
                let median_us = 10.0 + f64::from(index * 7919 % 997) / 10.0 + f64::from(problem);
                match index % 10 {
                    0 => finalist(Family::Matmul, &shape, &config, median_us),
                    1 | 2 => trial(Family::Matmul, &shape, &config, Stage::Cross, median_us),
                    _ => trial(Family::Matmul, &shape, &config, Stage::Screen, median_us),
                }
            };
            (0..configs).map(of_config)
        };
        (0..problems).flat_map(of_problem).collect()
    };
    let seconds = |trials: &[Trial], times: u32| {
        let start = Instant::now();
        (0..times).for_each(|_| drop(derive(trials, &Defaults::new())));
        start.elapsed().as_secs_f64()
    };
    let whole = journal(200, 1000);
    assert_eq!(derive(&whole, &Defaults::new()).classes[0].problems, 200);
    for (what, tenth) in [("problems", journal(20, 1000)), ("configs", journal(200, 100))] {
        // Side by side, since what else the machine does slows both, and once more where it came in between.
        let keeps_up = (0..5).any(|_| seconds(&whole, 1) < 3.0 * seconds(&tenth, 10));
        assert!(keeps_up, "ten times the {what} take more than thirty times as long");
    }
}
