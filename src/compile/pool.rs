//! The compile service: requests go in, worker processes compile them on all cores, outcomes are waited for.

use super::cache::{Entry, Found};
use super::recipe::{self, Job, Recipes, Reply};
use super::{Cache, Key, Nvrtc, Resources};
use crate::error::{Context, Error, Result};
use crate::families::manifest::explained;
use crate::families::{Callable, Code, KernelSpec};
use crate::process::{self, Killer, LineProcess, Silence};
use std::collections::{HashMap, HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// What became of a kernel.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// There is a cubin.
    Compiled {
        /// The kernel's identity.
        key: Key,
        /// The cubin file.
        cubin: PathBuf,
        /// The function's name in it, where that is not the kernel's own.
        entry: Option<String>,
        /// What ptxas said.
        resources: Resources,
    },
    /// There is none.
    Failed {
        /// The kernel's identity.
        key: Key,
        /// Whether the deadline passed, rather than the compiler refusing.
        timed_out: bool,
        /// Why, in one line.
        error: String,
    },
}

impl Outcome {
    /// Whether a kernel compiled that keeps values in memory because registers ran out.
    pub fn spills(&self) -> bool {
        matches!(self, Self::Compiled { resources, .. } if resources.spill_bytes > 0)
    }
}

/// How to compile.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `sm_90a`, …
    pub arch: String,
    /// The compiler.
    pub nvrtc: Nvrtc,
    /// Where cubins are kept.
    pub cache: Cache,
    /// Worker processes.
    pub workers: usize,
    /// How long one compile may take.
    pub deadline: Duration,
}

impl Settings {
    /// Time enough for the largest kernel on a slow core.
    pub const DEADLINE: Duration = Duration::from_secs(60);
}

/// The most processes of other languages. Each may hold a gigabyte of memory, and a context on the GPU that is measured on.
const MOST_CALLING: usize = 16;
/// How often a kernel is given to a compiler that gives no answer.
const ATTEMPTS: usize = 3;

#[derive(Default)]
struct State {
    queue: VecDeque<(KernelSpec, Key)>,
    /// What became of each kernel asked for, once that is known: an error is this machine's doing and says nothing of the kernel.
    kernels: HashMap<KernelSpec, (Key, Option<Result<Outcome>>)>,
    compile_s: f64,
    processes: Vec<Killer>,
    stopped: bool,
}

impl State {
    fn outcome(&self, spec: &KernelSpec) -> Option<&Result<Outcome>> {
        self.kernels.get(spec)?.1.as_ref()
    }

    /// Forgets kernels that no process has begun with.
    fn withdraw(&mut self, specs: &HashSet<KernelSpec>) {
        let queue = std::mem::take(&mut self.queue);
        let (withdrawn, kept): (VecDeque<_>, VecDeque<_>) =
            queue.into_iter().partition(|(spec, _)| specs.contains(spec));
        self.queue = kept;
        for (spec, _) in withdrawn {
            self.kernels.remove(&spec);
        }
    }

    /// Puts these sets of kernels before all others that are still to be compiled, one of each by turns.
    fn bring_forward(&mut self, sets: &[&HashSet<KernelSpec>]) {
        let mut brought: Vec<VecDeque<_>> = sets.iter().map(|_| VecDeque::new()).collect();
        let mut others = VecDeque::new();
        for job in std::mem::take(&mut self.queue) {
            let set = sets.iter().position(|set| set.contains(&job.0));
            set.map_or(&mut others, |set| &mut brought[set]).push_back(job);
        }
        while brought.iter().any(|set| !set.is_empty()) {
            self.queue.extend(brought.iter_mut().filter_map(VecDeque::pop_front));
        }
        self.queue.extend(others);
    }

    /// Puts a kernel first, if it is still to be compiled.
    fn jump_the_queue(&mut self, spec: &KernelSpec) {
        if let Some(place) = self.queue.iter().position(|(queued, _)| queued == spec)
            && let Some(job) = self.queue.remove(place)
        {
            self.queue.push_front(job);
        }
    }
}

/// How the service tells people what they should know.
pub type Notice = Box<dyn Fn(&str) + Send + Sync>;

struct Shared {
    settings: Settings,
    notice: Notice,
    recipes: Recipes,
    state: Mutex<State>,
    changed: Condvar,
}

/// The compile service. Dropping it ends its workers, whatever they are at.
pub struct Compiler {
    shared: Arc<Shared>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Compiler {
    /// Starts the service; most processes start with the first kernel that is not cached.
    ///
    /// # Errors
    /// Where the compiler does not run.
    pub fn start(settings: Settings, notice: Notice) -> Result<Self> {
        let workers = settings.workers.max(1);
        let version = version(&settings).context(|| format!("NVRTC {}", settings.nvrtc.library.display()))?;
        settings.cache.note_compiler(&version);
        let recipes = Recipes::found(&settings.arch, version);
        if let Some(folder) = recipes.folder() {
            notice(&format!("the kernels are those in {}", folder.display()));
        }
        let shared = Arc::new(Shared { settings, notice, recipes, state: Mutex::default(), changed: Condvar::new() });
        // Where one does not start, those before it end with this.
        let mut compiler = Self { shared, threads: Vec::new() };
        for place in 0..workers {
            let shared = Arc::clone(&compiler.shared);
            let calls = place < MOST_CALLING;
            let thread = std::thread::Builder::new().spawn(move || shared.work(calls));
            compiler.threads.push(thread.context(|| "starting a compile thread")?);
        }
        Ok(compiler)
    }

    /// How it compiles kernels, and what names them.
    pub fn recipes(&self) -> &Recipes {
        &self.shared.recipes
    }

    /// The compiler's full version, part of every kernel's identity.
    pub fn version(&self) -> &str {
        self.shared.recipes.version()
    }

    /// A kernel's identity; nothing is compiled.
    ///
    /// # Errors
    /// Where the kernel's source is missing.
    pub fn key(&self, spec: &KernelSpec) -> Result<Key> {
        self.shared.recipes.key(spec)
    }

    /// Asks for a kernel, unless that was done before, and returns its identity.
    ///
    /// # Errors
    /// Where the kernel's source is missing.
    pub fn request(&self, spec: &KernelSpec) -> Result<Key> {
        let shared = &self.shared;
        if let Some((key, _)) = shared.state().kernels.get(spec) {
            return Ok(key.clone());
        }
        let key = self.key(spec)?;
        shared.take_in(spec, &key)?;
        let cached = match shared.settings.cache.get(&key) {
            Found::Entry(entry) => Some(shared.outcome(spec, &key, &entry)),
            Found::Nothing => None,
            Found::Damaged => {
                let place = shared.settings.cache.cubin(&key);
                (shared.notice)(&format!("{} was cut short or altered: it is compiled anew", place.display()));
                None
            }
        };
        let mut state = shared.state();
        if state.kernels.contains_key(spec) {
            return Ok(key); // another thread was faster
        }
        if cached.is_none() {
            state.queue.push_back((spec.clone(), key.clone()));
        }
        state.kernels.insert(spec.clone(), (key.clone(), cached.map(Ok)));
        shared.changed.notify_all();
        Ok(key)
    }

    /// The cubin of a kernel by its identity, with the function's name in it where that is not the kernel's own, where it is cached:
    /// also of one that today's sources no longer make.
    pub fn cached(&self, key: &Key) -> Option<(PathBuf, Option<String>)> {
        let cache = &self.shared.settings.cache;
        match cache.get(key) {
            Found::Entry(Entry { cubin: Some(_), function, .. }) => Some((cache.cubin(key), function)),
            _ => None,
        }
    }

    /// Waits until a kernel is done; it jumps the queue if it still stands there.
    ///
    /// # Errors
    /// Where the kernel's source is missing, or the machine keeps it from being compiled: no process, no space, an interrupt.
    pub fn wait(&self, spec: &KernelSpec) -> Result<Outcome> {
        self.wait_until(spec, None)?.ok_or_else(|| Error::failure("waiting without end came to an end"))
    }

    /// The same, but nothing where it is not done by `end`.
    ///
    /// # Errors
    /// As [`Compiler::wait`].
    pub fn wait_until(&self, spec: &KernelSpec, end: Option<Instant>) -> Result<Option<Outcome>> {
        let mut state = self.shared.state();
        loop {
            if !state.kernels.contains_key(spec) {
                drop(state); // not asked for yet, or withdrawn meanwhile
                self.request(spec)?;
                state = self.shared.state();
            }
            if let Some(outcome) = state.outcome(spec) {
                return outcome.clone().map(Some);
            }
            state.jump_the_queue(spec);
            let left = end.map_or(Duration::MAX, |end| end.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Ok(None);
            }
            process::check_interrupt()?;
            let waited = self.shared.changed.wait_timeout(state, left.min(process::PAUSE));
            state = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    /// Whether it is known what became of a kernel. Nothing is asked for.
    pub fn is_done(&self, spec: &KernelSpec) -> bool {
        self.shared.state().outcome(spec).is_some()
    }

    /// Those of these sets that no process has begun with are compiled before all others, one of each by turns.
    pub fn bring_forward(&self, sets: &[&HashSet<KernelSpec>]) {
        self.shared.state().bring_forward(sets);
    }

    /// Nobody expects these kernels any more: those that no process has begun with are not compiled, unless they are asked for again.
    pub fn withdraw(&self, specs: &HashSet<KernelSpec>) {
        self.shared.state().withdraw(specs);
    }

    /// The cubin of a kernel that nothing works without.
    ///
    /// # Errors
    /// Where it does not compile.
    pub fn needed(&self, spec: &KernelSpec) -> Result<PathBuf> {
        match self.wait(spec)? {
            Outcome::Compiled { cubin, .. } => Ok(cubin),
            Outcome::Failed { error, .. } => Err(Error::failure(format!("{spec} does not compile: {error}"))),
        }
    }

    /// Seconds of worker time spent compiling so far.
    pub fn compile_s(&self) -> f64 {
        self.shared.state().compile_s
    }
}

impl Drop for Compiler {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.stopped = true;
        state.processes.iter().for_each(Killer::kill);
        drop(state);
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // A worker thread that panicked has nothing left to clean up.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Puts into the cache what needs no compiling, so that what was measured is what is loaded, whatever becomes of the file.
    fn take_in(&self, spec: &KernelSpec, key: &Key) -> Result<()> {
        let Some(bytes) = self.recipes.loaded(spec)? else { return Ok(()) };
        if matches!(self.settings.cache.get(key), Found::Entry(_)) {
            return Ok(());
        }
        self.settings.cache.put(key, Some(&bytes), &Entry::new(Some(&bytes), String::new()))
    }

    fn outcome(&self, spec: &KernelSpec, key: &Key, entry: &Entry) -> Outcome {
        if entry.cubin.is_some() {
            let cubin = self.settings.cache.cubin(key);
            let Entry { function, resources, .. } = entry.clone();
            return Outcome::Compiled { key: key.clone(), cubin, entry: function, resources };
        }
        let error = explained(spec, entry.first_error());
        Outcome::Failed { key: key.clone(), timed_out: false, error }
    }

    /// One thread's life: take a job, have this thread's process do it, tell. Whether it takes jobs of other languages is said.
    fn work(&self, calls: bool) {
        let mut process: Option<Idle> = None;
        loop {
            let mut state = self.state();
            let (spec, key) = loop {
                if state.stopped {
                    return;
                }
                let next = state.queue.iter().position(|(spec, _)| calls || !matches!(spec.code, Code::Callable(_)));
                match next.and_then(|next| state.queue.remove(next)) {
                    Some(job) => break job,
                    None => state = self.changed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner),
                }
            };
            drop(state);
            let started = Instant::now();
            let compiled = process::caught("a compile thread", || self.compile(&mut process, &spec, &key));
            let outcome = compiled.context(|| format!("compiling {spec}"));
            let mut state = self.state();
            state.kernels.insert(spec, (key, Some(outcome)));
            state.compile_s += started.elapsed().as_secs_f64();
            self.changed.notify_all();
        }
    }

    /// A process that ends with the service, of another language where a file of one is named.
    fn start_worker(&self, file: Option<&PathBuf>) -> Result<LineProcess> {
        let process = match file {
            Some(file) => LineProcess::start_command(process::python("compile", file, ""), None)?,
            None => start_process(&self.settings.nvrtc)?,
        };
        let mut state = self.state();
        if state.stopped {
            return Err(Error::failure("the compiler stopped"));
        }
        state.processes.push(process.killer());
        Ok(process)
    }

    /// A compiler that ends without an answer, or says that the machine fails it, is tried again: only one that dies of itself
    /// each time condemns the kernel. What was killed from outside, or got no memory, says nothing of it.
    fn compile(&self, process: &mut Option<Idle>, spec: &KernelSpec, key: &Key) -> Result<Outcome> {
        let job = self.recipes.job(spec)?;
        let mut answer = self.ask(process, spec, &job)?;
        for _ in 1..ATTEMPTS {
            if matches!(answer, Ok(Ok(_)) | Err(Silence::Timeout(_))) {
                break;
            }
            *process = None;
            answer = self.ask(process, spec, &job)?;
        }
        let answer = match answer {
            Ok(reply) => reply.map_err(Error::failure)?,
            Err(silence @ Silence::Killed(_)) => return Err(Error::failure(silence)),
            Err(silence) => {
                let timed_out = matches!(silence, Silence::Timeout(_));
                return Ok(Outcome::Failed { key: key.clone(), timed_out, error: format!("compiler: {silence}") });
            }
        };
        let entry = Entry { function: answer.entry, ..Entry::new(answer.cubin.as_deref(), answer.log) };
        self.settings.cache.put(key, answer.cubin.as_deref(), &entry)?;
        Ok(self.outcome(spec, key, &entry))
    }

    /// Asks this thread's process, or a new one where there is none. One that gave no answer is of no more use.
    fn ask(&self, process: &mut Option<Idle>, spec: &KernelSpec, job: &Job) -> Result<Result<Reply, Silence>> {
        let file = if let Code::Callable(Callable { file, .. }) = &spec.code { Some(file) } else { None };
        if process.as_ref().is_some_and(|idle| idle.file.as_ref() != file) {
            *process = None;
        }
        let idle = match process {
            Some(idle) => idle,
            None => process.insert(Idle { file: file.cloned(), worker: self.start_worker(file)? }),
        };
        let answer = idle.worker.ask(job, self.settings.deadline);
        if answer.is_err() {
            *process = None;
        }
        Ok(answer)
    }
}

/// A thread's process between two jobs.
struct Idle {
    /// The file of another language whose families it compiles, where that is not CUDA C++.
    file: Option<PathBuf>,
    worker: LineProcess,
}

/// The compiler's full version.
fn version(settings: &Settings) -> Result<String> {
    let job = recipe::version_job(&settings.arch);
    let reply: Result<Reply, _> = start_process(&settings.nvrtc)?.ask(&job, settings.deadline);
    recipe::version_of(reply.map_err(Error::failure)?.map_err(Error::failure)?)
}

fn start_process(nvrtc: &Nvrtc) -> Result<LineProcess> {
    LineProcess::start("compile-worker", &[(Nvrtc::VARIABLE, nvrtc.library.as_os_str())], None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_brought_forward_goes_by_turns_and_the_rest_keeps_its_order() {
        let spec = |name: &str| KernelSpec::shipped("gemm.cu", name, []);
        let mut state = State::default();
        for name in ["a1", "other 1", "b1", "a2", "a3", "other 2", "b2"] {
            state.queue.push_back((spec(name), Key(name.into())));
        }
        let [one, other] = [&["b1", "b2", "not queued"][..], &["a1", "a2", "a3"]]
            .map(|names| names.iter().map(|name| spec(name)).collect::<HashSet<_>>());
        state.bring_forward(&[&one, &other]);
        let queued: Vec<&str> = state.queue.iter().map(|(spec, _)| spec.entry.as_str()).collect();
        assert_eq!(queued, ["b1", "a1", "b2", "a2", "a3", "other 1", "other 2"]);
    }

    #[test]
    fn kernels_that_nobody_expects_any_more_are_not_compiled_and_may_be_asked_for_again() {
        let spec = |name: &str| KernelSpec::shipped("gemm.cu", name, []);
        let key = |name: &str| Key(name.into());
        let mut state = State::default();
        let failed = |name| Outcome::Failed { key: key(name), timed_out: false, error: String::new() };
        for name in ["first", "second", "third", "under way"] {
            state.queue.push_back((spec(name), key(name)));
            state.kernels.insert(spec(name), (key(name), None));
        }
        state.queue.pop_back(); // a process has begun with it
        state.kernels.insert(spec("done"), (key("done"), Some(Ok(failed("done")))));
        state.withdraw(&["first", "third", "under way", "done", "never asked for"].map(spec).into());
        let queued: Vec<&str> = state.queue.iter().map(|(spec, _)| spec.entry.as_str()).collect();
        assert_eq!(queued, ["second"]);
        let mut known: Vec<&str> = state.kernels.keys().map(|spec| spec.entry.as_str()).collect();
        known.sort_unstable();
        assert_eq!(known, ["done", "second", "under way"]);
        assert!(state.outcome(&spec("done")).is_some());
    }
}
