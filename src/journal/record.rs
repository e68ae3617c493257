//! The journal's lines.

use crate::error::{Error, Result};
use crate::model::{Bytes, Config, Dtype, Family, GpuProfile, Identity, Likeness, Micros, Problem, Shape};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// The environment the trials after it were measured in. An archive has all of its journals' headers first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the journal format.
    pub schema: u32,
    /// The device's full name.
    pub gpu: String,
    /// The architecture kernels are compiled for.
    pub arch: String,
    /// The driver's version; empty where nobody told it.
    pub driver: String,
    /// The run-time compiler's version.
    pub nvrtc: String,
    /// The name and version of the sampling protocol.
    pub protocol: String,
    /// This tool's version.
    pub sweep: String,
    /// When the sweep started, RFC 3339 in UTC.
    pub started: String,
    /// The device's multiprocessors, or the host's cores. Older journals do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multiprocessors: Option<u32>,
    /// The device's memory in bytes. Older journals do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<Bytes>,
    /// Drivers whose trials were taken over all the same, as the user said with `--accept-driver`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub accepted_drivers: BTreeSet<String>,
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
    /// Other work disturbed the device while it ran, as a canary kernel showed: its times may be too long.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub loaded: bool,
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
    /// Final stage only: it raced before all was tried that would have been, since the problem's time was up. Another run tries the rest.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
    /// Why it failed, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Hash of the kernel: source, macros, compiler and architecture.
    pub kernel: String,
}

/// Times are told in steps of a nanosecond, so that their order may be off by two.
const ROUNDING_US: f64 = 0.002;
/// No deadline is longer than a day, and no kernel.
const LONGEST_US: f64 = 86_400e6;
/// No chip's clock comes near.
const FASTEST_MHZ: u32 = 20_000;

impl Trial {
    /// What is wrong with it, where its problem is none, or its figures are such as no clock and no comparison can have said: out of
    /// their range, or in contradiction with each other.
    pub fn contradiction(&self) -> Option<String> {
        if let Err(error) = self.problem().check() {
            return Some(error.to_string());
        }
        // In ascending order.
        let ascending =
            [("min_us", self.min_us), ("q1_us", self.q1_us), ("median_us", self.median_us), ("q3_us", self.q3_us)];
        let times = ascending.into_iter().chain([("time_us", self.time_us)]);
        let times: Vec<(&str, Micros)> = times.filter_map(|(name, time)| Some((name, time?))).collect();
        let is_time = |us: f64| us > 0.0 && us <= LONGEST_US;
        if let Some((name, time)) = times.iter().find(|(_, time)| !is_time(time.0)) {
            return Some(format!("{name} is {time}"));
        }
        if let Some(round) = self.rounds_us.iter().find(|us| !is_time(**us)) {
            return Some(format!("a round took {round} µs"));
        }
        if self.status != Status::Ok && !(times.is_empty() && self.rounds_us.is_empty()) {
            return Some("it failed and has times".to_owned());
        }
        if self.samples == Some(0) {
            return Some("samples is 0".to_owned());
        }
        // A right output is nearer to the reference than nothing at all is.
        let most = if self.status == Status::Ok { 1.0 } else { f64::INFINITY };
        if let Some(rel_err) = self.rel_err.filter(|rel_err| !(0.0..=most).contains(rel_err)) {
            return Some(format!("rel_err is {rel_err}"));
        }
        if let Some(sm_mhz) = self.sm_mhz.filter(|mhz| *mhz == 0 || *mhz > FASTEST_MHZ) {
            return Some(format!("sm_mhz is {sm_mhz}"));
        }
        // Of the fastest half of the samples, or of all of them.
        let summary = [("min_us", self.min_us), ("time_us", self.time_us), ("median_us", self.median_us)];
        out_of_order(&ascending).or_else(|| out_of_order(&summary))
    }
}

/// The first two of some times, told in ascending order as far as they are told, that are not.
fn out_of_order(ascending: &[(&str, Option<Micros>)]) -> Option<String> {
    let told: Vec<(&str, Micros)> = ascending.iter().filter_map(|(name, us)| Some((*name, (*us)?))).collect();
    told.windows(2).find_map(|pair| {
        let [(below, less), (above, more)] = pair else { return None };
        (less.0 > more.0 + ROUNDING_US).then(|| format!("{below} {less} is more than {above} {more}"))
    })
}

impl Header {
    /// The version of the journal format that this tool reads and writes.
    pub const SCHEMA: u32 = 1;

    /// The short name of the device, as `--gpu` takes it. The host needs no compiler.
    pub fn device(&self) -> String {
        if self.nvrtc.is_empty() { GpuProfile::CPU.to_owned() } else { GpuProfile::short_name(&self.gpu) }
    }

    /// The device, as it is told from others.
    pub fn identity(&self) -> Identity {
        Identity { name: self.gpu.clone(), multiprocessors: self.multiprocessors, memory: self.memory_bytes }
    }

    /// Refuses what was measured on another GPU than the one of this short name.
    ///
    /// # Errors
    /// Where that is so; the message names both.
    pub fn refuse_other_gpu(&self, gpu: &str) -> Result<()> {
        let device = self.device();
        if device == gpu {
            return Ok(());
        }
        Err(Error::usage(format!("measured on {} ({device}), so it says nothing of {gpu}", self.gpu)))
    }

    /// What keeps trials under an `earlier` header from standing beside those under this one. A driver that is not known is not
    /// the same as any, itself among them.
    pub fn changes_since(&self, earlier: &Self) -> Vec<Change> {
        let (was, is) = (earlier.identity(), self.identity());
        let mut changes = Vec::new();
        match was.likeness(&is) {
            Likeness::Same => {}
            Likeness::Unknown => changes.push(Change::UnknownDevice { was, is }),
            Likeness::Other => changes.push(Change::Device { was, is }),
        }
        if earlier.protocol != self.protocol {
            changes.push(Change::Protocol { was: earlier.protocol.clone(), is: self.protocol.clone() });
        }
        if earlier.driver != self.driver || self.driver.is_empty() {
            changes.push(Change::Driver { was: earlier.driver.clone(), is: self.driver.clone() });
        }
        changes
    }
}

/// What keeps trials of two environments apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Another device, or another slice of one.
    Device {
        /// The earlier one.
        was: Identity,
        /// The later one.
        is: Identity,
    },
    /// A device of the same name, of which one journal does not tell the size.
    UnknownDevice {
        /// The earlier one.
        was: Identity,
        /// The later one.
        is: Identity,
    },
    /// Another sampling protocol.
    Protocol {
        /// The earlier one.
        was: String,
        /// The later one.
        is: String,
    },
    /// Another driver, or one that is not known.
    Driver {
        /// The earlier one's version.
        was: String,
        /// The later one's.
        is: String,
    },
}

impl Change {
    /// Whether the user may take over the earlier trials all the same.
    pub fn is_acceptable(&self) -> bool {
        matches!(self, Self::UnknownDevice { .. } | Self::Driver { .. })
    }
}

/// `driver 580.1 → 590.2`
impl fmt::Display for Change {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = |driver: &str| if driver.is_empty() { "unknown".to_owned() } else { driver.to_owned() };
        match self {
            Self::Device { was, is } => write!(out, "device {was} → {is}"),
            Self::UnknownDevice { was, is } => write!(out, "device {was} → {is}, one of unknown size"),
            Self::Protocol { was, is } => write!(out, "protocol {was} → {is}"),
            Self::Driver { was, is } => write!(out, "driver {} → {}", known(was), known(is)),
        }
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
            loaded: false,
            rounds_us: Vec::new(),
            race: None,
            joined: 0,
            chosen_by: 0,
            device: None,
            null_arm: false,
            cut: false,
            error: None,
            kernel: String::new(),
        }
    }

    /// What configs are compared by; of journals that do not have it the median.
    pub fn time(&self) -> Option<Micros> {
        self.time_us.or(self.median_us)
    }

    /// Whether it failed by what may pass: the next run tries again. A time-out may be a busy machine's, and a driver refuses what it
    /// has no room for at the moment. An earlier version left out what has local memory by the driver's word, which is none of spills.
    pub fn may_pass(&self) -> bool {
        /// How it began what it said of them.
        const LOCAL_MEMORY: &str = "spills: a thread has ";
        let had_local_memory = || self.error.as_ref().is_some_and(|error| error.starts_with(LOCAL_MEMORY));
        matches!(self.status, Status::Timeout | Status::CompileTimeout | Status::LaunchFailed)
            || self.status == Status::Pruned && had_local_memory()
    }

    /// The problem that was tried.
    pub fn problem(&self) -> Problem {
        Problem { family: self.family, shape: self.problem.in_order_of(self.family), dtype: self.dtype }
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde asks
fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// A line of the journal.
#[allow(clippy::large_enum_variant)] // a header is read or written once for thousands of trials
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Line {
    /// The first line, and wherever the environment changed since.
    Header(Header),
    /// Every other line.
    Trial(Box<Trial>),
}

#[allow(clippy::unwrap_used)]
#[cfg(test)]
mod tests {
    use super::*;

    fn trial(status: Status, change: impl Fn(&mut Trial)) -> Trial {
        let problem = Problem::parse(Family::Elementwise, "numel=64", Dtype::Bf16).unwrap();
        let mut trial = Trial::untimed(&problem, Config::default(), Stage::Final, status);
        change(&mut trial);
        trial
    }

    /// A trial that contradicts itself in nothing, but for the change.
    fn timed(change: impl Fn(&mut Trial)) -> Trial {
        let us = |time: f64| Some(Micros(time));
        trial(Status::Ok, |trial| {
            (trial.min_us, trial.q1_us, trial.time_us) = (us(5.0), us(6.0), us(6.5));
            (trial.median_us, trial.q3_us, trial.rounds_us) = (us(7.0), us(8.0), vec![5.0, 8.0]);
            (trial.samples, trial.rel_err, trial.sm_mhz) = (Some(2), Some(0.002), Some(1980));
            change(trial);
        })
    }

    #[test]
    fn figures_that_no_clock_and_no_comparison_can_have_said_are_contradictions() {
        type Edit = fn(&mut Trial);
        let us = |time: f64| Some(Micros(time));
        assert_eq!(timed(|_| {}).contradiction(), None);
        let right: [(&str, Edit); 9] = [
            ("nothing told", |trial| *trial = self::trial(Status::Ok, |_| {})),
            ("a day", |trial| trial.q3_us = Some(Micros(86_400e6))),
            ("order within the rounding", |trial| trial.min_us = Some(Micros(6.0015))),
            ("the same throughout", |trial| {
                let same = Some(Micros(7.0));
                (trial.min_us, trial.q1_us, trial.time_us, trial.q3_us) = (same, same, same, same);
            }),
            ("the reference itself", |trial| trial.rel_err = Some(0.0)),
            ("as far off as nothing", |trial| trial.rel_err = Some(1.0)),
            ("the fastest clock", |trial| trial.sm_mhz = Some(FASTEST_MHZ)),
            ("one sample", |trial| trial.samples = Some(1)),
            ("wrong by far", |trial| *trial = self::trial(Status::Wrong, |wrong| wrong.rel_err = Some(30.0))),
        ];
        for (what, edit) in right {
            assert_eq!(timed(edit).contradiction(), None, "{what}");
        }
        let wrong: [(&str, Edit); 15] = [
            ("min_us is 0", |trial| trial.min_us = Some(Micros(0.0))),
            ("q1_us is -", |trial| trial.q1_us = Some(Micros(-6.0))),
            ("time_us is NaN", |trial| trial.time_us = Some(Micros(f64::NAN))),
            ("q3_us is", |trial| trial.q3_us = Some(Micros(86_401e6))),
            ("a round took 0 µs", |trial| trial.rounds_us[1] = 0.0),
            ("a round took inf µs", |trial| trial.rounds_us[0] = f64::INFINITY),
            ("it failed and has times", |trial| (trial.status, trial.rounds_us) = (Status::Wrong, Vec::new())),
            ("it failed and has times", |trial| {
                *trial = self::trial(Status::Crashed, |crashed| crashed.rounds_us = vec![5.0]);
            }),
            ("samples is 0", |trial| trial.samples = Some(0)),
            ("rel_err is 1.01", |trial| trial.rel_err = Some(1.01)),
            ("rel_err is -0.1", |trial| trial.rel_err = Some(-0.1)),
            ("rel_err is NaN", |trial| *trial = self::trial(Status::Wrong, |wrong| wrong.rel_err = Some(f64::NAN))),
            ("sm_mhz is 0", |trial| trial.sm_mhz = Some(0)),
            ("sm_mhz is 20001", |trial| trial.sm_mhz = Some(20_001)),
            ("is more than time_us", |trial| (trial.q1_us, trial.min_us) = (None, Some(Micros(6.6)))),
        ];
        for (said, edit) in wrong {
            let contradiction = timed(edit).contradiction();
            assert!(contradiction.as_ref().is_some_and(|text| text.contains(said)), "{said}: {contradiction:?}");
        }
        let order = timed(|trial| trial.q1_us = Some(Micros(7.003))).contradiction().unwrap();
        assert!(order.contains("q1_us") && order.contains("is more than median_us"), "{order}");
        let order = timed(|trial| trial.time_us = Some(Micros(7.003))).contradiction().unwrap();
        assert!(order.contains("time_us") && order.contains("is more than median_us"), "{order}");
        let older = timed(|trial| (trial.time_us, trial.median_us) = (None, us(7.0)));
        assert_eq!((older.time(), timed(|_| {}).time()), (us(7.0), us(6.5)), "journals of before have medians alone");
    }

    #[test]
    fn trials_stand_together_where_device_protocol_and_a_known_driver_are_the_same() {
        let header = Header {
            gpu: "NVIDIA H200".to_owned(),
            driver: "580.1".to_owned(),
            nvrtc: "13.0.88".to_owned(),
            protocol: "cold-l2/2".to_owned(),
            multiprocessors: Some(132),
            ..Header::default()
        };
        let said = |header: &Header, earlier: &Header| {
            let changes = header.changes_since(earlier).into_iter();
            changes.map(|change| (change.to_string(), change.is_acceptable())).collect::<Vec<_>>()
        };
        let other = |change: fn(&mut Header)| {
            let mut other = header.clone();
            change(&mut other);
            other
        };
        assert_eq!(said(&header, &header), []);
        let driver = other(|header| header.driver = "590.2".to_owned());
        assert_eq!(said(&driver, &header), [("driver 580.1 → 590.2".to_owned(), true)]);
        let unknown = other(|header| header.driver.clear());
        assert_eq!(said(&unknown, &header), [("driver 580.1 → unknown".to_owned(), true)]);
        assert_eq!(said(&header, &unknown), [("driver unknown → 580.1".to_owned(), true)]);
        assert_eq!(said(&unknown, &unknown), [("driver unknown → unknown".to_owned(), true)]);
        let protocol = other(|header| header.protocol = "cold-l2/3".to_owned());
        assert_eq!(said(&protocol, &header), [("protocol cold-l2/2 → cold-l2/3".to_owned(), false)]);
        let [gpu, untold] =
            [other(|header| header.multiprocessors = Some(66)), other(|header| header.multiprocessors = None)];
        assert!(matches!(&said(&gpu, &header)[..], [(text, false)] if text.starts_with("device NVIDIA H200 (132")));
        assert!(matches!(&said(&header, &untold)[..], [(text, true)] if text.ends_with("one of unknown size")));
    }

    #[test]
    fn a_journal_is_of_the_gpu_that_it_was_measured_on() {
        let header = Header { gpu: "NVIDIA H200".to_owned(), nvrtc: "13.0.88".to_owned(), ..Header::default() };
        assert_eq!(header.device(), "h200");
        assert!(header.refuse_other_gpu("h200").is_ok());
        let error = header.refuse_other_gpu("h100").unwrap_err().to_string();
        assert!(error.contains("NVIDIA H200") && error.contains("h100"), "{error}");
        let host = Header { gpu: "AMD EPYC".to_owned(), ..Header::default() };
        assert_eq!(host.device(), "cpu", "the host needs no compiler");
    }

    #[test]
    fn what_may_pass_is_told_from_a_verdict_on_the_config() {
        let problem = Problem::parse(Family::Elementwise, "numel=64", Dtype::Bf16).unwrap();
        let may_pass = |status| Trial::untimed(&problem, Config::default(), Stage::Screen, status).may_pass();
        for status in [Status::Timeout, Status::CompileTimeout, Status::LaunchFailed] {
            assert!(may_pass(status), "{status:?} is tried again");
        }
        for status in [Status::Ok, Status::Wrong, Status::CompileFailed, Status::Crashed, Status::Pruned] {
            assert!(!may_pass(status), "{status:?} is settled");
        }
        let pruned = |error: &str| {
            let untimed = Trial::untimed(&problem, Config::default(), Stage::Screen, Status::Pruned);
            Trial { error: Some(error.to_owned()), ..untimed }.may_pass()
        };
        assert!(
            pruned("spills: a thread has 48 bytes of local memory beside its 32 registers"),
            "it is no reason any more"
        );
        assert!(!pruned("spills 48 bytes of registers"));
    }
}
