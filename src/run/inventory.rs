//! Which kernels a document's answers need.

use super::runtime::choose;
use crate::error::{Context, Error, Result};
use crate::families::{self, KernelSpec, Kernels};
use crate::heuristics::{Document, FittedModel, Heuristics, Template};
use crate::model::{Config, Dtype, Family, GpuProfile, Problem};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// Kernels, each once.
pub type Inventory = BTreeSet<KernelSpec>;

/// The kernels of what a document answers on these problems.
///
/// # Errors
/// Where it has no config that runs one of them.
pub fn answered<'p>(
    document: &Heuristics,
    problems: impl IntoIterator<Item = &'p Problem>,
    profile: &GpuProfile,
) -> Result<Inventory> {
    let kernel = |problem: &Problem| {
        choose(document, problem, profile).map(|(_, kernel, _)| kernel).context(|| problem.to_string())
    };
    problems.into_iter().map(kernel).collect()
}

/// The kernels of all that a document may answer for a family on that GPU: of every config of its rules, fallbacks and model, on
/// every problem that makes another kernel of it. Rows of a product, and heads of attention, come in every alignment; with
/// `is_aligned`, in whole vectors of 16 bytes alone, and heads of 64 and 128 elements.
///
/// # Errors
/// Where nothing is known of the family's problems.
pub fn answerable(document: &Document, family: Family, profile: &GpuProfile, is_aligned: bool) -> Result<Inventory> {
    let (spec, probes) = (families::spec(family), probes(family, is_aligned)?);
    let (configs, problems) = (configs_of(document, family), probes.iter().collect::<Vec<_>>());
    let mut halves: BTreeMap<Config, Vec<&Config>> = BTreeMap::new();
    for config in &configs {
        halves.entry(spec.compiled_half(config)).or_default().push(config);
    }
    let of_half = |configs: &Vec<&Config>| {
        Kernels::of_half(spec, configs, &problems, profile, |_, _| true).all.into_iter().map(|needed| needed.kernel)
    };
    Ok(halves.into_values().collect::<Vec<_>>().par_iter().flat_map_iter(of_half).collect())
}

/// Every config that the document holds for a family.
fn configs_of(document: &Document, family: Family) -> BTreeSet<Config> {
    let class = family.name();
    let config = |template: &Template| serde_json::from_value::<Config>(template.clone().into()).ok();
    let rules = document.rules.iter().filter(|rule| rule.kernel_class == class);
    let of_rules = rules.flat_map(|rule| &rule.templates).filter_map(|ranked| config(ranked.config()?));
    let fallbacks = document.fallbacks.get(class).into_iter().flat_map(|groups| groups.values());
    let of_fallbacks = fallbacks.filter_map(|fallback| config(fallback.config()?));
    let model = document.models.get(class).and_then(|model| serde_json::from_value::<FittedModel>(model.clone()).ok());
    let of_model = model.into_iter().flat_map(|model| model.configs);
    of_rules.chain(of_fallbacks).chain(of_model.filter_map(|own| config(&own.template))).collect()
}

/// Problems that, together, make every kernel of a config: kernels know alignments and what fits registers, and no sizes beyond.
fn probes(family: Family, is_aligned: bool) -> Result<Vec<Problem>> {
    let extents = match family.dimensions() {
        ["m", "n", "k"] => {
            let rows = alignments(is_aligned);
            // What shares a scale makes another kernel, of the family that has scales.
            let (sharing, zero_points): (&[i64], &[i64]) = match family {
                Family::MatmulFp8 => (&[0, 1, 128], &[0]),
                Family::MatmulInt4Group => (&[0, 32, 64, 128], &[0, 1]),
                _ => (&[0], &[0]),
            };
            every(&[&[1, 8, 64, 300, 8192], &rows, &rows, sharing, zero_points])
        }
        ["batch", "heads", "q_seq", "kv_seq", "head_dim"] => {
            let heads: Vec<i64> = if is_aligned { vec![64, 128] } else { (1..=256).collect() };
            // A mask makes another kernel; heads that share keys do not.
            let plain = every(&[&[2], &[16], &[1, 100, 1000, 8192], &[1, 100, 4096, 65_536], &heads]);
            let masked = plain.iter().map(|plain| [&plain[..], &[16, 1, 0]].concat());
            plain.iter().cloned().chain(masked).collect()
        }
        ["rows", "cols"] => every(&[&[1, 64, 4096, 262_144], &lengths(18, is_aligned)]),
        ["numel"] => every(&[&lengths(30, is_aligned)]),
        other => {
            let other = other.join(", ");
            return Err(Error::usage(format!("{family}: nothing is known of kernels for {other}; name its problems")));
        }
    };
    let problem = |(extents, dtype): (&Vec<i64>, &Dtype)| {
        let named: Vec<_> = family.all_dimensions().zip(extents.iter().copied()).collect();
        Problem::new(family, &named, *dtype).ok() // an odd k is none where two weights share a byte
    };
    let dtypes = family.dtypes();
    Ok(extents
        .iter()
        .flat_map(|extents| dtypes.iter().map(move |dtype| (extents, dtype)))
        .filter_map(problem)
        .collect())
}

/// Every choice of one of each list.
fn every(lists: &[&[i64]]) -> Vec<Vec<i64>> {
    lists.iter().fold(vec![Vec::new()], |chosen, list| {
        let with = |extent: &i64| chosen.iter().map(|before| [&before[..], &[*extent]].concat()).collect::<Vec<_>>();
        list.iter().flat_map(with).collect()
    })
}

/// Lengths of rows in elements, by the powers of two that they are multiples of: short ones and long ones.
fn alignments(is_aligned: bool) -> Vec<i64> {
    let least = if is_aligned { 4 } else { 0 };
    (least..=7).flat_map(|exponent| [3 << exponent, 33 << exponent, 1025 << exponent]).collect()
}

/// Lengths up to a power of two, eight between each two of those: in whole vectors, and one element more.
fn lengths(most: u32, is_aligned: bool) -> Vec<i64> {
    let exact = (0..=8 * most).map(|eighth| 2f64.powf(f64::from(eighth) / 8.0) as i64);
    exact.flat_map(|length| [Some((length + 15) / 16 * 16), (!is_aligned).then_some(length | 1)]).flatten().collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::amount;
    use crate::heuristics::builtin_document;
    use proptest::prelude::*;
    use proptest::test_runner::TestRunner;
    use std::collections::BTreeMap;

    fn document() -> Document {
        Document::from_bytes(builtin_document("h200").unwrap().as_bytes()).unwrap()
    }

    /// Whatever is asked, what is answered is among what is packed.
    #[test]
    fn no_problem_needs_a_kernel_that_is_not_counted() {
        let (document, profile) = (document(), GpuProfile::by_name("h200").unwrap());
        let served = Heuristics::new(document.clone());
        let is_served = |family: &Family| document.models.contains_key(family.name());
        let families: Vec<Family> = amount::some(Family::ALL.into_iter().filter(is_served));
        let counted = |family: &Family| {
            let of = |is_aligned| answerable(&document, *family, &profile, is_aligned).unwrap();
            let [every, aligned] = [of(false), of(true)];
            assert!(aligned.is_subset(&every), "{family}");
            (*family, [every, aligned])
        };
        let all: BTreeMap<Family, [Inventory; 2]> = families.par_iter().map(counted).collect();
        let extent = |bits: u32| (0..bits, any::<u32>()).prop_map(|(bits, word)| i64::from(word % (2 << bits)).max(1));
        let kinds = (0..families.len(), any::<prop::sample::Index>(), any::<prop::sample::Index>());
        let shapes = (kinds, [extent(13), extent(16), extent(14)], any::<[bool; 2]>());
        let mut runner = TestRunner::new(ProptestConfig::with_cases(500));
        let checked = runner.run(&shapes, |((family, variant, dtype), [one, other, third], [is_aligned, is_wide])| {
            let family = families[family];
            let variants: &[&[i64]] = match family {
                Family::MatmulFp8 => &[&[0], &[1], &[128]],
                Family::MatmulInt4Group => &[&[128, 0], &[128, 1], &[64, 0], &[32, 1], &[0, 0], &[0, 1]],
                Family::Attention => &[&[8, 0, 0], &[2, 0, 0], &[8, 1, 0], &[1, 1, 0], &[2, 1, 1], &[8, 1, 1000]],
                _ => &[&[]],
            };
            let whole = |extent: i64| if is_aligned { (extent + 15) / 16 * 16 } else { extent };
            let extents = match family.dimensions() {
                ["m", "n", "k"] => vec![one, whole(other), whole(third)],
                ["rows", "cols"] => vec![one, whole(other)],
                ["numel"] => vec![whole(one * other)],
                _ if is_aligned => vec![2, 8, one, third, if is_wide { 128 } else { 64 }],
                _ => vec![2, 8, one, third, other % 256 + 1],
            };
            let extents = [&extents[..], variants[variant.index(variants.len())]].concat();
            let named: Vec<_> = family.all_dimensions().zip(extents).collect();
            let dtype = *dtype.get(family.dtypes());
            let Ok(problem) = Problem::new(family, &named, dtype) else { return Ok(()) };
            if let Ok((config, kernel, _)) = choose(&served, &problem, &profile) {
                let [every, aligned] = &all[&family];
                prop_assert!(every.contains(&kernel), "{problem} by {config}: {kernel}");
                prop_assert!(!is_aligned || aligned.contains(&kernel), "aligned {problem} by {config}: {kernel}");
            }
            Ok(())
        });
        assert!(checked.is_ok(), "{checked:?}");
    }
}
