//! The C interface, declared and documented in `src/kernel_sweep.h`.
//!
//! C is spoken to through raw pointers, so this file is `unsafe` by nature, and the only one that is beside the CUDA device.
//! Each function checks its pointers for null and copies out of them at once; everything else is safe code.
#![allow(unsafe_code)]

use crate::error::{Error, Result};
use crate::heuristics::{Answer, Heuristics, Query, Source, Template, answer_batch_line, answer_batch_line_checked};
use crate::model::{Mma, PidType};
use serde_json::Value;
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::{ptr, slice};

/// A named dimension of a query.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Dimension {
    /// Its name: `m`.
    pub name: *const c_char,
    /// Its extent.
    pub value: i64,
}

/// The knobs of a config; zero for one that the config does not have.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Knobs {
    /// Tile extents, the first eight.
    pub block_sizes: [u32; 8],
    /// How many tile extents there are.
    pub block_size_count: u32,
    /// Tiles along m that share a column band.
    pub l2_grouping: u32,
    /// Programs a multiprocessor.
    pub num_sm_multiplier: u32,
    /// Depth of the load pipeline.
    pub num_stages: u32,
    /// Warps of a program.
    pub num_warps: u32,
    /// Programs that share a tile's reduction.
    pub split_k: u32,
    /// Columns of one step of a row reduction; zero for the whole row, too.
    pub reduction_loop: u32,
    /// 1 flat, 2 `persistent_blocked`, 3 `persistent_interleaved`, 4 `cluster_launch_control`.
    pub pid_type: u32,
    /// 1 simt, 2 `mma_sync`, 3 wgmma, 4 tcgen05, 5 `mma_sync_tma`, 6 `tcgen05_tmem`,
    /// 7 `simt_wide`.
    pub mma: u32,
    /// Operands that are copied to aligned rows first: 1 a, 2 b, 3 both.
    pub realigned: u32,
    /// What a program loads for its next tile meanwhile: 1 queries.
    pub prefetch: u32,
}

/// What a query was answered.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// 0 none, 1 rule, 2 fallback, 3 measured, 4 model.
    pub source: u32,
    /// The rule's index in the document, else -1.
    pub rule_index: i64,
    /// The fallback's group, empty where none answered; ends in a zero.
    pub group: [c_char; 16],
    /// Configs there are, which may be more than the caller has room for.
    pub config_count: usize,
}

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// Keeps the error for [`kernel_sweep_error`] and gives `otherwise` in place of a result. A panic is such an error too: it would end
/// the caller's process.
fn report<T>(work: impl FnOnce() -> Result<T>, otherwise: T) -> T {
    let result = catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(Error::failure("a fault of kernel_sweep's own; standard error says where")));
    let message = result.as_ref().err().map(|error| error.to_string().replace('\0', " ")).unwrap_or_default();
    LAST_ERROR.set(CString::new(message).unwrap_or_default());
    result.unwrap_or(otherwise)
}

/// # Safety
/// `text` is null or ends in a zero.
unsafe fn bytes<'a>(text: *const c_char, name: &str) -> Result<&'a CStr> {
    if text.is_null() {
        return Err(Error::usage(format!("{name} is a null pointer")));
    }
    // SAFETY: not null, and the caller says that it ends in a zero.
    Ok(unsafe { CStr::from_ptr(text) })
}

/// # Safety
/// `text` is null or ends in a zero.
unsafe fn text<'a>(text: *const c_char, name: &str) -> Result<&'a str> {
    // SAFETY: as the caller says.
    utf8(unsafe { bytes(text, name) }?, name)
}

fn utf8<'a>(text: &'a CStr, name: &str) -> Result<&'a str> {
    text.to_str().map_err(|error| Error::usage(format!("{name} is not UTF-8: {error}")))
}

/// A path of whatever bytes the file system takes.
#[cfg(unix)]
#[allow(clippy::unnecessary_wraps)] // elsewhere it may fail
fn path_of(path: &CStr) -> Result<&Path> {
    use std::os::unix::ffi::OsStrExt;
    Ok(Path::new(std::ffi::OsStr::from_bytes(path.to_bytes())))
}

#[cfg(not(unix))]
fn path_of(path: &CStr) -> Result<&Path> {
    utf8(path, "path").map(Path::new)
}

/// # Safety
/// `items` is null or points to `count` items.
unsafe fn items<'a, T>(items: *const T, count: usize, name: &str) -> Result<&'a [T]> {
    match (items.is_null(), count) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(Error::usage(format!("{name} is a null pointer"))),
        // SAFETY: not null, and the caller says that so many are there.
        (false, _) => Ok(unsafe { slice::from_raw_parts(items, count) }),
    }
}

/// What is made, for the caller to give back.
fn boxed<T>(made: impl FnOnce() -> Result<T>) -> *mut T {
    report(|| Ok(Box::into_raw(Box::new(made()?))), ptr::null_mut())
}

/// Loads a document from a file; null where it cannot.
///
/// # Safety
/// `path` is null or ends in a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kernel_sweep_load(path: *const c_char) -> *mut Heuristics {
    // SAFETY: as the caller says.
    boxed(|| Heuristics::load(path_of(unsafe { bytes(path, "path") }?)?))
}

/// Loads a document from its JSON text of so many bytes; null where it cannot.
///
/// # Safety
/// `json` is null or points to `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kernel_sweep_load_json(json: *const c_char, length: usize) -> *mut Heuristics {
    // SAFETY: as the caller says.
    boxed(|| Heuristics::from_bytes(unsafe { items(json.cast::<u8>(), length, "json") }?))
}

/// Loads the document built in for a GPU; null where there is none.
///
/// # Safety
/// `gpu` is null or ends in a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kernel_sweep_builtin(gpu: *const c_char) -> *mut Heuristics {
    // SAFETY: as the caller says.
    boxed(|| Heuristics::builtin(unsafe { text(gpu, "gpu") }?))
}

/// Frees what a load gave; null is fine.
///
/// # Safety
/// `heuristics` is null or comes from a load, and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kernel_sweep_free(heuristics: *mut Heuristics) {
    if !heuristics.is_null() {
        // SAFETY: it comes from `Box::into_raw` and is the caller's to give back.
        drop(unsafe { Box::from_raw(heuristics) });
    }
}

/// What went wrong in this thread's last call; empty where nothing did.
#[unsafe(no_mangle)]
pub extern "C" fn kernel_sweep_error() -> *const c_char {
    LAST_ERROR.with_borrow(|message| message.as_ptr())
}

/// Answers a query by family and dimensions; -1 where it is none that a kernel fits, else 0.
///
/// # Safety
/// `heuristics` is null or comes from a load; strings are null or end in a zero; `dimensions` is null or points to
/// `dimension_count` items; `reply` is null or can be written; `configs` is null or has room for `capacity` items.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kernel_sweep_lookup(
    heuristics: *const Heuristics,
    family: *const c_char,
    dimensions: *const Dimension,
    dimension_count: usize,
    dtype: *const c_char,
    reply: *mut Reply,
    configs: *mut Knobs,
    capacity: usize,
) -> c_int {
    let answered = || -> Result<c_int> {
        // SAFETY: as the caller says.
        let (heuristics, query) = unsafe { question(heuristics, family, dimensions, dimension_count, dtype) }?;
        let answer = heuristics.lookup(&query);
        // SAFETY: null or writable, as the caller says.
        if let Some(reply) = unsafe { reply.as_mut() } {
            *reply = reply_of(&answer);
        }
        if !configs.is_null() {
            for (position, config) in answer.configs().take(capacity).enumerate() {
                // SAFETY: there is room for `capacity` items, as the caller says.
                unsafe { configs.add(position).write(knobs(config)) };
            }
        }
        Ok(0)
    };
    report(answered, -1)
}

/// Answers a query in JSON, as `sweep lookup --batch` does a line. Writes what there is room for and a zero, and returns the
/// length of the whole answer without it.
///
/// # Safety
/// `heuristics` is null or comes from a load; `query` is null or ends in a zero; `buffer` is null or has room for `capacity`
/// bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kernel_sweep_lookup_json(
    heuristics: *const Heuristics,
    query: *const c_char,
    buffer: *mut c_char,
    capacity: usize,
) -> usize {
    let answer = |heuristics: &Heuristics, query: &[u8]| Ok(answer_batch_line(heuristics, query));
    // SAFETY: as the caller says.
    unsafe { write_answer(heuristics, query, answer, buffer, capacity) }
}

/// The same for a query whose arguments fit each other; 0 for any other.
///
/// # Safety
/// As [`kernel_sweep_lookup_json`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kernel_sweep_lookup_json_checked(
    heuristics: *const Heuristics,
    query: *const c_char,
    buffer: *mut c_char,
    capacity: usize,
) -> usize {
    // SAFETY: as the caller says.
    unsafe { write_answer(heuristics, query, answer_batch_line_checked, buffer, capacity) }
}

/// # Safety
/// As [`kernel_sweep_lookup_json`].
unsafe fn write_answer(
    heuristics: *const Heuristics,
    query: *const c_char,
    answer: impl FnOnce(&Heuristics, &[u8]) -> Result<String>,
    buffer: *mut c_char,
    capacity: usize,
) -> usize {
    let answered = || -> Result<String> {
        // SAFETY: as the caller says.
        let (heuristics, query) = unsafe { (loaded(heuristics)?, text(query, "query")?) };
        answer(heuristics, query.as_bytes())
    };
    // SAFETY: as the caller says.
    unsafe { write_text(&report(answered, String::new()), buffer, capacity) }
}

/// Says in JSON why a query is answered so, as `sweep lookup --explain --json` does. Writes and returns as
/// [`kernel_sweep_lookup_json`].
///
/// # Safety
/// As [`kernel_sweep_lookup`]; `buffer` is null or has room for `capacity` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kernel_sweep_explain_json(
    heuristics: *const Heuristics,
    family: *const c_char,
    dimensions: *const Dimension,
    dimension_count: usize,
    dtype: *const c_char,
    buffer: *mut c_char,
    capacity: usize,
) -> usize {
    let explained = || -> Result<String> {
        // SAFETY: as the caller says.
        let (heuristics, query) = unsafe { question(heuristics, family, dimensions, dimension_count, dtype) }?;
        Ok(serde_json::to_string(&heuristics.explained(&query, true))?)
    };
    // SAFETY: as the caller says.
    unsafe { write_text(&report(explained, String::new()), buffer, capacity) }
}

/// Writes what there is room for and a zero, and returns the length of the whole text without it.
///
/// # Safety
/// `buffer` is null or has room for `capacity` bytes.
unsafe fn write_text(text: &str, buffer: *mut c_char, capacity: usize) -> usize {
    if !buffer.is_null() && capacity > 0 {
        let written = text.len().min(capacity - 1);
        // SAFETY: `written` bytes and the zero fit, and the text is memory of its own.
        unsafe {
            ptr::copy_nonoverlapping(text.as_ptr().cast(), buffer, written);
            buffer.add(written).write(0);
        }
    }
    text.len()
}

/// The heuristics, and the query for a family at named dimensions.
///
/// # Safety
/// As [`kernel_sweep_lookup`].
unsafe fn question<'a>(
    heuristics: *const Heuristics,
    family: *const c_char,
    dimensions: *const Dimension,
    dimension_count: usize,
    dtype: *const c_char,
) -> Result<(&'a Heuristics, Query<'a>)> {
    // SAFETY: as the caller says.
    let (heuristics, family, dimensions) =
        unsafe { (loaded(heuristics)?, text(family, "family")?, items(dimensions, dimension_count, "dimensions")?) };
    let named: Result<Vec<_>> = dimensions
        .iter()
        // SAFETY: as the caller says.
        .map(|dimension| Ok((unsafe { text(dimension.name, "a dimension's name") }?, dimension.value)))
        .collect();
    // SAFETY: as the caller says.
    let dtype = if dtype.is_null() { None } else { Some(unsafe { text(dtype, "dtype") }?) };
    let query = heuristics.query(family, &named?, heuristics.dtype(family, dtype)?)?;
    Ok((heuristics, query))
}

/// # Safety
/// `heuristics` is null or comes from a load.
unsafe fn loaded<'a>(heuristics: *const Heuristics) -> Result<&'a Heuristics> {
    // SAFETY: as the caller says.
    unsafe { heuristics.as_ref() }.ok_or_else(|| Error::usage("heuristics is a null pointer"))
}

fn reply_of(answer: &Answer) -> Reply {
    let mut reply = Reply { source: 0, rule_index: -1, group: [0; 16], config_count: answer.configs().len() };
    match answer.source {
        Source::Rule(index) => (reply.source, reply.rule_index) = (1, index as i64),
        Source::Fallback(group) => {
            reply.source = 2;
            let last = reply.group.len() - 1;
            for (to, from) in reply.group[..last].iter_mut().zip(group.bytes()) {
                *to = from as c_char;
            }
        }
        Source::Measured => reply.source = 3,
        Source::Model => reply.source = 4,
        Source::None => {}
    }
    reply
}

/// The knobs C knows of a config; values of another form count as not there.
fn knobs(config: &Template) -> Knobs {
    let number = |value: &Value| value.as_u64().and_then(|value| u32::try_from(value).ok()).unwrap_or_default();
    let scalar = |name: &str| config.get(name).map(number).unwrap_or_default();
    let list = |name: &str| config.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let first = |name: &str| list(name).first().map(number).unwrap_or_default();
    let position = |name: &str, known: &[&str]| {
        let value = config.get(name).and_then(Value::as_str);
        known.iter().position(|known| value == Some(known)).map_or(0, |position| position as u32 + 1)
    };
    let mut block_sizes = [0; 8];
    for (to, from) in block_sizes.iter_mut().zip(list("block_sizes")) {
        *to = number(from);
    }
    Knobs {
        block_sizes,
        block_size_count: list("block_sizes").len() as u32,
        l2_grouping: first("l2_groupings"),
        num_sm_multiplier: scalar("num_sm_multiplier"),
        num_stages: scalar("num_stages"),
        num_warps: scalar("num_warps"),
        split_k: scalar("split_k"),
        reduction_loop: first("reduction_loops"),
        pid_type: position("pid_type", &PidType::ALL.map(PidType::name)),
        mma: position("mma", &Mma::ALL.map(Mma::name)),
        realigned: position("realigned", &["a", "b", "ab"]),
        prefetch: position("prefetch", &["queries"]),
    }
}

/// Opening a GPU, preparing a kernel and launching it, for C.
#[cfg(feature = "run")]
pub mod run {
    use super::{Dimension, boxed, items, path_of, report, text};
    use crate::error::{Error, Result};
    use crate::heuristics::{DtypeName, Heuristics};
    use crate::model::{Dtype, Family, Problem};
    use crate::run::{Bundle, Context, Element, Kernel, Runtime, Stream, Tensor};
    use std::ffi::{CStr, c_char, c_int, c_void};

    /// A tensor in a GPU's memory, contiguous in row-major order.
    #[repr(C)]
    #[derive(Clone, Copy, Debug)]
    pub struct Given {
        /// Its first element.
        pub data: *mut c_void,
        /// Its type: 1 bf16, 2 f32, 3 bytes, 4 16-bit integers, 5 f16, 6 E4M3, 7 64-bit integers.
        pub element: u32,
        /// Extents that `shape` points to.
        pub rank: usize,
        /// Its extents, slowest first.
        pub shape: *const u64,
    }

    /// Tensors that a kernel has at most.
    const MOST_TENSORS: usize = 8;

    /// Opens a GPU by its ordinal; null where that fails.
    ///
    /// # Safety
    /// The strings are null or end in a zero.
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn kernel_sweep_open(
        ordinal: u32,
        document: *const c_char,
        bundle: *const c_char,
    ) -> *mut Runtime {
        let opened = || -> Result<Runtime> {
            let runtime = Runtime::open(ordinal)?;
            // SAFETY: as the caller says.
            unsafe { served_by(runtime, document, bundle) }
        };
        boxed(opened)
    }

    /// Adopts a context of the caller's, or the one that is current where it is null; null where that fails.
    ///
    /// # Safety
    /// `context` is null or a context of the driver's, and outlives the runtime and its kernels, as the current one does; the strings
    /// are null or end in a zero.
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn kernel_sweep_adopt(
        context: *mut c_void,
        document: *const c_char,
        bundle: *const c_char,
    ) -> *mut Runtime {
        let adopted = || -> Result<Runtime> {
            // SAFETY: as the caller says.
            let context = unsafe { if context.is_null() { Context::current() } else { Context::adopt(context) } }?;
            // SAFETY: as the caller says.
            unsafe { served_by(Runtime::on(context), document, bundle) }
        };
        boxed(adopted)
    }

    /// # Safety
    /// The strings are null or end in a zero.
    unsafe fn served_by(mut runtime: Runtime, document: *const c_char, bundle: *const c_char) -> Result<Runtime> {
        if !bundle.is_null() {
            // SAFETY: not null, and the caller says that it ends in a zero.
            runtime = runtime.with_bundle(Bundle::open(path_of(unsafe { CStr::from_ptr(bundle) })?)?)?;
        }
        if !document.is_null() {
            // SAFETY: as above.
            runtime = runtime.with_document(Heuristics::load(path_of(unsafe { CStr::from_ptr(document) })?)?);
        }
        Ok(runtime)
    }

    /// Closes what was opened or adopted; null is fine.
    ///
    /// # Safety
    /// `runtime` is null or comes from an open, and is not used again. Its kernels may be.
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn kernel_sweep_close(runtime: *mut Runtime) {
        if !runtime.is_null() {
            // SAFETY: it comes from `Box::into_raw` and is the caller's to give back.
            drop(unsafe { Box::from_raw(runtime) });
        }
    }

    /// Prepares the kernel of a problem; null where that fails.
    ///
    /// # Safety
    /// `runtime` is null or comes from an open; strings are null or end in a zero; `dimensions` is null or points to `dimension_count`
    /// items.
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn kernel_sweep_prepare(
        runtime: *const Runtime,
        family: *const c_char,
        dimensions: *const Dimension,
        dimension_count: usize,
        dtype: *const c_char,
    ) -> *mut Kernel {
        // SAFETY: as the caller says.
        unsafe { prepared(runtime, family, dimensions, dimension_count, dtype, Runtime::prepare) }
    }

    /// The same without scratch of its own, which launches are given; null where that fails.
    ///
    /// # Safety
    /// As [`kernel_sweep_prepare`].
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn kernel_sweep_prepare_without_scratch(
        runtime: *const Runtime,
        family: *const c_char,
        dimensions: *const Dimension,
        dimension_count: usize,
        dtype: *const c_char,
    ) -> *mut Kernel {
        // SAFETY: as the caller says.
        unsafe { prepared(runtime, family, dimensions, dimension_count, dtype, Runtime::prepare_without_scratch) }
    }

    /// What `prepare` makes of the problem that is asked for.
    ///
    /// # Safety
    /// As [`kernel_sweep_prepare`].
    unsafe fn prepared(
        runtime: *const Runtime,
        family: *const c_char,
        dimensions: *const Dimension,
        dimension_count: usize,
        dtype: *const c_char,
        prepare: fn(&Runtime, &Problem) -> Result<Kernel>,
    ) -> *mut Kernel {
        boxed(|| {
            // SAFETY: as the caller says.
            let runtime = unsafe { runtime.as_ref() }.ok_or_else(|| Error::usage("runtime is a null pointer"))?;
            // SAFETY: as the caller says.
            let (family, dimensions) =
                unsafe { (text(family, "family")?, items(dimensions, dimension_count, "dimensions")?) };
            let named: Result<Vec<_>> = dimensions
                .iter()
                // SAFETY: as the caller says.
                .map(|dimension| Ok((unsafe { text(dimension.name, "a dimension's name") }?, dimension.value)))
                .collect();
            // SAFETY: as the caller says.
            let dtype = if dtype.is_null() { None } else { Some(unsafe { text(dtype, "dtype") }?) };
            let family: Family = family.parse()?;
            let dtype: Dtype = match dtype {
                None => family.default_dtype(),
                Some(name) => DtypeName::parse(name)?.name().parse()?,
            };
            prepare(runtime, &Problem::new(family, &named?, dtype)?)
        })
    }

    /// Bytes of scratch that a launch of the kernel needs; 0 for most, and for null.
    ///
    /// # Safety
    /// `kernel` is null or comes from a prepare.
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn kernel_sweep_scratch_bytes(kernel: *const Kernel) -> u64 {
        // SAFETY: as the caller says.
        unsafe { kernel.as_ref() }.map_or(0, |kernel| kernel.scratch_bytes().0)
    }

    /// Launches a kernel on a stream; -1 where that fails, else 0. With scratch of its own where `scratch` is null.
    ///
    /// # Safety
    /// `kernel` is null or comes from a prepare; `stream` is a stream of its context, or null for the default one; `inputs` is null or
    /// points to `input_count` tensors, `output` is null or points to one, and the shapes of all of them to as many extents as they
    /// say. What they lie in is there, and `scratch_bytes` of scratch, until the launch is done.
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn kernel_sweep_launch(
        kernel: *const Kernel,
        stream: *mut c_void,
        inputs: *const Given,
        input_count: usize,
        output: *const Given,
        scratch: *mut c_void,
        scratch_bytes: u64,
    ) -> c_int {
        let launched = || -> Result<c_int> {
            // SAFETY: as the caller says.
            let kernel = unsafe { kernel.as_ref() }.ok_or_else(|| Error::usage("kernel is a null pointer"))?;
            // SAFETY: as the caller says.
            let (given, output) = unsafe { (items(inputs, input_count, "inputs")?, output.as_ref()) };
            let output = output.ok_or_else(|| Error::usage("output is a null pointer"))?;
            if given.len() > MOST_TENSORS {
                return Err(Error::usage(format!("{input_count} inputs are more than any kernel has")));
            }
            // SAFETY: as the caller says.
            let output = unsafe { tensor(kernel, output, "output") }?;
            let mut inputs = [output; MOST_TENSORS];
            for (tensor_of, given) in inputs.iter_mut().zip(given) {
                // SAFETY: as the caller says.
                *tensor_of = unsafe { tensor(kernel, given, "an input") }?;
            }
            let inputs = &inputs[..given.len()];
            // SAFETY: as the caller says.
            let stream = unsafe { Stream::from_raw(stream) };
            if scratch.is_null() {
                kernel.launch(stream, inputs, &output)?;
            } else {
                let bytes = [scratch_bytes];
                let scratch = kernel.context().tensor(scratch.addr() as u64, Element::I8, &bytes)?;
                kernel.launch_in(stream, &scratch, inputs, &output)?;
            }
            Ok(0)
        };
        report(launched, -1)
    }

    /// # Safety
    /// Its shape is null or points to as many extents as it says.
    unsafe fn tensor<'a>(kernel: &Kernel, given: &Given, name: &str) -> Result<Tensor<'a>> {
        let element = match given.element {
            1 => Element::Bf16,
            2 => Element::F32,
            3 => Element::I8,
            4 => Element::I16,
            5 => Element::F16,
            6 => Element::Fp8,
            7 => Element::I64,
            other => return Err(Error::usage(format!("{name}: there is no type {other}"))),
        };
        // SAFETY: as the caller says.
        let shape = unsafe { items(given.shape, given.rank, "a shape") }?;
        kernel.context().tensor(given.data.addr() as u64, element, shape)
    }

    /// Gives a kernel back; null is fine.
    ///
    /// # Safety
    /// `kernel` is null or comes from a prepare, and is not used again, by a graph neither.
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn kernel_sweep_release(kernel: *mut Kernel) {
        if !kernel.is_null() {
            // SAFETY: it comes from `Box::into_raw` and is the caller's to give back.
            drop(unsafe { Box::from_raw(kernel) });
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::{kernel_sweep_error, knobs, report};
    use crate::error::Error;
    use std::ffi::CStr;

    #[test]
    fn what_is_copied_first_is_said() {
        let realigned = |word: &str| {
            let config = serde_json::json!({"block_sizes": [128, 256, 64], "mma": "wgmma", "realigned": word});
            knobs(config.as_object().unwrap()).realigned
        };
        assert_eq!(["a", "b", "ab", "c"].map(realigned), [1, 2, 3, 0]);
        assert_eq!(knobs(&serde_json::Map::new()).realigned, 0);
    }

    #[test]
    fn what_is_loaded_ahead_is_said() {
        let config = serde_json::json!({"block_sizes": [1, 128, 128], "mma": "wgmma", "prefetch": "queries"});
        assert_eq!(knobs(config.as_object().unwrap()).prefetch, 1);
        assert_eq!(knobs(&serde_json::Map::new()).prefetch, 0);
    }

    #[test]
    fn a_panic_is_an_error_of_the_call() {
        // SAFETY: the message of this thread, which nothing changes meanwhile.
        let error = || unsafe { CStr::from_ptr(kernel_sweep_error()) }.to_str().unwrap().to_owned();
        assert_eq!((report(|| Ok(3), -1), error()), (3, String::new()));
        assert_eq!(report(|| panic!("a fault"), -1), -1);
        assert!(error().contains("a fault of kernel_sweep's own"), "{}", error());
        assert_eq!((report(|| Err(Error::usage("wrong")), -1), error()), (-1, "wrong".to_owned()));
    }
}
