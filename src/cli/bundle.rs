//! `sweep bundle`: a document with the cubins of what it answers, for where nothing is to be compiled.

use super::arguments::{Families, OutputArgs, families};
use super::outcome::Outcome;
use super::output::{self, note};
use crate::compile::{Compiler, Outcome as Compiled, Recipes, Settings, read_cubin};
use crate::error::{Context, Error, Result};
use crate::families::KernelSpec;
use crate::heuristics::{self, Document, Heuristics, builtin_document};
use crate::model::{Bytes, GpuProfile, Problem};
use crate::plan::read_shapes;
use crate::run::{Contents, Inventory, answerable, answered};
use crate::site::{self, Progress};
use serde::Serialize;
use std::fs;
use std::path::PathBuf;

/// Pack a document with the kernels of all that it answers, so that nothing is compiled where it is served
#[derive(clap::Args, Debug)]
#[command(after_help = "What a bundle holds, kernel_sweep::run, the C interface and kernel_sweep.ops
launch without a compiler. All that a document can answer are thousands of
kernels, most of them for rows that the widest copies are not aligned for:
--aligned leaves these out, --shapes takes some problems alone, and --count
only counts. Kernels that sweeps have compiled come out of their cache. Needs
no GPU.

Examples:
  sweep bundle --gpu h200 --family elementwise --aligned -o h200.bundle
  sweep bundle --gpu h200 --family row_softmax --shapes tests/shapes -o b
  sweep bundle --gpu h200 --family row_softmax --count")]
pub(super) struct BundleArgs {
    /// GPU to make it for: h200, h100, …
    #[arg(long, value_name = "NAME")]
    gpu: String,
    /// Document to pack; else the GPU's under --output, else the one built in
    #[arg(long, value_name = "FILE")]
    heuristics: Option<PathBuf>,
    #[command(flatten)]
    documents: OutputArgs,
    /// Families, or all
    #[arg(long, value_name = "NAME[,NAME…]", default_value = "all", value_parser = families)]
    family: Families,
    /// Rows in whole vectors of 16 bytes and heads of 64 and 128 elements alone
    #[arg(long)]
    aligned: bool,
    /// The answers to these problems alone: a file of [[problem]] entries as in a plan; for several families a folder that holds
    /// <family>.toml for each
    #[arg(long, value_name = "FILE", conflicts_with = "aligned")]
    shapes: Option<PathBuf>,
    /// Count the kernels, and make nothing
    #[arg(long)]
    count: bool,
    /// The bundle
    #[arg(short, value_name = "FILE", required_unless_present = "count")]
    o: Option<PathBuf>,
    /// Print what it came to as JSON on stdout
    #[arg(long)]
    json: bool,
}

/// What a bundle came to.
#[derive(Serialize)]
struct Report {
    gpu: String,
    arch: String,
    kernels: usize,
    /// Kernels that the compiler refused.
    failed: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    cubin_bytes: Option<Bytes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bundle_bytes: Option<Bytes>,
}

pub(super) fn run(args: &BundleArgs) -> Result<Outcome> {
    let profile = GpuProfile::by_name(&args.gpu)?;
    let text = document(args)?;
    let kernels = inventory(args, &text, &profile)?;
    let GpuProfile { name: gpu, arch, .. } = profile.clone();
    let mut report = Report { gpu, arch, kernels: kernels.len(), failed: 0, cubin_bytes: None, bundle_bytes: None };
    if let (Some(path), false) = (&args.o, args.count) {
        let progress = Progress::new(args.json, false);
        let compiler = site::compiler(Settings::DEADLINE, &profile, &progress)?;
        let recipes = Recipes::built_in(&profile.arch, compiler.version().to_owned());
        let compiled = compile(&compiler, &recipes, &kernels)?;
        progress.finish();
        report.failed = kernels.len() - compiled.len();
        let contents = Contents { gpu: &report.gpu, document: &text, recipes: &recipes, kernels: compiled };
        let mut packed = None;
        heuristics::replace(path, |out| {
            packed = Some(contents.write(out, read_cubin)?);
            Ok(())
        })
        .context(|| format!("writing {}", path.display()))?;
        if let Some(packed) = packed {
            (report.kernels, report.cubin_bytes, report.bundle_bytes) =
                (packed.kernels, Some(packed.cubins), Some(packed.bundle));
            let (kernels, cubins, bundle) = (packed.kernels, packed.cubins, packed.bundle);
            note!("{}: {kernels} kernels for {}, {cubins} of cubins in {bundle}", path.display(), report.arch);
        }
    } else if !args.json {
        output::result(&format!("{}\n", report.kernels))?;
    }
    if args.json {
        output::json(&report)?;
    }
    Ok(if report.failed == 0 { Outcome::Done } else { Outcome::Unworkable })
}

/// The text of the document to pack.
fn document(args: &BundleArgs) -> Result<String> {
    let own = args.documents.of_gpu(&args.gpu)?.document();
    let path = args.heuristics.as_deref().or(own.exists().then_some(own.as_path()));
    match path {
        Some(path) => fs::read_to_string(path).context(|| format!("heuristics document {}", path.display())),
        None => builtin_document(&args.gpu).map(str::to_owned).ok_or_else(|| {
            let gpu = &args.gpu;
            Error::usage(format!("no document for {gpu}: `sweep --gpu {gpu}` makes it, --heuristics names one"))
        }),
    }
}

fn inventory(args: &BundleArgs, text: &str, profile: &GpuProfile) -> Result<Inventory> {
    let families = &args.family.0;
    let mut kernels = Inventory::new();
    let Some(shapes) = &args.shapes else {
        let document = Document::from_bytes(text.as_bytes())?;
        for family in families {
            kernels.extend(answerable(&document, *family, profile, args.aligned)?);
        }
        return Ok(kernels);
    };
    if families.len() > 1 && !shapes.is_dir() {
        return Err(Error::usage(format!(
            "--shapes {} is one family's file: name that family, or give a folder that holds <family>.toml for each",
            shapes.display()
        )));
    }
    let heuristics = Heuristics::from_bytes(text.as_bytes())?;
    for family in families {
        let file = if shapes.is_dir() { shapes.join(format!("{family}.toml")) } else { shapes.clone() };
        let problems: Vec<Problem> = read_shapes(*family, &file)?.into_iter().map(|planned| planned.problem).collect();
        kernels.extend(answered(&heuristics, &problems, profile)?);
    }
    Ok(kernels)
}

/// The cubins of the kernels that compile.
fn compile(compiler: &Compiler, recipes: &Recipes, kernels: &Inventory) -> Result<Vec<(KernelSpec, PathBuf)>> {
    for kernel in kernels {
        if compiler.request(kernel)? != recipes.key(kernel)? {
            return Err(Error::usage(format!(
                "kernels/{} is another than the one built in, which is what a bundle is asked for: build anew, or run this \
                 elsewhere",
                kernel.code
            )));
        }
    }
    let mut compiled = Vec::with_capacity(kernels.len());
    for kernel in kernels {
        match compiler.wait(kernel)? {
            Compiled::Compiled { cubin, .. } => compiled.push((kernel.clone(), cubin)),
            Compiled::Failed { error, .. } => note!("{kernel}: {error}"),
        }
    }
    Ok(compiled)
}
