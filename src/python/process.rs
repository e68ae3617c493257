//! The tool, and the measuring process of what Python calls: the native half of `kernel_sweep/_process.py`.

use crate::cli::{self, Cli};
use crate::device::{Array, Called, Callee, Fault, Where};
use crate::families::Call;
use crate::model::Config;
use crate::process;
use crate::worker;
use clap::Parser;
use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;
use pyo3::types::PyList;
use std::fs::{File, OpenOptions};
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};

/// Runs the tool with these arguments, the program's name first, and returns its exit code. `interpreter` runs what is Python's.
#[pyfunction]
#[allow(clippy::needless_pass_by_value)] // arguments come out of Python as values
pub(super) fn sweep(py: Python<'_>, arguments: Vec<String>, interpreter: PathBuf) -> u8 {
    process::use_python(&interpreter);
    py.detach(|| {
        let arguments = match Cli::try_parse_from(&arguments) {
            Ok(arguments) => arguments,
            Err(told) => {
                let _ = told.print(); // nobody listens: the code says the same
                return told.exit_code() as u8;
            }
        };
        let outcome = process::caught("sweep", || cli::run(arguments));
        if let Err(error) = &outcome {
            let _ = writeln!(std::io::stderr(), "error: {error}");
        }
        cli::exit_code(&outcome)
    })
}

/// Answers the measuring process's requests, which come from one file and are answered on another, until they end. `callee` is
/// what builds and calls.
#[pyfunction]
#[allow(clippy::needless_pass_by_value)]
pub(super) fn measure(py: Python<'_>, callee: Py<PyAny>, input: PathBuf, output: PathBuf) -> PyResult<()> {
    let mut input = BufReader::new(File::open(&input)?);
    let mut output = OpenOptions::new().write(true).open(&output)?;
    // The device is this thread's, and so is all that it holds.
    Ok(py.detach(|| worker::serve(&mut input, &mut output, Some(Box::new(PythonCallee(callee)))))?)
}

/// An object of Python as what is called.
struct PythonCallee(Py<PyAny>);

/// The most of a message that is kept.
const MOST_LETTERS: usize = 400;

/// What Python raised, in one line.
fn told(py: Python<'_>, error: &PyErr) -> String {
    let kind = error.get_type(py).name().map_or_else(|_| "an exception".to_owned(), |name| name.to_string());
    let text = error.value(py).to_string();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = lines.collect::<Vec<_>>().join(" ");
    format!("{kind}: {}", line.chars().take(MOST_LETTERS).collect::<String>())
}

/// Memory that is not to be had says nothing of a kernel. Torch has an error of its own for a GPU's.
fn is_short_of_memory(py: Python<'_>, error: &PyErr) -> bool {
    let of_torch = error.get_type(py).name().is_ok_and(|name| name == "OutOfMemoryError");
    of_torch || error.is_instance_of::<PyMemoryError>(py)
}

type Given = (u64, &'static str, Vec<u64>);

fn given(arrays: &[Array]) -> Vec<Given> {
    arrays.iter().map(|array| (array.address, array.element.name(), array.shape.clone())).collect()
}

impl PythonCallee {
    fn ask<T>(
        &self,
        refused: fn(String) -> Fault,
        ask: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<T>,
    ) -> Result<T, Fault> {
        Python::attach(|py| {
            ask(self.0.bind(py)).map_err(|error| {
                let text = told(py, &error);
                if is_short_of_memory(py, &error) { Fault::Trouble(text) } else { refused(text) }
            })
        })
    }
}

impl Callee for PythonCallee {
    fn open(&self, place: Where) -> Result<(), Fault> {
        self.ask(Fault::Trouble, |callee| match place {
            Where::Host => callee.call_method1("open", (py_none(callee), 0)).map(drop),
            Where::Cuda { ordinal, stream } => callee.call_method1("open", (ordinal, stream)).map(drop),
        })
    }

    fn prepare(&self, call: &Call) -> Result<(), Fault> {
        self.ask(Fault::Refused, |callee| {
            callee
                .call_method1("prepare", (call.callable.name.as_str(), call.dims.clone(), call.dtype.as_str()))
                .map(drop)
        })
    }

    fn reference(&self, inputs: &[Array], outputs: &[Array]) -> Result<(), Fault> {
        let refused = |text| Fault::Refused(format!("the reference raised {text}"));
        self.ask(refused, |callee| callee.call_method1("reference", (given(inputs), given(outputs))).map(drop))
    }

    fn build(&self, config: &Config, made: Option<&Path>) -> Result<(), Fault> {
        let refused = |text| Fault::Unbuilt(format!("build raised {text}"));
        self.ask(refused, |callee| callee.call_method1("build", (config.to_string(), made)).map(drop))
    }

    fn call(&self, inputs: &[Array], outputs: &[Array], called: Called) -> Result<(), Fault> {
        let refused = |text| Fault::Unbuilt(format!("the callable raised {text}"));
        let verifies = called == Called::ToVerify;
        self.ask(refused, |callee| callee.call_method1("call", (given(inputs), given(outputs), verifies)).map(drop))
    }

    fn poison_returned(&self, byte: u8) -> Result<(), Fault> {
        self.ask(Fault::Refused, |callee| callee.call_method1("poison_returned", (byte,)).map(drop))
    }

    fn returned(&self) -> Result<Vec<(u64, u64)>, Fault> {
        self.ask(Fault::Refused, |callee| callee.call_method0("returned")?.cast_into::<PyList>()?.extract())
    }
}

fn py_none<'py>(of: &Bound<'py, PyAny>) -> Bound<'py, PyAny> {
    of.py().None().into_bound(of.py())
}
