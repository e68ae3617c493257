//! Whether what somebody's manifest names can run at all, before anything is measured.

use crate::compile::{Compiler, Outcome};
use crate::device::Program;
use crate::error::{Context, Error, Result};
use crate::families::{self, KernelSpec, Launch};
use crate::model::GpuProfile;
use crate::plan::Plan;
use std::collections::BTreeSet;
use std::path::{Display, Path};

/// Reasons that are told of a family none of whose kernels can run.
const MOST_REASONS: usize = 3;
/// References that are looked at before the first trial: a plan has one a type, but it may have one a problem.
const MOST_REFERENCES: usize = 16;

/// Refuses a plan of somebody's manifest whose reference does not compile, or none of whose kernels does with the arguments they are
/// given. Where one kernel can run, the others cost a record each.
///
/// # Errors
/// Where it is so, which is bad input; and where the machine keeps kernels from being compiled.
pub fn check_kernels(plan: &Plan, profile: &GpuProfile, compiler: &Compiler) -> Result<()> {
    let spec = families::spec(plan.family);
    if plan.family.ships() || spec.callable().is_some() {
        return Ok(());
    }
    let problems = plan.problems(profile)?;
    let mut references = BTreeSet::new();
    for (reference, launch) in problems.iter().filter_map(|planned| spec.reference(&planned.problem).ok().flatten()) {
        if references.len() < MOST_REFERENCES && references.insert(reference.clone()) {
            needed_reference(plan, &reference, &launch, compiler)?;
        }
    }
    let (mut seen, mut reasons) = (BTreeSet::new(), BTreeSet::new());
    for planned in problems {
        let programs = plan.candidates(&planned.problem, profile).into_iter();
        let mut programs: Vec<_> = programs.filter_map(|candidate| candidate.program.ok().flatten()).collect();
        programs.retain(|(kernel, _)| seen.insert(kernel.clone()));
        for (place, (kernel, launch)) in programs.iter().enumerate() {
            let why = match compiler.wait(kernel)? {
                Outcome::Compiled { cubin, entry, .. } => Program::new(cubin, entry, kernel, launch).err(),
                // It may be a busy machine's doing.
                Outcome::Failed { timed_out: true, .. } => None,
                Outcome::Failed { error, .. } => Some(error),
            };
            let Some(why) = why else { return Ok(()) };
            reasons.insert(why);
            if place == 0 {
                // Most often the first one compiles; where it does not, the others do so side by side.
                programs.iter().try_for_each(|(kernel, _)| compiler.request(kernel).map(drop))?;
            }
        }
    }
    Err(no_kernel_runs(plan, &reasons))
}

/// The program of a plan's reference.
///
/// # Errors
/// As [`Program::needed`], with the plan's file.
pub fn needed_reference(plan: &Plan, reference: &KernelSpec, launch: &Launch, compiler: &Compiler) -> Result<Program> {
    Program::needed(compiler, reference, launch)
        .context(|| format!("{}: the reference of {}", file_of(plan), plan.family))
}

fn file_of(plan: &Plan) -> Display<'_> {
    plan.file().unwrap_or(Path::new("its manifest")).display()
}

/// What is said of a plan none of whose kernels can run, for these reasons.
pub fn no_kernel_runs(plan: &Plan, reasons: &BTreeSet<String>) -> Error {
    let reasons: Vec<&str> = reasons.iter().take(MOST_REASONS).map(String::as_str).collect();
    Error::usage(format!("{}: no kernel of {} can run: {}", file_of(plan), plan.family, reasons.join("; ")))
}
