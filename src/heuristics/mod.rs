//! The served part: the document, its buckets, fallback groups and classification, its fitted models, and the lookup.
//!
//! ```
//! use kernel_sweep::heuristics::{Heuristics, Source};
//! use kernel_sweep::model::Dtype;
//!
//! # fn main() -> kernel_sweep::error::Result<()> {
//! let heuristics = Heuristics::from_bytes(
//!     br#"{"schema_version": 2, "rules": [], "fallbacks": {"matmul": {"small_m": {"template": {"num_warps": 4}}}}}"#,
//! )?;
//! let query = heuristics.query("matmul", &[("m", 16), ("n", 4096), ("k", 4096)], Dtype::Bf16)?;
//! let answer = heuristics.lookup(&query);
//! assert_eq!(answer.source, Source::Fallback("small_m"));
//! assert_eq!(answer.best().map(|config| &config["num_warps"]), Some(&4.into()));
//! # Ok(())
//! # }
//! ```

mod arguments;
mod batch;
mod bins;
mod builtin;
mod cache;
mod candidates;
mod classes;
mod classification;
mod columns;
mod document;
mod dtypes;
mod entries;
mod entry;
mod explain;
mod expression;
mod fields;
mod extents;
mod fitted;
mod groups;
mod index;
mod listed;
mod load;
mod lookup;
mod materialize;
mod measured;
mod model;
mod own;
mod parser;
mod query;
mod resolve;
mod rows;
mod save;
mod scan;
mod scope;
mod shipped;
mod steps;
mod template;
mod terms;
mod trees;
#[cfg(feature = "run")]
mod write;

pub use batch::{AnswerRecord, answer_batch_line, answer_batch_line_checked, refusal};
pub use bins::bucket_of;
pub use builtin::{builtin_document, builtin_names, device_of};
pub use candidates::Candidates;
pub use classes::family_of_shape;
pub use classification::{Signature, Tensor};
pub use columns::ModelConfig;
pub use document::{Bucket, Document, Fallback, RankedTemplate, Rule, SCHEMA_VERSION};
pub use dtypes::{DtypeClass, DtypeName};
pub use entries::Source;
#[cfg(feature = "harness")]
pub(crate) use entry::by_rank;
pub use explain::{Considered, ExplainedRecord, Explanation, Nearest};
pub use expression::Formula;
pub use extents::Extents;
pub use fitted::{CrossValidation, FittedModel, Floor, MODEL_FORM, Regret};
pub use groups::{class_groups, group_of, groups};
#[cfg(feature = "run")]
pub(crate) use load::without_mark;
pub use lookup::{Answer, Heuristics, Options};
pub use materialize::{Knob, Space, materialize};
pub use measured::MeasuredProblem;
#[cfg(feature = "harness")]
pub(crate) use measured::four_digits;
#[cfg(feature = "harness")]
pub(crate) use model::LookedAt;
pub use model::{Choice, LEAF_UNIT, Model, UNTRIED};
pub use own::{DescribedBin, DescribedFamily, DescribedGroup, FAMILIES, OwnKind, families_of};
pub use parser::FUNCTIONS as EXPRESSION_FUNCTIONS;
pub use query::Query;
#[cfg(feature = "harness")]
pub(crate) use rows::{ANCHOR_DIGITS, as_written};
#[cfg(feature = "harness")]
pub(crate) use scope::nearest;
pub use shipped::CLASSES;
#[cfg(feature = "harness")]
pub(crate) use steps::greatest_common_divisor;
pub use template::Template;
#[cfg(feature = "harness")]
pub(crate) use trees::feature_name;
#[cfg(feature = "run")]
pub(crate) use write::{clear_leftovers, new_file};
#[cfg(feature = "harness")]
pub(crate) use write::{new_folder, replace};
