//! `sweep new`: a manifest, a kernel and its reference to start from, which work as they are.

use super::outcome::Outcome;
use super::output::note;
use crate::error::{Context, Error, Result};
use crate::heuristics::DescribedFamily;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Write a commented manifest, kernel and reference to start from
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:
  sweep new kernels/scale && sweep compile --gpu h200 --family kernels/scale.toml")]
pub(super) struct NewArgs {
    /// Where the manifest goes; its file name is the family's, and the kernels stand beside it
    #[arg(value_name = "PATH")]
    path: PathBuf,
}

/// What is written, by what follows the family's name.
const FILES: [(&str, &str); 3] = [
    (".toml", include_str!("scale.toml")),
    (".cu", include_str!("scale.cu")),
    ("_reference.cu", include_str!("scale_reference.cu")),
];

pub(super) fn run(args: &NewArgs) -> Result<Outcome> {
    let path = args.path.with_extension("toml");
    let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let described =
        DescribedFamily { dims: vec!["rows".into()], dtypes: vec!["bf16".into()], ..DescribedFamily::default() };
    described.family(name).context(|| path.display())?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(Error::usage).context(|| folder.display())?;
    let files = FILES.map(|(ending, text)| (folder.join(format!("{name}{ending}")), text.replace("scale", name)));
    if let Some((there, _)) = files.iter().find(|(file, _)| file.exists()) {
        return Err(Error::usage(format!("{} is there already: choose another name", there.display())));
    }
    for (file, text) in &files {
        let mut made = OpenOptions::new().write(true).create_new(true).open(file).map_err(Error::usage);
        let written =
            made.as_mut().map_err(|error| error.clone()).and_then(|made| Ok(made.write_all(text.as_bytes())?));
        written.context(|| file.display())?;
        note!("{}", file.display());
    }
    note!(
        "next: sweep compile --gpu h200 --family {0}, and on a machine with a GPU: sweep --family {0}",
        path.display()
    );
    Ok(Outcome::Done)
}
