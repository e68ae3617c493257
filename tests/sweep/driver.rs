//! What is done about a driver's faults, with a stand-in for it: `tests/standin/libcuda.c`.

#![cfg(target_os = "linux")]

use crate::common::{self, sweep, trials, wait_for};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use tempfile::TempDir;

/// A folder with a plan and the stand-in, which the loader finds before any driver. Its GPUs are its own: others may be locked.
struct Place(TempDir, u32);

/// GPUs that were given away.
static GPUS: AtomicU32 = AtomicU32::new(0);
/// GPUs of a folder.
const OWN: u32 = 10;

fn own_gpu() -> u32 {
    std::process::id() % 100_000 * 1000 + GPUS.fetch_add(OWN, Ordering::Relaxed)
}

impl Place {
    /// None where no C compiler is.
    fn with(flags: &[&str]) -> Option<Self> {
        let place = Self(common::folder_with_plan(), own_gpu());
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/standin/libcuda.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(place.path().join("libcuda.so")).arg(source).args(flags);
        let Ok(status) = compiler.status() else {
            eprintln!("skipped: no cc here to build the stand-in driver with");
            return None;
        };
        assert!(status.success(), "the stand-in does not compile");
        Some(place)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn tool(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Command {
        let mut command = Command::new(sweep(self.path()).get_program());
        command.current_dir(self.path()).args(arguments).env("LD_LIBRARY_PATH", self.path());
        command.env("STANDIN_UUID", self.1.to_string());
        command.envs(environment.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
        self.tool(arguments, environment).output().unwrap()
    }
}

fn stderr(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!text.contains("panicked"), "{text}");
    text
}

const H200: [&str; 4] = ["--gpu", "h200", "--family", "elementwise"];

#[test]
fn a_driver_that_does_not_start_is_named_with_its_error() {
    let Some(place) = Place::with(&[]) else { return };
    for (code, name) in [
        ("803", "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803): system has unsupported display driver"),
        ("802", "CUDA_ERROR_SYSTEM_NOT_READY (802)"),
        ("34", "CUDA_ERROR_STUB_LIBRARY (34)"),
        ("999", "CUDA_ERROR_UNKNOWN (999)"),
        ("100", "CUDA_ERROR_NO_DEVICE (100)"),
    ] {
        let fails = [("STANDIN_INIT", code)];
        let swept = place.run(&H200, &fails);
        let message = stderr(&swept);
        assert_eq!(swept.status.code(), Some(3), "{message}");
        assert!(message.contains("no h200 on this machine (") && message.contains(name), "{message}");
        let devices = place.run(&["devices"], &fails);
        assert!(devices.status.success() && stderr(&devices).contains(name), "{devices:?}");
        assert!(String::from_utf8_lossy(&devices.stdout).starts_with("cpu "), "{devices:?}");
    }
    // What takes whatever is there says why it is not the GPU.
    let auto = place.run(&["--family", "row_softmax", "--plan", "plan.toml", "-q"], &[("STANDIN_INIT", "803")]);
    assert!(auto.status.success() && stderr(&auto).contains("(803)"), "{auto:?}");
}

#[test]
fn a_driver_that_is_too_old_is_told_before_anything_is_measured() {
    let Some(place) = Place::with(&["-DTOO_OLD"]) else { return };
    let swept = place.run(&H200, &[("STANDIN_VERSION", "12040")]);
    let message = stderr(&swept);
    assert_eq!(swept.status.code(), Some(3), "{message}");
    for told in ["which is for CUDA 12.4,", "lacks cuEventElapsedTime_v2:", "CUDA 12.8 or newer"] {
        assert!(message.contains(told), "{message}");
    }
    assert!(stderr(&place.run(&["devices"], &[])).contains("lacks cuEventElapsedTime_v2"));
    assert!(!place.path().join("output").exists(), "nothing was measured");
}

#[test]
fn the_devices_of_a_driver_are_listed() {
    let Some(place) = Place::with(&[]) else { return };
    let listed = place.run(&["devices", "--json"], &[("STANDIN_COUNT", "2")]);
    let devices: Vec<Value> = serde_json::from_slice(&listed.stdout).unwrap();
    let names: Vec<_> = devices.iter().map(|device| device["profile"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["h200", "h200", "cpu"], "{listed:?}");
    assert_ne!(devices[0]["unit"], devices[1]["unit"]);
    let none = place.run(&["devices"], &[("STANDIN_FAULT", "cuDeviceGetName:999")]);
    assert!(stderr(&none).contains("does not tell of GPU 0: CUDA_ERROR_UNKNOWN (999)"), "{none:?}");
}

/// Whether kernels can be compiled here, without fetching a compiler.
fn has_compiler() -> bool {
    let cached = kernel_sweep::paths::cache_folder().unwrap().join("nvrtc");
    let has = cached.exists()
        || ["SWEEP_NVRTC", "CUDA_HOME", "CUDA_PATH"].iter().any(|name| std::env::var_os(name).is_some());
    if !has {
        eprintln!("skipped: no NVRTC at hand");
    }
    has
}

const PLAN: &str = r#"
[space.simt]
default = { block_sizes = [4096], num_warps = 4, pid_type = "flat", mma = "simt" }
[space.simt.axes]
block_sizes = [[2048, 4096]]
num_warps = [4]
pid_type = ["flat"]
"#;

/// A folder with the stand-in and a plan of so many problems for it.
fn gpu_place(problems: u32) -> Option<Place> {
    let place = Place::with(&[]).filter(|_| has_compiler())?;
    let problems = (1..=problems).map(|problem| format!("[[problem]]\nnumel = {}\n", 4096 * problem));
    fs::write(place.path().join("gpu.toml"), problems.collect::<String>() + PLAN).unwrap();
    Some(place)
}

/// What the driver alone knows of PTX and cubins: that their threads have local memory is said once of each kernel, and leaves none out.
#[test]
fn local_memory_of_a_kernel_that_is_loaded_as_it_is_is_told_and_measured() {
    let Some(place) = Place::with(&[]).filter(|_| has_compiler()) else { return };
    for name in [
        "from_ptx.toml",
        "scaled.cu",
        "scaled_1.ptx",
        "scaled_4.ptx",
        "from_cubin.toml",
        "reduction.cu",
        "plainly_sm_90.cubin",
    ] {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manifest");
        fs::copy(data.join(name), place.path().join(name)).unwrap();
    }
    for (family, kernels, local_bytes) in
        [("from_ptx", 2, "0"), ("from_ptx", 2, "48"), ("from_cubin", 1, "0"), ("from_cubin", 1, "48")]
    {
        let (manifest, output) = (format!("{family}.toml"), format!("{family}_{local_bytes}"));
        let arguments = ["--gpu", "h200", "--family", &manifest, "--shard", "0/1", "--output", &output];
        let swept = place.run(&arguments, &[("STANDIN_LOCAL_BYTES", local_bytes)]);
        let told = stderr(&swept);
        assert!(swept.status.success(), "{told}");
        let trials = trials(&place.path().join(output).join(format!("h200/journal/{family}.jsonl")));
        // A file that is not there is left out, as ever.
        let is_measured = |trial: &Value| {
            trial["status"] == "ok" || trial["error"].as_str().unwrap_or_default().starts_with("there is no")
        };
        assert!(!trials.is_empty() && trials.iter().all(is_measured), "{told} {trials:?}");
        let notes = told.lines().filter(|line| line.contains("a thread has 48 B of local memory")).count();
        assert_eq!(notes, if local_bytes == "48" { kernels } else { 0 }, "{told}");
    }
}

/// What a manifest says of all its kernels is bad input for the sweep too: one line, and nothing is measured or written over.
#[test]
fn a_manifest_none_of_whose_kernels_can_run_is_refused_before_anything_is_measured() {
    let Some(place) = Place::with(&[]).filter(|_| has_compiler()) else { return };
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manifest");
    fs::copy(data.join("vector_add.cu"), place.path().join("vector_add.cu")).unwrap();
    fs::write(place.path().join("syntax.cu"), "__global__ void vector_add( {").unwrap();
    let text = fs::read_to_string(data.join("vector_add.toml")).unwrap();
    let (before, kernel) = text.split_once("[[kernel]]").unwrap();
    let own = |kernel: &str| format!("{before}[[kernel]]{kernel}");
    let entry = "vector_add<{c_type}>";
    for (name, text, told) in [
        (
            "template",
            own(&kernel.replace(entry, "vector_ad<{c_type}>")),
            "vector_add.cu has no entry 'vector_ad<float>'",
        ),
        (
            "plain",
            own(&kernel.replace(entry, "vector_add")),
            "vector_add.cu has no entry 'vector_add'; it has vector_add",
        ),
        ("argument", own(&kernel.replace("{ i32 = \"n\" }", "{ f64 = 1.0 }")), "number 4"),
        ("syntax", own(&kernel.replace("vector_add.cu", "syntax.cu")), "syntax.cu(1)"),
        ("reference", text.replacen(entry, "vector_ad<{c_type}>", 1), "has no entry 'vector_ad<float>'"),
    ] {
        let manifest = format!("broken_{name}.toml");
        fs::write(place.path().join(&manifest), text).unwrap();
        let swept = place.run(&["--gpu", "h200", "--family", &manifest, "--output", name], &[]);
        let said = stderr(&swept);
        assert_eq!(swept.status.code(), Some(2), "{name}: {said}");
        let errors: Vec<&str> = said.lines().filter(|line| line.starts_with("error")).collect();
        assert!(errors.len() == 1 && errors[0].contains(told), "{name}: {said}");
        assert!(name == "argument" || name == "syntax" || errors[0].contains("it has vector_add"), "{name}: {said}");
        let folder = place.path().join(name).join("h200");
        assert!(!folder.join("journal").exists() && !folder.join("observed_heuristics_h200.json").exists(), "{name}");
    }
    // Where one kernel can run, the others cost a record each.
    let some = own(&kernel.replace(
        "threads = [\"block\"]",
        "threads = [\"block\"]\noptions = [\"-DN=1\"]\nmacros = [\"BLOCK = block\"]",
    ));
    fs::write(
        place.path().join("some.toml"),
        some.replace(
            "vector_add.cu\"\nentry = \"vector_add<{c_type}>\"\ngrid = [\"ceil_div(n, block)",
            "some.cu\"\nentry = \"vector_add<{c_type}>\"\ngrid = [\"ceil_div(n, block)",
        ),
    )
    .unwrap();
    let source = fs::read_to_string(data.join("vector_add.cu")).unwrap();
    fs::write(place.path().join("some.cu"), format!("#if BLOCK == 256\n#error not of 256\n#endif\n{source}")).unwrap();
    let swept = place.run(&["--gpu", "h200", "--family", "some.toml"], &[]);
    assert!(swept.status.success(), "{}", stderr(&swept));
    let trials = trials(&place.path().join("output/h200/journal/some.jsonl"));
    let of = |status: &str| trials.iter().filter(|trial| trial["status"] == status).count();
    assert!(of("compile_failed") > 0 && of("ok") > 0, "{trials:?}");
}

/// A shard fills its journal and makes no document.
fn shard<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&H200[..], &["--plan", "gpu.toml", "--shard", "0/2"], more].concat()
}

impl Place {
    fn trials(&self, output: &str) -> Vec<Value> {
        trials(&self.path().join(output).join("h200/journal/elementwise.shard-0-of-2.jsonl"))
    }
}

#[test]
fn trouble_of_the_driver_leaves_no_trial_and_the_next_run_does_the_rest() {
    let Some(place) = gpu_place(1) else { return };
    for (output, environment, told) in [
        ("memory", &[("STANDIN_FREE_MIB", "0")][..], "of the GPU's memory, 0 B of"),
        (
            "allocation",
            &[("STANDIN_FAULT", "cuMemAlloc_v2:2"), ("STANDIN_FAULT_AFTER", "20")],
            "CUDA_ERROR_OUT_OF_MEMORY",
        ),
        ("context", &[("STANDIN_FAULT", "cuDevicePrimaryCtxRetain:999")], "CUDA_ERROR_UNKNOWN (999)"),
        ("module", &[("STANDIN_FAULT", "cuModuleLoadData:802")], "CUDA_ERROR_SYSTEM_NOT_READY (802)"),
    ] {
        let swept = place.run(&shard(&["--output", output, "-q"]), environment);
        let message = stderr(&swept);
        assert_eq!(swept.status.code(), Some(1), "{output}: {message}");
        assert!(message.contains(told) && message.contains("no config is blamed"), "{output}: {message}");
        assert_eq!(place.trials(output), Vec::<Value>::new(), "{output}");
        let again = place.run(&shard(&["--output", output, "-q"]), &[]);
        assert!(again.status.success(), "{output}: {again:?}");
        assert!(place.trials(output).iter().filter(|trial| trial["status"] == "ok").count() >= 2, "{output}");
    }
}

#[test]
fn a_kernel_that_breaks_the_device_is_condemned() {
    let Some(place) = gpu_place(1) else { return };
    // The first launches prepare and are the canary's; all of a config's break the device.
    let breaks = [("STANDIN_FAULT", "cuStreamSynchronize:700"), ("STANDIN_FAULT_AFTER", "40")];
    let swept = place.run(&shard(&["--output", "broken", "-q"]), &breaks);
    stderr(&swept);
    for trial in place.trials("broken").iter().filter(|trial| trial["status"] != "ok") {
        assert_eq!(trial["status"], "crashed", "{trial}");
        assert!(trial["error"].as_str().unwrap().contains("CUDA_ERROR_ILLEGAL_ADDRESS (700)"), "{trial}");
    }
}

#[test]
fn two_sweeps_share_no_gpu_whichever_folder_they_write() {
    let Some(place) = gpu_place(100) else { return };
    let other = (place.1 + 1).to_string();
    let arguments = [&H200[..], &["--plan", "gpu.toml", "--output", "first", "-q"]].concat();
    let mut first = place.tool(&arguments, &[("STANDIN_PAUSE_US", "2000")]).spawn().unwrap();
    let journal = place.path().join("first/h200/journal/elementwise.jsonl");
    wait_for("the first sweep to measure", || trials(&journal).len() > 3);
    let second = place.run(&shard(&["--output", "second", "-q"]), &[]);
    let message = stderr(&second);
    assert_eq!(second.status.code(), Some(1), "{message}");
    let holder = format!("another sweep measures on this device (pid {} on ", first.id());
    assert!(message.contains(&holder) && message.contains("--devices"), "{message}");
    assert_eq!(place.trials("second"), Vec::<Value>::new());
    // Another GPU is free, and so is this one as soon as the first sweep is gone, killed or not.
    let other = place.run(&shard(&["--output", "other", "-q"]), &[("STANDIN_UUID", &other)]);
    assert!(other.status.success(), "{other:?}");
    first.kill().unwrap();
    first.wait().unwrap();
    let third = place.run(&shard(&["--output", "second", "-q"]), &[]);
    assert!(third.status.success(), "{third:?}");
}
