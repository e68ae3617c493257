//! What Helion takes of a config: the fields of its `Config`, and the values that its config specs allow them.

use crate::heuristics::Template;
use serde_json::Value;

/// A config as Helion takes it.
pub(super) struct Accepted {
    pub(super) config: Template,
    /// Fields that Helion does not have.
    pub(super) left_out: Vec<String>,
}

/// The fields of Helion's `Config` (1.1.0, `helion/runtime/config.py`).
const FIELDS: [&str; 22] = [
    "advanced_controls_file",
    "atomic_indexing",
    "block_sizes",
    "epilogue_subtile",
    "flatten_loops",
    "indexing",
    "l2_groupings",
    "load_eviction_policies",
    "loop_orders",
    "maxnreg",
    "num_sm_multiplier",
    "num_stages",
    "num_threads",
    "num_warps",
    "pid_type",
    "range_flattens",
    "range_multi_buffers",
    "range_num_stages",
    "range_unroll_factors",
    "range_warp_specializes",
    "reduction_loops",
    "static_ranges",
];
/// Of these, those whose numbers are powers of two in every config spec.
const POWERS_OF_TWO: [&str; 5] = ["block_sizes", "l2_groupings", "num_sm_multiplier", "num_warps", "reduction_loops"];
/// The most warps of a block.
const MOST_WARPS: u64 = 32;
/// Helion's program orders.
const ORDERS: [&str; 4] = ["flat", "persistent_blocked", "persistent_interleaved", "xyz"];

/// The part of a config that Helion has, or why it takes none of it.
pub(super) fn accepted(template: &Template) -> Result<Accepted, String> {
    let mut accepted = Accepted { config: Template::new(), left_out: Vec::new() };
    for (field, value) in template {
        if !FIELDS.contains(&field.as_str()) {
            accepted.left_out.push(field.clone());
            continue;
        }
        if POWERS_OF_TWO.contains(&field.as_str()) && !all_numbers(value).all(u64::is_power_of_two) {
            return Err(format!("{field} has a number that is no power of two"));
        }
        if field == "num_warps" && value.as_u64().is_some_and(|warps| warps > MOST_WARPS) {
            return Err(format!("more than {MOST_WARPS} warps"));
        }
        if field == "pid_type" && !value.as_str().is_some_and(|order| ORDERS.contains(&order)) {
            return Err(format!("pid_type {value}"));
        }
        accepted.config.insert(field.clone(), value.clone());
    }
    Ok(accepted)
}

/// The numbers of a value or of its list.
fn all_numbers(value: &Value) -> impl Iterator<Item = u64> {
    let list = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    list.iter().filter_map(Value::as_u64)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(config: &Value) -> Result<(Value, Vec<String>), String> {
        let accepted = accepted(config.as_object().unwrap())?;
        Ok((accepted.config.into(), accepted.left_out))
    }

    #[test]
    fn what_helion_lacks_is_left_out_and_what_it_refuses_refused() {
        let (config, left_out) =
            of(&json!({"block_sizes": [16, 64], "mma": "wgmma", "num_warps": 4, "split_k": 2})).unwrap();
        assert_eq!(config, json!({"block_sizes": [16, 64], "num_warps": 4}));
        assert_eq!(left_out, ["mma", "split_k"]);
        let whole = json!({"indexing": ["pointer", "tensor_descriptor"], "reduction_loops": [null], "range_flattens": [null, true]});
        assert_eq!(of(&whole).unwrap(), (whole, Vec::new()));
        for refused in [
            json!({"block_sizes": [1, 192, 176]}),
            json!({"block_sizes": [64], "num_warps": 6}),
            json!({"num_warps": 64}),
            json!({"pid_type": "cluster_launch_control"}),
            json!({"l2_groupings": [3]}),
        ] {
            assert!(of(&refused).is_err(), "{refused}");
        }
    }
}
