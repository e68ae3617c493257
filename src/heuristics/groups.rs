//! Fallback groups: the few parts of a class that a document always has a config for.

use super::classes::Kind;
use super::extents::Extents;
use crate::model::{Family, Problem};

impl Kind {
    /// Its fallback groups, in the order of the documentation.
    pub(super) fn groups(self) -> &'static [&'static str] {
        match self {
            Self::Gemm => &["small_m", "small_n", "small_k", "balanced", "rect"],
            Self::Attention => &["short_seq", "small_head", "mid_seq", "long_seq"],
            Self::Rows => &["short", "narrow", "square", "wide"],
            Self::Elements => &["tiny", "mid", "huge"],
            Self::Unbinned => &[],
            Self::Own(own) => &own.groups,
        }
    }
}

/// The position of the fallback group in [`Kind::groups`]; `None` where a dimension it needs is missing.
pub(super) fn group_index(kind: Kind, extents: &Extents) -> Option<usize> {
    match (kind, *extents) {
        (Kind::Gemm, Extents::Gemm { m: Some(m), n: Some(n), k: Some(k), .. }) => Some(match (m, n, k) {
            (..=256, _, _) => 0,
            (_, ..=256, _) => 1,
            (_, _, ..=256) => 2,
            _ if m.max(n).max(k) / 2 < m.min(n).min(k) => 3,
            _ => 4,
        }),
        (Kind::Attention, Extents::Attention { q_seq: Some(q_seq), head_dim: Some(head_dim), .. }) => {
            Some(match (q_seq, head_dim) {
                (..=1024, _) => 0,
                (8192.., _) => 3,
                (_, ..=64) => 1,
                _ => 2,
            })
        }
        (Kind::Rows, Extents::Rows { rows: Some(rows), cols: Some(cols) }) => Some(match (rows, cols) {
            (..=512, _) => 0,
            (_, ..=1024) => 1,
            (_, 8192..) => 3,
            _ => 2,
        }),
        (Kind::Elements, Extents::Elements { numel: Some(numel) }) => Some(match numel {
            ..=65_536 => 0,
            65_537..=1_048_576 => 1,
            _ => 2,
        }),
        (Kind::Own(own), Extents::Own(_, extents)) => own.group(&extents),
        _ => None,
    }
}

/// The fallback group of a problem of one of the families.
pub fn group_of(problem: &Problem) -> &'static str {
    let kind = Kind::of_family(problem.family);
    // Every family of ours has groups and every dimension of a problem is known.
    group_index(kind, &Extents::of(problem)).map_or("none", |index| kind.groups()[index])
}

/// The fallback groups of a family's class.
pub fn groups(family: Family) -> &'static [&'static str] {
    Kind::of_family(family).groups()
}

/// The fallback groups of any class.
pub fn class_groups(class: &str) -> &'static [&'static str] {
    Kind::of_class(class).groups()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::heuristics::bins::tests::any_problem;
    use crate::model::Dtype;
    use proptest::prelude::*;

    #[test]
    fn groups_change_at_their_bounds() {
        let group = |family, shape: &str| group_of(&Problem::parse(family, shape, Dtype::Bf16).unwrap());
        for (shape, expected) in [
            ("m=256,n=256,k=256", "small_m"),
            ("m=257,n=256,k=256", "small_n"),
            ("m=257,n=257,k=256", "small_k"),
            ("m=257,n=257,k=257", "balanced"),
            ("m=257,n=513,k=257", "balanced"),
            ("m=257,n=514,k=257", "rect"),
        ] {
            assert_eq!(group(Family::Matmul, shape), expected, "{shape}");
        }
        for (shape, expected) in [
            ("rows=512,cols=8192", "short"),
            ("rows=513,cols=1024", "narrow"),
            ("rows=513,cols=1025", "square"),
            ("rows=513,cols=8191", "square"),
            ("rows=513,cols=8192", "wide"),
        ] {
            assert_eq!(group(Family::RowSoftmax, shape), expected, "{shape}");
        }
        for (shape, expected) in
            [("numel=65536", "tiny"), ("numel=65537", "mid"), ("numel=1048576", "mid"), ("numel=1048577", "huge")]
        {
            assert_eq!(group(Family::Elementwise, shape), expected, "{shape}");
        }
        for (q_seq, head_dim, expected) in [
            (1024, 64, "short_seq"),
            (1025, 64, "small_head"),
            (1025, 65, "mid_seq"),
            (8191, 65, "mid_seq"),
            (8192, 64, "long_seq"),
        ] {
            let shape = format!("batch=1,heads=1,q_seq={q_seq},kv_seq=9000,head_dim={head_dim}");
            assert_eq!(group(Family::Attention, &shape), expected, "{shape}");
        }
    }

    proptest! {
        #[test]
        fn every_problem_has_a_group_of_its_family(problem in any_problem()) {
            prop_assert!(groups(problem.family).contains(&group_of(&problem)));
        }
    }
}
