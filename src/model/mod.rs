//! The nouns everything else speaks in: families, problems, configs and GPU profiles. No I/O.

mod config;
mod dtype;
mod family;
mod gpu;
mod problem;
mod units;

pub use config::{Config, KnobValue, Mma, PidType};
pub use dtype::Dtype;
pub use family::{Bin, Family, FamilyProfile, Group, MOST_DIMENSIONS, Plain, Variant};
pub use gpu::{GpuProfile, Identity, Likeness, Peaks};
pub use problem::{Problem, Shape, parse_dimensions};
pub use units::{Bytes, Micros};

/// Serializes by `name()` and reads back through `FromStr`.
macro_rules! serde_by_name_alone {
    ($type:ty) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let name = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                name.parse().map_err(serde::de::Error::custom)
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.pad(self.name())
            }
        }
    };
}
use serde_by_name_alone;

/// The same of a fieldless enum, which is read back as the one of `ALL` that has the name.
macro_rules! serde_by_name {
    ($type:ty) => {
        crate::model::serde_by_name_alone!($type);

        impl std::str::FromStr for $type {
            type Err = crate::error::Error;

            fn from_str(name: &str) -> Result<Self, Self::Err> {
                Self::ALL.iter().copied().find(|known| known.name() == name).ok_or_else(|| {
                    let known: Vec<_> = Self::ALL.iter().map(|known| known.name()).collect();
                    crate::error::Error::usage(format!("'{name}' is not one of {}", known.join(", ")))
                })
            }
        }
    };
}
use serde_by_name;
