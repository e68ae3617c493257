//! Choosing devices: which of those that are here a sweep asks for, and holding them.

use crate::device::{Address, Found};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::journal::Lock;
use crate::model::{GpuProfile, Likeness};
use crate::paths;

/// Which device to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The CUDA device that is there, else the host.
    Auto,
    /// A GPU by its short name, or `cpu`.
    Named(String),
}

/// The devices that are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// On which kind of device.
    pub choice: Choice,
    /// CUDA ordinals to use; empty for the first that fits, all where `all_devices`.
    pub ordinals: Vec<u32>,
    /// Use every device of that kind.
    pub all_devices: bool,
}

/// The devices a sweep will use: one profile, one or more addresses.
///
/// # Errors
/// Where what was asked for is not here; the message names what is, `trouble` with the driver that there may be, and the ways on.
pub(super) fn choose_devices(wanted: &Wanted, here: &[Found], trouble: Option<&str>) -> Result<Vec<Found>> {
    let name = match &wanted.choice {
        Choice::Auto => here.first().map_or(GpuProfile::CPU, |found| &found.profile.name).to_string(),
        Choice::Named(name) => name.clone(),
    };
    let fitting: Vec<_> = here.iter().filter(|found| found.profile.name == name).cloned().collect();
    if fitting.is_empty() {
        let trouble = trouble.map(|trouble| format!(" ({trouble})")).unwrap_or_default();
        let names: Vec<_> = here.iter().map(|found| format!("{} ({})", found.profile.name, found.name)).collect();
        return Err(Error::new(
            ErrorKind::DeviceAbsent,
            format!(
                "no {name} on this machine{trouble}; here: {}. Run with --gpu {} to measure what is here, run this command on a machine \
                 with a {name}, or compile for it without one: sweep compile --gpu {name}",
                names.join(", "),
                here.first().map_or(GpuProfile::CPU, |found| &found.profile.name),
            ),
        ));
    }
    let chosen = if wanted.all_devices {
        fitting
    } else if wanted.ordinals.is_empty() {
        fitting.into_iter().take(1).collect()
    } else {
        let at = |ordinal: &u32| {
            let addressed = |found: &&Found| match found.address {
                Address::Cpu => *ordinal == 0,
                Address::Cuda(own) => *ordinal == own,
            };
            fitting.iter().find(addressed).cloned().ok_or_else(|| {
                Error::new(
                    ErrorKind::DeviceAbsent,
                    format!("device {ordinal} is no {name}: sweep devices lists what is here"),
                )
            })
        };
        wanted.ordinals.iter().map(at).collect::<Result<_>>()?
    };
    all_alike(&chosen)?;
    Ok(chosen)
}

/// Refuses to pool devices that differ in what tells devices apart: their times do not mix.
fn all_alike(devices: &[Found]) -> Result<()> {
    let Some((first, others)) = devices.split_first() else { return Ok(()) };
    match others.iter().find(|other| other.identity().likeness(&first.identity()) != Likeness::Same) {
        None => Ok(()),
        Some(other) => Err(Error::usage(format!(
            "--devices: {} and {} are not alike, and their times do not mix: name devices of one kind (sweep devices lists them)",
            first.identity(),
            other.identity()
        ))),
    }
}

/// Takes hold of the GPUs, each physical one of which measures for one sweep at a time, whichever folder that writes to.
pub(super) fn lock_devices(devices: &[Found]) -> Result<Vec<(Address, Lock)>> {
    let mut locks = Vec::new();
    for found in devices {
        if let Some(unit) = &found.unit {
            let lock = Lock::take_device(&paths::device_lock(unit)?);
            locks.push((found.address, lock.context(|| format!("{} ({})", found.name, found.profile.name))?));
        }
    }
    Ok(locks)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::Bytes;

    #[test]
    fn devices_that_are_not_alike_are_not_pooled() {
        let found = |ordinal, name: &str, multiprocessors, gib: u64| Found {
            address: Address::Cuda(ordinal),
            name: name.into(),
            driver: "580.1".into(),
            unit: None,
            memory: Some(Bytes::mib(gib << 10)),
            profile: GpuProfile { multiprocessors, ..GpuProfile::by_name("h100").unwrap() },
        };
        let first = found(0, "NVIDIA H100 80GB HBM3", 132, 79);
        all_alike(&[first.clone(), found(1, "NVIDIA H100 80GB HBM3", 132, 79)]).unwrap();
        for other in [
            found(1, "NVIDIA H100 PCIe", 132, 79),
            found(1, "NVIDIA H100 80GB HBM3", 114, 79),
            found(1, "NVIDIA H100 80GB HBM3", 132, 40),
        ] {
            let message = all_alike(&[first.clone(), first.clone(), other]).unwrap_err().to_string();
            assert!(message.contains("NVIDIA H100 80GB HBM3 (132 multiprocessors, 80896 MiB) and "), "{message}");
        }
    }
}
