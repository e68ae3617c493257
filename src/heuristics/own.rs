//! Families that somebody brought: what a document's `policy` says of them, so that it is asked like one of ours.

use super::dtypes::DtypeClass;
use super::expression::Formula;
use super::fields::Field;
use super::shipped::is_shipped;
use crate::error::{Context, Error, Result};
use crate::model::{Bin, Dtype, Family, FamilyProfile, Group, MOST_DIMENSIONS};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{PoisonError, RwLock};

/// Where `policy` has them, by name.
pub const FAMILIES: &str = "families";

/// The most bins and groups of a family.
const MOST_BINS: usize = 12;
const MOST_GROUPS: usize = 32;

/// A family as a document describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "harness", derive(schemars::JsonSchema))]
pub struct DescribedFamily {
    /// The names of a problem's dimensions, in order.
    pub dims: Vec<String>,
    /// The types of the first tensor that its kernels come in.
    pub dtypes: Vec<String>,
    /// The bucket's bins by the name of their field.
    #[serde(default)]
    pub bins: BTreeMap<String, DescribedBin>,
    /// The fallback groups, the first whose condition holds.
    #[serde(default)]
    pub groups: Vec<DescribedGroup>,
}

/// A field of a bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "harness", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DescribedBin {
    /// The value, as an expression of the dimensions.
    pub of: String,
    /// The bins' upper bounds, inclusive, rising.
    pub bounds: Vec<i64>,
}

/// A fallback group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "harness", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DescribedGroup {
    /// Its name.
    pub name: String,
    /// Which problems are in it, as an expression of the dimensions; all the rest where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
}

impl DescribedFamily {
    /// A family as documents describe it.
    pub fn of(family: Family) -> Self {
        let FamilyProfile { dimensions, dtypes, bins, groups, .. } = family.profile();
        let bin =
            |bin: &Bin| (bin.name.to_owned(), DescribedBin { of: bin.of.to_owned(), bounds: bin.bounds.to_vec() });
        let group = |group: &Group| DescribedGroup { name: group.name.to_owned(), when: group.when.map(str::to_owned) };
        Self {
            dims: dimensions.iter().map(|name| (*name).to_owned()).collect(),
            dtypes: dtypes.iter().map(|dtype| dtype.name().to_owned()).collect(),
            bins: bins.iter().map(bin).collect(),
            groups: groups.iter().map(group).collect(),
        }
    }

    /// The family of that name and description, ready to be asked about.
    ///
    /// # Errors
    /// Where the name is none that a family may have, or one of ours; where there are no dimensions or too many, a type is unknown,
    /// an expression cannot be read or names what is no dimension, or bounds do not rise. The message says which.
    pub fn family(&self, name: &str) -> Result<Family> {
        let own_or_class = is_shipped(name);
        if own_or_class {
            return Err(Error::usage(format!("'{name}' is a class that is known already: choose another name")));
        }
        check_name(name, "a family's name")?;
        self.dims.iter().try_for_each(|dim| check_name(dim, "a dimension"))?;
        let distinct: BTreeSet<&String> = self.dims.iter().collect();
        if self.dims.is_empty() || self.dims.len() > MOST_DIMENSIONS || distinct.len() < self.dims.len() {
            return Err(Error::usage(format!("dims {:?}: a family has 1 to {MOST_DIMENSIONS}, each once", self.dims)));
        }
        let dtypes = self.dtypes.iter().map(|dtype| dtype.parse()).collect::<Result<Vec<Dtype>>>()?;
        if dtypes.is_empty() {
            return Err(Error::usage("dtypes is empty: name the types of the first tensor, such as bf16"));
        }
        if self.bins.len() > MOST_BINS || self.groups.len() > MOST_GROUPS {
            return Err(Error::usage(format!("a family has at most {MOST_BINS} bins and {MOST_GROUPS} groups")));
        }
        for (bin, DescribedBin { bounds, .. }) in &self.bins {
            check_name(bin, "a bin")?;
            if bin == Field::DTYPE.name {
                return Err(Error::usage("bin 'dtype' is there already: choose another name"));
            }
            let rises = bounds.windows(2).all(|pair| pair[0] < pair[1]);
            if bounds.is_empty() || bounds.len() > Field::MOST_BOUNDS || !rises {
                return Err(Error::usage(format!(
                    "bin '{bin}': its bounds {bounds:?} must be 1 to {} rising numbers",
                    Field::MOST_BOUNDS
                )));
            }
        }
        for (place, group) in self.groups.iter().enumerate() {
            check_name(&group.name, "a group")?;
            if group.when.is_none() && place + 1 < self.groups.len() {
                return Err(Error::usage(format!("group '{}' has no condition, so it must be the last", group.name)));
            }
            if self.groups[..place].iter().any(|earlier| earlier.name == group.name) {
                return Err(Error::usage(format!("group '{}' is there twice", group.name)));
            }
        }
        // Read before anything of it stays in memory.
        self.formulas()?;
        let is_it = |family: Family| family.name() == name && Self::of(family) == *self;
        let family = Family::described(is_it, || FamilyProfile {
            name: interned(name),
            dimensions: leaked(self.dims.iter().map(|dim| interned(dim)).collect()),
            variants: &[],
            dtypes: leaked(dtypes),
            packs_two_weights_a_byte: false,
            sister: None,
            bins: leaked(
                self.bins
                    .iter()
                    .map(|(name, bin)| Bin {
                        name: interned(name),
                        of: interned(&bin.of),
                        bounds: leaked(bin.bounds.clone()),
                    })
                    .collect(),
            ),
            groups: leaked(
                self.groups
                    .iter()
                    .map(|group| Group { name: interned(&group.name), when: group.when.as_deref().map(interned) })
                    .collect(),
            ),
        });
        OwnKind::of(family).map(|_| family)
    }

    /// The expressions of its bins, then of its groups.
    fn formulas(&self) -> Result<(Vec<Formula>, Vec<Option<Formula>>)> {
        let dims: Vec<&str> = self.dims.iter().map(String::as_str).collect();
        let bins =
            self.bins.iter().map(|(name, bin)| Formula::parse(&bin.of, &dims).context(|| format!("bin '{name}'")));
        let groups = self.groups.iter().map(|group| {
            let read = |when: &String| Formula::parse(when, &dims).context(|| format!("group '{}'", group.name));
            group.when.as_ref().map(read).transpose()
        });
        Ok((bins.collect::<Result<_>>()?, groups.collect::<Result<_>>()?))
    }
}

/// The families that a document's `policy` describes. What is no description of one is passed over.
pub fn families_of(policy: &Map<String, Value>) -> BTreeMap<String, Family> {
    let described = policy.get(FAMILIES).and_then(Value::as_object).into_iter().flatten();
    let family = |(name, value): (&String, &Value)| {
        let described: DescribedFamily = serde_json::from_value(value.clone()).ok()?;
        Some((name.clone(), described.family(name).ok()?))
    };
    described.filter_map(family).collect()
}

fn check_name(name: &str, what: &str) -> Result<()> {
    let mut letters = name.chars();
    let starts = letters.next().is_some_and(|letter| letter.is_ascii_alphabetic());
    if starts && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_') && name.len() <= 60 {
        return Ok(());
    }
    let shown: String = name.chars().take(60).collect();
    Err(Error::usage(format!("'{shown}' is no name for {what}: up to 60 letters, digits and _, a letter first")))
}

/// A text that lives as long as the process, each once.
fn interned(text: &str) -> &'static str {
    static TEXTS: RwLock<BTreeSet<&'static str>> = RwLock::new(BTreeSet::new());
    let mut texts = TEXTS.write().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = texts.get(text) {
        return known;
    }
    let text: &'static str = Box::leak(text.into());
    texts.insert(text);
    text
}

/// A list that lives as long as the process.
fn leaked<T>(list: Vec<T>) -> &'static [T] {
    Box::leak(list.into_boxed_slice())
}

/// A family's bins and groups, ready to be asked.
#[derive(Debug)]
pub struct OwnKind {
    pub(super) family: Family,
    /// Sorted by name, `dtype` among them.
    pub(super) fields: Vec<Field>,
    /// The bins' values, in the order of the fields but for `dtype`.
    values: Vec<Formula>,
    pub(super) groups: Vec<&'static str>,
    conditions: Vec<Option<Formula>>,
}

impl PartialEq for OwnKind {
    fn eq(&self, other: &Self) -> bool {
        self.family == other.family
    }
}

impl Eq for OwnKind {}

impl std::hash::Hash for OwnKind {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.family.hash(state);
    }
}

impl OwnKind {
    /// Of a family that does not ship.
    pub(super) fn of(family: Family) -> Result<&'static Self> {
        static KINDS: RwLock<BTreeMap<Family, &'static OwnKind>> = RwLock::new(BTreeMap::new());
        if let Some(known) = KINDS.read().unwrap_or_else(PoisonError::into_inner).get(&family) {
            return Ok(known);
        }
        let described = DescribedFamily::of(family);
        let (values, conditions) = described.formulas()?;
        let bins = family.profile().bins.iter().enumerate().map(|(index, bin)| {
            // `dtype` has the same place in every kind.
            let place = index as u32 + u32::from(index as u32 >= Field::DTYPE.position);
            Field { name: bin.name, position: place, bounds: bin.bounds, labels: leaked(labels(bin.bounds)) }
        });
        let mut fields: Vec<Field> = bins.collect();
        fields.push(Field::DTYPE);
        let groups = family.profile().groups.iter().map(|group| group.name).collect();
        let kind = Self { family, fields, values, groups, conditions };
        let mut kinds = KINDS.write().unwrap_or_else(PoisonError::into_inner);
        Ok(*kinds.entry(family).or_insert_with(|| Box::leak(Box::new(kind))))
    }

    /// The bins with their values on a problem; nothing where an expression has none.
    pub(super) fn bins<'a>(&'a self, extents: &'a [i64]) -> impl Iterator<Item = (&'a Field, Option<i64>)> {
        self.fields.iter().zip(self.values.iter().map(|formula| formula.value(extents)))
    }

    /// The place of a problem's group; nothing where it is in none.
    pub(super) fn group(&self, extents: &[i64]) -> Option<usize> {
        let holds = |condition: &Option<Formula>| condition.as_ref().is_none_or(|formula| formula.holds(extents));
        self.conditions.iter().position(holds)
    }

    /// The classes of the types it comes in.
    pub(super) fn types(&self) -> impl Iterator<Item = DtypeClass> {
        self.family.dtypes().iter().map(|dtype| (*dtype).into())
    }
}

/// The labels of bins with these upper bounds.
fn labels(bounds: &[i64]) -> Vec<&'static str> {
    let below = bounds.iter().map(|bound| interned(&format!("<={bound}")));
    let above = bounds.last().map(|last| interned(&format!(">{last}")));
    below.chain(above).chain(["unknown"]).collect()
}
