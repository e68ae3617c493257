//! Kernels as they are served: on contexts, streams and tensors of the caller's, from any thread.

use super::driver::{self, describe_error};
use super::launch::{Addresses, Function, Ready};
use super::memory::Buffer;
use crate::device::Fault;
use crate::error::{self, Error};
use crate::families::{Element, Launch};
use crate::model::{Bytes, GpuProfile};
use cudarc::driver::{result, sys};
use std::ffi::c_void;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

/// All of the driver that is called here. A missing one would end the process at its first call.
const CALLED: [&str; 34] = [
    "cuCtxGetCurrent",
    "cuCtxGetDevice",
    "cuCtxPopCurrent_v2",
    "cuCtxPushCurrent_v2",
    "cuCtxSynchronize",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventRecord",
    "cuFuncGetAttribute",
    "cuFuncGetParamInfo",
    "cuFuncLoad",
    "cuFuncSetAttribute",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuInit",
    "cuLaunchKernelEx",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemsetD8Async",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuPointerGetAttributes",
    "cuStreamIsCapturing",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
    "cuTensorMapEncodeTiled",
    "cuTensorMapReplaceAddress",
];

/// A GPU's context: the primary one, which is also the CUDA runtime's and PyTorch's, or one of the caller's.
#[derive(Debug)]
pub struct Context {
    raw: sys::CUcontext,
    device: sys::CUdevice,
    is_retained: bool,
    profile: GpuProfile,
}

// SAFETY: a context may be used from any thread that makes it current, as every call here does first.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

/// A context made current on this thread for a while.
struct Entered(bool);

impl Drop for Entered {
    fn drop(&mut self) {
        if self.0 {
            let mut left = ptr::null_mut();
            // SAFETY: it takes back what was pushed when this was made.
            let _ = unsafe { sys::cuCtxPopCurrent_v2(&raw mut left) };
        }
    }
}

impl Context {
    /// The primary context of a GPU by its ordinal, as CUDA counts those it shows this process.
    ///
    /// # Errors
    /// Where there is no driver, it does not start or is too old, or has no such GPU.
    pub fn open(ordinal: u32) -> Result<Self, Fault> {
        start()?;
        let count = result::device::get_count()?;
        if i32::try_from(ordinal).map_or(true, |ordinal| ordinal >= count) {
            return Err(Fault::Refused(format!(
                "there is no GPU {ordinal}: the CUDA driver shows this process {count}"
            )));
        }
        let device = result::device::get(ordinal as i32)?;
        // SAFETY: the device is one the driver just gave; what is retained is released when this is dropped.
        let raw = unsafe { result::primary_ctx::retain(device) }?;
        let profile = driver::profile_of(device);
        let context = |profile| Self { raw, device, is_retained: true, profile };
        match profile {
            Ok(profile) => Ok(context(profile)),
            Err(error) => {
                // SAFETY: it was retained just now.
                let _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(device) };
                Err(error.into())
            }
        }
    }

    /// The context that is current on this thread.
    ///
    /// # Errors
    /// Where there is none, or no driver that could have made it.
    ///
    /// # Safety
    /// It outlives whatever is prepared in it.
    pub unsafe fn current() -> Result<Self, Fault> {
        start()?;
        let mut raw = ptr::null_mut();
        // SAFETY: the driver writes the pointer.
        unsafe { sys::cuCtxGetCurrent(&raw mut raw) }.result()?;
        if raw.is_null() {
            return Err(Fault::Refused("no CUDA context is current on this thread".into()));
        }
        // SAFETY: it is one, and lives as the caller says.
        unsafe { Self::adopt(raw.cast()) }
    }

    /// A context of the caller's: a `CUcontext`.
    ///
    /// # Errors
    /// Where there is no driver, or it knows nothing of the context.
    ///
    /// # Safety
    /// `raw` is a context of the driver's, and outlives whatever is prepared in it.
    pub unsafe fn adopt(raw: *mut c_void) -> Result<Self, Fault> {
        start()?;
        let raw: sys::CUcontext = raw.cast();
        if raw.is_null() {
            return Err(Fault::Refused("the context is a null pointer".into()));
        }
        let mut device = 0;
        {
            let _entered = enter(raw)?;
            // SAFETY: the context is current, and the driver writes its device.
            unsafe { sys::cuCtxGetDevice(&raw mut device) }.result()?;
        }
        Ok(Self { raw, device, is_retained: false, profile: driver::profile_of(device)? })
    }

    /// A tensor by an address that the driver is asked about, which takes some tenths of a microsecond. What is launched on it
    /// works on its memory until it is done; to keep it till then is the caller's business, and a GPU's memory alone is at stake.
    ///
    /// # Errors
    /// Where the address is in no GPU's own memory.
    pub fn tensor<'a>(&self, address: u64, element: Element, shape: &'a [u64]) -> error::Result<Tensor<'a>> {
        let _entered = enter(self.raw)?;
        Ok(Tensor { address, element, shape, device: home_of(address)? })
    }

    /// Whether what is launched on a stream goes into a graph.
    ///
    /// # Errors
    /// Where the driver refuses the stream.
    pub fn is_capturing(&self, stream: Stream) -> Result<bool, Fault> {
        let _entered = enter(self.raw)?;
        is_capturing(stream)
    }

    /// The GPU it is on.
    pub fn profile(&self) -> &GpuProfile {
        &self.profile
    }

    /// The GPU's ordinal, as CUDA counts those it shows this process.
    pub fn ordinal(&self) -> u32 {
        self.device.unsigned_abs()
    }
}

/// The ordinal of the GPU whose own memory an address is in. The driver knows without any context being open.
///
/// # Errors
/// Where there is no driver, or the address is in no GPU's own memory.
#[cfg(feature = "python")]
pub(crate) fn device_of(address: u64) -> error::Result<u32> {
    start()?;
    home_of(address)
}

/// The same, once the driver has started.
fn home_of(address: u64) -> error::Result<u32> {
    use sys::CUpointer_attribute_enum::{
        CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL as ORDINAL, CU_POINTER_ATTRIBUTE_IS_MANAGED as MANAGED,
        CU_POINTER_ATTRIBUTE_MEMORY_TYPE as KIND,
    };
    const DEVICE_MEMORY: u32 = sys::CUmemorytype_enum::CU_MEMORYTYPE_DEVICE as u32;
    let (mut kind, mut ordinal, mut is_managed) = (0u32, -1i32, 0u32);
    let mut which = [KIND, ORDINAL, MANAGED];
    let mut values = [
        ptr::from_mut(&mut kind).cast::<c_void>(),
        ptr::from_mut(&mut ordinal).cast(),
        ptr::from_mut(&mut is_managed).cast(),
    ];
    // SAFETY: the lists are as long as is said, and each place as wide as its attribute; an address the driver does not know
    // gives zeros.
    unsafe { sys::cuPointerGetAttributes(which.len() as u32, which.as_mut_ptr(), values.as_mut_ptr(), address) }
        .result()
        .map_err(Fault::from)?;
    match (kind, is_managed, u32::try_from(ordinal)) {
        (DEVICE_MEMORY, 0, Ok(device)) => Ok(device),
        _ => Err(Error::usage(format!("address {address:#x} is in no GPU's own memory"))),
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if self.is_retained {
            // SAFETY: it was retained when this was made.
            let _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
        }
    }
}

/// Starts the driver.
fn start() -> Result<(), Fault> {
    if !driver::is_present() {
        return Err(Fault::Trouble("there is no CUDA driver here: libcuda.so.1 is not found".into()));
    }
    if let Some(trouble) = driver::missing_symbols(&CALLED) {
        return Err(Fault::Trouble(trouble));
    }
    let fails = |error| Fault::Trouble(format!("the CUDA driver does not start: cuInit: {}", describe_error(error)));
    result::init().map_err(fails)
}

/// Makes a context current on this thread unless it is.
fn enter(raw: sys::CUcontext) -> Result<Entered, Fault> {
    let mut current = ptr::null_mut();
    // SAFETY: the driver writes the pointer.
    unsafe { sys::cuCtxGetCurrent(&raw mut current) }.result()?;
    if current == raw {
        return Ok(Entered(false));
    }
    // SAFETY: the context lives, as whoever adopted it said.
    unsafe { sys::cuCtxPushCurrent_v2(raw) }.result()?;
    Ok(Entered(true))
}

/// A stream of the caller's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream(sys::CUstream);

// SAFETY: a stream's handle may be used from any thread.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    /// The default stream of the context.
    pub const DEFAULT: Self = Self(ptr::null_mut());

    /// A stream by its handle, a `CUstream` (or a `cudaStream_t`, which is the same).
    ///
    /// # Safety
    /// It is a stream of the context that what is launched on it was prepared in, and lives until the launch returns.
    pub const unsafe fn from_raw(raw: *mut c_void) -> Self {
        Self(raw.cast())
    }
}

/// A stream by the number that Python has for it, whose libraries give it away as C does a pointer: it vouches for it.
#[cfg(feature = "python")]
pub(crate) const fn vouched_stream(handle: usize) -> Stream {
    Stream(std::ptr::without_provenance_mut(handle))
}

/// A tensor in a GPU's memory, contiguous in row-major order.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    address: u64,
    element: Element,
    shape: &'a [u64],
    /// The ordinal of the GPU whose memory it is in.
    device: u32,
}

impl<'a> Tensor<'a> {
    /// A tensor by its first element's address, in the memory of the GPU of that ordinal.
    ///
    /// # Safety
    /// Its memory is there, and nobody else writes to it (of an output: or reads it), until what is launched on it is done.
    pub const unsafe fn from_raw(address: u64, element: Element, shape: &'a [u64], device: u32) -> Self {
        Self { address, element, shape, device }
    }

    /// The address of its first element.
    pub const fn address(&self) -> u64 {
        self.address
    }

    /// The type of its elements.
    pub const fn element(&self) -> Element {
        self.element
    }

    /// Its extents, slowest first.
    pub const fn shape(&self) -> &'a [u64] {
        self.shape
    }

    /// The ordinal of the GPU whose memory it is in.
    pub const fn device(&self) -> u32 {
        self.device
    }

    /// Its size in memory, as far as 64 bits count it.
    pub(crate) fn bytes(&self) -> u64 {
        self.shape.iter().fold(self.element.size_bytes(), |bytes, extent| bytes.saturating_mul(*extent))
    }
}

/// A cubin loaded into a context. Dropping it waits for what runs there.
#[derive(Debug)]
pub(crate) struct Module {
    context: Arc<Context>,
    function: Function,
    /// The most shared memory that a launch of it was granted: of problems that share a kernel, each may need another amount.
    granted: Mutex<Bytes>,
    /// An address of the context's, for tensor maps to be encoded with before there are tensors.
    anchor: Buffer,
}

// SAFETY: modules and functions may be used from any thread; the context is made current first.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

impl Module {
    pub(crate) fn load(context: &Arc<Context>, image: &[u8], entry: &str) -> Result<Self, Fault> {
        let _entered = enter(context.raw)?;
        let function = Function::load(image, entry)?;
        // Dropped where something fails, it unloads the function.
        let granted = Mutex::new(Bytes(0));
        let mut module = Self { context: Arc::clone(context), function, granted, anchor: Buffer::new(0)? };
        module.anchor = Buffer::new(1)?;
        function.load_now()?;
        Ok(module)
    }

    /// Lets the function have what a launch asks for, and keeps what earlier ones were granted.
    fn grant(&self, launch: &Launch) -> Result<(), Fault> {
        let mut granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        let dynamic_smem = launch.dynamic_smem.max(*granted);
        self.function.grant(&Launch { dynamic_smem, ..launch.clone() })?;
        *granted = dynamic_smem;
        Ok(())
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        let Ok(_entered) = enter(self.context.raw) else { return };
        self.anchor.free();
        // SAFETY: nothing of it runs after the wait, and this was its only owner. On a dead context nothing is left to unload.
        unsafe {
            let _ = sys::cuCtxSynchronize();
            let _ = self.function.unload();
        }
    }
}

/// What a kernel needs beside its tensors: partial sums that programs leave for each other, and counters that are zero.
#[derive(Debug)]
struct Scratch {
    counters: Buffer,
    workspace: Buffer,
    /// Recorded after the last launch that had it. The next one, on whatever stream, comes after.
    last: Mutex<sys::CUevent>,
}

/// A kernel ready to be launched on tensors of one problem.
#[derive(Debug)]
pub(crate) struct Served {
    module: Arc<Module>,
    ready: Ready,
    workspace: Bytes,
    counters: Bytes,
    scratch: Option<Scratch>,
}

// SAFETY: the driver's handles may be used from any thread; the context is made current first, and what launches share is behind
// a lock.
unsafe impl Send for Served {}
// SAFETY: as above.
unsafe impl Sync for Served {}

/// Where the counters end and the workspace begins in scratch of the caller's: vectors are up to 16 bytes.
const SCRATCH_ALIGNMENT: u64 = 16;

impl Served {
    /// Makes a loaded kernel's launch ready; with scratch of its own, where it needs any, if that is wanted.
    pub(crate) fn new(module: &Arc<Module>, launch: &Launch, inputs: usize, owns_scratch: bool) -> Result<Self, Fault> {
        let _entered = enter(module.context.raw)?;
        module.function.check(launch)?;
        module.grant(launch)?;
        let anchor = module.anchor.address();
        let anchors = vec![anchor; inputs];
        let addresses =
            Addresses { inputs: &anchors, outputs: &[anchor], allowed: &[], workspace: anchor, counters: anchor };
        let ready = Ready::new(module.function, launch, &addresses)?;
        let (workspace, counters) = (launch.workspace, Bytes(4 * u64::from(launch.counters)));
        let mut served = Self { module: Arc::clone(module), ready, workspace, counters, scratch: None };
        if owns_scratch && served.scratch_bytes() > Bytes(0) {
            let event = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)?;
            // Dropped where something fails, it gives back what there is by then.
            let scratch = served.scratch.insert(Scratch {
                counters: Buffer::new(0)?,
                workspace: Buffer::new(0)?,
                last: Mutex::new(event),
            });
            scratch.counters = Buffer::new(served.counters.0)?;
            scratch.workspace = Buffer::new(served.workspace.0)?;
            scratch.counters.fill(0, ptr::null_mut())?;
            // SAFETY: null is the default stream. Preparing may wait.
            unsafe { result::stream::synchronize(ptr::null_mut()) }?;
        }
        Ok(served)
    }

    /// The context it was prepared in.
    pub(crate) fn context(&self) -> &Context {
        &self.module.context
    }

    /// Bytes of scratch that a launch needs; most need none.
    pub(crate) fn scratch_bytes(&self) -> Bytes {
        match (self.workspace, self.counters) {
            (Bytes(0), Bytes(0)) => Bytes(0),
            (Bytes(workspace), Bytes(counters)) => Bytes(counters.next_multiple_of(SCRATCH_ALIGNMENT) + workspace),
        }
    }

    /// Launches it so many times in a row. What shares its own scratch comes one after the other, on the GPU, whatever the streams.
    pub(crate) fn launch(&self, stream: Stream, inputs: &[u64], output: u64, times: u32) -> Result<(), Fault> {
        let _entered = enter(self.module.context.raw)?;
        if self.scratch_bytes() == Bytes(0) {
            return self.launch_with(stream, inputs, output, [0, 0], times);
        }
        let Some(scratch) = &self.scratch else {
            return Err(Fault::Refused(format!(
                "it was prepared without the {} of scratch that it needs: give it some",
                self.scratch_bytes()
            )));
        };
        if is_capturing(stream)? {
            return Err(Fault::Refused(format!(
                "a graph's launches need scratch that nobody else has: give it {} of the graph's own",
                self.scratch_bytes()
            )));
        }
        let last = scratch.last.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the event lives as long as the scratch, and the stream is the caller's. An event never recorded holds nothing up.
        unsafe { sys::cuStreamWaitEvent(stream.0, *last, 0) }.result()?;
        self.launch_with(stream, inputs, output, [scratch.counters.address(), scratch.workspace.address()], times)?;
        // SAFETY: as above.
        Ok(unsafe { result::event::record(*last, stream.0) }?)
    }

    /// Launches it with scratch of the caller's, whose counters are set to zero in stream order.
    pub(crate) fn launch_in(&self, stream: Stream, inputs: &[u64], output: u64, scratch: u64) -> Result<(), Fault> {
        let _entered = enter(self.module.context.raw)?;
        if self.counters > Bytes(0) {
            // SAFETY: the caller gave so much memory, as was checked.
            unsafe { result::memset_d8_async(scratch, 0, self.counters.0 as usize, stream.0) }?;
        }
        let workspace = scratch + self.counters.0.next_multiple_of(SCRATCH_ALIGNMENT);
        self.launch_with(stream, inputs, output, [scratch, workspace], 1)
    }

    fn launch_with(
        &self,
        stream: Stream,
        inputs: &[u64],
        output: u64,
        [counters, workspace]: [u64; 2],
        times: u32,
    ) -> Result<(), Fault> {
        self.ready.launch(stream.0, &Addresses { inputs, outputs: &[output], allowed: &[], workspace, counters }, times)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let Some(scratch) = &mut self.scratch else { return };
        let Ok(_entered) = enter(self.module.context.raw) else { return };
        // The driver waits for what runs before it frees memory.
        scratch.workspace.free();
        scratch.counters.free();
        let event = *scratch.last.get_mut().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: it was made with the scratch, and this was its only owner.
        let _ = unsafe { result::event::destroy(event) };
    }
}

fn is_capturing(stream: Stream) -> Result<bool, Fault> {
    let mut status = sys::CUstreamCaptureStatus_enum::CU_STREAM_CAPTURE_STATUS_NONE;
    // SAFETY: the stream is the caller's, and the driver writes the status.
    unsafe { sys::cuStreamIsCapturing(stream.0, &raw mut status) }.result()?;
    Ok(status != sys::CUstreamCaptureStatus_enum::CU_STREAM_CAPTURE_STATUS_NONE)
}
