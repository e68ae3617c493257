//! `sweep devices`: what is here.

use super::outcome::Outcome;
use super::output::{self, note};
use crate::device::{self, Address};
use crate::error::Result;

/// List the devices that are here and the profile each matches
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:
  sweep devices --json")]
pub(super) struct DevicesArgs {
    /// Print the list as JSON on stdout
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &DevicesArgs) -> Result<Outcome> {
    let here = device::discover();
    if let Some(trouble) = device::driver_trouble() {
        note!("no GPU can be used: {trouble}");
    }
    if args.json {
        return output::json(&here).map(|()| Outcome::Done);
    }
    for found in here {
        let address = match found.address {
            Address::Cpu => "cpu".to_string(),
            Address::Cuda(ordinal) => format!("cuda:{ordinal}"),
        };
        let profile = &found.profile;
        output::result(&format!(
            "{address:8} --gpu {:8} {}, {}, {} multiprocessors, L2 {}\n",
            profile.name, found.name, profile.arch, profile.multiprocessors, profile.l2
        ))?;
    }
    Ok(Outcome::Done)
}
