//! Families of a manifest, up to the launch: good ones of every kind, and what is said of those that cannot be.
#![cfg(feature = "harness")]
#![allow(clippy::unwrap_used, clippy::panic)] // a test that cannot go on may stop

mod common;

use common::sweep;
use kernel_sweep::error::ErrorKind;
use kernel_sweep::families::{Arg, Code, KernelSpec, Launch, manifest, spec};
use kernel_sweep::heuristics::{DescribedFamily, Document, Heuristics, Source};
use kernel_sweep::model::{Bytes, Config, Dtype, Family, GpuProfile, Problem};
use kernel_sweep::plan::Plan;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use tempfile::TempDir;

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manifest")
}

fn load(name: &str) -> Family {
    manifest::load(&data().join(name)).unwrap()
}

fn h200() -> GpuProfile {
    GpuProfile::by_name("h200").unwrap()
}

fn config(text: &str) -> Config {
    serde_json::from_str(text).unwrap()
}

fn program(family: Family, config_text: &str, shape: &str) -> Result<(KernelSpec, Launch), String> {
    let problem = Problem::parse(family, shape, family.dtypes()[0]).unwrap();
    spec(family).program(&config(config_text), &problem, &h200()).map_err(|rejection| rejection.0)
}

#[test]
fn every_kind_of_kernel_has_a_plan_whose_configs_run_on_each_problem() {
    for (name, configs) in [
        ("vector_add", 5),
        ("stencil", 32),
        ("convolution", 32),
        ("reduction", 16),
        ("product", 24),
        ("from_cubin", 2),
        ("from_ptx", 6),
    ] {
        let family = load(&format!("{name}.toml"));
        assert_eq!((family.name(), family.ships()), (name, false));
        assert_eq!(name.parse::<Family>().unwrap(), family, "it is known by its name");
        let plan = Plan::load(family, None).unwrap();
        let problems = plan.problems(&h200()).unwrap();
        for planned in problems {
            let candidates = plan.candidates(&planned.problem, &h200());
            assert!(candidates.len() <= configs, "{name}: {}", candidates.len());
            assert!(candidates[0].program.is_ok(), "{name}: the default runs: {:?}", candidates[0].program);
            let task = spec(family).task(&planned.problem);
            assert_eq!(task.wanted.len(), task.outputs.len());
            assert!(task.host.is_none() && spec(family).reference(&planned.problem).unwrap().is_some());
        }
        let error = plan.problems(&GpuProfile::cpu(2, Bytes::mib(1))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.to_string().contains("no kernel for the host"), "{error}");
    }
}

#[test]
fn a_template_has_its_arguments_of_the_config_and_the_type() {
    let family = load("convolution.toml");
    let (kernel, launch) =
        program(family, r#"{"block_sizes":[8,64],"border":"clamp","pixels":2}"#, "height=100,width=300,size=5")
            .unwrap();
    assert_eq!(kernel.entry, "convolution<clamp, 2>");
    let Code::Cuda { file, include, options } = &kernel.code else { panic!("{:?}", kernel.code) };
    assert_eq!(
        (file, &include[..], &options[..]),
        (&data().join("convolution.cu"), &[data().join("include")][..], &["--use_fast_math".to_owned()][..])
    );
    assert_eq!((launch.grid, launch.threads), ([3, 13, 1], [64, 8, 1]));
    let zero = r#"{"block_sizes":[8,64],"border":"zero","pixels":2}"#;
    assert!(program(family, zero, "height=100,width=300,size=5").unwrap_err().contains("the reference clamps"));
    let even = program(family, r#"{"block_sizes":[8,64],"border":"clamp","pixels":2}"#, "height=100,width=300,size=4");
    assert_eq!(even.unwrap_err(), "a filter has a middle: not size % 2 == 1 with size = 4");
    assert!(
        program(family, r#"{"block_sizes":[8,64],"pixels":2}"#, "height=9,width=9,size=3")
            .unwrap_err()
            .contains("border is missing")
    );
    let unknown = r#"{"block_sizes":[8,64],"border":"clamp","pixels":2,"fuse":1}"#;
    assert!(program(family, unknown, "height=9,width=9,size=3").unwrap_err().contains("fuse has no effect"));
}

#[test]
fn scratch_counters_null_and_scalars_come_in_the_order_of_the_arguments() {
    let family = load("reduction.toml");
    let (kernel, launch) = program(family, r#"{"num_warps":4,"programs":2}"#, "n=1000000").unwrap();
    assert_eq!(kernel.macros, [("THREADS".to_owned(), "128".to_owned())]);
    assert_eq!((launch.grid, launch.workspace, launch.counters), ([264, 1, 1], Bytes(16 * 264), 1));
    let wanted =
        [Arg::Input(0), Arg::Output(0), Arg::Output(1), Arg::Workspace, Arg::Counters, Arg::Null, Arg::I64(1_000_000)];
    assert_eq!(launch.args, wanted);
    let task = spec(family).task(&Problem::parse(family, "n=7", Dtype::I32).unwrap());
    let exact = task.wanted.iter().all(|wanted| wanted.tolerance.is_some_and(|allowed| allowed.absolute == 0.0));
    assert!(exact && task.awkward.is_none(), "integers must be equal");
}

#[test]
fn a_tensor_may_be_updated_in_place_and_begin_where_it_says() {
    let family = load("product.toml");
    let (_, launch) = program(family, r#"{"block_sizes":[16,32,16],"unroll":4}"#, "m=100,n=200,k=300").unwrap();
    assert_eq!(launch.args[6], Arg::F32(1.0));
    let tensors = spec(family).tensors(&Problem::parse(family, "m=3,n=40,k=50", Dtype::F32).unwrap());
    assert_eq!(tensors.inputs.iter().map(|tensor| tensor.offset_bytes).collect::<Vec<_>>(), [64, 0]);
    assert_ne!(tensors.outputs[0].fill, kernel_sweep::families::Fill::Nothing, "it is read too");
}

#[test]
fn a_launch_that_says_otherwise_is_another_kernel() {
    let folder = copies(&["vector_add.cu"]);
    let kernel = |text: &str, name: &str| {
        fs::write(folder.path().join(name), text).unwrap();
        let family = manifest::load(&folder.path().join(name)).unwrap();
        program(family, r#"{"block":128}"#, "n=1000").unwrap().0
    };
    let text = fs::read_to_string(data().join("vector_add.toml")).unwrap();
    let same = kernel(&text, "adding.toml");
    assert_eq!(same, kernel(&text.replace("1_000_000", "2_000_000"), "adding.toml"), "other problems change nothing");
    assert_ne!(same, kernel(&text.replace("ceil_div(n, block)", "ceil_div(n, block) + 1"), "adding.toml"));
}

fn copies(names: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in names {
        fs::copy(data().join(name), folder.path().join(name)).unwrap();
    }
    folder
}

/// What is said of a manifest with these changes, and that it is bad input.
fn refused(name: &str, changes: &[(&str, &str)]) -> String {
    /// A name is one family's alone.
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let folder = copies(&[
        "vector_add.cu",
        "stencil.cu",
        "reduction.cu",
        "product.cu",
        "plainly_sm_90.cubin",
        "scaled.cu",
        "scaled_1.ptx",
        "scaled_4.ptx",
    ]);
    let mut text = fs::read_to_string(data().join(name)).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    let path = folder.path().join(format!("broken_{}.toml", COUNT.fetch_add(1, Ordering::Relaxed)));
    fs::write(&path, text).unwrap();
    let ran = manifest::load(&path).and_then(|family| Plan::load(family, None)?.problems(&h200()).map(drop));
    let Err(error) = ran else { panic!("{changes:?} are nothing to refuse") };
    assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
    let message = error.to_string();
    assert!(!message.contains('\n') && message.contains("broken_"), "{message}");
    message
}

#[allow(clippy::too_many_lines)] // a list of cases
#[test]
fn what_cannot_be_is_said_in_one_line_with_its_place() {
    let line = |message: &str| message.contains(".toml:");
    for (name, changes, wanted) in [
        // Names that are not there, with the nearest.
        ("vector_add.toml", &[("ceil_div(n, block)", "ceil_div(n, blok)")][..], &["'blok', perhaps 'block'"][..]),
        ("vector_add.toml", &[("{ i32 = \"n\" }", "{ i32 = \"m\" }")], &["unknown name 'm'"]),
        ("vector_add.toml", &[("shape = [\"n\"]", "shape = [\"rows\"]")], &["unknown name 'rows'"]),
        ("vector_add.toml", &[("block = [64", "blocks = [64")], &["unknown field 'blocks', perhaps 'block'"]),
        (
            "vector_add.toml",
            &[("[\"z\", \"x\", \"y\"", "[\"z\", \"w\", \"y\"")],
            &["argument 'w' is no tensor (x, y, z)"],
        ),
        ("vector_add.toml", &[("threads = [\"block\"]", "treads = [\"block\"]")], &["treads"]),
        ("vector_add.toml", &[("dtypes = [\"f32\", \"i32\"]", "dtypes = [\"f31\"]")], &["'f31'"]),
        ("vector_add.toml", &[("dtype = \"dtype\"", "dtype = \"float\"")], &["dtype 'float'", "bf16"]),
        // Expressions without an end or a value.
        ("stencil.toml", &[("define = [", "define = [\"a = b\", \"b = a\", ")], &["'b' is defined by itself"]),
        ("stencil.toml", &[("define = [", "define = [\"a = a + 1\", ")], &["'a' is defined by itself"]),
        ("vector_add.toml", &[("ceil_div(n, block)", "ceil_div(n, (block")], &["expression", "column"]),
        ("vector_add.toml", &[("ceil_div(n, block)", "n / (block - block)")], &["no config", "division by zero"]),
        ("vector_add.toml", &[("ceil_div(n, block)", "n * 4611686018427387904")], &["more than 64 bits"]),
        // Files.
        ("vector_add.toml", &[("source = \"vector_add.cu\"", "source = \"vector_ad.cu\"")], &["there is no file"]),
        (
            "vector_add.toml",
            &[("source = \"vector_add.cu\"", "source = \"vector_add.cc\"")],
            &["must end in .cu, .ptx or .cubin"],
        ),
        // Grids and blocks that no problem has.
        ("vector_add.toml", &[("ceil_div(n, block)", "n * 0")], &["no config", "grid x = 0"]),
        ("vector_add.toml", &[("ceil_div(n, block)\"]", "1\", \"n * 100\"]")], &["no config", "grid y ="]),
        ("vector_add.toml", &[("threads = [\"block\"]", "threads = [\"block * 64\"]")], &["no config", "threads x ="]),
        ("vector_add.toml", &[("grid = [\"ceil_div(n, block)\"]", "grid = []")], &["grid has 0 axes"]),
        // Tensors beyond memory.
        (
            "vector_add.toml",
            &[("shape = [\"n\"]", "shape = [\"n\", \"n\", \"n\", \"n\"]")],
            &["no config", "more than"],
        ),
        ("vector_add.toml", &[("shape = [\"n\"]", "shape = [\"n - n\"]")], &["no config", "extent of 0"]),
        // A description that says too little.
        ("vector_add.toml", &[("tolerance = { absolute = 0.0 }", "")], &["output 'z' has no tolerance"]),
        ("vector_add.toml", &[("role = \"out\"", "role = \"in\"")], &["tolerance"]),
        ("vector_add.toml", &[("domain = { n =", "domain = { m =")], &["domain of 'm'"]),
        ("reduction.toml", &[("scratch = \"16 * blocks\"", "")], &["'scratch' is an argument"]),
        ("reduction.toml", &[("\"counters\", \"null\"", "\"null\", \"null\"")], &["'counters' is given"]),
        (
            "reduction.toml",
            &[("dims = [\"n\"]", "dims = [\"n\", \"n\"]")],
            &["dimension 'n'", "something else already"],
        ),
        ("product.toml", &[("bounds = [64, 1024] }, n_bin", "bounds = [64, 64] }, n_bin")], &["bin 'm_bin'", "rising"]),
        (
            "product.toml",
            &[("when = \"m <= 64\"", "when = \"rows <= 64\"")],
            &["group 'few_rows'", "unknown name 'rows'"],
        ),
        (
            "product.toml",
            &[("[family]", "[family]\nname = \"matmul\"")],
            &["'matmul' is a class that is known already"],
        ),
        ("product.toml", &[("[family]", "[family]\nname = \"a product\"")], &["'a product' is no name"]),
        ("product.toml", &[("fill = \"whole(-9, 9)\"", "fill = \"whole(9, -9)\"")], &["no config", "holds nothing"]),
        ("product.toml", &[("fill = \"whole(-9, 9)\"", "fill = \"normal(1)\"")], &["fill 'normal(1)' is none of"]),
        ("product.toml", &[("alignment = 64", "alignment = 3")], &["no config", "alignment 3"]),
        // Cubins.
        (
            "from_cubin.toml",
            &[(
                "entry = \"plainly\"\ngrid = [1]\nthreads = [1]\nargs = [\"values\", \"sum\", \"largest\", { i64 = \"n\" }]\n\n[space",
                "entry = \"summing\"\ngrid = [1]\nthreads = [1]\nargs = [\"values\", \"sum\", \"largest\", { i64 = \"n\" }]\n\n[space",
            )],
            &["no entry 'summing'; it has plainly"],
        ),
        (
            "from_cubin.toml",
            &[("{ i64 = \"n\" }]\n\n[space", "{ i32 = \"n\" }]\n\n[space")],
            &["do not fit", "number 4"],
        ),
        (
            "from_cubin.toml",
            &[("\"largest\", { i64 = \"n\" }]\n\n[space", "\"largest\"]\n\n[space")],
            &["3 arguments", "4 parameters"],
        ),
        (
            "from_cubin.toml",
            &[("plainly_sm_{arch}.cubin", "plainly_sm_9{arch}.cubin")],
            &["no config", "there is no file"],
        ),
        // PTX.
        (
            "from_ptx.toml",
            &[("entry = \"scaled\"\ngrid = [\"ceil_div(n, 32 *", "entry = \"scale\"\ngrid = [\"ceil_div(n, 32 *")],
            &["no entry 'scale'; it has scaled"],
        ),
        (
            "from_ptx.toml",
            &[("{ f32 = 3.0 }, { i64 = \"n\" }", "{ f64 = 3.0 }, { i64 = \"n\" }")],
            &["do not fit", "number 3"],
        ),
        // References that run on no problem.
        ("vector_add.toml", &[("ceil_div(n, 256)", "n * 0")], &["no config", "the reference cannot run", "grid x = 0"]),
        ("vector_add.toml", &[("ceil_div(n, 256)", "n / (n - n)")], &["no config", "division by zero"]),
        (
            "vector_add.toml",
            &[("[reference]\nsource = \"vector_add.cu\"", "[reference]\nsource = \"vector_{dtype}.cu\"")],
            &["no config", "the reference cannot run", "there is no file"],
        ),
        // Where there is no config.
        ("vector_add.toml", &[("ceil_div(n, 256)", "ceil_div(n, block)")], &["'ceil_div(n, block)'", "no knob"]),
        (
            "vector_add.toml",
            &[("threads = [256]", "threads = [256]\nmacros = [\"B = block\"]")],
            &["'block' is a knob"],
        ),
        ("vector_add.toml", &[("threads = [256]", "threads = [256]\nsmem = \"smem_per_block\"")], &["GPU's figure"]),
        ("vector_add.toml", &[("shape = [\"n\"]", "shape = [\"n * block\"]")], &["no knob"]),
        ("vector_add.toml", &[("flops = \"n\"", "flops = \"n * block\"")], &["no knob"]),
        ("vector_add.toml", &[("whole(-1000, 1000)", "whole(-1000, block)")], &["no knob"]),
        // Launch knobs that are none.
        (
            "vector_add.toml",
            &[("knobs = [\"block\"]", "knobs = [\"block\"]\nlaunch_knobs = [\"blok\"]")],
            &["no such knob", "block"],
        ),
        (
            "vector_add.toml",
            &[
                ("knobs = [\"block\"]", "knobs = [\"block\"]\nlaunch_knobs = [\"block\"]"),
                ("threads = [\"block\"]", "threads = [\"block\"]\nmacros = [\"B = 2 * block\"]"),
            ],
            &["'block'", "no launch knob"],
        ),
        (
            "vector_add.toml",
            &[
                ("knobs = [\"block\"]", "knobs = [\"block\"]\nlaunch_knobs = [\"block\"]"),
                ("[[kernel]]", "[[kernel]]\nwhen = \"block < 2000\""),
            ],
            &["'block'", "no launch knob"],
        ),
        (
            "from_ptx.toml",
            &[("launch_knobs = [", "launch_knobs = [\"per_thread\", ")],
            &["'per_thread'", "no launch knob"],
        ),
        // Files of tensors.
        (
            "vector_add.toml",
            &[("fill = \"whole(-1000, 1000)\"", "file = \"x_{n}.bin\"")],
            &["no config", "it is not there"],
        ),
        (
            "vector_add.toml",
            &[("fill = \"whole(-1000, 1000)\"", "file = \"scaled.cu\"")],
            &["no config", "bytes, the tensor"],
        ),
        (
            "vector_add.toml",
            &[("role = \"out\"", "role = \"out\"\nreference = \"z.bin\"")],
            &["no config", "z.bin: it is not there"],
        ),
        (
            "vector_add.toml",
            &[("role = \"out\"", "role = \"out\"\nreference = \"z_{n / (n - n)}.bin\"")],
            &["no config", "division by zero"],
        ),
        (
            "vector_add.toml",
            &[("role = \"out\"", "role = \"out\"\nreference = \"z_{block}.bin\"")],
            &["'block' is a knob"],
        ),
        // Beyond what the GPU has.
        (
            "vector_add.toml",
            &[("threads = [\"block\"]", "threads = [\"block\"]\nsmem = 300_000")],
            &["no config", "of shared memory"],
        ),
        (
            "reduction.toml",
            &[("scratch = \"16 * blocks\"", "scratch = \"n * n * n\"")],
            &["no config", "of scratch are more"],
        ),
        // Values of another type.
        ("vector_add.toml", &[("threads = [\"block\"]", "threads = [1.5]")], &["a whole number or an expression"]),
        ("vector_add.toml", &[("threads = [\"block\"]", "threads = [true]")], &["a whole number or an expression"]),
        ("vector_add.toml", &[("{ i32 = \"n\" }", "{ u32 = \"n\" }")], &["i32, i64, f32 or f64"]),
        (
            "vector_add.toml",
            &[("axes = { block = [64, 128, 256, 512, 1024] }", "axes = { block = [64.5] }")],
            &["a whole number, true"],
        ),
        (
            "vector_add.toml",
            &[("threads = [\"block\"]", "cluster = true\nthreads = [\"block\"]")],
            &["a list of up to three"],
        ),
        // Names that are something else's.
        (
            "vector_add.toml",
            &[("dims = [\"n\"]", "dims = [\"n\", \"num_warps\"]")],
            &["dimension 'num_warps'", "something else"],
        ),
        ("vector_add.toml", &[("dims = [\"n\"]", "dims = [\"n\", \"element_bytes\"]")], &["dimension 'element_bytes'"]),
        ("vector_add.toml", &[("dims = [\"n\"]", "dims = [\"n\", \"dtype\"]")], &["dimension 'dtype'"]),
        ("vector_add.toml", &[("dims = [\"n\"]", "dims = [\"n\", \"block\"]")], &["knob 'block'"]),
        ("vector_add.toml", &[("name = \"y\"", "name = \"null\"")], &["tensor 'null'"]),
        (
            "vector_add.toml",
            &[("knobs = [\"block\"]", "knobs = [\"block\"]\ndefine = [\"min = 3\"]")],
            &["definition 'min'"],
        ),
        ("vector_add.toml", &[("knobs = [\"block\"]", "knobs = [\"block\", \"max\"]")], &["knob 'max'"]),
        (
            "vector_add.toml",
            &[("threads = [\"block\"]", "threads = [\"block\"]\nmacros = [\"FO O = 3\"]")],
            &["no name of a macro"],
        ),
        // Entries of a list that is not that long.
        (
            "vector_add.toml",
            &[("ceil_div(n, block)", "ceil_div(n, block_sizes[3])")],
            &["block_sizes[2], l2_groupings[0]"],
        ),
        // Clusters.
        (
            "vector_add.toml",
            &[("threads = [\"block\"]", "cluster = []\nthreads = [\"block\"]")],
            &["cluster has 0 axes"],
        ),
        (
            "vector_add.toml",
            &[("threads = [\"block\"]", "cluster = [1, 2]\nthreads = [\"block\"]")],
            &["no config", "cluster y = 2 does not divide"],
        ),
        (
            "vector_add.toml",
            &[("threads = [\"block\"]", "cluster = 0\nthreads = [\"block\"]")],
            &["no config", "cluster x = 0"],
        ),
        (
            "vector_add.toml",
            &[("threads = [\"block\"]", "cluster = \"clutser\"\nthreads = [\"block\"]")],
            &["unknown name 'clutser'"],
        ),
    ] {
        let message = refused(name, changes);
        for part in wanted {
            assert!(message.contains(part), "{changes:?}: {message}");
        }
        assert!(line(&message) || message.contains("no config"), "{message}");
    }
}

/// The text of vector_add.toml with these changes, read under a name of its own from a folder with its kernel.
fn changed(name: &str, changes: &[(&str, &str)]) -> (TempDir, PathBuf) {
    let folder = copies(&["vector_add.cu"]);
    let mut text = fs::read_to_string(data().join("vector_add.toml")).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    let path = folder.path().join(format!("{name}.toml"));
    fs::write(&path, text).unwrap();
    (folder, path)
}

#[test]
fn a_problem_that_the_reference_cannot_run_is_left_out_with_the_reason() {
    let (_folder, path) = changed("unreferenced", &[("ceil_div(n, 256)", "n / 4098")]);
    let family = manifest::load(&path).unwrap();
    let plan = Plan::load(family, None).unwrap();
    let problems = plan.problems(&h200()).unwrap();
    let refused = |place: usize| {
        let candidates = plan.candidates(&problems[place].problem, &h200());
        candidates.into_iter().filter_map(|candidate| candidate.program.err()).map(|why| why.0).collect::<Vec<_>>()
    };
    assert!(refused(0).is_empty());
    assert_eq!(refused(1).len(), 5);
    assert!(refused(1).iter().all(|why| why.starts_with("the reference cannot run: grid x = 0")), "{:?}", refused(1));
}

#[test]
fn integers_need_no_tolerance_and_a_header_may_have_a_comment() {
    let changes = [
        ("[\"f32\", \"i32\"]", "[\"i32\"]"),
        ("tolerance = { absolute = 0.0 }\n", ""),
        ("[family]", "[ family ] # mine"),
    ];
    let (folder, path) = changed("commented", &changes);
    let family = manifest::load(&path).unwrap();
    assert!(Plan::load(family, None).unwrap().problems(&h200()).is_ok());
    fs::create_dir(folder.path().join("sweeps")).unwrap();
    for name in ["commented.toml", "vector_add.cu"] {
        fs::rename(folder.path().join(name), folder.path().join("sweeps").join(name)).unwrap();
    }
    let asked = sweep(folder.path()).args(["--gpu", "cpu", "--family", "commented"]).assert().code(2);
    let told = String::from_utf8_lossy(&asked.get_output().stderr).into_owned();
    assert!(told.contains("commented has no kernel for the host"), "it is found by its name: {told}");
}

#[test]
fn definitions_stand_in_bins_groups_and_exclusions_too() {
    let more = "define = [\"pairs = n / 2\"]\n[family.bins]\npairs_bin = { of = \"pairs\", bounds = [100] }\n\
                [[family.groups]]\nname = \"few\"\nwhen = \"pairs < 100\"\n[[family.groups]]\nname = \"many\"\n[family.domain]\nn =";
    let changes = [("domain = { n =", more), ("multiple = 4 } }", "multiple = 4 }")];
    let excluded = "1024] }\n[[space.gpu.exclude]]\nwhen = \"pairs < 4 * block\"\nreason = \"too few\"";
    let (_folder, path) = changed("defining", &[changes[0], changes[1], ("1024] }", excluded)]);
    let family = manifest::load(&path).unwrap();
    let described = DescribedFamily::of(family);
    assert_eq!(
        (described.bins["pairs_bin"].of.as_str(), described.groups[0].when.as_deref()),
        ("(n / 2)", Some("(n / 2) < 100"))
    );
    let plan = Plan::load(family, None).unwrap();
    let problem = Problem::parse(family, "n=4097", Dtype::F32).unwrap();
    assert_eq!(plan.legal_configs(&problem, &h200()).len(), 4, "1024 is too much for 2048 pairs; 512 is not");
}

#[test]
fn two_manifests_of_one_name_are_refused() {
    let (_one, first) = changed("twin", &[]);
    let (_other, second) = changed("twin", &[("1_000_000", "2_000_000")]);
    let family = manifest::load(&first).unwrap();
    let error = manifest::load(&second).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    let told = error.to_string();
    assert!(told.contains("'twin' is the family of") && told.contains(&first.display().to_string()), "{told}");
    assert_eq!(manifest::load(&first).unwrap(), family, "the same one may be read again");
    let both = format!("{},{}", first.display(), second.display());
    let asked = sweep(first.parent().unwrap()).args(["compile", "--gpu", "h200", "--family", &both]).assert().code(2);
    assert!(String::from_utf8_lossy(&asked.get_output().stderr).contains("'twin' is the family of"));
}

/// What only a compiler tells: the kernel has no such entry, takes other arguments, or cannot be compiled so at all.
#[test]
fn what_fails_for_every_kernel_is_one_line_of_bad_input() {
    let kernel = "[[kernel]]\nsource = \"vector_add.cu\"\nentry = \"vector_add<{c_type}>\"";
    let reference = "[reference]\nsource = \"vector_add.cu\"\nentry = \"vector_add<{c_type}>\"";
    for (place, (from, to, wanted)) in [
        (kernel, kernel.replace("vector_add<{c_type}>", "vector_ad"), "no entry 'vector_ad'; it has "),
        (kernel, kernel.replace("vector_add<{c_type}>", "vector_ad<{c_type}>"), "vector_ad"),
        (reference, reference.replace("vector_add<{c_type}>", "vector_ad"), "no entry 'vector_ad'; it has "),
        (reference, reference.replace("vector_add<{c_type}>", "vector_ad<{c_type}>"), "vector_ad"),
        ("threads = [\"block\"]\nargs = [\"z\", ", "threads = [\"block\"]\nargs = [".to_owned(), "do not fit"),
        ("threads = [\"block\"]\n", "threads = [\"block\"]\noptions = [\"--nonsense\"]\n".to_owned(), "nonsense"),
    ]
    .into_iter()
    .enumerate()
    {
        let (folder, path) = changed(&format!("failing_{place}"), &[(from, &to)]);
        let asked = ["compile", "--gpu", "h200", "--family"];
        let output = sweep(folder.path()).args(asked).arg(&path).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        if told.contains("no NVRTC here") {
            eprintln!("skipped: no NVRTC at hand");
            return;
        }
        assert_eq!(output.status.code(), Some(2), "{to}: {told}");
        let lines: Vec<&str> = told.lines().filter(|line| line.starts_with("error")).collect();
        assert!(lines.len() == 1 && lines[0].contains(wanted), "{to}: {told}");
    }
}

#[test]
fn a_cubin_for_another_architecture_is_refused_with_both() {
    let family = load("from_cubin.toml");
    let problem = Problem::parse(family, "n=10", Dtype::I32).unwrap();
    let a100 = GpuProfile::by_name("a100").unwrap();
    let refused = spec(family).program(&config(r#"{"arch":90}"#), &problem, &a100).unwrap_err().0;
    assert!(refused.contains("is for sm_90, not for sm_80"), "{refused}");
    assert!(spec(family).program(&config(r#"{"arch":90}"#), &problem, &h200()).is_ok());
}

#[test]
fn ptx_is_for_every_later_gpu_and_launched_as_its_entry_asks() {
    let family = load("from_ptx.toml");
    let (kernel, launch) = program(family, r#"{"per_thread":4,"num_warps":8}"#, "n=1000").unwrap();
    assert_eq!(kernel.code, Code::Ptx(data().join("scaled_4.ptx")));
    assert_eq!((launch.grid, launch.threads, launch.args.len()), ([1, 1, 1], [256, 1, 1], 4));
    let problem = Problem::parse(family, "n=10", Dtype::F32).unwrap();
    let on = |gpu| {
        let profile = GpuProfile::by_name(gpu).unwrap();
        spec(family).program(&config(r#"{"per_thread":1,"num_warps":1}"#), &problem, &profile)
    };
    assert!(on("a100").is_ok() && on("h200").is_ok() && on("b200").is_ok());
    let half = |warps| spec(family).compiled_half(&config(&format!(r#"{{"per_thread":1,"num_warps":{warps}}}"#)));
    assert_eq!(half(1), half(8), "a declared launch knob needs no other kernel");
}

#[test]
fn a_cluster_may_lie_along_every_axis_where_the_gpu_has_any() {
    let folder = copies(&["vector_add.cu"]);
    let text = fs::read_to_string(data().join("vector_add.toml")).unwrap();
    let path = folder.path().join("clustered.toml");
    let launch = "cluster = [\"block / 64\", 2, 1]\ngrid = [\"8 * block\", 2]\nthreads = [\"block\"]";
    fs::write(&path, text.replace("grid = [\"ceil_div(n, block)\"]\nthreads = [\"block\"]", launch)).unwrap();
    let family = manifest::load(&path).unwrap();
    let (_, launched) = program(family, r#"{"block":128}"#, "n=1000").unwrap();
    assert_eq!((launched.grid, launched.cluster, launched.cluster_blocks()), ([1024, 2, 1], [2, 2, 1], 4));
    let problem = Problem::parse(family, "n=1000", Dtype::F32).unwrap();
    let a100 = GpuProfile::by_name("a100").unwrap();
    let refused = spec(family).program(&config(r#"{"block":128}"#), &problem, &a100).unwrap_err().0;
    assert!(refused.contains("a cluster of 4 blocks: sm_80 has no thread block clusters"), "{refused}");
}

/// Rules of classes whose families are manifests alone are found by the arguments of a kernel, as design has it.
#[test]
fn the_rows_families_are_asked_by_arguments_too() {
    let entry = |class: &str| {
        let config = json!({"block_sizes": [1], "num_warps": 8, "note": class});
        json!({"square": {"template": config, "source": {}, "validation": {}}})
    };
    let classes = ["row_norm_rms", "row_norm_layer", "row_cross_entropy", "row_softmax"];
    let fallbacks: serde_json::Map<String, serde_json::Value> =
        classes.iter().map(|class| ((*class).to_owned(), entry(class))).collect();
    let document = json!({"schema_version": 2, "policy": {}, "rules": [], "fallbacks": fallbacks});
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("document.json"), document.to_string()).unwrap();
    let tensor = |shape: &[i64], dtype: &str| json!({"shape": shape, "dtype": format!("torch.{dtype}")});
    let (x, w) = (tensor(&[4096, 4096], "float16"), tensor(&[4096], "float16"));
    let queries: Vec<String> = [
        (json!([x, w]), json!([])),
        (json!([x, w, w]), json!([])),
        (json!([x, tensor(&[4096], "int64")]), json!([])),
        (json!([x, tensor(&[4096], "int32")]), json!([])),
        (json!([x]), json!(["softmax"])),
    ]
    .into_iter()
    .map(|(args, traits)| {
        json!({"args": args, "traits": traits, "block_rank": 1, "has_reduction": true, "has_split_k": false, "kernel_source": null})
            .to_string()
    })
    .collect();
    fs::write(folder.path().join("queries.jsonl"), queries.join("\n")).unwrap();
    let asked = ["lookup", "--heuristics", "document.json", "--batch", "queries.jsonl", "--check"];
    let output = sweep(folder.path()).args(asked).assert().success();
    let answers = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
    let classes = ["row_norm_rms", "row_norm_layer", "row_cross_entropy", "row_cross_entropy", "row_softmax"];
    assert_eq!(answers.lines().count(), classes.len());
    for (line, class) in answers.lines().zip(classes) {
        let answer: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!((&answer["kernel_class"], &answer["group"]), (&json!(class), &json!("square")), "{answer}");
        assert_eq!(answer["shape_bucket"]["rows_bin"], "<=4096", "{answer}");
        assert_eq!(answer["templates"][0]["note"], class, "{answer}");
    }
}

#[test]
fn what_cannot_be_on_some_problems_is_left_out_there_with_the_reason() {
    let folder = copies(&["vector_add.cu"]);
    let text = fs::read_to_string(data().join("vector_add.toml")).unwrap();
    let path = folder.path().join("some.toml");
    fs::write(&path, text.replace("ceil_div(n, block)\"]", "n / block - 8\"]")).unwrap();
    let family = manifest::load(&path).unwrap();
    let plan = Plan::load(family, None).unwrap();
    let problems = plan.problems(&h200()).unwrap();
    let reasons = |place: usize| -> Vec<String> {
        let candidates = plan.candidates(&problems[place].problem, &h200());
        candidates.into_iter().filter_map(|candidate| candidate.program.err()).map(|rejection| rejection.0).collect()
    };
    assert!(reasons(0).is_empty());
    assert!(reasons(1).iter().any(|reason| reason == "grid x = 0: it must be 1 to 2147483647"), "{:?}", reasons(1));
}

/// A document of a family that nothing else is known of, beside one of ours.
fn document() -> Document {
    let described = json!({
        "dims": ["tokens", "dim"], "dtypes": ["bf16", "f32"],
        "bins": { "tokens_bin": { "of": "tokens", "bounds": [16, 256] }, "area_bin": { "of": "tokens * dim", "bounds": [4096] } },
        "groups": [{ "name": "few", "when": "tokens <= 16" }, { "name": "many" }],
    });
    let template = |knob: u32| json!({ "unroll": knob, "fuse": true });
    serde_json::from_value(json!({
        "schema_version": 2,
        "policy": { "families": { "served_rope": described } },
        "rules": [{
            "kernel_class": "served_rope", "match_exact_only": true,
            "shape_bucket": { "dtype": "fp16_bf16", "tokens_bin": "<=256", "area_bin": ">4096" },
            "templates": [{ "template": template(8) }],
        }],
        "fallbacks": {
            "served_rope": { "few": { "template": template(1) }, "many": { "template": template(2) } },
            "elementwise": { "tiny": { "template": { "num_warps": 4 } } },
        },
    }))
    .unwrap()
}

#[test]
fn a_family_that_only_a_document_knows_is_asked_by_name_and_dimensions() {
    let text = serde_json::to_string(&document()).unwrap();
    for heuristics in [Heuristics::new(document()), Heuristics::from_bytes(text.as_bytes()).unwrap()] {
        let ask = |tokens: i64, dim: i64| {
            let query = heuristics.query("served_rope", &[("dim", dim), ("tokens", tokens)], Dtype::Bf16).unwrap();
            let answer = heuristics.lookup(&query);
            (answer.source, answer.best().map(|config| config["unroll"].clone()), query.bucket(), query.group())
        };
        let (source, unroll, bucket, group) = ask(200, 128);
        assert_eq!((source, unroll, group), (Source::Rule(0), Some(json!(8)), Some("many")));
        assert_eq!(json!(bucket), json!({ "area_bin": ">4096", "dtype": "fp16_bf16", "tokens_bin": "<=256" }));
        assert_eq!(ask(200, 8).0, Source::Fallback("many"));
        assert_eq!((ask(16, 128).0, ask(16, 128).1), (Source::Fallback("few"), Some(json!(1))));
        let elements = heuristics.query("elementwise", &[("numel", 100)], Dtype::Bf16).unwrap();
        assert_eq!(heuristics.lookup(&elements).source, Source::Fallback("tiny"), "ours stands beside it");
        let refused = |dimensions: &[(&str, i64)], dtype: Dtype| {
            heuristics.query("served_rope", dimensions, dtype).unwrap_err().to_string()
        };
        assert!(refused(&[("tokens", 1)], Dtype::Bf16).contains("needs dimension 'dim' (tokens, dim)"));
        assert!(refused(&[("tokens", 1), ("dim", 0)], Dtype::Bf16).contains("must be positive"));
        assert!(refused(&[("tokens", 1), ("rows", 2)], Dtype::Bf16).contains("no dimension 'rows'"));
        assert!(refused(&[("tokens", 1), ("dim", 2)], Dtype::I32).contains("does not run i32"));
        let unknown = heuristics.query("rope", &[], Dtype::Bf16).unwrap_err().to_string();
        assert!(unknown.contains("served_rope"), "{unknown}");
    }
    assert!("served_rope".parse::<Family>().is_err(), "a document makes no family known");
}

#[test]
fn a_description_that_says_something_impossible_makes_a_class_without_bins() {
    for (from, to) in [("\"tokens * dim\"", "\"rows\""), ("[16,256]", "[256,16]"), ("\"bf16\",\"f32\"", "\"b16\"")] {
        let text = serde_json::to_string(&document()).unwrap();
        assert!(text.contains(from), "{text}");
        let heuristics = Heuristics::from_bytes(text.replace(from, to).as_bytes()).unwrap();
        assert!(heuristics.query("served_rope", &[("tokens", 1), ("dim", 1)], Dtype::Bf16).is_err());
    }
    let described =
        DescribedFamily { dims: vec!["n".into()], dtypes: vec!["f32".into()], ..DescribedFamily::default() };
    assert!(described.family("row_own").unwrap_err().to_string().contains("known already"));
    assert_eq!(described.family("twice").unwrap(), described.family("twice").unwrap(), "the same each time");
}

#[test]
fn what_new_writes_is_a_family_that_works_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    sweep(folder.path()).args(["new", "own/rope"]).assert().success();
    let family = manifest::load(&folder.path().join("own/rope.toml")).unwrap();
    assert_eq!(family.name(), "rope");
    let plan = Plan::load(family, None).unwrap();
    let problems = plan.problems(&h200()).unwrap();
    assert_eq!(problems.len(), 15);
    for planned in problems {
        assert!(!plan.legal_configs(&planned.problem, &h200()).is_empty(), "{}", planned.problem);
    }
    let again = sweep(folder.path()).args(["new", "own/rope"]).assert().code(2);
    assert!(String::from_utf8_lossy(&again.get_output().stderr).contains("is there already"));
    let taken = sweep(folder.path()).args(["new", "matmul.toml"]).assert().code(2);
    assert!(String::from_utf8_lossy(&taken.get_output().stderr).contains("known already"));
    let on_cpu = sweep(folder.path()).args(["--gpu", "cpu", "--family", "own/rope.toml"]).assert().code(2);
    let said = String::from_utf8_lossy(&on_cpu.get_output().stderr).into_owned();
    assert!(said.contains("rope has no kernel for the host"), "{said}");
    fs::write(folder.path().join("own/rope.toml"), "[family]\ndims = 3\n").unwrap();
    let broken = sweep(folder.path()).args(["compile", "--gpu", "h200", "--family", "own/rope.toml"]).assert().code(2);
    assert!(String::from_utf8_lossy(&broken.get_output().stderr).contains("rope.toml:2"));
}

/// The schema as it is made, which the committed file is.
fn schema() -> jsonschema::Validator {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("sweeps/manifest.schema.json");
    let made = format!("{:#}\n", serde_json::to_value(manifest::schema()).unwrap());
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        fs::write(&path, &made).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap_or_default(), made, "set UPDATE_SCHEMA to write it anew");
    jsonschema::validator_for(&serde_json::from_str(&made).unwrap()).unwrap()
}

fn toml_files(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|ending| ending == "toml")).collect()
}

fn complaints(schema: &jsonschema::Validator, value: &serde_json::Value) -> Vec<String> {
    schema.iter_errors(value).map(|error| format!("{error} at {}", error.instance_path)).collect()
}

#[test]
fn every_manifest_there_is_is_one_by_the_schema() {
    let schema = schema();
    let folder = tempfile::tempdir().unwrap();
    sweep(folder.path()).args(["new", "own/rope"]).assert().success();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let all =
        [data(), root.join("sweeps"), folder.path().join("own")].into_iter().flat_map(|folder| toml_files(&folder));
    let mut manifests = 0;
    for path in all {
        let value: serde_json::Value = toml::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        // Families in code have a plan alone.
        if value.get("family").is_some() {
            assert_eq!(complaints(&schema, &value), [""; 0], "{}", path.display());
            manifests += 1;
        }
    }
    assert!(manifests >= 13, "{manifests}");
}

/// What the schema refuses is refused by the tool as well: an editor complains of nothing that would work.
#[allow(clippy::too_many_lines)] // a list of cases
#[test]
fn the_schema_refuses_what_is_no_manifest() {
    let schema = schema();
    let text = fs::read_to_string(data().join("product.toml")).unwrap();
    let good: serde_json::Value = toml::from_str(&text).unwrap();
    assert_eq!(complaints(&schema, &good), [""; 0]);
    let cases = [
        // Keys that there are not.
        ("/families", json!({})),
        ("/family/dimensions", json!(["n"])),
        ("/family/bins/m_bin/bound", json!([1])),
        ("/family/groups/0/wen", json!("m < 3")),
        ("/family/domain/m/mots", json!(3)),
        ("/tensor/0/alignement", json!(16)),
        ("/tensor/2/tolerance", json!({"relativ": 0.1})),
        ("/reference/tread", json!([1])),
        ("/kernel/0/thread", json!([1])),
        ("/kernel/0/require", json!([{"hold": "m > 1", "reason": "it must"}])),
        ("/random", json!({"problems": 3, "seed": 1, "count": 2})),
        ("/space/gpu/axis", json!({})),
        ("/space/gpu/exclude", json!([{"when": "unroll > 1", "reason": "so", "why": "so"}])),
        ("/space/h300", json!({"default": {}, "axes": {}})),
        ("/family/c_types", json!({"bf32": "float"})),
        // Values of another type or form.
        ("/family", json!("product")),
        ("/family/dims", json!("m")),
        ("/family/dims", json!([])),
        ("/family/dims", json!(["m", "n", "k", "m"])),
        ("/family/dims", json!(["m", "n", "k 1"])),
        ("/family/dtypes", json!(["f31"])),
        ("/family/dtypes", json!([])),
        ("/family/flops", json!(1.5)),
        ("/family/flops", json!(["m"])),
        ("/family/define", json!(["m + n"])),
        ("/family/domain/m/least", json!(0)),
        ("/family/domain/m/most", json!("many")),
        ("/tensor/0/role", json!("input")),
        ("/tensor/0/dtype", json!("float")),
        ("/tensor/0/shape", json!("m")),
        ("/tensor/0/shape", json!([1.5])),
        ("/tensor/0/fill", json!("normal(1)")),
        ("/tensor/0/fill", json!("uniform")),
        ("/tensor/0/tolerance", json!({"relative": 0.1})),
        ("/tensor", json!([])),
        ("/reference/source", json!("product.cc")),
        ("/kernel", json!([])),
        ("/kernel", json!({})),
        ("/kernel/0/source", json!("product.cc")),
        ("/kernel/0/entry", json!(3)),
        ("/kernel/0/grid", json!([])),
        ("/kernel/0/grid", json!([1, 1, 1, 1])),
        ("/kernel/0/grid", json!(1)),
        ("/kernel/0/threads", json!([true])),
        ("/kernel/0/cluster", json!(true)),
        ("/kernel/0/cluster", json!([])),
        ("/kernel/0/smem", json!(0.5)),
        ("/kernel/0/macros", json!(["1ST = 3"])),
        ("/kernel/0/macros", json!(["M"])),
        ("/kernel/0/options", json!("-O3")),
        ("/kernel/0/args/0", json!(3)),
        ("/kernel/0/args/0", json!({"u32": "n"})),
        ("/kernel/0/args/0", json!({"i32": 1.5})),
        ("/kernel/0/args/0", json!({"i32": 1, "i64": 1})),
        ("/problem", json!([{"m": 1.5, "n": 1, "k": 1}])),
        ("/problem", json!([{"m": 0, "n": 1, "k": 1}])),
        ("/problem", json!([{"m": "1", "n": 1, "k": 1}])),
        ("/problem", json!([{"m": 1, "n": 1, "k": 1, "dtype": 32}])),
        ("/problem", json!([{"m": 1, "n": 1, "k": 1, "dtype": "f31"}])),
        ("/problem", json!([{"m": 1, "n": 1, "k": 1, "from": 7}])),
        ("/random", json!({"problems": -3, "seed": 1})),
        ("/random", json!({"problems": 3, "seed": "one"})),
        ("/space/gpu/default/unroll", json!(1.5)),
        ("/space/gpu/default/num_warps", json!("four")),
        ("/space/gpu/default/block_sizes", json!(64)),
        ("/space/gpu/axes/unroll", json!(4)),
        ("/space/gpu/axes/unroll", json!([])),
        ("/space/gpu/axes/unroll", json!([2.5])),
        ("/space/gpu/axes/block_sizes", json!([16, 32, 16])),
        ("/space/gpu/axes/pid_type", json!(["flatly"])),
        ("/space/gpu/exclude", json!([{"when": 3, "reason": "so"}])),
        ("/space/gpu/exclude", json!([{"when": {"unroll": 3}, "reason": "so"}])),
        ("/space/gpu/superseded_by", json!("tcgen06")),
    ];
    let changes = cases.map(|(place, wrong)| (place, Some(wrong)));
    // Keys that are needed.
    let needed = [
        "/family",
        "/family/dims",
        "/family/dtypes",
        "/family/flops",
        "/family/domain",
        "/family/domain/m/least",
        "/family/groups/0/name",
        "/tensor",
        "/tensor/0/name",
        "/tensor/0/role",
        "/tensor/0/dtype",
        "/tensor/0/shape",
        "/reference",
        "/reference/source",
        "/reference/entry",
        "/reference/grid",
        "/reference/threads",
        "/reference/args",
        "/kernel",
        "/kernel/0/source",
        "/kernel/0/entry",
        "/kernel/0/grid",
        "/kernel/0/threads",
        "/kernel/0/args",
        "/space",
        "/space/gpu/default",
        "/space/gpu/axes",
    ]
    .map(|place| (place, None));
    let mut none_to_measure = good.clone();
    for problems in ["problem", "random"] {
        assert!(schema.is_valid(&none_to_measure), "the other is enough");
        none_to_measure.as_object_mut().unwrap().remove(problems);
    }
    assert!(!schema.is_valid(&none_to_measure));
    let folder = copies(&["product.cu"]);
    for (number, (place, wrong)) in changes.into_iter().chain(needed).enumerate() {
        let mut bad = good.clone();
        let (above, name) = place.rsplit_once('/').unwrap();
        let said = format!("{place} = {wrong:?}");
        match (bad.pointer_mut(above).unwrap_or_else(|| panic!("{place}")), wrong) {
            (serde_json::Value::Object(fields), Some(wrong)) => drop(fields.insert(name.to_owned(), wrong)),
            (serde_json::Value::Object(fields), None) => assert!(fields.remove(name).is_some(), "{said}"),
            (list, wrong) => list[name.parse::<usize>().unwrap()] = wrong.unwrap(),
        }
        assert!(!schema.is_valid(&bad), "{said} is nothing to the schema");
        let path = folder.path().join(format!("by_schema_{number}.toml"));
        fs::write(&path, toml::to_string(&bad).unwrap()).unwrap();
        let read = manifest::load(&path).and_then(|family| Plan::load(family, None)?.problems(&h200()).map(drop));
        assert!(read.is_err(), "{said} is refused by the schema alone");
    }
}
