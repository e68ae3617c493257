//! The served part: the document, its buckets, fallback groups and classification, and the lookup.

mod document;

pub use document::{Bucket, Document, Fallback, RankedTemplate, Rule, Template};

use crate::model::Problem;

/// The bucket of a problem of one of the families.
pub fn bucket_of(_problem: &Problem) -> Bucket {
    todo!()
}

/// The fallback group of a problem of one of the families.
pub fn group_of(_problem: &Problem) -> &'static str {
    todo!()
}

/// The fallback groups of a family's class.
pub fn groups(_family: crate::model::Family) -> &'static [&'static str] {
    todo!()
}
