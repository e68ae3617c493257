//! Child processes that answer JSON lines, with a deadline for each answer. Compiling and measuring both run in one, so
//! that what hangs or crashes there can be killed.

use crate::error::{self, Context, Error, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Signal, getpid, kill_process, set_parent_process_death_signal};
use serde::{Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

/// Whether somebody asked this process to end.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on [`check_interrupt`] fails; returns whether that was asked for before.
pub fn interrupt() -> bool {
    INTERRUPTED.swap(true, Ordering::Relaxed)
}

/// Whatever waits or goes through much asks this now and then.
///
/// # Errors
/// Where somebody asked this process to end.
pub fn check_interrupt() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        return Err(Error::new(error::ErrorKind::Interrupted, INTERRUPTION));
    }
    Ok(())
}

/// What is said then.
pub const INTERRUPTION: &str =
    "interrupted; everything measured is in the journal, and everything compiled in the cache";

/// Does work whose panic, a mistake in this program, is to be no more than its error: what waits for it would wait for ever.
///
/// # Errors
/// As the work, and where it panics.
pub fn caught<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(work));
    outcome.unwrap_or_else(|_| Err(Error::failure(format!("{what} panicked, which is a mistake in this program"))))
}

/// Starts a thread of a scope whose panic is no more than its error.
///
/// # Errors
/// Where the machine has no thread left.
pub fn spawn_in<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    what: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, Result<T>>> {
    let thread = thread::Builder::new().spawn_scoped(scope, move || caught(what, work));
    thread.context(|| format!("starting {what}"))
}

/// Waits for such a thread.
///
/// # Errors
/// As its work.
pub fn join<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|_| Err(Error::failure("a thread was lost")))
}

/// Runs a program to its end; an interrupt ends it.
///
/// # Errors
/// Where it cannot be started, or is interrupted.
pub fn run_to_end(command: &mut Command) -> Result<ExitStatus> {
    let mut child =
        command.stdin(Stdio::null()).spawn().context(|| command.get_program().to_string_lossy().into_owned())?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if let Err(interrupted) = check_interrupt() {
            let _ = child.kill().and_then(|()| child.wait()); // gone already is as good
            return Err(interrupted);
        }
        thread::sleep(PAUSE);
    }
}

/// How often what waits looks for an interrupt.
pub const PAUSE: Duration = Duration::from_millis(50);

/// The other side: answers each line of `input` on `output` until the input ends, the answer says it is the last, or
/// nobody listens any more.
///
/// # Errors
/// Where a question cannot be understood or the pipes break.
pub fn answer_lines<Q: DeserializeOwned, A: Serialize>(
    input: &mut dyn BufRead,
    output: &mut dyn Write,
    mut answer: impl FnMut(Q) -> Result<(A, bool)>,
) -> Result<()> {
    for line in input.lines() {
        // Whoever asks is this tool, so that a user can mend nothing.
        let question = serde_json::from_str(&line?).map_err(|error| Error::failure(format!("no question: {error}")))?;
        let (answer, last) = answer(question)?;
        let mut text = serde_json::to_vec(&answer)?;
        text.push(b'\n');
        match output.write_all(&text).and_then(|()| output.flush()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()), // the parent was killed
            other => other?,
        }
        if last {
            return Ok(());
        }
    }
    Ok(())
}

/// From now on this process ends when the one that started it does, whatever it is at and even if it is stopped: nobody is left
/// to kill it where it hangs, and a successor would share the machine with it.
///
/// # Errors
/// Where the system refuses.
pub fn end_with_parent() -> Result<()> {
    let what = || "watching for the end of the parent";
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(io::Error::from).context(what)?;
    // The signal comes at the end of the process between, where there is one, and not at all where the end came before this.
    // That nobody listens any more shows in both cases.
    let watch = || {
        let output = io::stdout();
        let mut listeners = [PollFd::new(&output, PollFlags::empty())];
        while poll(&mut listeners, None).is_err() {}
        if listeners[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) {
            // Not by the way out: a driver that waits for its device would stand in it.
            let _ = kill_process(getpid(), Signal::KILL);
        }
    };
    thread::Builder::new().spawn(watch).context(what)?;
    Ok(())
}

/// Starts the threads that share out what is computed here, before one that is missing ends the program in the middle of something.
///
/// # Errors
/// Where this machine starts no more of them.
pub fn start_threads() -> Result<()> {
    let started = rayon::ThreadPoolBuilder::new().build_global();
    // Without a cause, they have been started already.
    match started.as_ref().err().and_then(std::error::Error::source) {
        None => Ok(()),
        Some(cause) => Err(Error::failure(format!(
            "this machine starts no more threads ({cause}); see ulimit -u, and what else runs here"
        ))),
    }
}

/// A command, what else the child is to hold open, and where it goes.
type Order = (Command, Option<Arc<File>>, Sender<io::Result<Child>>);

/// Has a thread that lives as long as this process start a child: what a child takes for the end of its parent is the end of
/// the thread that started it. Only that child inherits `held`.
fn start_child(command: Command, held: Option<Arc<File>>) -> io::Result<Child> {
    static STARTER: Mutex<Option<Sender<Order>>> = Mutex::new(None);
    let mut starter = STARTER.lock().unwrap_or_else(PoisonError::into_inner);
    let orders = match &mut *starter {
        Some(orders) => orders,
        none => {
            let (orders, taken) = channel::<Order>();
            let start = move || {
                for (mut command, held, answer) in taken {
                    let child = share(held.as_deref(), FdFlags::empty()).and_then(|()| command.spawn());
                    // It was set a moment ago, and whoever asked may be gone.
                    let _ = share(held.as_deref(), FdFlags::CLOEXEC);
                    let _ = answer.send(child);
                }
            };
            thread::Builder::new().spawn(start)?;
            none.insert(orders)
        }
    };
    let (answer, child) = channel();
    let gone = || io::Error::other("the thread that starts processes is gone");
    orders.send((command, held, answer)).map_err(|_| gone())?;
    child.recv().map_err(|_| gone())?
}

fn share(held: Option<&File>, flags: FdFlags) -> io::Result<()> {
    held.map_or(Ok(()), |file| fcntl_setfd(file, flags).map_err(io::Error::from))
}

/// A process of this same program under one of its hidden subcommands. Killed when dropped.
pub struct LineProcess {
    child: Arc<Mutex<Child>>,
    input: ChildStdin,
    answers: Receiver<String>,
}

/// Ends a process from another thread than the one that waits for its answer.
pub struct Killer(Arc<Mutex<Child>>);

impl Killer {
    /// Ends it now. Already gone is as good as killed.
    pub fn kill(&self) {
        let mut child = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Why there is no answer. The process is of no more use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Silence {
    /// The deadline passed.
    Timeout(Duration),
    /// Somebody else ended the process, or the system did for lack of memory.
    Killed(String),
    /// The processor ended it for what it did: an access to memory that is not its own, say.
    Crashed(String),
    /// It ended by itself, or answered nonsense.
    Ended(String),
}

impl fmt::Display for Silence {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout(deadline) => write!(out, "no answer in {} s", deadline.as_secs_f64()),
            Self::Killed(why) => write!(out, "the process was killed: {why}"),
            Self::Crashed(why) | Self::Ended(why) => write!(out, "the process died: {why}"),
        }
    }
}

/// Signals that the processor's faults come as.
const FAULTS: [i32; 5] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP];
/// A shell tells of a child that a signal ended by this much and its number.
const SHELL_SIGNAL: i32 = 128;

impl From<ExitStatus> for Silence {
    /// What ended a process. An abort is no fault of the processor: memory that is not to be had ends in one.
    fn from(status: ExitStatus) -> Self {
        let signal =
            status.signal().or(status.code().filter(|code| *code > SHELL_SIGNAL).map(|code| code - SHELL_SIGNAL));
        match signal {
            Some(signal) if FAULTS.contains(&signal) => Self::Crashed(status.to_string()),
            Some(_) => Self::Killed(status.to_string()),
            None => Self::Ended(status.to_string()),
        }
    }
}

/// The tool, where this is another program, with the arguments that come before all others.
static PROGRAM: OnceLock<Vec<OsString>> = OnceLock::new();
/// The interpreter that families of Python are read and run by.
static PYTHON: OnceLock<PathBuf> = OnceLock::new();
/// The modules that answer in that interpreter and are copied for that, and the one that is the tool.
const ANSWERING_MODULE: &str = "kernel_sweep._process";
const TEMPLATE_MODULE: &str = "kernel_sweep._template";
const TOOL_MODULE: &str = "kernel_sweep";
/// What tells a process of the template that it may ask.
const TEMPLATE: &str = "SWEEP_TEMPLATE";

/// Says where the tool is, to a program that uses the crate and is not it: measuring and compiling processes are the tool's. What
/// was said first holds.
pub fn use_program(tool: &Path) {
    let _ = PROGRAM.set(vec![tool.into()]);
}

/// Says that the tool is a module of this interpreter, which families of Python are read and run by, too.
pub fn use_python(interpreter: &Path) {
    let _ = PROGRAM.set(vec![interpreter.into(), "-m".into(), TOOL_MODULE.into()]);
    let _ = PYTHON.set(interpreter.to_path_buf());
}

/// A process of Python about a family that a file names: `task` is what it is to do. `$SWEEP_PYTHON` names the interpreter; else it
/// is the one that the tool runs in, or `python3`.
pub fn python(task: &str, file: &Path, name: &str) -> Command {
    let mut command = module_of_python(ANSWERING_MODULE);
    command.arg(task).arg(file).arg(name);
    // Without one a process takes longer to start, and that is all.
    if let Ok(template) = template(file) {
        command.env(TEMPLATE, template);
    }
    command
}

fn module_of_python(module: &str) -> Command {
    let named = std::env::var_os("SWEEP_PYTHON").map(PathBuf::from);
    let interpreter = named.or_else(|| PYTHON.get().cloned()).unwrap_or_else(|| "python3".into());
    let mut command = Command::new(interpreter);
    command.args(["-m", module]);
    command
}

/// The socket of the process that imports once what a file's processes need, and is copied for each of them
/// (`kernel_sweep/_template.py`): it is started where there is none yet, and ends with this process.
fn template(file: &Path) -> io::Result<String> {
    static SOCKETS: Mutex<BTreeMap<PathBuf, String>> = Mutex::new(BTreeMap::new());
    let mut sockets = SOCKETS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(name) = sockets.get(file) {
        return Ok(name.clone());
    }
    let name = format!("kernel_sweep.{}.{}", std::process::id(), sockets.len());
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
    let mut command = module_of_python(TEMPLATE_MODULE);
    command.arg(file).stdin(OwnedFd::from(listener)).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    start_child(command, None)?;
    sockets.insert(file.to_path_buf(), name.clone());
    Ok(name)
}

/// How long a process that closed its pipe is given to end.
const ENDING: Duration = Duration::from_secs(2);

impl LineProcess {
    /// Starts `sweep SUBCOMMAND` with the given additions to its environment, in a process group of its own, so that an
    /// interrupt at the terminal reaches the parent alone. Where the crate is used from another program, `$SWEEP_PROGRAM` or
    /// [`use_program`] names the tool. The process holds `held` open as long as it lives: a lock, say.
    ///
    /// # Errors
    /// Where the process cannot be started.
    pub fn start(subcommand: &str, environment: &[(&str, &std::ffi::OsStr)], held: Option<Arc<File>>) -> Result<Self> {
        let what = || format!("process '{subcommand}'");
        let program = std::env::var_os("SWEEP_PROGRAM").map(|program| vec![program]);
        let program = program.or_else(|| PROGRAM.get().cloned());
        let own = || std::env::current_exe().map(|program| vec![program.into()]);
        let program = program.map_or_else(own, Ok).context(what)?;
        let mut command = Command::new(&program[0]);
        command.args(&program[1..]).arg(subcommand).envs(environment.iter().copied());
        Self::start_command(command, held).context(what)
    }

    /// Starts any command that answers lines, likewise.
    ///
    /// # Errors
    /// Where the process cannot be started.
    pub fn start_command(mut command: Command, held: Option<Arc<File>>) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let what = || name.clone();
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = start_child(command, held).context(what)?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error::failure("no pipes").context(what()));
        };
        let (sender, answers) = channel();
        let process = Self { child: Arc::new(Mutex::new(child)), input, answers };
        let listen = move || {
            BufReader::new(output).lines().map_while(std::result::Result::ok).all(|line| sender.send(line).is_ok())
        };
        thread::Builder::new().spawn(listen).context(what)?;
        Ok(process)
    }

    /// A means to end it while it works.
    pub fn killer(&self) -> Killer {
        Killer(Arc::clone(&self.child))
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// Where none comes in time.
    pub fn ask<A: DeserializeOwned>(&mut self, question: &impl Serialize, deadline: Duration) -> Result<A, Silence> {
        self.send(question)?;
        self.answer(deadline)
    }

    /// Asks without waiting: the answers come in the order of the questions.
    ///
    /// # Errors
    /// Where the process is gone.
    pub fn send(&mut self, question: &impl Serialize) -> Result<(), Silence> {
        let mut line = serde_json::to_vec(question).map_err(|error| Silence::Ended(error.to_string()))?;
        line.push(b'\n');
        self.input.write_all(&line).map_err(|_| self.end())
    }

    /// Waits for the answer to the oldest question that has none.
    ///
    /// # Errors
    /// Where none comes in time.
    pub fn answer<A: DeserializeOwned>(&mut self, deadline: Duration) -> Result<A, Silence> {
        match self.answers.recv_timeout(deadline) {
            Ok(answer) => serde_json::from_str(&answer).map_err(|error| Silence::Ended(format!("it said {error}"))),
            Err(RecvTimeoutError::Timeout) => Err(Silence::Timeout(deadline)),
            Err(RecvTimeoutError::Disconnected) => Err(self.end()),
        }
    }

    /// What ended the process, whose pipes are closed.
    fn end(&self) -> Silence {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let patience = Instant::now() + ENDING;
        loop {
            match child.try_wait() {
                Ok(Some(status)) => return status.into(),
                Ok(None) if Instant::now() < patience => thread::sleep(Duration::from_millis(2)),
                _ => return Silence::Ended("it closed its pipe".into()),
            }
        }
    }
}

impl Drop for LineProcess {
    fn drop(&mut self) {
        self.killer().kill();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_of_its_work() {
        assert_eq!(caught("adding", || Ok(1 + 1)).unwrap(), 2);
        let error = caught::<()>("adding", || std::panic::panic_any("no")).unwrap_err().to_string();
        assert!(error.starts_with("adding panicked"), "{error}");
    }
}
