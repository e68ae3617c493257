//! Loading a kernel and launching it: the one way, whether it is measured or served.

use super::tensor_map;
use crate::device::Fault;
use crate::families::{Arg, Launch, Mapped};
#[cfg(feature = "harness")]
use crate::model::Bytes;
use cudarc::driver::sys::CUlaunchAttributeValue_union__bindgen_ty_1 as ClusterDim;
use cudarc::driver::{result, sys};
use std::ffi::{CString, c_void};
use std::ptr;

/// The largest cluster that every GPU with clusters runs; larger ones must be asked for.
const PORTABLE_CLUSTER: u32 = 8;
/// Parameters that a kernel has at most: a launch keeps them on its stack.
const MOST_PARAMETERS: usize = 64;
/// Tensor maps among them.
const MOST_MAPS: usize = 8;

/// Blocks, threads and shared memory of a launch.
#[derive(Clone, Copy, Debug)]
pub(super) struct GridShape {
    pub(super) grid: [u32; 3],
    pub(super) cluster: [u32; 3],
    pub(super) threads: [u32; 3],
    pub(super) smem_bytes: u32,
    /// Whether all blocks must run at once.
    pub(super) cooperative: bool,
}

impl GridShape {
    fn of(launch: &Launch) -> Self {
        let &Launch { grid, cluster, threads, dynamic_smem, cooperative, .. } = launch;
        Self { grid, cluster, threads, smem_bytes: dynamic_smem.0 as u32, cooperative }
    }

    /// Launches with parameters that lie where the pointers say.
    fn launch(&self, function: sys::CUfunction, stream: sys::CUstream, parameters: &mut Pointers) -> Result<(), Fault> {
        use sys::CUlaunchAttributeID::{CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, CU_LAUNCH_ATTRIBUTE_COOPERATIVE};
        let attribute =
            |id| sys::CUlaunchAttribute { id, pad: [0; 4], value: sys::CUlaunchAttributeValue { pad: [0; 64] } };
        let mut attributes = [CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, CU_LAUNCH_ATTRIBUTE_COOPERATIVE].map(attribute);
        let [x, y, z] = self.cluster;
        attributes[0].value.clusterDim = ClusterDim { x, y, z };
        attributes[1].value.cooperative = 1;
        let has_clusters = self.cluster != [1; 3];
        let used =
            &mut attributes[usize::from(!has_clusters)..][..usize::from(has_clusters) + usize::from(self.cooperative)];
        let [x, y, z] = self.grid;
        let config = sys::CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: self.threads[0],
            blockDimY: self.threads[1],
            blockDimZ: self.threads[2],
            sharedMemBytes: self.smem_bytes,
            hStream: stream,
            attrs: used.as_mut_ptr(),
            numAttrs: used.len() as u32,
        };
        // SAFETY: the driver copies each parameter, as wide as the kernel declares, out of its storage during the call
        // (little-endian, so narrow ones are the low bytes of a word). What the kernel does with its pointers is its
        // contract with `families`, and checked against the reference.
        let launched =
            unsafe { sys::cuLaunchKernelEx(&raw const config, function, parameters.0.as_mut_ptr(), ptr::null_mut()) };
        Ok(launched.result()?)
    }
}

/// Where parameters lie; null after the last.
struct Pointers([*mut c_void; MOST_PARAMETERS + 1]);

impl Default for Pointers {
    fn default() -> Self {
        Self([ptr::null_mut(); MOST_PARAMETERS + 1])
    }
}

/// A word that is a kernel's parameter.
#[cfg(feature = "harness")]
pub(super) struct Parameter(pub(super) u64);

/// Launches a kernel whose parameters are all words.
#[cfg(feature = "harness")]
pub(super) fn launch(
    function: sys::CUfunction,
    shape: &GridShape,
    stream: sys::CUstream,
    parameters: &mut [Parameter],
) -> Result<(), Fault> {
    let mut pointers = Pointers::default();
    for (pointer, Parameter(word)) in pointers.0.iter_mut().zip(parameters) {
        *pointer = ptr::from_mut(word).cast();
    }
    shape.launch(function, stream, &mut pointers)
}

/// A loaded kernel. Whoever loaded it unloads it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Function {
    module: sys::CUmodule,
    function: sys::CUfunction,
}

impl Function {
    /// Loads a cubin and finds the function in it.
    pub(super) fn load(image: &[u8], entry: &str) -> Result<Self, Fault> {
        let module = load_module(image)?;
        match get_function(module, entry) {
            Ok(function) => Ok(Self { module, function }),
            Err(fault) => {
                // SAFETY: it was loaded just now, and nothing of it is known to anybody.
                let _ = unsafe { result::module::unload(module) };
                Err(fault)
            }
        }
    }

    /// Refuses a launch whose arguments are not the function's parameters, as far as the driver tells them: their number and sizes;
    /// and blocks of more threads than its registers leave room for.
    pub(super) fn check(self, launch: &Launch) -> Result<(), Fault> {
        use sys::CUfunction_attribute_enum::{CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, CU_FUNC_ATTRIBUTE_NUM_REGS};
        let mut sizes = Vec::new();
        let end = loop {
            let (mut offset, mut size) = (0, 0);
            // SAFETY: the function's module is loaded, and the driver writes the two numbers.
            match unsafe { sys::cuFuncGetParamInfo(self.function, sizes.len(), &raw mut offset, &raw mut size) } {
                sys::CUresult::CUDA_SUCCESS => sizes.push(size),
                end => break end,
            }
        };
        // Past the last one it says that there is no such parameter; anything else tells nothing of them.
        if end == sys::CUresult::CUDA_ERROR_INVALID_VALUE {
            launch.check_parameters(&sizes).map_err(Fault::Refused)?;
        }
        let threads: u32 = launch.threads.iter().product();
        let most = self.attribute(CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?;
        if threads > most {
            let registers = self.attribute(CU_FUNC_ATTRIBUTE_NUM_REGS)?;
            return Err(Fault::Refused(format!(
                "a block of {threads} threads: with its {registers} registers a thread the kernel runs with {most} at most"
            )));
        }
        Ok(())
    }

    /// Local memory of a thread: arrays that are there by design, and values that found no register. The driver does not tell them apart.
    #[cfg(feature = "harness")]
    pub(super) fn local_memory(self) -> Result<Bytes, Fault> {
        self.attribute(sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES)
            .map(|bytes| Bytes(bytes.into()))
    }

    fn attribute(self, which: sys::CUfunction_attribute_enum) -> Result<u32, Fault> {
        // SAFETY: the function's module is loaded.
        Ok(unsafe { result::function::get_function_attribute(self.function, which) }.map(i32::unsigned_abs)?)
    }

    /// Lets it have the shared memory and the cluster that a launch asks for.
    pub(super) fn grant(self, launch: &Launch) -> Result<(), Fault> {
        let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function's module is loaded.
        unsafe { result::function::set_function_attribute(self.function, attribute, launch.dynamic_smem.0 as i32) }
            .map_err(|error| {
                let what = format!("{} of dynamic shared memory", launch.dynamic_smem);
                Fault::Refused(format!("{what}: {}", Fault::from(error)))
            })?;
        if launch.cluster_blocks() > PORTABLE_CLUSTER {
            let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED;
            // SAFETY: the function's module is loaded.
            unsafe { result::function::set_function_attribute(self.function, attribute, 1) }?;
        }
        Ok(())
    }

    /// Has the driver load the code now: by itself it waits for the first launch, which would then allocate and wait.
    pub(super) fn load_now(self) -> Result<(), Fault> {
        // SAFETY: the function's module is loaded.
        Ok(unsafe { sys::cuFuncLoad(self.function) }.result()?)
    }

    /// Unloads it.
    ///
    /// # Safety
    /// Nothing of it runs, and nobody uses it again.
    pub(super) unsafe fn unload(self) -> Result<(), Fault> {
        // SAFETY: by this function's contract.
        Ok(unsafe { result::module::unload(self.module) }?)
    }
}

pub(super) fn load_module(image: &[u8]) -> Result<sys::CUmodule, Fault> {
    // SAFETY: the image is an ELF the driver checks, and it copies what it needs.
    Ok(unsafe { result::module::load_data(image.as_ptr().cast()) }?)
}

pub(super) fn get_function(module: sys::CUmodule, name: &str) -> Result<sys::CUfunction, Fault> {
    let c_name = CString::new(name).map_err(|_| Fault::Refused(format!("'{name}' is no function name")))?;
    // SAFETY: the module is loaded and the name ends in a zero.
    unsafe { result::module::get_function(module, c_name) }
        .map_err(|_| Fault::Refused(format!("the cubin has no function '{name}'")))
}

/// Where the tensors of a launch are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addresses<'a> {
    pub(super) inputs: &'a [u64],
    pub(super) outputs: &'a [u64],
    pub(super) allowed: &'a [u64],
    pub(super) workspace: u64,
    pub(super) counters: u64,
}

impl Addresses<'_> {
    fn counts(&self) -> [usize; 3] {
        [self.inputs.len(), self.outputs.len(), self.allowed.len()]
    }
}

/// A tensor by its part in a launch.
#[derive(Clone, Copy, Debug)]
enum Role {
    Input(usize),
    Output(usize),
    Allowed(usize),
    Workspace,
    Counters,
}

impl Role {
    fn address(self, addresses: &Addresses<'_>) -> u64 {
        match self {
            Self::Input(index) => addresses.inputs[index],
            Self::Output(index) => addresses.outputs[index],
            Self::Allowed(index) => addresses.allowed[index],
            Self::Workspace => addresses.workspace,
            Self::Counters => addresses.counters,
        }
    }
}

/// A kernel's parameter, as far as it is known before the tensors are.
#[derive(Clone, Copy, Debug)]
enum Slot {
    Word(u64),
    Address(Role),
    /// One of the maps.
    Map(usize),
}

/// A kernel with all of its launch made ready but the addresses of tensors. A launch allocates nothing.
#[derive(Debug)]
pub(super) struct Ready {
    function: Function,
    shape: GridShape,
    /// How many inputs, outputs and allowances it was made with.
    counts: [usize; 3],
    slots: Vec<Slot>,
    maps: Vec<Map>,
}

/// A tensor map, encoded for a tensor at some address.
#[derive(Clone, Copy, Debug)]
struct Map {
    encoded: sys::CUtensorMap,
    role: Role,
    /// Bytes from the tensor's begin to the map's.
    offset: u64,
    address: u64,
}

impl Ready {
    /// Of a kernel that was granted what the launch asks for. The maps are encoded for these addresses; a launch may have others.
    ///
    /// # Errors
    /// Where there are more parameters than a launch has room for, one is of a tensor that is not there, or the driver refuses a
    /// map.
    pub(super) fn new(function: Function, launch: &Launch, addresses: &Addresses<'_>) -> Result<Self, Fault> {
        let mut maps = Vec::new();
        let there = |role: Role, index: usize, of: &[u64]| {
            let missing = || Fault::Refused(format!("the launch asks for tensor {index} of {}", of.len()));
            if index < of.len() { Ok(role) } else { Err(missing()) }
        };
        let input = |index: usize| there(Role::Input(index), index, addresses.inputs);
        let output = |index: usize| there(Role::Output(index), index, addresses.outputs);
        let allowed = |index: usize| there(Role::Allowed(index), index, addresses.allowed);
        let mut slot = |arg: &Arg| -> Result<Slot, Fault> {
            Ok(match arg {
                Arg::Input(index) => Slot::Address(input(*index)?),
                Arg::Output(index) => Slot::Address(output(*index)?),
                Arg::Allowed(index) => Slot::Address(allowed(*index)?),
                Arg::Null => Slot::Word(0),
                Arg::F64(value) => Slot::Word(value.to_bits()),
                Arg::Workspace => Slot::Address(Role::Workspace),
                Arg::Counters => Slot::Address(Role::Counters),
                Arg::I32(value) => Slot::Word(u64::from(*value as u32)),
                Arg::I64(value) => Slot::Word(*value as u64),
                Arg::F32(value) => Slot::Word(u64::from(value.to_bits())),
                Arg::TensorMap(map) => {
                    let (role, offset) = match map.of {
                        Mapped::Input(index) => (input(index)?, 0),
                        Mapped::Output => (output(0)?, 0),
                        Mapped::Workspace(offset) => (Role::Workspace, offset),
                    };
                    let address = role.address(addresses) + offset;
                    maps.push(Map { encoded: tensor_map::encode(map, address)?, role, offset, address });
                    Slot::Map(maps.len() - 1)
                }
            })
        };
        let slots = launch.args.iter().map(&mut slot).collect::<Result<Vec<_>, _>>()?;
        if slots.len() > MOST_PARAMETERS || maps.len() > MOST_MAPS {
            return Err(Fault::Refused(format!(
                "{} parameters, {} of them tensor maps, are more than {MOST_PARAMETERS} and {MOST_MAPS}",
                slots.len(),
                maps.len()
            )));
        }
        Ok(Self { function, shape: GridShape::of(launch), counts: addresses.counts(), slots, maps })
    }

    /// Launches it so many times on these tensors, as many as it was made with: after the first nothing but the driver is called.
    ///
    /// # Errors
    /// Where the driver refuses.
    pub(super) fn launch(&self, stream: sys::CUstream, addresses: &Addresses<'_>, times: u32) -> Result<(), Fault> {
        if addresses.counts() != self.counts {
            let (given, wanted) = (addresses.counts(), self.counts);
            return Err(Fault::Refused(format!("{given:?} inputs, outputs and allowances where there are {wanted:?}")));
        }
        let mut words = [0u64; MOST_PARAMETERS];
        let mut maps = [sys::CUtensorMap { opaque: [0; 16] }; MOST_MAPS];
        let mut pointers = Pointers::default();
        for (own, map) in maps.iter_mut().zip(&self.maps) {
            *own = map.encoded;
            let address = map.role.address(addresses) + map.offset;
            if address != map.address {
                tensor_map::retarget(own, address)?;
            }
        }
        for ((slot, word), pointer) in self.slots.iter().zip(&mut words).zip(&mut pointers.0) {
            *pointer = match slot {
                Slot::Map(index) => ptr::from_mut(&mut maps[*index]).cast(),
                Slot::Word(value) => {
                    *word = *value;
                    ptr::from_mut(word).cast()
                }
                Slot::Address(role) => {
                    *word = role.address(addresses);
                    ptr::from_mut(word).cast()
                }
            };
        }
        for _ in 0..times {
            self.shape.launch(self.function.function, stream, &mut pointers)?;
        }
        Ok(())
    }
}
