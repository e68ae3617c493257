//! How a config's programs share a problem's work, without regard to what the family computes: what a model that knows
//! which knob tiles which dimension predicts times from.

use super::knobs::resident_by_smem;
use super::legality::{names, values};
use crate::heuristics::Formula;
use crate::model::{Bytes, Config, Family, GpuProfile, Problem};

/// A direction that the work is cut along.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Axis {
    /// How far it goes, in dimensions: `batch * heads`.
    pub extent: Formula,
    /// What a step of a program takes of it, in knobs: `block_sizes[0]`.
    pub block: Formula,
    /// Whether it is summed over: a program takes one step after the other, and `split_k` programs may share a tile's steps.
    /// Along the others each step is another tile.
    pub is_reduced: bool,
}

impl Axis {
    /// A family's own axis.
    pub(super) fn new(family: Family, extent: &str, block: &str, is_reduced: bool) -> Self {
        let read = |text| match Formula::parse(text, &names(family)) {
            Ok(expression) => expression,
            Err(error) => unreachable!("an axis of {family}: {error}"),
        };
        Self { extent: read(extent), block: read(block), is_reduced }
    }
}

/// What a program takes of its multiprocessor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Its threads.
    pub threads: u32,
    /// Registers of a thread: an estimate, the compiler knows.
    pub registers: u32,
    /// Its shared memory.
    pub smem: Bytes,
    /// What one step loads.
    pub stage_bytes: Bytes,
}

impl Footprint {
    /// Programs that a multiprocessor holds at once; at least one.
    pub fn resident(&self, profile: &GpuProfile) -> u64 {
        let by_registers = profile.registers_per_multiprocessor / (self.threads * self.registers.max(1)).max(1);
        let by_threads = profile.threads_per_multiprocessor / self.threads.max(1);
        resident_by_smem(self.smem, profile).min(by_registers.into()).min(by_threads.into()).max(1)
    }
}

/// How a problem's work is shared.
#[derive(Clone, Debug, PartialEq)]
pub struct Work {
    /// Extents and blocks along each axis, in the family's order.
    pub axes: Vec<[u64; 2]>,
    /// Tiles in all.
    pub tiles: u64,
    /// Programs that run, those of clusters counted each.
    pub programs: u64,
    /// Programs that a multiprocessor holds at once.
    pub resident: u64,
    /// Rounds of programs that the GPU holds at once.
    pub waves: u64,
    /// Tiles that a program works on, at most.
    pub tiles_a_program: u64,
    /// Steps of a tile that a program takes, at most.
    pub steps_a_tile: u64,
    /// What one step loads.
    pub stage_bytes: Bytes,
    /// Shared memory of a program.
    pub smem: Bytes,
}

impl Work {
    pub(super) fn new(
        axes: &[Axis],
        footprint: &Footprint,
        config: &Config,
        problem: &Problem,
        profile: &GpuProfile,
    ) -> Self {
        let values = values(config, problem, profile);
        let read =
            |expression: &Formula| expression.value(&values).and_then(|value| value.try_into().ok()).unwrap_or(1);
        let cut: Vec<[u64; 2]> = axes.iter().map(|axis| [read(&axis.extent), read(&axis.block).max(1)]).collect();
        let steps = |is_reduced: bool| {
            let axes = axes.iter().zip(cut.iter()).filter(move |(axis, _)| axis.is_reduced == is_reduced);
            axes.fold(1u64, |steps, (_, [extent, block])| steps.saturating_mul(extent.div_ceil(*block)))
        };
        let all_steps = steps(true);
        let (tiles, parts) = (steps(false), u64::from(config.split_k.unwrap_or(1).max(1)));
        let multiprocessors = u64::from(profile.multiprocessors);
        let work = tiles.saturating_mul(parts);
        let most = config.num_sm_multiplier.map_or(work, |multiplier| u64::from(multiplier) * multiprocessors);
        let programs = work.min(most).max(1);
        let resident = footprint.resident(profile);
        Self {
            axes: cut,
            tiles,
            programs,
            resident,
            waves: programs.div_ceil(multiprocessors.max(1) * resident),
            tiles_a_program: work.div_ceil(programs),
            steps_a_tile: all_steps.div_ceil(parts),
            stage_bytes: footprint.stage_bytes,
            smem: footprint.smem,
        }
    }
}
