//! `sweep lookup`: which config for this shape, or for each line of a batch.

use super::arguments::OutputArgs;
use super::output;
use crate::error::{Context, Error, Result};
use crate::heuristics::{
    Answer, Bucket, CLASSES, Considered, Explanation, Heuristics, Nearest, Query, Source, answer_batch_line,
    answer_batch_line_checked, device_of, refusal,
};
use crate::model::{Family, GpuProfile, parse_dimensions};
use crate::paths::GpuFolder;
use clap::{ArgGroup, Args};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// The config that a document serves for a shape.
#[derive(Args, Clone, Debug)]
#[command(
    group = ArgGroup::new("document").required(true).args(["gpu", "heuristics"]),
    after_help = "Examples:
  sweep lookup --gpu h200 --family elementwise --shape numel=4096 --explain
  sweep lookup --heuristics old.json --batch queries.jsonl --check"
)]
pub(super) struct LookupArgs {
    /// GPU whose document to ask: the one under --output, else the one built in
    #[arg(long, value_name = "NAME")]
    gpu: Option<String>,

    /// Document to ask
    #[arg(long, value_name = "FILE")]
    heuristics: Option<PathBuf>,

    #[command(flatten)]
    output: OutputArgs,

    /// Family, or another class the document holds
    #[arg(long, value_name = "NAME", required_unless_present = "batch", conflicts_with = "batch")]
    family: Option<String>,

    /// Dimensions, such as m=16,n=4096,k=4096
    #[arg(long, value_name = "DIMENSIONS", conflicts_with = "batch")]
    shape: Option<String>,

    /// Type of the first tensor: bf16, f16, f32, fp8, …, or PyTorch's name, with or without torch. [default: bf16, or the first
    /// that the family comes in]
    #[arg(long, value_name = "TYPE", conflicts_with = "batch")]
    dtype: Option<String>,

    /// Say why: class, bucket, group, evidence and the nearest bucket there is; of a class with a fitted model, what was
    /// measured and what model, rule and fallback would answer, with expected times and their regret on problems left out
    #[arg(long, conflicts_with = "batch")]
    explain: bool,

    /// Answer in JSON
    #[arg(long)]
    json: bool,

    /// Answer JSON lines from a file, or from standard input
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    batch: Option<PathBuf>,

    /// Refuse lines of a batch whose arguments fit no kernel: {"error": …} in their place, and exit 2 at the end
    #[arg(long, requires = "batch", conflicts_with = "family")]
    check: bool,
}

impl LookupArgs {
    fn shape(&self) -> &str {
        self.shape.as_deref().unwrap_or_default()
    }
}

/// The longest line of a batch: kernel sources are long, but not this long.
const MAX_LINE_BYTES: u64 = 16 << 20;

/// Runs the subcommand.
///
/// # Errors
/// Where there is no such document or family, the question fits no kernel, or a batch cannot be read or, checked, holds a line that
/// is refused.
pub(super) fn run(args: &LookupArgs) -> Result<()> {
    let heuristics = open(args)?;
    if let Some(queries) = &args.batch {
        let checked = args.check;
        return answer_batch(&heuristics, open_queries(queries)?, checked, &mut BufWriter::new(io::stdout().lock()));
    }
    output::result(&answer_one(&heuristics, &question(&heuristics, args)?, args)?)
}

/// The document of `--heuristics`, of `--gpu` under `--output`, or built in.
fn open(args: &LookupArgs) -> Result<Heuristics> {
    if let Some(path) = &args.heuristics {
        return Heuristics::load(path);
    }
    let asked = args.gpu.as_deref().unwrap_or_default();
    let is_folder = || args.output.of_gpu(asked).is_ok_and(|folder| folder.path().is_dir());
    let (gpu, device) = match GpuProfile::by_name(asked).ok().or_else(|| GpuProfile::by_model(asked)) {
        Some(profile) => (profile.name, None),
        // One the tool has no profile of was swept all the same.
        None if asked == GpuProfile::CPU || is_folder() => (asked.to_string(), None),
        // By its full name no other device's document is asked, nor that of the GPU it is a slice of.
        None if asked.contains(' ') => (GpuProfile::short_name(asked), Some(asked)),
        None => (GpuProfile::by_name(asked)?.name, None),
    };
    let path = GpuFolder::new(&args.output.output, &gpu).document();
    let is_its_own = |text: &str| device.is_none_or(|device| device_of(text).as_deref() == Some(device));
    if path.exists() && (device.is_none() || is_its_own(&fs::read_to_string(&path).unwrap_or_default())) {
        return Heuristics::load(&path);
    }
    Heuristics::builtin(device.unwrap_or(&gpu)).map_err(|error| {
        let what = if path.exists() {
            format!("{} is of another device", path.display())
        } else {
            format!("no {}", path.display())
        };
        Error::usage(format!("{error}, and {what}; `sweep --gpu {gpu}` makes it, --heuristics names another"))
    })
}

fn open_queries(path: &Path) -> Result<Box<dyn Read>> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(io::stdin()));
    }
    let what = || format!("queries {}", path.display());
    if path.is_dir() {
        return Err(Error::usage("a folder, not a file of JSON lines").context(what()));
    }
    Ok(Box::new(File::open(path).map_err(Error::of_named_file).context(what)?))
}

fn question<'a>(heuristics: &Heuristics, args: &'a LookupArgs) -> Result<Query<'a>> {
    let class = args.family.as_deref().unwrap_or_default();
    let dtype = heuristics.dtype(class, args.dtype.as_deref())?;
    if !CLASSES.contains(&class) && !heuristics.classes().any(|known| known == class) {
        return Err(unknown_family(heuristics, class));
    }
    heuristics.query(class, &parse_dimensions(args.shape())?, dtype)
}

fn unknown_family(heuristics: &Heuristics, name: &str) -> Error {
    let known = CLASSES.into_iter().chain(heuristics.classes());
    let nearest = known.max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name)));
    let own = heuristics.classes().filter(|class| !CLASSES.contains(class));
    let families: Vec<_> = Family::ALL.iter().map(|family| family.name()).chain(own).collect();
    Error::usage(format!(
        "'{name}' is no family; did you mean '{}'? The families are {}",
        nearest.unwrap_or_default(),
        families.join(", ")
    ))
}

fn answer_one(heuristics: &Heuristics, query: &Query, args: &LookupArgs) -> Result<String> {
    let explained = heuristics.explained(query, args.explain);
    if args.json {
        return Ok(serde_json::to_string(&explained)? + "\n");
    }
    let answer = heuristics.lookup(query);
    let dtype = args.dtype.as_deref().unwrap_or(query.dtype.name());
    let mut lines = vec![format!("{} {} {dtype}: {}", query.class, args.shape(), summary(&answer))];
    if args.explain {
        let bucket = query.bucket();
        let labels: Vec<_> = bucket.iter().map(|(field, label)| format!("{field} {label}")).collect();
        lines.extend([format!("  class     {}", query.class), format!("  bucket    {}", labels.join(", "))]);
        lines.extend(match &explained.explanation {
            Some(explanation) => weighing(query, explanation, &answer),
            None => precedence(query, &answer),
        });
        match answer.evidence() {
            Some(evidence) if !evidence.is_empty() => {
                lines.push(format!("  evidence  {}", Value::Object(evidence.clone())));
            }
            _ if explained.explanation.is_none() => lines.push("  evidence  none in the document".to_owned()),
            _ => {}
        }
        if let Some(Nearest { rule_index, shape_bucket }) = &explained.nearest {
            lines.push(format!("  nearest   rule {rule_index}: {}", differences(&bucket, shape_bucket)));
        }
    }
    lines.extend(answer.configs().map(|config| Value::Object(config.clone()).to_string()));
    Ok(lines.join("\n") + "\n")
}

/// Where the answer came from, in a few words.
fn summary(answer: &Answer) -> String {
    let configs = match answer.configs().count() {
        0 => "no usable config".to_owned(),
        1 => "1 config".to_owned(),
        many => format!("{many} configs, best first"),
    };
    match answer.source {
        Source::Measured => format!("measured, {configs}, {}", times(answer.measured_us().into_iter().flatten())),
        Source::Rule(index) => format!("rule {index}, {configs}"),
        Source::Model => format!("model, {configs}, {} expected", times(answer.predicted_us().into_iter().flatten())),
        Source::Fallback(group) => format!("fallback {group}, {configs}"),
        Source::None => "none; neither a rule nor a fallback fits".to_owned(),
    }
}

fn times(times_us: impl Iterator<Item = f64>) -> String {
    let texts: Vec<_> = times_us.map(|time_us| format!("{time_us:.2}")).collect();
    format!("{} us", texts.join(", "))
}

/// Why it is the rule, else the fallback, where the class has no model.
fn precedence(query: &Query, answer: &Answer) -> Vec<String> {
    vec![
        match answer.source {
            Source::Rule(index) => format!("  rule      {index} has this bucket"),
            _ => "  rule      none has this bucket".to_owned(),
        },
        match (query.group(), answer.source) {
            (None, _) => "  group     none for this class".to_owned(),
            (Some(group), Source::Rule(..)) => format!("  group     {group}, not asked: a rule comes first"),
            (Some(group), Source::Fallback(..)) => format!("  group     {group}, whose fallback answers"),
            (Some(group), _) => format!("  group     {group}, which has no fallback"),
        },
    ]
}

/// What each would answer where the class has a model, and why it is the one that does.
fn weighing(query: &Query, explanation: &Explanation, answer: &Answer) -> Vec<String> {
    let aligned = match explanation.aligned {
        None => "",
        Some(true) => ", rows aligned",
        Some(false) => ", rows not aligned",
    };
    let mut lines = vec![format!("  group     {}{aligned}", query.group().unwrap_or("none for this class"))];
    lines.extend(explanation.considered.iter().map(|considered| {
        let name = match considered.rule_index {
            Some(index) => format!("rule {index}"),
            None => considered.source.to_owned(),
        };
        format!("  {name:9} {}", says(considered))
    }));
    lines.push(format!("  chosen    {}: {}", answer.source.name(), explanation.why));
    lines
}

/// What one of them would answer, and how it did.
fn says(considered: &Considered) -> String {
    let count = match considered.templates.len() {
        0 => "nothing".to_owned(),
        1 => "1 config".to_owned(),
        many => format!("{many} configs"),
    };
    let mut pieces = vec![count];
    pieces.extend(
        considered
            .measured_us
            .iter()
            .filter(|medians| !medians.is_empty())
            .map(|medians| format!("{} measured", times(medians.iter().copied()))),
    );
    if considered.predicted_us.iter().any(Option::is_some) {
        pieces.push(format!("{} expected", times(considered.predicted_us.iter().copied().flatten())));
    }
    if considered.illegal > 0 {
        pieces.push(format!("{} that cannot run this shape", considered.illegal));
    }
    match considered.regret {
        Some(regret) => pieces.push(format!(
            "regret {:.4} (p90 {:.3}, max {:.3}) on {} problems left out",
            regret.geomean, regret.p90, regret.max, regret.problems
        )),
        None if considered.source == "measured" => {}
        None => pieces.push("regret unknown".to_owned()),
    }
    pieces.join(", ")
}

/// What a rule's bucket has in place of the labels asked for.
fn differences(asked: &Bucket, found: &Bucket) -> String {
    let mut fields: Vec<_> = asked.keys().chain(found.keys()).collect();
    fields.sort();
    fields.dedup();
    let label = |bucket: &Bucket, field: &str| bucket.get(field).map_or("none", String::as_str).to_owned();
    let differing = fields.into_iter().filter(|field| asked.get(*field) != found.get(*field));
    let pieces: Vec<_> =
        differing.map(|field| format!("{field} {} instead of {}", label(found, field), label(asked, field))).collect();
    pieces.join(", ")
}

/// Answers line by line; whoever asks may wait for each answer before asking on.
fn answer_batch(heuristics: &Heuristics, queries: Box<dyn Read>, checked: bool, out: &mut impl Write) -> Result<()> {
    let mut queries = BufReader::with_capacity(1 << 16, queries);
    let mut line = Vec::new();
    let (mut asked, mut refused) = (0_u64, 0_u64);
    while read_line(&mut queries, &mut line).context(|| "reading queries")? {
        let mut answer = if checked {
            answer_batch_line_checked(heuristics, &line).unwrap_or_else(|error| {
                refused += 1;
                refusal(&error)
            })
        } else {
            answer_batch_line(heuristics, &line)
        };
        asked += 1;
        answer.push('\n');
        let mut done = out.write_all(answer.as_bytes());
        if queries.buffer().is_empty() {
            done = done.and_then(|()| out.flush());
        }
        if !output::written(done)? {
            break;
        }
    }
    if refused > 0 {
        return Err(Error::usage(format!(
            "{refused} of {asked} queries were refused, each with its reason in its place"
        )));
    }
    Ok(())
}

/// Reads the next line, if there is one. The end of one that is too long is dropped, so that it is answered as the broken
/// query it then is.
fn read_line(queries: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    queries.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', line)?;
    if line.len() as u64 == MAX_LINE_BYTES && !line.ends_with(b"\n") {
        queries.skip_until(b'\n')?;
    }
    Ok(!line.is_empty())
}
