//! Tensor maps: what the copy engine knows of a tensor.

use crate::device::Fault;
use crate::families::{Element, Swizzle, TensorMap};
use cudarc::driver::sys;
use std::ffi::c_void;
use std::mem::MaybeUninit;

/// The driver's form of a map, for a tensor at that address.
///
/// # Errors
/// Where the driver refuses an extent, a stride or the tile.
pub(super) fn encode(map: &TensorMap, address: u64) -> Result<sys::CUtensorMap, Fault> {
    let element = match map.element {
        Element::Bf16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        Element::F32 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
        Element::F16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        Element::F64 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT64,
        Element::Fp8 | Element::I8 | Element::U8 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT8,
        Element::I16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT16,
        Element::I32 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_INT32,
        Element::I64 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_INT64,
    };
    let swizzle = match map.swizzle {
        Swizzle::None => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
        Swizzle::Bytes32 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_32B,
        Swizzle::Bytes64 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_64B,
        Swizzle::Bytes128 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
    };
    let rank = map.extents.len();
    if map.tile.len() != rank || map.strides_bytes.len() + 1 != rank {
        return Err(Fault::Refused(format!("{map:?}: its lists disagree on the number of dimensions")));
    }
    let element_strides = vec![1u32; rank];
    let mut encoded = MaybeUninit::<sys::CUtensorMap>::uninit();
    // SAFETY: every list is `rank` long (the strides one less), as just checked, and the driver fills the whole map
    // where it succeeds.
    unsafe {
        sys::cuTensorMapEncodeTiled(
            encoded.as_mut_ptr(),
            element,
            rank as u32,
            address as *mut c_void,
            map.extents.as_ptr(),
            map.strides_bytes.as_ptr(),
            map.tile.as_ptr(),
            element_strides.as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            swizzle,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
        .result()
        .map_err(|error| Fault::Refused(format!("{map:?}: {}", Fault::from(error))))?;
        Ok(encoded.assume_init())
    }
}

/// Turns an encoded map to a tensor of the same extents elsewhere.
///
/// # Errors
/// Where the driver refuses the address.
pub(super) fn retarget(map: &mut sys::CUtensorMap, address: u64) -> Result<(), Fault> {
    // SAFETY: the driver made the map.
    Ok(unsafe { sys::cuTensorMapReplaceAddress(map, address as *mut c_void) }.result()?)
}
