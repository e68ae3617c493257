//! Deriving keeps up with large journals.

/// Only in optimized builds, whose speed is what people see.
#[cfg(not(debug_assertions))]
#[test]
fn two_hundred_thousand_trials_take_under_two_seconds() {
    use super::trials::{derive, finalist, trial};
    use kernel_sweep::derive::Defaults;
    use kernel_sweep::journal::{Stage, Trial};
    use kernel_sweep::model::{Config, Family};

    let mut trials: Vec<Trial> = Vec::with_capacity(200_000);
    for problem in 0..200_u64 {
        let shape = format!("m={},n={},k={}", 1 + problem * 37, 64 << (problem % 7), 512 << (problem % 5));
        for index in 0..1000_u32 {
            let config = Config {
                block_sizes: vec![16 << (index % 4), 16 << (index / 4 % 4), 16 << (index / 16 % 4)],
                num_stages: Some(index / 64),
                ..Config::default()
            };
            let median_us = 10.0 + f64::from(index * 7919 % 997) / 10.0 + problem as f64;
            trials.push(match index % 10 {
                0 => finalist(Family::Matmul, &shape, &config, median_us),
                1 | 2 => trial(Family::Matmul, &shape, &config, Stage::Cross, median_us),
                _ => trial(Family::Matmul, &shape, &config, Stage::Screen, median_us),
            });
        }
    }
    assert_eq!(trials.len(), 200_000);
    let start = std::time::Instant::now();
    let derived = derive(&trials, &Defaults::new());
    let seconds = start.elapsed().as_secs_f64();
    assert_eq!(derived.classes[0].problems, 200);
    assert!(seconds < 2.0, "{seconds} s");
}
