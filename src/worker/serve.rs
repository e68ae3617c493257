//! The inside of the measuring process.

use super::{Arm, Reply, Request, Verdict};
use crate::device::{self, Address, Deviation, Device, Fault};
use crate::error::{Error, Result};
use crate::families;
use crate::measure::{self, Measurement, Sample, Sampling, Summary, Throttling, Timer, WarmUp};
use crate::model::Problem;
use crate::process;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use std::io::{BufRead, Write};
use std::time::Instant;

/// Answers requests until the input ends or the device dies.
///
/// # Errors
/// Where a request cannot be read or the pipes break.
pub fn serve(input: &mut dyn BufRead, output: &mut dyn Write) -> Result<()> {
    let mut session = Session { device: None, problem: None, cold: false, throttling: Throttling::default() };
    process::answer_lines(input, output, |request| {
        let reply = session.answer(request).unwrap_or_else(|fault| match fault {
            Fault::Refused(error) => Reply::Refused { error },
            Fault::Dead(error) => Reply::Dead { error },
        });
        let last = matches!(reply, Reply::Dead { .. });
        Ok((reply, last))
    })
}

struct Session {
    device: Option<Box<dyn Device>>,
    problem: Option<Problem>,
    /// A GPU that has had no load yet. The host is never cold: its cores change clocks faster than a kernel runs.
    cold: bool,
    throttling: Throttling,
}

/// The device's loaded kernel as a timer. Its fault is kept, since an error alone does not tell whether the device lives.
struct Loaded<'a> {
    device: &'a mut dyn Device,
    fault: Option<Fault>,
}

impl Timer for Loaded<'_> {
    fn sample(&mut self) -> Result<Sample> {
        self.device.sample().map_err(|fault| {
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
                self.device = Some(device::open(address, support.as_ref())?);
                self.cold = address != Address::Cpu;
                Ok(Reply::Opened)
            }
            Request::Prepare { problem, seed, reference } => {
                self.problem = None;
                self.device()?.prepare(&problem, seed, reference.as_ref())?;
                self.problem = Some(problem);
                Ok(Reply::Prepared { busy_s: busy_s() })
            }
            Request::Trial { arm, sampling } => {
                let verdict = refusable(self.trial(&arm, &sampling))?;
                Ok(Reply::Trial { verdict, busy_s: busy_s() })
            }
            Request::Rounds { arms, rounds, seed } => {
                let verdicts = self.rounds(&arms, rounds, seed)?;
                Ok(Reply::Rounds { verdicts, busy_s: busy_s() })
            }
        }
    }

    fn device(&mut self) -> Result<&mut dyn Device, Fault> {
        opened(&mut self.device)
    }

    /// Loads and verifies: how far the output is from the reference where it is right, else the verdict.
    fn verify(&mut self, arm: &Arm) -> Result<Result<Deviation, Verdict>, Fault> {
        let problem = self.problem.ok_or_else(|| Fault::Refused("no problem is prepared".into()))?;
        let device = self.device()?;
        device.load(&arm.config, arm.program.as_ref())?;
        let deviation = device.verify()?;
        if deviation.is_right() {
            return Ok(Ok(deviation));
        }
        let rel_err = Some(deviation.relative).filter(|rel_err| rel_err.is_finite());
        let cols = families::spec(problem.family).tensors(&problem).output.cols();
        Ok(Err(Verdict::Wrong { rel_err, error: deviation.complaint(cols) }))
    }

    fn trial(&mut self, arm: &Arm, sampling: &Sampling) -> Result<Verdict, Fault> {
        let deviation = match self.verify(arm)? {
            Ok(deviation) => deviation,
            Err(wrong) => return Ok(wrong),
        };
        self.warm_up()?;
        let measurement = self.time(|timer, throttling| measure::measure(timer, sampling, throttling))?;
        let Deviation { relative: rel_err, worst, .. } = deviation;
        Ok(Verdict::Timed { rel_err, worst, measurement, rounds_us: Vec::new() })
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
        let mut timer = Loaded { device: opened(&mut self.device)?, fault: None };
        work(&mut timer, &mut self.throttling)
            .map_err(|error| timer.fault.unwrap_or_else(|| Fault::Refused(error.to_string())))
    }

    fn rounds(&mut self, arms: &[Arm], rounds: u32, seed: u64) -> Result<Vec<Verdict>, Fault> {
        let mut verified = Vec::new();
        for arm in arms {
            let outcome = match self.verify(arm) {
                Ok(outcome) => outcome,
                Err(Fault::Refused(error)) => Err(Verdict::Refused { error }),
                Err(dead) => return Err(dead),
            };
            verified.push(outcome);
        }
        let mut order: Vec<usize> = (0..arms.len()).filter(|index| verified[*index].is_ok()).collect();
        if let Some(first) = order.first().map(|index| &arms[*index]) {
            self.device()?.load(&first.config, first.program.as_ref())?;
            self.warm_up()?;
        }
        let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); arms.len()];
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        while samples.iter().map(Vec::len).max() < Some(rounds as usize) && !order.is_empty() {
            order.shuffle(&mut random);
            let round = self.round(arms, &order)?;
            // A throttled sample spoils its round: a pair is only fair at one clock.
            if self.throttling.drops(round.iter().any(|(_, sample)| sample.throttled)) {
                continue;
            }
            for (index, sample) in round {
                samples[index].push(sample);
            }
            let done = order.first().map_or(0, |index| samples[*index].len());
            if let Some(limit) = measure::slowest_that_stays(done) {
                let median_us = |index: &usize| measure::median(samples[*index].iter().map(|sample| sample.time.0));
                let best_us = order.iter().filter_map(median_us).fold(f64::INFINITY, f64::min);
                order.retain(|index| median_us(index).is_none_or(|median_us| median_us / best_us <= limit));
            }
        }
        Ok(verified.into_iter().zip(samples).map(|(outcome, samples)| verdict(outcome, &samples)).collect())
    }

    fn round(&mut self, arms: &[Arm], order: &[usize]) -> Result<Vec<(usize, Sample)>, Fault> {
        let device = self.device()?;
        let mut round = Vec::with_capacity(order.len());
        for &index in order {
            device.load(&arms[index].config, arms[index].program.as_ref())?;
            round.push((index, device.sample()?));
        }
        Ok(round)
    }
}

fn opened(device: &mut Option<Box<dyn Device>>) -> Result<&mut dyn Device, Fault> {
    match device {
        Some(device) => Ok(device.as_mut()),
        None => Err(Fault::Refused("no device is open".into())),
    }
}

fn verdict(outcome: Result<Deviation, Verdict>, samples: &[Sample]) -> Verdict {
    match outcome {
        Err(verdict) => verdict,
        Ok(Deviation { relative: rel_err, worst, .. }) => {
            let rounds_us: Vec<_> = samples.iter().map(|sample| sample.time.0).collect();
            let measurement = Measurement {
                summary: Summary::of(&rounds_us),
                sm_mhz: samples.last().and_then(|sample| sample.sm_mhz),
                throttled: samples.iter().any(|sample| sample.throttled),
            };
            Verdict::Timed { rel_err, worst, measurement, rounds_us }
        }
    }
}

/// A refused kernel is a verdict; a dead device is not.
fn refusable(verdict: Result<Verdict, Fault>) -> Result<Verdict, Fault> {
    match verdict {
        Err(Fault::Refused(error)) => Ok(Verdict::Refused { error }),
        other => other,
    }
}
