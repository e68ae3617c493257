//! From the answer to the launch, with a stand-in for the driver: `tests/standin/libcuda.c`. Cubins are stand-ins too.

#![cfg(all(feature = "harness", target_os = "linux"))]
#![allow(clippy::unwrap_used, unsafe_code)] // a test that cannot go on may stop; tensors are addresses of nothing

#[path = "common/nvrtc.rs"]
mod nvrtc;
#[path = "common/standin.rs"]
mod standin;

use kernel_sweep::compile::{self, Answer, Cache, Recipes};
use kernel_sweep::device::cuda::Gpu;
use kernel_sweep::device::{Device, Program};
use kernel_sweep::families::{self, KernelSpec, TensorSpec};
use kernel_sweep::heuristics::{Document, Heuristics, builtin_document};
use kernel_sweep::model::{Bytes, Dtype, Family, GpuProfile, Problem};
use kernel_sweep::run::{
    Bundle, Contents, Context, Element, Kernel, Recent, Runtime, Stream, Tensor, answerable, answered,
};
use serde_json::{Value, json};
use standin::{calls, names, with_standin};
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where device 0's memory begins, by the stand-in.
const MEMORY: u64 = 16 << 40;
/// More than any tensor here takes.
const APART: u64 = 1 << 32;

fn problem(family: Family, extents: &[i64], dtype: Dtype) -> Problem {
    let named: Vec<_> = family.all_dimensions().zip(extents.iter().copied()).collect();
    Problem::new(family, &named, dtype).unwrap()
}

/// Of every family, small and large, with rows that the copy engine takes and rows that it does not, and with keys that programs
/// share.
fn problems() -> Vec<Problem> {
    let mut problems = vec![
        problem(Family::Attention, &[1, 8, 1, 16384, 128], Dtype::Bf16),
        problem(Family::Attention, &[2, 16, 1000, 1000, 64], Dtype::Bf16),
        problem(Family::Attention, &[2, 4, 300, 77, 72], Dtype::Bf16),
    ];
    for family in [Family::Matmul, Family::MatmulInt4, Family::MatmulInt16, Family::MatmulFp4] {
        let shapes = [[16, 4096, 4096], [2048, 2048, 2048], [5, 77, 66], [300, 1000, 130]];
        problems.extend(shapes.map(|shape| problem(family, &shape, Dtype::Bf16)));
    }
    for dtype in [Dtype::Bf16, Dtype::F16, Dtype::F32] {
        let rows = [[64, 4096], [4096, 1001], [3, 100_000]];
        for family in [Family::RowSoftmax, Family::RowNormRms, Family::RowNormLayer, Family::RowCrossEntropy] {
            problems.extend(rows.map(|shape| problem(family, &shape, dtype)));
        }
        problems.extend([1 << 20, 12345].map(|numel| problem(Family::Elementwise, &[numel], dtype)));
    }
    problems.extend(variants());
    problems
}

/// With what weights, types and masks there are beside the plain ones.
fn variants() -> Vec<Problem> {
    let mut problems = Vec::new();
    for scale_block in [0, 1, 128] {
        let shapes = [[16, 4096, 4096], [2048, 2048, 2048], [5, 77, 66]];
        let scaled = shapes.map(|[m, n, k]| problem(Family::MatmulFp8, &[m, n, k, scale_block], Dtype::Fp8));
        problems.extend(scaled);
    }
    for dtype in [Dtype::Bf16, Dtype::F16] {
        for (group, zero_points) in [(128, 0), (32, 1), (0, 0)] {
            let shapes = [[16, 4096, 4096], [300, 1000, 130]];
            problems.extend(
                shapes.map(|[m, n, k]| problem(Family::MatmulInt4Group, &[m, n, k, group, zero_points], dtype)),
            );
        }
        for family in [Family::MatmulNvfp4, Family::MatmulMxfp4, Family::Matmul, Family::MatmulInt4] {
            problems.push(problem(family, &[16, 4096, 4096], dtype));
        }
        for (kv_heads, causal, window) in [(2, 0, 0), (8, 1, 0), (2, 1, 100)] {
            let shapes = [[1, 8, 1, 16384, 128], [2, 8, 1000, 1000, 64]];
            problems.extend(shapes.map(|[batch, heads, q_seq, kv_seq, head_dim]| {
                let extents = [batch, heads, q_seq, kv_seq, head_dim, kv_heads, causal, window];
                problem(Family::Attention, &extents, dtype)
            }));
        }
    }
    problems
}

fn h200() -> GpuProfile {
    GpuProfile::by_name("h200").unwrap()
}

fn recipes() -> Recipes {
    Recipes::built_in("sm_90a", "13.0.88".into())
}

/// What the stand-in takes for a cubin: an ELF that ends where its table of no sections begins, another one for each kernel.
fn cubin_of(kernel: &str) -> Vec<u8> {
    let mut image = b"\x7fELF".to_vec();
    image.resize(64, 0);
    image.extend_from_slice(kernel.as_bytes());
    let end = (image.len() as u64).to_le_bytes();
    image[40..48].copy_from_slice(&end);
    image
}

/// A bundle of what the H200's document answers on these problems.
fn bundle_of(folder: &Path, problems: &[Problem]) -> PathBuf {
    let heuristics = Heuristics::builtin("h200").unwrap();
    let kernels = answered(&heuristics, problems, &h200()).unwrap();
    let (recipes, document) = (recipes(), builtin_document("h200").unwrap());
    let kernels = kernels.into_iter().map(|kernel| (kernel.clone(), PathBuf::from(kernel.to_string()))).collect();
    let contents = Contents { gpu: "h200", document, recipes: &recipes, kernels };
    let path = folder.join("h200.bundle");
    let mut file = fs::File::create(&path).unwrap();
    let packed = contents.write(&mut file, |path| Ok(cubin_of(path.to_str().unwrap()))).unwrap();
    assert_eq!(packed.bundle, Bytes(fs::metadata(&path).unwrap().len()));
    path
}

fn runtime(folder: &Path, problems: &[Problem]) -> Runtime {
    let bundle = Bundle::open(&bundle_of(folder, problems)).unwrap();
    Runtime::open(0).unwrap().with_bundle(bundle).unwrap()
}

fn stream(handle: usize) -> Stream {
    unsafe { Stream::from_raw(std::ptr::without_provenance_mut::<c_void>(handle)) }
}

/// The tensors of a problem, apart from each other in device 0's memory: the inputs, then the output.
struct Given(Vec<(u64, TensorSpec)>);

impl Given {
    fn of(problem: &Problem) -> Self {
        let tensors = families::spec(problem.family).tensors(problem);
        let all = tensors.inputs.into_iter().chain(tensors.outputs);
        Self((1..).zip(all).map(|(place, spec)| (MEMORY + place * APART, spec)).collect())
    }

    fn tensors(&self) -> (Vec<Tensor<'_>>, Tensor<'_>) {
        let mut all: Vec<Tensor<'_>> = Vec::new();
        for (address, spec) in &self.0 {
            all.push(unsafe { Tensor::from_raw(*address, spec.element, &spec.shape, 0) });
        }
        let output = all.pop().unwrap();
        (all, output)
    }
}

fn launch(kernel: &Kernel, stream: Stream) {
    let given = Given::of(kernel.problem());
    let (inputs, output) = given.tensors();
    kernel.launch(stream, &inputs, &output).unwrap();
}

/// A launch with addresses in the order they come, so that launches on other tensors compare.
fn without_addresses(call: &Value) -> Value {
    let mut call = call.clone();
    let mut seen: Vec<u64> = Vec::new();
    let mut place = |value: &mut Value| {
        if let Some(address) = value.as_u64().filter(|word| *word >= MEMORY && *word < 2 * MEMORY) {
            let known = seen.iter().position(|other| *other == address).unwrap_or_else(|| {
                seen.push(address);
                seen.len() - 1
            });
            *value = json!(format!("address {known}"));
        }
    };
    for parameter in call["parameters"].as_array_mut().unwrap() {
        match parameter.get_mut("map") {
            Some(map) => place(map),
            None => place(parameter),
        }
    }
    call.as_object_mut().unwrap().remove("stream");
    call
}

fn launches(calls: &[Value]) -> Vec<Value> {
    calls.iter().filter(|call| call["call"] == "cuLaunchKernelEx").map(without_addresses).collect()
}

#[test]
fn what_is_served_is_launched_as_it_was_measured() {
    with_standin("what_is_served_is_launched_as_it_was_measured", &[], &[], |folder| {
        let problems = problems();
        let runtime = runtime(folder, &problems);
        let cache = Cache::in_folder(&kernel_sweep::paths::cache_folder().unwrap()).unwrap();
        let recipes = recipes();
        let compiled = |kernel: &KernelSpec| -> PathBuf {
            let cubin = Some(cubin_of(&kernel.to_string()));
            compile::cubin(&recipes, &cache, kernel, |_| Ok(Answer { cubin, entry: None, log: String::new() }))
                .unwrap();
            cache.cubin(&recipes.key(kernel).unwrap())
        };
        let support = KernelSpec::shipped("support.cu", "fill_bf16", []);
        let (mut with_maps, mut with_scratch) = (0, 0);
        for problem in &problems {
            let kernel = runtime.prepare(problem).unwrap();
            let spec = families::spec(problem.family);
            let program = |(kernel, launch): (KernelSpec, families::Launch)| {
                let (cubin, entry) = (compiled(&kernel), kernel.entry.clone());
                Program { cubin, entry, launch, is_binary: false }
            };
            let mut gpu = Gpu::open(0, &compiled(&support)).unwrap();
            gpu.prepare(&spec.task(problem), 7, Some(&program(spec.reference(problem).unwrap().unwrap()))).unwrap();
            let measured = program(spec.program(kernel.config(), problem, &h200()).unwrap());
            gpu.load(kernel.config(), Some(&measured)).unwrap();
            calls(folder);
            gpu.verify().unwrap();
            let of_harness = launches(&calls(folder));
            let of_harness: Vec<_> = of_harness.iter().filter(|call| call["function"] == *measured.entry).collect();
            assert_eq!(of_harness.len(), 2, "on plain inputs and on awkward ones");
            launch(&kernel, stream(5));
            let served = launches(&calls(folder));
            assert_eq!(served.len(), 1);
            assert_eq!(&served[0], of_harness[0], "{problem} by {}", kernel.config());
            with_maps += usize::from(served[0].to_string().contains("\"map\""));
            with_scratch += usize::from(kernel.scratch_bytes() > Bytes(0));
        }
        assert!(with_maps > 5 && with_scratch > 0, "{with_maps} with maps, {with_scratch} with scratch");
    });
}

#[test]
fn a_hundred_thousand_launches_allocate_nothing_and_wait_for_nothing() {
    with_standin("a_hundred_thousand_launches_allocate_nothing_and_wait_for_nothing", &[], &[], |folder| {
        let problems = problems();
        let runtime = runtime(folder, &problems);
        let kernels: Vec<_> = problems.iter().map(|problem| runtime.prepare(problem).unwrap()).collect();
        let given: Vec<_> = problems.iter().map(Given::of).collect();
        let tensors: Vec<_> = given.iter().map(Given::tensors).collect();
        // The first call of each of the driver's functions looks it up by its name.
        for (kernel, (inputs, output)) in kernels.iter().zip(&tensors) {
            kernel.launch(stream(5), inputs, output).unwrap();
        }
        calls(folder);
        let each = 100_000 / kernels.len() + 1;
        let allocated = allocation_counter::measure(|| {
            for (kernel, (inputs, output)) in kernels.iter().zip(&tensors) {
                for _ in 0..each {
                    kernel.launch(stream(5), inputs, output).unwrap();
                }
            }
        });
        assert_eq!((allocated.count_total, allocated.bytes_max), (0, 0));
        let calls = calls(folder);
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for name in names(&calls) {
            *counts.entry(name).or_default() += 1;
        }
        assert_eq!(counts.remove("cuLaunchKernelEx"), Some(each * kernels.len()));
        let scratch = kernels.iter().filter(|kernel| kernel.scratch_bytes() > Bytes(0)).count();
        assert_eq!(counts, BTreeMap::from([("cuEventRecord", each * scratch), ("cuStreamWaitEvent", each * scratch)]));
    });
}

#[test]
fn launches_in_a_row_are_so_many_of_one() {
    with_standin("launches_in_a_row_are_so_many_of_one", &[], &[], |folder| {
        let problems = problems();
        let runtime = runtime(folder, &problems);
        let mut with_scratch = 0;
        for problem in &problems {
            let kernel = runtime.prepare(problem).unwrap();
            let given = Given::of(problem);
            let (inputs, output) = given.tensors();
            calls(folder);
            kernel.launch(stream(5), &inputs, &output).unwrap();
            let once = calls(folder);
            kernel.launch_times(stream(5), &inputs, &output, 3).unwrap();
            let thrice = calls(folder);
            let is_launch = |call: &&Value| call["call"] == "cuLaunchKernelEx";
            let launch = once.iter().find(is_launch).unwrap();
            assert_eq!(thrice.iter().filter(is_launch).collect::<Vec<_>>(), [launch; 3], "{problem}");
            // Scratch is waited for once and kept for all of them.
            let others = |calls: &[Value]| calls.iter().filter(|call| !is_launch(call)).cloned().collect::<Vec<_>>();
            assert_eq!(others(&thrice), others(&once), "{problem}");
            with_scratch += others(&once).len();
            kernel.launch_times(stream(5), &inputs, &output, 0).unwrap();
            assert!(launches(&calls(folder)).is_empty());
            assert!(kernel.launch_times(stream(5), &inputs[1..], &output, 3).is_err());
            assert!(launches(&calls(folder)).is_empty());
        }
        assert!(with_scratch > 0, "some kernel has scratch");
    });
}

/// What was made and not given back, by kind.
fn left(calls: &[Value]) -> [i64; 4] {
    let mut left = [0; 4];
    for name in names(calls) {
        match name {
            "cuMemAlloc_v2" => left[0] += 1,
            "cuMemFree_v2" => left[0] -= 1,
            "cuModuleLoadData" => left[1] += 1,
            "cuModuleUnload" => left[1] -= 1,
            "cuEventCreate" => left[2] += 1,
            "cuEventDestroy_v2" => left[2] -= 1,
            "cuDevicePrimaryCtxRetain" => left[3] += 1,
            "cuDevicePrimaryCtxRelease_v2" => left[3] -= 1,
            _ => {}
        }
    }
    left
}

#[test]
fn what_is_prepared_is_given_back() {
    with_standin("what_is_prepared_is_given_back", &[], &[], |folder| {
        let problems = problems();
        let first = runtime(folder, &problems);
        let kernels: Vec<_> = problems.iter().map(|problem| first.prepare(problem).unwrap()).collect();
        for kernel in &kernels {
            launch(kernel, stream(5));
        }
        drop(first); // kernels outlive their runtime
        for kernel in &kernels {
            launch(kernel, stream(5));
        }
        drop(kernels);
        let first = calls(folder);
        assert_eq!(left(&first), [0; 4]);
        assert!(names(&first).contains(&"cuEventDestroy_v2"), "some kernel has scratch");
        // Kernels that are prepared and dropped again leave no more behind than their modules, which the runtime keeps.
        let second = runtime(folder, &problems);
        let prepare_all = || problems.iter().for_each(|problem| drop(second.prepare(problem).unwrap()));
        prepare_all();
        let kept = left(&calls(folder));
        (0..20).for_each(|_| prepare_all());
        assert_eq!(left(&calls(folder)), [0; 4]);
        drop(second);
        assert_eq!(left(&calls(folder)).map(|count| -count), kept);
    });
}

#[test]
fn what_fails_halfway_is_given_back() {
    let wide = [Problem::new(
        Family::Attention,
        &[("batch", 1), ("heads", 8), ("q_seq", 1), ("kv_seq", 16384), ("head_dim", 128)],
        Dtype::Bf16,
    )
    .unwrap()];
    for (case, fault, after) in [
        ("memory", "cuMemAlloc_v2:2", "1"),
        ("more_memory", "cuMemAlloc_v2:2", "2"),
        ("map", "cuTensorMapEncodeTiled:1", "0"),
        ("attribute", "cuFuncSetAttribute:1", "0"),
        ("module", "cuModuleLoadData:2", "0"),
        ("event", "cuEventCreate:2", "0"),
    ] {
        let environment = [("STANDIN_FAULT", fault), ("STANDIN_FAULT_AFTER", after), ("CASE", case)];
        with_standin("what_fails_halfway_is_given_back", &[], &environment, |folder| {
            let runtime = runtime(folder, &wide);
            let error = runtime.prepare(&wide[0]).unwrap_err().to_string();
            assert!(error.starts_with("preparing attention ") && error.contains("CUDA_ERROR_"), "{error}");
            drop(runtime);
            assert_eq!(left(&calls(folder)), [0; 4], "{error}");
        });
        if std::env::var_os("CASE").is_some() {
            return; // a process has one case
        }
    }
}

#[test]
fn threads_share_a_kernel_and_its_scratch_is_one_launchs_at_a_time() {
    with_standin("threads_share_a_kernel_and_its_scratch_is_one_launchs_at_a_time", &[], &[], |folder| {
        let problems = problems();
        let runtime = runtime(folder, &problems);
        let kernels: Vec<_> = problems.iter().map(|problem| runtime.prepare(problem).unwrap()).collect();
        calls(folder);
        std::thread::scope(|scope| {
            for thread in 1..=8 {
                let (kernels, runtime, problems) = (&kernels, &runtime, &problems);
                scope.spawn(move || {
                    for turn in 0..50 {
                        for kernel in kernels {
                            launch(kernel, stream(thread));
                        }
                        if turn == 25 {
                            // Preparing goes on beside it, and a thread without a context can launch.
                            for problem in problems {
                                launch(&runtime.prepare(problem).unwrap(), stream(thread));
                            }
                        }
                    }
                });
            }
        });
        let calls = calls(folder);
        assert_eq!(launches(&calls).len(), 8 * 51 * kernels.len());
        // Every launch that has scratch comes after the last one that had it, on whatever stream that was.
        let mut waits = 0;
        for (place, call) in calls.iter().enumerate().filter(|(_, call)| call["call"] == "cuStreamWaitEvent") {
            let of_stream = |other: &&Value| other["stream"] == call["stream"];
            let next: Vec<_> = calls[place + 1..].iter().filter(of_stream).take(2).collect();
            assert_eq!(next[0]["call"], "cuLaunchKernelEx");
            assert_eq!(next[1]["call"], "cuEventRecord");
            waits += 1;
        }
        let with_scratch = kernels.iter().filter(|kernel| kernel.scratch_bytes() > Bytes(0)).count();
        assert_eq!(waits, 8 * 51 * with_scratch);
    });
}

#[test]
fn scratch_of_the_callers_serves_graphs() {
    with_standin("scratch_of_the_callers_serves_graphs", &[], &[("STANDIN_CAPTURING", "9")], |folder| {
        let problem = problem(Family::Attention, &[1, 8, 1, 16384, 128], Dtype::Bf16);
        let runtime = runtime(folder, &[problem]);
        let (own, none) = (runtime.prepare(&problem).unwrap(), runtime.prepare_without_scratch(&problem).unwrap());
        let needed = own.scratch_bytes();
        assert!(needed > Bytes(0) && needed == none.scratch_bytes());
        let given = Given::of(&problem);
        let (inputs, output) = given.tensors();
        let refused =
            |kernel: &Kernel, handle| kernel.launch(stream(handle), &inputs, &output).unwrap_err().to_string();
        assert!(refused(&own, 9).contains("a graph's launches need scratch"), "{}", refused(&own, 9));
        assert!(refused(&none, 5).contains("prepared without"), "{}", refused(&none, 5));
        calls(folder);
        let [enough, little] = [[needed.0], [needed.0 - 1]];
        let scratch = |shape| unsafe { Tensor::from_raw(MEMORY + 9 * APART, Element::I8, shape, 0) };
        none.launch_in(stream(9), &scratch(&enough), &inputs, &output).unwrap();
        let calls = calls(folder);
        assert_eq!(names(&calls), ["cuMemsetD8Async", "cuLaunchKernelEx"], "no event of ours goes into a graph");
        assert_eq!((&calls[0]["address"], &calls[0]["stream"]), (&json!(MEMORY + 9 * APART), &json!(9)));
        let counters = calls[0]["bytes"].as_u64().unwrap();
        let parameters = calls[1]["parameters"].as_array().unwrap();
        assert!(parameters.contains(&json!(MEMORY + 9 * APART)));
        assert!(parameters.contains(&json!(MEMORY + 9 * APART + counters.next_multiple_of(16))));
        let error = none.launch_in(stream(9), &scratch(&little), &inputs, &output).unwrap_err().to_string();
        assert!(error.contains("scratch of") && error.contains("where it needs"), "{error}");
    });
}

#[test]
fn tensors_that_are_not_the_problems_are_refused_before_anything_is_launched() {
    let test = "tensors_that_are_not_the_problems_are_refused_before_anything_is_launched";
    with_standin(test, &[], &[("STANDIN_COUNT", "2")], |folder| {
        let problem = problem(Family::MatmulInt4, &[16, 4096, 512], Dtype::Bf16);
        let runtime = runtime(folder, &[problem]);
        let kernel = runtime.prepare(&problem).unwrap();
        calls(folder);
        let [a, b, c] = [1, 2, 3].map(|place| MEMORY + place * APART);
        let (a_shape, b_shape, c_shape) = ([16, 512], [256, 4096], [16, 4096]);
        let tensor = |address, element, shape, device| unsafe { Tensor::from_raw(address, element, shape, device) };
        let good_a = tensor(a, Element::Bf16, &a_shape[..], 0);
        let good_b = tensor(b, Element::I8, &b_shape[..], 0);
        let good_c = tensor(c, Element::Bf16, &c_shape[..], 0);
        let cases: [(&[Tensor<'_>], Tensor<'_>, &str); 12] = [
            (&[good_a], good_c, "1 input tensors where there are 2"),
            (
                &[tensor(a, Element::Bf16, &[17, 512], 0), good_b],
                good_c,
                "A bf16 [16, 512], and this is bf16 [17, 512]",
            ),
            (&[tensor(a, Element::F32, &a_shape, 0), good_b], good_c, "A bf16 [16, 512], and this is f32 [16, 512]"),
            (&[tensor(a, Element::Bf16, &[16, 512, 1], 0), good_b], good_c, "[16, 512, 1]"),
            (&[good_a, tensor(b, Element::I16, &b_shape, 0)], good_c, "B i8 [256, 4096], and this is i16"),
            (&[good_a, tensor(b, Element::I8, &[4096, 256], 0)], good_c, "B i8 [256, 4096]"),
            (&[tensor(a + 8, Element::Bf16, &a_shape, 0), good_b], good_c, "A at 0x100100000008 is not aligned"),
            (&[tensor(0, Element::Bf16, &a_shape, 0), good_b], good_c, "A at 0x0 is not aligned"),
            (&[good_a, good_b], tensor(c, Element::Bf16, &c_shape, 1), "C is in the memory of GPU 1"),
            (&[good_a, good_b], tensor(a, Element::Bf16, &c_shape, 0), "C lies over A"),
            (&[good_a, good_b], tensor(b + 256 * 4096 - 16, Element::Bf16, &c_shape, 0), "C lies over B"),
            (&[good_a, good_b], tensor(c, Element::Bf16, &[4096, 16], 0), "C bf16 [16, 4096]"),
        ];
        for (inputs, output, told) in cases {
            let error = kernel.launch(stream(5), inputs, &output).unwrap_err().to_string();
            assert!(error.starts_with("launching matmul_int4 m=16,n=4096,k=512 bf16: "), "{error}");
            assert!(error.contains(told), "'{error}' does not say '{told}'");
        }
        assert_eq!(calls(folder), Vec::<Value>::new());
        // Just behind B is fine.
        kernel.launch(stream(5), &[good_a, good_b], &tensor(b + 256 * 4096, Element::Bf16, &c_shape, 0)).unwrap();
        // Where the driver is asked, it tells whose memory an address is in.
        let context = runtime.context();
        assert_eq!(context.tensor(a, Element::Bf16, &a_shape).unwrap().device(), 0);
        assert_eq!(context.tensor(17 << 40, Element::Bf16, &a_shape).unwrap().device(), 1);
        let host = context.tensor(0x7fff_0000, Element::Bf16, &a_shape).unwrap_err().to_string();
        assert!(host.contains("in no GPU's own memory"), "{host}");
    });
}

#[test]
fn a_context_of_the_callers_is_used_and_left_as_it_was() {
    with_standin("a_context_of_the_callers_is_used_and_left_as_it_was", &[], &[("STANDIN_COUNT", "2")], |folder| {
        let problem = problem(Family::Elementwise, &[4096], Dtype::Bf16);
        let bundle = bundle_of(folder, &[problem]);
        // The stand-in numbers contexts by their devices.
        let context = unsafe { Context::adopt(std::ptr::without_provenance_mut(2)) }.unwrap();
        assert_eq!(context.ordinal(), 1);
        let none = unsafe { Context::current() }.unwrap_err().to_string();
        assert!(none.contains("no CUDA context is current"), "{none}");
        let runtime = Runtime::on(context).with_bundle(Bundle::open(&bundle).unwrap()).unwrap();
        let kernel = runtime.prepare(&problem).unwrap();
        let shape = [4096];
        let [x, y, out] =
            [1, 2, 3].map(|place| unsafe { Tensor::from_raw((17 << 40) + place * APART, Element::Bf16, &shape, 1) });
        kernel.launch(stream(5), &[x, y], &out).unwrap();
        assert!(unsafe { Context::current() }.is_err(), "the thread has none again");
        drop((kernel, runtime));
        let calls = calls(folder);
        assert_eq!(left(&calls), [0; 4]);
        assert!(!names(&calls).contains(&"cuDevicePrimaryCtxRelease_v2"), "it is the caller's to give back");
    });
}

#[test]
fn a_gpu_without_a_document_or_a_driver_is_told_in_one_line() {
    let test = "a_gpu_without_a_document_or_a_driver_is_told_in_one_line";
    with_standin(test, &[], &[("STANDIN_NAME", "NVIDIA L4")], |folder| {
        let problem = problem(Family::Elementwise, &[4096], Dtype::Bf16);
        let error = Runtime::open(0).unwrap().prepare(&problem).unwrap_err().to_string();
        assert!(error.contains("no built-in heuristics for 'NVIDIA L4'") && !error.contains('\n'), "{error}");
        // One that is named is taken.
        let document = Heuristics::builtin("h200").unwrap();
        let bundle = Bundle::open(&bundle_of(folder, &[problem])).unwrap();
        let runtime = Runtime::open(0).unwrap().with_bundle(bundle).unwrap().with_document(document);
        assert!(runtime.prepare(&problem).is_ok());
        let missing = Runtime::open(3).map(drop).unwrap_err().to_string();
        assert!(missing.contains("there is no GPU 3: the CUDA driver shows this process 1"), "{missing}");
    });
}

#[test]
fn a_driver_that_does_not_start_or_is_too_old_is_told() {
    let test = "a_driver_that_does_not_start_or_is_too_old_is_told";
    with_standin(test, &["-DTOO_OLD"], &[("STANDIN_VERSION", "12000")], |_| {
        let error = Runtime::open(0).map(drop).unwrap_err().to_string();
        assert!(error.contains("which is for CUDA 12.0, lacks cuFuncLoad: a driver for CUDA 12.8"), "{error}");
    });
}

#[test]
fn a_driver_that_fails_to_start_is_told_with_its_error() {
    with_standin("a_driver_that_fails_to_start_is_told_with_its_error", &[], &[("STANDIN_INIT", "803")], |_| {
        let error = Runtime::open(0).map(drop).unwrap_err().to_string();
        assert!(
            error.contains("the CUDA driver does not start: cuInit: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803)"),
            "{error}"
        );
    });
}

#[test]
fn without_a_driver_nothing_is_opened() {
    let here = ["/usr/lib/x86_64-linux-gnu/libcuda.so.1", "/usr/lib64/libcuda.so.1", "/usr/lib/wsl/lib/libcuda.so.1"];
    if here.iter().any(|path| Path::new(path).exists()) {
        eprintln!("skipped: there is a driver here");
        return;
    }
    let error = Runtime::open(0).map(drop).unwrap_err().to_string();
    assert!(error.contains("there is no CUDA driver here"), "{error}");
}

/// Where no NVRTC is found, unless a toolkit lies where it always does.
const WITHOUT_NVRTC: [(&str, &str); 4] =
    [("PATH", "/nowhere"), ("CUDA_HOME", "/nowhere"), ("CUDA_PATH", "/nowhere"), ("HOME", "/nowhere")];

/// Checks something on the stand-in driver where no NVRTC is found; nothing where a toolkit lies where it always does.
fn without_nvrtc(test: &str, check: impl FnOnce(&Path)) {
    with_standin(test, &[], &WITHOUT_NVRTC, |folder| {
        if !Path::new("/usr/local/cuda").exists() {
            check(folder);
        }
    });
}

#[test]
fn without_nvrtc_and_bundle_the_way_on_is_told() {
    let test = "without_nvrtc_and_bundle_the_way_on_is_told";
    without_nvrtc(test, |folder| {
        let problem = problem(Family::Elementwise, &[4096], Dtype::Bf16);
        let error = Runtime::open(0).unwrap().prepare(&problem).unwrap_err().to_string();
        let cache = folder.join("cache/cubin");
        let told = format!(
            "there is no NVRTC here to compile the kernel, the cubin cache {} does not hold it, and there is no bundle",
            cache.display()
        );
        assert!(error.contains(&told) && !error.contains('\n'), "{error}");
        assert!(error.contains("SWEEP_NVRTC") && error.contains("sweep bundle"), "{error}");
    });
}

#[test]
fn without_nvrtc_what_the_cache_holds_runs_whichever_compiler_filled_it() {
    let test = "without_nvrtc_what_the_cache_holds_runs_whichever_compiler_filled_it";
    without_nvrtc(test, |folder| {
        let problems = [4096, 4097].map(|numel| problem(Family::Elementwise, &[numel], Dtype::Bf16));
        let cache = Cache::in_folder(&kernel_sweep::paths::cache_folder().unwrap()).unwrap();
        let runtime = Runtime::open(0).unwrap();
        for (problem, version) in problems.iter().zip(["13.0.88", "13.7.1"]) {
            let error = runtime.prepare(problem).unwrap_err().to_string();
            assert!(error.contains("the cubin cache"), "{error}");
            let recipes = Recipes::built_in("sm_90a", version.into());
            let kernel = answered(&Heuristics::builtin("h200").unwrap(), [problem], &h200()).unwrap();
            let kernel = kernel.first().unwrap();
            let cubin = Some(cubin_of(version));
            compile::cubin(&recipes, &cache, kernel, |_| Ok(Answer { cubin, entry: None, log: String::new() }))
                .unwrap();
            // What comes with this version is known; of any other it is written down who filled the cache.
            cache.note_compiler(version);
            calls(folder);
            launch(&runtime.prepare(problem).unwrap(), stream(5));
            assert_eq!(launches(&calls(folder)).len(), 1, "NVRTC {version}");
        }
        // What was altered is none.
        let kernel = answered(&Heuristics::builtin("h200").unwrap(), &problems[..1], &h200()).unwrap();
        let path = cache.cubin(&recipes().key(kernel.first().unwrap()).unwrap());
        fs::write(&path, cubin_of("another")).unwrap();
        assert!(Runtime::open(0).unwrap().prepare(&problems[0]).is_err());
    });
}

/// A folder with a stand-in for NVRTC, for a process with the stand-in for the driver.
fn standin_compiler(flags: &[&str]) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    if !standin::is_at_work() {
        nvrtc::build(folder.path(), 13, &nvrtc::LIBRARIES, flags);
    }
    let place = folder.path().display().to_string();
    (folder, place)
}

/// The stand-in for NVRTC compiles no kernel before so many threads ask it to.
#[test]
fn threads_that_prepare_different_problems_compile_side_by_side() {
    let test = "threads_that_prepare_different_problems_compile_side_by_side";
    let (_compiler, place) = standin_compiler(&["-DTOGETHER=3"]);
    with_standin(test, &[], &[("SWEEP_NVRTC", &place)], |folder| {
        let problems = [
            problem(Family::Elementwise, &[1 << 20], Dtype::Bf16),
            problem(Family::RowSoftmax, &[64, 4096], Dtype::Bf16),
            problem(Family::RowNormRms, &[64, 4096], Dtype::F32),
        ];
        let runtime = Runtime::open(0).unwrap();
        std::thread::scope(|scope| {
            // Two threads ask for each: whoever needs the same kernel waits for it.
            let threads: Vec<_> =
                problems.iter().chain(&problems).map(|problem| scope.spawn(|| runtime.prepare(problem))).collect();
            for thread in threads {
                drop(thread.join().unwrap().unwrap());
            }
        });
        let loaded = names(&calls(folder)).into_iter().filter(|name| *name == "cuModuleLoadData").count();
        assert_eq!(loaded, 3, "each kernel once");
    });
}

/// Problems that share a kernel may each need another amount of shared memory: what one is granted, none takes from another.
#[test]
fn a_kernel_keeps_the_shared_memory_of_every_problem_that_it_was_prepared_for() {
    let test = "a_kernel_keeps_the_shared_memory_of_every_problem_that_it_was_prepared_for";
    let (_compiler, place) = standin_compiler(&[]);
    with_standin(test, &[], &[("SWEEP_NVRTC", &place)], |_| {
        // One warp keeps whole rows in shared memory.
        let config = json!({"block_sizes": [1], "num_warps": 1, "reduction_loops": [null], "pid_type": "flat", "split_k": 1, "mma": "simt"});
        let groups: serde_json::Map<String, Value> = ["short", "narrow", "wide", "square"]
            .map(|group| (group.to_owned(), json!({"template": config})))
            .into_iter()
            .collect();
        let document = json!({"schema_version": 2, "rules": [], "fallbacks": {"row_softmax": groups}}).to_string();
        let runtime = Runtime::open(0).unwrap().with_document(Heuristics::from_bytes(document.as_bytes()).unwrap());
        let smem_bytes = |kernel: &Kernel| {
            let spec = families::spec(Family::RowSoftmax);
            spec.program(kernel.config(), kernel.problem(), &h200()).unwrap().1.dynamic_smem.0
        };
        let rows = [80 << 10, 30 << 10, 100 << 10, 28 << 10];
        let kernels = rows.map(|cols| runtime.prepare(&problem(Family::RowSoftmax, &[64, cols], Dtype::Bf16)).unwrap());
        let needed: Vec<u64> = kernels.iter().map(smem_bytes).collect();
        assert!(needed[0] > needed[1] && needed[2] > needed[3] && needed[3] > 48 << 10, "{needed:?}");
        for kernel in &kernels {
            launch(kernel, stream(5));
        }
    });
}

/// What is let go of when there is too much frees its scratch; its code stays, since a graph may hold launches of it.
#[test]
fn kernels_that_are_let_go_of_leave_their_code_until_it_is_forgotten() {
    with_standin("kernels_that_are_let_go_of_leave_their_code_until_it_is_forgotten", &[], &[], |folder| {
        let with_scratch =
            [16384, 16448, 16512].map(|keys| problem(Family::Attention, &[1, 8, 1, keys, 128], Dtype::Bf16));
        let runtime = runtime(folder, &with_scratch);
        let kept: Recent<usize, Kernel> = Recent::new(2, u64::MAX);
        calls(folder);
        for (place, problem) in with_scratch.iter().enumerate() {
            let kernel = runtime.prepare(problem).unwrap();
            let scratch = kernel.scratch_bytes();
            assert!(scratch > Bytes(0));
            launch(&kept.put(place, kernel, scratch.0), stream(5));
        }
        let told = calls(folder);
        let count = |name: &str, calls: &[Value]| names(calls).iter().filter(|other| **other == name).count();
        assert!(kept.get(&0).is_none() && kept.get(&1).is_some() && kept.get(&2).is_some());
        assert_eq!((count("cuEventDestroy_v2", &told), count("cuModuleUnload", &told)), (1, 0));
        assert!(count("cuMemFree_v2", &told) > 0, "its scratch is given back");
        // It comes back without being loaded again.
        launch(&kept.put(0, runtime.prepare(&with_scratch[0]).unwrap(), 0), stream(5));
        assert_eq!(count("cuModuleLoadData", &calls(folder)), 0);
        // What is forgotten stays for whoever has a kernel of it.
        let (held, loaded) = (kept.get(&0).unwrap(), count("cuModuleLoadData", &told));
        kept.clear();
        runtime.forget();
        assert_eq!(count("cuModuleUnload", &calls(folder)), loaded - 1);
        launch(&held, stream(5));
        drop(held);
        assert_eq!(count("cuModuleUnload", &calls(folder)), 1);
        launch(&runtime.prepare(&with_scratch[0]).unwrap(), stream(5));
        assert_eq!(count("cuModuleLoadData", &calls(folder)), 1);
    });
}

#[test]
fn a_bundle_is_whole_or_refused() {
    with_standin("a_bundle_is_whole_or_refused", &[], &[("SWEEP_NVRTC", "/nowhere")], |folder| {
        let problems = problems();
        let path = bundle_of(folder, &problems);
        let (whole, altered) = (fs::read(&path).unwrap(), folder.join("altered.bundle"));
        let kernels = answered(&Heuristics::builtin("h200").unwrap(), &problems, &h200()).unwrap();
        let bundle = Bundle::open(&path).unwrap();
        assert_eq!((bundle.gpu(), bundle.arch(), bundle.kernels()), ("h200", "sm_90a", kernels.len()));
        for kernel in &kernels {
            assert_eq!(bundle.cubin(kernel).unwrap(), cubin_of(&kernel.to_string()));
        }
        // Whatever is altered, no other cubin comes of it: opening fails, or asking for one of the kernels does, or none is touched.
        let mut refused = 0;
        for place in (0..200).chain((200..whole.len()).step_by(whole.len() / 150)) {
            let mut bytes = whole.clone();
            bytes[place] ^= 1 << (place % 8);
            fs::write(&altered, &bytes).unwrap();
            let Ok(bundle) = Bundle::open(&altered) else {
                refused += 1;
                continue;
            };
            let cubins =
                kernels.iter().map(|kernel| bundle.cubin(kernel).map(|cubin| cubin == cubin_of(&kernel.to_string())));
            let cubins: Vec<_> = cubins.collect();
            assert!(cubins.iter().all(|cubin| !matches!(cubin, Ok(false))), "byte {place}");
            refused += usize::from(cubins.iter().any(Result::is_err));
        }
        assert!(refused > 300, "{refused}");
        for length in [0, 10, 22, 57, 58, 100, whole.len() / 2, whole.len() - 1] {
            fs::write(&altered, &whole[..length]).unwrap();
            let cut = Bundle::open(&altered);
            let complaint = cut.and_then(|bundle| kernels.iter().try_for_each(|kernel| bundle.cubin(kernel).map(drop)));
            let complaint = complaint.unwrap_err().to_string();
            assert!(complaint.contains("a hash does not fit") || complaint.contains("it is no bundle"), "{complaint}");
        }
        // A problem that nobody packed is refused, and nothing is compiled.
        let runtime = Runtime::open(0).unwrap().with_bundle(Bundle::open(&path).unwrap()).unwrap();
        let other = problem(Family::Attention, &[1, 8, 300, 300, 40], Dtype::Bf16);
        let error = runtime.prepare(&other).unwrap_err().to_string();
        assert!(error.contains("it holds no such kernel, and nothing is compiled"), "{error}");
        assert!(problems.iter().all(|problem| runtime.prepare(problem).is_ok()));
    });
}

#[test]
fn a_bundle_for_another_architecture_is_refused() {
    with_standin("a_bundle_for_another_architecture_is_refused", &[], &[], |folder| {
        let recipes = Recipes::built_in("sm_100a", "13.0.88".into());
        let document = builtin_document("h200").unwrap();
        let path = folder.join("b200.bundle");
        let contents = Contents { gpu: "b200", document, recipes: &recipes, kernels: vec![] };
        contents.write(&mut fs::File::create(&path).unwrap(), |_| Ok(vec![])).unwrap();
        let error = Runtime::open(0).unwrap().with_bundle(Bundle::open(&path).unwrap()).map(drop).unwrap_err();
        assert!(error.to_string().contains("the bundle is for sm_100a, and NVIDIA H200 is sm_90a"), "{error}");
    });
}

/// A bundle that an older version made has another hash for a source that has changed since.
#[test]
fn a_bundle_of_other_sources_is_refused_by_their_name() {
    with_standin("a_bundle_of_other_sources_is_refused_by_their_name", &[], &[], |folder| {
        let problem = problem(Family::Elementwise, &[4096], Dtype::Bf16);
        let whole = fs::read(bundle_of(folder, &[problem])).unwrap();
        let (head, rest) = whole.split_at(22 + 4 + 32);
        let length = u32::from_le_bytes(head[22..26].try_into().unwrap()) as usize;
        let (packed, parts) = rest.split_at(length);
        let mut index: Value = serde_json::from_slice(&zstd::decode_all(packed).unwrap()).unwrap();
        index["sources"]["elementwise.cu"] = json!("0123456789abcdef");
        let kernel = index["kernels"].as_object().unwrap().values().next().unwrap().clone();
        index["kernels"] = json!({ "fedcba9876543210": kernel });
        let packed = zstd::encode_all(serde_json::to_vec(&index).unwrap().as_slice(), 3).unwrap();
        let sealed = sha2::Digest::finalize(sha2::Digest::chain_update(<sha2::Sha256 as sha2::Digest>::new(), &packed));
        let other = [&head[..22], &(packed.len() as u32).to_le_bytes(), sealed.as_slice(), &packed, parts].concat();
        let path = folder.join("other.bundle");
        fs::write(&path, other).unwrap();
        let runtime = Runtime::open(0).unwrap().with_bundle(Bundle::open(&path).unwrap()).unwrap();
        let error = runtime.prepare(&problem).unwrap_err().to_string();
        assert!(error.contains("made of another elementwise.cu than this version's"), "{error}");
        assert!(error.contains("sweep bundle"), "{error}");
    });
}

#[test]
fn a_c_program_prepares_and_launches() {
    with_standin("a_c_program_prepares_and_launches", &[], &[], |folder| {
        let problems = [
            problem(Family::MatmulInt4, &[16, 4096, 4096], Dtype::Bf16),
            problem(Family::MatmulFp8, &[16, 384, 512, 128], Dtype::Fp8),
            problem(Family::RowNormRms, &[16, 4096], Dtype::F16),
            problem(Family::RowCrossEntropy, &[16, 4096], Dtype::F32),
            problem(Family::Attention, &[1, 8, 1, 16384, 128], Dtype::Bf16),
        ];
        let bundle = bundle_of(folder, &problems);
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("c-run");
        let done = |command: &mut Command| {
            let output = command.output().unwrap();
            let text =
                [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
            assert!(output.status.success(), "{command:?}: {text}");
            text
        };
        let library = ["rustc", "--lib", "--crate-type", "cdylib", "--no-default-features", "--features", "c,run"];
        done(Command::new(env!("CARGO")).current_dir(root).args(library).arg("--target-dir").arg(&target));
        let (library, program) = (target.join("debug"), folder.join("run"));
        done(
            Command::new("cc")
                .args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"])
                .args([root.join("tests/c/run.c").as_os_str(), "-I".as_ref(), root.join("src").as_os_str()])
                .arg("-o")
                .arg(&program)
                .arg("-L")
                .arg(&library)
                .arg("-lkernel_sweep"),
        );
        calls(folder);
        let both = std::env::join_paths([&library, folder]).unwrap();
        let said = done(Command::new(&program).env("LD_LIBRARY_PATH", both).arg(&bundle));
        assert_eq!(said, "ok\n");
        let calls = calls(folder);
        let launched: Vec<_> = calls.iter().filter(|call| call["call"] == "cuLaunchKernelEx").collect();
        let (others, of_weights) = launched.split_at(4);
        assert_eq!(of_weights.iter().map(|launch| &launch["stream"]).collect::<Vec<_>>(), [&json!(5), &json!(0)]);
        let functions = ["gemm_fp8", "row_norm", "row_cross_entropy", "attention"];
        // What was prepared without scratch has none of its own: from its loading to its launch nothing is made but what maps are made with.
        let at = |wanted: &Value| calls.iter().position(|call| call == wanted).unwrap();
        let before = &calls[at(launched[2])..at(launched[3])];
        let made: Vec<&Value> =
            before.iter().filter(|call| call["call"] == "cuMemAlloc_v2").map(|call| &call["bytes"]).collect();
        assert!(made.len() <= 1 && !names(before).contains(&"cuEventCreate"), "{before:?}");
        let scratch = json!(MEMORY + 5 * APART);
        assert!(others[3]["parameters"].as_array().unwrap().contains(&scratch), "{}", others[3]);
        let launched_as = |(launch, name): (&&Value, &str)| launch["function"].as_str().unwrap().starts_with(name);
        assert!(others.iter().zip(functions).all(launched_as), "{others:?}");
        let maps =
            of_weights[0]["parameters"].as_array().unwrap().iter().filter_map(|parameter| parameter["map"].as_u64());
        assert_eq!(maps.collect::<Vec<_>>(), [1, 2, 3].map(|place| MEMORY + place * APART));
        assert_eq!(left(&calls), [0; 4]);
    });
}

/// The tool packs what the library counts, by the compiler that is here.
#[test]
fn the_tool_packs_what_a_document_answers() {
    let folder = tempfile::tempdir().unwrap();
    let tool = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sweep"));
        let output = command.current_dir(folder.path()).arg("bundle").args(arguments).output().unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
        )
    };
    let document = Document::from_bytes(builtin_document("h200").unwrap().as_bytes()).unwrap();
    let counted = answerable(&document, Family::Elementwise, &h200(), false).unwrap().len();
    let elementwise = ["--gpu", "h200", "--family", "elementwise"];
    assert_eq!(tool(&[&elementwise[..], &["--count"]].concat()), (Some(0), format!("{counted}\n")));
    for (wrong, told) in [
        (&["--gpu", "b200", "--count"][..], "no document for b200"),
        (&["--gpu", "h200", "--count", "--shapes", "one.toml"], "is one family's file"),
        (&["--gpu", "h200"], "-o"),
    ] {
        let (status, text) = tool(wrong);
        assert!(status == Some(2) && text.contains(told), "{text}");
    }
    let cached = kernel_sweep::paths::cache_folder().unwrap().join("nvrtc");
    if !cached.exists() && std::env::var_os("SWEEP_NVRTC").is_none() {
        eprintln!("skipped: no NVRTC at hand");
        return;
    }
    fs::write(folder.path().join("one.toml"), "[[problem]]\nnumel = 4096\n").unwrap();
    let (status, text) = tool(&[&elementwise[..], &["--shapes", "one.toml", "-o", "one.bundle", "--json"]].concat());
    assert_eq!(status, Some(0), "{text}");
    let bundle = Bundle::open(&folder.path().join("one.bundle")).unwrap();
    assert_eq!((bundle.gpu(), bundle.arch(), bundle.kernels()), ("h200", "sm_90a", 1));
    let heuristics = Heuristics::builtin("h200").unwrap();
    let kernels = answered(&heuristics, &[problem(Family::Elementwise, &[4096], Dtype::Bf16)], &h200()).unwrap();
    assert!(bundle.cubin(kernels.first().unwrap()).unwrap().starts_with(b"\x7fELF"));
}
