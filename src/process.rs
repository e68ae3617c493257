//! Child processes that answer JSON lines, with a deadline for each answer. Compiling and measuring both run in one, so
//! that what hangs or crashes there can be killed.

use crate::error::{self, Context, Error, Result};
use serde::{Serialize, de::DeserializeOwned};
use std::fmt;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::process::CommandExt;
use std::panic::AssertUnwindSafe;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::Duration;

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
        let (answer, last) = answer(serde_json::from_str(&line?)?)?;
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
    /// The process ended, or answered nonsense.
    Died(String),
}

impl fmt::Display for Silence {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout(deadline) => write!(out, "no answer in {} s", deadline.as_secs_f64()),
            Self::Died(why) => write!(out, "the process died: {why}"),
        }
    }
}

impl LineProcess {
    /// Starts `sweep SUBCOMMAND` with the given additions to its environment, in a process group of its own, so that an
    /// interrupt at the terminal reaches the parent alone. `$SWEEP_PROGRAM` names the program where the crate is used from
    /// another one.
    ///
    /// # Errors
    /// Where the process cannot be started.
    pub fn start(subcommand: &str, environment: &[(&str, &std::ffi::OsStr)]) -> Result<Self> {
        let what = || format!("process '{subcommand}'");
        let program = std::env::var_os("SWEEP_PROGRAM").map(std::path::PathBuf::from);
        let program = program.map_or_else(std::env::current_exe, Ok).context(what)?;
        let mut child = Command::new(program)
            .arg(subcommand)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .context(what)?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error::failure("no pipes").context(what()));
        };
        let (sender, answers) = channel();
        thread::spawn(move || {
            BufReader::new(output).lines().map_while(std::result::Result::ok).all(|line| sender.send(line).is_ok())
        });
        Ok(Self { child: Arc::new(Mutex::new(child)), input, answers })
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
        let mut line = serde_json::to_vec(question).map_err(|error| died(&error))?;
        line.push(b'\n');
        self.input.write_all(&line).map_err(|error| died(&error))
    }

    /// Waits for the answer to the oldest question that has none.
    ///
    /// # Errors
    /// Where none comes in time.
    pub fn answer<A: DeserializeOwned>(&mut self, deadline: Duration) -> Result<A, Silence> {
        match self.answers.recv_timeout(deadline) {
            Ok(answer) => serde_json::from_str(&answer).map_err(|error| died(&error)),
            Err(RecvTimeoutError::Timeout) => Err(Silence::Timeout(deadline)),
            Err(RecvTimeoutError::Disconnected) => Err(died(&"it closed its pipe")),
        }
    }
}

fn died(error: &dyn fmt::Display) -> Silence {
    Silence::Died(error.to_string())
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
