//! What serving allocates: nothing for a query by dimensions, and no more than a document is worth for loading one.
#![allow(clippy::unwrap_used)]

use allocation_counter::measure;
use kernel_sweep::heuristics::{Extents, Heuristics, Query, Source, Template};
use kernel_sweep::model::{Dtype, Family, Problem};
use std::hint::black_box;

const EXAMPLE: &str = include_str!("data/observed_heuristics_example.json");

#[test]
fn a_query_by_dimensions_allocates_nothing() {
    let heuristics = Heuristics::from_bytes(EXAMPLE.as_bytes()).unwrap();
    let problem = |family, shape| Problem::parse(family, shape, Dtype::Bf16).unwrap();
    let ruled = problem(Family::MatmulFp4, "m=16,n=4096,k=4096");
    let grouped = problem(Family::MatmulFp4, "m=17,n=4096,k=4096");
    let unknown = problem(Family::Attention, "batch=1,heads=1,q_seq=1,kv_seq=1,head_dim=1");
    let of_no_class = Query { class: "nothing", extents: Extents::Unbinned, dtype: Dtype::Bf16.into() };
    let mut sources = Vec::with_capacity(3);
    let asking = measure(|| {
        for problem in [&ruled, &grouped, &unknown] {
            sources.push(heuristics.lookup_problem(black_box(problem)).source);
        }
        black_box(heuristics.lookup(black_box(&of_no_class)).source);
    });
    assert_eq!(sources, [Source::Rule(1), Source::Fallback("small_m"), Source::None]);
    assert_eq!(asking.count_total, 0, "asked for the first time");
    let config = |problem| heuristics.lookup_problem(problem).best().map(Template::len);
    let reading = measure(|| assert!(config(&ruled).is_some() && config(&grouped).is_some()));
    assert!(reading.count_total > 0, "the counter counts");
    let again = measure(|| assert!(config(&ruled).is_some() && config(&grouped).is_some()));
    assert_eq!(again.count_total, 0, "configs are read once");
}

#[test]
fn loading_takes_memory_in_proportion_to_the_text() {
    let filler = |bytes: usize| {
        format!("{{\"schema_version\": 2, \"policy\": {{\"x\": \"{}\"}}, \"rules\": []}}", "x".repeat(bytes))
    };
    let text = filler(20 << 20);
    let loading = measure(|| drop(Heuristics::from_bytes(text.as_bytes()).unwrap()));
    let beyond = loading.bytes_max - text.len() as u64;
    assert!(beyond < 1 << 20, "{beyond} bytes beside the text for what is not served");
    let oversized = filler(100 << 20);
    let refusing = measure(|| drop(Heuristics::from_bytes(oversized.as_bytes()).unwrap_err()));
    assert!(refusing.bytes_max < 1 << 20, "{} bytes for a document that is refused", refusing.bytes_max);
}
