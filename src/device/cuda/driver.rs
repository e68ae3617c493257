//! The driver: whether it is here and new enough, what its errors mean, and what it tells of a device.

use crate::device::Fault;
use crate::model::{Bytes, GpuProfile, Mma};
use cudarc::driver::{DriverError, result, sys};
use std::ffi::{c_int, c_void};

/// The first driver that has all that is called.
const LEAST_DRIVER: &str = "CUDA 12.8";

/// Whether there is a driver's library at all.
pub(super) fn is_present() -> bool {
    // SAFETY: asks the dynamic loader only.
    unsafe { sys::is_culib_present() }
}

/// What the driver is too old for, where it is.
pub(super) fn missing_symbols(called: &[&str]) -> Option<String> {
    type GetVersion = unsafe extern "C" fn(*mut c_int) -> c_int;
    // SAFETY: the library is there, as was just asked; a symbol is looked up and not called.
    let has = |name: &&str| unsafe { sys::culib().get::<*const c_void>(name.as_bytes()) }.is_ok();
    let missing: Vec<&str> = called.iter().filter(|name| !has(name)).copied().collect();
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
pub(super) fn describe_error(error: DriverError) -> String {
    let name = error.error_name().map_or_else(|_| format!("{:?}", error.0), |name| name.to_string_lossy().into_owned());
    let text = error.error_string().map(|text| text.to_string_lossy().into_owned()).unwrap_or_default();
    format!("{name} ({}): {text}", error.0 as i32)
}

/// What a device offers kernels, as its driver tells.
pub(super) fn profile_of(device: sys::CUdevice) -> Result<GpuProfile, DriverError> {
    use sys::CUdevice_attribute_enum as Attribute;
    let name = result::device::get_name(device)?;
    // SAFETY: `device` is a handle the driver just gave.
    let attribute = |which| unsafe { result::device::get_attribute(device, which) };
    let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    let arch = format!("sm_{major}{minor}{}", if major >= 9 { "a" } else { "" });
    let bytes = |which| attribute(which).map(|value| Bytes(value.unsigned_abs().into()));
    let count = |which| attribute(which).map(i32::unsigned_abs);
    Ok(GpuProfile {
        name: GpuProfile::short_name(&name),
        peaks: GpuProfile::by_device_name(&name).and_then(|known| known.peaks),
        device_name: name,
        multiprocessors: count(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        smem_per_block: bytes(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        smem_per_multiprocessor: bytes(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR)?,
        registers_per_multiprocessor: count(Attribute::CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR)?,
        threads_per_multiprocessor: count(Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR)?,
        l2: bytes(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?,
        mma: Mma::of_arch(&arch),
        // A slice of a GPU has a share of them that nobody tells.
        arch,
    })
}
