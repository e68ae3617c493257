//! What a compiler is given for a kernel, and what names the cubin that comes of it.

use super::Key;
use super::source::Sources;
use crate::error::{Error, Result};
use crate::families::{Callable, Code, KernelSpec};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
#[cfg(feature = "harness")]
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// What a compiler is asked; a compile worker, one JSON a line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// The name messages use.
    pub name: String,
    /// The whole source.
    pub source: String,
    /// The compiler's options.
    pub options: Vec<String>,
    /// The function by an expression of C++, `scale<4, float>`, whose name in the cubin is to be told.
    #[serde(default)]
    pub expression: Option<String>,
}

/// What it answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// The cubin, where there is one.
    pub cubin: Option<Vec<u8>>,
    /// The function's name in it, where the job has an expression.
    #[serde(default)]
    pub entry: Option<String>,
    /// The compiler's whole log.
    pub log: String,
}

/// The whole reply of a worker: an answer, or what kept the compiler from one, which says nothing of the kernel: a full disk, say.
#[cfg(feature = "harness")]
pub type Reply = Result<Answer, String>;

/// How kernels are compiled for one architecture by one compiler.
#[derive(Debug)]
pub struct Recipes {
    sources: Sources,
    arch: String,
    version: String,
    /// Identities that were worked out by now.
    keys: Mutex<HashMap<KernelSpec, Key>>,
}

impl Recipes {
    /// Of the sources in the working directory, else those built in.
    #[cfg(feature = "harness")]
    pub fn found(arch: &str, version: String) -> Self {
        Self::of(Sources::find(), arch, version)
    }

    /// Of the sources built in, whatever lies in the working directory.
    pub fn built_in(arch: &str, version: String) -> Self {
        Self::of(Sources::built_in(), arch, version)
    }

    fn of(sources: Sources, arch: &str, version: String) -> Self {
        Self { sources, arch: arch.into(), version, keys: Mutex::default() }
    }

    /// The folder that the sources are from, where they are not built in.
    #[cfg(feature = "harness")]
    pub(super) fn folder(&self) -> Option<&Path> {
        self.sources.folder()
    }

    /// The architecture that is compiled for: `sm_90a`.
    pub fn arch(&self) -> &str {
        &self.arch
    }

    /// The compiler's full version: `13.0.88`.
    pub fn version(&self) -> &str {
        &self.version
    }

    fn options(&self, spec: &KernelSpec) -> Vec<String> {
        let fixed = [format!("--gpu-architecture={}", self.arch), "--std=c++17".into(), "--ptxas-options=-v".into()];
        let own = if let Code::Cuda { options, .. } = &spec.code { &options[..] } else { &[] };
        let macros = spec.macros.iter().map(|(name, value)| format!("-D{name}={value}"));
        fixed.into_iter().chain(own.iter().cloned()).chain(macros).collect()
    }

    /// A kernel's identity.
    ///
    /// # Errors
    /// Where its source is missing.
    pub fn key(&self, spec: &KernelSpec) -> Result<Key> {
        let keys = || self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = keys().get(spec) {
            return Ok(key.clone());
        }
        let key = self.key_of(spec)?;
        keys().insert(spec.clone(), key.clone());
        Ok(key)
    }

    fn key_of(&self, spec: &KernelSpec) -> Result<Key> {
        let source = self.sources.assemble(&spec.code)?;
        let options = self.options(spec).join(" ");
        let expression = if spec.is_named_by_expression() { spec.entry.as_str() } else { "" };
        let parts = match &spec.code {
            // What the driver loads no compiler of ours has touched.
            Code::Ptx(_) | Code::Cubin(_) => vec![&source.code.0, &spec.entry, &self.arch],
            Code::Shipped(_) | Code::Cuda { .. } => vec![&source.code.0, &options, &self.version],
            Code::Callable(_) => return Ok(key_of_call(spec, &self.arch)),
        };
        let others = [expression, &spec.salt].into_iter().filter(|other| !other.is_empty());
        Ok(Key::of(&parts.into_iter().map(String::as_str).chain(others).collect::<Vec<_>>()))
    }

    /// What needs no compiling: the bytes that the driver loads.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub(super) fn loaded(&self, spec: &KernelSpec) -> Result<Option<Arc<[u8]>>> {
        match spec.code {
            Code::Ptx(_) | Code::Cubin(_) | Code::Callable(Callable { compiles: false, .. }) => {
                self.sources.assemble(&spec.code).map(|source| Some(source.bytes))
            }
            Code::Shipped(_) | Code::Cuda { .. } | Code::Callable(_) => Ok(None),
        }
    }

    /// The hash of a source's code, with its includes and without its comments.
    ///
    /// # Errors
    /// Where the source is missing.
    pub fn code(&self, source: &Code) -> Result<Key> {
        self.sources.assemble(source).map(|source| source.code)
    }

    /// What the compiler is given for it.
    ///
    /// # Errors
    /// Where its source is missing.
    pub fn job(&self, spec: &KernelSpec) -> Result<Job> {
        if let Code::Callable(callable) = &spec.code {
            let values: BTreeMap<&String, &String> = spec.macros.iter().map(|(name, value)| (name, value)).collect();
            let source = serde_json::to_string(&values)?;
            return Ok(Job {
                name: spec.code.to_string(),
                source,
                options: vec![self.arch.clone(), callable.name.clone()],
                expression: None,
            });
        }
        let source = self.sources.assemble(&spec.code)?;
        let include = source.include.iter().map(|folder| format!("--include-path={}", folder.display()));
        Ok(Job {
            name: spec.code.to_string(),
            source: source.text.to_string(),
            options: self.options(spec).into_iter().chain(include).collect(),
            expression: spec.is_named_by_expression().then(|| spec.entry.clone()),
        })
    }
}

/// The identity of what is called, built for one problem and config. What compiles it is part of its own identity.
pub fn key_of_call(spec: &KernelSpec, arch: &str) -> Key {
    let identity = if let Code::Callable(callable) = &spec.code { callable.identity.as_str() } else { "" };
    let values: Vec<String> = spec.macros.iter().map(|(name, value)| format!("{name}={value}")).collect();
    Key::of(&[&[identity, &spec.entry, arch][..], &values.iter().map(String::as_str).collect::<Vec<_>>()].concat())
}

/// What a compiler is asked so that [`version_of`] the answer is known.
pub fn version_job(arch: &str) -> Job {
    Job {
        name: "version.cu".into(),
        source: "extern \"C\" __global__ void version() {}".into(),
        options: vec![format!("--gpu-architecture={arch}")],
        expression: None,
    }
}

/// The full version of the compiler that answered, such as `13.0.88`. Its interface tells major and minor alone; a cubin's tool note
/// has it whole.
///
/// # Errors
/// Where it gave no cubin, or none with such a note.
pub fn version_of(answer: Answer) -> Result<String> {
    let cubin = answer.cubin.ok_or_else(|| Error::failure(answer.log.trim()))?;
    let text = String::from_utf8_lossy(&cubin);
    let versions = text.split(", V").skip(1).map(|rest| {
        rest.chars().take_while(|character| character.is_ascii_digit() || *character == '.').collect::<String>()
    });
    versions.into_iter().find(|version| !version.is_empty()).ok_or_else(|| Error::failure("its cubins name no version"))
}
