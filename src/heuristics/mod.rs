//! The served part: the document, its buckets, fallback groups and classification, and the lookup.
//!
//! ```
//! use kernel_sweep::heuristics::{DtypeClass, Heuristics, Source};
//!
//! # fn main() -> kernel_sweep::error::Result<()> {
//! let heuristics = Heuristics::from_bytes(
//!     br#"{"schema_version": 2, "rules": [], "fallbacks": {"matmul": {"small_m": {"template": {"num_warps": 4}}}}}"#,
//! )?;
//! let query = heuristics.query("matmul", &[("m", 16), ("n", 4096), ("k", 4096)], DtypeClass::Fp16Bf16)?;
//! let answer = heuristics.lookup(&query);
//! assert_eq!(answer.source, Source::Fallback("small_m"));
//! assert_eq!(answer.best().map(|config| &config["num_warps"]), Some(&4.into()));
//! # Ok(())
//! # }
//! ```

mod batch;
mod buckets;
mod builtin;
mod document;
mod entry;
mod expression;
mod load;
mod lookup;
mod materialize;
mod model;
mod save;
mod scan;
mod signature;
#[cfg(feature = "harness")]
mod write;

pub use batch::{AnswerRecord, answer_batch_line};
pub use buckets::{CLASSES, DtypeClass, Extents, bucket_of, class_groups, family_of_shape, group_of, groups};
pub use builtin::{builtin_document, builtin_names};
pub use document::{Bucket, Document, Fallback, RankedTemplate, Rule, SCHEMA_VERSION, Template};
#[cfg(feature = "harness")]
pub(crate) use entry::by_rank;
pub use expression::{FUNCTIONS as EXPRESSION_FUNCTIONS, Formula};
pub use lookup::{Answer, Heuristics, Options, Query, Source};
pub use materialize::{Knob, Space, materialize};
pub use model::{
    Candidates, Choice, CrossValidation, FittedModel, Floor, LEAF_UNIT, MODEL_FORM, MeasuredProblem, Model,
    ModelConfig, Regret,
};
pub use signature::{Signature, Tensor};
#[cfg(feature = "harness")]
pub(crate) use write::replace;
