//! What models of the form before list, and models of today write down shorter.

use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use std::fmt;
use std::marker::PhantomData;

/// A list of the form before, or what stands in its place today.
#[cfg_attr(feature = "harness", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "harness", schemars(untagged))]
pub(super) enum Listed<Old, New> {
    Old(Vec<Old>),
    New(New),
}

impl<'de, Old: Deserialize<'de>, New: Deserialize<'de>> Deserialize<'de> for Listed<Old, New> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<Old, New>(PhantomData<(Old, New)>);

        impl<'de, Old: Deserialize<'de>, New: Deserialize<'de>> Visitor<'de> for Either<Old, New> {
            type Value = Listed<Old, New>;

            fn expecting(&self, out: &mut fmt::Formatter) -> fmt::Result {
                out.write_str("an object, or a list as in the form before")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Self::Value, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(items)).map(Listed::Old)
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Self::Value, A::Error> {
                New::deserialize(MapAccessDeserializer::new(fields)).map(Listed::New)
            }
        }

        deserializer.deserialize_any(Either(PhantomData))
    }
}
