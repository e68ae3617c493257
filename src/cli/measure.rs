//! What the commands that measure have in common.

use super::arguments::{Families, OutputArgs, families};
use crate::compile::Settings;
use crate::error::{Error, Result};
use crate::model::GpuProfile;
use crate::site::{self, Choice, Wanted};
use crate::sweep::Options;
use crate::worker::Deadlines;
use jiff::fmt::friendly::SpanParser;
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// The flags of `sweep`, `sweep nightly` and `sweep evaluate` alike.
#[derive(clap::Args, Debug)]
pub(super) struct MeasureArgs {
    /// Families: matmul, matmul_int4, matmul_int16, matmul_fp4, matmul_int4_group, matmul_nvfp4, matmul_mxfp4, matmul_fp8,
    /// matmul_nvfp4_nvfp4, matmul_mxfp8, attention, row_softmax, row_norm_rms, row_norm_layer, row_cross_entropy, elementwise, all of
    /// them (on the host: all that it has kernels of), or your own by their manifests or Python files
    #[arg(long, value_name = "NAME|PATH[,…]", default_value = "all", value_parser = families)]
    family: Families,
    /// Plan in place of the family's own
    #[arg(long, value_name = "PATH")]
    plan: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
    /// Stop measuring after this long: 90s, 5m30s, 2h
    #[arg(long, value_name = "TIME")]
    budget: Option<Time>,
    /// Give up on a config that takes longer than this to be verified and timed
    #[arg(long, value_name = "TIME", default_value_t = Time(Deadlines::TRIAL))]
    trial_deadline: Time,
    /// Give up on a kernel that compiles for longer than this
    #[arg(long, value_name = "TIME", default_value_t = Time(Settings::DEADLINE))]
    compile_deadline: Time,
    /// Take over what was measured under another driver, or under one that nobody told; without this it is set aside, and
    /// measured again
    #[arg(long)]
    accept_driver: bool,
    /// CUDA devices by number, or all of that kind
    #[arg(long, value_name = "0,1|all")]
    devices: Option<String>,
    /// Seed of inputs and measuring orders
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Print what it came to as JSON on stdout
    #[arg(long)]
    pub(super) json: bool,
}

impl MeasureArgs {
    /// A whole sweep on `gpu` with these flags.
    pub(super) fn options(&self, gpu: &str) -> Result<Options> {
        let (ordinals, all_devices) = devices(self.devices.as_deref())?;
        let choice = choice(gpu)?;
        let is_host = match &choice {
            Choice::Auto => crate::device::discover().first().is_none_or(|found| found.profile.is_cpu()),
            Choice::Named(name) => name == GpuProfile::CPU,
        };
        Ok(Options {
            site: site::Options {
                devices: Wanted { choice, ordinals, all_devices },
                output: self.output.output.clone(),
                shard: (0, 1),
                compile_deadline: self.compile_deadline.0,
                accept_driver: self.accept_driver,
                quiet: self.json,
                verbose: false,
            },
            families: if is_host { self.family.of_host() } else { self.family.0.clone() },
            plan: self.plan.clone(),
            budget: self.budget.map(|budget| budget.0),
            trial_deadline: self.trial_deadline.0,
            fresh: false,
            exhaustive: false,
            seed: self.seed,
            journal_only: false,
        })
    }
}

/// Nobody waits longer, and clocks can be added to it.
const MOST_TIME: Duration = Duration::from_secs(366 * 24 * 3600);

/// A time such as `90s`, `10m`, `5m30s` or `1.5h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Time(pub(super) Duration);

impl FromStr for Time {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match SpanParser::new().parse_unsigned_duration(text) {
            Ok(time) if time > MOST_TIME => {
                Err(Error::usage(format!("'{text}' is longer than a year ({} h)", MOST_TIME.as_secs() / 3600)))
            }
            Ok(time) if !time.is_zero() => Ok(Self(time)),
            _ => Err(Error::usage(format!("'{text}' is no time such as 90s, 10m, 5m30s or 1.5h"))),
        }
    }
}

impl fmt::Display for Time {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}s", self.0.as_secs_f64())
    }
}

/// Reads `--gpu`.
fn choice(gpu: &str) -> Result<Choice> {
    Ok(match gpu {
        "auto" => Choice::Auto,
        GpuProfile::CPU => Choice::Named(GpuProfile::CPU.into()),
        name => Choice::Named(known_gpu(name)?),
    })
}

/// A GPU's short name: one the tool knows, or one of a device that is here.
fn known_gpu(name: &str) -> Result<String> {
    let here = || crate::device::discover().into_iter().any(|found| found.profile.name == name);
    match GpuProfile::by_name(name) {
        Ok(profile) => Ok(profile.name),
        Err(_) if here() => Ok(name.to_string()),
        Err(error) => Err(error.context("--gpu")),
    }
}

/// Reads `--devices`: the ordinals, and whether it is all.
fn devices(list: Option<&str>) -> Result<(Vec<u32>, bool)> {
    match list {
        None => Ok((Vec::new(), false)),
        Some("all") => Ok((Vec::new(), true)),
        Some(list) => {
            let wrong = |_| Error::usage(format!("--devices '{list}' is neither 'all' nor numbers such as 0,1"));
            let ordinals = list.split(',').map(|ordinal| ordinal.trim().parse());
            let ordinals = ordinals.collect::<Result<Vec<u32>, _>>().map_err(wrong)?;
            // Two workers on one GPU would disturb each other's times.
            let mut seen = BTreeSet::new();
            match ordinals.iter().find(|ordinal| !seen.insert(**ordinal)) {
                Some(twice) => Err(Error::usage(format!("--devices '{list}' names device {twice} twice"))),
                None => Ok((ordinals, false)),
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn times_are_numbers_with_their_units() {
        for (text, seconds) in [
            ("90s", 90.0),
            ("10m", 600.0),
            ("10min", 600.0),
            ("2h", 7200.0),
            ("5m30s", 330.0),
            ("1h 2m 3s", 3723.0),
            ("1.5h", 5400.0),
            ("0.25m", 15.0),
            ("250ms", 0.25),
            ("0.000001s", 1e-6),
        ] {
            assert_eq!(text.parse::<Time>().unwrap(), Time(Duration::from_secs_f64(seconds)), "{text}");
        }
        for wrong in ["", "90", "m", "0s", "-5m", "5m ago", "30s5m", "1d", "10 parsecs", "1e3s", "nan s"] {
            let error = wrong.parse::<Time>().unwrap_err().to_string();
            assert!(error.contains("90s, 10m, 5m30s or 1.5h"), "{wrong}: {error}");
        }
        for long in ["8785h", "99999999999h", "9223372036854775807s", "18446744073709551615s"] {
            let error = long.parse::<Time>().unwrap_err().to_string();
            assert!(error.contains("longer than a year"), "{long}: {error}");
        }
        "8784h".parse::<Time>().unwrap();
    }
}
