//! What the programs for products are asked, whichever kernel: the order of its programs, and which of the crate's launches they are held
//! against.

#![allow(dead_code)] // each test uses a part

use crate::harness::{Cases, check_launch, numbers, spread};
use kernel_sweep::families::Launch;
use kernel_sweep::model::{Config, Dtype, Family, GpuProfile, Mma, PidType, Problem};

/// Orders of the programs.
pub(crate) const STRIDES: u32 = 0;
pub(crate) const RUNS: u32 = 1;
pub(crate) const DEALT_OUT: u32 = 2;

/// How often k is split, the programs or clusters, and their order, of a product's launch of whose numbers that one is the split.
pub(crate) fn order_of(config: &Config, launch: &Launch, split: usize) -> [i64; 3] {
    let order = match config.pid_type {
        Some(PidType::ClusterLaunchControl) => DEALT_OUT,
        Some(PidType::PersistentInterleaved) => STRIDES,
        _ => RUNS,
    };
    [numbers(launch)[split].into(), (launch.grid[0] / launch.cluster[0]).into(), order.into()]
}

/// Products of shapes, whose launches by some configs of a GPU's space, evenly spread, are what `main` describes.
pub(crate) struct Launches {
    pub(crate) main: &'static str,
    pub(crate) gpu: &'static str,
    pub(crate) kinds: &'static [Mma],
    /// Configs of each product.
    pub(crate) configs: usize,
    pub(crate) shapes: &'static [[i64; 3]],
    /// Which of a family's types is multiplied.
    pub(crate) dtype: fn(Family) -> Dtype,
    /// Which of the launch's numbers is the split, and those that are told, of so many.
    pub(crate) split: usize,
    pub(crate) told: fn(usize) -> &'static [usize],
}

impl Launches {
    /// Of every format of weights and every way to share scales.
    pub(crate) fn check(&self) {
        let mut cases = Cases::default();
        let profile = GpuProfile::by_name(self.gpu).unwrap();
        for &[m, n, k] in self.shapes {
            let products = [
                (Family::Matmul, &[][..], 0),
                (Family::MatmulInt4, &[], 0),
                (Family::MatmulInt16, &[], 0),
                (Family::MatmulFp4, &[], 0),
                (Family::MatmulInt4Group, &[("group", 64)], 64),
                (Family::MatmulInt4Group, &[("group", 128), ("zero_points", 1)], 128),
                (Family::MatmulInt4Group, &[("group", 0)], k),
                (Family::MatmulNvfp4, &[], 16),
                (Family::MatmulMxfp4, &[], 32),
                (Family::MatmulFp8, &[], 0),
                (Family::MatmulFp8, &[("scale_block", 1)], 1),
                (Family::MatmulFp8, &[("scale_block", 128)], 128),
            ];
            for (family, variant, group) in products {
                let extents = [("m", m), ("n", n), ("k", k)].into_iter().chain(variant.iter().copied());
                let problem = Problem::new(family, &extents.collect::<Vec<_>>(), (self.dtype)(family)).unwrap();
                for config in spread(&problem, &profile, self.configs, self.kinds) {
                    check_launch(&mut cases, self.main, &problem, &profile, &config, |launch| {
                        let order = order_of(&config, launch, self.split);
                        ([&[m, n, k][..], &order, &[group]].concat(), (self.told)(numbers(launch).len()))
                    });
                }
            }
        }
        cases.check();
    }
}
