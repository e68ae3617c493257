//! What `attention.cpp` runs, whichever kernel, and which of the crate's launches it is held against.

use crate::harness::{Case, Cases, check_launch, spread};
use kernel_sweep::model::{Dtype, Family, GpuProfile, Mma, PidType, Problem};

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

/// A config by its macros, on problems.
pub(crate) fn config<const N: usize>(macros: [(&'static str, u32); N], problems: &[Attention]) -> Case {
    Case {
        main: "attention.cpp",
        macros: macros.map(|(name, value)| (name, value.to_string())).to_vec(),
        runs: problems.iter().map(Attention::arguments).collect(),
    }
}

/// What the crate launches on heads of so many queries, keys and elements is what `attention.cpp` describes, for some configs of a GPU's
/// space, evenly spread.
pub(crate) fn check_launches(gpu: &str, kind: Mma, configs: usize, shapes: [[i64; 3]; 2]) {
    let mut cases = Cases::default();
    let profile = GpuProfile::by_name(gpu).unwrap();
    for [q_seq, kv_seq, head_dim] in shapes {
        let dims = [("batch", 2), ("heads", 3), ("q_seq", q_seq), ("kv_seq", kv_seq), ("head_dim", head_dim)];
        let problem = Problem::new(Family::Attention, &dims, Dtype::Bf16).unwrap();
        for config in spread(&problem, &profile, configs, &[kind]) {
            let contiguous = config.pid_type == Some(PidType::PersistentBlocked);
            let splits = i64::from(config.split_k.unwrap());
            check_launch(&mut cases, "attention.cpp", &problem, &profile, &config, |launch| {
                let shared = [splits, launch.grid[0].into(), contiguous.into(), 0, 0, 0, 0, 0];
                ([&[6, q_seq, kv_seq, head_dim][..], &shared].concat(), &[0, 1, 2, 3, 4, 5])
            });
        }
    }
    cases.check();
}
