//! What each family is, apart from how it is timed: its kernels' macros and launch geometry, which configs are legal
//! (and why not), its tensors, its reference and its floor in FLOPs and bytes. Pure functions of problem, config and
//! GPU profile.

mod attention;
mod description;
mod elementwise;
mod gemm;
mod inputs;
mod knobs;
mod legality;
mod rounding;
mod row_softmax;
mod work;

pub use description::Description;
pub use inputs::{Element, Fill, FillParameters, HostTensor, TensorSpec, awkward, fill};
pub use legality::{Condition, Legality, Values, is_of_knobs, knob_values, knobs_of, names, values};
pub use rounding::Reference;
pub use work::{Axis, Footprint, Work};

use crate::model::{Bytes, Config, Family, GpuProfile, Problem};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Why a config cannot run, in one line.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rejection(pub String);

impl fmt::Display for Rejection {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// Returns early with a [`Rejection`] unless the condition holds.
macro_rules! require {
    ($condition:expr, $($reason:tt)+) => {
        if !$condition {
            return Err(crate::families::Rejection(format!($($reason)+)));
        }
    };
}
use require;

/// A kernel to compile: one source file of `kernels/` and its macros. Its identity, with the sources and the compiler.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KernelSpec {
    /// File in `kernels/`: `gemm.cu`.
    pub source: &'static str,
    /// The `extern "C"` function to launch.
    pub entry: &'static str,
    /// `-D` macros, in a fixed order.
    pub macros: Vec<(&'static str, String)>,
}

/// As a compiler would be asked: `gemm.cu -DBLOCK_M=16 …`.
impl fmt::Display for KernelSpec {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.source)?;
        self.macros.iter().try_for_each(|(name, value)| write!(out, " -D{name}={value}"))
    }
}

/// A tensor of the problem as the copy engine (TMA) sees it: which tile of it one instruction copies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorMap {
    /// The tensor: an input by its index in [`Tensors::inputs`], or the output.
    pub input: Option<usize>,
    /// The type of its elements.
    pub element: Element,
    /// Extents, fastest first; two to five. What a tile has beyond them is read as zero and never written.
    pub extents: Vec<u64>,
    /// Bytes between neighbours along each extent but the first: multiples of 16.
    pub strides_bytes: Vec<u64>,
    /// The tile, fastest extent first: at most 256 each, the first as many bytes as the swizzle allows.
    pub tile: Vec<u32>,
    /// How the tile's 16-byte pieces are permuted in shared memory.
    pub swizzle: Swizzle,
}

impl TensorMap {
    /// The map of a contiguous row-major matrix, whose rows must be multiples of 16 bytes.
    pub fn of_matrix(
        input: Option<usize>,
        element: Element,
        shape: [u64; 2],
        tile: [u32; 2],
        swizzle: Swizzle,
    ) -> Self {
        let [rows, columns] = shape;
        Self {
            input,
            element,
            extents: vec![columns, rows],
            strides_bytes: vec![columns * element.size_bytes()],
            tile: vec![tile[1], tile[0]],
            swizzle,
        }
    }
}

/// Permutations of the 16-byte pieces of a tile in shared memory, by the bytes of a row: piece i of row r lies at
/// i ^ (r % 8) for 128 bytes, i ^ (r / 2 % 4) for 64, i ^ (r / 4 % 2) for 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Swizzle {
    /// As they come.
    None,
    /// Rows of 32 bytes.
    Bytes32,
    /// Rows of 64 bytes.
    Bytes64,
    /// Rows of 128 bytes.
    Bytes128,
}

/// One kernel argument, in the order of the kernel's parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Arg {
    /// Device pointer to an input tensor, by its index in [`Tensors::inputs`].
    Input(usize),
    /// Device pointer to the output tensor (to the f32 reference output, when the reference is launched).
    Output,
    /// Device pointer to what each element may differ by ([`Reference::allowed`]), in bf16, when the reference is launched.
    Allowed,
    /// Device pointer to [`Launch::workspace`] bytes of scratch, contents undefined.
    Workspace,
    /// Device pointer to [`Launch::counters`] 32-bit words that are zero at launch and that the kernel leaves zero.
    Counters,
    /// A 32-bit integer.
    I32(i32),
    /// A 64-bit integer.
    I64(i64),
    /// A 32-bit float.
    F32(f32),
    /// A tensor map, by value: 128 bytes.
    TensorMap(TensorMap),
}

/// How a compiled kernel is launched on one problem.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Launch {
    /// Thread blocks along x, y, z.
    pub grid: [u32; 3],
    /// Blocks along x that run together and see each other's shared memory; 1 for none. Divides `grid[0]`.
    pub cluster: u32,
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block.
    pub dynamic_smem: Bytes,
    /// The kernel's parameters.
    pub args: Vec<Arg>,
    /// Scratch memory behind [`Arg::Workspace`].
    pub workspace: Bytes,
    /// Words behind [`Arg::Counters`].
    pub counters: u32,
}

/// The tensors of a problem.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensors {
    /// What the kernel reads, contiguous in row-major order.
    pub inputs: Vec<TensorSpec>,
    /// What it writes, likewise.
    pub output: TensorSpec,
}

/// More memory than any device has for some years to come.
const MOST_MEMORY: Bytes = Bytes::mib(1 << 20);

/// What the rest of the pipeline asks of a family.
pub trait FamilySpec: Sync {
    /// The problem's tensors.
    fn tensors(&self, problem: &Problem) -> Tensors;

    /// Floating-point operations of the problem.
    fn flops(&self, problem: &Problem) -> f64;

    /// The fewest bytes the problem moves: each input read once, the output written once.
    fn bytes(&self, problem: &Problem) -> Bytes {
        let tensors = self.tensors(problem);
        let all = tensors.inputs.iter().chain([&tensors.output]);
        Bytes(all.fold(0, |bytes, tensor| bytes.saturating_add(tensor.bytes().0)))
    }

    /// Refuses a problem that no device holds, and whose sizes would overflow.
    fn fits_memory(&self, problem: &Problem) -> Result<(), Rejection> {
        let needs = self.bytes(problem);
        require!(needs <= MOST_MEMORY, "the tensors need {needs}, more than {MOST_MEMORY}");
        Ok(())
    }

    /// The knobs that are launch arguments, so that changing them costs no compile.
    fn launch_knobs(&self) -> &'static [&'static str];

    /// The compile-time half of a config: on one problem, configs that share it share a kernel.
    fn compiled_half(&self, config: &Config) -> Config {
        config.without(self.launch_knobs())
    }

    /// Which family it describes.
    fn family(&self) -> Family;

    /// Refuses a config that runs on no problem on that GPU.
    fn check(&self, config: &Config, profile: &GpuProfile) -> Result<(), Rejection>;

    /// On which problems a config that passes [`check`](Self::check) runs: where all of these hold.
    fn conditions(&self, config: &Config, profile: &GpuProfile) -> &'static [Condition];

    /// What the work is cut along, for the models to know.
    fn axes(&self) -> &'static [Axis];

    /// What a program of a legal config takes of its multiprocessor.
    fn footprint(&self, config: &Config, problem: &Problem, profile: &GpuProfile) -> Result<Footprint, Rejection>;

    /// The kernel of a legal config and its launch.
    fn build(
        &self,
        config: &Config,
        problem: &Problem,
        profile: &GpuProfile,
    ) -> Result<(KernelSpec, Launch), Rejection>;

    /// Whether `config` runs on `problem` on that GPU, or why not. Never called for the cpu device.
    fn legal(&self, config: &Config, problem: &Problem, profile: &GpuProfile) -> Result<(), Rejection> {
        self.check(config, profile)?;
        legality::check(self.family(), self.conditions(config, profile), &values(config, problem, profile))
    }

    /// Whether a config that passes [`check`](Self::check) runs on `problem` on that GPU.
    fn meets_conditions(&self, config: &Config, problem: &Problem, profile: &GpuProfile) -> bool {
        let values = values(config, problem, profile);
        self.conditions(config, profile).iter().all(|condition| condition.expression.holds(&values))
    }

    /// The kernel that runs `config` on `problem` on that GPU and its launch, or why there is none. Never called for the cpu
    /// device.
    fn program(
        &self,
        config: &Config,
        problem: &Problem,
        profile: &GpuProfile,
    ) -> Result<(KernelSpec, Launch), Rejection> {
        self.legal(config, problem, profile)?;
        self.build(config, problem, profile)
    }

    /// How a legal config's programs deal with `problem`: what a model predicts times from.
    fn work(&self, config: &Config, problem: &Problem, profile: &GpuProfile) -> Result<Work, Rejection> {
        self.legal(config, problem, profile)?;
        let footprint = self.footprint(config, problem, profile)?;
        Ok(Work::new(self.axes(), &footprint, config, problem, profile))
    }

    /// The kernel alone.
    fn kernel(&self, config: &Config, problem: &Problem, profile: &GpuProfile) -> Result<KernelSpec, Rejection> {
        self.program(config, problem, profile).map(|(kernel, _)| kernel)
    }

    /// The launch alone.
    fn launch(&self, config: &Config, problem: &Problem, profile: &GpuProfile) -> Result<Launch, Rejection> {
        self.program(config, problem, profile).map(|(_, launch)| launch)
    }

    /// Whether the host kernel of the cpu device runs `config` on `problem`, or why not.
    fn check_host(&self, config: &Config, problem: &Problem) -> Result<(), Rejection>;

    /// The plain kernel a candidate's output is compared with. It writes f32, and [`Reference::allowed`] in bf16.
    fn reference(&self, problem: &Problem) -> (KernelSpec, Launch);

    /// The same computed on the host in f64: what the cpu device and the reference kernel's own test compare with.
    fn host_reference(&self, problem: &Problem, inputs: &[HostTensor]) -> Reference;
}

/// The description of a family.
pub fn spec(family: Family) -> &'static dyn FamilySpec {
    match family {
        Family::Matmul => &gemm::MATMUL,
        Family::MatmulInt4 => &gemm::MATMUL_INT4,
        Family::MatmulInt16 => &gemm::MATMUL_INT16,
        Family::MatmulFp4 => &gemm::MATMUL_FP4,
        Family::Attention => &attention::Attention,
        Family::RowSoftmax => &row_softmax::RowSoftmax,
        Family::Elementwise => &elementwise::Elementwise,
    }
}
