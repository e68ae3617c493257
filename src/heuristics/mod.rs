//! The served part: the document, its buckets, fallback groups and classification, and the lookup.

mod batch;
mod buckets;
mod builtin;
mod document;
mod entry;
mod load;
mod lookup;
mod materialize;
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
pub use lookup::{Answer, Heuristics, Options, Query, Source};
pub use materialize::{Knob, Space, materialize};
pub use signature::{Signature, Tensor};
