//! Kernels on the model of the hardware that lies beside this file: compiled with a `main`, changed or as they are, and run.

#![allow(dead_code)] // each test uses a part

#[path = "../common/amount.rs"]
mod amount;
#[path = "source.rs"]
mod source;

use kernel_sweep::families::{Arg, Launch, Swizzle, spec};
use kernel_sweep::model::{Config, GpuProfile, Mma, Problem};
use kernel_sweep::plan::Plan;
use rayon::prelude::*;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const FLAGS: [&str; 5] = ["-std=c++17", "-O1", "-ftree-vectorize", "-w", "-U_FORTIFY_SOURCE"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn compile(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The machine, compiled once for all tests; nothing where there is no compiler.
fn machine() -> Option<&'static Path> {
    static MACHINE: OnceLock<Option<PathBuf>> = OnceLock::new();
    let object = MACHINE.get_or_init(|| {
        if Command::new("c++").arg("--version").output().is_err() {
            eprintln!("skipped: there is no C++ compiler `c++` here");
            return None;
        }
        let object = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("gpu_machine_{}.o", std::process::id()));
        compile(
            Command::new("c++")
                .args(FLAGS)
                .arg("-c")
                .arg(root().join("tests/gpu_model/machine.cpp"))
                .arg("-o")
                .arg(&object),
        );
        Some(object)
    });
    object.as_deref()
}

/// What the copy engine is refused for where it comes too early.
pub(crate) const COPIES: &str = "the copy engine writes where others may still read or write";

/// What is changed in a kernel or a header: this text in that file, wherever it stands, to another.
#[derive(Clone, Copy)]
pub(crate) struct Change(pub(crate) &'static str, pub(crate) &'static str, pub(crate) &'static str);

/// A kernel compiled with the model.
pub(crate) struct Model {
    _folder: tempfile::TempDir,
    pub(crate) program: PathBuf,
}

impl Model {
    /// Compiles a `main` with the kernels; nothing where there is no compiler. `changed` may change a source by its name.
    pub(crate) fn new(
        main: &str,
        macros: &[(impl AsRef<str>, String)],
        changed: impl Fn(&str, String) -> String,
    ) -> Option<Self> {
        let machine = machine()?;
        let folder = tempfile::tempdir().unwrap();
        for from in ["kernels", "kernels/include"] {
            for entry in fs::read_dir(root().join(from)).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_str().unwrap();
                if path.extension().is_some_and(|it| it == "cu" || it == "cuh") {
                    let text = changed(name, fs::read_to_string(&path).unwrap());
                    fs::write(folder.path().join(name), source::for_the_host(&text)).unwrap();
                }
            }
        }
        let program = folder.path().join("main");
        let model = root().join("tests/gpu_model");
        compile(
            Command::new("c++")
                .args(FLAGS)
                .arg("-I")
                .arg(&model)
                .arg("-I")
                .arg(folder.path())
                .args(macros.iter().map(|(name, value)| format!("-D{}={value}", name.as_ref())))
                .arg(model.join(main))
                .arg(machine)
                .arg("-o")
                .arg(&program),
        );
        Some(Self { _folder: folder, program })
    }

    /// Runs it; what it is refused for, if it is. The last argument is the seed of the order of things.
    pub(crate) fn run(&self, arguments: &[u32]) -> Result<(), String> {
        let output = Command::new(&self.program).args(arguments.iter().map(u32::to_string)).output().unwrap();
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    }
}

/// How many orders of things each run is had in.
const SEEDS: u32 = 3;

/// The arguments and a seed.
fn seeded(arguments: &[u32], seed: u32) -> Vec<u32> {
    arguments.iter().copied().chain([seed]).collect()
}

/// A kernel's `main` with its macros, and what it is to run.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) main: &'static str,
    pub(crate) macros: Vec<(&'static str, String)>,
    pub(crate) runs: Vec<Vec<u32>>,
}

impl Case {
    /// It must come out right in every order.
    pub(crate) fn passes(self, cases: &mut Cases) {
        cases.push(move || {
            let Some(model) = Model::new(self.main, &self.macros, |_, text| text) else { return };
            for arguments in &self.runs {
                for seed in 0..SEEDS {
                    if let Err(refusal) = model.run(&seeded(arguments, seed)) {
                        panic!("{:?} {arguments:?}, seed {seed}: {refusal}", self.macros);
                    }
                }
            }
        });
    }

    /// Changed so, it must be refused in every order, in one of these words.
    pub(crate) fn refuses(&self, cases: &mut Cases, changes: &[Change], words: &[&str]) {
        let (case, changes) = (self.clone(), changes.to_vec());
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        cases.push(move || {
            let change = |name: &str, text: String| {
                changes.iter().filter(|change| change.0 == name).fold(text, |text, Change(_, old, new)| {
                    assert!(text.contains(old), "{name} has no such text to change: {old}");
                    text.replace(old, new)
                })
            };
            let Some(model) = Model::new(case.main, &case.macros, change) else { return };
            let what: Vec<&str> = changes.iter().map(|change| change.1).collect();
            for seed in 0..SEEDS {
                let Err(refusal) = model.run(&seeded(&case.runs[0], seed)) else {
                    panic!("{:?}, seed {seed}: not refused without {what:?}", case.macros)
                };
                let is_known = refusal.starts_with("refused: ") && words.iter().any(|word| refusal.contains(word));
                assert!(is_known, "{:?}, seed {seed}: refused without {what:?}, but for: {refusal}", case.macros);
            }
        });
    }
}

/// What a test asks of the model. Each case is compiled and run, so that usually some of all tests' must do.
#[derive(Default)]
pub(crate) struct Cases(Vec<Box<dyn FnOnce() + Send>>);

impl Cases {
    pub(crate) fn push(&mut self, case: impl FnOnce() + Send + 'static) {
        self.0.push(Box::new(case));
    }

    pub(crate) fn check(self) {
        let thread = std::thread::current();
        let cases = amount::some_of_many(thread.name().unwrap(), self.0);
        println!("{} cases by seed {}", cases.len(), amount::seed());
        cases.into_par_iter().for_each(|case| case());
    }
}

// ---- Launches ----

/// A launch of the crate in the words of the programs' `describe`, with those of its numbers.
fn described(launch: &Launch, places: &[usize]) -> String {
    fn joined<T: ToString>(numbers: &[T], between: &str) -> String {
        numbers.iter().map(T::to_string).collect::<Vec<_>>().join(between)
    }
    let mut text = format!(
        "grid {} cluster {} threads {} shared {}\n",
        launch.grid[0], launch.cluster[0], launch.threads[0], launch.dynamic_smem.0
    );
    for arg in &launch.args {
        let Arg::TensorMap(map) = arg else { continue };
        let swizzle_bytes = match map.swizzle {
            Swizzle::None => 0,
            Swizzle::Bytes32 => 32,
            Swizzle::Bytes64 => 64,
            Swizzle::Bytes128 => 128,
        };
        writeln!(
            text,
            "map of {} bytes, {}, rows of {}, tiles {}, swizzle {swizzle_bytes}",
            map.element.size_bytes(),
            joined(&map.extents, " x "),
            joined(&map.strides_bytes, " and "),
            joined(&map.tile, " x ")
        )
        .unwrap();
    }
    writeln!(text, "workspace {} counters {}", launch.workspace.0, launch.counters).unwrap();
    let numbers = numbers(launch);
    let arguments: Vec<i32> = places.iter().map(|place| numbers[*place]).collect();
    writeln!(text, "arguments {}", joined(&arguments, " ")).unwrap();
    text
}

/// A launch's whole numbers, in the order of the kernel's arguments.
pub(crate) fn numbers(launch: &Launch) -> Vec<i32> {
    launch.args.iter().filter_map(|arg| if let Arg::I32(number) = arg { Some(*number) } else { None }).collect()
}

/// Some of the configs that a GPU's space has for a problem, evenly spread; there are as many at least.
pub(crate) fn spread(problem: &Problem, profile: &GpuProfile, count: usize, kinds: &[Mma]) -> Vec<Config> {
    let plan = Plan::load(problem.family, None).unwrap();
    let legal = plan.legal_configs(problem, profile);
    let configs: Vec<_> =
        legal.into_iter().filter(|config| config.mma.is_some_and(|mma| kinds.contains(&mma))).collect();
    assert!(configs.len() >= count, "{problem}: {}", configs.len());
    (0..count).map(|place| configs[place * (configs.len() - 1) / (count - 1)].clone()).collect()
}

/// What the crate launches is what `main` describes of the same shapes. `of_launch` gives its arguments, and which of the launch's
/// numbers it tells.
pub(crate) fn check_launch(
    cases: &mut Cases,
    main: &'static str,
    problem: &Problem,
    profile: &GpuProfile,
    config: &Config,
    of_launch: impl Fn(&Launch) -> (Vec<i64>, &'static [usize]),
) {
    let (kernel, launch) = spec(problem.family).build(config, problem, profile).unwrap();
    let (arguments, places) = of_launch(&launch);
    let (launched, config) = (described(&launch, places), config.clone());
    cases.push(move || {
        let Some(model) = Model::new(main, &kernel.macros, |_, text| text) else { return };
        let arguments = arguments.iter().map(i64::to_string);
        let output = Command::new(&model.program).args(arguments).arg("describe").output().unwrap();
        assert!(output.status.success());
        assert_eq!(launched, String::from_utf8_lossy(&output.stdout), "{config:?}");
    });
}
