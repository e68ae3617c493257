//! Batch queries: one JSON a line in, one out, in the same order.

use super::classification::Signature;
use super::document::Bucket;
use super::load::without_mark;
use super::lookup::{Answer, Heuristics};
use super::query::Query;
use super::template::Template;
use crate::error::{Error, Result};
use serde::Serialize;

/// An answer as JSON. Every field is always there, null or empty where there is nothing to say.
#[derive(Clone, Debug, Serialize)]
pub struct AnswerRecord<'a> {
    /// The class asked for; null where the kernel fits none.
    pub kernel_class: Option<&'a str>,
    /// The bucket looked for.
    pub shape_bucket: Bucket,
    /// The fallback group, whether or not it was asked.
    pub group: Option<&'static str>,
    /// `measured`, `rule`, `model`, `fallback` or `none`.
    pub source: &'static str,
    /// The rule's index in the document.
    pub rule_index: Option<usize>,
    /// The configs, best first.
    pub templates: Vec<&'a Template>,
}

impl<'a> AnswerRecord<'a> {
    /// The record of an answer to a query; of no query, where a kernel fits no class.
    pub fn new(query: Option<&Query<'a>>, answer: Option<Answer<'a>>) -> Self {
        let answer = answer.unwrap_or(Answer::NOTHING);
        Self {
            kernel_class: query.map(|query| query.class),
            shape_bucket: query.map(Query::bucket).unwrap_or_default(),
            group: query.and_then(Query::group),
            source: answer.source.name(),
            rule_index: answer.source.rule_index(),
            templates: answer.configs().collect(),
        }
    }
}

/// Answers one line of a batch: a [`Signature`] in JSON in, an [`AnswerRecord`] in JSON out, neither with a newline. A line
/// that is no such JSON is answered `{"error": …}`. Arguments that do not fit each other are answered as the runtime that documents
/// come from answers them.
pub fn answer_batch_line(heuristics: &Heuristics, line: &[u8]) -> String {
    let answered = read_line(line).and_then(|signature| {
        let query = signature.query().map(|query| heuristics.as_known(query));
        let answer = query.map(|query| heuristics.lookup_unchecked(&query));
        Ok(serde_json::to_string(&AnswerRecord::new(query.as_ref(), answer))?)
    });
    answered.unwrap_or_else(|error| refusal(&error))
}

/// The same, but arguments that fit nothing are refused. [`refusal`] makes the line of the error.
///
/// # Errors
/// Where the line is no query, and as [`Heuristics::query_of`].
pub fn answer_batch_line_checked(heuristics: &Heuristics, line: &[u8]) -> Result<String> {
    let signature = read_line(line)?;
    let query = heuristics.query_of(&signature)?;
    let answer = query.map(|query| heuristics.lookup(&query));
    Ok(serde_json::to_string(&AnswerRecord::new(query.as_ref(), answer))?)
}

/// The answer to a line that is refused: `{"error": …}`.
pub fn refusal(error: &Error) -> String {
    #[derive(Serialize)]
    struct Refusal {
        error: String,
    }
    serde_json::to_string(&Refusal { error: error.to_string() }).unwrap_or_default()
}

fn read_line(line: &[u8]) -> Result<Signature> {
    let line = without_mark(line);
    // Serde would take an array for the fields in order.
    if line.trim_ascii_start().first() != Some(&b'{') {
        return Err(Error::usage("not a query: a query is a JSON object"));
    }
    serde_json::from_slice(line).map_err(|error| Error::usage(format!("not a query: {error}")))
}
