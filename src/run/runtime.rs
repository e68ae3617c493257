//! A GPU with its document and its kernels.

use super::bundle::Bundle;
use super::kernel::{Kernel, MOST_INPUTS};
use crate::compile::{self, Cache, Key, Nvrtc, Recipes, version_job, version_of};
use crate::device::cuda::{Context, LoadedNvrtc, Module, Served};
use crate::error::{Context as _, Error, Result};
use crate::families::{self, KernelSpec, Launch};
use crate::heuristics::{Heuristics, Query};
use crate::model::{Config, GpuProfile, Problem};
use crate::paths::cache_folder;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A GPU's context with the document that answers for it and the kernels loaded on it. May be used from many threads at once.
pub struct Runtime {
    context: Arc<Context>,
    /// The one built in for the GPU, or why there is none.
    document: Result<Arc<Heuristics>>,
    kernels: Kernels,
    /// What was loaded, each behind a lock of its own: whoever needs the same kernel waits for it, and nobody else.
    modules: Mutex<HashMap<Key, Loading>>,
}

/// A kernel's module, once it is loaded.
type Loading = Arc<Mutex<Option<Arc<Module>>>>;

/// Where cubins come from.
enum Kernels {
    /// NVRTC, once it is needed, and the cache of what it made.
    Compiled(Mutex<Option<Arc<Workshop>>>),
    Packed(Box<Bundle>),
}

/// What compiles, or has compiled.
struct Workshop {
    /// None where it is not here.
    nvrtc: Option<LoadedNvrtc>,
    /// Of the NVRTC that is here; where none is, of each that has filled the cache.
    recipes: Vec<Recipes>,
    cache: Cache,
}

impl Runtime {
    /// Opens a GPU by its ordinal: its primary context, which is also the CUDA runtime's and PyTorch's. It is answered for by the
    /// document built in for it.
    ///
    /// # Errors
    /// Where there is no driver, it does not start or is too old, or has no such GPU.
    pub fn open(ordinal: u32) -> Result<Self> {
        Ok(Self::on(Context::open(ordinal)?))
    }

    /// On a context that is open, which may be one of the caller's ([`Context::adopt`]).
    pub fn on(context: Context) -> Self {
        let document = Heuristics::builtin(&context.profile().device_name).map(Arc::new);
        let kernels = Kernels::Compiled(Mutex::new(None));
        Self { context: Arc::new(context), document, kernels, modules: Mutex::default() }
    }

    /// Has another document answer than the one built in, whatever device it was measured on.
    #[must_use]
    pub fn with_document(mut self, document: impl Into<Arc<Heuristics>>) -> Self {
        self.document = Ok(document.into());
        self
    }

    /// Takes document and kernels from a bundle; nothing is compiled any more.
    ///
    /// # Errors
    /// Where the bundle is for another architecture.
    pub fn with_bundle(mut self, bundle: Bundle) -> Result<Self> {
        let GpuProfile { arch, device_name, .. } = self.context.profile();
        if bundle.arch() != arch {
            let its = bundle.arch();
            return Err(Error::usage(format!("the bundle is for {its}, and {device_name} is {arch}: make one for it")));
        }
        self.document = Ok(bundle.document());
        self.kernels = Kernels::Packed(Box::new(bundle));
        Ok(self)
    }

    /// The context.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Looks a problem up, compiles its kernel or finds it compiled, and loads it: all that takes time or memory. A kernel that
    /// needs scratch gets its own.
    ///
    /// # Errors
    /// Where no document answers for the GPU, or it has no config that runs the problem; where the kernel is in no cache or bundle, and
    /// NVRTC is not here; where the driver refuses.
    pub fn prepare(&self, problem: &Problem) -> Result<Kernel> {
        self.prepare_with(problem, true)
    }

    /// The same without scratch of its own: launches that need it are given some ([`Kernel::launch_in`]).
    ///
    /// # Errors
    /// As [`Runtime::prepare`].
    pub fn prepare_without_scratch(&self, problem: &Problem) -> Result<Kernel> {
        self.prepare_with(problem, false)
    }

    fn prepare_with(&self, problem: &Problem, owns_scratch: bool) -> Result<Kernel> {
        let prepared = || -> Result<Kernel> {
            problem.check()?;
            let spec = families::spec(problem.family);
            spec.fits_memory(problem).map_err(|rejection| Error::usage(rejection.0))?;
            let document = self.document.as_ref().map_err(Clone::clone)?;
            let (config, kernel, launch) = choose(document, problem, self.context.profile())?;
            let tensors = spec.tensors(problem);
            if tensors.inputs.len() > MOST_INPUTS {
                return Err(Error::failure(format!("{} inputs are more than {MOST_INPUTS}", tensors.inputs.len())));
            }
            let module = self.module(&kernel).context(|| kernel.to_string())?;
            let [output] = &tensors.outputs[..] else {
                return Err(Error::usage(format!(
                    "it writes {} tensors, and one is what is launched",
                    tensors.outputs.len()
                )));
            };
            let served = Served::new(&module, &launch, tensors.inputs.len(), owns_scratch)?;
            Ok(Kernel::new(*problem, config, &tensors.inputs, output, served))
        };
        prepared().context(|| format!("preparing {problem} on {}", self.context.profile().device_name))
    }

    /// Lets go of the code that no kernel holds. A graph may hold launches of kernels that were dropped since: call it only once
    /// none of those is launched any more.
    pub fn forget(&self) {
        let modules = std::mem::take(&mut *locked(&self.modules));
        drop(modules); // it waits for what runs, and nobody else waits for it
    }

    /// A kernel's module, loaded now or before.
    fn module(&self, kernel: &KernelSpec) -> Result<Arc<Module>> {
        match &self.kernels {
            Kernels::Packed(bundle) => {
                self.loaded(bundle.key(kernel)?, || Ok((bundle.cubin(kernel)?, kernel.entry.clone())))
            }
            Kernels::Compiled(workshop) => self.compiled(workshop, kernel),
        }
    }

    fn compiled(&self, workshop: &Mutex<Option<Arc<Workshop>>>, kernel: &KernelSpec) -> Result<Arc<Module>> {
        let open = || -> Result<Arc<Workshop>> {
            let mut workshop = locked(workshop);
            if let Some(open) = &*workshop {
                return Ok(Arc::clone(open));
            }
            let open = Arc::new(Workshop::open(&self.context.profile().arch)?);
            Ok(Arc::clone(workshop.insert(open)))
        };
        let open = open()?;
        let Workshop { nvrtc, recipes, cache } = &*open;
        if let (Some(nvrtc), [recipes]) = (nvrtc, &recipes[..]) {
            let compile = || compile::cubin(recipes, cache, kernel, |job| nvrtc.compile(job));
            return self.loaded(recipes.key(kernel)?, compile);
        }
        for recipes in recipes {
            if let Some(cached) = compile::cached(recipes, cache, kernel)? {
                return self.loaded(recipes.key(kernel)?, || Ok(cached));
            }
        }
        *locked(workshop) = None; // it may be installed by the next time
        Err(Error::usage(format!(
            "there is no NVRTC here to compile the kernel, the cubin cache {} does not hold it, and there is no bundle: \
             `pip install {}`, set {} to one, or take a bundle of `sweep bundle`",
            cache.folder().display(),
            Nvrtc::WHEEL,
            Nvrtc::VARIABLE
        )))
    }

    /// The module of that identity, of an image and the function's name in it where it is not loaded yet.
    fn loaded(&self, key: Key, image: impl FnOnce() -> Result<(Vec<u8>, String)>) -> Result<Arc<Module>> {
        let place = Arc::clone(locked(&self.modules).entry(key).or_default());
        let mut place = locked(&place);
        if let Some(module) = &*place {
            return Ok(Arc::clone(module));
        }
        let (image, entry) = image()?;
        Ok(Arc::clone(place.insert(Arc::new(Module::load(&self.context, &image, &entry)?))))
    }
}

impl Workshop {
    fn open(arch: &str) -> Result<Self> {
        let cache = Cache::in_folder(&cache_folder()?)?;
        let recipes = |version| Recipes::built_in(arch, version);
        let Some(found) = Nvrtc::here()? else {
            return Ok(Self { nvrtc: None, recipes: cache.compilers().into_iter().map(recipes).collect(), cache });
        };
        let what = || format!("NVRTC {}", found.library.display());
        let nvrtc = LoadedNvrtc::open(&found).context(what)?;
        let version = version_of(nvrtc.compile(&version_job(arch)).context(what)?).context(what)?;
        cache.note_compiler(&version);
        Ok(Self { nvrtc: Some(nvrtc), recipes: vec![recipes(version)], cache })
    }
}

/// What is behind a lock; whoever panicked with it left it whole, since each writes once.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The best config of the document's answer that runs the problem on that GPU, with its kernel and launch.
///
/// # Errors
/// Where there is none.
pub(super) fn choose(
    document: &Heuristics,
    problem: &Problem,
    profile: &GpuProfile,
) -> Result<(Config, KernelSpec, Launch)> {
    let spec = families::spec(problem.family);
    let mut refused = Vec::new();
    for template in document.lookup(&Query::from(problem)).configs() {
        match serde_json::from_value::<Config>(template.clone().into()) {
            Ok(config) => match spec.program(&config, problem, profile) {
                Ok((kernel, launch)) => return Ok((config, kernel, launch)),
                Err(rejection) => refused.push(rejection.0),
            },
            Err(error) => refused.push(format!("not a config of this version: {error}")),
        }
    }
    let why = if refused.is_empty() { "it answers nothing".to_owned() } else { refused.join("; ") };
    Err(Error::usage(format!("the document has no config that runs it: {why}")))
}
