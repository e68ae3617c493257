//! The driver: whether it is here and new enough, which GPUs it has, and what its errors say.

use super::clocks;
use crate::device::{Address, Fault, Found};
use crate::model::{Bytes, GpuProfile, Mma};
use cudarc::driver::{DriverError, result, sys};
use sha2::{Digest, Sha256};
use std::ffi::{CStr, c_int, c_void};

/// All of the driver that is called. A missing one would end the process at its first call.
const CALLED: [&str; 35] = [
    "cuCtxSetCurrent",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDeviceGetPCIBusId",
    "cuDeviceGetUuid_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDeviceTotalMem_v2",
    "cuDriverGetVersion",
    "cuEventCreate",
    "cuEventElapsedTime_v2",
    "cuEventRecord",
    "cuFuncGetAttribute",
    "cuFuncGetParamInfo",
    "cuFuncSetAttribute",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuInit",
    "cuLaunchKernelEx",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemHostAlloc",
    "cuMemHostGetDevicePointer_v2",
    "cuMemcpyDtoDAsync_v2",
    "cuMemcpyDtoH_v2",
    "cuMemcpyHtoD_v2",
    "cuMemsetD8Async",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuStreamCreate",
    "cuStreamSynchronize",
    "cuTensorMapEncodeTiled",
];
/// The first driver with all of these.
const LEAST_DRIVER: &str = "CUDA 12.8";

/// What an error says of the device: most errors of the driver stick to the context, so that only a new process helps.
impl From<DriverError> for Fault {
    fn from(error: DriverError) -> Self {
        use sys::CUresult::{
            CUDA_ERROR_ASSERT, CUDA_ERROR_HARDWARE_STACK_ERROR, CUDA_ERROR_ILLEGAL_ADDRESS,
            CUDA_ERROR_ILLEGAL_INSTRUCTION, CUDA_ERROR_INVALID_ADDRESS_SPACE, CUDA_ERROR_INVALID_CLUSTER_SIZE,
            CUDA_ERROR_INVALID_IMAGE, CUDA_ERROR_INVALID_PC, CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_LAUNCH_FAILED,
            CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, CUDA_ERROR_LAUNCH_TIMEOUT, CUDA_ERROR_MISALIGNED_ADDRESS,
            CUDA_ERROR_NO_BINARY_FOR_GPU, CUDA_ERROR_NOT_FOUND, CUDA_ERROR_NOT_SUPPORTED,
            CUDA_ERROR_TENSOR_MEMORY_LEAK,
        };
        let message = describe_error(error);
        match error.0 {
            CUDA_ERROR_INVALID_CLUSTER_SIZE
            | CUDA_ERROR_INVALID_IMAGE
            | CUDA_ERROR_INVALID_VALUE
            | CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES
            | CUDA_ERROR_NO_BINARY_FOR_GPU
            | CUDA_ERROR_NOT_FOUND
            | CUDA_ERROR_NOT_SUPPORTED => Self::Refused(message),
            CUDA_ERROR_ASSERT
            | CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUDA_ERROR_ILLEGAL_ADDRESS
            | CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUDA_ERROR_INVALID_PC
            | CUDA_ERROR_LAUNCH_FAILED
            | CUDA_ERROR_LAUNCH_TIMEOUT
            | CUDA_ERROR_MISALIGNED_ADDRESS
            | CUDA_ERROR_TENSOR_MEMORY_LEAK => Self::Dead(message),
            // No memory, a device that is lost or taken by others, a driver that is none.
            _ => Self::Trouble(message),
        }
    }
}

/// `CUDA_ERROR_NO_DEVICE (100): no CUDA-capable device is detected`
fn describe_error(error: DriverError) -> String {
    let name = error.error_name().map_or_else(|_| format!("{:?}", error.0), |name| name.to_string_lossy().into_owned());
    let text = error.error_string().map(|text| text.to_string_lossy().into_owned()).unwrap_or_default();
    format!("{name} ({}): {text}", error.0 as i32)
}

/// The CUDA GPUs here that can be used; none where there is no driver.
pub fn discover() -> Vec<Found> {
    survey().0
}

/// What keeps the driver that is here, or one of its GPUs, from being used, in one line.
pub fn trouble() -> Option<String> {
    survey().1
}

/// The GPUs that can be used, and why there are not more.
fn survey() -> (Vec<Found>, Option<String>) {
    // SAFETY: asks the dynamic loader only.
    if !unsafe { sys::is_culib_present() } {
        return (Vec::new(), None);
    }
    if let Some(trouble) = missing_symbols() {
        return (Vec::new(), Some(trouble));
    }
    let fails = |what: String| move |error| format!("{what}: {}", describe_error(error));
    if let Err(trouble) = result::init().map_err(fails("the CUDA driver does not start: cuInit".into())) {
        return (Vec::new(), Some(trouble));
    }
    let count = match result::device::get_count() {
        Ok(count) => count,
        Err(error) => return (Vec::new(), Some(fails("the CUDA driver does not count its GPUs".into())(error))),
    };
    let (mut found, mut trouble) = (Vec::new(), None);
    for ordinal in 0..count {
        match describe(ordinal).map_err(fails(format!("the CUDA driver does not tell of GPU {ordinal}"))) {
            Ok(device) => found.push(device),
            Err(why) => trouble = trouble.or(Some(why)),
        }
    }
    (found, trouble)
}

/// What the driver is too old for, where it is.
pub(super) fn missing_symbols() -> Option<String> {
    type GetVersion = unsafe extern "C" fn(*mut c_int) -> c_int;
    // SAFETY: the library is there, as was just asked; a symbol is looked up and not called.
    let has = |name: &&str| unsafe { sys::culib().get::<*const c_void>(name.as_bytes()) }.is_ok();
    let missing: Vec<&str> = CALLED.iter().filter(|name| !has(name)).copied().collect();
    if missing.is_empty() {
        return None;
    }
    let mut version: c_int = 0;
    // SAFETY: what the driver has under that name takes a pointer to an integer, at any time.
    if let Ok(get_version) = unsafe { sys::culib().get::<GetVersion>(b"cuDriverGetVersion") } {
        unsafe { get_version(&raw mut version) };
    }
    let version = match version {
        0 => String::new(),
        version => format!(", which is for CUDA {}.{},", version / 1000, version % 1000 / 10),
    };
    Some(format!(
        "the CUDA driver{version} lacks {}: a driver for {LEAST_DRIVER} or newer is needed",
        missing.join(", ")
    ))
}

fn describe(ordinal: i32) -> Result<Found, DriverError> {
    use sys::CUdevice_attribute_enum as Attribute;
    let device = result::device::get(ordinal)?;
    let name = result::device::get_name(device)?;
    // SAFETY: `device` is a handle the driver just gave.
    let attribute = |which| unsafe { result::device::get_attribute(device, which) };
    let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    let arch = format!("sm_{major}{minor}{}", if major >= 9 { "a" } else { "" });
    let bytes = |which| attribute(which).map(|value| Bytes(value.unsigned_abs().into()));
    let count = |which| attribute(which).map(i32::unsigned_abs);
    let profile = GpuProfile {
        name: GpuProfile::short_name(&name),
        device_name: name.clone(),
        multiprocessors: count(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        smem_per_block: bytes(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        smem_per_multiprocessor: bytes(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR)?,
        registers_per_multiprocessor: count(Attribute::CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR)?,
        threads_per_multiprocessor: count(Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR)?,
        l2: bytes(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?,
        mma: Mma::of_arch(&arch),
        // A slice of a GPU has a share of them that nobody tells.
        peaks: GpuProfile::by_device_name(&name).and_then(|known| known.peaks),
        arch,
    };
    let unit = Some(unit(result::device::get_uuid(device)?));
    // SAFETY: as above.
    let memory = Some(Bytes(unsafe { result::device::total_mem(device) }? as u64));
    let (address, driver) = (Address::Cuda(ordinal.unsigned_abs()), clocks::driver_version());
    Ok(Found { address, name, driver, unit, memory, profile })
}

/// Tells this physical GPU from others of its kind, without telling anybody which it is.
fn unit(uuid: sys::CUuuid) -> String {
    let [a, b, c, d, ..]: [u8; 32] = Sha256::digest(uuid.bytes.map(|byte| byte as u8)).into();
    format!("{:08x}", u32::from_be_bytes([a, b, c, d]))
}

/// What others do on a GPU that nothing of ours runs on yet: how many processes compute, and for how many per cent of the last
/// moments it was busy. Nothing where the driver does not tell.
pub fn work_under_way(ordinal: u32) -> Option<(usize, u32)> {
    let device = result::device::get(ordinal as i32).ok()?;
    clocks::work_under_way(&pci_bus_id(device).ok()?)
}

/// Where the GPU is on the PCI bus: `00000000:3B:00.0`.
pub(super) fn pci_bus_id(device: sys::CUdevice) -> Result<String, Fault> {
    let mut text = [0; 32];
    // SAFETY: the driver writes at most as many characters as it is told there is room for, and ends them with a zero.
    unsafe { sys::cuDeviceGetPCIBusId(text.as_mut_ptr(), text.len() as i32, device) }.result()?;
    let bytes: Vec<u8> = text.iter().map(|character: &std::ffi::c_char| *character as u8).collect();
    let id = CStr::from_bytes_until_nul(&bytes).map_err(|_| Fault::Dead("a PCI bus id without an end".into()))?;
    Ok(id.to_string_lossy().into_owned())
}
