//! What serving allocates: nothing for a query by dimensions, and no more than a document is worth for loading one.
#![allow(clippy::unwrap_used)]

use allocation_counter::measure;
use kernel_sweep::heuristics::{Document, DtypeName, Extents, Heuristics, Query, Source, Template, answer_batch_line};
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

/// Whatever a large document is made of: what is made of it is a few times its text, while it is loaded and asked.
#[test]
fn no_document_takes_many_times_its_text() {
    const TEXT_BYTES: usize = 31 << 20;
    let bucket = "\"kernel_class\":\"x\",\"shape_bucket\":{\"dtype\":\"int\"}";
    let query = Query { class: "x", extents: Extents::Unbinned, dtype: DtypeName::parse("int8").unwrap() };
    let model =
        "\"form\":\"trees/1\",\"dims\":[],\"dtypes\":{\"i8\":1},\"aligned\":\"1\",\"configs\":[{\"template\":{}}],
        \"floor\":{\"bytes\":\"1\",\"flops\":\"1\",\"launch_us\":2.0,\"bytes_per_us\":1.0,\"flops_per_us\":1.0}";
    for (start, unit, end) in [
        (format!("\"rules\":[{{{bucket},\"templates\":["), "{},", "null]}]"),
        (format!("\"rules\":[{{{bucket},\"templates\":["), "{\"template\":{}},", "null]}]"),
        (format!("\"rules\":[{{{bucket},\"templates\":["), "null,", "null]}]"),
        ("\"rules\":[".to_owned(), "{\"kernel_class\":\"x\",\"shape_bucket\":{}},", "{}]"),
        ("\"fallbacks\":{\"x\":{\"a\":{\"template\":[".to_owned(), "{\"a\":0},", "null]}}}"),
        ("\"policy\":{\"x\":[".to_owned(), "{\"a\":0},", "null]}"),
        (format!("\"models\":{{\"x\":{{{model},\"features\":[\"1\"],\"trees\":[\""), "0<1 ", "0\"]}}"),
        (format!("\"models\":{{\"x\":{{{model},\"trees\":["), "\"0\",", "\"0\"]}}"),
        (format!("\"models\":{{\"x\":{{{model},\"trees\":[],\"legal\":[\""), "(1)", "\"]}}"),
        (format!("\"models\":{{\"x\":{{{model},\"trees\":[],\"problems\":["), "{},", "{}]}}"),
    ] {
        for bytes in [TEXT_BYTES, 1 << 20] {
            let text = format!("{{\"schema_version\":2,{start}{}{end}}}", unit.repeat(bytes / unit.len()));
            let asking = measure(|| {
                if let Ok(heuristics) = Heuristics::from_bytes(text.as_bytes()) {
                    black_box(heuristics.lookup_unchecked(&query).configs().len());
                }
            });
            let reading = measure(|| drop(black_box(Document::from_bytes(text.as_bytes()))));
            for peak in [asking.bytes_max, reading.bytes_max] {
                let most = 5 * text.len() as u64 + (160 << 20);
                assert!(peak < most, "{} MiB for {} MiB of {unit}", peak >> 20, text.len() >> 20);
            }
        }
    }
}

#[test]
fn no_line_of_a_batch_takes_many_times_its_length() {
    let heuristics = Heuristics::from_bytes(EXAMPLE.as_bytes()).unwrap();
    for (start, unit, end) in [
        ("{\"args\":[", "{},", "{}]}"),
        ("{\"args\":[{\"shape\":[", "1,", "1]}]}"),
        ("{\"traits\":[", "\"\",", "\"\"]}"),
        ("{\"kernel_class\":\"", "x", "\"}"),
    ] {
        let line = format!("{start}{}{end}", unit.repeat((16 << 20) / unit.len()));
        let answering = measure(|| drop(black_box(answer_batch_line(&heuristics, line.as_bytes()))));
        assert!(answering.bytes_max < 6 * line.len() as u64, "{} MiB for {unit}", answering.bytes_max >> 20);
    }
}
