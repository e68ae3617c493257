//! What goes on beside the devices: kernels of the problems that come next compile, and a model learns from those before. Where the
//! host is the device nothing goes on beside it, since that would take its time: the model learns between two problems.

use super::bench::DeviceBench;
use super::lab::{Lab, problem_seed};
use crate::error::{Error, Result};
use crate::families;
use crate::model::{Config, Problem};
use crate::plan;
use crate::process;
use crate::search::{self, Guide, Order, RaceOutcome, Width};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Duration;

/// Problems that are made ready before a device comes to them.
const LOOKAHEAD: usize = 24;
/// How often the threads look whether there is something to do.
const PAUSE: Duration = Duration::from_millis(5);
/// Problems after which a model is fitted for the first time. It is fitted again after half as many more as it has seen, but no
/// later than after [`MOST_LESSONS`].
const FIRST_LESSONS: usize = 8;
const MOST_LESSONS: usize = 25;

/// The order of each problem's configs, made before it is asked for.
pub(crate) struct Ahead<'l, 'a, 'p> {
    lab: &'l Lab<'a>,
    guide: &'l Guide<'p>,
    problems: &'l [Problem],
    width: fn(&Order) -> Width,
    must_race: &'l (dyn Fn(&Problem) -> Vec<Config> + Sync),
    orders: Mutex<HashMap<Problem, Order>>,
    begun: AtomicUsize,
    done: AtomicUsize,
    /// How many problems the model has learnt from.
    learnt: AtomicUsize,
    learns: AtomicBool,
    over: AtomicBool,
}

impl<'l, 'a, 'p> Ahead<'l, 'a, 'p> {
    pub(crate) fn new(
        lab: &'l Lab<'a>,
        guide: &'l Guide<'p>,
        problems: &'l [Problem],
        must_race: &'l (dyn Fn(&Problem) -> Vec<Config> + Sync),
        width: fn(&Order) -> Width,
    ) -> Self {
        let [begun, done, learnt] = [(); 3].map(|()| AtomicUsize::new(0));
        let [learns, over] = [(); 2].map(|()| AtomicBool::new(false));
        let orders = Mutex::default();
        Self { lab, guide, problems, width, must_race, orders, begun, done, learnt, learns, over }
    }

    /// Searches a problem on a device that has turned to it.
    pub(crate) fn search(
        &self,
        bench: &mut DeviceBench<'_, '_>,
        problem: &Problem,
        must_race: &[Config],
    ) -> Result<RaceOutcome> {
        if self.is_over() {
            return Err(Error::failure("what goes on beside the devices failed"));
        }
        self.begun.fetch_add(1, Ordering::Relaxed);
        let ready = self.orders.lock().unwrap_or_else(PoisonError::into_inner).remove(problem);
        let order = ready.unwrap_or_else(|| self.guide.order(problem));
        let how = (&(self.width)(&order), problem_seed(self.lab.seed, problem));
        let candidate = |config: &Config| plan::candidate(config.clone(), problem, self.lab.profile());
        let outcome = search::search(bench, problem, &order, must_race, how, &candidate);
        self.done.fetch_add(1, Ordering::Relaxed);
        if self.is_host() && self.learns.load(Ordering::Relaxed) {
            self.learn_if_due()?;
        }
        outcome
    }

    /// Does the devices' `work` with the next problems' kernels compiling beside it.
    pub(crate) fn beside(&self, work: impl FnOnce() -> Result<()>) -> Result<()> {
        self.run(work, false)
    }

    /// The same, and learns from what was measured.
    pub(super) fn beside_and_learning(&self, work: impl FnOnce() -> Result<()>) -> Result<()> {
        self.run(work, true)
    }

    fn is_host(&self) -> bool {
        self.lab.profile().is_cpu()
    }

    fn run(&self, work: impl FnOnce() -> Result<()>, learning: bool) -> Result<()> {
        self.learns.store(learning, Ordering::Relaxed);
        if self.is_host() {
            return work();
        }
        std::thread::scope(|scope| {
            let compiling = self.start(scope, "the thread that compiles ahead", Self::compile);
            let learning = learning.then(|| self.start(scope, "the thread that learns", Self::learn));
            let threads: Result<Vec<_>> = std::iter::once(compiling).chain(learning).collect();
            let worked = threads.as_ref().map_or(Ok(()), |_| process::caught("the devices' work", work));
            self.over.store(true, Ordering::Relaxed);
            // What fails beside the devices ends their work too, and says why.
            threads?.into_iter().map(process::join).fold(Ok(()), Result::and).and(worked)
        })
    }

    /// Starts one of the threads. Where it fails, the devices come to no other problem.
    fn start<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        what: &'static str,
        work: fn(&Self) -> Result<()>,
    ) -> Result<ScopedJoinHandle<'scope, Result<()>>> {
        process::spawn_in(scope, what, move || {
            let ended = process::caught(what, || work(self));
            self.over.fetch_or(ended.is_err(), Ordering::Relaxed);
            ended
        })
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Orders the configs of the problems to come, and has the compiler make what will be tried first of each.
    fn compile(&self) -> Result<()> {
        for (place, problem) in self.problems.iter().enumerate() {
            while !self.is_over() && place >= self.begun.load(Ordering::Relaxed) + LOOKAHEAD {
                std::thread::sleep(PAUSE);
            }
            if self.is_over() {
                return Ok(());
            }
            if place < self.begun.load(Ordering::Relaxed) {
                continue; // a device was faster
            }
            let order = self.guide.order(problem);
            if let Some(compiler) = self.lab.compiler() {
                if let Ok(Some((reference, _))) = families::spec(problem.family).reference(problem) {
                    compiler.request(&reference)?;
                }
                let first = (self.width)(&order).first(order.configs.len(), problem_seed(self.lab.seed, problem));
                let first = first.into_iter().map(|place| order.configs[place].clone());
                self.lab.compile_ahead(problem, (self.must_race)(problem).into_iter().chain(first))?;
            }
            self.orders.lock().unwrap_or_else(PoisonError::into_inner).insert(*problem, order);
        }
        Ok(())
    }

    /// Fits a model every so many problems to all that was measured by then.
    fn learn(&self) -> Result<()> {
        while !self.is_over() {
            if !self.learn_if_due()? {
                std::thread::sleep(PAUSE);
            }
        }
        Ok(())
    }

    /// Fits a model where there are so many problems more than it has seen; whether it did.
    fn learn_if_due(&self) -> Result<bool> {
        let (done, learnt) = (self.done.load(Ordering::Relaxed), self.learnt.load(Ordering::Relaxed));
        let is_due = done >= learnt + (learnt / 2).clamp(FIRST_LESSONS, MOST_LESSONS);
        if is_due {
            self.learnt.store(done, Ordering::Relaxed);
            self.guide.learn(&self.lab.memory.observations())?;
        }
        Ok(is_due)
    }
}
