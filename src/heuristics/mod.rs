//! The served part: the document, its buckets, fallback groups and classification, and the lookup.

mod buckets;
mod document;

pub use buckets::{DtypeClass, Extents, bucket_of, group_of, groups};
pub use document::{Bucket, Document, Fallback, RankedTemplate, Rule, Template};
