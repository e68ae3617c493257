//! What people watch while a sweep runs: one bar on stderr.

use crate::journal::{Status, Trial};
use crate::model::Family;
use crate::plan::Plan;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The progress bar; silent where asked to be or where stderr is no terminal. Clones are one bar.
#[derive(Clone)]
pub struct Progress {
    bar: ProgressBar,
    quiet: bool,
    verbose: bool,
    state: Arc<Mutex<State>>,
}

struct State {
    trials: usize,
    since: Instant,
    best: String,
}

impl Progress {
    /// A bar without length yet. `verbose` names the configs that fail.
    pub fn new(quiet: bool, verbose: bool) -> Self {
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(None, target);
        // It is drawn by a thread of its own, of which there may be none to be had.
        if !bar.is_hidden() {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        let state = State { trials: 0, since: Instant::now(), best: String::new() };
        Self { bar, quiet, verbose, state: Arc::new(Mutex::new(state)) }
    }

    /// Prints a line above the bar.
    pub fn say(&self, line: &str) {
        if !self.quiet {
            // To whoever still listens: that nobody does is no reason to stop measuring.
            self.bar.suspend(|| drop(writeln!(std::io::stderr(), "{line}")));
        }
    }

    /// Prints a line that is not to be missed, however quiet it is to be.
    pub fn warn(&self, line: &str) {
        self.bar.suspend(|| drop(writeln!(std::io::stderr(), "warning: {line}")));
    }

    /// Says which plans are somebody's own: those that come with this tool give way to them.
    pub(crate) fn plans(&self, plans: &[Plan]) {
        for (family, file) in plans.iter().filter_map(|plan| Some((plan.family, plan.file()?))) {
            self.say(&format!("the plan of {family} is {}", file.display()));
        }
    }

    /// Turns to a family with so many steps, for now.
    pub(crate) fn family(&self, family: Family, steps: usize) {
        // The template is a constant, so a mistake in it shows in every test; the default bar is right all the same.
        if let Ok(style) = ProgressStyle::with_template("{prefix} [{bar:24}] {pos}/{len} eta {eta} {msg}") {
            self.bar.set_style(style.progress_chars("=> "));
        }
        self.bar.set_prefix(family.name());
        self.bar.reset();
        self.bar.set_length(steps as u64);
        self.with(|state| *state = State { trials: 0, since: Instant::now(), best: String::new() });
    }

    pub(crate) fn trial(&self, trial: &Trial) {
        if self.verbose && trial.status != Status::Ok {
            let reason = trial.error.as_deref().unwrap_or("no reason given");
            self.say(&format!("{:?} {} {}: {reason}", trial.status, trial.problem().label(), trial.config));
        }
        self.with(|state| state.trials += 1);
    }

    pub(crate) fn best(&self, trial: &Trial) {
        let Some(time) = trial.time() else { return };
        self.with(|state| state.best = format!("{time} at {}", trial.problem().label()));
    }

    pub(crate) fn step(&self) {
        self.bar.inc(1);
    }

    /// So many more steps.
    pub(crate) fn more(&self, steps: usize) {
        self.bar.inc_length(steps as u64);
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn with(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        change(&mut state);
        let rate = state.trials as f64 / state.since.elapsed().as_secs_f64().max(1e-3);
        self.bar.set_message(format!("{rate:.0} trials/s, best {}", state.best));
    }
}
