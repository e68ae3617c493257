//! What `attention.cpp` runs, whichever kernel.

use crate::harness::Case;

/// A problem of attention, how it is shared, and how much larger than the first keys the last are.
#[derive(Clone, Copy)]
pub(crate) struct Attention {
    pub(crate) batch_heads: u32,
    pub(crate) q_seq: u32,
    pub(crate) kv_seq: u32,
    pub(crate) head_dim: u32,
    pub(crate) splits: u32,
    pub(crate) programs: u32,
    pub(crate) contiguous: bool,
    pub(crate) rising: u32,
    pub(crate) mask: Option<Mask>,
}

/// The rows that are a head's queries, the keys that one sees at most, the heads that share keys, and those that take turns.
#[derive(Clone, Copy)]
pub(crate) struct Mask {
    pub(crate) queries: u32,
    pub(crate) window: u32,
    pub(crate) sharing: u32,
    pub(crate) section: u32,
}

impl Attention {
    /// Without splits, by one program.
    pub(crate) fn of([batch_heads, q_seq, kv_seq, head_dim]: [u32; 4]) -> Self {
        Self { batch_heads, q_seq, kv_seq, head_dim, splits: 1, programs: 1, contiguous: false, rising: 0, mask: None }
    }

    pub(crate) fn arguments(&self) -> Vec<u32> {
        let &Self { batch_heads, q_seq, kv_seq, head_dim, splits, programs, contiguous, rising, mask } = self;
        let mask =
            mask.map_or([0; 4], |Mask { queries, window, sharing, section }| [queries, window, sharing, section]);
        [&[batch_heads, q_seq, kv_seq, head_dim, splits, programs, u32::from(contiguous), rising][..], &mask].concat()
    }
}

/// A case under a mask.
pub(crate) fn masked(case: Case) -> Case {
    Case { macros: [case.macros, vec![("CAUSAL", "1".to_owned())]].concat(), ..case }
}
