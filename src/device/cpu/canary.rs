//! The host's canary: the same arithmetic on each core at once, each thread bound to its own, so that whatever else runs on a core
//! takes its time from it.

use crate::device::Fault;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::hint::black_box;
use std::thread;
use std::time::Instant;

/// Steps of arithmetic in one run: half a millisecond of a core of today.
const STEPS: u64 = 300_000;
/// Runs a look: together some 7 ms, longer than a program that has slept gets at once on a core that another one wants, some 4 ms.
const RUNS: usize = 16;
/// Cores that are looked at, at most.
const CORES: usize = 16;

/// The cores that this process may run on, as many as it has the time of.
fn cores() -> Vec<usize> {
    let count = thread::available_parallelism().map_or(1, std::num::NonZero::get).min(CORES);
    let allowed = sched_getaffinity(None).unwrap_or_default();
    (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).take(count).collect()
}

/// A chain of multiplications in which each needs the one before.
fn arithmetic() -> u64 {
    (0..black_box(STEPS)).fold(1, |value, step| {
        let value = value.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(step);
        value ^ value >> 29
    })
}

/// The times of each core's runs in microseconds.
pub(super) fn time() -> Result<Vec<Vec<f64>>, Fault> {
    let run = |core: usize| {
        let mut own = CpuSet::new();
        own.set(core);
        // Where the system does not let a thread choose its core it is timed on whichever it gets.
        let _ = sched_setaffinity(None, &own);
        let timed = || {
            let started = Instant::now();
            (arithmetic(), started.elapsed().as_secs_f64() * 1e6)
        };
        (0..RUNS).map(|_| timed()).collect::<Vec<(u64, f64)>>()
    };
    let lost = |what: &dyn std::fmt::Display| Fault::Trouble(format!("the canary: {what}"));
    let runs = thread::scope(|scope| {
        let start = |core| thread::Builder::new().spawn_scoped(scope, move || run(core));
        let threads = cores().into_iter().map(start).collect::<Result<Vec<_>, _>>().map_err(|error| lost(&error))?;
        let joined = threads.into_iter().map(|thread| thread.join().map_err(|_| lost(&"a thread panicked")));
        joined.collect::<Result<Vec<_>, Fault>>()
    })?;
    let mut results = runs.iter().flatten().map(|(result, _)| *result);
    let first = results.next();
    if results.any(|result| Some(result) != first) {
        return Err(lost(&"the cores disagree on its result"));
    }
    Ok(runs.into_iter().map(|runs| runs.into_iter().map(|(_, us)| us).collect()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_core_is_timed() {
        let times_us = time().unwrap();
        assert_eq!(times_us.len(), cores().len());
        assert!(times_us.iter().all(|times_us| times_us.len() == RUNS && times_us.iter().all(|us| *us > 1.0)));
    }
}
