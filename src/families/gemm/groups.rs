//! How weights share scales along k.

/// How weights share scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Groups {
    /// Weights along k with one scale; the last group may have fewer.
    pub(super) group: u64,
    /// Whether each group has zero points beside.
    pub(super) zero_points: bool,
}

/// A multiple of every kernel's step along k.
pub(super) const LONGEST_STEP: u64 = 512;

impl Groups {
    /// Groups of so many weights along k.
    pub(super) const fn count(self, k: u64) -> u64 {
        k.div_ceil(self.group)
    }

    /// Weights along k of a step of `block_k` that share a scale: the kernels' `GROUP`.
    pub(super) fn within(self, block_k: u64) -> u64 {
        self.group.min(block_k)
    }

    /// Steps of `block_k` that share a row of scales: the kernels' `group_steps`.
    pub(super) const fn steps(self, k: u64, block_k: u64) -> u64 {
        if self.group >= k { k.div_ceil(block_k) } else { self.group.div_ceil(block_k) }
    }
}
