//! The journal's lines.

use crate::model::{Config, Dtype, Family, GpuProfile, Micros, Problem, Shape};
use serde::{Deserialize, Serialize};

/// The environment the trials after it were measured in. An archive has all of its journals' headers first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the journal format.
    pub schema: u32,
    /// The device's full name.
    pub gpu: String,
    /// The architecture kernels are compiled for.
    pub arch: String,
    /// The driver's version.
    pub driver: String,
    /// The run-time compiler's version.
    pub nvrtc: String,
    /// The name and version of the sampling protocol.
    pub protocol: String,
    /// This tool's version.
    pub sweep: String,
    /// When the sweep started, RFC 3339 in UTC.
    pub started: String,
}

/// What became of a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Verified and timed.
    Ok,
    /// The output is not the reference's; never timed.
    Wrong,
    /// The compiler refused the kernel.
    CompileFailed,
    /// The compiler ran past its deadline.
    CompileTimeout,
    /// The driver refused the launch.
    LaunchFailed,
    /// The kernel broke the context or the worker process.
    Crashed,
    /// The kernel ran past its deadline.
    Timeout,
    /// Illegal on this GPU or problem; never compiled or never launched.
    Pruned,
}

/// Which part of the search asked for a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// A few samples of what is promising, and of some others at random.
    Screen,
    /// More samples of what is one knob away from the best of these.
    Refine,
    /// Interleaved rounds among the best.
    Final,
    /// A finalist of one problem on another of its bucket or group.
    Cross,
}

/// One (problem, config) tried once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// The family.
    pub family: Family,
    /// The problem's dimensions.
    pub problem: Shape,
    /// The problem's type.
    pub dtype: Dtype,
    /// The config tried.
    pub config: Config,
    /// What became of it.
    pub status: Status,
    /// Which part of the search asked for it.
    pub stage: Stage,
    /// What configs are compared by: the mean of the fastest half of the samples below 50 µs, else their median; in a final those
    /// of the rounds that did not choose. Times are there where the status is `ok`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_us: Option<Micros>,
    /// Median of the same samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub median_us: Option<Micros>,
    /// First quartile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub q1_us: Option<Micros>,
    /// Third quartile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub q3_us: Option<Micros>,
    /// Least sample.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_us: Option<Micros>,
    /// How many samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<u32>,
    /// ‖out − reference‖ / ‖reference‖.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rel_err: Option<f64>,
    /// SM clock while it ran, by the GPU's own counters: the median of its samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sm_mhz: Option<u32>,
    /// More samples than the cap were taken while the GPU was throttled.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub throttled: bool,
    /// Final and cross stages only: the time of each interleaved round, in round order, so that two configs of one race can be
    /// compared by paired differences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rounds_us: Vec<f64>,
    /// Which race it ran in: arms of one race ran in the same rounds, and compare by these. Nothing where it ran alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub race: Option<u64>,
    /// Rounds of its race before its own first one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub joined: u32,
    /// Rounds of its race that chose the winner. Those after it, which nobody had looked at by then, report how far the others
    /// are behind.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub chosen_by: u32,
    /// Which physical device it ran on: eight hex digits of a hash of its UUID. No part of a trial's identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Final stage only: this is the duplicate of the winner, whose distance to it is noise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub null_arm: bool,
    /// Why it failed, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Hash of the kernel: source, macros, compiler and architecture.
    pub kernel: String,
}

/// Times are told in steps of a nanosecond, so that their order may be off by two.
const ROUNDING_US: f64 = 0.002;

impl Trial {
    /// What is wrong with it, where its problem is none, or its statistics are such as no clock can have said.
    pub fn contradiction(&self) -> Option<String> {
        if let Err(error) = self.problem().check() {
            return Some(error.to_string());
        }
        // The first four in ascending order.
        let named = [
            ("min_us", self.min_us),
            ("q1_us", self.q1_us),
            ("median_us", self.median_us),
            ("q3_us", self.q3_us),
            ("time_us", self.time_us),
        ];
        if let Some((name, time)) = named.iter().find_map(|(name, time)| Some((name, time.filter(|us| us.0 <= 0.0)?))) {
            return Some(format!("{name} is {time}"));
        }
        if let Some(round) = self.rounds_us.iter().find(|us| **us <= 0.0) {
            return Some(format!("a round took {round} µs"));
        }
        let told = named[..4].iter().filter_map(|(name, us)| Some((*name, (*us)?)));
        let ascending: Vec<(&str, Micros)> = told.collect();
        ascending.windows(2).find_map(|pair| {
            let [(below, less), (above, more)] = pair else { return None };
            (less.0 > more.0 + ROUNDING_US).then(|| format!("{below} {less} is more than {above} {more}"))
        })
    }
}

impl Header {
    /// The version of the journal format that this tool reads and writes.
    pub const SCHEMA: u32 = 1;

    /// The short name of the device, as `--gpu` takes it. The host needs no compiler.
    pub fn device(&self) -> String {
        if self.nvrtc.is_empty() { GpuProfile::CPU.to_owned() } else { GpuProfile::short_name(&self.gpu) }
    }
}

impl Trial {
    /// A trial that says nothing yet but what was tried and what became of it.
    pub fn untimed(problem: &Problem, config: Config, stage: Stage, status: Status) -> Self {
        Self {
            family: problem.family,
            problem: problem.shape,
            dtype: problem.dtype,
            config,
            status,
            stage,
            time_us: None,
            median_us: None,
            q1_us: None,
            q3_us: None,
            min_us: None,
            samples: None,
            rel_err: None,
            sm_mhz: None,
            throttled: false,
            rounds_us: Vec::new(),
            race: None,
            joined: 0,
            chosen_by: 0,
            device: None,
            null_arm: false,
            error: None,
            kernel: String::new(),
        }
    }

    /// What configs are compared by; of journals that do not have it the median.
    pub fn time(&self) -> Option<Micros> {
        self.time_us.or(self.median_us)
    }

    /// The problem that was tried.
    pub fn problem(&self) -> Problem {
        Problem { family: self.family, shape: self.problem, dtype: self.dtype }
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde asks
fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// A line of the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Line {
    /// The first line, and wherever the environment changed since.
    Header(Header),
    /// Every other line.
    Trial(Box<Trial>),
}
