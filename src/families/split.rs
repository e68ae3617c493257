//! How many programs should share the reduction of one tile, where a config leaves that to the launch: a small cost model,
//! so that one config serves problems of many sizes well.

/// The numbers of programs that are considered.
const CHOICES: [u64; 6] = [1, 2, 4, 8, 16, 32];

/// A problem as one kernel cuts it up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reduction {
    /// Output tiles.
    pub(super) tiles: u64,
    /// Steps of the reduction of a tile.
    pub(super) steps: u64,
    /// Bytes that a step loads.
    pub(super) step_bytes: u64,
    /// Floating-point operations of a step.
    pub(super) step_flops: u64,
    /// Steps that a program loads ahead.
    pub(super) steps_ahead: u64,
    /// Bytes of a tile's partial sums.
    pub(super) tile_bytes: u64,
    /// Programs that a multiprocessor holds at once.
    pub(super) resident: u64,
}

/// What a kernel's work costs, in the time that a multiprocessor takes to load a byte from memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct SplitCost {
    /// Bytes in flight that saturate a multiprocessor's share of the memory.
    pub(super) saturating_bytes: f64,
    /// Floating-point operations that take as long as loading a byte.
    pub(super) flops_per_byte: f64,
    /// Starting the programs that a multiprocessor holds at once.
    pub(super) wave: f64,
    /// Splitting at all.
    pub(super) merge: f64,
    /// Each byte of partial sums that a multiprocessor writes.
    pub(super) partial_byte: f64,
    /// Each byte of partial sums that the program which adds them up reads.
    pub(super) gathered_byte: f64,
}

impl SplitCost {
    /// The number of programs a tile, at most `most`, with the least cost; the smaller of equals.
    pub(super) fn choose(&self, work: &Reduction, multiprocessors: u32, most: u64) -> u64 {
        self.least(work, multiprocessors, most).1
    }

    /// The least cost that a number of programs a tile, at most `most`, has; and that number.
    pub(super) fn least(&self, work: &Reduction, multiprocessors: u32, most: u64) -> (f64, u64) {
        let allowed = CHOICES.into_iter().filter(|parts| *parts <= most.min(work.steps).max(1));
        let costs = allowed.map(|parts| (self.of(work, u64::from(multiprocessors), parts), parts));
        costs.min_by(|one, other| one.0.total_cmp(&other.0)).unwrap_or((f64::INFINITY, 1))
    }

    fn of(&self, work: &Reduction, multiprocessors: u64, parts: u64) -> f64 {
        let programs = work.tiles * parts;
        let per_multiprocessor = programs.div_ceil(multiprocessors);
        let waves = programs.div_ceil(multiprocessors * work.resident.max(1));
        let at_once = per_multiprocessor.min(work.resident.max(1));
        let in_flight = (at_once * work.steps_ahead * work.step_bytes) as f64;
        let rate = (in_flight / self.saturating_bytes).min(1.0);
        let step = (work.step_bytes as f64).max(work.step_flops as f64 / self.flops_per_byte);
        let steps = (per_multiprocessor * work.steps.div_ceil(parts)) as f64;
        let merge = if parts == 1 {
            0.0
        } else {
            self.merge
                + self.partial_byte * (per_multiprocessor * work.tile_bytes) as f64
                + self.gathered_byte * (parts * work.tile_bytes) as f64
        };
        steps * step / rate + waves as f64 * self.wave + merge
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const COST: SplitCost = SplitCost {
        saturating_bytes: 100_000.0,
        flops_per_byte: 16.0,
        wave: 100_000.0,
        merge: 10_000.0,
        partial_byte: 10.0,
        gathered_byte: 5.0,
    };

    fn decode(tiles: u64, steps: u64) -> Reduction {
        Reduction { tiles, steps, step_bytes: 8192, step_flops: 65_536, steps_ahead: 3, tile_bytes: 4096, resident: 4 }
    }

    #[test]
    fn a_full_gpu_is_not_split_and_an_empty_one_is() {
        assert_eq!(COST.choose(&decode(1000, 64), 132, 32), 1);
        assert!(COST.choose(&decode(16, 64), 132, 32) >= 8);
    }

    #[test]
    fn a_single_step_cannot_be_shared() {
        assert_eq!(COST.choose(&decode(1, 1), 132, 32), 1);
        assert_eq!(COST.choose(&decode(1, 64), 132, 1), 1);
    }

    proptest! {
        #[test]
        fn the_choice_is_allowed_and_of_least_cost(tiles in 1u64..5000, steps in 1u64..500, most in 1u64..40) {
            let work = decode(tiles, steps);
            let chosen = COST.choose(&work, 132, most);
            prop_assert!(chosen == 1 || (chosen <= most && chosen <= steps));
            for parts in CHOICES.into_iter().filter(|parts| *parts <= most && *parts <= steps) {
                prop_assert!(COST.of(&work, 132, chosen) <= COST.of(&work, 132, parts));
            }
        }
    }
}
