//! The GPUs that are here, and what keeps others from being used.

use super::clocks;
use crate::device::cuda::driver::{self, describe_error};
use crate::device::{Address, Fault, Found};
use crate::model::Bytes;
use cudarc::driver::{DriverError, result, sys};
use sha2::{Digest, Sha256};
use std::ffi::CStr;

/// All of the driver that is called here. A missing one would end the process at its first call.
pub(super) const CALLED: [&str; 35] = [
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
    if !driver::is_present() {
        return (Vec::new(), None);
    }
    if let Some(trouble) = driver::missing_symbols(&CALLED) {
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

fn describe(ordinal: i32) -> Result<Found, DriverError> {
    let device = result::device::get(ordinal)?;
    let profile = driver::profile_of(device)?;
    let unit = Some(unit(result::device::get_uuid(device)?));
    // SAFETY: `device` is a handle the driver just gave.
    let memory = Some(Bytes(unsafe { result::device::total_mem(device) }? as u64));
    let (address, driver) = (Address::Cuda(ordinal.unsigned_abs()), clocks::driver_version());
    Ok(Found { address, name: profile.device_name.clone(), driver, unit, memory, profile })
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
