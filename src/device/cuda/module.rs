//! Cubins that are loaded, and the harness's own kernels.

use crate::device::Fault;
use crate::families::{Element, Launch};
use cudarc::driver::{result, sys};
use std::collections::HashMap;
use std::ffi::CString;
use std::path::Path;

/// The harness's own kernels.
pub(super) struct Support {
    /// By type.
    pub(super) fill: HashMap<Element, sys::CUfunction>,
    pub(super) compare: HashMap<Element, sys::CUfunction>,
    /// By the reference's type.
    pub(super) allow: HashMap<Element, sys::CUfunction>,
    pub(super) read_lines: sys::CUfunction,
    pub(super) alter: sys::CUfunction,
    pub(super) block_stream: sys::CUfunction,
    pub(super) say_when: sys::CUfunction,
}

impl Support {
    /// One of its kernels for a type.
    pub(super) fn of(kernels: &HashMap<Element, sys::CUfunction>, element: Element) -> Result<sys::CUfunction, Fault> {
        kernels.get(&element).copied().ok_or_else(|| Fault::Refused(format!("no support kernel for {element}")))
    }

    /// Loads all of them from their cubin.
    pub(super) fn load(cubin: &Path) -> Result<Self, Fault> {
        let module = load_module(cubin)?;
        let get = |name: &str| get_function(module, name);
        let of_types = |what: &str, elements: &[Element]| -> Result<HashMap<Element, sys::CUfunction>, Fault> {
            elements.iter().map(|element| Ok((*element, get(&format!("{what}_{element}"))?))).collect()
        };
        let references: Vec<Element> =
            Element::ALL.into_iter().filter(|element| element.reference() == *element).collect();
        Ok(Self {
            fill: of_types("fill", &Element::ALL)?,
            compare: of_types("compare", &Element::ALL)?,
            allow: of_types("allow", &references)?,
            read_lines: get("read_lines")?,
            alter: get("alter")?,
            block_stream: get("block_stream")?,
            say_when: get("say_when")?,
        })
    }
}

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

/// Loads a cubin. One that was altered since it was made says nothing of the kernel: it is compiled anew by the next run.
pub(super) fn load_module(cubin: &Path) -> Result<sys::CUmodule, Fault> {
    let image = crate::compile::read_cubin(cubin).map_err(|error| Fault::Trouble(error.to_string()))?;
    // SAFETY: the image is an ELF the driver checks, and it copies what it needs.
    Ok(unsafe { result::module::load_data(image.as_ptr().cast()) }?)
}

/// A function of a loaded cubin.
pub(super) fn get_function(module: sys::CUmodule, name: &str) -> Result<sys::CUfunction, Fault> {
    let c_name = CString::new(name).map_err(|_| Fault::Refused(format!("'{name}' is no function name")))?;
    // SAFETY: the module is loaded and the name ends in a zero.
    unsafe { result::module::get_function(module, c_name) }
        .map_err(|_| Fault::Refused(format!("the cubin has no function '{name}'")))
}
