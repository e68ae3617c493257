//! The served part: the document, its buckets, fallback groups and classification, and the lookup.

mod buckets;
mod document;

pub use buckets::{DtypeClass, Extents, bucket_of, class_bucket, class_group, class_groups, group_of, groups};
pub use document::{Bucket, Document, Fallback, RankedTemplate, Rule, Template};
