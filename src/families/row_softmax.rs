//! Row softmax.

use super::knobs::{self, Programs, WARP};
use super::{Arg, FamilySpec, Fill, HostTensor, KernelSpec, Launch, Rejection, TensorSpec, Tensors, require};
use crate::model::{Bytes, Config, Dtype, GpuProfile, Mma, Problem, Shape};

pub(super) struct RowSoftmax;

/// Bytes of the vectors that rows are copied in.
const VECTOR_BYTES: u64 = 16;
/// Static shared memory of a warp: its statistics, in two buffers.
const STATISTICS_BYTES: u64 = 16;
/// The kernel counts a row's columns, rounded up to vectors, in 32 bits.
const MOST_COLS: u64 = (1 << 31) - 64;

fn dimensions(problem: &Problem) -> (u64, u64) {
    match problem.shape {
        Shape::Rows { rows, cols } => (rows, cols),
        _ => unreachable!("Problem::new gives softmax its own shape"),
    }
}

fn vector_width(dtype: Dtype) -> u64 {
    VECTOR_BYTES / dtype.size_bytes()
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

/// The kernel and its launch, which are legal or not together.
fn build(config: &Config, problem: &Problem, profile: &GpuProfile) -> Result<(KernelSpec, Launch), Rejection> {
    knobs::mma(config, Mma::Simt)?;
    knobs::only(config, &["mma", "num_sm_multiplier", "num_stages", "num_warps", "pid_type", "reduction_loops"])?;
    let [tile_rows] = knobs::block_sizes(config)?;
    let warps = knobs::num_warps(config)?;
    let chunk = reduction_loop(config)?;
    let (rows, cols) = dimensions(problem);
    let width = vector_width(problem.dtype);
    require!(tile_rows.is_power_of_two(), "block_sizes [{tile_rows}] is not a power of two");
    require!(cols <= MOST_COLS, "cols = {cols}: at most {MOST_COLS}");

    let rows_at_once = warps.min(tile_rows);
    let row_threads = u64::from(warps / rows_at_once * WARP);
    let Programs { count, contiguous } = knobs::programs(config, rows.div_ceil(tile_rows.into()), profile)?;
    let window = window_vectors(cols, width);
    let step_vectors = match chunk {
        None => window,
        Some(chunk) => {
            let vectors = u64::from(chunk) / width;
            require!(
                u64::from(chunk).is_multiple_of(width) && vectors >= row_threads,
                "reduction_loops [{chunk}] is not whole vectors of {width} columns for {row_threads} threads a row"
            );
            vectors
        }
    };
    let stages = match (chunk, config.num_stages) {
        (None, None) => 1,
        (_, stages) => knobs::needed("num_stages", stages)?,
    };
    let one_row_a_warp = tile_rows <= warps && config.num_sm_multiplier.is_none();
    require!(
        stages == 1 || chunk.is_some() || !one_row_a_warp,
        "num_stages {stages} has no effect: a warp has one row, and all of it at once"
    );
    let slots = Bytes(u64::from(rows_at_once) * u64::from(stages) * step_vectors * VECTOR_BYTES);
    knobs::fits_smem(Bytes(slots.0 + u64::from(warps) * STATISTICS_BYTES), profile)?;

    let kernel = KernelSpec {
        source: "row_softmax.cu",
        entry: "row_softmax",
        macros: vec![
            ("DTYPE", knobs::c_type(problem.dtype)),
            ("ROWS", tile_rows.to_string()),
            ("NUM_WARPS", warps.to_string()),
            ("NUM_STAGES", stages.to_string()),
            ("WHOLE_ROW", u8::from(chunk.is_none()).to_string()),
        ],
    };
    let launch = Launch {
        grid: [count, 1, 1],
        cluster: 1,
        threads: warps * WARP,
        dynamic_smem: slots,
        args: vec![
            Arg::Input(0),
            Arg::Output,
            Arg::I64(rows as i64),
            Arg::I32(cols as i32),
            Arg::I32(step_vectors as i32),
            Arg::I32(window.div_ceil(step_vectors) as i32),
            Arg::I32(i32::from(contiguous)),
        ],
        workspace: Bytes(0),
        counters: 0,
    };
    Ok((kernel, launch))
}

impl FamilySpec for RowSoftmax {
    fn tensors(&self, problem: &Problem) -> Tensors {
        let (rows, cols) = dimensions(problem);
        let tensor = |name| TensorSpec {
            name,
            element: problem.dtype.into(),
            shape: vec![rows, cols],
            fill: Fill::Uniform { magnitude: 4.0 },
        };
        Tensors { inputs: vec![tensor("X")], output: tensor("Y") }
    }

    /// An element is compared, subtracted, exponentiated, summed and divided.
    fn flops(&self, problem: &Problem) -> f64 {
        let (rows, cols) = dimensions(problem);
        5.0 * rows as f64 * cols as f64
    }

    fn launch_knobs(&self) -> &'static [&'static str] {
        &["num_sm_multiplier", "pid_type"]
    }

    fn kernel(&self, config: &Config, problem: &Problem, profile: &GpuProfile) -> Result<KernelSpec, Rejection> {
        build(config, problem, profile).map(|(kernel, _)| kernel)
    }

    fn launch(&self, config: &Config, problem: &Problem, profile: &GpuProfile) -> Result<Launch, Rejection> {
        build(config, problem, profile).map(|(_, launch)| launch)
    }

    fn check_host(&self, config: &Config, _problem: &Problem) -> Result<(), Rejection> {
        knobs::only(config, &["num_warps", "reduction_loops"])?;
        knobs::block_sizes::<1>(config)?;
        knobs::needed("num_warps", config.num_warps)?;
        reduction_loop(config)?;
        Ok(())
    }

    fn reference(&self, problem: &Problem) -> (KernelSpec, Launch) {
        const MOST_BLOCKS: u64 = 1 << 20;
        let (rows, cols) = dimensions(problem);
        let kernel = KernelSpec {
            source: "row_softmax_reference.cu",
            entry: "row_softmax_reference",
            macros: vec![("DTYPE", knobs::c_type(problem.dtype))],
        };
        let launch = Launch {
            grid: [rows.min(MOST_BLOCKS) as u32, 1, 1],
            cluster: 1,
            threads: WARP,
            dynamic_smem: Bytes(0),
            args: vec![Arg::Input(0), Arg::Output, Arg::I64(rows as i64), Arg::I32(cols as i32)],
            workspace: Bytes(0),
            counters: 0,
        };
        (kernel, launch)
    }

    fn host_reference(&self, problem: &Problem, inputs: &[HostTensor]) -> Vec<f64> {
        let (_, cols) = dimensions(problem);
        let mut values = inputs[0].to_f64();
        for row in values.chunks_mut(cols as usize) {
            let maximum = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            for value in row.iter_mut() {
                *value = (*value - maximum).exp();
            }
            let sum: f64 = row.iter().sum();
            for value in row.iter_mut() {
                *value /= sum;
            }
        }
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Family, PidType};

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
            ..Config::default()
        }
    }

    fn looped(chunk: u32, warps: u32, stages: u32) -> Config {
        Config { reduction_loops: vec![Some(chunk)], num_stages: Some(stages), ..whole_row(1, warps) }
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

    #[test]
    fn shared_memory_holds_every_slot() {
        let smem = |config: &Config, cols, dtype| launch(config, 64, cols, dtype).unwrap().dynamic_smem.0;
        assert_eq!(smem(&whole_row(1, 4), 8192, Dtype::Bf16), 16 << 10);
        assert_eq!(smem(&whole_row(4, 4), 8192, Dtype::F32), 128 << 10);
        assert_eq!(smem(&looped(4096, 4, 3), 131_072, Dtype::Bf16), 24 << 10);
        let two_rows_ahead = Config { num_stages: Some(2), ..whole_row(8, 4) };
        assert_eq!(smem(&two_rows_ahead, 1024, Dtype::Bf16), 4 * 2 * 2048);
    }

    #[test]
    fn a_row_too_long_for_shared_memory_must_be_looped_over() {
        let refused = launch(&whole_row(1, 32), 4096, 131_072, Dtype::Bf16).unwrap_err().0;
        assert!(refused.contains("256 KiB") && refused.contains("227 KiB"), "{refused}");
        let launch = launch(&looped(8192, 32, 2), 4096, 131_072, Dtype::Bf16).unwrap();
        assert_eq!(launch.args[4..6], [Arg::I32(1024), Arg::I32(16)]);
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
        assert!(refused(looped(128, 1, 2)).contains("[128]"));
        assert!(refused(Config { split_k: Some(2), ..whole_row(1, 4) }).contains("split_k"));
        assert!(refused(whole_row(3, 4)).contains("[3]"));
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
        let out = RowSoftmax.host_reference(&problem(3, 2, Dtype::F32), &[HostTensor::F32(rows)]);
        assert!((out[0] - 0.25).abs() < 1e-7 && (out[1] - 0.75).abs() < 1e-7);
        assert_eq!(out[2..4], [0.0, 1.0]);
        assert!(out[4..].iter().all(|value| value.is_nan()));
    }
}
