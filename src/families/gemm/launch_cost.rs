//! What a launch of `gemm_wgmma.cu` takes, by how it cuts its product up: with this one config serves problems of many sizes.

use super::Weights;

/// A product as one launch cuts it up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    /// Rows and columns of a tile of C, and elements of k in a step.
    pub(super) tile: [u64; 3],
    /// Tiles of C.
    pub(super) tiles: u64,
    /// Steps along k of a tile.
    pub(super) steps: u64,
    /// Programs that share a tile's steps: a cluster.
    pub(super) parts: u64,
    /// Steps that a program loads ahead.
    pub(super) stages: u64,
    /// Programs that a multiprocessor holds at once.
    pub(super) resident: u64,
    /// Bytes of A and C.
    pub(super) a_and_c_bytes: u64,
    /// Bytes of B.
    pub(super) b_bytes: u64,
    /// Bytes of a row of a tile of B.
    pub(super) b_row_bytes: u64,
}

/// Microseconds on an H200: least-squares fits of the logarithms of the times, near the best the more, in two sweeps of 277
/// problems of each format, 247,000 launches with every tile, number of stages and of parts in the space. Of all launches of a
/// problem the cheapest took 1.0 (int16) to 2.6 % (bf16, int4) longer than the fastest in the geometric mean.
#[derive(Clone, Copy, Debug)]
pub(super) struct LaunchCost {
    /// Of a multiprocessor for a million products of elements.
    product: f64,
    /// How much longer those of the largest tile take, as a part, and smaller ones in proportion.
    full: f64,
    /// Of a multiprocessor for a column of B, a million elements of k deep: its decoding, and its way from shared memory.
    column: f64,
    /// The same for a row of A.
    row: f64,
    /// What each step of a program waits beside that.
    step: f64,
    /// Starting the programs that run at once, and writing their tiles.
    wave: f64,
    /// Between asking for a stage and having it.
    latency: f64,
    /// Of the memory for a million bytes.
    megabyte: f64,
    /// How much more those of B take where a tile's rows are narrower than a line of the cache, as a part.
    narrow: f64,
    /// For sending [`SUMS`] partial sums.
    sent: f64,
    /// For adding up [`SUMS`] of each part.
    gathered: f64,
}

const BF16: LaunchCost = LaunchCost {
    product: 0.0593,
    full: 1.41,
    column: 15.5,
    row: 9.77,
    step: 0.054,
    wave: 1.43,
    latency: 0.82,
    megabyte: 0.249,
    narrow: 0.0,
    sent: 3.8,
    gathered: 0.181,
};
const INT16: LaunchCost = LaunchCost {
    product: 0.2,
    full: 0.0,
    column: 21.1,
    row: 4.08,
    step: 0.078,
    wave: 1.59,
    latency: 0.59,
    megabyte: 0.236,
    narrow: 0.0,
    sent: 3.39,
    gathered: 0.124,
};
const INT4: LaunchCost = LaunchCost {
    product: 0.157,
    full: 0.0,
    column: 11.9,
    row: 6.06,
    step: 0.069,
    wave: 1.72,
    latency: 0.45,
    megabyte: 0.234,
    narrow: 0.3,
    sent: 1.75,
    gathered: 0.036,
};
const FP4: LaunchCost = LaunchCost {
    product: 0.15,
    full: 0.0,
    column: 14.5,
    row: 6.281,
    step: 0.057,
    wave: 1.68,
    latency: 0.54,
    megabyte: 0.211,
    narrow: 0.51,
    sent: 1.67,
    gathered: 0.059,
};

/// Bytes of a line of L2.
const LINE_BYTES: u64 = 128;
/// Sums of the largest tile.
const LARGEST_TILE: f64 = 32768.0;
/// Fewer rows take as long to multiply.
const FEWEST_ROWS: f64 = 16.0;
/// Sums that sending and gathering are counted by.
const SUMS: f64 = 8192.0;

/// Clusters that run at once. Each lies within one of the GPU's clusters of multiprocessors, which large ones leave in part
/// unused: on H200s 30 of four programs ran at once and not 32, 14 of eight and not 16, and fewer than 8 of sixteen.
fn clusters_at_once(parts: u64, multiprocessors: u64) -> u64 {
    let lost = match parts {
        0..=2 => 0,
        4 => 3,
        _ => 2,
    };
    (multiprocessors / parts).saturating_sub(lost).max(1)
}

impl LaunchCost {
    pub(super) const fn of_format(weights: Weights) -> Self {
        match weights {
            Weights::Bf16 => BF16,
            Weights::Int16 => INT16,
            Weights::Int4 => INT4,
            Weights::Fp4 => FP4,
        }
    }

    /// The time, less what every launch takes.
    pub(super) fn of(&self, cut: &Cut, multiprocessors: u32) -> f64 {
        let [rows, columns, depth] = cut.tile.map(|extent| extent as f64);
        let at_once = clusters_at_once(cut.parts, u64::from(multiprocessors));
        // Programs that a multiprocessor has in all, and rounds of programs that it holds at once.
        let programs = cut.tiles.div_ceil(at_once);
        let waves = cut.tiles.div_ceil(at_once * cut.resident) as f64;
        let steps = cut.steps.div_ceil(cut.parts) as f64;
        let all_steps = programs as f64 * steps;

        let full = 1.0 + self.full * rows * columns / LARGEST_TILE;
        let products = rows.max(FEWEST_ROWS) * columns * self.product * full;
        let multiplying = all_steps * depth * (products + columns * self.column + rows * self.row) * 1e-6;
        let loading = all_steps * self.latency / (cut.resident.min(programs) * cut.stages) as f64;
        let narrow = if cut.b_row_bytes < LINE_BYTES { self.narrow } else { 0.0 };
        let memory = (cut.a_and_c_bytes as f64 + cut.b_bytes as f64 * (1.0 + narrow)) * self.megabyte * 1e-6;
        // These overlap, but for where two of them take nearly as long.
        let busy = [multiplying, loading, memory].map(|time| time.powi(4)).iter().sum::<f64>().sqrt().sqrt();

        let sums = rows * columns / SUMS;
        let merging =
            if cut.parts == 1 { 0.0 } else { sums * (programs as f64 * self.sent + cut.parts as f64 * self.gathered) };
        busy + waves * (steps * self.step + self.wave) + merging
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(tiles: u64, parts: u64) -> Cut {
        Cut {
            tile: [64, 64, 64],
            tiles,
            steps: 64,
            parts,
            stages: 6,
            resident: 1,
            a_and_c_bytes: 0,
            b_bytes: 1 << 20,
            b_row_bytes: 128,
        }
    }

    #[test]
    fn clusters_that_do_not_fit_into_the_gpu_take_a_second_wave() {
        let cost = |tiles, parts| LaunchCost::of_format(Weights::Bf16).of(&cut(tiles, parts), 132);
        assert!((cost(30, 4) - cost(20, 4)).abs() < 1e-9);
        assert!(cost(32, 4) > 1.5 * cost(30, 4));
        assert!(cost(64, 2) < cost(64, 1) && cost(32, 4) > cost(32, 2));
    }

    #[test]
    fn a_full_gpu_is_not_split() {
        for weights in [Weights::Bf16, Weights::Int16, Weights::Int4, Weights::Fp4] {
            let cost = |parts| LaunchCost::of_format(weights).of(&cut(1320, parts), 132);
            assert!(cost(1) < cost(2), "{weights:?}");
        }
    }
}
