//! Families that a manifest describes: what their kernels are compiled and launched with, as expressions over dimensions and knobs.
//! Anybody may bring one; those of ours that need no more than that are described by it too.

mod binary;
mod cubin;
mod cuda;
mod expand;
mod host;
mod launches;
mod models;
mod not_read;
mod parts;
mod ptx;
mod raw;
#[cfg(feature = "harness")]
mod raw_plan;
mod read;
#[cfg(feature = "harness")]
mod schema;
mod scope;

pub(crate) use binary::check_cubin;
pub use cubin::same_code;
#[cfg(feature = "harness")]
pub(crate) use cuda::explained;
#[cfg(feature = "harness")]
pub(crate) use raw_plan::{RawExclusion, RawProblem, RawRandom, RawSpace, When};

use super::legality::{self, Condition};
use super::{
    Axis, Call, Callable, Code, Description, Extent, FamilySpec, Footprint, HostTensor, KernelSpec, Launch,
    Reference as Right, Rejection, Task, TensorSpec, Tensors, Tolerance, Wanted, knobs, require,
};
use crate::error::{Context, Error, Result};
use crate::heuristics;
use crate::model::{Bytes, Config, Family, GpuProfile, PidType, Problem};
use include_dir::{Dir, include_dir};
use parts::{Kernel, Manifest, Reference, Runs};
use raw::Role;
use scope::{Scope, check_clusters};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, PoisonError, RwLock};

static EMBEDDED: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/sweeps");

/// What was read by now.
static READ: RwLock<BTreeMap<Family, (&'static Manifest, PathBuf)>> = RwLock::new(BTreeMap::new());

/// The description of a family that is not in code.
pub(super) fn spec(family: Family) -> &'static dyn FamilySpec {
    static OURS: LazyLock<BTreeMap<Family, &'static Manifest>> =
        LazyLock::new(|| described().map(|family| (family, &*Box::leak(Box::new(shipped(family))))).collect());
    if let Some(manifest) = OURS.get(&family) {
        return *manifest;
    }
    match READ.read().unwrap_or_else(PoisonError::into_inner).get(&family) {
        Some((manifest, _)) => *manifest,
        None => &not_read::NOT_READ,
    }
}

/// The families of ours that a manifest describes: those whose plan has one.
fn described() -> impl Iterator<Item = Family> {
    let has_family = |family: &Family| embedded(&format!("{family}.toml")).is_some_and(read::has_family);
    Family::ALL.into_iter().filter(has_family)
}

/// The manifest of a family of ours: that of the working directory's `sweeps/`, if it has one that can be read, else the one that
/// is built in.
fn shipped(family: Family) -> Manifest {
    let local = local_path(family.name());
    let local = local.and_then(|path| {
        let text = read_text(&path).ok().filter(|text| read::has_family(text))?;
        read::read(&text, &path.display().to_string(), Some(&path), Some(family)).ok()
    });
    let built_in = || {
        let name = format!("{family}.toml");
        let text = embedded(&name).unwrap_or_default();
        match read::read(text, &name, None, Some(family)) {
            Ok(manifest) => manifest,
            Err(error) => unreachable!("a manifest of ours: {error}"),
        }
    };
    local.unwrap_or_else(built_in)
}

/// The text of a file of `sweeps/` that is built in.
pub(crate) fn embedded(name: &str) -> Option<&'static str> {
    EMBEDDED.get_file(name)?.contents_utf8()
}

/// The file of the working directory that has a family's problems and spaces, and maybe its description.
pub(crate) fn local_path(family: &str) -> Option<PathBuf> {
    let path = Path::new("sweeps").join(format!("{family}.toml"));
    path.is_file().then_some(path)
}

/// Reads a manifest, and makes its family known by its name.
///
/// # Errors
/// Where the file cannot be read or says something impossible; the message names file and line.
pub fn load(path: &Path) -> Result<Family> {
    let path = std::path::absolute(path)?;
    let what = || format!("manifest {}", path.display());
    let text = read_text(&path).context(what)?;
    let manifest = read::read(&text, &path.display().to_string(), Some(&path), None)?;
    let family = manifest.family;
    let mut read = READ.write().unwrap_or_else(PoisonError::into_inner);
    let earlier =
        read.iter().find(|(known, (_, known_path))| known.name() == family.name() && !is_same_file(known_path, &path));
    if let Some((_, (_, earlier))) = earlier {
        let (path, earlier) = (path.display(), earlier.display());
        return Err(Error::usage(format!(
            "{path}: '{family}' is the family of {earlier} already; choose another name"
        )));
    }
    read.insert(family, (Box::leak(Box::new(manifest)), path));
    drop(read);
    family.make_known();
    Ok(family)
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    one == other || one.canonicalize().ok().is_some_and(|one| other.canonicalize().is_ok_and(|other| one == other))
}

/// The family of that name that the working directory's `sweeps/` describes, if it does.
///
/// # Errors
/// As [`load`].
pub fn load_named(name: &str) -> Result<Option<Family>> {
    let is_name = name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
    let Some(path) = local_path(name).filter(|_| is_name) else { return Ok(None) };
    let describes = read_text(&path).is_ok_and(|text| read::has_family(&text));
    if describes { load(&path).map(Some) } else { Ok(None) }
}

/// Refuses a text whose description of a family of ours cannot be read; one without any is fine.
///
/// # Errors
/// Where it cannot, with its line; `name` is what messages call it.
#[cfg(feature = "harness")]
pub(crate) fn check_shipped(family: Family, text: &str, name: &str) -> Result<()> {
    if !described().any(|ours| ours == family) || !read::has_family(text) {
        return Ok(());
    }
    read::read(text, name, None, Some(family)).map(drop)
}

/// The file that a family's manifest was read from.
pub fn path_of(family: Family) -> Option<PathBuf> {
    READ.read().unwrap_or_else(PoisonError::into_inner).get(&family).map(|(_, path)| path.clone())
}

/// The JSON Schema of manifests, for editors.
#[cfg(feature = "harness")]
pub fn schema() -> schemars::Schema {
    schemars::schema_for!(raw::RawManifest)
}

/// No plan, manifest, shapes file or kernel comes near; what is larger is something else, and must not fill memory.
const MOST_BYTES: u64 = 16 << 20;

/// The text of a file that people write.
///
/// # Errors
/// Where it cannot be read, is no file (a pipe would be waited for), is too large, or is not UTF-8.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(Error::of_named_file)?;
    if !file.metadata()?.is_file() {
        return Err(Error::usage("it is no file; name one"));
    }
    let mut bytes = Vec::new();
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(Error::usage(format!("it is larger than {} MiB", MOST_BYTES >> 20)));
    }
    let text = heuristics::without_mark(&bytes).to_vec();
    String::from_utf8(text).map_err(|error| {
        Error::usage(format!("it is no text in UTF-8: see its byte {}", error.utf8_error().valid_up_to()))
    })
}

impl Manifest {
    /// The kernel that a config runs.
    fn kernel_of(&self, config: &Config) -> Result<&Kernel, Rejection> {
        let values = legality::knob_values(config, self.family);
        let runs = |kernel: &&Kernel| kernel.when.as_ref().is_none_or(|when| when.holds(&values));
        let kernels = if let Runs::Kernels(kernels) = &self.runs { &kernels[..] } else { &[] };
        kernels.iter().find(runs).ok_or_else(|| Rejection(format!("no kernel of {} runs {config}", self.family)))
    }

    /// The tensors, or which of them cannot be.
    fn all_tensors(&self, problem: &Problem) -> Result<Tensors, Rejection> {
        let scope = Scope::of_problem(self, problem);
        let of = |is_input: bool| {
            let tensors = self.tensors.iter().filter(move |tensor| (tensor.role == Role::In) == is_input);
            tensors.map(|tensor| scope.tensor(tensor)).collect::<Result<Vec<_>, _>>()
        };
        Ok(Tensors { inputs: of(true)?, outputs: of(false)? })
    }

    fn check_own_knobs(&self, config: &Config) -> Result<(), Rejection> {
        let known: Vec<&str> = self.knobs.iter().map(String::as_str).collect();
        knobs::only(config, &known)?;
        require!(
            known.contains(&"block_sizes") || config.block_sizes.is_empty(),
            "block_sizes has no effect on this kernel"
        );
        let idle = self.idle_knobs(config);
        let is_idle = |knob: &str| {
            // What calls a kernel takes what it is not given to be as it usually is.
            self.callable().is_some()
                || knob == "num_sm_multiplier" && !config.pid_type.is_some_and(PidType::is_persistent)
                || idle.contains(&knob)
        };
        // An expression reads 0 of what is not given, and one entry of a list of steps.
        let numbers = [
            ("num_sm_multiplier", config.num_sm_multiplier),
            ("num_stages", config.num_stages),
            ("num_warps", config.num_warps),
            ("split_k", config.split_k),
            ("reduction_loops", config.reduction_loops.first().copied().flatten()),
        ];
        if self.callable().is_none() {
            let zero = numbers.iter().find(|(_, value)| *value == Some(0));
            require!(zero.is_none(), "{} 0 must be positive", zero.map_or("", |(knob, _)| knob));
            let entries = config.reduction_loops.len();
            require!(entries <= 1, "reduction_loops has {entries} entries, this kernel one");
        }
        let given = config.names();
        if let Some(knob) = idle.iter().find(|knob| given.contains(*knob)) {
            return Err(Rejection(format!("{knob} has no effect in this config")));
        }
        let missing = known.iter().find(|knob| !given.contains(*knob) && !is_idle(knob));
        match missing {
            Some(knob) => Err(Rejection(format!("{knob} is missing"))),
            None => Ok(()),
        }
    }
}

/// Refuses a file that is not there, or that holds more or less than its tensor.
fn check_file(tensor: &str, file: &Path, bytes: Bytes) -> Result<(), Rejection> {
    let what = |why: &dyn Display| Rejection(format!("tensor {tensor}: file {}: {why}", file.display()));
    let metadata = file.metadata().map_err(|error| match error.kind() {
        ErrorKind::NotFound => what(&"it is not there"),
        _ => what(&error),
    })?;
    match metadata.len() {
        _ if !metadata.is_file() => Err(what(&"it is no file")),
        length if length != bytes.0 => Err(what(&format!("it has {length} bytes, the tensor {}", bytes.0))),
        _ => Ok(()),
    }
}

impl FamilySpec for Manifest {
    fn tensors(&self, problem: &Problem) -> Tensors {
        // What cannot be is refused before it is asked for: see `fits_memory`.
        self.all_tensors(problem).unwrap_or(Tensors { inputs: Vec::new(), outputs: Vec::new() })
    }

    fn flops(&self, problem: &Problem) -> f64 {
        Scope::of_problem(self, problem).number(&self.flops).map_or(f64::INFINITY, |flops| flops as f64)
    }

    fn bytes(&self, problem: &Problem) -> Bytes {
        let of_tensors = || {
            let Tensors { inputs, outputs } = self.tensors(problem);
            Bytes(inputs.iter().chain(&outputs).fold(0, |bytes, tensor| bytes.saturating_add(tensor.bytes().0)))
        };
        let scope = Scope::of_problem(self, problem);
        self.bytes.as_ref().map_or_else(of_tensors, |bytes| Bytes(scope.natural("bytes", bytes).unwrap_or(u64::MAX)))
    }

    fn fits_memory(&self, problem: &Problem) -> Result<(), Rejection> {
        let Tensors { inputs, outputs } = self.all_tensors(problem)?;
        for tensor in inputs.iter().chain(&outputs) {
            let needs = tensor.bytes();
            require!(
                needs <= super::MOST_MEMORY,
                "tensor {} needs {needs}, more than {}",
                tensor.name,
                super::MOST_MEMORY
            );
        }
        Scope::of_problem(self, problem).number(&self.flops)?;
        let needs = inputs.iter().chain(&outputs).fold(0u64, |bytes, tensor| bytes.saturating_add(tensor.bytes().0));
        require!(
            Bytes(needs) <= super::MOST_MEMORY,
            "the tensors need {}, more than {}",
            Bytes(needs),
            super::MOST_MEMORY
        );
        Ok(())
    }

    fn check_files(&self, problem: &Problem) -> Result<(), Rejection> {
        let scope = Scope::of_problem(self, problem);
        for tensor in &self.tensors {
            let spec = scope.tensor(tensor)?;
            let right = tensor.right.as_ref().map(|file| scope.file(file)).transpose()?;
            let right_bytes = Bytes(spec.numel().saturating_mul(spec.element.reference().size_bytes()));
            for (file, bytes) in [(&spec.file, spec.bytes()), (&right, right_bytes)] {
                file.as_ref().map_or(Ok(()), |file| check_file(&spec.name, file, bytes))?;
            }
        }
        Ok(())
    }

    fn expand(&self, expression: &str) -> Result<String> {
        self.definitions.expand(expression)
    }

    fn launch_knobs(&self) -> &'static [&'static str] {
        self.launch_knobs
    }

    fn own_knobs(&self) -> &'static [&'static str] {
        self.own_knobs
    }

    /// Only once all that says so is given.
    fn idle_knobs(&self, config: &Config) -> Vec<&'static str> {
        let (values, given) = (legality::knob_values(config, self.family), config.names());
        let is_known = |fields: &[&str]| fields.iter().all(|field| given.contains(field));
        let idle = self.idle.iter().filter(|(_, fields, when)| is_known(fields) && when.holds(&values));
        idle.map(|(knob, _, _)| *knob).collect()
    }

    fn description(&self) -> Description {
        self.description.clone()
    }

    fn awkward(&self, problem: &Problem, inputs: &[TensorSpec]) -> Option<Vec<TensorSpec>> {
        let scope = Scope::of_problem(self, problem);
        let read = self.tensors.iter().filter(|tensor| tensor.role == Role::In);
        // Other contents have no file with what is right of them.
        let is_computed = self.reference.is_some() || self.callable().is_some();
        let has_awkward = read.clone().any(|tensor| tensor.awkward.is_some()) && is_computed;
        let awkward = read.zip(inputs).map(|(tensor, spec)| {
            let fill = tensor.awkward.as_ref().and_then(|contents| scope.fill(contents).ok());
            TensorSpec { fill: fill.unwrap_or(spec.fill), ..spec.clone() }
        });
        has_awkward.then(|| awkward.collect())
    }

    fn task(&self, problem: &Problem) -> Task {
        let Tensors { inputs, outputs } = self.tensors(problem);
        let scope = Scope::of_problem(self, problem);
        let written = self.tensors.iter().filter(|tensor| tensor.role != Role::In);
        let exact = Tolerance { relative: 0.0, absolute: 0.0 };
        let wanted = written.map(|tensor| Wanted {
            file: tensor.right.as_ref().and_then(|file| scope.file(file).ok()),
            tolerance: tensor.tolerance.or_else(|| (!tensor.element(problem.dtype).is_float()).then_some(exact)),
        });
        let awkward = self.awkward(problem, &inputs);
        let host = host::of(self.family).map(|_| *problem);
        let call = self.callable().map(|callable| Call::new(callable, problem));
        Task { name: problem.to_string(), wanted: wanted.collect(), inputs, awkward, outputs, host, call }
    }

    fn family(&self) -> Family {
        self.family
    }

    fn domain(&self) -> Option<&'static [Extent]> {
        Some(self.domain)
    }

    fn check(&self, config: &Config, profile: &GpuProfile) -> Result<(), Rejection> {
        self.check_own_knobs(config)?;
        if let Runs::Called { of_knobs, .. } = &self.runs {
            return legality::check(self.family, of_knobs, &legality::knob_values(config, self.family));
        }
        if self.knobs.iter().any(|knob| knob == "pid_type") {
            knobs::order(config)?;
        }
        if let Some(mma) = config.mma {
            require!(profile.mma.contains(&mma), "{} has no {mma}", profile.name);
        }
        let kernel = self.kernel_of(config)?;
        let values = legality::knob_values(config, self.family);
        legality::check(self.family, &kernel.of_knobs, &values)?;
        let cluster = kernel.run.cluster.iter().flatten().filter(|extent| legality::is_of_knobs(extent));
        check_clusters(cluster.map(|extent| extent.value(&values).unwrap_or(1)).product(), profile)
    }

    fn conditions(&self, config: &Config, _profile: &GpuProfile) -> &'static [Condition] {
        match &self.runs {
            Runs::Called { conditions, .. } => conditions,
            Runs::Kernels(_) => self.kernel_of(config).map_or(&[], |kernel| kernel.conditions),
        }
    }

    fn axes(&self) -> &'static [Axis] {
        self.axes
    }

    fn footprint(&self, config: &Config, problem: &Problem, profile: &GpuProfile) -> Result<Footprint, Rejection> {
        /// As many as leave a multiprocessor all its threads.
        const REGISTERS: u32 = 32;
        let scope = Scope::new(self, config, problem, profile);
        let registers = self.registers.as_ref().map_or(Ok(REGISTERS), |formula| scope.natural("registers", formula))?;
        if self.callable().is_some() {
            return Ok(Footprint {
                threads: knobs::WARP * config.num_warps.unwrap_or(1),
                registers,
                smem: Bytes(0),
                stage_bytes: Bytes(scope.optional("stage_bytes", self.stage_bytes.as_ref())?),
            });
        }
        let run = &self.kernel_of(config)?.run;
        Ok(Footprint {
            threads: scope.axes("threads", &run.threads)?.iter().product(),
            registers,
            smem: Bytes(scope.optional("smem", run.smem.as_ref())?),
            stage_bytes: Bytes(scope.optional("stage_bytes", self.stage_bytes.as_ref())?),
        })
    }

    fn build(
        &self,
        config: &Config,
        problem: &Problem,
        profile: &GpuProfile,
    ) -> Result<(KernelSpec, Launch), Rejection> {
        if let Some(callable) = self.callable() {
            return Ok((Call::new(callable, problem).kernel(config), Launch::of_callable()));
        }
        let (kernel, launch) = Scope::new(self, config, problem, profile).build(&self.kernel_of(config)?.run)?;
        check_clusters(launch.cluster_blocks().into(), profile)?;
        knobs::fits_smem(launch.dynamic_smem, profile)?;
        let scratch = Bytes(launch.workspace.0.saturating_add(4 * u64::from(launch.counters)));
        require!(scratch <= super::MOST_MEMORY, "{scratch} of scratch are more than {}", super::MOST_MEMORY);
        if let Code::Cubin(file) | Code::Ptx(file) = &kernel.code {
            binary::check(file, &kernel.entry, &launch, &profile.arch)?;
        }
        Ok((kernel, launch))
    }

    fn check_host(&self, config: &Config, problem: &Problem) -> Result<(), Rejection> {
        match host::of(self.family) {
            Some(host) => (host.check)(config, problem),
            None => Err(Rejection(format!("{} has no kernel for the host", self.family))),
        }
    }

    fn callable(&self) -> Option<&Callable> {
        match &self.runs {
            Runs::Called { callable, .. } => Some(callable),
            Runs::Kernels(_) => None,
        }
    }

    fn has_host_kernels(&self) -> bool {
        host::of(self.family).is_some() || self.callable().is_some()
    }

    fn reference(&self, problem: &Problem) -> Result<Option<(KernelSpec, Launch)>, Rejection> {
        let build = |reference: &Reference| Scope::of_problem(self, problem).build(&reference.run);
        self.reference.as_ref().map(build).transpose()
    }

    fn host_reference(&self, problem: &Problem, inputs: &[HostTensor]) -> Right {
        host::of(self.family).map_or_else(Right::default, |host| (host.reference)(problem, inputs))
    }
}
