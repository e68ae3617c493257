//! The families of tests/manifest on the GPU that is here: swept, derived and looked up, without a line of Rust of theirs.
#![cfg(feature = "harness")]
#![allow(clippy::unwrap_used)] // a test that cannot go on may stop

mod common;

use common::sweep;
use kernel_sweep::device::{discover, driver_trouble};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The name of the GPU that is here, if there is one.
fn gpu() -> Option<String> {
    let Some(found) = discover().into_iter().find(|found| !found.profile.is_cpu()) else {
        assert_eq!(driver_trouble(), None, "a GPU that is here must be used");
        eprintln!("skipped: there is no GPU here");
        return None;
    };
    Some(found.profile.name)
}

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manifest")
}

/// Sweeps a manifest and looks a shape up in what came of it; returns what was said.
fn swept(folder: &TempDir, gpu: &str, manifest: &Path, shape: &str, dtype: &str) -> String {
    let name = manifest.file_stem().unwrap().to_str().unwrap();
    let mut command = sweep(folder.path());
    let done = command.args(["--gpu", gpu, "--budget", "8s", "--family"]).arg(manifest).assert().success();
    let journal = fs::read_to_string(folder.path().join(format!("output/{gpu}/journal/{name}.jsonl"))).unwrap();
    let trials = journal.lines().skip(1).map(|line| serde_json::from_str::<Value>(line).unwrap());
    let statuses: Vec<String> = trials.filter_map(|trial| Some(trial["status"].as_str()?.to_owned())).collect();
    assert!(statuses.iter().any(|status| status == "ok"), "{name}: {statuses:?}");
    assert!(statuses.iter().all(|status| ["ok", "pruned", "timeout"].contains(&&**status)), "{name}: {statuses:?}");
    let asked = ["lookup", "--gpu", gpu, "--family", name, "--shape", shape, "--dtype", dtype, "--json"];
    let answer = sweep(folder.path()).args(asked).assert().success();
    let answer: Value = serde_json::from_slice(&answer.get_output().stdout).unwrap();
    assert!(answer["templates"].as_array().is_some_and(|configs| !configs.is_empty()), "{name}: {answer}");
    String::from_utf8_lossy(&done.get_output().stderr).into_owned()
}

#[test]
fn every_kind_of_kernel_is_swept_by_its_manifest() {
    let Some(gpu) = gpu() else { return };
    let folder = tempfile::tempdir().unwrap();
    for (name, shape, dtype) in [
        ("vector_add", "n=1000", "f32"),
        ("stencil", "height=100,width=300", "f32"),
        ("convolution", "height=100,width=300,size=5", "f32"),
        ("reduction", "n=1000", "i32"),
        ("product", "m=100,n=200,k=300", "f32"),
        ("from_ptx", "n=1000", "f32"),
    ] {
        swept(&folder, &gpu, &data().join(format!("{name}.toml")), shape, dtype);
    }
}

/// A kernel whose threads keep arrays in local memory by design: which element is written and read, the data say.
const WITH_AN_ARRAY: &str = r#"extern "C" __global__ void scaled(float *y, const float *x, float factor, long long n) {
    float factors[16], more[16];
    for (int place = 0; place < 16; place++) {
        const int shuffled = place * ((int)n | 1) & 15;
        factors[shuffled] = factor + (float)place;
        more[shuffled] = (float)place;
    }
    const long long first = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * PER_THREAD;
    for (long long place = first; place < first + PER_THREAD && place < n; place++)
        y[place] = (factors[__float_as_int(x[place]) >> 8 & 15] - more[__float_as_int(x[place]) >> 8 & 15]) * x[place];
}
"#;

/// Cubins that were compiled here, for the GPU that is here: those with an array in local memory are measured like the others, and that
/// they have one is said.
#[test]
fn a_kernel_that_is_there_as_a_cubin_alone_is_swept() {
    let Some(gpu) = gpu() else { return };
    let folder = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(data().join("from_ptx.toml")).unwrap();
    for (name, source) in
        [("plain", fs::read_to_string(data().join("scaled.cu")).unwrap()), ("array", WITH_AN_ARRAY.to_owned())]
    {
        fs::copy(data().join("scaled.cu"), folder.path().join("scaled.cu")).unwrap();
        fs::write(folder.path().join(format!("{name}.cu")), source).unwrap();
        let own = format!("source = \"{name}.cu\"\nmacros = [\"PER_THREAD = per_thread\"]");
        let building = text.replace("source = \"scaled_{per_thread}.ptx\"", &own);
        fs::write(folder.path().join(format!("{name}_source.toml")), building).unwrap();
        let (manifest, list) = (format!("{name}_source.toml"), format!("{name}.jsonl"));
        let asked = ["compile", "--gpu", &gpu, "--family", &manifest, "--list", &list];
        sweep(folder.path()).args(asked).assert().success();
        let list = fs::read_to_string(folder.path().join(list)).unwrap();
        let kernels: Vec<Value> = list.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        for per_thread in [1, 4] {
            let is_it =
                |kernel: &&Value| kernel["kernel"].as_str().unwrap().contains(&format!("-DPER_THREAD={per_thread}"));
            let cubin = kernels.iter().find(is_it).unwrap()["cubin"].as_str().unwrap();
            fs::copy(cubin, folder.path().join(format!("{name}_{per_thread}.cubin"))).unwrap();
        }
        let manifest = folder.path().join(format!("{name}_cubin.toml"));
        fs::write(&manifest, text.replace("scaled_{per_thread}.ptx", &format!("{name}_{{per_thread}}.cubin"))).unwrap();
        let said = swept(&folder, &gpu, &manifest, "n=1000", "f32");
        assert_eq!(said.contains("of local memory"), name == "array", "{said}");
    }
}
