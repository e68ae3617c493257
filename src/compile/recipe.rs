//! What a compiler is given for a kernel, and what names the cubin that comes of it.

use super::Key;
use super::source::Sources;
use crate::error::{Error, Result};
use crate::families::KernelSpec;
use serde::{Deserialize, Serialize};
#[cfg(feature = "harness")]
use std::path::Path;

/// What a compiler is asked; a compile worker, one JSON a line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// The name messages use.
    pub name: String,
    /// The whole source.
    pub source: String,
    /// The compiler's options.
    pub options: Vec<String>,
}

/// What it answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// The cubin, where there is one.
    pub cubin: Option<Vec<u8>>,
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
}

impl Recipes {
    /// Of the sources in the working directory, else those built in.
    #[cfg(feature = "harness")]
    pub(super) fn found(arch: &str, version: String) -> Self {
        Self { sources: Sources::find(), arch: arch.into(), version }
    }

    /// Of the sources built in, whatever lies in the working directory.
    pub fn built_in(arch: &str, version: String) -> Self {
        Self { sources: Sources::built_in(), arch: arch.into(), version }
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
        fixed.into_iter().chain(spec.macros.iter().map(|(name, value)| format!("-D{name}={value}"))).collect()
    }

    /// A kernel's identity.
    ///
    /// # Errors
    /// Where its source is missing.
    pub fn key(&self, spec: &KernelSpec) -> Result<Key> {
        let source = self.sources.assemble(spec.source)?;
        let options = self.options(spec).join(" ");
        Ok(Key::of(&[&source.code.0, &options, &self.version]))
    }

    /// The hash of a source's code, with its includes and without its comments.
    ///
    /// # Errors
    /// Where the source is missing.
    pub fn code(&self, source: &'static str) -> Result<Key> {
        self.sources.assemble(source).map(|source| source.code)
    }

    /// What the compiler is given for it.
    ///
    /// # Errors
    /// Where its source is missing.
    pub fn job(&self, spec: &KernelSpec) -> Result<Job> {
        let source = self.sources.assemble(spec.source)?.text.to_string();
        Ok(Job { name: spec.source.to_string(), source, options: self.options(spec) })
    }
}

/// What a compiler is asked so that [`version_of`] the answer is known.
pub fn version_job(arch: &str) -> Job {
    Job {
        name: "version.cu".into(),
        source: "extern \"C\" __global__ void version() {}".into(),
        options: vec![format!("--gpu-architecture={arch}")],
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
