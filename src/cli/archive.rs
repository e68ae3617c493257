//! `sweep archive`: journals packed for committing.

use super::{Outcome, OutputArgs};
use crate::error::{Context, Error, Result};
use crate::journal;
use crate::model::{Bytes, Family};
use crate::sweep;

/// Pack journals for committing, one archive a family
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:
  sweep archive --gpu h200")]
pub(super) struct ArchiveArgs {
    /// GPU whose journals to pack: h200, b200, …, cpu
    #[arg(long, value_name = "NAME")]
    gpu: String,
    #[command(flatten)]
    output: OutputArgs,
}

/// The most an archive may weigh to be committed.
const LIMIT: Bytes = Bytes::mib(2);

pub(super) fn run(args: &ArchiveArgs) -> Result<Outcome> {
    let folder = sweep::gpu_folder(&args.output.output, &args.gpu);
    let mut packed = 0;
    for family in Family::ALL {
        let journals = sweep::journals(&args.output.output, &args.gpu, family)?;
        if journals.is_empty() {
            continue;
        }
        let archive = folder.join("archive").join(format!("{family}.jsonl.zst"));
        let size = Bytes(journal::pack(&journals, &archive).context(|| format!("packing the journals of {family}"))?);
        eprintln!("{}: {size}", archive.display());
        if size > LIMIT {
            eprintln!(
                "{}: more than the {LIMIT} that may be committed; start the next sweep with --fresh",
                archive.display()
            );
        }
        packed += 1;
    }
    if packed == 0 {
        return Err(Error::usage(format!("no journal in {}: run sweep --gpu {} first", folder.display(), args.gpu)));
    }
    Ok(Outcome::Done)
}
