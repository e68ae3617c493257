//! Launching from Python: the native half of `kernel_sweep/ops.py`. Preparing happens at a shape's first call; the calls after it find
//! the kernel in a table, check their tensors and launch.

use crate::device::cuda::vouched_stream;
use crate::error::{Error, ErrorKind, Result};
use crate::heuristics::Heuristics;
use crate::model::{Bytes, Dtype, Family, Problem};
use crate::run::{Bundle, Element, Kernel, Runtime, Stream, Tensor};
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

/// Extents of a tensor, and dimensions of a problem, at most.
const MOST_EXTENTS: usize = 8;
/// Inputs of an operator at most.
const MOST_INPUTS: usize = 4;

/// Products whose weights come with scales, which follow them.
const SCALED: [Family; 3] = [Family::MatmulInt4Group, Family::MatmulNvfp4, Family::MatmulMxfp4];

/// A list on the stack, zero beyond its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Extents {
    extents: [u64; MOST_EXTENTS],
    rank: usize,
}

impl Extents {
    fn of(list: &[u64]) -> Self {
        let mut extents = Self::default();
        for extent in list {
            extents.push(*extent);
        }
        extents
    }

    /// Whatever goes beyond the most is left out: no operator takes so many.
    fn push(&mut self, extent: u64) {
        if let Some(place) = self.extents.get_mut(self.rank) {
            *place = extent;
            self.rank += 1;
        }
    }

    fn list(&self) -> &[u64] {
        &self.extents[..self.rank]
    }
}

/// A tensor of Python's.
#[derive(Clone, Copy, Debug)]
struct Given {
    address: u64,
    element: Element,
    shape: Extents,
}

/// What attention's queries see of the keys: those up to their own, and at most so many of them, where that is not 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Mask {
    causal: bool,
    window: u64,
}

/// What an operator computes, and its tensors as its kernels see them.
#[derive(Debug)]
struct Call {
    problem: [u64; MOST_EXTENTS],
    dimensions: usize,
    dtype: Dtype,
    inputs: [Extents; MOST_INPUTS],
    output: Extents,
    output_element: Element,
    /// The output's shape as Python is given it.
    output_shape: Extents,
}

impl Call {
    /// Of the inputs' shapes and types, where they fit each other, and what of attention's mask they do not tell.
    fn new(family: Family, inputs: &[Given], mask: Mask) -> Result<Self, String> {
        if mask != Mask::default() && family != Family::Attention {
            return Err(format!("{family} has no mask"));
        }
        let shapes: Vec<&[u64]> = inputs.iter().map(|input| input.shape.list()).collect();
        let element = inputs.first().map(|input| input.element);
        let dtype = match element {
            Some(Element::Bf16) => Dtype::Bf16,
            Some(Element::F16) => Dtype::F16,
            Some(Element::F32) => Dtype::F32,
            _ => return Err(format!("{family}: its first tensor must be bfloat16, float16 or float32")),
        };
        let wrong = |wanted: &str| Err(format!("{family}: {shapes:?} are no shapes of {wanted}"));
        let rows = |leading: &[u64]| leading.iter().fold(1u64, |rows, extent| rows.saturating_mul(*extent));
        let of = |problem: &[u64], flat: &[&[u64]], output: &[u64], shape: &[u64]| {
            let mut call = Self {
                problem: [0; MOST_EXTENTS],
                dimensions: problem.len(),
                dtype,
                inputs: [Extents::default(); MOST_INPUTS],
                output: Extents::of(output),
                output_element: inputs[0].element,
                output_shape: Extents::of(shape),
            };
            call.problem[..problem.len()].copy_from_slice(problem);
            call.inputs.iter_mut().zip(flat).for_each(|(input, flat)| *input = Extents::of(flat));
            call
        };
        match (family.dimensions(), &shapes[..]) {
            (["m", "n", "k"], [[leading @ .., k], [b_rows, n], scales @ [rows_of_scales, columns], others @ ..])
                if SCALED.contains(&family) =>
            {
                let is_right = match (family, others) {
                    (Family::MatmulNvfp4, [[1] | []]) | (Family::MatmulMxfp4 | Family::MatmulInt4Group, []) => true,
                    (Family::MatmulInt4Group, [zeros]) => zeros == scales,
                    _ => false,
                };
                if b_rows.checked_mul(2) != Some(*k) || columns != n || !is_right {
                    return wrong("A [..., k], B [k / 2, n], scales [k / group, n] and what else its weights have");
                }
                let m = rows(leading);
                let group = [128, 64, 32].into_iter().find(|group| k.div_ceil(*group) == *rows_of_scales);
                let mut problem = vec![m, *n, *k];
                if family == Family::MatmulInt4Group {
                    // One row is for all weights along k.
                    problem.extend([group.unwrap_or(u64::from(*rows_of_scales != 1)), others.len() as u64]);
                }
                let a = [m, *k];
                let flat: Vec<&[u64]> = [&a[..], shapes[1], scales].into_iter().chain(others.iter().copied()).collect();
                Ok(of(&problem, &flat, &[m, *n], &[leading, &[*n]].concat()))
            }
            (["m", "n", "k"], [[leading @ .., k], [b_rows, n]]) => {
                let per_row = if family.packs_two_weights_a_byte() { 2 } else { 1 };
                if b_rows.checked_mul(per_row) != Some(*k) {
                    return wrong(if per_row == 2 { "A [..., k] and B [k / 2, n]" } else { "A [..., k] and B [k, n]" });
                }
                let m = rows(leading);
                Ok(of(&[m, *n, *k], &[&[m, *k], &[*b_rows, *n]], &[m, *n], &[leading, &[*n]].concat()))
            }
            (
                ["batch", "heads", "q_seq", "kv_seq", "head_dim"],
                [q @ [batch, heads, q_seq, head_dim], keys, values],
            ) => match keys {
                [b, kv_heads, kv_seq, d]
                    if *kv_heads > 0
                        && [b, d] == [batch, head_dim]
                        && heads.is_multiple_of(*kv_heads)
                        && keys == values =>
                {
                    let problem =
                        [*batch, *heads, *q_seq, *kv_seq, *head_dim, *kv_heads, mask.causal.into(), mask.window];
                    Ok(of(&problem, &[q, keys, values], q, q))
                }
                _ => wrong("Q [batch, heads, q_seq, head_dim], K and V [batch, heads or a part, kv_seq, head_dim]"),
            },
            (["rows", "cols"], [whole @ [leading @ .., cols]]) => {
                let flat = [rows(leading), *cols];
                Ok(of(&flat, &[&flat], &flat, whole))
            }
            (["numel"], [x, y]) if x == y => {
                let flat = [rows(x)];
                Ok(of(&flat, &[&flat, &flat], &flat, x))
            }
            (["m", "n", "k"], _) => wrong("A [..., k] and B of two dimensions"),
            (["batch", ..], _) => wrong("Q, K and V of four dimensions each"),
            (["rows", "cols"], _) => wrong("X [..., cols]"),
            (["numel"], _) => wrong("X and Y, which are the same"),
            _ => Err(format!("{family} has no operator")),
        }
    }

    fn problem(&self, family: Family) -> Result<Problem> {
        let extents = self.problem[..self.dimensions].iter();
        let named: Result<Vec<_>> = family
            .all_dimensions()
            .zip(extents)
            .map(|(name, extent)| Ok((name, i64::try_from(*extent).map_err(Error::usage)?)))
            .collect();
        Problem::new(family, &named?, self.dtype)
    }
}

/// What tells kernels of one GPU apart: the operator, the problem, and whether it has scratch of its own.
type Name = (Family, Dtype, [u64; MOST_EXTENTS], bool);

/// A GPU with the kernels prepared on it.
struct Device {
    runtime: Runtime,
    kernels: RwLock<HashMap<Name, Arc<Kernel>>>,
}

/// What answers in place of the built-in documents.
#[derive(Clone)]
enum Served {
    Document(Arc<Heuristics>),
    Bundle(PathBuf),
}

/// The GPUs in use.
struct Devices {
    served: Option<Served>,
    open: Vec<Arc<Device>>,
    /// What served before something else was used. Graphs may hold its kernels, so it stays.
    retired: Vec<Arc<Device>>,
}

static DEVICES: RwLock<Devices> = RwLock::new(Devices { served: None, open: Vec::new(), retired: Vec::new() });

fn device(ordinal: u32) -> Result<Arc<Device>> {
    let find =
        |devices: &Devices| devices.open.iter().find(|device| device.runtime.context().ordinal() == ordinal).cloned();
    if let Some(found) = find(&DEVICES.read().unwrap_or_else(PoisonError::into_inner)) {
        return Ok(found);
    }
    let mut devices = DEVICES.write().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = find(&devices) {
        return Ok(found);
    }
    let runtime = Runtime::open(ordinal)?;
    let runtime = match &devices.served {
        None => runtime,
        Some(Served::Document(document)) => runtime.with_document(Arc::clone(document)),
        Some(Served::Bundle(path)) => runtime.with_bundle(Bundle::open(path)?)?,
    };
    let device = Arc::new(Device { runtime, kernels: RwLock::default() });
    devices.open.push(Arc::clone(&device));
    Ok(device)
}

impl Device {
    /// The kernel of a call, prepared now or before. Python goes on while one is prepared.
    fn kernel(
        &self,
        py: Python<'_>,
        family: Family,
        call: &Call,
        owns_scratch: bool,
        stream: Stream,
    ) -> Result<Arc<Kernel>> {
        let name = (family, call.dtype, call.problem, owns_scratch);
        if let Some(kernel) = self.kernels.read().unwrap_or_else(PoisonError::into_inner).get(&name) {
            return Ok(Arc::clone(kernel));
        }
        let problem = call.problem(family)?;
        if self.runtime.context().is_capturing(stream)? {
            return Err(Error::failure(format!(
                "{problem} is new, and nothing can be prepared while a graph is captured: call it once before"
            )));
        }
        let kernel = py.detach(|| {
            if owns_scratch { self.runtime.prepare(&problem) } else { self.runtime.prepare_without_scratch(&problem) }
        })?;
        let mut kernels = self.kernels.write().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::clone(kernels.entry(name).or_insert_with(|| Arc::new(kernel))))
    }
}

/// A mistake in the arguments is a ValueError; what the machine does not do is a RuntimeError.
#[allow(clippy::needless_pass_by_value)] // it is what errors are mapped by
fn raised(error: Error) -> PyErr {
    match error.kind() {
        ErrorKind::Usage => PyValueError::new_err(error.to_string()),
        _ => PyRuntimeError::new_err(error.to_string()),
    }
}

/// Takes another document, or a bundle, than the one built in for each GPU; None for that again.
#[pyfunction]
#[pyo3(signature = (path))]
pub(super) fn use_file(path: Option<PathBuf>) -> PyResult<()> {
    let served = match path {
        None => None,
        Some(path) => Some(read(&path)?),
    };
    let mut devices = DEVICES.write().unwrap_or_else(PoisonError::into_inner);
    devices.served = served;
    let open = std::mem::take(&mut devices.open);
    devices.retired.extend(open);
    Ok(())
}

fn read(path: &Path) -> PyResult<Served> {
    // A file that cannot be opened is an OSError here, as it is everywhere in Python.
    std::fs::File::open(path)
        .map_err(|error| std::io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    if Bundle::is_one(path) {
        Bundle::open(path).map_err(raised)?;
        return Ok(Served::Bundle(std::path::absolute(path)?));
    }
    Ok(Served::Document(Arc::new(Heuristics::load(path).map_err(raised)?)))
}

/// Launches a family's kernel on tensors of torch's, on a stream by its handle. `empty` makes bytes of scratch where some are needed.
#[pyfunction]
#[pyo3(signature = (family, inputs, out, device, stream, empty, causal = false, window = 0))]
#[allow(clippy::too_many_arguments)] // Python's own
pub(super) fn launch_torch(
    family: &str,
    inputs: &Bound<'_, PyTuple>,
    out: &Bound<'_, PyAny>,
    device: u32,
    stream: usize,
    empty: &Bound<'_, PyAny>,
    causal: bool,
    window: u64,
) -> PyResult<()> {
    let launch = Launch::new(family, inputs, out, of_torch, Mask { causal, window })?;
    let device = self::device(device).map_err(raised)?;
    let stream = vouched_stream(stream);
    let kernel = device.kernel(inputs.py(), launch.family, &launch.call, false, stream).map_err(raised)?;
    let Bytes(scratch_bytes) = kernel.scratch_bytes();
    let scratch = match scratch_bytes {
        0 => None,
        bytes => Some(empty.call1((bytes,))?),
    };
    let scratch = scratch.as_ref().map(of_torch).transpose()?;
    launch.run(&device, &kernel, stream, scratch.as_ref())
}

/// The same on objects with `__cuda_array_interface__`, whose GPU the driver tells.
#[pyfunction]
#[pyo3(signature = (family, inputs, out, stream, causal = false, window = 0))]
pub(super) fn launch_arrays(
    family: &str,
    inputs: &Bound<'_, PyTuple>,
    out: &Bound<'_, PyAny>,
    stream: usize,
    causal: bool,
    window: u64,
) -> PyResult<()> {
    let launch = Launch::new(family, inputs, out, of_array, Mask { causal, window })?;
    if is_read_only(out)? {
        return Err(PyValueError::new_err("out is read-only"));
    }
    let first = device(0).map_err(raised)?;
    let place =
        first.runtime.context().tensor(launch.given[0].address, launch.given[0].element, &[]).map_err(raised)?;
    let device = device(place.device()).map_err(raised)?;
    let stream = vouched_stream(stream);
    let kernel = device.kernel(inputs.py(), launch.family, &launch.call, true, stream).map_err(raised)?;
    launch.run(&device, &kernel, stream, None)
}

/// A launch's tensors, which fit each other.
struct Launch {
    family: Family,
    call: Call,
    given: [Given; MOST_INPUTS],
    inputs: usize,
    output: Given,
}

impl Launch {
    fn new(
        family: &str,
        inputs: &Bound<'_, PyTuple>,
        out: &Bound<'_, PyAny>,
        of: fn(&Bound<'_, PyAny>) -> PyResult<Given>,
        mask: Mask,
    ) -> PyResult<Self> {
        let family: Family = family.parse().map_err(raised)?;
        let output = of(out)?;
        let mut given = [output; MOST_INPUTS];
        let count = inputs.len();
        if count == 0 || count > MOST_INPUTS {
            return Err(PyTypeError::new_err(format!("{count} inputs are none or more than any operator's")));
        }
        for (place, input) in given.iter_mut().zip(inputs.iter_borrowed()) {
            *place = of(&input)?;
        }
        let call = Call::new(family, &given[..count], mask).map_err(PyValueError::new_err)?;
        if output.shape != call.output_shape || output.element != call.output_element {
            let (wanted, found) = (call.output_shape, output.shape);
            let element = call.output_element;
            return Err(PyValueError::new_err(format!(
                "out must be {element:?} {:?}, and is {:?} {:?}",
                wanted.list(),
                output.element,
                found.list()
            )));
        }
        Ok(Self { family, call, given, inputs: count, output })
    }

    fn run(&self, device: &Device, kernel: &Kernel, stream: Stream, scratch: Option<&Given>) -> PyResult<()> {
        let launched = || -> Result<()> {
            let context = device.runtime.context();
            let output = context.tensor(self.output.address, self.output.element, self.call.output.list())?;
            let mut inputs = [output; MOST_INPUTS];
            for ((tensor, given), flat) in inputs.iter_mut().zip(&self.given).zip(&self.call.inputs).take(self.inputs) {
                *tensor = context.tensor(given.address, given.element, flat.list())?;
            }
            let inputs: &[Tensor<'_>] = &inputs[..self.inputs];
            match scratch {
                None => kernel.launch(stream, inputs, &output),
                Some(scratch) => {
                    let scratch = context.tensor(scratch.address, scratch.element, scratch.shape.list())?;
                    kernel.launch_in(stream, &scratch, inputs, &output)
                }
            }
        };
        launched().map_err(raised)
    }
}

/// A tensor of torch's, by its own methods.
fn of_torch(tensor: &Bound<'_, PyAny>) -> PyResult<Given> {
    let py = tensor.py();
    if !tensor.getattr(intern!(py, "is_cuda"))?.extract::<bool>()? {
        let place = tensor.getattr(intern!(py, "device"))?.str()?;
        return Err(PyValueError::new_err(format!("a tensor is on {place}, and kernels run on a CUDA GPU")));
    }
    let shape = extents(&tensor.getattr(intern!(py, "shape"))?)?;
    if !tensor.call_method0(intern!(py, "is_contiguous"))?.extract::<bool>()? {
        return Err(PyValueError::new_err(format!(
            "a tensor of shape {:?} is not contiguous: give its .contiguous()",
            shape.list()
        )));
    }
    let address = tensor.call_method0(intern!(py, "data_ptr"))?.extract()?;
    let dtype = tensor.getattr(intern!(py, "dtype"))?.str()?;
    let element = match dtype.to_cow()?.as_ref() {
        "torch.bfloat16" => Element::Bf16,
        "torch.float16" => Element::F16,
        "torch.float32" => Element::F32,
        "torch.int8" | "torch.uint8" => Element::I8,
        "torch.int16" => Element::I16,
        other => return Err(PyValueError::new_err(format!("no kernel takes a tensor of {other}"))),
    };
    Ok(Given { address, element, shape })
}

/// An object with `__cuda_array_interface__`.
fn of_array(object: &Bound<'_, PyAny>) -> PyResult<Given> {
    let interface = interface(object)?;
    let get = |name: &str| -> PyResult<Option<Bound<'_, PyAny>>> {
        Ok(interface.get_item(name)?.filter(|value| !value.is_none()))
    };
    let need =
        |name: &str| get(name)?.ok_or_else(|| PyValueError::new_err(format!("__cuda_array_interface__ has no {name}")));
    let shape = extents(&need("shape")?)?;
    let (address, _): (u64, bool) = need("data")?.extract()?;
    let typestr: String = need("typestr")?.extract()?;
    let element = match typestr.as_str() {
        // NumPy has no name for bfloat16: two bytes of no type stand for it.
        "<V2" | "|V2" => Element::Bf16,
        "<f2" => Element::F16,
        "<f4" => Element::F32,
        "|i1" | "|u1" => Element::I8,
        "<i2" => Element::I16,
        other => return Err(PyValueError::new_err(format!("no kernel takes an array of {other}"))),
    };
    if let Some(strides) = get("strides")? {
        let mut wanted = element.size_bytes() as i64;
        let strides: Vec<i64> = strides.extract()?;
        for (stride, extent) in strides.iter().rev().zip(shape.list().iter().rev()) {
            if *extent > 1 && *stride != wanted {
                return Err(PyValueError::new_err(format!("an array of shape {:?} is not contiguous", shape.list())));
            }
            wanted *= *extent as i64;
        }
    }
    Ok(Given { address, element, shape })
}

fn interface<'py>(object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyDict>> {
    let py = object.py();
    let interface = object
        .getattr_opt(intern!(py, "__cuda_array_interface__"))?
        .ok_or_else(|| PyTypeError::new_err(format!("{} has no __cuda_array_interface__", object.get_type())))?;
    Ok(interface.cast_into::<PyDict>()?)
}

fn is_read_only(object: &Bound<'_, PyAny>) -> PyResult<bool> {
    let data = interface(object)?.get_item("data")?;
    data.map_or(Ok(false), |data| data.extract::<(u64, bool)>().map(|(_, is_read_only)| is_read_only))
}

fn extents(shape: &Bound<'_, PyAny>) -> PyResult<Extents> {
    let shape = shape.cast::<PyTuple>()?;
    if shape.len() > MOST_EXTENTS {
        return Err(PyValueError::new_err(format!("a tensor of {} dimensions is none of a kernel's", shape.len())));
    }
    let mut extents = Extents::default();
    for extent in shape.iter_borrowed() {
        extents.push(extent.extract()?);
    }
    Ok(extents)
}
