//! The inside of the measuring process.

use super::{Arm, RaceResults, Reply, Request, Verdict};
use crate::device::{self, Address, Callee, Deviation, Device, Fault};
use crate::error::{Error, Result};
use crate::families::TensorSpec;
use crate::measure::{self, Measurement, RacePlan, Sample, Sampling, Summary, Throttling, Timer, WarmUp, Watch};
use crate::model::Bytes;
use crate::process;
use rand::SeedableRng;
use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

/// Answers requests until the input ends or the device dies. A `callee` runs what configs are in its language.
///
/// # Errors
/// Where a request cannot be read or the pipes break.
pub fn serve(input: &mut dyn BufRead, output: &mut dyn Write, callee: Option<Box<dyn Callee>>) -> Result<()> {
    let mut session = Session {
        callee,
        device: None,
        columns: None,
        cold: false,
        throttling: Throttling::default(),
        watch: Watch::default(),
        started: Instant::now(),
    };
    process::answer_lines(input, output, |request| {
        let reply = session.answer(request).unwrap_or_else(|fault| match fault {
            Fault::Refused(error) | Fault::Unbuilt(error) | Fault::Wrong(error) => Reply::Refused { error },
            Fault::Dead(error) => Reply::Dead { error },
            Fault::Trouble(error) => Reply::Trouble { error },
        });
        let last = matches!(reply, Reply::Dead { .. } | Reply::Trouble { .. });
        Ok((reply, last))
    })
}

struct Session {
    /// Until the device is open, which takes it.
    callee: Option<Box<dyn Callee>>,
    device: Option<Box<dyn Device>>,
    /// Columns of the outputs of what is prepared.
    columns: Option<Vec<u64>>,
    /// A GPU that has had no load yet. The host is never cold: its cores change clocks faster than a kernel runs.
    cold: bool,
    throttling: Throttling,
    /// Whether the device has other work.
    watch: Watch,
    started: Instant,
}

/// Looks of a device that was never seen: the first ones tell how fast it is at its best.
const FIRST_LOOKS: usize = 3;
/// How often the device is looked at between trials. A look takes a host some 7 ms.
const BETWEEN_TRIALS: Duration = Duration::from_millis(200);
/// Before a race, which makes the document, it is looked at unless that was done so short a time ago, and after it in any case.
const BEFORE_RACE: Duration = Duration::from_millis(20);
/// How long a quiet moment is waited for at once, and how often it is looked for.
const QUIET_WAIT: Duration = Duration::from_millis(500);
const QUIET_PAUSE: Duration = Duration::from_millis(50);

/// The device's loaded kernel as a timer. Its fault is kept, since an error alone does not tell whether the device lives.
struct Loaded<'a> {
    device: &'a mut dyn Device,
    round: u32,
    fault: Option<Fault>,
}

impl Timer for Loaded<'_> {
    fn sample(&mut self) -> Result<Sample> {
        self.round += 1;
        self.device.sample(self.round - 1).map_err(|fault| {
            let error = Error::failure(&fault);
            self.fault = Some(fault);
            error
        })
    }
}

impl Session {
    fn answer(&mut self, request: Request) -> Result<Reply, Fault> {
        let started = Instant::now();
        let busy_s = || started.elapsed().as_secs_f64();
        match request {
            Request::Open { address, support } => {
                process::end_with_parent().map_err(|error| Fault::Trouble(error.to_string()))?;
                self.device = Some(device::open(address, support.as_ref(), self.callee.take())?);
                self.cold = address != Address::Cpu;
                Ok(Reply::Opened)
            }
            Request::Control { known_good } => {
                self.device()?.canary()?;
                if let Some(arm) = known_good
                    && let Err(wrong) = self.verify(&arm)?
                {
                    return Err(Fault::Trouble(format!("{} was right before, and is not now: {wrong:?}", arm.config)));
                }
                Ok(Reply::Sound)
            }
            Request::Prepare { task, seed, reference } => {
                self.columns = None;
                self.device()?.prepare(&task, seed, reference.as_ref())?;
                self.columns = Some(task.outputs.iter().map(TensorSpec::cols).collect());
                Ok(Reply::Prepared { busy_s: busy_s() })
            }
            Request::Trial { arm, sampling } => {
                let verdict = refusable(self.trial(&arm, &sampling))?;
                Ok(Reply::Trial { verdict, busy_s: busy_s() })
            }
            Request::Race { arms, plan, seed } => {
                let results = self.race(&arms, &plan, seed)?;
                Ok(Reply::Race { results, busy_s: busy_s() })
            }
        }
    }

    fn device(&mut self) -> Result<&mut dyn Device, Fault> {
        opened(&mut self.device)
    }

    /// Loads and verifies: how far the output is from the reference where it is right, else the verdict.
    fn verify(&mut self, arm: &Arm) -> Result<Result<Deviation, Verdict>, Fault> {
        let columns = self.columns.clone().ok_or_else(|| Fault::Refused("no problem is prepared".into()))?;
        let device = self.device()?;
        device.load(&arm.config, arm.program.as_ref())?;
        let deviation = match device.verify() {
            Err(Fault::Wrong(error)) => return Ok(Err(Verdict::Wrong { rel_err: None, error })),
            verified => verified?,
        };
        if deviation.is_right() {
            return Ok(Ok(deviation));
        }
        let rel_err = Some(deviation.relative).filter(|rel_err| rel_err.is_finite());
        Ok(Err(Verdict::Wrong { rel_err, error: deviation.complaint(&columns) }))
    }

    fn trial(&mut self, arm: &Arm, sampling: &Sampling) -> Result<Verdict, Fault> {
        let deviation = match self.verify(arm)? {
            Ok(deviation) => deviation,
            Err(wrong) => return Ok(wrong),
        };
        self.warm_up()?;
        let (mut measurement, loaded) = self.undisturbed(false, &mut |session| {
            session.time(|timer, throttling| measure::measure(timer, sampling, throttling))
        })?;
        measurement.loaded = loaded;
        let Deviation { relative: rel_err, worst, .. } = deviation;
        let local_memory = self.device()?.local_memory()?;
        Ok(Verdict::Timed { rel_err, worst, measurement, rounds_us: Vec::new(), local_memory })
    }

    /// Before the first sample that counts; the kernel that is loaded is the load.
    fn warm_up(&mut self) -> Result<(), Fault> {
        if std::mem::take(&mut self.cold) {
            let started = Instant::now();
            self.time(|timer, _| measure::warm_up(timer, &WarmUp::default(), &|| started.elapsed()))?;
        }
        Ok(())
    }

    /// Has the loaded kernel timed.
    fn time<T>(&mut self, work: impl FnOnce(&mut dyn Timer, &mut Throttling) -> Result<T>) -> Result<T, Fault> {
        let mut timer = Loaded { device: opened(&mut self.device)?, round: 0, fault: None };
        work(&mut timer, &mut self.throttling)
            .map_err(|error| timer.fault.unwrap_or_else(|| Fault::Refused(error.to_string())))
    }

    /// Measures, and where other work disturbs the device meanwhile once more in a quiet moment, if that comes soon enough. With
    /// what was measured, whether it was disturbed.
    fn undisturbed<T>(
        &mut self,
        is_race: bool,
        measure: &mut dyn FnMut(&mut Self) -> Result<T, Fault>,
    ) -> Result<(T, bool), Fault> {
        if self.watch.is_new() {
            (1..FIRST_LOOKS).try_for_each(|_| self.look().map(drop))?;
        }
        let is_disturbed = |session: &mut Self| {
            let interval = if is_race { BEFORE_RACE } else { BETWEEN_TRIALS };
            let is_due = session.watch.is_due(session.started.elapsed(), interval);
            if is_due { session.look() } else { Ok(session.watch.is_disturbed()) }
        };
        let before = is_disturbed(self)?;
        let begun = Instant::now();
        let measured = measure(self)?;
        let took = begun.elapsed();
        let after = if is_race { self.look()? } else { is_disturbed(self)? };
        if !(before || after) {
            return Ok((measured, false));
        }
        let begun = Instant::now();
        let patience = self.watch.patience(self.started.elapsed()).saturating_sub(took).min(QUIET_WAIT);
        let mut is_quiet = false;
        while !is_quiet && begun.elapsed() < patience {
            std::thread::sleep(QUIET_PAUSE);
            is_quiet = !self.look()?;
        }
        let outcome = if is_quiet { (measure(self)?, self.look()?) } else { (measured, true) };
        self.watch.spend(begun.elapsed());
        Ok(outcome)
    }

    /// Looks at the device; whether it has other work.
    fn look(&mut self) -> Result<bool, Fault> {
        let since = self.started.elapsed();
        let times_us = self.device()?.canary()?;
        Ok(self.watch.look(&times_us, since, self.started.elapsed()))
    }

    fn race(&mut self, arms: &[Arm], plan: &RacePlan, seed: u64) -> Result<RaceResults, Fault> {
        let mut verified = Vec::new();
        for arm in arms {
            let outcome = match self.verify(arm) {
                Ok(outcome) => outcome,
                Err(fault) => Err(refusable(Err(fault))?),
            };
            verified.push(outcome);
        }
        let racers: Vec<&Arm> =
            arms.iter().zip(&verified).filter_map(|(arm, outcome)| outcome.is_ok().then_some(arm)).collect();
        if let Some(first) = racers.first() {
            self.device()?.load(&first.config, first.program.as_ref())?;
            self.warm_up()?;
        }
        let anchors: Vec<bool> = racers.iter().map(|arm| arm.anchor).collect();
        let (raced, loaded) = self.undisturbed(true, &mut |session| {
            let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
            let device = opened(&mut session.device)?;
            measure::race(&anchors, plan, &mut session.throttling, &mut random, &mut |racer, round| {
                device.load(&racers[racer].config, racers[racer].program.as_ref())?;
                device.sample(round)
            })
        })?;
        let places: Vec<usize> = (0..arms.len()).filter(|place| verified[*place].is_ok()).collect();
        let errors: Vec<Deviation> = verified.iter().filter_map(|outcome| outcome.as_ref().ok().copied()).collect();
        let timed = |racer: usize, summary: Summary, samples: &[Sample]| Verdict::Timed {
            rel_err: errors[racer].relative,
            worst: errors[racer].worst,
            measurement: Measurement { loaded, ..Measurement::of_race(summary, samples) },
            rounds_us: times_us(samples),
            local_memory: Bytes(0),
        };
        let mut racers = 0..;
        let verdicts = verified.iter().map(|outcome| {
            if let Err(verdict) = outcome {
                return verdict.clone();
            }
            let racer = racers.next().unwrap_or_default();
            timed(racer, raced.summary(racer), &raced.arms[racer])
        });
        Ok(RaceResults {
            verdicts: verdicts.collect(),
            chosen_by: raced.chosen_by,
            null_arm: raced
                .null_arm
                .as_ref()
                .map(|(winner, samples)| (places[*winner], timed(*winner, Summary::of(&times_us(samples)), samples))),
        })
    }
}

fn times_us(samples: &[Sample]) -> Vec<f64> {
    samples.iter().map(|sample| sample.time.0).collect()
}

fn opened(device: &mut Option<Box<dyn Device>>) -> Result<&mut dyn Device, Fault> {
    match device {
        Some(device) => Ok(device.as_mut()),
        None => Err(Fault::Refused("no device is open".into())),
    }
}

/// A refused kernel is a verdict; a dead device is not.
fn refusable(verdict: Result<Verdict, Fault>) -> Result<Verdict, Fault> {
    match verdict {
        Err(Fault::Refused(error)) => Ok(Verdict::Refused { error }),
        Err(Fault::Unbuilt(error)) => Ok(Verdict::Unbuilt { error }),
        other => other,
    }
}
