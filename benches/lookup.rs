//! How long the lookup takes: by dimensions, by tensors, a batch line, by a model for shapes old and new, and loading documents
//! of 500 rules and of 4 MB.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use kernel_sweep::heuristics::{
    Document, Extents, Fallback, Heuristics, Query, RankedTemplate, Rule, Template, answer_batch_line, bucket_of,
    groups,
};
use kernel_sweep::model::{Dtype, Family, Problem};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::hint::black_box;

#[path = "../tests/common/models.rs"]
mod models;

/// A document of the size a full sweep yields: 500 rules of matrix products, two templates each, and their fallbacks.
fn document() -> Document {
    let template = |stages: usize| -> Template {
        let config = json!({"block_sizes": [64, 128, 64], "l2_groupings": [4], "mma": "wgmma", "num_stages": stages,
            "num_warps": 4, "pid_type": "flat", "split_k": 1});
        config.as_object().cloned().unwrap_or_default()
    };
    let object = |value: Value| value.as_object().cloned().unwrap_or_default();
    let ranked = |stages: usize| RankedTemplate {
        template: template(stages),
        shape_coverage: Some(3.0),
        win_count: Some(stages as f64),
        geomean_slowdown: Some(1.0123),
        median_slowdown: Some(1.01),
        p90_slowdown: Some(1.04),
        ..RankedTemplate::default()
    };
    let mut rules = BTreeMap::new();
    let sides = [64, 128, 256, 512, 1024, 4096, 8192];
    for family in [Family::Matmul, Family::MatmulInt4, Family::MatmulInt16, Family::MatmulFp4] {
        for (m, n, k) in
            sides.iter().flat_map(|m| sides.iter().map(move |n| (*m, *n))).flat_map(|(m, n)| sides.map(|k| (m, n, k)))
        {
            let Ok(problem) = Problem::new(family, &[("m", m), ("n", n), ("k", k)], Dtype::Bf16) else { continue };
            let rule = Rule {
                kernel_class: family.name().to_owned(),
                shape_bucket: bucket_of(&problem),
                match_exact_only: true,
                source: object(json!({"journal": "h200", "problems": ["m=64,n=64,k=64", "m=64,n=64,k=48"]})),
                validation: object(json!({"pairs": 24, "ratio": 0.8123, "range": [0.79, 0.83], "against": "fallback"})),
                templates: vec![ranked(3), ranked(4)],
                ..Rule::default()
            };
            if rules.len() < 500 {
                rules.insert((rule.kernel_class.clone(), rule.shape_bucket.clone()), rule);
            }
        }
    }
    let fallback = || Fallback { template: template(2), source: object(json!({"problems": 9})), ..Fallback::default() };
    let of_family = |family: Family| {
        (family.name().to_owned(), groups(family).iter().map(|group| ((*group).to_owned(), fallback())).collect())
    };
    let fallbacks = Family::ALL.into_iter().map(of_family).collect();
    Document { schema_version: 2, rules: rules.into_values().collect(), fallbacks, ..Document::default() }
}

fn lookup(criterion: &mut Criterion) {
    let heuristics = Heuristics::new(document());
    let query = |m, n, k| Query {
        class: "matmul_int16",
        extents: Extents::Gemm { m: Some(m), n: Some(n), k: Some(k), sharing: None },
        dtype: Dtype::Bf16.into(),
    };
    let mut group = criterion.benchmark_group("lookup");
    let ruled = query(64, 4096, 4096);
    group.bench_function("by dimensions, a rule", |bencher| {
        bencher.iter(|| heuristics.lookup(black_box(&ruled)).best().map(Template::len));
    });
    let grouped = query(64, 4096, 100_000);
    group.bench_function("by dimensions, a fallback", |bencher| {
        bencher.iter(|| heuristics.lookup(black_box(&grouped)).best().map(Template::len));
    });
    let exact = Heuristics::from_bytes(models::large_document().to_string().as_bytes());
    if let Ok(exact) = exact {
        for (name, m) in [("measured", 6), ("the model", 4095)] {
            let query = Query { class: "matmul", ..query(m, 4096, 48) };
            group.bench_function(format!("a shape resolved before, {name}"), |bencher| {
                bencher.iter(|| exact.lookup(black_box(&query)).best().map(Template::len));
            });
        }
    }
    if let Ok(shipped) = Heuristics::builtin("h200") {
        let mut m = 1 << 14;
        group.bench_function("a new shape, the model", |bencher| {
            bencher.iter(|| {
                m += 1;
                shipped.lookup(black_box(&Query { class: "matmul", ..query(m, 4096, 4104) })).best().map(Template::len)
            });
        });
    }
    group.throughput(Throughput::Elements(1));
    let line = json!({"args": [{"shape": [64, 4096], "dtype": "torch.bfloat16"}, {"shape": [4096, 4096], "dtype": "torch.int16"}],
        "traits": ["matmul"], "block_rank": 3, "has_reduction": false, "has_split_k": false, "kernel_source": null})
    .to_string();
    group.bench_function("a batch line", |bencher| {
        bencher.iter(|| answer_batch_line(&heuristics, black_box(line.as_bytes())));
    });
}

fn load(criterion: &mut Criterion) {
    let document = document();
    assert_eq!(document.rules.len(), 500);
    let text = document.to_canonical_json();
    let mut group = criterion.benchmark_group("load");
    let large = models::large_document().to_string();
    for (name, text) in [("500 rules", text), ("4 MB with seven models", large)] {
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter_batched(|| (), |()| Heuristics::from_bytes(black_box(text.as_bytes())), BatchSize::LargeInput);
        });
    }
}

criterion_group!(benches, lookup, load);
criterion_main!(benches);
