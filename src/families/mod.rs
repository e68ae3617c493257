//! What each family is, apart from how it is timed: its kernels' macros and launch geometry, which configs are legal
//! (and why not), its tensors, its reference and its floor in FLOPs and bytes. Pure functions of problem, config and
//! GPU profile.

mod attention;
mod callable;
mod description;
mod gemm;
mod inputs;
mod knobs;
mod legality;
pub mod manifest;
mod needed;
mod rounding;
mod work;

pub use callable::{Call, Callable, Language};
pub use description::Description;
pub use inputs::{Element, Fill, FillParameters, HostTensor, TensorSpec, awkward, decode_e4m3, fill};
pub use legality::{Condition, Legality, Values, is_of_knobs, knob_values, knobs_of, names, values, values_on};
pub use manifest::same_code;
pub use needed::{Kernels, Needed};
pub use rounding::Reference;
pub use work::{Axis, Footprint, Work};

use crate::model::{Bytes, Config, Family, GpuProfile, Problem};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};

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
    /// What is compiled, or loaded as it is.
    pub code: Code,
    /// The function to launch: an `extern "C"` one by its name, any other of CUDA C++ by a name expression, `scale<4, float>`.
    pub entry: String,
    /// `-D` macros, in a fixed order.
    pub macros: Vec<(String, String)>,
    /// What else makes it another kernel though its code is the same: how it is launched, where only a manifest says so.
    pub salt: String,
}

/// Where a kernel's code is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Code {
    /// A file of `kernels/`, by its name there: `gemm.cu`. Built in, unless the working directory has a folder of that name.
    Shipped(String),
    /// CUDA C++ of somebody else, with the folders that its includes are looked for in and the compiler's options.
    Cuda {
        /// The file.
        file: PathBuf,
        /// Folders, beside the file's own.
        include: Vec<PathBuf>,
        /// Options of NVRTC.
        options: Vec<String>,
    },
    /// A file of PTX, which the driver compiles.
    Ptx(PathBuf),
    /// A cubin, which is loaded as it is.
    Cubin(PathBuf),
    /// What another language calls.
    Callable(Callable),
}

impl Code {
    /// Whether the driver loads it as it is, so that no compiler of ours tells its registers and spills. What the driver tells of local
    /// memory may be either arrays or spills, and leaves nothing out.
    pub const fn is_binary(&self) -> bool {
        matches!(self, Self::Ptx(_) | Self::Cubin(_))
    }
}

/// The file's name.
impl fmt::Display for Code {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shipped(name) => out.write_str(name),
            Self::Cuda { file, .. } | Self::Ptx(file) | Self::Cubin(file) => write!(out, "{}", file.display()),
            Self::Callable(Callable { file, name, .. }) => write!(out, "{}:{name}", file.display()),
        }
    }
}

impl KernelSpec {
    /// A kernel of a file of `kernels/`.
    pub fn shipped<'m>(source: &str, entry: &str, macros: impl IntoIterator<Item = (&'m str, String)>) -> Self {
        Self {
            code: Code::Shipped(source.to_owned()),
            entry: entry.to_owned(),
            macros: macros.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            salt: String::new(),
        }
    }

    /// Whether its function is known by an expression of C++, such as an instance of a template, and has another name in the cubin.
    pub fn is_named_by_expression(&self) -> bool {
        !self.entry.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_' || letter == '$')
    }
}

/// As a compiler would be asked: `gemm.cu -DBLOCK_M=16 …`.
impl fmt::Display for KernelSpec {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.code)?;
        if self.is_named_by_expression() {
            write!(out, " {}", self.entry)?;
        }
        self.macros.iter().try_for_each(|(name, value)| write!(out, " -D{name}={value}"))
    }
}

/// A tensor of the problem as the copy engine (TMA) sees it: which tile of it one instruction copies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorMap {
    /// What it is a map of.
    pub of: Mapped,
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

/// What a tensor map is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mapped {
    /// An input, by its index in [`Tensors::inputs`].
    Input(usize),
    /// The output.
    Output,
    /// What lies so many bytes into the scratch of [`Arg::Workspace`]: a multiple of 16.
    Workspace(u64),
}

impl TensorMap {
    /// The map of a contiguous row-major matrix, whose rows must be multiples of 16 bytes.
    pub fn of_matrix(of: Mapped, element: Element, shape: [u64; 2], tile: [u32; 2], swizzle: Swizzle) -> Self {
        let [rows, columns] = shape;
        Self {
            of,
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
    /// Device pointer to an output tensor, by its index in [`Tensors::outputs`]; to its reference, in
    /// [`Element::reference`]'s type, when the reference is launched.
    Output(usize),
    /// Device pointer to what each element of that output may differ by ([`Reference::allowed`]), in bf16, when the reference is
    /// launched.
    Allowed(usize),
    /// A device pointer to nothing.
    Null,
    /// A 64-bit float.
    F64(f64),
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
    /// Blocks along x, y, z that run together and see each other's shared memory; all 1 for none. Divides the grid.
    pub cluster: [u32; 3],
    /// Threads of a block along x, y, z.
    pub threads: [u32; 3],
    /// Dynamic shared memory of a block.
    pub dynamic_smem: Bytes,
    /// The kernel's parameters.
    pub args: Vec<Arg>,
    /// Scratch memory behind [`Arg::Workspace`].
    pub workspace: Bytes,
    /// Words behind [`Arg::Counters`].
    pub counters: u32,
    /// Whether all blocks wait for each other: the driver then refuses a launch whose blocks do not all fit the GPU at once, and begins
    /// it when they do.
    #[serde(default)]
    pub cooperative: bool,
}

/// The most blocks along x, and along y and z (CUDA C++ Programming Guide, table of compute capabilities).
const MOST_BLOCKS: [u32; 3] = [i32::MAX as u32, u16::MAX as u32, u16::MAX as u32];
/// The most threads of a block along x, y and z, and in all.
const MOST_THREADS: [u32; 3] = [1024, 1024, 64];
/// The most blocks of a cluster, where the kernel asks for more than every GPU has (CUDA C++ Programming Guide).
const MOST_CLUSTER: u32 = 16;
/// Bytes that every kernel's tensors begin at multiples of: the widest loads and stores of all GPUs, and what the copy engine needs.
pub const LEAST_ALIGNMENT: u64 = 16;
/// Bytes that Blackwell's widest loads and stores take at once (PTX ISA, `ld.global.v8.b32`).
const WIDEST_ALIGNMENT: u64 = 32;
/// Bytes of a tensor map.
const TENSOR_MAP_BYTES: usize = 128;

impl Launch {
    /// Refuses a grid or a block that no GPU runs.
    pub fn check_limits(&self) -> Result<(), Rejection> {
        for (axis, name) in ["x", "y", "z"].into_iter().enumerate() {
            for (what, count, most) in
                [("grid", self.grid[axis], MOST_BLOCKS[axis]), ("threads", self.threads[axis], MOST_THREADS[axis])]
            {
                require!((1..=most).contains(&count), "{what} {name} = {count}: it must be 1 to {most}");
            }
        }
        let threads: u32 = self.threads.iter().product();
        require!(threads <= 1024, "threads {:?} are {threads}: a block has 1024 at most", self.threads);
        for (axis, name) in ["x", "y", "z"].into_iter().enumerate() {
            let (cluster, grid) = (self.cluster[axis], self.grid[axis]);
            require!(
                cluster >= 1 && grid.is_multiple_of(cluster),
                "cluster {name} = {cluster} does not divide grid {name} = {grid}"
            );
        }
        let blocks = self.cluster_blocks();
        require!(blocks <= MOST_CLUSTER, "cluster {:?} is {blocks} blocks: {MOST_CLUSTER} at most", self.cluster);
        Ok(())
    }

    /// Blocks of a cluster in all.
    pub fn cluster_blocks(&self) -> u32 {
        self.cluster.iter().fold(1, |blocks, extent| extent.saturating_mul(blocks))
    }

    /// Refuses a function that a cubin, compiled of `code`, lacks, and arguments that are not its parameters, as far as the file tells.
    pub fn check_cubin(&self, cubin: &Path, entry: &str, code: &Code) -> Result<(), String> {
        manifest::check_cubin(cubin, entry, self, code).map_err(|Rejection(why)| why)
    }

    /// Refuses arguments that are not parameters of these sizes in bytes.
    pub fn check_parameters(&self, sizes: &[usize]) -> Result<(), String> {
        let shown = |sizes: &[usize]| sizes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let own: Vec<usize> = self.args.iter().map(Arg::size_bytes).collect();
        if own == sizes {
            return Ok(());
        }
        let place = own.iter().zip(sizes).position(|(own, size)| own != size);
        let first = place.map_or(String::new(), |place| format!(", the first that differs is number {}", place + 1));
        Err(format!(
            "{} arguments of {} bytes do not fit the kernel's {} parameters of {} bytes{first}",
            own.len(),
            shown(&own),
            sizes.len(),
            shown(sizes)
        ))
    }
}

impl Arg {
    /// Bytes of the parameter.
    const fn size_bytes(&self) -> usize {
        match self {
            Self::I32(_) | Self::F32(_) => 4,
            Self::TensorMap(_) => TENSOR_MAP_BYTES,
            _ => 8,
        }
    }
}

/// The tensors of a problem.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensors {
    /// What the kernel reads, contiguous in row-major order.
    pub inputs: Vec<TensorSpec>,
    /// What it writes, likewise; those with a fill it updates.
    pub outputs: Vec<TensorSpec>,
}

/// What a device is to run kernels on: tensors, and what is right of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// What messages call it.
    pub name: String,
    /// What kernels read.
    pub inputs: Vec<TensorSpec>,
    /// The same with the contents that kernels are verified with beside those, where there are any.
    pub awkward: Option<Vec<TensorSpec>>,
    /// What kernels write.
    pub outputs: Vec<TensorSpec>,
    /// What is right of each output.
    pub wanted: Vec<Wanted>,
    /// The problem, for a device with kernels of its own.
    pub host: Option<Problem>,
    /// The problem, where its kernels are called.
    pub call: Option<Call>,
}

/// What is right of an output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wanted {
    /// The file that has it, in [`Element::reference`]'s type; else the reference kernel writes it.
    pub file: Option<PathBuf>,
    /// By how much an element may differ before it is rounded; else the reference kernel writes that too.
    pub tolerance: Option<Tolerance>,
}

/// By how much an element may differ from its reference before it is rounded to the output's type.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tolerance {
    /// As a share of the reference.
    pub relative: f32,
    /// In any case.
    pub absolute: f32,
}

/// What sizes a dimension has in a family's domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The least.
    pub least: u64,
    /// The largest.
    pub most: u64,
    /// What it is a multiple of, but in a quarter of the draws.
    pub multiple: u64,
}

/// More memory than any device has for some years to come.
const MOST_MEMORY: Bytes = Bytes::mib(1 << 20);

/// What the rest of the pipeline asks of a family.
pub trait FamilySpec: Sync {
    /// The problem's tensors.
    fn tensors(&self, problem: &Problem) -> Tensors;

    /// Floating-point operations of the problem.
    fn flops(&self, problem: &Problem) -> f64;

    /// The fewest bytes the problem moves: what of each input it needs read once, the output written once.
    fn bytes(&self, problem: &Problem) -> Bytes {
        self.tensor_bytes(problem)
    }

    /// The bytes of all its tensors.
    fn tensor_bytes(&self, problem: &Problem) -> Bytes {
        let tensors = self.tensors(problem);
        let all = tensors.inputs.iter().chain(&tensors.outputs);
        Bytes(all.fold(0, |bytes, tensor| bytes.saturating_add(tensor.bytes().0)))
    }

    /// Refuses a problem that no device holds, and whose sizes would overflow.
    fn fits_memory(&self, problem: &Problem) -> Result<(), Rejection> {
        let needs = self.tensor_bytes(problem);
        require!(needs <= MOST_MEMORY, "the tensors need {needs}, more than {MOST_MEMORY}");
        Ok(())
    }

    /// Refuses a problem whose tensors have files that are not there, or that hold something else.
    fn check_files(&self, _problem: &Problem) -> Result<(), Rejection> {
        Ok(())
    }

    /// Refuses a problem that no kernel can be verified on: one that does not fit memory, whose files are not there, or whose reference
    /// cannot run.
    fn check_problem(&self, problem: &Problem) -> Result<(), Rejection> {
        self.fits_memory(problem)?;
        self.check_files(problem)?;
        let reference = self.reference(problem);
        reference.map(drop).map_err(|Rejection(why)| Rejection(format!("the reference cannot run: {why}")))
    }

    /// An expression of its plan with what its manifest defines in place of the names.
    ///
    /// # Errors
    /// Where that has no end.
    fn expand(&self, expression: &str) -> crate::error::Result<String> {
        Ok(expression.to_owned())
    }

    /// Bytes that the tensors of a config's launch must begin at multiples of: as many as its widest loads and stores take at once.
    fn alignment(&self, _config: &Config) -> u64 {
        LEAST_ALIGNMENT
    }

    /// The knobs that are launch arguments, so that changing them costs no compile.
    fn launch_knobs(&self) -> &'static [&'static str];

    /// What a model of its times needs to know, but for the dimensions, the GPU and where configs may run.
    fn description(&self) -> Description;

    /// The same where some problems have variants, of a family that has any.
    fn description_of_variants(&self) -> Option<Description> {
        None
    }

    /// The names of the knobs that are its own, in an order that stays.
    fn own_knobs(&self) -> &'static [&'static str] {
        &[]
    }

    /// The knobs that change nothing in a config, beside a multiplier of programs that are not persistent: it does without them.
    fn idle_knobs(&self, _config: &Config) -> Vec<&'static str> {
        Vec::new()
    }

    /// The inputs that kernels are verified with beside those they are timed with, if there are any.
    fn awkward(&self, _problem: &Problem, inputs: &[TensorSpec]) -> Option<Vec<TensorSpec>> {
        Some(awkward(self.family(), inputs))
    }

    /// What devices run kernels on for a problem.
    fn task(&self, problem: &Problem) -> Task {
        let Tensors { inputs, outputs } = self.tensors(problem);
        let wanted = outputs.iter().map(|_| Wanted { file: None, tolerance: None }).collect();
        let awkward = self.awkward(problem, &inputs);
        Task { name: problem.to_string(), inputs, awkward, outputs, wanted, host: Some(*problem), call: None }
    }

    /// The compile-time half of a config: on one problem, configs that share it share a kernel.
    fn compiled_half(&self, config: &Config) -> Config {
        config.without(self.launch_knobs())
    }

    /// Which family it describes.
    fn family(&self) -> Family;

    /// Refuses a config that runs on no problem on that GPU.
    fn check(&self, config: &Config, profile: &GpuProfile) -> Result<(), Rejection>;

    /// What sizes users may come with, dimension by dimension; none where that is not all there is to say.
    fn domain(&self) -> Option<&'static [Extent]> {
        None
    }

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
        legality::hold(self.conditions(config, profile), &values(config, problem, profile))
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

    /// What calls its kernels, on any device, where they are of another language.
    fn callable(&self) -> Option<&Callable> {
        None
    }

    /// Whether the cpu device has kernels of it.
    fn has_host_kernels(&self) -> bool {
        true
    }

    /// Whether the host kernel of the cpu device runs `config` on `problem`, or why not.
    fn check_host(&self, config: &Config, problem: &Problem) -> Result<(), Rejection>;

    /// The plain kernel whose outputs a candidate's are compared with, unless files have them. It writes them in
    /// [`Element::reference`]'s type, and [`Reference::allowed`] in bf16. Refused where it cannot run on that problem.
    fn reference(&self, problem: &Problem) -> Result<Option<(KernelSpec, Launch)>, Rejection>;

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
        Family::MatmulInt4Group => &gemm::MATMUL_INT4_GROUP,
        Family::MatmulNvfp4 => &gemm::MATMUL_NVFP4,
        Family::MatmulMxfp4 => &gemm::MATMUL_MXFP4,
        Family::MatmulFp8 => &gemm::MATMUL_FP8,
        Family::MatmulNvfp4Nvfp4 => &gemm::MATMUL_NVFP4_NVFP4,
        Family::MatmulMxfp8 => &gemm::MATMUL_MXFP8,
        Family::Attention => &attention::Attention,
        described => manifest::spec(described),
    }
}
