//! The line protocol: one JSON request a line in, one reply a line out. The tool's own measuring process speaks it (`sweep worker`),
//! and so does one of Python for what is called there (`python -m kernel_sweep._process measure FILE NAME`): both answer by
//! [`super::serve`], which holds the stream, flushes and times; what Python does in between is [`crate::device::Callee`]'s.

use super::Failure;
use crate::device::{Address, Program};
use crate::families::Task;
use crate::measure::{Measurement, RacePlan, Sampling};
use crate::model::{Bytes, Config};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A config and, on devices that run compiled kernels, its program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Arm {
    /// The config.
    pub config: Config,
    /// Its compiled kernel.
    pub program: Option<Program>,
    /// In a race it stays, however far behind the best it is, unless it is hopeless: others are measured against it.
    pub anchor: bool,
}

/// What the worker is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Request {
    /// Open the device; the first request.
    Open {
        /// Which.
        address: Address,
        /// The cubin of the support kernels.
        support: Option<PathBuf>,
    },
    /// Run what is known to be good: the canary and, where one is named, a config that was right on the prepared problem.
    Control {
        /// That config.
        known_good: Option<Arm>,
    },
    /// Make a task's inputs and reference.
    Prepare {
        /// The tensors, and what is right of them.
        task: Box<Task>,
        /// Seed of the inputs.
        seed: u64,
        /// The reference kernel.
        reference: Option<Program>,
    },
    /// Verify a config on the prepared problem, then time it.
    Trial {
        /// What to try.
        arm: Arm,
        /// How many samples.
        sampling: Sampling,
    },
    /// Verify several configs, then time them in interleaved rounds, in a fresh random order each round.
    Race {
        /// What to try.
        arms: Vec<Arm>,
        /// How long, and who drops out.
        plan: RacePlan,
        /// Seed of the orders.
        seed: u64,
    },
}

/// How a config did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// Right, and timed.
    Timed {
        /// Its distance from the reference.
        rel_err: f64,
        /// The largest error of an element, over what is allowed there.
        worst: f64,
        /// Its times.
        measurement: Measurement,
        /// Races only: the time of each round in microseconds.
        rounds_us: Vec<f64>,
        /// Trials only: local memory of a thread, where the driver alone tells of it ([`crate::device::Device::local_memory`]).
        local_memory: Bytes,
    },
    /// Its output is not the reference's.
    Wrong {
        /// Its distance from the reference; none where it is not finite.
        rel_err: Option<f64>,
        /// How many elements, by how much, and where the first of them is.
        error: String,
    },
    /// The driver refused it.
    Refused {
        /// Why.
        error: String,
    },
    /// What was to build it, in another language, refused.
    Unbuilt {
        /// Why.
        error: String,
    },
}

impl Verdict {
    /// This, where it is right and timed.
    ///
    /// # Errors
    /// What is to be said against it.
    pub fn timed(self) -> Result<Self, Failure> {
        match self {
            Self::Wrong { rel_err, error } => Err(Failure::Wrong { rel_err, error }),
            Self::Refused { error } => Err(Failure::Refused(error)),
            Self::Unbuilt { error } => Err(Failure::Unbuilt(error)),
            timed @ Self::Timed { .. } => Ok(timed),
        }
    }
}

/// How the arms of a race did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RaceResults {
    /// How they did, in their order.
    pub verdicts: Vec<Verdict>,
    /// The first rounds, which chose the winner; 0 where nothing was chosen.
    pub chosen_by: u32,
    /// The winner by its place among the arms, and how its duplicate did in the rounds after those.
    pub null_arm: Option<(usize, Verdict)>,
}

/// What the worker answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// The device is open.
    Opened,
    /// What is known to be good is so.
    Sound,
    /// The problem is prepared.
    Prepared {
        /// Seconds the device was busy with it, by the worker's clock.
        busy_s: f64,
    },
    /// The verdict on a trial.
    Trial {
        /// How it did.
        verdict: Verdict,
        /// Seconds the device was busy with it, by the worker's clock.
        busy_s: f64,
    },
    /// What a race came to.
    Race {
        /// How the arms did.
        results: RaceResults,
        /// Seconds the device was busy with them.
        busy_s: f64,
    },
    /// The request could not be done, but the worker goes on.
    Refused {
        /// Why.
        error: String,
    },
    /// What ran broke the device for this process, which ends.
    Dead {
        /// Why.
        error: String,
    },
    /// The machine fails, whatever was asked; the process ends.
    Trouble {
        /// Why.
        error: String,
    },
}
