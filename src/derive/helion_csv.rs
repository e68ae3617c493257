//! Helion's ahead-of-time measurements: a CSV with one row for each kernel, shape and config.

use super::evidence::{Evidence, ProblemFacts, Record, Timing};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::heuristics::{Signature, Template, Tensor};
use crate::journal::Stage;
use csv::StringRecord;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::io::Read;

/// What became of a file's rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Rows with a time.
    pub timed: usize,
    /// Rows whose time is infinite: the config failed on that shape.
    pub failed: usize,
    /// Rows that could not be used.
    pub bad_rows: usize,
    /// The first of them, up to [`NAMED_ROWS`].
    pub bad: Vec<BadRow>,
}

impl Report {
    fn add_bad(&mut self, position: Option<&csv::Position>, reason: String) {
        self.bad_rows += 1;
        if self.bad.len() < NAMED_ROWS {
            self.bad.push(BadRow { line: position.map_or(0, csv::Position::line), reason });
        }
    }
}

/// The most bad rows that are kept; the rest are counted.
pub const NAMED_ROWS: usize = 10;

/// The most that a file may hold, some ten times what a tuning run of a hundred shapes leaves: choosing for each problem without
/// it goes through all rows.
const MOST_ROWS: usize = 500_000;
const MOST_PROBLEMS: usize = 5_000;
const MOST_CONFIGS: usize = 10_000;
const MOST_BYTES: u64 = 1 << 30;

/// A row that could not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRow {
    /// Its line in the file, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub reason: String,
}

/// The class of a kernel by the name of its function.
fn class_of(kernel_name: &str) -> Option<&'static str> {
    Some(match kernel_name {
        "matmul" => "matmul",
        "fp8_gemm" => "matmul_fp8",
        "grouped_gemm" => "grouped_matmul",
        "matmul_bf16_int4" => "matmul_int4",
        "_bf16xint16_gemm" => "matmul_int16",
        "nvfp4_matmul" => "matmul_fp4",
        "attention" => "attention",
        "softmax" => "row_softmax",
        "rms_norm" => "row_norm_rms",
        "layer_norm" => "row_norm_layer",
        "cross_entropy" => "row_cross_entropy",
        "vector_add" => "elementwise",
        _ => return None,
    })
}

/// What is broken in a file is for its owner to mend; that it cannot be read further is not.
fn unreadable(error: csv::Error) -> Error {
    let kind = if error.is_io_error() { ErrorKind::Failure } else { ErrorKind::Usage };
    Error::from_source(kind, error)
}

/// Adds the rows of a measurements file to `evidence`. Rows that cannot be used are named in the report.
///
/// # Errors
/// Where the file cannot be read, lacks a column, or holds more than can be derived from. `name` is what errors call it.
pub fn read(evidence: &mut Evidence, reader: impl Read, name: &str) -> Result<Report> {
    let mut csv = csv::ReaderBuilder::new().flexible(true).from_reader(reader.take(MOST_BYTES));
    let columns = Columns::find(csv.headers().map_err(unreadable).context(|| name)?).context(|| name)?;
    let mut report = Report::default();
    let mut seen = Seen::default();
    let mut record = StringRecord::new();
    for row in 0.. {
        match csv.read_record(&mut record) {
            Ok(false) => break,
            Ok(true) if row == MOST_ROWS => return Err(too_many("rows", MOST_ROWS).context(name)),
            Ok(true) => match seen.read_row(evidence, &columns, &record) {
                Ok(true) => report.timed += 1,
                Ok(false) => report.failed += 1,
                Err(reason) => report.add_bad(record.position(), reason),
            },
            Err(error) if error.is_io_error() => return Err(unreadable(error).context(name)),
            Err(error) => report.add_bad(error.position(), error.to_string()),
        }
        for (what, count, most) in
            [("shapes", evidence.problems.len(), MOST_PROBLEMS), ("configs", evidence.configs.len(), MOST_CONFIGS)]
        {
            if count > most {
                return Err(too_many(what, most).context(name));
            }
        }
    }
    if csv.get_ref().limit() == 0 {
        return Err(too_many("MiB", MOST_BYTES as usize >> 20).context(name));
    }
    Ok(report)
}

fn too_many(what: &str, most: usize) -> Error {
    Error::usage(format!("more than {most} {what}: derive from fewer, such as one kernel's at a time"))
}

/// Where each column is.
struct Columns {
    count: usize,
    kernel_name: usize,
    shape_hash: usize,
    config: usize,
    shape_features: usize,
    timing_ms: usize,
}

impl Columns {
    fn find(headers: &StringRecord) -> Result<Self> {
        let position = |wanted: &str| {
            headers.iter().position(|header| header.trim() == wanted).ok_or_else(|| {
                let found: Vec<_> = headers.iter().collect();
                Error::usage(format!("no column '{wanted}' among '{}': not a measurements file", found.join(", ")))
            })
        };
        Ok(Self {
            count: headers.len(),
            kernel_name: position("kernel_name")?,
            shape_hash: position("shape_hash")?,
            config: position("config")?,
            shape_features: position("shape_features")?,
            timing_ms: position("timing_ms")?,
        })
    }
}

/// Problems and configs read already, by their text in the file.
#[derive(Default)]
struct Seen {
    problems: HashMap<[String; 3], usize>,
    configs: HashMap<String, usize>,
}

impl Seen {
    /// Whether the row holds a time; else the config failed.
    fn read_row(&mut self, evidence: &mut Evidence, columns: &Columns, row: &StringRecord) -> Result<bool, String> {
        if row.len() != columns.count {
            return Err(format!("{} fields where the header has {}", row.len(), columns.count));
        }
        let kernel_name = &row[columns.kernel_name];
        let class = class_of(kernel_name)
            .ok_or_else(|| format!("kernel_name '{}' belongs to no known class", shown(kernel_name)))?;
        let timing = read_timing(&row[columns.timing_ms])?;

        let place =
            [columns.kernel_name, columns.shape_hash, columns.shape_features].map(|column| row[column].to_owned());
        let problem = if let Some(problem) = self.problems.get(&place) {
            *problem
        } else {
            let features = read_object("shape_features", &place[2])?;
            let problem = evidence.problem(problem_facts(class, &place[1], &features)?);
            *self.problems.entry(place).or_insert(problem)
        };
        let text = &row[columns.config];
        let config = if let Some(config) = self.configs.get(text) {
            *config
        } else {
            let config = evidence.config(read_config(text)?);
            *self.configs.entry(text.to_owned()).or_insert(config)
        };
        let kernel = evidence.kernel(kernel_name);
        let timed = timing.is_some();
        evidence.add(Record { problem, config, kernel, stage: Stage::Cross, null_arm: false, timing });
        Ok(timed)
    }
}

/// The time of a row; `None` for an infinite one, which is how a failed config is written.
fn read_timing(text: &str) -> Result<Option<Timing>, String> {
    let timing_ms: f64 = text.trim().parse().map_err(|_| format!("timing_ms '{}' is no number", shown(text)))?;
    match timing_ms {
        ms if ms == f64::INFINITY => Ok(None),
        ms if ms > 0.0 => Ok(Some(Timing { time_us: ms * 1e3, ..Timing::default() })),
        _ => Err(format!("timing_ms '{}' is no positive time", shown(text))),
    }
}

/// The start of a field, for a message.
fn shown(field: &str) -> String {
    field.chars().take(60).collect()
}

fn read_object(column: &str, text: &str) -> Result<Map<String, Value>, String> {
    match serde_json::from_str(text) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(format!("{column} is no JSON object")),
        Err(error) => Err(format!("{column} is broken JSON: {error}")),
    }
}

fn read_config(text: &str) -> Result<Template, String> {
    let config = read_object("config", text)?;
    if config.is_empty() { Err("config is empty".to_owned()) } else { Ok(config) }
}

/// The problem that features such as `arg0_dim1` and `arg0_dtype` describe.
fn problem_facts(class: &'static str, shape_hash: &str, features: &Map<String, Value>) -> Result<ProblemFacts, String> {
    let args = arguments(features);
    let shapes: Vec<&[i64]> = args.iter().filter_map(|tensor| tensor.shape.as_deref()).collect();
    if shapes.is_empty() {
        return Err("shape_features tells no argument's shape".to_owned());
    }
    let extent = |extent: &i64| if *extent == UNRECORDED { "?".to_owned() } else { extent.to_string() };
    let extents = |shape: &[i64]| shape.iter().map(extent).collect::<Vec<_>>().join("x");
    let shapes_text: Vec<String> = shapes.iter().copied().map(extents).collect();
    let dtype = args.iter().find_map(|tensor| tensor.dtype.as_deref()).unwrap_or("unknown");
    let name = format!("{} {} {shape_hash}", shapes_text.join(" "), dtype.trim_start_matches("torch."));
    let dimensions = shapes.concat().into_iter().map(|extent| extent.max(0).unsigned_abs()).collect();
    let signature = Signature { kernel_class: Some(class.to_owned()), args, ..Signature::default() };
    let mut query = signature.query().ok_or_else(|| format!("no class '{class}'"))?;
    query.extents = query.extents.without(UNRECORDED);
    let (bucket, group) = (query.bucket(), query.group());
    Ok(ProblemFacts { class: class.to_owned(), dimensions, name, bucket, group, problem: None })
}

/// Stands for an extent that was not recorded. What is multiplied by it stays it.
const UNRECORDED: i64 = i64::MIN;

/// No tensor has more.
const MOST_DIMENSIONS: usize = 16;

/// The tensor arguments; one of which no dimension was recorded has no shape.
fn arguments(features: &Map<String, Value>) -> Vec<Tensor> {
    let index = |name: &String| name.strip_prefix("arg")?.split_once('_')?.0.parse::<usize>().ok();
    // No kernel has more; a larger index is a slip that must not cost memory.
    let count = features.keys().filter_map(index).filter(|index| *index < 64).max().map_or(0, |last| last + 1);
    let argument = |arg: usize| {
        let extent = |dim: usize| integer(features.get(&format!("arg{arg}_dim{dim}"))?);
        let ndim = features.get(&format!("arg{arg}_ndim")).and_then(integer);
        let ndim = ndim.map_or_else(
            || (0..MOST_DIMENSIONS).rev().find(|dim| extent(*dim).is_some()).map_or(0, |last| last + 1),
            |ndim| usize::try_from(ndim).ok().filter(|ndim| *ndim <= MOST_DIMENSIONS).unwrap_or(0),
        );
        let shape: Vec<i64> = (0..ndim).map(|dim| extent(dim).unwrap_or(UNRECORDED)).collect();
        let shape = Some(shape).filter(|shape| shape.iter().any(|extent| *extent != UNRECORDED));
        let dtype = features.get(&format!("arg{arg}_dtype")).and_then(Value::as_str).map(str::to_owned);
        Tensor { shape, dtype }
    };
    (0..count).map(argument).collect()
}

/// An integer, also where it was written as a float.
fn integer(value: &Value) -> Option<i64> {
    value
        .as_i64()
        .or_else(|| value.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < 1e15).map(|float| float as i64))
}
