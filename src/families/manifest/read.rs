//! Reading manifests, with the line of whatever is wrong.

use super::expand::Definitions;
use super::parts::{
    Argument, Contents, Kernel, Manifest, Reference, Runs, Template, TensorOf, Value, forever, forever_text,
};
use super::raw::{RawExpression, RawManifest, RawTensor, Role};
use crate::error::{Error, Result};
use crate::families::legality::{Condition, MOST_OWN_KNOBS, fixed_names, is_of_knobs, is_of_problem, names_of};
use crate::families::{Extent, Tolerance, knobs};
use crate::heuristics::{DescribedBin, DescribedFamily, DescribedGroup, EXPRESSION_FUNCTIONS, Formula};
use crate::model::{Config, Dtype, Family};
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use toml::Spanned;

/// The text being read, what to call it, and what its expressions may name.
pub(super) struct Reader<'a> {
    pub(super) name: &'a str,
    pub(super) text: &'a str,
    /// Where its files are; none where they are built in.
    pub(super) folder: Option<&'a Path>,
    pub(super) definitions: Definitions,
    pub(super) dims: Vec<String>,
    pub(super) knobs: Vec<String>,
    pub(super) own_knobs: Vec<String>,
}

/// Whether a text has a manifest, and not only the problems and spaces of a family that is known elsewhere. One that cannot be read
/// may have, and whoever reads it on says what is wrong.
pub(super) fn has_family(text: &str) -> bool {
    #[derive(Deserialize)]
    struct Described {
        family: Option<IgnoredAny>,
    }
    toml::from_str::<Described>(text).map_or(true, |described| described.family.is_some())
}

/// Reads a manifest; `name` is what messages call it. One that `ships` is the description of a family of ours, whose files are built
/// in.
pub(super) fn read(text: &str, name: &str, path: Option<&Path>, shipped: Option<Family>) -> Result<Manifest> {
    let folder = path.map(|path| path.parent().unwrap_or(Path::new(".")));
    let mut reader = Reader {
        name,
        text,
        folder: folder.filter(|_| shipped.is_none()),
        definitions: Definitions::default(),
        dims: Vec::new(),
        knobs: Vec::new(),
        own_knobs: Vec::new(),
    };
    let raw: RawManifest = toml::from_str(text).map_err(|error| {
        reader.error(error.span().map_or(0, |span| span.start), error.message().replace('\n', "; "))
    })?;
    let family = &raw.family;
    for dim in family.dims.get_ref() {
        reader.check_name(family.dims.span().start, "dimension", dim)?;
        reader.dims.push(dim.clone());
    }
    if let Some(knobs) = &family.knobs {
        reader.take_knobs(knobs)?;
    }
    reader.definitions = Definitions::expecting(family.define.iter().map(|text| text.get_ref().clone()));
    for definition in &family.define {
        let at = definition.span().start;
        let defined = reader.definitions.add(definition.get_ref()).map_err(|error| reader.error(at, error))?;
        reader.check_name(at, "definition", &defined)?;
        reader.formula_at(at, &defined)?;
    }
    let known = match shipped {
        Some(family) => family,
        None => reader.describe(&raw, path)?,
    };
    let mut tensors = raw.tensor.iter().map(|tensor| reader.tensor(tensor)).collect::<Result<Vec<_>>>()?;
    let (mut inputs, mut outputs) = (0.., 0..);
    for tensor in &mut tensors {
        let places = if tensor.role == Role::In { &mut inputs } else { &mut outputs };
        tensor.place = places.next().unwrap_or_default();
    }
    reader.check_tensors(&raw.tensor)?;
    let is_given = |tensor: &TensorOf| tensor.role == Role::In || tensor.right.is_some();
    let reference = raw.reference.as_ref().map(|reference| reader.reference(reference, &tensors)).transpose()?;
    if reference.is_none() && raw.callable.is_none() && !tensors.iter().all(is_given) {
        return Err(reader.error(0, "there is no [reference], and an output has no file with what is right of it"));
    }
    for (tensor, raw) in tensors.iter().zip(&raw.tensor) {
        let allows = |reference: &Reference| reference.run.args.contains(&Argument::Allowed(tensor.place));
        let has_floats = known.dtypes().iter().any(|dtype| tensor.element(*dtype).is_float());
        let is_judged = tensor.tolerance.is_some() || !has_floats;
        if tensor.role != Role::In && !is_judged && !reference.as_ref().is_some_and(allows) {
            return Err(reader.error(
                raw.span().start,
                format!("output '{0}' has no tolerance, and the reference takes no allowed({0})", tensor.name),
            ));
        }
    }
    let runs = reader.runs(&raw, &tensors)?;
    let domain = family.domain.get_ref();
    let unknown = domain.keys().find(|name| !reader.dims.contains(name));
    let missing = reader.dims.iter().find(|name| !domain.contains_key(*name));
    if let Some(name) = unknown.or(missing) {
        let what = if unknown.is_some() { "there is no such dimension" } else { "it is missing" };
        return Err(reader.error(family.domain.span().start, format!("domain of '{name}': {what}")));
    }
    let extents = reader.dims.iter().map(|name| (name, domain[name]));
    let extents = extents.map(|(name, raw)| {
        let extent = Extent { least: raw.least, most: raw.most, multiple: raw.multiple };
        let has_any = extent.multiple > 0
            && extent.least > 0
            && extent.most / extent.multiple.max(1) * extent.multiple >= extent.least;
        has_any.then_some(extent).ok_or_else(|| {
            reader.error(
                family.domain.span().start,
                format!("domain of '{name}': it holds no positive multiple of {}", extent.multiple),
            )
        })
    });
    Ok(Manifest {
        family: known,
        definitions: reader.definitions.clone(),
        knobs: reader.knobs.clone(),
        own_knobs: forever(reader.own_knobs.iter().map(|name| forever_text(name)).collect()),
        launch_knobs: family.launch_knobs.as_ref().map_or(Ok(&[][..]), |raw| reader.launch_knobs(raw, &runs))?,
        idle: family.idle.iter().map(|(knob, when)| reader.idle(knob, when)).collect::<Result<_>>()?,
        domain: forever(extents.collect::<Result<_>>()?),
        flops: reader.formula_of_problem(&family.flops)?,
        bytes: family.bytes.as_ref().map(|bytes| reader.formula_of_problem(bytes)).transpose()?,
        c_types: reader.c_types(&family.c_types, family.dims.span().start)?,
        description: reader.description(&raw)?,
        axes: forever(reader.axes(&raw)?),
        registers: raw.model.registers.as_ref().map(|text| reader.formula_at(0, &text.text())).transpose()?,
        stage_bytes: raw.model.stage_bytes.as_ref().map(|text| reader.formula_at(0, text)).transpose()?,
        tensors,
        reference,
        runs,
    })
}

impl Reader<'_> {
    /// `message`, at the line of byte `offset`.
    pub(super) fn error(&self, offset: usize, message: impl Display) -> Error {
        let line = 1 + self.text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count();
        Error::usage(format!("{}:{line}: {message}", self.name))
    }

    fn take_knobs(&mut self, raw: &Spanned<Vec<String>>) -> Result<()> {
        self.knobs.clone_from(raw.get_ref());
        self.own_knobs = self.knobs.iter().filter(|knob| !Config::FIELDS.contains(&knob.as_str())).cloned().collect();
        let at = raw.span().start;
        if self.own_knobs.len() > MOST_OWN_KNOBS {
            return Err(self.error(at, format!("more than {MOST_OWN_KNOBS} knobs that Helion does not have")));
        }
        for knob in std::mem::take(&mut self.own_knobs) {
            self.check_name(at, "knob", &knob)?;
            self.own_knobs.push(knob);
        }
        Ok(())
    }

    /// Refuses a name that expressions, problems or macros would take for something else.
    fn check_name(&self, at: usize, what: &str, name: &str) -> Result<()> {
        let is_name = name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
            && name.starts_with(|letter: char| letter.is_ascii_alphabetic());
        if !is_name {
            return Err(self.error(at, format!("{what} '{name}' is no name: letters, digits and _, a letter first")));
        }
        let functions = EXPRESSION_FUNCTIONS.map(|(call, _)| call.split('(').next().unwrap_or_default());
        let is_taken = self.dims.iter().chain(&self.own_knobs).any(|own| own == name)
            || fixed_names().chain(functions).chain(OTHER_NAMES).any(|taken| taken == name);
        if is_taken {
            return Err(self.error(at, format!("{what} '{name}' is the name of something else already")));
        }
        Ok(())
    }

    /// The knobs that no kernel is compiled for; refuses one that there is not, or that some kernel's code depends on.
    fn launch_knobs(&self, raw: &Spanned<Vec<String>>, runs: &Runs) -> Result<&'static [&'static str]> {
        let compiled = match runs {
            Runs::Called { .. } => self.knobs.clone(),
            Runs::Kernels(kernels) => {
                let of_kernel = |kernel: &Kernel| {
                    let choosing = kernel.when.iter().flat_map(|when| self.names_in(when));
                    let compiled = kernel.run.compiled().flat_map(|value| match value {
                        Value::Knob(name) => vec![name.clone()],
                        Value::Number(formula) => self.names_in(formula),
                        Value::CType | Value::Dtype => Vec::new(),
                    });
                    choosing.chain(compiled).collect::<Vec<_>>()
                };
                kernels.iter().flat_map(of_kernel).collect()
            }
        };
        for knob in raw.get_ref() {
            let why = if !self.knobs.contains(knob) {
                format!("there is no such knob; there are {}", self.knobs.join(", "))
            } else if compiled.contains(knob) {
                "which kernel is compiled depends on it, so it is no launch knob".to_owned()
            } else {
                continue;
            };
            return Err(self.error(raw.span().start, format!("launch_knobs '{knob}': {why}")));
        }
        Ok(forever(raw.get_ref().iter().map(|name| forever_text(name)).collect()))
    }

    /// The names that an expression reads, of a list's entry the list's.
    fn names_in(&self, formula: &Formula) -> Vec<String> {
        let scope = self.scope();
        let name = |place: usize| scope[place].split('[').next().unwrap_or_default().to_owned();
        formula.places().into_iter().map(name).collect()
    }

    /// Refuses an expression that reads knobs or the GPU's figures where there is no config and no GPU.
    pub(super) fn check_of_problem(&self, at: usize, formula: &Formula) -> Result<()> {
        if is_of_problem(formula) {
            return Ok(());
        }
        let text = formula.text();
        Err(self.error(
            at,
            format!("expression '{text}': it may name dimensions and element_bytes alone, no knob or GPU's figure"),
        ))
    }

    /// The same of what a text is filled in with.
    pub(super) fn check_values_of_problem<'v>(
        &self,
        at: usize,
        values: impl IntoIterator<Item = &'v Value>,
    ) -> Result<()> {
        values.into_iter().try_for_each(|value| match value {
            Value::Knob(name) => Err(self.error(at, format!("'{name}' is a knob, and no config has a say here"))),
            Value::Number(formula) => self.check_of_problem(at, formula),
            Value::CType | Value::Dtype => Ok(()),
        })
    }

    /// An expression that is the same for all configs and GPUs.
    fn formula_of_problem(&self, raw: &Spanned<RawExpression>) -> Result<Formula> {
        let formula = self.formula(raw)?;
        self.check_of_problem(raw.span().start, &formula).map(|()| formula)
    }

    /// When a knob changes nothing.
    fn idle(&self, knob: &str, when: &Spanned<String>) -> Result<(&'static str, Vec<&'static str>, Formula)> {
        let at = when.span().start;
        if !self.knobs.iter().any(|known| known == knob) {
            return Err(
                self.error(at, format!("idle '{knob}': there is no such knob; there are {}", self.knobs.join(", ")))
            );
        }
        let formula = self.formula_at(at, when.get_ref())?;
        if !is_of_knobs(&formula) {
            return Err(self.error(at, format!("idle '{}': it may name knobs alone", when.get_ref())));
        }
        let fields = self.names_in(&formula).iter().map(|name| forever_text(name)).collect();
        Ok((forever_text(knob), fields, formula))
    }

    pub(super) fn scope(&self) -> Vec<&str> {
        let dims: Vec<&str> = self.dims.iter().map(String::as_str).collect();
        let own: Vec<&str> = self.own_knobs.iter().map(String::as_str).collect();
        names_of(&dims, &own).to_vec()
    }

    pub(super) fn formula(&self, raw: &Spanned<RawExpression>) -> Result<Formula> {
        self.formula_at(raw.span().start, &raw.get_ref().text())
    }

    pub(super) fn formula_at(&self, at: usize, text: &str) -> Result<Formula> {
        let read = || Formula::parse(&self.definitions.expand(text)?, &self.scope());
        read().map_err(|error| self.error(at, error))
    }

    /// What configs run.
    fn runs(&self, raw: &RawManifest, tensors: &[TensorOf]) -> Result<Runs> {
        let common = self.requirements(&raw.family.require)?;
        match raw.callable.clone() {
            Some(_) if !raw.kernel.is_empty() => {
                Err(self.error(0, "there are a [callable] and a [[kernel]]: configs run one or the other"))
            }
            Some(callable) => {
                let of_knobs = |condition: &Condition| is_of_knobs(&condition.expression);
                let (of_knobs, conditions): (Vec<_>, Vec<_>) = common.into_iter().partition(of_knobs);
                Ok(Runs::Called { callable, of_knobs, conditions: forever(conditions) })
            }
            None if raw.kernel.is_empty() => Err(self.error(0, "there is no [[kernel]]")),
            None => {
                let kernels = raw.kernel.iter().map(|kernel| self.kernel(kernel, tensors, &common));
                Ok(Runs::Kernels(kernels.collect::<Result<Vec<_>>>()?))
            }
        }
    }

    /// The family's description for documents.
    fn describe(&self, raw: &RawManifest, path: Option<&Path>) -> Result<Family> {
        let stem = path.and_then(Path::file_stem).and_then(|stem| stem.to_str()).unwrap_or_default();
        let (at, name) = match &raw.family.name {
            Some(name) => (name.span().start, name.get_ref().as_str()),
            None => (0, stem),
        };
        let all = || vec![DescribedGroup { name: "all".to_owned(), when: None }];
        let described = DescribedFamily {
            dims: self.dims.clone(),
            dtypes: raw.family.dtypes.get_ref().clone(),
            bins: raw.family.bins.as_ref().map_or_else(|| Ok(BTreeMap::new()), |bins| self.bins(bins))?,
            groups: raw.family.groups.as_ref().map_or_else(|| Ok(all()), |groups| self.groups(groups))?,
        };
        described.family(name).map_err(|error| {
            let text = error.to_string();
            let spans = [
                ("bin '", raw.family.bins.as_ref().map(Spanned::span)),
                ("group '", raw.family.groups.as_ref().map(Spanned::span)),
            ];
            let of_part = spans.into_iter().find(|(start, _)| text.starts_with(start)).and_then(|(_, span)| span);
            self.error(of_part.map_or(at, |span| span.start), error)
        })
    }

    /// Bins with definitions in place of their names: a document has none.
    fn bins(&self, raw: &Spanned<BTreeMap<String, DescribedBin>>) -> Result<BTreeMap<String, DescribedBin>> {
        let expanded = raw.get_ref().iter().map(|(name, bin)| {
            let of = self.definitions.expand(&bin.of).map_err(|error| self.error(raw.span().start, error))?;
            Ok((name.clone(), DescribedBin { of, bounds: bin.bounds.clone() }))
        });
        expanded.collect()
    }

    /// The same of groups.
    fn groups(&self, raw: &Spanned<Vec<DescribedGroup>>) -> Result<Vec<DescribedGroup>> {
        let expanded = raw.get_ref().iter().map(|group| {
            let when = group.when.as_ref().map(|when| self.definitions.expand(when)).transpose();
            let when = when.map_err(|error| self.error(raw.span().start, error))?;
            Ok(DescribedGroup { name: group.name.clone(), when })
        });
        expanded.collect()
    }

    fn c_types(&self, raw: &BTreeMap<String, String>, at: usize) -> Result<BTreeMap<Dtype, String>> {
        let mut names: BTreeMap<Dtype, String> =
            Dtype::ALL.into_iter().map(|dtype| (dtype, knobs::c_type(dtype))).collect();
        for (dtype, name) in raw {
            let dtype = dtype.parse().map_err(|error| self.error(at, format!("c_types: {error}")))?;
            names.insert(dtype, name.clone());
        }
        Ok(names)
    }

    fn tensor(&self, raw: &Spanned<RawTensor>) -> Result<TensorOf> {
        let (at, raw) = (raw.span().start, raw.get_ref());
        let element = if raw.dtype == "dtype" {
            None
        } else {
            let unknown = |_| {
                format!(
                    "tensor '{}': dtype '{}' is none of dtype and {}",
                    raw.name,
                    raw.dtype,
                    names(&Dtype::ALL.map(Dtype::name))
                )
            };
            Some(raw.dtype.parse().map_err(|error: Error| self.error(at, unknown(error)))?)
        };
        if raw.shape.len() > 8 {
            return Err(self.error(at, format!("tensor '{}' has more than 8 extents", raw.name)));
        }
        let contents = |text: &Option<Spanned<String>>| {
            text.as_ref().map(|text| self.contents(text.span().start, text.get_ref())).transpose()
        };
        let template = |text: &Option<Spanned<String>>| {
            let read = |text: &Spanned<String>| {
                let template = self.template(text.span().start, text.get_ref())?;
                self.check_values_of_problem(text.span().start, template.values()).map(|()| template)
            };
            text.as_ref().map(read).transpose()
        };
        let is_output = raw.role != Role::In;
        for (given, field) in [(raw.tolerance.is_some(), "tolerance"), (raw.reference.is_some(), "reference")] {
            if given && !is_output {
                return Err(self.error(at, format!("tensor '{}' is read alone, so it has no {field}", raw.name)));
            }
        }
        if raw.role == Role::Out && (raw.fill.is_some() || raw.file.is_some() || raw.awkward.is_some()) {
            return Err(
                self.error(at, format!("tensor '{}' is written alone, so it has no fill, awkward or file", raw.name))
            );
        }
        Ok(TensorOf {
            name: raw.name.clone(),
            role: raw.role,
            place: 0,
            element,
            shape: raw.shape.iter().map(|extent| self.formula_of_problem(extent)).collect::<Result<_>>()?,
            fill: contents(&raw.fill)?,
            awkward: contents(&raw.awkward)?,
            file: template(&raw.file)?.map(|file| self.place_of(file)),
            alignment: raw.alignment.as_ref().map(|alignment| self.formula_of_problem(alignment)).transpose()?,
            tolerance: raw
                .tolerance
                .map(|tolerance| Tolerance { relative: tolerance.relative, absolute: tolerance.absolute }),
            right: template(&raw.reference)?.map(|file| self.place_of(file)),
        })
    }

    /// A template of a path, from the manifest's folder.
    fn place_of(&self, file: Template) -> (PathBuf, Template) {
        (self.folder.unwrap_or(Path::new(".")).to_path_buf(), file)
    }

    fn check_tensors(&self, raw: &[Spanned<RawTensor>]) -> Result<()> {
        for (place, tensor) in raw.iter().enumerate() {
            let name = &tensor.get_ref().name;
            if ["null", "scratch", "counters"].contains(&name.as_str()) || name.starts_with("allowed(") {
                return Err(self.error(
                    tensor.span().start,
                    format!("tensor '{name}': arguments have that name for something else"),
                ));
            }
            if raw[..place].iter().any(|earlier| earlier.get_ref().name == *name) {
                return Err(self.error(tensor.span().start, format!("tensor '{name}' is there twice")));
            }
        }
        if raw.iter().all(|tensor| tensor.get_ref().role == Role::In) {
            return Err(self.error(0, "no [[tensor]] is an output: one must have role = \"out\" or \"inout\""));
        }
        Ok(())
    }

    /// `uniform(2)`, `whole(-3, n)`, …
    fn contents(&self, at: usize, text: &str) -> Result<Contents> {
        let wrong = || {
            self.error(
                at,
                format!("fill '{text}' is none of uniform(m), whole(a, b), wide(a, b), landmarks(a, b), logits(m), extremes and bits"),
            )
        };
        let (name, arguments) = match text.split_once('(') {
            Some((name, rest)) => (name.trim(), Some(rest.trim_end().strip_suffix(')').ok_or_else(wrong)?)),
            None => (text.trim(), None),
        };
        let arguments = arguments.map(split_arguments).unwrap_or_default();
        let arguments = arguments.iter().map(|argument| self.formula_at(at, argument)).collect::<Result<Vec<_>>>()?;
        arguments.iter().try_for_each(|argument| self.check_of_problem(at, argument))?;
        let mut arguments = arguments.into_iter();
        let contents = match (name, arguments.next(), arguments.next()) {
            ("uniform", Some(magnitude), None) => Contents::Uniform(magnitude),
            ("logits", Some(magnitude), None) => Contents::Logits(magnitude),
            ("whole", Some(least), Some(most)) => Contents::Whole(least, most),
            ("wide", Some(least), Some(most)) => Contents::Wide(least, most),
            ("landmarks", Some(least), Some(most)) => Contents::Landmarks(least, most),
            ("bits", None, None) => Contents::Bits,
            ("extremes", None, None) => Contents::Extremes,
            _ => return Err(wrong()),
        };
        if arguments.next().is_some() { Err(wrong()) } else { Ok(contents) }
    }

    /// A text with `{values}` in it.
    pub(super) fn template(&self, at: usize, text: &str) -> Result<Template> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (value, after) =
                after.split_once('}').ok_or_else(|| self.error(at, format!("'{text}': a {{ without its }}")))?;
            pieces.push((before.to_owned(), Some(self.value(at, value)?)));
            rest = after;
        }
        pieces.push((rest.to_owned(), None));
        Ok(Template(pieces))
    }

    /// What macros and templates have: an expression, a type's name, or a knob as it stands.
    fn value(&self, at: usize, text: &str) -> Result<Value> {
        let text = text.trim();
        Ok(match text {
            "c_type" => Value::CType,
            "dtype" => Value::Dtype,
            "mma" | "pid_type" => Value::Knob(text.to_owned()),
            own if self.own_knobs.iter().any(|knob| knob == own) => Value::Knob(text.to_owned()),
            expression => Value::Number(self.formula_at(at, expression)?),
        })
    }

    pub(super) fn macros(&self, raw: &[Spanned<String>]) -> Result<Vec<(String, Value)>> {
        let read = |raw: &Spanned<String>| {
            let (at, text) = (raw.span().start, raw.get_ref());
            let (name, value) =
                text.split_once('=').ok_or_else(|| self.error(at, format!("macro '{text}': write NAME = value")))?;
            let name = name.trim();
            if name.is_empty() || !is_macro(name) {
                return Err(self.error(at, format!("macro '{text}': '{name}' is no name of a macro")));
            }
            Ok((name.to_owned(), self.value(at, value)?))
        };
        raw.iter().map(read).collect()
    }

    pub(super) fn requirements(&self, raw: &[Spanned<super::raw::RawRequirement>]) -> Result<Vec<Condition>> {
        let read = |raw: &Spanned<super::raw::RawRequirement>| {
            let expression = self.formula_at(raw.span().start, &raw.get_ref().holds)?;
            Ok(Condition { expression, reason: forever_text(&raw.get_ref().reason) })
        };
        raw.iter().map(read).collect()
    }
}

/// What problems, macros and models call something else.
const OTHER_NAMES: [&str; 4] = ["c_type", "dtype", "dtype_bytes", "from"];

fn is_macro(name: &str) -> bool {
    name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
        && !name.starts_with(|letter: char| letter.is_ascii_digit())
}

/// Names in a row, for a message.
pub(super) fn names(names: &[&str]) -> String {
    names.join(", ")
}

/// The arguments of a call, at the commas that are in no parentheses.
fn split_arguments(text: &str) -> Vec<String> {
    let mut arguments = vec![String::new()];
    let mut depth = 0;
    for letter in text.chars() {
        match letter {
            ',' if depth == 0 => {
                arguments.push(String::new());
                continue;
            }
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if let Some(last) = arguments.last_mut() {
            last.push(letter);
        }
    }
    arguments
}
