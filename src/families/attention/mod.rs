//! Attention: each head of queries with keys of its own or several with the same ones, with a causal mask or without.
//!
//! Heads of queries that share keys lie one after the other, so that they are as well one head of all their queries: so the
//! kernels take them, and read the keys once for all of a tile's. Under a mask a tile of long heads keeps to one of them, since
//! queries far from each other see different keys.

mod mask;
mod mma_sync;
mod tcgen05;
mod wgmma;

use super::knobs::{self, Programs};
use super::{
    Arg, Axis, Condition, Description, Element, FamilySpec, Fill, Footprint, HostTensor, KernelSpec, Launch, Mapped,
    Reference, Rejection, Swizzle, TensorMap, TensorSpec, Tensors, require, rounding,
};
use crate::model::{Bytes, Config, Dtype, Family, GpuProfile, Mma, Problem};
use mask::Mask;
use std::sync::LazyLock;

pub(super) struct Attention;

/// The instructions that there are kernels for.
const KINDS: &str = "mma_sync, wgmma and tcgen05";

/// Rows and columns of the matrices the tensor cores multiply.
const FRAGMENT: u32 = 16;
/// Elements of the head in one swizzled line of shared memory, where the copy engine writes it.
const LINE: u32 = 64;
/// What all kernels need.
const HEAD: (&str, &str) = ("head_dim <= 256", "larger heads have too few registers");
const POSITIONS: (&str, &str) =
    ("max(q_seq, kv_seq) <= 1073741824", "queries and keys are counted in 32 bits, a few blocks past the last");
const TILES: (&str, &str) = (
    "batch * heads * ceil_div(q_seq, block_sizes[1]) * split_k < 1073741824",
    "tiles are counted in 32 bits, larger block_sizes make fewer",
);
/// What the kernels need that pad a head to whole fragments.
const PARTIAL_RESULTS: (&str, &str) = (
    "split_k == 1 || split_k * batch * heads * q_seq * (ceil_div(head_dim, 16) * 16 + 2) <= 268435456",
    TOO_MANY_PARTS,
);
const TOO_MANY_PARTS: &str = "partial results of more than 1 GiB would crowd out the problem";
/// Queries of the heads that share keys are counted as one head's. A plain problem's are within [`POSITIONS`].
const SHARED_POSITIONS: (&str, &str) =
    ("heads / kv_heads * q_seq <= 1073741824", "queries of heads that share keys are counted in 32 bits");
/// What the kernels need that the copy engine feeds.
const ROWS: (&str, &str) = ("head_dim % 8 == 0", "the copy engine needs rows of a multiple of 16 bytes");

/// The problem's dimensions, with batch and heads as one.
#[derive(Clone, Copy)]
struct Dimensions {
    batch_heads: u64,
    /// Heads of queries that share a head of keys.
    sharing: u64,
    q_seq: u64,
    kv_seq: u64,
    head_dim: u64,
    mask: Option<Mask>,
    dtype: Dtype,
}

impl Dimensions {
    fn of(problem: &Problem) -> Self {
        let [batch, heads, q_seq, kv_seq, head_dim, kv_heads] = problem.shape.first();
        Self {
            batch_heads: batch * heads,
            sharing: heads / kv_heads.max(1),
            q_seq,
            kv_seq,
            head_dim,
            mask: Mask::of(problem),
            dtype: problem.dtype,
        }
    }

    /// Heads of keys of all sequences.
    fn key_heads(&self) -> u64 {
        self.batch_heads / self.sharing
    }

    /// The head in whole fragments, as kernels are compiled for it.
    fn padded_head(&self) -> u32 {
        self.head_dim.next_multiple_of(FRAGMENT.into()) as u32
    }

    /// Bytes that every row of `head_dim` bf16 elements is aligned to, up to the widest copy.
    fn vector_bytes(&self) -> u32 {
        2 << self.head_dim.trailing_zeros().min(3)
    }
}

/// By how much an element may differ before it is rounded, as a share of the head's largest value: where a query's weight is on
/// few keys, and where it is on many, in units of the root of the sum of the squared weights.
#[derive(Clone, Copy, Debug)]
struct Allowed {
    share: f64,
    of_root: f64,
}

impl Allowed {
    /// Weights are rounded to the inputs' type before their product with the values, but not in their sum: on few keys this is
    /// twice as much. Beside it, what scores err by is small: even where they reach 1000 it changes weights by less than 0.1 %,
    /// for which f16 leaves less room than bf16 does. On many keys the errors of the weights' rounding, which are as often up as
    /// down and 0.43 of the largest in the mean square, mostly cancel. Six deviations of theirs with values of uniform size come
    /// to 1.5 of the largest; this is four times as much, and what adding up the products over `kv_seq` keys takes in f32 beside
    /// it. Of f16 the weights that are below its normal numbers have errors of their own, up to half of the least each.
    fn of(dtype: Dtype, kv_seq: u64) -> Self {
        let of_sum = kv_seq as f64 / 2.0 * rounding::F32;
        match dtype {
            Dtype::F16 => {
                let of_scores = 1e-3;
                let of_least = kv_seq as f64 * 2f64.powi(-25);
                Self {
                    share: 2.0 * rounding::F16 + of_scores + of_least,
                    of_root: 6.0 * rounding::F16 + of_scores + of_sum,
                }
            }
            _ => Self { share: 2.0 * rounding::BF16, of_root: 6.0 * rounding::BF16 + of_sum },
        }
    }
}

/// How a problem is cut into tiles: blocks of queries of a head, and shares of its keys.
struct Split {
    /// Programs that share a head's keys.
    count: u64,
    q_tiles: u64,
    /// Heads as tiles know them: those that share keys are one, unless a mask keeps them apart.
    heads: u64,
    /// Queries of such a head.
    rows: u64,
    /// Such heads that share a head of keys.
    sharing: u64,
    /// What the mask's tiles need to know beside.
    mask: Option<Mask>,
    /// Such heads whose keys and values fit half of the L2 cache.
    section: u64,
}

impl Split {
    fn new(config: &Config, sizes: &Dimensions, block_q: u32, profile: &GpuProfile) -> Self {
        let keeps_apart = sizes.mask.is_some() && sizes.q_seq >= block_q.into();
        let (together, sharing) = if keeps_apart { (1, sizes.sharing) } else { (sizes.sharing, 1) };
        let (heads, rows) = (sizes.batch_heads / together, sizes.q_seq * together);
        let key_head_bytes = 2 * sizes.kv_seq * sizes.head_dim * Element::Bf16.size_bytes();
        let section = (profile.l2.0 / 2 / key_head_bytes).max(1).min(sizes.key_heads()) * sharing;
        let q_tiles = heads * rows.div_ceil(block_q.into());
        let count = config.split_k.unwrap_or(1).into();
        Self { count, q_tiles, heads, rows, sharing, mask: sizes.mask, section }
    }

    /// The kernel's macros for what is not plain: a mask, another type than bf16.
    fn variant_macros(&self, sizes: &Dimensions) -> Vec<(&'static str, String)> {
        let mask = self.mask.map(|_| ("CAUSAL", "1".to_owned()));
        mask.into_iter().chain(type_macro(sizes.dtype)).collect()
    }

    fn tiles(&self) -> u64 {
        self.q_tiles * self.count
    }

    /// The splits' partial results: the sums of every query's padded head, its maximum and its sum, in f32.
    fn workspace(&self, sizes: &Dimensions, padded_head: u32) -> Bytes {
        let parts = if self.count > 1 { self.count } else { 0 };
        Bytes(parts * sizes.batch_heads * sizes.q_seq * u64::from(padded_head + 2) * 4)
    }

    /// The kernels' parameters: where they read, which differs, and what they have in common.
    fn arguments<const N: usize>(&self, sources: [Arg; N], sizes: &Dimensions, contiguous: bool) -> Vec<Arg> {
        let i32s = |extents: &[u64]| extents.iter().map(|extent| Arg::I32(*extent as i32)).collect::<Vec<_>>();
        let extents = i32s(&[self.heads, self.rows, sizes.kv_seq, sizes.head_dim, self.count]);
        let tensors = sources.into_iter().chain([Arg::Output(0), Arg::Workspace, Arg::Counters]);
        let of_mask = self.mask.map(|mask| i32s(&[sizes.q_seq, mask.most_keys(sizes), self.sharing, self.section]));
        tensors
            .chain(extents)
            .chain([scale_log2(sizes.head_dim), Arg::I32(i32::from(contiguous))])
            .chain(of_mask.unwrap_or_default())
            .collect()
    }

    /// One counter a tile of queries.
    fn counters(&self) -> u32 {
        if self.count > 1 { self.q_tiles as u32 } else { 0 }
    }

    /// The launch of `programs`, each of so many threads and so much dynamic shared memory: of a kernel that reads from `sources`, its
    /// head padded to so many columns.
    fn launch<const N: usize>(
        &self,
        sizes: &Dimensions,
        padded_head: u32,
        programs: Programs,
        threads: u32,
        dynamic_smem: Bytes,
        sources: [Arg; N],
    ) -> Launch {
        Launch {
            grid: [programs.count, 1, 1],
            cluster: [1; 3],
            threads: [threads, 1, 1],
            dynamic_smem,
            args: self.arguments(sources, sizes, programs.contiguous),
            workspace: self.workspace(sizes, padded_head),
            counters: self.counters(),
            cooperative: false,
        }
    }
}

/// The macro for another type than bf16.
fn type_macro(dtype: Dtype) -> Option<(&'static str, String)> {
    (dtype != Dtype::Bf16).then(|| ("DTYPE", knobs::c_type(dtype)))
}

/// The factor of scores before they are exponents of 2.
fn scale_log2(head_dim: u64) -> Arg {
    Arg::F32((std::f64::consts::LOG2_E / (head_dim as f64).sqrt()) as f32)
}

/// A tensor of so many heads as the copy engine sees it: `rows` of one line at a time, never past the end of a head.
fn heads_map(of: Mapped, sizes: &Dimensions, [heads, seq]: [u64; 2], rows: u32) -> Arg {
    Arg::TensorMap(TensorMap {
        of,
        element: sizes.dtype,
        extents: vec![sizes.head_dim, seq, heads],
        strides_bytes: vec![sizes.head_dim * 2, seq * sizes.head_dim * 2],
        tile: vec![LINE, rows, 1],
        swizzle: Swizzle::Bytes128,
    })
}

impl FamilySpec for Attention {
    fn tensors(&self, problem: &Problem) -> Tensors {
        let [batch, heads, q_seq, kv_seq, head_dim, kv_heads] = problem.shape.first();
        let tensor = |name, heads, seq, magnitude| {
            TensorSpec::new(name, problem.dtype, &[batch, heads, seq, head_dim], Fill::Uniform { magnitude })
        };
        Tensors {
            inputs: vec![
                tensor("Q", heads, q_seq, 2.0),
                tensor("K", kv_heads, kv_seq, 2.0),
                tensor("V", kv_heads, kv_seq, 1.0),
            ],
            outputs: vec![tensor("O", heads, q_seq, 1.0).written()],
        }
    }

    /// The two matrix products, of what the mask leaves.
    fn flops(&self, problem: &Problem) -> f64 {
        let sizes = Dimensions::of(problem);
        4.0 * [sizes.batch_heads, mask::pairs(&sizes), sizes.head_dim].map(|size| size as f64).iter().product::<f64>()
    }

    fn bytes(&self, problem: &Problem) -> Bytes {
        let sizes = Dimensions::of(problem);
        let rows = sizes.batch_heads * (sizes.q_seq + mask::seeing_queries(&sizes))
            + 2 * sizes.key_heads() * mask::seen_keys(&sizes);
        Bytes(rows * sizes.head_dim * problem.dtype.size_bytes())
    }

    /// Queries that have nearly all their weight on one key.
    fn awkward(&self, problem: &Problem, inputs: &[TensorSpec]) -> Option<Vec<TensorSpec>> {
        let sizes = Dimensions::of(problem);
        let mut awkward = inputs.to_vec();
        let queries = awkward.first_mut()?;
        if let Fill::Uniform { magnitude } = queries.fill {
            let window = sizes.mask.map_or(0, |mask| mask.most_keys(&sizes));
            let Dimensions { q_seq, kv_seq, sharing, .. } = sizes;
            queries.fill = Fill::Queries { magnitude, q_seq, kv_seq, sharing, window };
        }
        Some(awkward)
    }

    fn alignment(&self, config: &Config) -> u64 {
        if config.mma == Some(Mma::Tcgen05) { super::WIDEST_ALIGNMENT } else { super::LEAST_ALIGNMENT }
    }

    fn launch_knobs(&self) -> &'static [&'static str] {
        &["num_sm_multiplier", "pid_type", "split_k"]
    }

    fn own_knobs(&self) -> &'static [&'static str] {
        &[wgmma::PREFETCH]
    }

    fn description(&self) -> Description {
        super::description::attention()
    }

    fn description_of_variants(&self) -> Option<Description> {
        let plain = super::description::attention();
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let definitions = [
            format!("seen_keys = {}", mask::KEYS_OF_A_QUERY),
            "seen_steps = ceil_div(ceil_div(seen_keys, block_sizes[2]), split_k)".to_owned(),
        ];
        let features = texts(&[
            "heads / kv_heads",
            "seen_keys",
            "per_mille(seen_keys, kv_seq)",
            "seen_steps",
            "rounds * seen_steps",
            "per_mille(seen_keys, seen_keys + if(causal, block_sizes[1] + block_sizes[2], 0))",
        ]);
        Some(Description {
            bytes: format!(
                "2 * batch * head_dim * (heads * (q_seq + {}) + 2 * kv_heads * {})",
                mask::SEEING_QUERIES,
                mask::SEEN_KEYS
            ),
            flops: format!("4 * batch * heads * head_dim * {}", mask::PAIRS),
            // Tiles of few queries have those of all heads that share keys.
            instances: Some(
                "batch * kv_heads * if(q_seq < block_sizes[1], \
                    ceil_div(heads / kv_heads * q_seq, block_sizes[1]), heads / kv_heads)"
                    .to_owned(),
            ),
            definitions: definitions.into_iter().chain(plain.definitions).collect(),
            features: features.into_iter().chain(plain.features).collect(),
            kin: vec![texts(&["q_seq", "kv_seq"]), texts(&["batch", "heads"])],
            ..plain
        })
    }

    fn family(&self) -> Family {
        Family::Attention
    }

    fn check(&self, config: &Config, profile: &GpuProfile) -> Result<(), Rejection> {
        let own = (config.mma == Some(Mma::Wgmma)).then_some(wgmma::PREFETCH);
        let knobs =
            ["mma", "num_sm_multiplier", "num_stages", "num_warps", "pid_type", "split_k"].into_iter().chain(own);
        knobs::only(config, &knobs.collect::<Vec<_>>())?;
        knobs::needed("split_k", config.split_k)?;
        knobs::order(config)?;
        let mma = config.mma.ok_or_else(|| Rejection(format!("mma is missing: attention has {KINDS}")))?;
        require!(profile.mma.contains(&mma), "{} has no {mma}", profile.name);
        match mma {
            Mma::MmaSync => mma_sync::Tiling::new(config).map(|_| ()),
            Mma::Wgmma => wgmma::Tiling::new(config).map(|_| ()),
            Mma::Tcgen05 => tcgen05::Tiling::new(config).map(|_| ()),
            other => Err(Rejection(format!("mma {other}: attention has {KINDS}"))),
        }
    }

    fn conditions(&self, config: &Config, profile: &GpuProfile) -> &'static [Condition] {
        match config.mma {
            Some(Mma::Wgmma) => wgmma::conditions(),
            Some(Mma::Tcgen05) => tcgen05::conditions(),
            _ => mma_sync::conditions(profile),
        }
    }

    fn axes(&self) -> &'static [Axis] {
        static AXES: LazyLock<[Axis; 3]> = LazyLock::new(|| {
            [
                ("batch * kv_heads", "block_sizes[0]", false),
                ("heads / kv_heads * q_seq", "block_sizes[1]", false),
                (mask::KEYS_OF_A_QUERY, "block_sizes[2]", true),
            ]
            .map(|(extent, block, is_reduced)| Axis::new(Family::Attention, extent, block, is_reduced))
        });
        AXES.as_slice()
    }

    fn footprint(&self, config: &Config, problem: &Problem, _profile: &GpuProfile) -> Result<Footprint, Rejection> {
        let sizes = Dimensions::of(problem);
        match config.mma {
            Some(Mma::Wgmma) => wgmma::Tiling::new(config).map(|tiling| tiling.footprint(&sizes)),
            Some(Mma::Tcgen05) => tcgen05::Tiling::new(config).map(|tiling| tiling.footprint(&sizes)),
            _ => mma_sync::Tiling::new(config).map(|tiling| tiling.footprint(&sizes)),
        }
    }

    fn build(
        &self,
        config: &Config,
        problem: &Problem,
        profile: &GpuProfile,
    ) -> Result<(KernelSpec, Launch), Rejection> {
        let sizes = Dimensions::of(problem);
        match config.mma {
            Some(Mma::Wgmma) => wgmma::build(config, &sizes, profile),
            Some(Mma::Tcgen05) => tcgen05::build(config, &sizes, profile),
            _ => mma_sync::build(config, &sizes, profile),
        }
    }

    fn check_host(&self, config: &Config, _problem: &Problem) -> Result<(), Rejection> {
        knobs::only(config, &["num_warps"])?;
        let [one, block_q, block_kv] = knobs::block_sizes(config)?;
        require!(one == 1, "block_sizes [{one}, {block_q}, {block_kv}]: a program has 1 head at a time");
        knobs::host_threads(config)
    }

    fn reference(&self, problem: &Problem) -> Result<Option<(KernelSpec, Launch)>, Rejection> {
        const QUERIES: u64 = 32;
        const MOST_BLOCKS_Y: u64 = 65_535;
        let sizes = Dimensions::of(problem);
        let head = ("HEAD_DIM", sizes.padded_head().to_string());
        let macros = std::iter::once(head).chain(type_macro(sizes.dtype));
        let allowed = Allowed::of(sizes.dtype, sizes.kv_seq);
        let kernel = KernelSpec::shipped("attention_reference.cu", "attention_reference", macros);
        let launch = Launch {
            grid: [sizes.q_seq.div_ceil(QUERIES) as u32, sizes.batch_heads.min(MOST_BLOCKS_Y) as u32, 1],
            cluster: [1; 3],
            threads: [128, 1, 1],
            dynamic_smem: Bytes(0),
            args: vec![
                Arg::Input(0),
                Arg::Input(1),
                Arg::Input(2),
                Arg::Output(0),
                Arg::Allowed(0),
                Arg::I32(sizes.batch_heads as i32),
                Arg::I32(sizes.q_seq as i32),
                Arg::I32(sizes.kv_seq as i32),
                Arg::I32(sizes.head_dim as i32),
                Arg::I32(sizes.sharing as i32),
                Arg::I32(i32::from(sizes.mask.is_some())),
                Arg::I32(sizes.mask.map_or(sizes.kv_seq, |mask| mask.most_keys(&sizes)) as i32),
                Arg::F32(allowed.share as f32),
                Arg::F32(allowed.of_root as f32),
            ],
            workspace: Bytes(0),
            counters: 0,
            cooperative: false,
        };
        Ok(Some((kernel, launch)))
    }

    fn host_reference(&self, problem: &Problem, inputs: &[HostTensor]) -> Reference {
        let sizes = Dimensions::of(problem);
        let head_dim = sizes.head_dim as usize;
        let [queries, keys, values] = [0, 1, 2].map(|index| inputs[index].to_f64());
        let head_keys = sizes.kv_seq as usize * head_dim;
        let scale = 1.0 / (head_dim as f64).sqrt();
        let may_differ = Allowed::of(sizes.dtype, sizes.kv_seq);
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let attend = |(row, query): (usize, &[f64])| {
            let (head, row) = (row / sizes.q_seq as usize, row as u64 % sizes.q_seq);
            let head = head / sizes.sharing as usize * head_keys;
            let seen = mask::seen_by(&sizes, row);
            let seen = head + seen.start as usize * head_dim..head + seen.end as usize * head_dim;
            let scores: Vec<_> = keys[seen.clone()].chunks(head_dim).map(|key| scale * dot(query, key)).collect();
            let maximum = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<_> = scores.iter().map(|score| (score - maximum).exp()).collect();
            // A query that sees no key gives zeros.
            let sum: f64 = weights.iter().sum::<f64>().max(f64::MIN_POSITIVE);
            let root = weights.iter().map(|weight| weight * weight).sum::<f64>().sqrt() / sum;
            let largest = values[head..head + head_keys].iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
            let allowed = largest * may_differ.share.min(root * may_differ.of_root);
            let mut out = vec![0.0; head_dim];
            for (weight, value) in weights.iter().zip(values[seen].chunks(head_dim)) {
                out.iter_mut().zip(value).for_each(|(out, value)| *out += weight / sum * value);
            }
            out.into_iter().map(move |value| (value, allowed))
        };
        queries.chunks(head_dim).enumerate().flat_map(attend).collect()
    }
}

#[allow(clippy::float_cmp)] // counts are exact
#[cfg(test)]
mod tests {
    use super::*;
    use crate::families::fill;
    use crate::model::{Family, PidType};
    use half::bf16;

    pub(super) fn problem(batch: i64, heads: i64, q_seq: i64, kv_seq: i64, head_dim: i64) -> Problem {
        let dimensions =
            [("batch", batch), ("heads", heads), ("q_seq", q_seq), ("kv_seq", kv_seq), ("head_dim", head_dim)];
        Problem::new(Family::Attention, &dimensions, Dtype::Bf16).unwrap()
    }

    pub(super) fn config(block_q: u32, block_kv: u32, warps: u32) -> Config {
        Config {
            block_sizes: vec![1, block_q, block_kv],
            mma: Some(Mma::MmaSync),
            num_stages: Some(2),
            num_warps: Some(warps),
            pid_type: Some(PidType::Flat),
            split_k: Some(1),
            ..Config::default()
        }
    }

    /// On the GPU that has the config's instructions.
    pub(super) fn built(config: &Config, problem: &Problem) -> Result<(KernelSpec, Launch), Rejection> {
        let gpu = if config.mma == Some(Mma::Tcgen05) { "b200" } else { "h200" };
        Attention.program(config, problem, &GpuProfile::by_name(gpu).unwrap())
    }

    pub(super) fn refused(config: &Config, problem: &Problem) -> String {
        built(config, problem).unwrap_err().0
    }

    fn variant(text: &str) -> Problem {
        Problem::parse(Family::Attention, text, Dtype::Bf16).unwrap()
    }

    #[test]
    fn heads_that_share_keys_are_one_to_a_tile_unless_a_mask_keeps_them_apart() {
        let launch = |shape: &str, block_q| built(&config(block_q, 64, 4), &variant(shape)).unwrap();
        let i32s = |launch: &Launch| {
            let of = |arg: &Arg| if let Arg::I32(value) = arg { Some(*value) } else { None };
            launch.args.iter().filter_map(of).collect::<Vec<_>>()
        };
        // Decoding: the four queries of a head of keys are rows of one tile.
        let (kernel, decode) = launch("batch=2,heads=32,kv_heads=8,q_seq=1,kv_seq=4096,head_dim=128", 16);
        assert_eq!((decode.grid[0], &i32s(&decode)[..5]), (16, &[16, 4, 4096, 128, 1][..]));
        assert!(!kernel.to_string().contains("CAUSAL"), "{kernel}");
        assert_eq!(kernel, launch("batch=2,heads=8,q_seq=4,kv_seq=4096,head_dim=128", 16).0, "no kernel of its own");
        let (_, prefill) = launch("batch=1,heads=32,kv_heads=8,q_seq=100,kv_seq=100,head_dim=128", 64);
        assert_eq!((prefill.grid[0], &i32s(&prefill)[..2]), (8 * 7, &[8, 400][..]));
        // Under a mask long heads are each their own, and four share keys; short ones are rows of one tile.
        let (kernel, prefill) = launch("batch=1,heads=32,kv_heads=8,q_seq=100,kv_seq=900,head_dim=128,causal=1", 64);
        assert!(kernel.to_string().contains("-DCAUSAL=1"), "{kernel}");
        assert_eq!((prefill.grid[0], &i32s(&prefill)[..2]), (32 * 2, &[32, 100][..]));
        assert_eq!(i32s(&prefill)[6..9], [100, 900, 4]);
        let drafted = launch("batch=1,heads=32,kv_heads=8,q_seq=5,kv_seq=900,head_dim=128,causal=1,window=64", 64).1;
        assert_eq!((drafted.grid[0], &i32s(&drafted)[..2], &i32s(&drafted)[6..9]), (8, &[8, 20][..], &[5, 64, 1][..]));
    }

    /// Pairs, keys and queries, counted one by one, by the functions and by the expressions of the models.
    #[test]
    fn work_is_what_the_mask_leaves() {
        let model = |problem: &Problem| {
            let h200 = GpuProfile::by_name("h200").unwrap();
            let description = Description::of(Family::Attention, &h200, true);
            let work = |text: &str| {
                let names = super::super::names(Family::Attention);
                let formula = crate::heuristics::Formula::parse(text, &names).unwrap();
                formula.value(&super::super::values(&Config::default(), problem, &h200)).unwrap() as u64
            };
            [work(&description.flops), work(&description.bytes)]
        };
        for (q_seq, kv_seq) in [(1, 1), (1, 9), (5, 5), (7, 3), (3, 7), (40, 40), (64, 100), (100, 64)] {
            for (causal, window) in [(0, 0), (1, 0), (1, 1), (1, 2), (1, 5), (1, 63), (1, 99), (1, 200)] {
                for kv_heads in [1, 2, 6] {
                    let shape = format!(
                        "batch=2,heads=6,kv_heads={kv_heads},q_seq={q_seq},kv_seq={kv_seq},head_dim=8,causal={causal},window={window}"
                    );
                    let problem = variant(&shape);
                    let is_seen = |query: i64, key: i64| {
                        let ahead = query + kv_seq - q_seq - key;
                        causal == 0 || ahead >= 0 && (window == 0 || ahead < window)
                    };
                    let seen_by = |query: i64| (0..kv_seq).filter(move |key| is_seen(query, *key));
                    let pairs: usize = (0..q_seq).map(|query| seen_by(query).count()).sum();
                    let queries = (0..q_seq).filter(|query| seen_by(*query).count() > 0).count();
                    let keys = (0..kv_seq).filter(|key| (0..q_seq).any(|query| is_seen(query, *key))).count();
                    assert_eq!(Attention.flops(&problem), (4 * 12 * 8 * pairs) as f64, "{shape}");
                    let rows = 12 * (q_seq as usize + queries) + 2 * 2 * kv_heads * keys;
                    assert_eq!(Attention.bytes(&problem), Bytes(2 * 8 * rows as u64), "{shape}");
                    assert_eq!(
                        model(&problem).map(|work| work as f64),
                        [Attention.flops(&problem), Attention.bytes(&problem).0 as f64],
                        "{shape}"
                    );
                }
            }
        }
    }

    #[test]
    fn every_query_tile_of_every_head_has_a_program() {
        for (q_seq, tiles) in [(1, 1), (64, 1), (65, 2), (4096, 64)] {
            let launch = built(&config(64, 64, 4), &problem(2, 16, q_seq, 4096, 128)).unwrap().1;
            assert_eq!(launch.grid, [32 * tiles, 1, 1], "{q_seq} queries");
            assert_eq!((launch.workspace, launch.counters), (Bytes(0), 0));
        }
    }

    #[test]
    fn splits_have_a_program_each_and_room_for_their_partial_results() {
        let split = |splits, kv_seq| {
            let config = Config { split_k: Some(splits), ..config(16, 64, 4) };
            built(&config, &problem(1, 8, 3, kv_seq, 120)).unwrap().1
        };
        let launch = split(4, 4096);
        assert_eq!((launch.grid[0], launch.args[10].clone(), launch.counters), (32, Arg::I32(4), 8));
        assert_eq!(launch.workspace, Bytes(4 * 8 * 3 * (128 + 2) * 4));
        // One block of keys: seven of the splits have none, and are there all the same.
        assert_eq!((split(8, 1).grid[0], split(8, 1).args[10].clone()), (64, Arg::I32(8)));
    }

    #[test]
    fn a_config_is_refused_for_shared_memory_where_its_kernel_would_take_more_than_there_is() {
        for (gpu, mma) in [("h200", Mma::MmaSync), ("h200", Mma::Wgmma), ("b200", Mma::Tcgen05)] {
            let profile = GpuProfile::by_name(gpu).unwrap();
            let mut verdicts = [0, 0];
            for head_dim in (8..=256).step_by(8) {
                let problem = problem(1, 2, 300, 500, head_dim);
                for (block_q, block_kv, stages) in
                    [(16, 64, 2), (64, 64, 3), (64, 128, 4), (128, 96, 2), (192, 48, 3), (256, 64, 4), (256, 96, 3)]
                {
                    let num_warps = match mma {
                        Mma::MmaSync => Some(4),
                        Mma::Wgmma => Some(block_q / 16),
                        _ => None,
                    };
                    let config =
                        Config { mma: Some(mma), num_stages: Some(stages), num_warps, ..config(block_q, block_kv, 4) };
                    let Ok(footprint) = Attention.footprint(&config, &problem, &profile) else { continue };
                    let conditions = Attention.conditions(&config, &profile);
                    let smem = conditions.iter().find(|condition| condition.reason.contains("shared memory")).unwrap();
                    let fits = smem.expression.holds(&super::super::values(&config, &problem, &profile));
                    assert_eq!(fits, footprint.smem <= profile.smem_per_block, "{config} with heads of {head_dim}");
                    verdicts[usize::from(fits)] += 1;
                }
            }
            assert!(verdicts.iter().all(|count| *count > 5), "{mma}: {verdicts:?}");
        }
    }

    #[test]
    fn the_host_reference_weighs_values_by_their_keys() {
        // One head of two elements; the second key is as far ahead of the first as makes it weigh three times as much.
        let ahead = 3f32.ln() * 2f32.sqrt();
        let inputs = [vec![1.0, 0.0], vec![0.0, 5.0, ahead, 5.0], vec![8.0, -4.0, 0.0, 4.0]].map(HostTensor::F32);
        let out = Attention.host_reference(&problem(1, 1, 1, 2, 2), &inputs).values;
        assert!((out[0] - 2.0).abs() < 1e-6 && (out[1] - 2.0).abs() < 1e-6, "{out:?}");
    }

    /// Kernels round weights to bf16 as they stand to a maximum that may be an earlier one, and their sum not at all.
    #[test]
    fn weights_that_are_rounded_before_their_product_are_allowed_several_times_over() {
        for [q_seq, kv_seq] in [[8, 16384], [64, 64], [8, 1500]] {
            let problem = problem(1, 2, q_seq, kv_seq, 64);
            let plain = Attention.tensors(&problem).inputs;
            for tensors in [Attention.awkward(&problem, &plain).unwrap(), plain] {
                let inputs: Vec<_> = tensors.iter().zip(1..).map(|(tensor, seed)| fill(tensor, seed)).collect();
                let reference = Attention.host_reference(&problem, &inputs);
                let [queries, keys, values] = [0, 1, 2].map(|index| inputs[index].to_f64());
                for (row, query) in queries.chunks(64).enumerate() {
                    let head = row / q_seq as usize * kv_seq as usize * 64;
                    let of_head = |tensor: &'_ [f64]| tensor[head..head + kv_seq as usize * 64].to_vec();
                    let dot = |key: &[f64]| key.iter().zip(query).map(|(key, query)| key * query).sum::<f64>() / 8.0;
                    let scores: Vec<f64> = of_head(&keys).chunks(64).map(dot).collect();
                    let maximum = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max) - row as f64 / 4.0;
                    let weights: Vec<f64> = scores.iter().map(|score| (score - maximum).exp()).collect();
                    let sum: f64 = weights.iter().sum();
                    let mut out = [0.0; 64];
                    for (weight, value) in weights.iter().zip(of_head(&values).chunks(64)) {
                        let weight = bf16::from_f64(*weight).to_f64() / sum;
                        out.iter_mut().zip(value).for_each(|(out, value)| *out += weight * value);
                    }
                    for (index, out) in (row * 64..).zip(out) {
                        let share = (out - reference.values[index]).abs() / reference.allowed[index];
                        assert!(share <= 0.5, "{problem}, element {index}: {share} of what is allowed");
                    }
                }
            }
        }
    }

    #[test]
    fn one_key_gives_its_value_to_every_query_of_its_head() {
        let problem = problem(2, 1, 3, 1, 2);
        let queries = HostTensor::F32((0..12).map(|i| i as f32).collect());
        let keys = HostTensor::F32(vec![1.0, 2.0, 3.0, 4.0]);
        let values = HostTensor::F32(vec![5.0, 6.0, 7.0, 8.0]);
        let out = Attention.host_reference(&problem, &[queries, keys, values]).values;
        assert_eq!(out, [5.0, 6.0, 5.0, 6.0, 5.0, 6.0, 7.0, 8.0, 7.0, 8.0, 7.0, 8.0]);
    }
}
