//! Which keys a query sees, and how many there are of them in all.

use super::Dimensions;
use crate::model::Problem;
use std::ops::Range;

/// Query i sees the keys j where i + kv_seq - q_seq - window < j <= i + kv_seq - q_seq: both end together, and its own is among
/// the window. A query before the first key sees none, and gives zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mask {
    /// Keys that a query sees at most, where there is such a bound.
    window: Option<u64>,
}

impl Mask {
    pub(super) fn of(problem: &Problem) -> Option<Self> {
        let [.., causal, window] = problem.shape.first::<8>();
        (causal > 0).then_some(Self { window: (window > 0).then_some(window) })
    }

    /// Keys that a query sees at most, as kernels take it.
    pub(super) fn most_keys(self, sizes: &Dimensions) -> u64 {
        self.window.unwrap_or(sizes.kv_seq).min(sizes.kv_seq)
    }
}

/// The keys that a query of a head sees.
pub(super) fn seen_by(sizes: &Dimensions, query: u64) -> Range<u64> {
    let Some(mask) = sizes.mask else { return 0..sizes.kv_seq };
    let end = (query + 1 + sizes.kv_seq).saturating_sub(sizes.q_seq);
    end.saturating_sub(mask.most_keys(sizes))..end
}

/// Pairs of a head's queries with the keys that they see.
pub(super) fn pairs(sizes: &Dimensions) -> u64 {
    let Some(mask) = sizes.mask else { return sizes.q_seq * sizes.kv_seq };
    let window = mask.most_keys(sizes);
    // Of as many queries as there are keys, less those before the first.
    let up_to = |queries: u64| {
        let growing = queries.min(window);
        growing * (growing + 1) / 2 + (queries - growing) * window
    };
    up_to(sizes.kv_seq) - up_to(sizes.kv_seq.saturating_sub(sizes.q_seq))
}

/// Queries of a head that see any key.
pub(super) fn seeing_queries(sizes: &Dimensions) -> u64 {
    sizes.mask.map_or(sizes.q_seq, |_| sizes.q_seq.min(sizes.kv_seq))
}

/// Keys of a head that any query sees.
pub(super) fn seen_keys(sizes: &Dimensions) -> u64 {
    let of_mask = |mask: Mask| sizes.kv_seq.min(seeing_queries(sizes) + mask.most_keys(sizes) - 1);
    sizes.mask.map_or(sizes.kv_seq, of_mask)
}

/// What the masked functions above come to in expressions of a problem's dimensions, where no mask is no branch of its own.
macro_rules! window {
    () => {
        "if(window, min(window, kv_seq), kv_seq)"
    };
}

/// [`pairs`]: of queries as many as keys, less those before the first.
macro_rules! pairs {
    () => {
        concat!(
            "if(causal, (min(kv_seq, ",
            window!(),
            ") * (min(kv_seq, ",
            window!(),
            ") + 1)",
            " - min(max(kv_seq - q_seq, 0), ",
            window!(),
            ") * (min(max(kv_seq - q_seq, 0), ",
            window!(),
            ") + 1)) / 2",
            " + (kv_seq - max(kv_seq - q_seq, 0) - min(kv_seq, ",
            window!(),
            ")",
            " + min(max(kv_seq - q_seq, 0), ",
            window!(),
            ")) * ",
            window!(),
            ", q_seq * kv_seq)"
        )
    };
}

/// [`pairs`].
pub(super) const PAIRS: &str = pairs!();
/// Keys that a query sees in the mean, at least one.
pub(super) const KEYS_OF_A_QUERY: &str = concat!("max(1, ceil_div(", pairs!(), ", q_seq))");
/// [`seeing_queries`].
pub(super) const SEEING_QUERIES: &str = "if(causal, min(q_seq, kv_seq), q_seq)";
/// [`seen_keys`].
pub(super) const SEEN_KEYS: &str = concat!("if(causal, min(kv_seq, min(q_seq, kv_seq) + ", window!(), " - 1), kv_seq)");
