//! Launching from Python: the native half of `kernel_sweep/ops.py`. Preparing happens at a shape's first call; the calls after it find
//! the kernel in a table, check their tensors and launch.

use super::call::{Call, Codes, Extents, Given, MOST_EXTENTS, MOST_INPUTS, Mask, Part, times};
use crate::device::cuda::{device_of, vouched_stream};
use crate::error::{Error, ErrorKind, Result};
use crate::heuristics::Heuristics;
use crate::model::{Bytes, Dtype, Family};
use crate::run::{Bundle, Element, Kernel, Recent, Runtime, Stream, Tensor};
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

/// What tells kernels of one GPU apart: the operator, the problem, and whether it has scratch of its own.
type Name = (Family, Dtype, [u64; MOST_EXTENTS], bool);

/// Kernels that are kept of a GPU: more shapes than a model has, at a few kilobytes of the host's memory each.
const MOST_KERNELS: usize = 1024;
/// What scratch of their own the kernels that are kept may have together, in bytes. Those of torch's tensors have none.
const MOST_SCRATCH: u64 = 1 << 30;

/// A GPU with the kernels prepared on it. Those used longest ago go where there are too many; their code stays loaded, since a graph
/// may hold launches of them.
struct Device {
    runtime: Runtime,
    kernels: Recent<Name, Kernel>,
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
    /// What served before something else was used. Graphs may hold launches of its kernels, so their code stays.
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
    let device = Arc::new(Device { runtime, kernels: Recent::new(MOST_KERNELS, MOST_SCRATCH) });
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
        if let Some(kernel) = self.kernels.get(&name) {
            return Ok(kernel);
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
        let scratch_bytes = if owns_scratch { kernel.scratch_bytes().0 } else { 0 };
        Ok(self.kernels.put(name, kernel, scratch_bytes))
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
    for device in &open {
        device.kernels.clear();
    }
    devices.retired.extend(open);
    Ok(())
}

/// Gives back all that was prepared: kernels, their scratch and their code.
#[pyfunction]
pub(super) fn forget(py: Python<'_>) {
    py.detach(|| {
        let mut devices = DEVICES.write().unwrap_or_else(PoisonError::into_inner);
        let retired = std::mem::take(&mut devices.retired);
        let open = devices.open.clone();
        drop(devices);
        for device in &open {
            device.kernels.clear();
            device.runtime.forget();
        }
        drop(retired); // what it has loaded goes with it
    });
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

/// Launches a family's kernel on tensors of torch's, on a stream by its handle, and returns the output: a new tensor of the first
/// input's type where none is given. `scratch` makes bytes beside a tensor where some are needed.
#[pyfunction]
#[pyo3(signature = (family, inputs, out, device, stream, scratch, causal = false, window = 0))]
#[allow(clippy::too_many_arguments)] // Python's own
pub(super) fn launch_torch<'py>(
    family: &str,
    inputs: &Bound<'py, PyTuple>,
    out: Option<Bound<'py, PyAny>>,
    device: u32,
    stream: usize,
    scratch: &Bound<'py, PyAny>,
    causal: bool,
    window: u64,
) -> PyResult<Bound<'py, PyAny>> {
    let py = inputs.py();
    let given = out.as_ref().map(|out| of_torch(out, Part::OUTPUT)).transpose()?;
    let mut launch = Launch::new(family, inputs, given, of_torch, Mask { causal, window })?;
    let out = if let Some(out) = out {
        out
    } else {
        let shape = PyTuple::new(py, launch.output.shape.list())?;
        let out = inputs.get_item(0)?.call_method1(intern!(py, "new_empty"), (shape,))?;
        launch.output.address = address_of(&out)?;
        out
    };
    let device = self::device(device).map_err(raised)?;
    let stream = vouched_stream(stream);
    let kernel = device.kernel(py, launch.family, &launch.call, false, stream).map_err(raised)?;
    let Bytes(scratch_bytes) = kernel.scratch_bytes();
    let scratch = match scratch_bytes {
        0 => None,
        bytes => Some(scratch.call1((inputs.get_item(0)?, bytes))?),
    };
    let scratch_given = scratch.as_ref().map(|scratch| of_torch(scratch, Part::OUTPUT)).transpose()?;
    launch.run(&device, &kernel, stream, scratch_given.as_ref())?;
    Ok(out)
}

/// The same on objects with `__cuda_array_interface__`. The driver tells which GPU they are on, and no other is opened.
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
    let launch = Launch::new(family, inputs, Some(of_array(out, Part::OUTPUT)?), of_array, Mask { causal, window })?;
    if is_read_only(out)? {
        return Err(PyValueError::new_err("out is read-only"));
    }
    let device = device(device_of(launch.given[0].address).map_err(raised)?).map_err(raised)?;
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
    /// Of the output that is given, or one that has yet to be made, without an address.
    fn new(
        family: &str,
        inputs: &Bound<'_, PyTuple>,
        output: Option<Given>,
        of: fn(&Bound<'_, PyAny>, Part) -> PyResult<Given>,
        mask: Mask,
    ) -> PyResult<Self> {
        let family: Family = family.parse().map_err(raised)?;
        let count = inputs.len();
        if count == 0 || count > MOST_INPUTS {
            return Err(PyTypeError::new_err(format!("{count} inputs are none or more than any operator's")));
        }
        let mut given = [Given { address: 0, element: Element::Bf16, shape: Extents::default() }; MOST_INPUTS];
        for (index, (place, input)) in given.iter_mut().zip(inputs.iter_borrowed()).enumerate() {
            *place = of(&input, Part::of(family, index))?;
        }
        let result = output.map_or(given[0].element, |output| output.element);
        let call = Call::new(family, &given[..count], result, mask).map_err(PyValueError::new_err)?;
        let wanted = Given { address: 0, element: call.output_element, shape: call.output_shape };
        let output = output.unwrap_or(wanted);
        if output.shape != wanted.shape || output.element != wanted.element {
            return Err(PyValueError::new_err(format!(
                "out must be {:?} {:?}, and is {:?} {:?}",
                wanted.element,
                wanted.shape.list(),
                output.element,
                output.shape.list()
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
fn of_torch(tensor: &Bound<'_, PyAny>, part: Part) -> PyResult<Given> {
    let py = tensor.py();
    if !tensor.getattr(intern!(py, "is_cuda"))?.extract::<bool>()? {
        let place = tensor.getattr(intern!(py, "device"))?.str()?;
        return Err(PyValueError::new_err(format!("a tensor is on {place}, and kernels run on a CUDA GPU")));
    }
    let shape = extents(&tensor.getattr(intern!(py, "shape"))?)?;
    let is_known_to_lie_right =
        !part.is_by_columns && tensor.call_method0(intern!(py, "is_contiguous"))?.extract::<bool>()?;
    if !is_known_to_lie_right {
        let strides: Vec<i64> = tensor.call_method0(intern!(py, "stride"))?.extract()?;
        part.check_order(shape.list(), &strides).map_err(PyValueError::new_err)?;
    }
    let address = address_of(tensor)?;
    let dtype = tensor.getattr(intern!(py, "dtype"))?;
    let element = match (name_of_type(&dtype)?, part.codes) {
        ("bfloat16", _) => Element::Bf16,
        ("float16", _) => Element::F16,
        ("float32", _) => Element::F32,
        ("int8" | "uint8", _) | ("float4_e2m1fn_x2", Codes::E2m1) => Element::I8,
        ("int16", _) => Element::I16,
        ("int64", _) => Element::I64,
        ("float8_e4m3fn", Codes::E4m3) => Element::Fp8,
        ("float8_e4m3fn", Codes::E4m3Scales) | ("float8_e8m0fnu", Codes::E8m0Scales) => Element::U8,
        _ => return Err(PyValueError::new_err(format!("no kernel takes a tensor of {dtype} there"))),
    };
    Ok(Given { address, element, shape })
}

fn address_of(tensor: &Bound<'_, PyAny>) -> PyResult<u64> {
    tensor.call_method0(intern!(tensor.py(), "data_ptr"))?.extract()
}

/// The name of a type of torch's, which are objects of their own; empty where no kernel takes it.
fn name_of_type(dtype: &Bound<'_, PyAny>) -> PyResult<&'static str> {
    const NAMES: [&str; 10] = [
        "bfloat16",
        "float16",
        "float32",
        "int8",
        "uint8",
        "int16",
        "int64",
        "float8_e4m3fn",
        "float8_e8m0fnu",
        "float4_e2m1fn_x2",
    ];
    static TYPES: PyOnceLock<Vec<(Py<PyAny>, &'static str)>> = PyOnceLock::new();
    let types = TYPES.get_or_try_init(dtype.py(), || -> PyResult<_> {
        let torch = dtype.py().import(intern!(dtype.py(), "torch"))?;
        let known = NAMES.into_iter().map(|name| Ok(torch.getattr_opt(name)?.map(|known| (known.unbind(), name))));
        Ok(known.collect::<PyResult<Vec<_>>>()?.into_iter().flatten().collect())
    })?;
    Ok(types.iter().find(|(known, _)| known.is(dtype)).map_or("", |(_, name)| name))
}

/// An object with `__cuda_array_interface__`.
fn of_array(object: &Bound<'_, PyAny>, part: Part) -> PyResult<Given> {
    let interface = interface(object)?;
    let get = |name: &str| -> PyResult<Option<Bound<'_, PyAny>>> {
        Ok(interface.get_item(name)?.filter(|value| !value.is_none()))
    };
    let need =
        |name: &str| get(name)?.ok_or_else(|| PyValueError::new_err(format!("__cuda_array_interface__ has no {name}")));
    let shape = extents(&need("shape")?)?;
    let (address, _): (u64, bool) = need("data")?.extract()?;
    let typestr: String = need("typestr")?.extract()?;
    let element = match (typestr.as_str(), part.codes) {
        // NumPy has no name for bfloat16: two bytes of no type stand for it. For eight-bit floats bytes do.
        ("<V2" | "|V2", _) => Element::Bf16,
        ("<f2", _) => Element::F16,
        ("<f4", _) => Element::F32,
        ("|i1" | "|u1", Codes::E4m3) => Element::Fp8,
        ("|i1" | "|u1", _) => Element::I8,
        ("<i2", _) => Element::I16,
        ("<i8", _) => Element::I64,
        (other, _) => return Err(PyValueError::new_err(format!("no kernel takes an array of {other}"))),
    };
    let extents = shape.list();
    let strides: Vec<i64> = match get("strides")? {
        Some(strides) => {
            let bytes: Vec<i64> = strides.extract()?;
            let size = element.size_bytes() as i64;
            // A stride that is no whole number of elements is none that any order has.
            bytes.iter().map(|stride| if stride % size == 0 { stride / size } else { -1 }).collect()
        }
        // Row-major, by the protocol.
        None => (1..=extents.len()).map(|axis| extents[axis..].iter().copied().fold(1, times)).collect(),
    };
    part.check_order(extents, &strides).map_err(PyValueError::new_err)?;
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
