//! Why an answer is what it is: what each that may answer would have said, and how it did on problems left out.

use super::batch::AnswerRecord;
use super::document::Bucket;
use super::entries::{Entries, Found, Source};
use super::fitted::Regret;
use super::lookup::Heuristics;
use super::model::Model;
use super::query::Query;
use super::resolve::Exact;
use super::template::Template;
use serde::Serialize;
use serde_json::{Map, Value};

/// Why a class with a model answers a query so.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation<'a> {
    /// Whether all operands' rows are aligned for the widest copies; null where the model was not asked.
    pub aligned: Option<bool>,
    /// What may answer, in the order of asking; nothing where the model was not asked.
    pub considered: Vec<Considered<'a>>,
    /// Why it is this answer, in a line.
    pub why: String,
}

/// What one of those that may answer says of a shape.
#[derive(Clone, Debug, Serialize)]
pub struct Considered<'a> {
    /// `measured`, `model`, `rule` or `fallback`.
    pub source: &'static str,
    /// The rule's index in the document.
    pub rule_index: Option<usize>,
    /// The fallback's group.
    pub group: Option<&'static str>,
    /// Its configs that can run the shape, best first.
    pub templates: Vec<&'a Template>,
    /// Its configs that cannot, and are passed over.
    pub illegal: usize,
    /// Medians measured for this very shape and type, in microseconds, one a config.
    pub measured_us: Option<Vec<f64>>,
    /// The times that the model expects, in microseconds, one a config.
    pub predicted_us: Vec<Option<f64>>,
    /// How it did on problems left out; null where it was not judged on any.
    pub regret: Option<&'a Regret>,
}

/// An answer in JSON: that of a batch, with what a single query is told beside.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainedRecord<'a> {
    /// The answer.
    #[serde(flatten)]
    pub answer: AnswerRecord<'a>,
    /// What the document's maker measured to trust a rule or fallback.
    pub evidence: Option<&'a Map<String, Value>>,
    /// The medians of the configs in microseconds, where they were measured for this very shape and type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured_us: Option<Vec<f64>>,
    /// The times that the model expects of the configs in microseconds, where they are its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted_us: Option<Vec<f64>>,
    /// Where that was asked for, the nearest rule of the class, if none has the query's bucket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nearest: Option<Nearest>,
    /// Where that was asked for and the class has a model, why it is this answer.
    #[serde(flatten)]
    pub explanation: Option<Explanation<'a>>,
}

/// A rule whose bucket is near the query's.
#[derive(Clone, Debug, Serialize)]
pub struct Nearest {
    /// Its index in the document.
    pub rule_index: usize,
    /// Its bucket.
    pub shape_bucket: Bucket,
}

impl Heuristics {
    /// Why a query is answered so: what each that may answer would have said. None for a class without a model, where a rule
    /// answers, or else a fallback.
    pub fn explain<'a>(&'a self, query: &Query<'a>) -> Option<Explanation<'a>> {
        let class = self.class(query.class)?;
        let resolver = self.resolver_of(class)?;
        let unasked = |why| Some(Explanation { aligned: None, considered: Vec::new(), why });
        let model = match resolver.model(self.text()) {
            Ok(model) => model,
            Err(error) => return unasked(format!("the model is not asked, since it is broken: {error}")),
        };
        let Some(exact) = exact(&class.entries, model, self.text(), query) else {
            let names = |names: Vec<&str>| names.join(", ");
            return unasked(format!(
                "the model is not asked: it knows {} of {}",
                names(model.fitted().dims.iter().map(String::as_str).collect()),
                names(model.fitted().dtypes.keys().map(String::as_str).collect())
            ));
        };
        let mut considered = vec![exact.consider(&class.entries, Found::Measured, None)];
        considered
            .extend(exact.by_regret().into_iter().map(|(found, regret)| exact.consider(&class.entries, found, regret)));
        let why = why(&considered, self.lookup(query).source);
        Some(Explanation { aligned: Some(exact.is_aligned()), considered, why })
    }

    /// The answer to a query in JSON, with the reasons for it if they are asked for.
    pub fn explained<'a>(&'a self, query: &Query<'a>, with_reasons: bool) -> ExplainedRecord<'a> {
        let answer = self.lookup(query);
        let nearest = || {
            let (rule_index, shape_bucket) = self.nearest(query)?;
            (shape_bucket != query.bucket()).then_some(Nearest { rule_index, shape_bucket })
        };
        ExplainedRecord {
            answer: AnswerRecord::new(Some(query), Some(answer)),
            evidence: answer.evidence(),
            measured_us: answer.measured_us().map(rounded),
            predicted_us: answer.predicted_us().map(rounded),
            nearest: with_reasons.then(nearest).flatten(),
            explanation: with_reasons.then(|| self.explain(query)).flatten(),
        }
    }
}

/// The query's shape and type, if the model knows both.
fn exact<'a>(entries: &'a Entries, model: &'a Model, text: &'a str, query: &Query<'a>) -> Option<Exact<'a>> {
    let knows_type = model.fitted().dtypes.contains_key(query.dtype.name());
    Exact::new(entries, model, text, query).filter(|_| knows_type)
}

impl<'a> Exact<'a> {
    fn consider(&self, entries: &'a Entries, found: Found, regret: Option<&'a Regret>) -> Considered<'a> {
        let source = entries.source(found);
        let picks = self.picks(found);
        Considered {
            source: source.name(),
            rule_index: source.rule_index(),
            group: if let Source::Fallback(group) = source { Some(group) } else { None },
            templates: picks.places().iter().map(|place| self.config(found, *place)).collect(),
            illegal: self.illegal(found),
            measured_us: (found == Found::Measured).then(|| rounded(picks.times_us().to_vec())),
            predicted_us: self.predicted_us(found, &picks).into_iter().map(|time_us| time_us.map(places)).collect(),
            regret,
        }
    }
}

/// Why the source answers, of those considered in their order.
fn why(considered: &[Considered], source: Source) -> String {
    let chosen = considered.iter().skip(1).find(|other| other.source == source.name());
    let passed_over = considered.iter().skip(1).take_while(|other| other.source != source.name()).count();
    match (source, chosen) {
        (Source::Measured, _) => "measured for this very shape and type".to_owned(),
        (_, None) => "nothing in the document can run this shape".to_owned(),
        (_, Some(_)) if passed_over > 0 => "those with less regret hold no config that can run this shape".to_owned(),
        (_, Some(Considered { regret: Some(regret), .. })) => {
            let group = regret.group.as_ref().map_or_else(String::new, |group| format!(" of {group}"));
            let aligned = match regret.aligned {
                None => "",
                Some(true) => " with aligned rows",
                Some(false) => " with unaligned rows",
            };
            format!("the least regret on problems{group}{aligned} that were left out")
        }
        (_, Some(_)) => "no regret is known: the model comes before a rule, and a rule before a fallback".to_owned(),
    }
}

/// Times to 4 places, as documents have them.
fn rounded(times_us: Vec<f64>) -> Vec<f64> {
    times_us.into_iter().map(places).collect()
}

fn places(time_us: f64) -> f64 {
    (time_us * 1e4).round() / 1e4
}
