//! `sweep completions` and `sweep man`: what a shell and `man` are to know of the command line.

use super::output::{self, note};
use crate::error::{Context, Result};
use clap_complete::Shell;
use std::path::PathBuf;

/// Print what a shell needs to complete commands and flags
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  sweep completions bash > sweep.bash && source sweep.bash
  sweep completions zsh > _sweep")]
pub(super) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

/// Write a page of the manual for each command into a folder
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:
  sweep man manual && man ./manual/sweep-lookup.1")]
pub(super) struct ManArgs {
    /// The folder, made where it is missing: ~/.local/share/man/man1 is where man looks
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

pub(super) fn completions(args: &CompletionsArgs, mut command: clap::Command) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "sweep", &mut script);
    output::result(&String::from_utf8_lossy(&script))
}

pub(super) fn man(args: &ManArgs, command: clap::Command) -> Result<()> {
    let what = || format!("manual in {}", args.folder.display());
    std::fs::create_dir_all(&args.folder).context(what)?;
    clap_mangen::generate_to(command, &args.folder).context(what)?;
    note!("wrote the manual into {}: man {}/sweep.1", args.folder.display(), args.folder.display());
    Ok(())
}
