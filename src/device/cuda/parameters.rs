//! What the driver tells of a function before it is launched.

use crate::device::Fault;
use crate::families::Launch;
use cudarc::driver::{result, sys};

/// Refuses a launch whose arguments are not the function's parameters, as far as the driver tells them: their number and sizes.
pub(super) fn check_parameters(function: sys::CUfunction, launch: &Launch) -> Result<(), Fault> {
    use sys::CUfunction_attribute_enum::{CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, CU_FUNC_ATTRIBUTE_NUM_REGS};
    let mut sizes = Vec::new();
    let end = loop {
        let (mut offset, mut size) = (0, 0);
        // SAFETY: the function's module is loaded, and the driver writes the two numbers.
        match unsafe { sys::cuFuncGetParamInfo(function, sizes.len(), &raw mut offset, &raw mut size) } {
            sys::CUresult::CUDA_SUCCESS => sizes.push(size),
            end => break end,
        }
    };
    // Past the last one it says that there is no such parameter; anything else tells nothing of them.
    if end == sys::CUresult::CUDA_ERROR_INVALID_VALUE {
        launch.check_parameters(&sizes).map_err(Fault::Refused)?;
    }
    let attribute = |which| {
        // SAFETY: the function's module is loaded.
        unsafe { result::function::get_function_attribute(function, which) }.map(i32::unsigned_abs)
    };
    let threads: u32 = launch.threads.iter().product();
    let most = attribute(CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?;
    if threads > most {
        let registers = attribute(CU_FUNC_ATTRIBUTE_NUM_REGS)?;
        return Err(Fault::Refused(format!(
            "a block of {threads} threads: with its {registers} registers a thread the kernel runs with {most} at most"
        )));
    }
    Ok(())
}
