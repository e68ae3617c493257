//! Row softmax.

use super::knobs::{self, Programs, WARP};
use super::{
    Arg, Axis, Condition, Description, Extent, FamilySpec, Fill, Footprint, HostTensor, KernelSpec, Launch, Reference,
    Rejection, TensorSpec, Tensors, legality, require, rounding,
};
use crate::model::{Bytes, Config, Dtype, Family, GpuProfile, Mma, Problem};
use std::sync::LazyLock;

pub(super) struct RowSoftmax;

/// Static shared memory of a warp of a row: its statistics, in two buffers.
const STATISTICS_BYTES: u64 = 16;
/// By what share of itself an element may differ before it is rounded. The exponentials of the element and of the sum err by up
/// to four roundings of f32 each (`ex2.approx`), scaling and dividing by four more. The terms of the sum all have one sign, and a
/// warp that has a row of 50,000 columns to itself adds up 1,600 a thread: on an H200 that came to 64 roundings, once in some
/// hundred problems. This is four times as much.
const ALLOWED: f64 = 256.0 * rounding::F32;
/// What is allowed beside it for each unit that an element is below the row's maximum: the difference, its product with
/// log2(e) and that constant are rounded, and what an exponent errs by, the result errs by in proportion; this is more than
/// twice as much.
const ALLOWED_SLOPE: f64 = 8.0 * rounding::F32;
/// Further below, the result is 0 in f32. `row_softmax_reference.cu` has the same.
const FURTHEST: f64 = 128.0;

/// Thread blocks of the largest cluster that every GPU with clusters runs.
const MOST_PROGRAMS: u32 = 8;

fn dimensions(problem: &Problem) -> (u64, u64) {
    problem.shape.first::<2>().into()
}

/// Vectors that hold any part of a row, for the row that lies worst. Rows whose length is a multiple of the vector's are
/// aligned; any other row may begin at a vector's last element.
fn window_vectors(cols: u64, width: u64) -> u64 {
    if cols.is_multiple_of(width) { cols / width } else { (width - 1 + cols).div_ceil(width) }
}

/// Columns of a step where the row is looped over, `None` where it is taken whole.
fn reduction_loop(config: &Config) -> Result<Option<u32>, Rejection> {
    match config.reduction_loops.as_slice() {
        [chunk] => {
            require!(*chunk != Some(0), "reduction_loops [0] must be positive, or null for the whole row");
            Ok(*chunk)
        }
        [] => Err(Rejection("reduction_loops is missing: [null] for the whole row, or [columns]".into())),
        many => Err(Rejection(format!("reduction_loops has {} entries, this kernel one", many.len()))),
    }
}

/// Thread block clusters came with `sm_90`.
fn has_clusters(profile: &GpuProfile) -> bool {
    let digits: String = profile.arch.chars().filter(char::is_ascii_digit).collect();
    digits.parse::<u32>().is_ok_and(|version| version >= 90)
}

/// Vectors of a row that each of its lanes keeps in registers, for `share` of them in all; `None` where they are too many.
/// Few values, so that kernels are few. A lane's elements are f32 while it works on them: 32 of them, beside all else, leave
/// room for 32 warps a multiprocessor, or for 24 where these are one program.
fn vectors_in_registers(share: u64, lanes: u64, width: u64, warps: u32) -> Option<u64> {
    let most_values = if warps == 32 { 24 } else { 32 };
    let enough = |vectors: &u64| vectors * lanes >= share && vectors * width <= most_values;
    [1, 2, 3, 4, 6, 8].into_iter().find(enough)
}

/// The same of the wide kernel, which keeps up to two rows: 4 vectors at most, or what leaves 32 warps room for 16 elements in f32
/// twice.
fn wide_vectors(share: u64, lanes: u64, dtype: Dtype, warps: u32) -> Option<u64> {
    let most = if warps == 32 { dtype.size_bytes() / 2 } else { 4 };
    (1..=most).find(|vectors| vectors * lanes >= share)
}

/// Where a row is kept while it is worked on, which follows from its length.
struct Place {
    /// Vectors a lane has in registers, or 0.
    vectors: u64,
    /// Slots of the ring that steps go through, or 0; of the wide kernel, rows that a lane has in registers.
    stages: u32,
    /// Vectors of a row that a program holds at a time.
    share: u64,
    smem: Bytes,
}

/// The knobs of a config.
struct Knobs {
    tile_rows: u32,
    warps: u32,
    /// Programs that share a row: the blocks of a cluster.
    split: u32,
    /// Columns of a step where the row is looped over, and slots of the ring that steps go through.
    looped: Option<[u32; 2]>,
    /// Of the wide kernel: rows that a lane has in registers, the second on its way.
    wide: Option<u32>,
    /// Bytes of the vectors that rows are copied in.
    vector_bytes: u64,
}

impl Knobs {
    fn new(config: &Config) -> Result<Self, Rejection> {
        let [tile_rows] = knobs::block_sizes(config)?;
        let warps = knobs::num_warps(config)?;
        let split = knobs::needed("split_k", config.split_k)?;
        require!(tile_rows.is_power_of_two(), "block_sizes [{tile_rows}] is not a power of two");
        require!(
            tile_rows <= warps * WARP,
            "block_sizes [{tile_rows}] gives {} threads more rows than one each",
            warps * WARP
        );
        let is_wide = config.mma == Some(Mma::SimtWide);
        let (looped, wide) = match (reduction_loop(config)?, config.num_stages) {
            (Some(chunk), _) if is_wide => {
                return Err(Rejection(format!("reduction_loops [{chunk}]: simt_wide takes whole rows")));
            }
            (None, stages) if is_wide => (None, Some(knobs::needed("num_stages", stages)?)),
            (Some(chunk), stages) => (Some([chunk, knobs::needed("num_stages", stages)?]), None),
            (None, Some(stages)) => return Err(Rejection(format!("num_stages {stages} has no effect on a whole row"))),
            (None, None) => (None, None),
        };
        require!(
            wide.is_none_or(|stages| stages <= 2),
            "num_stages {}: simt_wide has a row in registers, or 2 with the next on its way",
            wide.unwrap_or_default()
        );
        require!(
            looped.is_none() || tile_rows <= warps,
            "block_sizes [{tile_rows}] with {warps} warps: rows that are looped over need a warp each"
        );
        require!(
            split.is_power_of_two() && split <= MOST_PROGRAMS,
            "split_k {split} is not a power of two up to {MOST_PROGRAMS}"
        );
        let may_share = tile_rows == 1 && looped.is_none();
        require!(split == 1 || may_share, "split_k {split}: programs share one row at a time, and the whole of it");
        let vector_bytes = if is_wide { 32 } else { 16 };
        Ok(Self { tile_rows, warps, split, looped, wide, vector_bytes })
    }

    /// Elements of a vector.
    fn width(&self, dtype: Dtype) -> u64 {
        self.vector_bytes / dtype.size_bytes()
    }

    fn place(&self, problem: &Problem) -> Place {
        let (_, cols) = dimensions(problem);
        let width = self.width(problem.dtype);
        let lanes = u64::from(self.warps * WARP / self.tile_rows);
        let slots = |count: u32, share| Bytes(u64::from(self.tile_rows) * u64::from(count) * share * self.vector_bytes);
        if let Some([chunk, stages]) = self.looped {
            let share = u64::from(chunk) / width;
            return Place { vectors: 0, stages, share, smem: slots(stages, share) };
        }
        let share = window_vectors(cols, width).div_ceil(self.split.into());
        if let Some(stages) = self.wide {
            // A legal config has room for the row.
            let vectors = wide_vectors(share, lanes, problem.dtype, self.warps).unwrap_or_default();
            return Place { vectors, stages, share, smem: Bytes(0) };
        }
        match vectors_in_registers(share, lanes, width, self.warps) {
            Some(vectors) => Place { vectors, stages: 0, share, smem: Bytes(0) },
            None => Place { vectors: 0, stages: 0, share, smem: slots(1, share) },
        }
    }

    /// Static shared memory: the statistics of a row's warps.
    fn statistics(&self) -> Bytes {
        Bytes(u64::from(self.warps * self.split) * STATISTICS_BYTES)
    }
}

/// The kernel counts a row's columns, rounded up to vectors, in 32 bits.
const COLUMNS: (&str, &str) = ("cols <= 2147483584", "columns are counted in 32 bits");
const TILES: (&str, &str) = (
    "ceil_div(rows, block_sizes[0]) * split_k < 1073741824",
    "tiles are counted in 32 bits, larger block_sizes make fewer",
);
const WHOLE_VECTORS: (&str, &str) = (
    "reduction_loops[0] * element_bytes % 16 == 0 && reduction_loops[0] * element_bytes / 16 >= num_warps * 32 / block_sizes[0]",
    "a step must be whole vectors of 16 bytes, one or more for each thread of the row",
);
const RING: (&str, &str) = (
    "block_sizes[0] * num_stages * reduction_loops[0] * element_bytes + num_warps * 16 <= smem_per_block",
    "the ring needs more shared memory than a program has",
);
/// As [`wide_vectors`] has it.
const WIDE_ROWS: (&str, &str) = (
    "ceil_div(ceil_div(cols + (32 / element_bytes - 1) * (cols * element_bytes % 32 != 0), 32 / element_bytes), split_k) \
     <= num_warps * 32 / block_sizes[0] * (4 - (num_warps == 32) * (4 - element_bytes / 2))",
    "rows do not fit the registers",
);
/// In registers, 32 values of a lane at most, or 24 of a lane of 32 warps; else in shared memory.
const WHOLE_ROWS: (&str, &str) = (
    "ceil_div(ceil_div(cols + (16 / element_bytes - 1) * (cols * element_bytes % 16 != 0), 16 / element_bytes), split_k) \
     * (16 / element_bytes) <= num_warps * 32 / block_sizes[0] * (32 - 8 * (num_warps == 32)) \
     || block_sizes[0] <= num_warps && block_sizes[0] * 16 \
     * ceil_div(ceil_div(cols + (16 / element_bytes - 1) * (cols * element_bytes % 16 != 0), 16 / element_bytes), split_k) \
     + num_warps * split_k * 16 <= smem_per_block",
    "whole rows fit neither the registers nor, with a warp each, the shared memory",
);

/// The kernel of a legal config and its launch.
fn build(config: &Config, problem: &Problem, profile: &GpuProfile) -> Result<(KernelSpec, Launch), Rejection> {
    let knobs = Knobs::new(config)?;
    let Place { vectors, stages, share, smem } = knobs.place(problem);
    let Knobs { tile_rows, warps, split, .. } = knobs;
    let (rows, cols) = dimensions(problem);
    let width = knobs.width(problem.dtype);
    let tiles = rows.div_ceil(tile_rows.into());
    let Programs { count, contiguous } = knobs::programs(config, tiles, profile.multiprocessors / split);

    let kernel = KernelSpec::shipped(
        if knobs.wide.is_some() { "row_softmax_wide.cu" } else { "row_softmax.cu" },
        "row_softmax",
        vec![
            ("DTYPE", knobs::c_type(problem.dtype)),
            ("ALIGNED", u8::from(cols.is_multiple_of(width)).to_string()),
            ("ROWS", tile_rows.to_string()),
            ("NUM_WARPS", warps.to_string()),
            ("VECTORS", vectors.to_string()),
            ("NUM_STAGES", stages.to_string()),
            ("SPLIT", split.to_string()),
        ],
    );
    let window = window_vectors(cols, width);
    let steps = knobs.wide.is_none().then(|| Arg::I32(window.div_ceil(share) as i32));
    let launch = Launch {
        grid: [count * split, 1, 1],
        cluster: split,
        threads: [warps * WARP, 1, 1],
        dynamic_smem: smem,
        args: [Arg::Input(0), Arg::Output(0), Arg::I64(rows as i64), Arg::I32(cols as i32), Arg::I32(share as i32)]
            .into_iter()
            .chain(steps)
            .chain([Arg::I32(i32::from(contiguous))])
            .collect(),
        workspace: Bytes(0),
        counters: 0,
    };
    Ok((kernel, launch))
}

impl FamilySpec for RowSoftmax {
    fn tensors(&self, problem: &Problem) -> Tensors {
        let (rows, cols) = dimensions(problem);
        let tensor = |name| TensorSpec::new(name, problem.dtype, &[rows, cols], Fill::Uniform { magnitude: 4.0 });
        Tensors { inputs: vec![tensor("X")], outputs: vec![tensor("Y").written()] }
    }

    /// An element is compared, subtracted, exponentiated, summed and divided.
    fn flops(&self, problem: &Problem) -> f64 {
        let (rows, cols) = dimensions(problem);
        5.0 * rows as f64 * cols as f64
    }

    fn launch_knobs(&self) -> &'static [&'static str] {
        &["num_sm_multiplier", "pid_type"]
    }

    fn description(&self) -> Description {
        super::description::row_softmax()
    }

    fn family(&self) -> Family {
        Family::RowSoftmax
    }

    fn domain(&self) -> Option<&'static [Extent]> {
        Some(&[Extent { least: 1, most: 262_144, multiple: 1 }, Extent { least: 16, most: 262_144, multiple: 8 }])
    }

    fn check(&self, config: &Config, profile: &GpuProfile) -> Result<(), Rejection> {
        knobs::lanes(config, profile)?;
        let known = ["mma", "num_sm_multiplier", "num_stages", "num_warps", "pid_type", "reduction_loops", "split_k"];
        knobs::only(config, &known)?;
        knobs::order(config)?;
        let Knobs { split, .. } = Knobs::new(config)?;
        require!(split == 1 || has_clusters(profile), "split_k {split}: {} has no thread block clusters", profile.arch);
        Ok(())
    }

    fn conditions(&self, config: &Config, _profile: &GpuProfile) -> &'static [Condition] {
        static WHOLE: LazyLock<Vec<Condition>> =
            LazyLock::new(|| legality::conditions(Family::RowSoftmax, [COLUMNS, TILES, WHOLE_ROWS]));
        static LOOPED: LazyLock<Vec<Condition>> =
            LazyLock::new(|| legality::conditions(Family::RowSoftmax, [COLUMNS, TILES, WHOLE_VECTORS, RING]));
        static WIDE: LazyLock<Vec<Condition>> =
            LazyLock::new(|| legality::conditions(Family::RowSoftmax, [COLUMNS, TILES, WIDE_ROWS]));
        match config.mma {
            Some(Mma::SimtWide) => &WIDE,
            _ if config.reduction_loops == [None] => &WHOLE,
            _ => &LOOPED,
        }
    }

    fn axes(&self) -> &'static [Axis] {
        static AXES: LazyLock<[Axis; 2]> = LazyLock::new(|| {
            let step = "reduction_loops[0] + (reduction_loops[0] == 0) * ceil_div(cols, split_k)";
            [("rows", "block_sizes[0]", false), ("cols", step, true)]
                .map(|(extent, block, is_reduced)| Axis::new(Family::RowSoftmax, extent, block, is_reduced))
        });
        AXES.as_slice()
    }

    fn footprint(&self, config: &Config, problem: &Problem, _profile: &GpuProfile) -> Result<Footprint, Rejection> {
        /// As many as leave room for 32 warps a multiprocessor, which rows in registers are held to.
        const REGISTERS: u32 = 64;
        /// What the wide kernel takes beside its elements in f32 and the row that is on its way.
        const WIDE_REGISTERS: u64 = 32;
        let knobs = Knobs::new(config)?;
        let Place { vectors, stages, share, smem } = knobs.place(problem);
        let wide = || WIDE_REGISTERS + vectors * (knobs.width(problem.dtype) + 8 * u64::from(stages - 1));
        Ok(Footprint {
            threads: knobs.warps * WARP,
            registers: if knobs.wide.is_some() { wide() as u32 } else { REGISTERS },
            smem: Bytes(smem.0 + knobs.statistics().0),
            stage_bytes: Bytes(u64::from(knobs.tile_rows) * share * knobs.vector_bytes),
        })
    }

    fn build(
        &self,
        config: &Config,
        problem: &Problem,
        profile: &GpuProfile,
    ) -> Result<(KernelSpec, Launch), Rejection> {
        build(config, problem, profile)
    }

    fn check_host(&self, config: &Config, _problem: &Problem) -> Result<(), Rejection> {
        knobs::only(config, &["num_warps", "reduction_loops"])?;
        knobs::block_sizes::<1>(config)?;
        knobs::needed("num_warps", config.num_warps)?;
        reduction_loop(config)?;
        Ok(())
    }

    fn reference(&self, problem: &Problem) -> Option<(KernelSpec, Launch)> {
        const MOST_BLOCKS: u64 = 1 << 20;
        let (rows, cols) = dimensions(problem);
        let kernel = KernelSpec::shipped(
            "row_softmax_reference.cu",
            "row_softmax_reference",
            vec![("DTYPE", knobs::c_type(problem.dtype))],
        );
        let launch = Launch {
            grid: [rows.min(MOST_BLOCKS) as u32, 1, 1],
            cluster: 1,
            threads: [WARP, 1, 1],
            dynamic_smem: Bytes(0),
            args: vec![
                Arg::Input(0),
                Arg::Output(0),
                Arg::Allowed(0),
                Arg::I64(rows as i64),
                Arg::I32(cols as i32),
                Arg::F32(ALLOWED as f32),
                Arg::F32(ALLOWED_SLOPE as f32),
            ],
            workspace: Bytes(0),
            counters: 0,
        };
        Some((kernel, launch))
    }

    fn host_reference(&self, problem: &Problem, inputs: &[HostTensor]) -> Reference {
        let (_, cols) = dimensions(problem);
        let softmax = |row: &[f64]| {
            let maximum = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let distances: Vec<f64> = row.iter().map(|value| maximum - value).collect();
            let sum: f64 = distances.iter().map(|distance| (-distance).exp()).sum();
            distances.into_iter().map(move |distance| {
                let value = (-distance).exp() / sum;
                (value, value * (ALLOWED + ALLOWED_SLOPE * distance.min(FURTHEST)))
            })
        };
        inputs[0].to_f64().chunks(cols as usize).flat_map(softmax).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PidType;

    fn problem(rows: i64, cols: i64, dtype: Dtype) -> Problem {
        Problem::new(Family::RowSoftmax, &[("rows", rows), ("cols", cols)], dtype).unwrap()
    }

    fn whole_row(rows: u32, warps: u32) -> Config {
        Config {
            block_sizes: vec![rows],
            mma: Some(Mma::Simt),
            num_warps: Some(warps),
            pid_type: Some(PidType::Flat),
            reduction_loops: vec![None],
            split_k: Some(1),
            ..Config::default()
        }
    }

    fn looped(chunk: u32, warps: u32, stages: u32) -> Config {
        Config { reduction_loops: vec![Some(chunk)], num_stages: Some(stages), ..whole_row(1, warps) }
    }

    fn split_row(split: u32, warps: u32) -> Config {
        Config { split_k: Some(split), ..whole_row(1, warps) }
    }

    fn launch(config: &Config, rows: i64, cols: i64, dtype: Dtype) -> Result<Launch, Rejection> {
        RowSoftmax.launch(config, &problem(rows, cols, dtype), &GpuProfile::by_name("h200").unwrap())
    }

    /// Counts a row's vectors one row after another, the slow way.
    fn widest_window(rows: u64, cols: u64, width: u64) -> u64 {
        let vectors = |row: u64| (row * cols + cols - 1) / width - row * cols / width + 1;
        (0..rows).map(vectors).max().unwrap()
    }

    #[test]
    fn the_window_holds_the_worst_placed_row() {
        for width in [4, 8] {
            for cols in 1..200 {
                let window = window_vectors(cols, width);
                let widest = widest_window(2 * width, cols, width);
                assert!(widest <= window && window <= widest + 1, "{cols} columns: {window}, not {widest}");
            }
        }
    }

    fn macro_of(config: &Config, cols: i64, dtype: Dtype, name: &str) -> String {
        let h200 = GpuProfile::by_name("h200").unwrap();
        let kernel = RowSoftmax.kernel(config, &problem(64, cols, dtype), &h200).unwrap();
        kernel.macros.into_iter().find(|(macro_name, _)| *macro_name == name).unwrap().1
    }

    #[test]
    fn shared_memory_holds_every_slot() {
        let smem = |config: &Config, cols, dtype| launch(config, 64, cols, dtype).unwrap().dynamic_smem.0;
        assert_eq!(smem(&whole_row(1, 4), 8192, Dtype::Bf16), 16 << 10);
        assert_eq!(smem(&whole_row(4, 4), 8192, Dtype::F32), 128 << 10);
        assert_eq!(smem(&looped(4096, 4, 3), 131_072, Dtype::Bf16), 24 << 10);
        assert_eq!(smem(&split_row(4, 4), 131_072, Dtype::Bf16), 64 << 10);
    }

    #[test]
    fn a_row_is_in_registers_where_its_lanes_have_room() {
        let vectors = |config: &Config, cols, dtype| macro_of(config, cols, dtype, "VECTORS").parse::<u64>().unwrap();
        assert_eq!(vectors(&whole_row(1, 1), 1024, Dtype::Bf16), 4);
        assert_eq!(vectors(&whole_row(1, 1), 1025, Dtype::Bf16), 0);
        assert_eq!(vectors(&whole_row(16, 4), 64, Dtype::F32), 2);
        assert_eq!(vectors(&split_row(8, 16), 128_256, Dtype::Bf16), 4);
        for lanes in [4, 8, 32, 256] {
            for share in 1..1000 {
                if let Some(vectors) = vectors_in_registers(share, lanes, 8, 8) {
                    assert!(vectors * lanes >= share && vectors <= 4, "{share} vectors on {lanes} lanes");
                } else {
                    assert!(share > 4 * lanes, "{share} vectors on {lanes} lanes");
                }
            }
        }
    }

    #[test]
    fn programs_of_a_cluster_share_a_row() {
        let shared = launch(&split_row(8, 16), 16, 128_256, Dtype::Bf16).unwrap();
        assert_eq!((shared.grid, shared.dynamic_smem), ([128, 1, 1], Bytes(0)));
        assert_eq!(shared.args[4], Arg::I32(2004));
        let persistent =
            Config { pid_type: Some(PidType::PersistentInterleaved), num_sm_multiplier: Some(1), ..split_row(8, 16) };
        assert_eq!(launch(&persistent, 1024, 128_256, Dtype::Bf16).unwrap().grid, [128, 1, 1]);

        let a100 = GpuProfile { arch: "sm_80".into(), ..GpuProfile::by_name("h200").unwrap() };
        let problem = problem(16, 128_256, Dtype::Bf16);
        assert!(RowSoftmax.launch(&split_row(8, 16), &problem, &a100).unwrap_err().0.contains("sm_80"));
        let refused = |config: Config| launch(&config, 64, 1024, Dtype::Bf16).unwrap_err().0;
        assert!(refused(Config { split_k: Some(3), ..whole_row(1, 4) }).contains("split_k 3"));
        assert!(refused(Config { split_k: Some(2), ..whole_row(2, 4) }).contains("one row at a time"));
        assert!(refused(Config { split_k: Some(2), ..looped(4096, 4, 2) }).contains("the whole of it"));
    }

    #[test]
    fn a_row_too_long_for_shared_memory_must_be_looped_over_or_shared() {
        let refused = launch(&split_row(1, 32), 4096, 131_072, Dtype::Bf16).unwrap_err().0;
        assert!(refused.contains("shared memory") && refused.contains("cols = 131072"), "{refused}");
        assert!(launch(&split_row(2, 16), 4096, 131_072, Dtype::Bf16).is_ok());
        let launch = launch(&looped(8192, 32, 2), 4096, 131_072, Dtype::Bf16).unwrap();
        assert_eq!(launch.args[4..6], [Arg::I32(1024), Arg::I32(16)]);
    }

    #[test]
    fn whole_rows_are_refused_where_neither_registers_nor_shared_memory_have_room() {
        let h200 = GpuProfile::by_name("h200").unwrap();
        let mut verdicts = [0, 0];
        for cols in (1..200_000).step_by(977) {
            for (rows, warps, split) in [(1, 32, 1), (1, 8, 4), (4, 4, 1), (16, 4, 1), (1, 16, 8), (2, 32, 1)] {
                for dtype in [Dtype::Bf16, Dtype::F32] {
                    let config = Config { split_k: Some(split), ..whole_row(rows, warps) };
                    let knobs = Knobs::new(&config).unwrap();
                    let place = knobs.place(&problem(64, cols, dtype));
                    let needs = place.smem.0 + knobs.statistics().0;
                    let fits = place.vectors > 0 || (rows <= warps && needs <= h200.smem_per_block.0);
                    assert_eq!(launch(&config, 64, cols, dtype).is_ok(), fits, "{config} on {cols} columns of {dtype}");
                    verdicts[usize::from(fits)] += 1;
                }
            }
        }
        assert!(verdicts.iter().all(|count| *count > 100), "{verdicts:?}");
    }

    #[test]
    fn any_row_length_has_a_launch() {
        for cols in [1, 2, 7, 127, 8191, 50_257, 262_144] {
            assert!(launch(&looped(4096, 8, 3), 17, cols, Dtype::Bf16).is_ok(), "{cols} columns");
        }
    }

    #[test]
    fn knobs_that_cannot_be_or_do_nothing_are_refused_by_name() {
        let refused = |config: Config| launch(&config, 64, 1024, Dtype::Bf16).unwrap_err().0;
        assert!(refused(Config { num_stages: Some(2), ..whole_row(1, 4) }).contains("num_stages 2"));
        assert!(refused(Config { num_stages: None, ..looped(4096, 4, 1) }).contains("num_stages"));
        assert!(refused(Config { reduction_loops: vec![], ..whole_row(1, 4) }).contains("reduction_loops"));
        assert!(refused(looped(128, 1, 2)).contains("reduction_loops[0] = 128"));
        assert!(refused(Config { split_k: None, ..whole_row(1, 4) }).contains("split_k is missing"));
        assert!(refused(Config { l2_groupings: vec![8], ..whole_row(1, 4) }).contains("l2_groupings"));
        assert!(refused(whole_row(64, 1)).contains("[64]"));
        assert!(launch(&whole_row(4, 2), 64, 4096, Dtype::Bf16).unwrap_err().0.contains("a warp each"));
        let four_rows = Config { block_sizes: vec![4], ..looped(4096, 2, 2) };
        assert!(refused(four_rows).contains("a warp each"));
        assert!(refused(whole_row(3, 4)).contains("[3]"));
    }

    fn wide(rows: u32, warps: u32, stages: u32) -> Config {
        Config { mma: Some(Mma::SimtWide), num_stages: Some(stages), ..whole_row(rows, warps) }
    }

    /// What the macros of the wide kernel must hold for it to take whole rows.
    #[test]
    fn a_wide_lane_has_room_for_its_share_wherever_the_config_is_legal() {
        let b200 = GpuProfile::by_name("b200").unwrap();
        let mut verdicts = [0, 0];
        for cols in (1..200_000).step_by(977) {
            for (rows, warps, split) in [(1, 32, 1), (1, 8, 4), (4, 4, 1), (16, 4, 1), (1, 16, 8), (2, 32, 1)] {
                for dtype in [Dtype::Bf16, Dtype::F32] {
                    let config = Config { split_k: Some(split), ..wide(rows, warps, 2) };
                    let program = RowSoftmax.program(&config, &problem(64, cols, dtype), &b200);
                    verdicts[usize::from(program.is_ok())] += 1;
                    let width = 32 / dtype.size_bytes();
                    let share = window_vectors(cols as u64, width).div_ceil(split.into());
                    let lanes = u64::from(warps * WARP / rows);
                    let Ok((kernel, launch)) = program else {
                        assert!(
                            share > lanes * if warps == 32 { dtype.size_bytes() / 2 } else { 4 },
                            "{config} {cols}"
                        );
                        continue;
                    };
                    let value = |name| kernel.macros.iter().find(|(known, _)| *known == name).unwrap().1.clone();
                    let vectors: u64 = value("VECTORS").parse().unwrap();
                    assert!((1..=4).contains(&vectors) && vectors * lanes >= share && (vectors - 1) * lanes < share);
                    assert_eq!(
                        (kernel.code.to_string().split(' ').next(), value("NUM_STAGES").as_str()),
                        (Some("row_softmax_wide.cu"), "2")
                    );
                    assert_eq!(value("ALIGNED") == "1", (cols as u64).is_multiple_of(width));
                    assert_eq!(launch.args[4..], [Arg::I32(share as i32), Arg::I32(0)]);
                    assert_eq!(launch.dynamic_smem, Bytes(0));
                }
            }
        }
        assert!(verdicts.iter().all(|count| *count > 100), "{verdicts:?}");
        let refused = |config: &Config, gpu| {
            let profile = GpuProfile::by_name(gpu).unwrap();
            RowSoftmax.program(config, &problem(64, 1024, Dtype::Bf16), &profile).unwrap_err().0
        };
        assert!(refused(&wide(1, 8, 1), "h200").contains("no simt_wide"));
        assert!(refused(&wide(1, 8, 3), "b200").contains("num_stages 3"));
        assert!(refused(&Config { num_stages: None, ..wide(1, 8, 1) }, "b200").contains("num_stages is missing"));
        assert!(refused(&Config { mma: Some(Mma::SimtWide), ..looped(4096, 8, 2) }, "b200").contains("whole rows"));
    }

    #[test]
    fn launch_knobs_leave_the_kernel_as_it_is() {
        let h200 = GpuProfile::by_name("h200").unwrap();
        let kernel = |config: &Config| RowSoftmax.kernel(config, &problem(64, 1024, Dtype::Bf16), &h200).unwrap();
        let persistent =
            Config { pid_type: Some(PidType::PersistentBlocked), num_sm_multiplier: Some(4), ..whole_row(1, 4) };
        assert_eq!(kernel(&persistent), kernel(&whole_row(1, 4)));
    }

    #[test]
    fn the_host_reference_is_a_softmax() {
        let (three, infinity) = (3f32.ln(), f32::INFINITY);
        let rows = vec![0.0, three, -infinity, 1e30, -infinity, -infinity];
        let out = RowSoftmax.host_reference(&problem(3, 2, Dtype::F32), &[HostTensor::F32(rows)]).values;
        assert!((out[0] - 0.25).abs() < 1e-7 && (out[1] - 0.75).abs() < 1e-7);
        assert_eq!(out[2..4], [0.0, 1.0]);
        assert!(out[4..].iter().all(|value| value.is_nan()));
    }
}
