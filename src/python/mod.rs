//! The Python module's native half. What it offers is documented in `kernel_sweep/__init__.pyi`, beside its types.

#[cfg(feature = "run")]
mod call;
#[cfg(feature = "run")]
mod ops;
#[cfg(feature = "harness")]
mod process;

use crate::heuristics::{self, AnswerRecord, Query, Signature, Tensor, builtin_names};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyIterator, PyList, PyString};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::PathBuf;

impl From<crate::error::Error> for PyErr {
    fn from(error: crate::error::Error) -> Self {
        PyValueError::new_err(error.to_string())
    }
}

#[pymodule]
mod _native {
    #[cfg(feature = "run")]
    #[pymodule_export]
    use super::ops::{forget, launch_arrays, launch_torch, use_file};
    #[cfg(feature = "harness")]
    #[pymodule_export]
    use super::process::{measure, sweep};
    #[pymodule_export]
    use super::{Answer, Heuristics, builtins};
    #[pymodule_export]
    #[allow(non_upper_case_globals)]
    const __version__: &str = env!("CARGO_PKG_VERSION");
}

/// The names of the GPUs whose document is built in.
#[pyfunction]
fn builtins() -> Vec<&'static str> {
    builtin_names().collect()
}

/// A document of observed heuristics, ready to be asked.
#[pyclass(frozen, module = "kernel_sweep")]
struct Heuristics(heuristics::Heuristics);

#[pymethods]
#[allow(clippy::needless_pass_by_value)] // arguments come out of Python as values
impl Heuristics {
    /// Loads a document from a file.
    #[staticmethod]
    #[pyo3(signature = (path, *, max_configs=None, disabled_classes=Vec::new(), disabled_models=false, disabled=false))]
    fn load(
        path: PathBuf,
        max_configs: Option<usize>,
        disabled_classes: Vec<String>,
        disabled_models: bool,
        disabled: bool,
    ) -> PyResult<Self> {
        // A file that cannot be opened is an OSError here, as it is everywhere in Python.
        std::fs::File::open(&path)
            .map_err(|error| std::io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        Ok(Self::restricted(
            heuristics::Heuristics::load(&path)?,
            max_configs,
            disabled_classes,
            disabled_models,
            disabled,
        ))
    }

    /// Loads a document from its JSON text.
    #[staticmethod]
    #[pyo3(signature = (json, *, max_configs=None, disabled_classes=Vec::new(), disabled_models=false, disabled=false))]
    fn loads(
        json: Text,
        max_configs: Option<usize>,
        disabled_classes: Vec<String>,
        disabled_models: bool,
        disabled: bool,
    ) -> PyResult<Self> {
        let loaded = match &json {
            Text::Str(text) => heuristics::Heuristics::from_bytes(text.as_bytes()),
            Text::Bytes(bytes) => heuristics::Heuristics::from_bytes(bytes),
        };
        Ok(Self::restricted(loaded?, max_configs, disabled_classes, disabled_models, disabled))
    }

    /// Loads the document built in for a GPU, by its short name or the driver's name for the device.
    #[staticmethod]
    #[pyo3(signature = (gpu, *, max_configs=None, disabled_classes=Vec::new(), disabled_models=false, disabled=false))]
    fn builtin(
        gpu: &str,
        max_configs: Option<usize>,
        disabled_classes: Vec<String>,
        disabled_models: bool,
        disabled: bool,
    ) -> PyResult<Self> {
        Ok(Self::restricted(
            heuristics::Heuristics::builtin(gpu)?,
            max_configs,
            disabled_classes,
            disabled_models,
            disabled,
        ))
    }

    /// The configs for a family at these dimensions.
    #[pyo3(signature = (family, *, dtype=None, **dimensions))]
    fn lookup(
        &self,
        py: Python<'_>,
        family: &str,
        dtype: Option<&Bound<'_, PyAny>>,
        dimensions: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Answer> {
        self.ask(family, dtype, dimensions, |query| self.answer(py, Some(query)))
    }

    /// Why a family is answered so at these dimensions.
    #[pyo3(signature = (family, *, dtype=None, **dimensions))]
    fn explain<'py>(
        &self,
        py: Python<'py>,
        family: &str,
        dtype: Option<&Bound<'py, PyAny>>,
        dimensions: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.ask(family, dtype, dimensions, |query| {
            let record = serde_json::to_value(self.0.explained(query, true)).map_err(crate::error::Error::from)?;
            object(py, &record)
        })
    }

    /// The configs for a kernel with these arguments.
    #[pyo3(signature = (tensors, family=None, *, traits=Vec::new(), block_rank=0, has_reduction=false, has_split_k=false, kernel_source=None))]
    #[allow(clippy::too_many_arguments)] // they are keywords in Python
    fn lookup_tensors(
        &self,
        py: Python<'_>,
        tensors: &Bound<'_, PyAny>,
        family: Option<String>,
        traits: Vec<String>,
        block_rank: u32,
        has_reduction: bool,
        has_split_k: bool,
        kernel_source: Option<String>,
    ) -> PyResult<Answer> {
        let args = tensors.try_iter()?.map(|tensor| signature_of(&tensor?)).collect::<PyResult<_>>()?;
        let signature =
            Signature { kernel_class: family, args, traits, block_rank, has_reduction, has_split_k, kernel_source };
        self.answer(py, self.0.query_of(&signature)?.as_ref())
    }

    /// The classes that the document holds rules, fallbacks or a model for.
    #[getter]
    fn classes(&self) -> Vec<&str> {
        self.0.classes().collect()
    }

    fn __repr__(&self) -> String {
        format!("Heuristics(classes=[{}])", self.classes().join(", "))
    }
}

impl Heuristics {
    fn restricted(
        heuristics: heuristics::Heuristics,
        max_configs: Option<usize>,
        disabled_classes: Vec<String>,
        disabled_models: bool,
        disabled: bool,
    ) -> Self {
        let disabled_classes = disabled_classes.into_iter().collect();
        Self(heuristics.with_options(&heuristics::Options { disabled, disabled_classes, disabled_models, max_configs }))
    }

    /// Puts the question for a family at named dimensions.
    fn ask<T>(
        &self,
        family: &str,
        dtype: Option<&Bound<'_, PyAny>>,
        dimensions: Option<&Bound<'_, PyDict>>,
        answer: impl FnOnce(&Query<'_>) -> PyResult<T>,
    ) -> PyResult<T> {
        let named: Vec<(String, i64)> = dimensions
            .into_iter()
            .flatten()
            .map(|(name, value)| Ok((name.extract()?, value.extract()?)))
            .collect::<PyResult<_>>()?;
        let named: Vec<_> = named.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        let name = dtype.map(|dtype| Ok::<_, PyErr>(dtype.str()?.to_cow()?.into_owned())).transpose()?;
        let dtype = self.0.dtype(family, name.as_deref())?;
        answer(&self.0.query(family, &named, dtype)?)
    }

    fn answer(&self, py: Python<'_>, query: Option<&Query<'_>>) -> PyResult<Answer> {
        let answer = query.map(|query| self.0.lookup(query));
        let record = AnswerRecord::new(query, answer);
        let configs = record.templates.iter().map(|config| dict(py, config)).collect::<PyResult<Vec<_>>>()?;
        let evidence = answer.and_then(heuristics::Answer::evidence).map(|evidence| dict(py, evidence)).transpose()?;
        Ok(Answer {
            configs: PyList::new(py, configs)?.unbind(),
            source: record.source,
            family: record.kernel_class.map(str::to_owned),
            rule_index: record.rule_index,
            shape_bucket: record.shape_bucket,
            group: record.group,
            evidence: evidence.map(Bound::unbind),
            measured_us: answer.and_then(heuristics::Answer::measured_us),
            predicted_us: answer.and_then(heuristics::Answer::predicted_us),
        })
    }
}

/// A document's text, decoded or not.
#[derive(FromPyObject)]
enum Text {
    Str(String),
    Bytes(Vec<u8>),
}

/// What an argument says of itself; an object without shape or dtype says nothing of it.
fn signature_of(tensor: &Bound<'_, PyAny>) -> PyResult<Tensor> {
    let shape = match tensor.getattr_opt("shape")? {
        Some(shape) => Some(shape.try_iter()?.map(|extent| extent?.extract()).collect::<PyResult<_>>()?),
        None => None,
    };
    let dtype = match tensor.getattr_opt("dtype")? {
        Some(dtype) => Some(dtype.str()?.to_cow()?.into_owned()),
        None => None,
    };
    Ok(Tensor { shape, dtype })
}

/// Ranked configs and where they came from. A sequence of the configs.
#[pyclass(frozen, get_all, module = "kernel_sweep")]
struct Answer {
    configs: Py<PyList>,
    source: &'static str,
    family: Option<String>,
    rule_index: Option<usize>,
    shape_bucket: BTreeMap<String, String>,
    group: Option<&'static str>,
    evidence: Option<Py<PyDict>>,
    measured_us: Option<Vec<f64>>,
    predicted_us: Option<Vec<f64>>,
}

#[pymethods]
impl Answer {
    /// The best config.
    #[getter]
    fn best<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let configs = self.configs.bind(py);
        if configs.is_empty() { Ok(None) } else { configs.get_item(0).map(Some) }
    }

    fn __len__(&self, py: Python<'_>) -> usize {
        self.configs.bind(py).len()
    }

    fn __getitem__<'py>(&self, index: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.configs.bind(index.py()).as_any().get_item(index)
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        self.configs.bind(py).try_iter()
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let place = match (self.source, self.rule_index, self.group) {
            ("rule", Some(index), _) => format!("rule {index}"),
            ("fallback", _, Some(group)) => format!("fallback {group}"),
            (source, ..) => source.to_owned(),
        };
        Ok(format!("Answer({place}, configs={})", self.configs.bind(py).repr()?))
    }
}

fn dict<'py>(py: Python<'py>, fields: &Map<String, Value>) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (name, value) in fields {
        dict.set_item(name, object(py, value)?)?;
    }
    Ok(dict)
}

/// JSON as Python has it.
fn object<'py>(py: Python<'py>, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    Ok(match value {
        Value::Null => py.None().into_bound(py),
        Value::Bool(value) => value.into_pyobject(py)?.to_owned().into_any(),
        Value::String(text) => PyString::new(py, text).into_any(),
        Value::Array(items) => {
            let items = items.iter().map(|item| object(py, item)).collect::<PyResult<Vec<_>>>()?;
            PyList::new(py, items)?.into_any()
        }
        Value::Object(fields) => dict(py, fields)?.into_any(),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(value), ..) => value.into_pyobject(py)?.into_any(),
            (_, Some(value), _) => value.into_pyobject(py)?.into_any(),
            (.., value) => value.into_pyobject(py)?.into_any(),
        },
    })
}
