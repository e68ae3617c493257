//! What is done about a driver's faults, with a stand-in for it: `tests/standin/libcuda.c`.

#![cfg(all(feature = "harness", target_os = "linux"))]
#![allow(clippy::unwrap_used)] // a test that cannot go on may stop

mod common;

use common::{sweep, trials, wait_for};
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

/// What the driver alone knows of PTX: where registers ran out every config has one record that says so.
#[test]
fn a_kernel_that_is_loaded_as_it_is_is_asked_for_its_spills() {
    let Some(place) = Place::with(&[]).filter(|_| has_compiler()) else { return };
    for name in ["from_ptx.toml", "scaled.cu", "scaled_1.ptx", "scaled_4.ptx"] {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manifest");
        fs::copy(data.join(name), place.path().join(name)).unwrap();
    }
    for (output, local_bytes) in [("none", "0"), ("some", "48")] {
        let arguments = ["--gpu", "h200", "--family", "from_ptx.toml", "--shard", "0/1", "--output", output, "-q"];
        let swept = place.run(&arguments, &[("STANDIN_LOCAL_BYTES", local_bytes)]);
        let told = stderr(&swept);
        let journals = place.path().join(output).join("h200/journal");
        let journal = fs::read_dir(journals).unwrap().map(|file| file.unwrap().path());
        let journal =
            journal.into_iter().find(|path| path.extension().is_some_and(|ending| ending == "jsonl")).unwrap();
        let trials = trials(&journal);
        let spilling = trials.iter().filter(|trial| {
            let error = trial["error"].as_str().unwrap_or_default();
            error == "spills: a thread has 48 bytes of local memory beside its 32 registers"
        });
        let spilling = spilling.count();
        assert!(!trials.is_empty(), "{told}");
        let count = |status: &str| trials.iter().filter(|trial| trial["status"] == status).count();
        let spills = local_bytes == "48";
        assert_eq!((spilling > 0, count("ok") > 0), (spills, !spills), "{told} {trials:?}");
        assert_eq!(
            (count("launch_failed"), count("pruned")),
            (0, spilling),
            "as what a compiler of ours tells: {trials:?}"
        );
    }
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
