//! Configs as documents hold them.

use serde_json::{Map, Value};

/// A config as the document holds it: any keys, since a document may come from another tool.
pub type Template = Map<String, Value>;
