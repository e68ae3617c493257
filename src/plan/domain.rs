//! The domain of each family: what sizes users may come with, and random problems of it.
//!
//! Dimensions are log-uniform. Shares (a quarter of any alignment, half of the products with few rows, …) are dealt from
//! shuffled decks, so that any run of draws has them as nearly as its length allows, and a problem over the limits is drawn
//! again within its share.

use super::problem::PlannedProblem;
use crate::families::{self, Extent};
use crate::heuristics::Formula;
use crate::model::{Bytes, Dtype, Family, GpuProfile, Problem, Shape};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;

/// How large a drawn problem may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Most floating-point operations.
    pub flops: f64,
    /// Most bytes of its tensors.
    pub bytes: Bytes,
}

impl Limits {
    /// Of a GPU: milliseconds.
    pub const GPU: Self = Self { flops: 4e12, bytes: Bytes::mib(4 << 10) };
    /// Of the host, which has a core or two, and a reference in f64 to compute.
    pub const HOST: Self = Self { flops: 2e7, bytes: Bytes::mib(4) };

    /// What suits this device.
    pub fn of(profile: &GpuProfile) -> Self {
        if profile.is_cpu() { Self::HOST } else { Self::GPU }
    }

    fn allow(self, problem: &Problem) -> bool {
        let spec = families::spec(problem.family);
        spec.flops(problem) <= self.flops && spec.tensor_bytes(problem) <= self.bytes
    }
}

/// What problems are drawn for. Each purpose has streams of its own, one a family, so that one seed serves all, draws of two
/// purposes do not meet, and those of two families say more than those of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The random design of a plan, which documents are made from.
    Plan,
    /// An evaluation of what they serve.
    Evaluation,
}

/// Whether rows lie as vector loads and copy engines want them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Alignment {
    /// n and k, cols or numel are multiples of 8; attention's lengths above 16 are multiples of 16.
    Aligned,
    /// One of them is not.
    Unaligned,
}

impl Alignment {
    /// The stratum of a problem.
    pub fn of(problem: &Problem) -> Self {
        let multiple_of = |(extent, domain): (&u64, &Extent)| extent.is_multiple_of(domain.multiple);
        let is_aligned = match (families::spec(problem.family).domain(), problem.family == Family::Attention) {
            (Some(domain), _) => problem.shape.extents().iter().zip(domain).all(multiple_of),
            (None, true) => {
                let [_, _, q_seq, kv_seq] = problem.shape.first();
                [q_seq, kv_seq].into_iter().all(|length| length <= SHORT || length.is_multiple_of(SEQ_STEP))
            }
            (None, false) => {
                let [_, n, k] = problem.shape.first();
                n.is_multiple_of(8) && k.is_multiple_of(8)
            }
        };
        if is_aligned { Self::Aligned } else { Self::Unaligned }
    }

    /// The name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aligned => "aligned",
            Self::Unaligned => "unaligned",
        }
    }
}

/// Queries of a decoding step, which come one by one.
const SHORT: u64 = 16;
/// Multiples of this are aligned lengths.
const SEQ_STEP: u64 = 16;

/// So many misses in a row end the draws: what is left of the domain is next to nothing.
const MOST_MISSES: u32 = 10_000;

/// Draws distinct problems of a family's domain, none of `taken`, the same for the same seed and purpose. They end where the
/// domain has nothing left within the limits. Of a family with variants every other one is plain.
pub fn draw(
    family: Family,
    purpose: Purpose,
    seed: u64,
    limits: Limits,
    taken: impl IntoIterator<Item = Problem>,
) -> impl Iterator<Item = PlannedProblem> {
    let taken: Vec<Problem> = taken.into_iter().collect();
    let mut variants = draw_variants(family, purpose, seed, limits, taken.clone());
    let mut plain = draw_plain(family, purpose, seed, limits, taken);
    let mut is_plain = false;
    std::iter::from_fn(move || {
        is_plain = !is_plain;
        if is_plain { plain.next().or_else(|| variants.next()) } else { variants.next().or_else(|| plain.next()) }
    })
}

/// The same of plain problems alone.
pub fn draw_plain(
    family: Family,
    purpose: Purpose,
    seed: u64,
    limits: Limits,
    taken: impl IntoIterator<Item = Problem>,
) -> impl Iterator<Item = PlannedProblem> {
    let stream = 2 * stream_of(family) + purpose as u64;
    draws(seed, stream, limits, taken, move |shares, random| {
        Some(Problem { family, shape: shares.shape(family, random), dtype: family.dtypes()[0] })
    })
}

/// The same of variants alone; none where the family has none.
pub fn draw_variants(
    family: Family,
    purpose: Purpose,
    seed: u64,
    limits: Limits,
    taken: impl IntoIterator<Item = Problem>,
) -> impl Iterator<Item = PlannedProblem> {
    let stream = VARIANTS_STREAM + 2 * stream_of(family) + purpose as u64;
    let all = draws(seed, stream, limits, taken, move |shares, random| {
        let problem = shares.variant(family, random)?;
        (!problem.shape.is_plain()).then_some(problem)
    });
    all.take(if family.variants().is_empty() { 0 } else { usize::MAX })
}

/// Gives a quarter of a family's problems another of its types than the first, each as often, as far as the limits allow that and it
/// `runs`: whoever asks a document asks in these too. Shapes stay what they are.
pub fn in_all_types(
    family: Family,
    purpose: Purpose,
    seed: u64,
    limits: Limits,
    problems: impl Iterator<Item = PlannedProblem>,
    runs: impl Fn(&Problem) -> bool,
) -> impl Iterator<Item = PlannedProblem> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(TYPES_STREAM + 2 * stream_of(family) + purpose as u64);
    let others: &'static [Dtype] = family.dtypes().get(1..).unwrap_or_default();
    let (mut is_other, mut other) = (Deck::of(&[true, false, false, false]), Deck::of(others));
    problems.map(move |planned| {
        if others.is_empty() || !is_other.deal(&mut random) {
            return planned;
        }
        let problem = Problem { dtype: other.deal(&mut random), ..planned.problem };
        if limits.allow(&problem) && runs(&problem) { PlannedProblem { problem, ..planned } } else { planned }
    })
}

/// The number of the first stream that variants are drawn from: beyond those of all families.
const VARIANTS_STREAM: u64 = 1 << 48;
/// The same of types.
const TYPES_STREAM: u64 = 1 << 49;

fn draws(
    seed: u64,
    stream: u64,
    limits: Limits,
    taken: impl IntoIterator<Item = Problem>,
    problem: impl Fn(Shares, &mut ChaCha8Rng) -> Option<Problem>,
) -> impl Iterator<Item = PlannedProblem> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(stream);
    let has_variants = stream >= VARIANTS_STREAM;
    let mut taken: BTreeSet<Problem> = taken.into_iter().collect();
    let mut decks = Decks::default();
    std::iter::from_fn(move || {
        let shares = decks.deal(&mut random, has_variants);
        for _ in 0..MOST_MISSES {
            let Some(problem) = problem(shares, &mut random) else { continue };
            if limits.allow(&problem) && taken.insert(problem) {
                return Some(PlannedProblem { problem, from: Some(format!("random, seed {seed}")) });
            }
        }
        None
    })
}

/// The number of a family among the streams: those that ship have the first.
fn stream_of(family: Family) -> u64 {
    let others = || Formula::word(family.name()).abs_diff(i64::MIN) % (1 << 32) + Family::ALL.len() as u64;
    if family.ships() { family.place() as u64 } else { others() }
}

/// Which lengths of an attention problem belong together.
#[derive(Clone, Copy, Debug)]
enum Lengths {
    /// As many keys as queries.
    Same,
    /// Few queries on a long cache.
    Decode,
    /// Each its own.
    Free,
}

/// What is not plain of a variant of attention: heads that share keys, a causal mask, a window.
#[derive(Clone, Copy, Debug)]
struct Kind {
    is_grouped: bool,
    is_causal: bool,
    has_window: bool,
}

impl Kind {
    const fn of(is_grouped: bool, is_causal: bool, has_window: bool) -> Self {
        Self { is_grouped, is_causal, has_window }
    }
}

/// The kinds of variants as they are dealt: three quarters share keys, three quarters are causal, a quarter has a window.
const KINDS: &[Kind] = &[
    Kind::of(true, false, false),
    Kind::of(true, false, false),
    Kind::of(false, true, false),
    Kind::of(true, true, false),
    Kind::of(true, true, false),
    Kind::of(true, true, false),
    Kind::of(true, true, true),
    Kind::of(false, true, true),
];

/// The variants of weights in groups, each as likely: how many weights along k share a scale, 0 for all, and whether they have zero
/// points. Those of 128 are shipped most, and with zero points.
const GROUPS: &[[u64; 2]] = &[[128, 1], [128, 1], [64, 0], [64, 1], [32, 0], [32, 1], [0, 0], [0, 1]];

/// Which sides of a weight matrix are of any value, where the problem is.
#[derive(Clone, Copy, Debug)]
enum Sides {
    N,
    K,
    Both,
}

/// Cards that are dealt until none is left, then shuffled anew: every share comes as often as it has cards.
struct Deck<T: 'static> {
    cards: &'static [T],
    left: Vec<T>,
}

impl<T: Copy> Deck<T> {
    const fn of(cards: &'static [T]) -> Self {
        Self { cards, left: Vec::new() }
    }

    fn deal(&mut self, random: &mut impl Rng) -> T {
        if self.left.is_empty() {
            self.left.extend(self.cards);
            self.left.shuffle(random);
        }
        self.left.pop().unwrap_or(self.cards[0])
    }
}

/// The shares of the domains.
struct Decks {
    any_value: Deck<bool>,
    sides: Deck<Sides>,
    few_rows: Deck<bool>,
    multiples_of_64: Deck<bool>,
    lengths: Deck<Lengths>,
    any_head_dim: Deck<bool>,
    kinds: Deck<Kind>,
}

impl Default for Decks {
    fn default() -> Self {
        Self {
            any_value: Deck::of(&[true, false, false, false]),
            sides: Deck::of(&[Sides::N, Sides::K, Sides::Both]),
            few_rows: Deck::of(&[true, false]),
            multiples_of_64: Deck::of(&[true, false, false]),
            lengths: Deck::of(&[Lengths::Same, Lengths::Same, Lengths::Decode, Lengths::Decode, Lengths::Free]),
            any_head_dim: Deck::of(&[true, false, false, false, false]),
            kinds: Deck::of(KINDS),
        }
    }
}

impl Decks {
    fn deal(&mut self, random: &mut ChaCha8Rng, has_variants: bool) -> Shares {
        Shares {
            any_value: self.any_value.deal(random).then(|| self.sides.deal(random)),
            few_rows: self.few_rows.deal(random),
            multiple: if self.multiples_of_64.deal(random) { 64 } else { 8 },
            lengths: self.lengths.deal(random),
            any_head_dim: self.any_head_dim.deal(random),
            kind: if has_variants { Some(self.kinds.deal(random)) } else { None },
        }
    }
}

/// What was dealt for one problem; each family reads what concerns it.
#[derive(Clone, Copy, Debug)]
struct Shares {
    /// Extents are of any value, and not multiples of some power of two; with the sides of a matrix.
    any_value: Option<Sides>,
    few_rows: bool,
    multiple: u64,
    lengths: Lengths,
    any_head_dim: bool,
    /// Where variants are drawn.
    kind: Option<Kind>,
}

impl Shares {
    /// A variant of a problem of the domain; none where nothing is left of it, as of a mask over one query, and of a family that
    /// has none.
    fn variant(self, family: Family, random: &mut ChaCha8Rng) -> Option<Problem> {
        let plain = self.shape(family, random);
        let with = |extents: &[u64]| [&plain.extents()[..family.dimensions().len()], extents].concat();
        let extents = if family == Family::MatmulFp8 {
            with(&[if random.random_bool(0.5) { 1 } else { 128 }])
        } else if family == Family::MatmulInt4Group {
            with(&GROUPS[random.random_range(0..GROUPS.len())])
        } else if family == Family::Attention {
            let [batch, heads, q_seq, kv_seq, head_dim] = plain.first();
            let Kind { is_grouped, is_causal, has_window } = self.kind?;
            let sharing = if is_grouped { log_uniform(random, 2..=16, 1) } else { 1 };
            let kv_heads = (heads / sharing).max(1);
            let window = if has_window { log_uniform(random, 64..=8192, 1).min(kv_seq / 2) } else { 0 };
            vec![batch, kv_heads * sharing, q_seq, kv_seq, head_dim, kv_heads, u64::from(is_causal), window]
        } else {
            return None;
        };
        let dimensions = family.all_dimensions().zip(extents.into_iter().map(|extent| extent as i64));
        Problem::new(family, &dimensions.collect::<Vec<_>>(), family.dtypes()[0]).ok()
    }

    /// A plain problem's shape.
    fn shape(self, family: Family, random: &mut ChaCha8Rng) -> Shape {
        let step_if_aligned = |step| if self.any_value.is_some() { 1 } else { step };
        if let Some(domain) = families::spec(family).domain() {
            let draw =
                |extent: &Extent| log_uniform(random, extent.least..=extent.most, step_if_aligned(extent.multiple));
            return Shape::of(family, &domain.iter().map(draw).collect::<Vec<_>>());
        }
        if family == Family::Attention {
            let step = step_if_aligned(SEQ_STEP);
            let (q_seq, kv_seq) = match self.lengths {
                Lengths::Same => {
                    let length = log_uniform(random, 64..=16_384, step);
                    (length, length)
                }
                Lengths::Decode => (log_uniform(random, 1..=SHORT, 1), log_uniform(random, 128..=65_536, step)),
                Lengths::Free => {
                    let q_seq = log_uniform(random, 1..=16_384, 1);
                    let q_seq = if q_seq > SHORT { q_seq.next_multiple_of(step) } else { q_seq };
                    (q_seq, log_uniform(random, 64..=65_536, step))
                }
            };
            let head_dim =
                if self.any_head_dim { 8 * random.random_range(1..=32) } else { 64 << random.random_range(0..=1) };
            let (batch, heads) = (log_uniform(random, 1..=64, 1), log_uniform(random, 1..=128, 1));
            return Shape::of(family, &[batch, heads, q_seq, kv_seq, head_dim]);
        }
        let (any_n, any_k) = match self.any_value {
            None => (false, false),
            Some(Sides::N) => (true, false),
            Some(Sides::K) => (false, true),
            Some(Sides::Both) => (true, true),
        };
        let least_k = if family.packs_two_weights_a_byte() { 2 } else { 1 };
        let m = log_uniform(random, if self.few_rows { 1..=256 } else { 257..=16_384 }, 1);
        let n = log_uniform(random, 32..=262_144, if any_n { 1 } else { self.multiple });
        let k = log_uniform(random, 32..=32_768, if any_k { least_k } else { self.multiple });
        Shape::of(family, &[m, n, k])
    }
}

/// A multiple of `step` in `range`, log-uniform: each as likely as the interval up to the next is long on a logarithmic scale.
fn log_uniform(random: &mut impl Rng, range: RangeInclusive<u64>, step: u64) -> u64 {
    let (least, most) = (range.start().next_multiple_of(step), range.end() / step * step);
    let drawn = random.random_range((least as f64).ln()..((most + step) as f64).ln()).exp();
    (drawn as u64 / step * step).clamp(least, most)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::heuristics::builtin_document;
    use crate::model::{Dtype, FamilyProfile};
    use crate::plan::Plan;
    use proptest::prelude::*;

    fn drawn(family: Family, purpose: Purpose, seed: u64, count: usize) -> Vec<Problem> {
        draw(family, purpose, seed, Limits::GPU, []).take(count).map(|planned| planned.problem).collect()
    }

    fn evaluation(family: Family, seed: u64, count: usize) -> Vec<Problem> {
        drawn(family, Purpose::Evaluation, seed, count)
    }

    fn share(problems: &[Problem], holds: impl Fn(&Problem) -> bool) -> f64 {
        problems.iter().filter(|problem| holds(problem)).count() as f64 / problems.len() as f64
    }

    fn extent(problem: &Problem, name: &str) -> u64 {
        problem.shape.dimensions().into_iter().find(|(known, _)| *known == name).unwrap().1
    }

    fn within(problem: &Problem) -> bool {
        let between = |name: &str, least: u64, most: u64| (least..=most).contains(&extent(problem, name));
        match problem.family {
            Family::Attention => {
                between("batch", 1, 64)
                    && between("heads", 1, 128)
                    && between("q_seq", 1, 16_384)
                    && between("kv_seq", 64, 65_536)
                    && between("head_dim", 8, 256)
                    && extent(problem, "head_dim").is_multiple_of(8)
            }
            Family::RowSoftmax | Family::RowNormRms | Family::RowNormLayer | Family::RowCrossEntropy => {
                between("rows", 1, 262_144) && between("cols", 16, 262_144)
            }
            Family::Elementwise => between("numel", 1000, 1_000_000_000),
            family => {
                between("m", 1, 16_384)
                    && between("n", 32, 262_144)
                    && between("k", 32, 32_768)
                    && (!family.packs_two_weights_a_byte() || extent(problem, "k").is_multiple_of(2))
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn draws_are_in_the_domain_within_the_limits_distinct_and_a_quarter_may_be_unaligned(
            seed in any::<u64>(), family in prop::sample::select(Family::ALL.to_vec()),
        ) {
            let problems = evaluation(family, seed, 40);
            prop_assert_eq!(problems.len(), 40);
            prop_assert_eq!(problems.iter().collect::<BTreeSet<_>>().len(), 40);
            for problem in &problems {
                prop_assert!(within(problem) && Limits::GPU.allow(problem), "{}", problem);
                // What is drawn can be asked for on a command line.
                let text = problem.shape.to_string();
                prop_assert_eq!(Problem::parse(family, &text, problem.dtype).unwrap(), *problem);
            }
            prop_assert!(share(&problems, |problem| Alignment::of(problem) == Alignment::Unaligned) <= 0.25);
            prop_assert_eq!(evaluation(family, seed, 40), problems.clone(), "the same seed draws the same");
            prop_assert_eq!(evaluation(family, seed, 20), problems[..20].to_vec(), "more draws go on from fewer");
            let planned = drawn(family, Purpose::Plan, seed, 40);
            prop_assert!(planned.iter().filter(|problem| problems.contains(problem)).count() <= 4, "streams differ");
            let shapes: BTreeSet<_> = problems.iter().map(|problem| problem.shape).collect();
            let of_others = Family::ALL.into_iter().filter(|other| *other != family);
            let of_others = of_others.flat_map(|other| evaluation(other, seed, 40));
            prop_assert!(of_others.filter(|problem| shapes.contains(&problem.shape)).count() <= 4, "families differ");
        }

        #[test]
        fn what_is_taken_is_never_drawn(seed in any::<u64>()) {
            let first = evaluation(Family::Elementwise, seed, 20);
            let second = draw(Family::Elementwise, Purpose::Evaluation, seed, Limits::GPU, first.clone());
            prop_assert!(second.take(20).all(|planned| !first.contains(&planned.problem)));
        }

        #[test]
        fn a_log_uniform_draw_is_a_multiple_in_its_range(
            seed in any::<u64>(), least in 1u64..1000, times in 2u64..1000, step in 1u64..64,
        ) {
            let range = least..=least * times + step;
            let drawn = log_uniform(&mut ChaCha8Rng::seed_from_u64(seed), range.clone(), step);
            prop_assert!(range.contains(&drawn) && drawn.is_multiple_of(step), "{drawn} of {range:?} by {step}");
        }
    }

    /// What is dealt may come to less: a mask over one query hides nothing, and one head shares no keys.
    #[test]
    fn every_other_draw_of_attention_is_a_variant_and_each_kind_is_met() {
        let problems = evaluation(Family::Attention, 7, 1600);
        let variants: Vec<Problem> = problems.iter().copied().filter(|problem| !problem.shape.is_plain()).collect();
        assert_eq!(variants.len(), problems.len() / 2);
        let has = |problem: &Problem, name: &str| problem.shape.dimensions().iter().any(|(known, _)| *known == name);
        for (name, least, most) in [("kv_heads", 0.7, 0.8), ("causal", 0.6, 0.76), ("window", 0.24, 0.26)] {
            let share = share(&variants, |problem| has(problem, name));
            assert!((least..=most).contains(&share), "{name}: {share}");
        }
        let sees_nothing =
            |problem: &Problem| has(problem, "causal") && extent(problem, "q_seq") > extent(problem, "kv_seq");
        assert!(variants.iter().any(sees_nothing), "queries before the first key");
        let plain = draw_plain(Family::Attention, Purpose::Evaluation, 7, Limits::GPU, []).take(800);
        let drawn: Vec<Problem> = problems.into_iter().filter(|problem| problem.shape.is_plain()).collect();
        assert_eq!(plain.map(|planned| planned.problem).collect::<Vec<_>>(), drawn, "variants come beside these");
        assert_eq!(draw_variants(Family::Matmul, Purpose::Plan, 7, Limits::GPU, []).count(), 0);
    }

    #[test]
    fn plain_problems_and_variants_are_drawn_apart_of_every_family() {
        for family in Family::ALL {
            let plain: Vec<Problem> = draw_plain(family, Purpose::Evaluation, 5, Limits::GPU, [])
                .take(200)
                .map(|planned| planned.problem)
                .collect();
            assert!(plain.len() == 200 && plain.iter().all(|problem| problem.shape.is_plain()), "{family}");
            let variants: Vec<Problem> = draw_variants(family, Purpose::Evaluation, 5, Limits::GPU, [])
                .take(200)
                .map(|planned| planned.problem)
                .collect();
            assert_eq!(variants.len(), if family.variants().is_empty() { 0 } else { 200 }, "{family}");
            assert!(variants.iter().all(|problem| !problem.shape.is_plain() && within(problem)), "{family}");
            // Every dimension of theirs is met as it is not plain.
            for variant in family.variants() {
                let has = |problem: &&Problem| problem.shape.dimensions().iter().any(|(name, _)| *name == variant.name);
                assert!(variants.iter().filter(has).count() >= 20, "{family} {}", variant.name);
            }
            let both = evaluation(family, 5, 400);
            let expected = if family.variants().is_empty() { 400 } else { 200 };
            assert_eq!(both.iter().filter(|problem| problem.shape.is_plain()).count(), expected, "{family}");
        }
    }

    #[test]
    fn a_quarter_is_of_other_types_each_as_often_and_shapes_stay() {
        for family in Family::ALL {
            let typed = |runs: &dyn Fn(&Problem) -> bool| -> Vec<Problem> {
                let drawn = draw(family, Purpose::Evaluation, 11, Limits::GPU, []).take(240);
                let typed = in_all_types(family, Purpose::Evaluation, 11, Limits::GPU, drawn, runs);
                typed.map(|planned| planned.problem).collect()
            };
            let [plain, all] = [evaluation(family, 11, 240), typed(&|_| true)];
            assert!(plain.iter().zip(&all).all(|(one, other)| one.shape == other.shape), "{family}");
            assert!(all.iter().all(|problem| Limits::GPU.allow(problem)), "{family}");
            let others = &family.dtypes()[1..];
            for dtype in others {
                // A large problem may be too large in a wider type.
                let met = all.iter().filter(|problem| problem.dtype == *dtype).count();
                let most = 60 / others.len();
                assert!((most * 8 / 10..=most).contains(&met), "{family} {dtype}: {met} of {most}");
            }
            assert_eq!(typed(&|_| false), plain, "{family}: what runs in no other type stays");
            assert_eq!(typed(&|_| true), all, "the same seed deals the same");
        }
    }

    #[test]
    fn weights_in_groups_of_every_size_have_zero_points_or_none() {
        let variants = draw_variants(Family::MatmulInt4Group, Purpose::Plan, 3, Limits::GPU, []).take(800);
        let kinds: BTreeSet<[u64; 2]> = variants
            .map(|planned| {
                let [_, _, _, group, zero_points] = planned.problem.shape.first();
                [group, zero_points]
            })
            .collect();
        assert_eq!(kinds, GROUPS.iter().copied().collect());
    }

    #[test]
    fn shares_are_those_of_the_domain_and_every_stratum_is_met() {
        for family in Family::ALL {
            let problems = evaluation(family, 7, 1200);
            // An extent of any value is aligned by luck now and then, and lengths up to 16 always are.
            let unaligned = share(&problems, |problem| Alignment::of(problem) == Alignment::Unaligned);
            assert!((0.19..=0.25).contains(&unaligned), "{family}: {unaligned}");
            match family {
                Family::Attention => {
                    let same = share(&problems, |problem| extent(problem, "q_seq") == extent(problem, "kv_seq"));
                    assert!((0.4..0.41).contains(&same), "{same}");
                    let decode = share(&problems, |problem| extent(problem, "q_seq") <= SHORT);
                    assert!((0.4..0.6).contains(&decode), "{decode}");
                    let usual = share(&problems, |problem| [64, 128].contains(&extent(problem, "head_dim")));
                    assert!((0.8..0.84).contains(&usual), "{usual}");
                }
                described if families::spec(described).domain().is_some() => {}
                _ => {
                    let few_rows = problems.iter().filter(|problem| extent(problem, "m") <= 256).count();
                    assert_eq!(few_rows, problems.len() / 2, "{family}");
                    let whole =
                        |problem: &Problem| ["n", "k"].iter().all(|name| extent(problem, name).is_multiple_of(64));
                    let whole = share(&problems, whole);
                    // A third of the three quarters that are aligned, and 0.008 by luck. Which sides are of any value is dealt
                    // apart from that, so that of 1200 the share is off by 0.007 as a rule; these bounds are four times that.
                    assert!((0.23..0.287).contains(&whole), "{family}: {whole}");
                    for side in ["n", "k"] {
                        // A sixth, of which a few are multiples by luck: one in four where all are even.
                        let odd = share(&problems, |problem| !extent(problem, side).is_multiple_of(8));
                        assert!((0.11..0.17).contains(&odd), "{family} {side}: {odd}");
                    }
                }
            }
        }
    }

    /// A design that drew other problems than it did when it was measured would leave the document without what it was made for.
    #[test]
    fn designs_are_drawn_as_they_were_when_they_were_measured() {
        let document: serde_json::Value = serde_json::from_str(builtin_document("h200").unwrap()).unwrap();
        let profile = GpuProfile::by_name("h200").unwrap();
        let mut designs = 0;
        for family in Family::ALL {
            let model = &document["models"][family.name()];
            let (Some(dims), Some(measured)) = (model["dims"].as_array(), model["problems"].as_object()) else {
                continue;
            };
            let measured: BTreeSet<&str> = measured
                .values()
                .flat_map(|of_dtype| of_dtype.as_array().unwrap())
                .filter_map(|problem| problem.as_str()?.split(' ').next())
                .collect();
            let plan = Plan::load(family, None).unwrap();
            let drawn = plan
                .problems(&profile)
                .unwrap()
                .iter()
                .filter(|planned| planned.from.as_ref().is_some_and(|from| from.starts_with("random")));
            let (plain, variants): (Vec<Problem>, Vec<Problem>) =
                drawn.map(|planned| planned.problem).partition(|problem| problem.shape.is_plain());
            for drawn in [plain, variants] {
                let is_known = |problem: &&Problem| {
                    let extents: Vec<String> =
                        problem.shape.extents().iter().take(dims.len()).map(u64::to_string).collect();
                    measured.contains(extents.join(",").as_str())
                };
                let known = drawn.iter().filter(is_known).count();
                // All of them, or as many as there was time for.
                assert!(10 * known >= drawn.len(), "{family}: {known} of {}", drawn.len());
                designs += usize::from(!drawn.is_empty());
            }
        }
        assert!(designs >= 8, "{designs}");
    }

    /// The numbers that designs and evaluations of a user's own families are drawn by today; others would draw other problems.
    #[test]
    fn each_family_has_a_stream_of_its_own_that_stays() {
        let named = |name: &'static str| {
            Family::described(|known| known.name() == name, || FamilyProfile { name, ..*Family::Elementwise.profile() })
        };
        let own = ["rope", "stencil", "a_family_with_a_long_name"].map(|name| stream_of(named(name)));
        assert_eq!(own.map(|stream| stream - Family::ALL.len() as u64), [1_078_239_790, 3_043_103_156, 1_997_720_970]);
        let all: BTreeSet<u64> = Family::ALL.into_iter().map(stream_of).chain(own).collect();
        assert_eq!(all.len(), Family::ALL.len() + own.len());
        assert_eq!(Family::ALL.map(stream_of).to_vec(), (0..Family::ALL.len() as u64).collect::<Vec<_>>());
        assert!(all.iter().all(|stream| 2 * stream + 1 < VARIANTS_STREAM));
    }

    #[test]
    fn alignment_is_of_every_extent_and_has_a_name() {
        let of = |shape: &str| Alignment::of(&Problem::parse(Family::Matmul, shape, Dtype::Bf16).unwrap()).name();
        assert_eq!([of("m=17,n=64,k=128"), of("m=17,n=65,k=128")], ["aligned", "unaligned"]);
    }

    /// Each octave of a log-uniform extent is met as often as another.
    #[test]
    fn draws_are_log_uniform() {
        let problems = evaluation(Family::Elementwise, 3, 2000);
        let octave = |problem: &Problem| extent(problem, "numel").ilog2();
        for wanted in 10..29 {
            let met = share(&problems, |problem| octave(problem) == wanted);
            assert!((0.03..0.075).contains(&met), "2^{wanted}: {met}, where one in 19.4 is expected");
        }
    }

    #[test]
    fn the_host_gets_what_it_can_do_and_an_exhausted_domain_ends() {
        for family in Family::ALL {
            let problems: Vec<_> = draw(family, Purpose::Evaluation, 1, Limits::HOST, []).take(20).collect();
            assert_eq!(problems.len(), 20, "{family}");
            assert!(problems.iter().all(|planned| Limits::HOST.allow(&planned.problem)), "{family}");
        }
        let nothing = Limits { flops: 1.0, ..Limits::HOST };
        assert_eq!(draw(Family::Matmul, Purpose::Plan, 1, nothing, []).count(), 0);
    }
}
