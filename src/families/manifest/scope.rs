//! What a manifest's expressions come to for a config and a problem: tensors, kernels and launches.

use super::parts::{Argument, Contents, Manifest, Run, Scalar, Template, TensorOf, USUAL_ALIGNMENT, Value};
use super::raw::Role;
use crate::families::legality::{Values, names, values};
use crate::families::{Arg, Code, Fill, KernelSpec, Launch, Rejection, TensorSpec, knobs, require};
use crate::heuristics::Formula;
use crate::model::{Bytes, Config, Dtype, GpuProfile, Mma, PidType, Problem};
use std::path::PathBuf;
use std::sync::LazyLock;

/// What expressions read.
pub(super) struct Scope<'a> {
    manifest: &'a Manifest,
    config: &'a Config,
    problem: &'a Problem,
    values: Values,
}

impl<'a> Scope<'a> {
    pub(super) fn new(manifest: &'a Manifest, config: &'a Config, problem: &'a Problem, profile: &GpuProfile) -> Self {
        Self { manifest, config, problem, values: values(config, problem, profile) }
    }

    /// Of what no knob has a say in.
    pub(super) fn of_problem(manifest: &'a Manifest, problem: &'a Problem) -> Self {
        static NO_KNOBS: LazyLock<Config> = LazyLock::new(Config::default);
        static NO_GPU: LazyLock<GpuProfile> = LazyLock::new(|| GpuProfile::cpu(1, Bytes(0)));
        Self::new(manifest, &NO_KNOBS, problem, &NO_GPU)
    }

    pub(super) fn number(&self, formula: &Formula) -> Result<i64, Rejection> {
        let value = formula.evaluate(&self.values, &names(self.manifest.family));
        value.map_err(|error| Rejection(error.to_string()))
    }

    pub(super) fn natural<T: TryFrom<i64>>(&self, what: &str, formula: &Formula) -> Result<T, Rejection> {
        let value = self.number(formula)?;
        T::try_from(value).map_err(|_| Rejection(format!("{what} = {value} ({}) is out of range", formula.text())))
    }

    pub(super) fn optional<T: TryFrom<i64> + Default>(
        &self,
        what: &str,
        formula: Option<&Formula>,
    ) -> Result<T, Rejection> {
        formula.map_or_else(|| Ok(T::default()), |formula| self.natural(what, formula))
    }

    pub(super) fn text(&self, value: &Value) -> Result<String, Rejection> {
        let dtype = self.problem.dtype;
        Ok(match value {
            Value::CType => self.manifest.c_types.get(&dtype).cloned().unwrap_or_else(|| knobs::c_type(dtype)),
            Value::Dtype => dtype.name().to_owned(),
            Value::Number(formula) => self.number(formula)?.to_string(),
            Value::Knob(name) => match (name.as_str(), self.config.own.get(name)) {
                ("mma", _) => self.config.mma.map_or("", Mma::name).to_owned(),
                ("pid_type", _) => self.config.pid_type.map_or("", PidType::name).to_owned(),
                (_, Some(knob)) => knob.to_string(),
                (_, None) => return Err(Rejection(format!("{name} is missing"))),
            },
        })
    }

    pub(super) fn fill_in(&self, Template(pieces): &Template) -> Result<String, Rejection> {
        let mut text = String::new();
        for (before, value) in pieces {
            text.push_str(before);
            if let Some(value) = value {
                text.push_str(&self.text(value)?);
            }
        }
        Ok(text)
    }

    pub(super) fn file(&self, (folder, name): &(PathBuf, Template)) -> Result<PathBuf, Rejection> {
        Ok(folder.join(self.fill_in(name)?))
    }

    pub(super) fn axes(&self, what: &str, axes: &[Formula; 3]) -> Result<[u32; 3], Rejection> {
        let [x, y, z] = axes;
        Ok([self.natural(what, x)?, self.natural(what, y)?, self.natural(what, z)?])
    }

    pub(super) fn fill(&self, contents: &Contents) -> Result<Fill, Rejection> {
        let number = |formula| self.natural::<i32>("fill", formula);
        Ok(match contents {
            Contents::Uniform(magnitude) => Fill::Uniform { magnitude: number(magnitude)? as f32 },
            Contents::Logits(magnitude) => Fill::Logits { magnitude: number(magnitude)? as f32 },
            Contents::Whole(least, most) => {
                let (least, most) = (number(least)?, number(most)?);
                require!(least <= most, "fill whole({least}, {most}) holds nothing");
                Fill::Whole { least, most }
            }
            Contents::Wide(least, most) => {
                let (least, most) = (number(least)?, number(most)?);
                require!(
                    -126 <= least && least < most && most <= 127,
                    "fill wide({least}, {most}): exponents rise, from -126 to 127"
                );
                Fill::Wide { least, most }
            }
            Contents::Bits => Fill::Bits,
            Contents::Extremes => Fill::Extremes,
            Contents::Landmarks(least, most) => {
                let (least, most) = (number(least)?, number(most)?);
                require!(
                    -126 <= least && least < most && most <= 123,
                    "fill landmarks({least}, {most}): exponents rise, from -126 to 123"
                );
                Fill::Landmarks { least, most }
            }
        })
    }

    pub(super) fn tensor(&self, tensor: &TensorOf) -> Result<TensorSpec, Rejection> {
        let element = tensor.element(self.problem.dtype);
        let extent = |formula| {
            let extent: u64 = self.natural(&tensor.name, formula)?;
            require!(extent > 0, "tensor {} has an extent of 0 ({})", tensor.name, Formula::text(formula));
            Ok(extent)
        };
        let shape = tensor.shape.iter().map(extent).collect::<Result<Vec<_>, _>>()?;
        let usual = if element.is_float() { Fill::Uniform { magnitude: 1.0 } } else { Fill::Bits };
        let fill = tensor.fill.as_ref().map_or(Ok(usual), |contents| self.fill(contents))?;
        let alignment =
            tensor.alignment.as_ref().map_or(Ok(USUAL_ALIGNMENT), |formula| self.natural("alignment", formula))?;
        require!(
            alignment.is_power_of_two() && (element.size_bytes()..=USUAL_ALIGNMENT).contains(&alignment),
            "tensor {}: alignment {alignment} is no power of two from {} to {USUAL_ALIGNMENT}",
            tensor.name,
            element.size_bytes()
        );
        Ok(TensorSpec {
            name: tensor.name.clone(),
            element,
            shape,
            fill: if tensor.role == Role::Out { Fill::Nothing } else { fill },
            file: tensor.file.as_ref().map(|file| self.file(file)).transpose()?,
            offset_bytes: alignment % USUAL_ALIGNMENT,
        })
    }

    pub(super) fn arg(&self, argument: &Argument) -> Result<Arg, Rejection> {
        let float = |scalar: &Scalar| match scalar {
            Scalar::Value(value) => Ok(*value),
            Scalar::Number(formula) => self.number(formula).map(|number| number as f64),
        };
        Ok(match argument {
            Argument::Input(place) => Arg::Input(*place),
            Argument::Output(place) => Arg::Output(*place),
            Argument::Allowed(place) => Arg::Allowed(*place),
            Argument::Null => Arg::Null,
            Argument::Scratch => Arg::Workspace,
            Argument::Counters => Arg::Counters,
            Argument::I32(formula) => Arg::I32(self.natural("an i32 argument", formula)?),
            Argument::I64(formula) => Arg::I64(self.number(formula)?),
            Argument::F32(scalar) => Arg::F32(float(scalar)? as f32),
            Argument::F64(scalar) => Arg::F64(float(scalar)?),
        })
    }

    /// The kernel and its launch.
    pub(super) fn build(&self, run: &Run) -> Result<(KernelSpec, Launch), Rejection> {
        let source = self.fill_in(&run.source)?;
        let macros = run.macros.iter().map(|(name, value)| Ok((name.clone(), self.text(value)?)));
        let mut kernel = KernelSpec {
            code: run.code(&source)?,
            entry: self.fill_in(&run.entry)?,
            macros: macros.collect::<Result<_, Rejection>>()?,
            salt: String::new(),
        };
        let launch = Launch {
            grid: self.axes("grid", &run.grid)?,
            cluster: run.cluster.as_ref().map_or(Ok([1; 3]), |cluster| self.axes("cluster", cluster))?,
            threads: self.axes("threads", &run.threads)?,
            dynamic_smem: Bytes(u64::from(self.optional::<u32>("smem", run.smem.as_ref())?)),
            args: run.args.iter().map(|argument| self.arg(argument)).collect::<Result<_, _>>()?,
            workspace: Bytes(self.optional("scratch", run.scratch.as_ref())?),
            counters: self.optional("counters", run.counters.as_ref())?,
            cooperative: false,
        };
        launch.check_limits()?;
        if run.folder.is_some() {
            kernel.salt = run.launch_text();
        }
        Ok((kernel, launch))
    }
}

/// Thread block clusters came with `sm_90`.
pub(super) fn check_clusters(blocks: i64, profile: &GpuProfile) -> Result<(), Rejection> {
    let digits: String = profile.arch.chars().filter(char::is_ascii_digit).collect();
    let has_clusters = digits.parse::<u32>().is_ok_and(|version| version >= 90);
    require!(
        blocks <= 1 || has_clusters,
        "a cluster of {blocks} blocks: {} has no thread block clusters",
        profile.arch
    );
    Ok(())
}

impl TensorOf {
    pub(super) fn element(&self, dtype: Dtype) -> Dtype {
        self.element.unwrap_or(dtype)
    }
}

impl Run {
    pub(super) fn code(&self, source: &str) -> Result<Code, Rejection> {
        let Some(folder) = &self.folder else { return Ok(Code::Shipped(source.to_owned())) };
        let file = folder.join(source);
        require!(file.is_file(), "there is no file {}", file.display());
        Ok(match file.extension().and_then(|ending| ending.to_str()) {
            Some("ptx") => Code::Ptx(file),
            Some("cubin") => Code::Cubin(file),
            _ => Code::Cuda { file, include: self.include.clone(), options: self.options.clone() },
        })
    }

    /// How it is launched, in words: a manifest that says otherwise describes another kernel.
    pub(super) fn launch_text(&self) -> String {
        let texts = |formulas: &[Formula]| formulas.iter().map(Formula::text).collect::<Vec<_>>().join(", ");
        let optional = |formula: &Option<Formula>| formula.as_ref().map_or("", |formula| formula.text()).to_owned();
        let args: Vec<String> = self.args.iter().map(|argument| format!("{argument:?}")).collect();
        let parts = [&self.smem, &self.scratch, &self.counters].map(optional).join(" / ");
        // The text of a cluster along x alone is as it was before there were others.
        let cluster = self.cluster.as_ref().map_or(String::new(), |axes| {
            let given = axes.iter().rposition(|axis| axis.text() != "1").map_or(1, |last| last + 1);
            texts(&axes[..given])
        });
        format!("{} / {} / {cluster} / {parts} / {}", texts(&self.grid), texts(&self.threads), args.join(", "))
    }
}
