//! What the lookup is asked.

use super::bins::PackedBucket;
use super::document::Bucket;
use super::dtypes::DtypeName;
use super::extents::Extents;
use super::groups::group_index;
use crate::model::Problem;

/// A question: which configs for this class at these dimensions?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query<'a> {
    /// The class: a family's name, or another one that a document may hold.
    pub class: &'a str,
    /// The dimensions that class goes by, exactly.
    pub extents: Extents,
    /// The type of the first argument, exactly.
    pub dtype: DtypeName<'a>,
}

impl Query<'_> {
    /// The same as whoever knows no variants would ask it.
    #[must_use]
    pub fn plain(self) -> Self {
        Query { extents: self.extents.plain(), ..self }
    }

    /// Its bucket, spelled out.
    pub fn bucket(&self) -> Bucket {
        let kind = self.extents.kind_of_class(self.class);
        PackedBucket::of(kind, &self.extents, self.dtype.class()).spell_out(kind)
    }

    /// Its fallback group, if its class has groups and no dimension it takes to tell is missing.
    pub fn group(&self) -> Option<&'static str> {
        let kind = self.extents.kind_of_class(self.class);
        group_index(kind, &self.extents).map(|index| kind.groups()[index])
    }
}

impl From<&Problem> for Query<'static> {
    fn from(problem: &Problem) -> Self {
        Self { class: problem.family.name(), extents: Extents::of(problem), dtype: problem.dtype.into() }
    }
}
