//! Reading how a manifest's kernels are compiled and launched.

use super::parts::{Argument, Kernel, Reference, Run, Scalar, TensorOf, USUAL_ALIGNMENT, forever};
use super::raw::{RawArg, RawAxes, RawExpression, RawKernel, RawNumber, RawReference, RawScalar, Role};
use super::read::{Reader, names};
use crate::error::Result;
use crate::families::LEAST_ALIGNMENT;
use crate::families::legality::{Condition, is_of_knobs};
use crate::heuristics::Formula;
use std::path::{Path, PathBuf};
use toml::Spanned;

impl Reader<'_> {
    fn axes_of(&self, what: &str, at: usize, raw: &[Spanned<RawExpression>]) -> Result<[Formula; 3]> {
        self.filled_up(what, at, raw.iter().map(|axis| self.formula(axis)))
    }

    fn cluster(&self, raw: &Spanned<RawAxes>) -> Result<[Formula; 3]> {
        let at = raw.span().start;
        let axes = match raw.get_ref() {
            RawAxes::One(extent) => std::slice::from_ref(extent),
            RawAxes::List(extents) => extents,
        };
        self.filled_up("cluster", at, axes.iter().map(|axis| self.formula_at(at, &axis.text())))
    }

    /// One to three axes, with 1 for those that are not given.
    fn filled_up(
        &self,
        what: &str,
        at: usize,
        axes: impl ExactSizeIterator<Item = Result<Formula>>,
    ) -> Result<[Formula; 3]> {
        let wrong = |count: usize| self.error(at, format!("{what} has {count} axes: it must be 1 to 3"));
        if !(1..=3).contains(&axes.len()) {
            return Err(wrong(axes.len()));
        }
        let mut formulas = axes.collect::<Result<Vec<_>>>()?;
        formulas.resize(3, self.formula_at(at, "1")?);
        formulas.try_into().map_err(|formulas: Vec<Formula>| wrong(formulas.len()))
    }

    fn args(&self, raw: &[Spanned<RawArg>], tensors: &[TensorOf], is_reference: bool) -> Result<Vec<Argument>> {
        raw.iter().map(|arg| self.arg(arg.span().start, arg.get_ref(), tensors, is_reference)).collect()
    }

    fn arg(&self, at: usize, raw: &RawArg, tensors: &[TensorOf], is_reference: bool) -> Result<Argument> {
        let scalar = |text: &RawExpression| self.formula_at(at, &text.text());
        let float = |number: &RawNumber| match number {
            RawNumber::Float(value) => Ok(Scalar::Value(*value)),
            RawNumber::Text(text) => self.formula_at(at, text).map(Scalar::Number),
        };
        let name = match raw {
            RawArg::Scalar(RawScalar::I32(value)) => return Ok(Argument::I32(scalar(value)?)),
            RawArg::Scalar(RawScalar::I64(value)) => return Ok(Argument::I64(scalar(value)?)),
            RawArg::Scalar(RawScalar::F32(value)) => return Ok(Argument::F32(float(value)?)),
            RawArg::Scalar(RawScalar::F64(value)) => return Ok(Argument::F64(float(value)?)),
            RawArg::Pointer(name) => name.as_str(),
        };
        let tensor = |name: &str| {
            let tensor = tensors.iter().find(|tensor| tensor.name == name);
            tensor.ok_or_else(|| {
                let known: Vec<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
                self.error(
                    at,
                    format!(
                        "argument '{name}' is no tensor ({}), null, scratch, counters or scalar {{ i32 = … }}",
                        names(&known)
                    ),
                )
            })
        };
        if let Some(allowed) = name.strip_prefix("allowed(").and_then(|rest| rest.strip_suffix(')')) {
            let tensor = tensor(allowed)?;
            if is_reference && tensor.role != Role::In {
                return Ok(Argument::Allowed(tensor.place));
            }
            return Err(self.error(at, format!("'{name}': only a reference has it, of an output")));
        }
        Ok(match name {
            "null" => Argument::Null,
            "scratch" if !is_reference => Argument::Scratch,
            "counters" if !is_reference => Argument::Counters,
            name => match tensor(name)? {
                TensorOf { role: Role::In, place, .. } => Argument::Input(*place),
                TensorOf { place, .. } => Argument::Output(*place),
            },
        })
    }

    pub(super) fn reference(&self, raw: &Spanned<RawReference>, tensors: &[TensorOf]) -> Result<Reference> {
        let (at, raw) = (raw.span().start, raw.get_ref());
        let reference = Reference {
            run: Run {
                source: self.template(raw.source.span().start, raw.source.get_ref())?,
                folder: self.folder.map(Path::to_path_buf),
                include: self.folders(&raw.include),
                options: raw.options.clone(),
                entry: self.template(raw.entry.span().start, raw.entry.get_ref())?,
                macros: self.macros(&raw.macros)?,
                grid: self.axes_of("grid", at, &raw.grid)?,
                threads: self.axes_of("threads", at, &raw.threads)?,
                cluster: None,
                smem: raw.smem.as_ref().map(|smem| self.formula(smem)).transpose()?,
                scratch: None,
                counters: None,
                args: self.args(&raw.args, tensors, true)?,
            },
        };
        self.check_file(&raw.source)?;
        self.check_values_of_problem(at, reference.run.compiled())?;
        reference.run.launched().try_for_each(|formula| self.check_of_problem(at, formula))?;
        Ok(reference)
    }

    pub(super) fn kernel(
        &self,
        raw: &Spanned<RawKernel>,
        tensors: &[TensorOf],
        common: &[Condition],
    ) -> Result<Kernel> {
        let (at, raw) = (raw.span().start, raw.get_ref());
        let optional = |raw: &Option<Spanned<RawExpression>>| raw.as_ref().map(|raw| self.formula(raw)).transpose();
        let when = raw.when.as_ref().map(|when| {
            let condition = self.formula_at(when.span().start, when.get_ref())?;
            if is_of_knobs(&condition) {
                return Ok(condition);
            }
            Err(self.error(when.span().start, format!("when '{}': it may name knobs alone", when.get_ref())))
        });
        self.check_file(&raw.source)?;
        let (of_knobs, conditions): (Vec<Condition>, Vec<Condition>) = common
            .iter()
            .cloned()
            .chain(self.requirements(&raw.require)?)
            .partition(|condition| is_of_knobs(&condition.expression));
        let args = self.args(&raw.args, tensors, false)?;
        let needs = |argument, given: bool, name: &str| {
            if args.contains(&argument) == given {
                return Ok(());
            }
            let what =
                if given { "is given, and no argument takes it" } else { "is an argument, and its size is not given" };
            Err(self.error(at, format!("'{name}' {what}")))
        };
        needs(Argument::Scratch, raw.scratch.is_some(), "scratch")?;
        needs(Argument::Counters, raw.counters.is_some(), "counters")?;
        let alignment = raw.alignment.as_ref().map_or(Ok(LEAST_ALIGNMENT), |alignment| {
            let bytes = *alignment.get_ref();
            if bytes.is_power_of_two() && (LEAST_ALIGNMENT..=USUAL_ALIGNMENT).contains(&bytes) {
                return Ok(bytes);
            }
            let wanted = format!("a power of two from {LEAST_ALIGNMENT} to {USUAL_ALIGNMENT}");
            Err(self.error(alignment.span().start, format!("alignment {bytes}: it must be {wanted}")))
        });
        Ok(Kernel {
            when: when.transpose()?,
            alignment: alignment?,
            of_knobs,
            conditions: forever(conditions),
            run: Run {
                source: self.template(raw.source.span().start, raw.source.get_ref())?,
                folder: self.folder.map(Path::to_path_buf),
                include: self.folders(&raw.include),
                options: raw.options.clone(),
                entry: self.template(raw.entry.span().start, raw.entry.get_ref())?,
                macros: self.macros(&raw.macros)?,
                grid: self.axes_of("grid", at, &raw.grid)?,
                threads: self.axes_of("threads", at, &raw.threads)?,
                cluster: raw.cluster.as_ref().map(|cluster| self.cluster(cluster)).transpose()?,
                smem: optional(&raw.smem)?,
                scratch: optional(&raw.scratch)?,
                counters: optional(&raw.counters)?,
                args,
            },
        })
    }

    fn folders(&self, include: &[String]) -> Vec<PathBuf> {
        include.iter().map(|folder| self.folder.unwrap_or(Path::new(".")).join(folder)).collect()
    }

    /// Whether a kernel's file is of a kind that can be, and there, if its name is the same for all configs.
    fn check_file(&self, source: &Spanned<String>) -> Result<()> {
        let (at, name) = (source.span().start, source.get_ref());
        if ![".cu", ".ptx", ".cubin"].iter().any(|ending| name.ends_with(ending)) {
            return Err(self.error(at, format!("source '{name}': it must end in .cu, .ptx or .cubin")));
        }
        match self.folder.map(|folder| folder.join(name)) {
            Some(path) if !name.contains('{') && !path.is_file() => {
                Err(self.error(at, format!("source '{name}': there is no file {}", path.display())))
            }
            _ => Ok(()),
        }
    }
}
