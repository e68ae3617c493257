//! How much the longest tests test: what ends in some minutes on two cores, or so many times it as `$SWEEP_TESTS` says, up to all that
//! they have. What they leave out is drawn by `$SWEEP_TESTS_SEED`.

#![allow(dead_code, unreachable_pub, clippy::panic, clippy::unwrap_used)] // each test uses a part; one that cannot go on may stop

use std::hash::{DefaultHasher, Hash, Hasher};

/// `.ci/run` asks for so many times the usual amount: of a list of cases that is usually one in a dozen, all.
const MOST: usize = 12;

fn setting(name: &str, usual: u64) -> u64 {
    let said = std::env::var(name).ok();
    said.map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("${name} is '{text}', and no whole number")))
}

/// Draws another sample.
pub fn seed() -> u64 {
    setting("SWEEP_TESTS_SEED", 0)
}

/// So many of what there is any number of: random shapes, simulated races, kernels of a space.
pub fn times(usual: usize) -> usize {
    usual * usize::try_from(setting("SWEEP_TESTS", 1)).unwrap()
}

/// By what the cases of a list are drawn: those with the least of it first.
fn lot(list: &str, place: usize) -> u64 {
    let mut hasher = DefaultHasher::new();
    (seed(), list, place).hash(&mut hasher);
    hasher.finish()
}

/// Of a list of cases one in twelve, at least one; as many times more of them as are asked for, at most all.
pub fn some<T>(all: impl IntoIterator<Item = T>) -> Vec<T> {
    let all: Vec<T> = all.into_iter().collect();
    let mut drawn: Vec<usize> = (0..all.len()).collect();
    drawn.sort_by_cached_key(|place| lot("", *place));
    drawn.truncate(times(all.len()).div_ceil(MOST));
    all.into_iter().enumerate().filter(|(place, _)| drawn.contains(place)).map(|(_, case)| case).collect()
}

/// The same of one among many lists, whose cases take seconds: one in twelve of all together, so that of a short list there may be none.
pub fn some_of_many<T>(list: &str, all: impl IntoIterator<Item = T>) -> Vec<T> {
    let is_drawn = |place: usize| lot(list, place) % (MOST as u64) < times(1) as u64;
    all.into_iter().enumerate().filter(|(place, _)| is_drawn(*place)).map(|(_, case)| case).collect()
}
