//! Foreign code and files: nothing of the working directory, of the loader's search path or of somebody else's cache runs or is
//! taken for ours. A stand-in for NVRTC compiles, so that no network is needed.

#![cfg(target_os = "linux")]

use crate::common::{self, wait_for};
use crate::nvrtc::{LIBRARIES, build};
use assert_cmd::cargo::CommandCargoExt;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A folder to work in, with a stand-in and a cache of its own.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        build(&place.path("nvrtc"), 13, &LIBRARIES, &[]);
        fs::create_dir(place.path("work")).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn compile(&self) -> Command {
        let mut command = Command::cargo_bin("sweep").unwrap();
        command.args(["compile", "--gpu", "h200", "--family", "elementwise", "--kernels", "3"]);
        command.current_dir(self.path("work"));
        command.env("SWEEP_NVRTC", self.path("nvrtc")).env("SWEEP_CACHE", self.path("cache"));
        command
    }

    fn cubins(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path("cache/cubin")).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some_and(|ending| ending == "cubin")).collect()
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn done(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    stderr(&output)
}

/// The one line that a command is refused with.
fn refused(mut command: Command, code: i32) -> String {
    let output = command.output().unwrap();
    let errors = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{errors}");
    assert_eq!(errors.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{errors}");
    assert!(!errors.contains("panicked"), "{errors}");
    errors
}

#[test]
fn the_nvrtc_that_is_named_compiles_whatever_the_loader_knows() {
    let place = Place::new();
    let decoys = ["libnvrtc.so", "libnvrtc.so.13", "libnvrtc-builtins.so.13.0"];
    build(&place.path("decoy"), 13, &decoys, &[]);
    for named in ["nvrtc", "nvrtc/libnvrtc.so.13"] {
        let mut command = place.compile();
        command.env("SWEEP_NVRTC", place.path(named)).env("LD_LIBRARY_PATH", place.path("decoy"));
        done(command);
        for name in LIBRARIES {
            assert!(place.path("nvrtc").join(format!("{name}.loaded")).exists(), "{name}");
        }
        for name in decoys {
            assert!(!place.path("decoy").join(format!("{name}.loaded")).exists(), "{name}");
        }
        fs::remove_dir_all(place.path("cache")).unwrap();
    }
}

#[test]
fn what_is_no_nvrtc_of_this_version_is_refused_by_its_name() {
    let place = Place::new();
    build(&place.path("old"), 12, &LIBRARIES, &[]);
    build(&place.path("alone"), 13, &["libnvrtc.so.13"], &[]);
    fs::write(place.path("work/libnvrtc.so.13"), "no library").unwrap();
    fs::create_dir(place.path("empty")).unwrap();
    let cases = [
        ("old", "it is version 12.0, and this tool needs 13", 1),
        ("alone", "libnvrtc-builtins.so.13.0", 1),
        ("work", "it is no NVRTC that can be used", 1),
        ("empty", "there is no libnvrtc.so.13", 2),
        ("nowhere", "there is no libnvrtc.so.13", 2),
    ];
    for (named, message, code) in cases {
        let mut command = place.compile();
        command.env("SWEEP_NVRTC", place.path(named));
        let error = refused(command, code);
        let path = place.path(named);
        assert!(error.contains(message) && error.contains(path.to_str().unwrap()), "{error}");
        assert!(error.contains("SWEEP_NVRTC"), "{error}");
    }
}

#[test]
fn a_cubin_that_was_altered_is_compiled_anew_with_a_word() {
    let place = Place::new();
    done(place.compile());
    let mode = |path: PathBuf| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!((mode(place.path("cache")), mode(place.path("cache/cubin"))), (0o700, 0o700));
    assert!(!done(place.compile()).contains("compiled anew"));
    let whole: Vec<(PathBuf, Vec<u8>)> =
        place.cubins().into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    assert!(!whole.is_empty());
    let alter: [fn(&Path, &[u8]); 3] = [
        |path, bytes| fs::write(path, &bytes[..bytes.len() / 2]).unwrap(),
        |path, bytes| fs::write(path, [&bytes[..4], b"evil", &bytes[8..]].concat()).unwrap(),
        |path, _| {
            let entry = fs::read_to_string(path.with_extension("json")).unwrap();
            fs::write(path.with_extension("json"), entry.replace("\"registers\":8", "\"registers\":9")).unwrap();
        },
    ];
    for alter in alter {
        for (path, bytes) in &whole {
            alter(path, bytes);
        }
        let said = done(place.compile());
        assert!(said.matches("was cut short or altered: it is compiled anew").count() >= whole.len(), "{said}");
        assert!(whole.iter().all(|(path, bytes)| fs::read(path).unwrap() == *bytes));
    }
}

#[test]
fn what_kills_left_in_the_cache_is_taken_away() {
    let place = Place::new();
    done(place.compile());
    fs::write(place.path("cache/cubin/.new-half"), "half a cubin").unwrap();
    fs::create_dir_all(place.path("cache/.new-wheel/site/nvidia")).unwrap();
    let mut command = place.compile();
    command.env_remove("SWEEP_NVRTC").env("CUDA_HOME", "/nowhere").env("PATH", place.path("empty"));
    // Whether there is an NVRTC besides or not: the cache is looked through.
    command.output().unwrap();
    done(place.compile());
    assert!(!place.path("cache/cubin/.new-half").exists() && !place.path("cache/.new-wheel").exists());
}

#[test]
fn a_cache_that_is_not_the_user_s_alone_is_refused_by_its_name() {
    let place = Place::new();
    done(place.compile());
    let refused = |why: &str| {
        let error = refused(place.compile(), 2);
        assert!(error.contains(why) && error.contains("SWEEP_CACHE") && error.contains("cache"), "{error}");
    };
    let chmod = |name: &str, mode| fs::set_permissions(place.path(name), Permissions::from_mode(mode)).unwrap();
    for folder in ["cache", "cache/cubin"] {
        chmod(folder, 0o777);
        refused("others can write to it (mode 777)");
        chmod(folder, 0o755);
        done(place.compile());
        assert_eq!(fs::metadata(place.path(folder)).unwrap().mode() & 0o777, 0o700);
        fs::rename(place.path(folder), place.path("elsewhere")).unwrap();
        symlink(place.path("elsewhere"), place.path(folder)).unwrap();
        refused("it is a symbolic link");
        fs::remove_file(place.path(folder)).unwrap();
        fs::rename(place.path("elsewhere"), place.path(folder)).unwrap();
    }
    let mut command = place.compile();
    command.env("SWEEP_CACHE", "");
    assert!(self::refused(command, 2).contains("SWEEP_CACHE is empty"));
    for (cache, why) in [("/dev/null/cache", "File exists"), ("/proc/cache", "No such file")] {
        let mut command = place.compile();
        command.env("SWEEP_CACHE", cache);
        let error = self::refused(command, 2);
        assert!(error.contains(cache) && error.contains(why) && error.contains("set SWEEP_CACHE"), "{error}");
    }
}

/// A Python that notes how it is called. As pip it installs the stand-in, after `first`.
fn python(place: &Place, first: &str) {
    let script = r#"#!/bin/sh
[ "$2" = -c ] && exit
{ echo "$@"; pwd; env; } > NOTES
while [ "$1" != --target ]; do shift; done
mkdir -p "$2/nvidia/cu13/lib"
FIRST
cp STAND_IN/lib* "$2/nvidia/cu13/lib"
"#;
    let script = script.replace("NOTES", place.path("notes").to_str().unwrap()).replace("FIRST", first);
    let script = script.replace("STAND_IN", place.path("nvrtc").to_str().unwrap());
    fs::create_dir_all(place.path("bin")).unwrap();
    fs::write(place.path("bin/script"), script).unwrap();
    common::install(&place.path("bin/script"), &place.path("bin/python3"));
}

/// The tool on a machine without NVRTC, with that Python; none where the machine has one in the usual places.
fn fetching(place: &Place) -> Option<Command> {
    if Path::new("/usr/local/cuda/lib64/libnvrtc.so.13").exists() || Path::new("/usr/local/cuda-13/lib64").exists() {
        eprintln!("skipped: this machine has a CUDA toolkit");
        return None;
    }
    let mut command = place.compile();
    command.env_remove("SWEEP_NVRTC").env_remove("CUDA_HOME").env_remove("CUDA_PATH");
    command.env("PATH", format!("{}:/usr/bin:/bin", place.path("bin").display()));
    Some(command)
}

#[test]
fn nothing_of_the_working_directory_or_the_environment_runs_as_python_or_pip() {
    let place = Place::new();
    python(&place, "");
    let Some(mut command) = fetching(&place) else { return };
    // What would run or be loaded if the working directory had a say.
    fs::write(place.path("bin/decoy"), format!("#!/bin/sh\ntouch {}\n", place.path("decoyed").display())).unwrap();
    fs::create_dir(place.path("work/bin")).unwrap();
    for name in ["python3", "pip", "bin/python3"] {
        common::install(&place.path("bin/decoy"), &place.path("work").join(name));
    }
    for folder in ["lib64", "targets/x86_64-linux/lib", "nvidia/cu13/lib"] {
        fs::create_dir_all(place.path("work").join(folder)).unwrap();
        fs::write(place.path("work").join(folder).join("libnvrtc.so.13"), "no library").unwrap();
    }
    for name in ["pip.py", "site.py", "sitecustomize.py", "pip.conf"] {
        fs::write(place.path("work").join(name), "raise SystemExit").unwrap();
    }
    command.env("PATH", format!(".:bin::{}:/usr/bin:/bin", place.path("bin").display()));
    command.env("CUDA_HOME", "").env("CUDA_PATH", ".");
    for name in ["PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PIP_CONFIG_FILE", "PIP_PYTHON", "PIP_REQUIREMENT"] {
        command.env(name, place.path("work"));
    }
    command.env("PIP_INDEX_URL", "https://index.example/simple");
    let said = done(command);
    assert!(said.contains("fetching nvidia-cuda-nvrtc==13.0.88"), "{said}");
    assert!(!place.path("decoyed").exists());
    let notes = fs::read_to_string(place.path("notes")).unwrap();
    let mut lines = notes.lines();
    let arguments = lines.next().unwrap();
    assert!(arguments.starts_with("-I -m pip install ") && arguments.contains(" --require-hashes "), "{arguments}");
    assert_eq!(lines.next(), Some("/"));
    let variables: Vec<&str> = lines.filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    let pips: Vec<_> = variables.iter().filter(|name| name.starts_with("PIP_")).collect();
    assert!(variables.iter().all(|name| !name.starts_with("PYTHON")), "{variables:?}");
    assert!(pips.contains(&&"PIP_INDEX_URL"), "{pips:?}");
    assert!(["PIP_CONFIG_FILE", "PIP_PYTHON", "PIP_REQUIREMENT"].iter().all(|name| !pips.contains(&name)), "{pips:?}");
    assert_eq!(fs::metadata(place.path("cache/nvrtc")).unwrap().mode() & 0o777, 0o700);
    let again = done(fetching(&place).unwrap());
    assert!(!again.contains("fetching"), "it is in the cache: {again}");
}

#[test]
fn a_fetch_that_is_cut_leaves_nothing_behind() {
    let place = Place::new();
    python(&place, "head -c 1000000 /dev/zero > \"$2/half\"; echo $$ > PID; exec sleep 300");
    let pid = place.path("pid");
    let script = fs::read_to_string(place.path("bin/script")).unwrap().replace("PID", pid.to_str().unwrap());
    fs::write(place.path("bin/script"), script).unwrap();
    common::install(&place.path("bin/script"), &place.path("bin/python3"));
    let Some(mut command) = fetching(&place) else { return };
    let leftovers = || {
        fs::read_dir(place.path("cache"))
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with(".new-"))
            .count()
    };
    let pip = || {
        fs::read_to_string(&pid)
            .ok()
            .filter(|pid| pid.ends_with('\n'))
            .map(|pid| PathBuf::from("/proc").join(pid.trim()))
    };
    // Asked to end, it ends pip too, and takes away what that has written.
    let mut child = command.spawn().unwrap();
    wait_for("pip to start", || pip().is_some());
    let asked = Instant::now();
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(asked.elapsed() < Duration::from_secs(30), "{:?}", asked.elapsed());
    assert!(!pip().unwrap().exists(), "pip goes on");
    assert_eq!(leftovers(), 0);
    // Killed, it leaves that to the next run.
    fs::remove_file(&pid).unwrap();
    let mut child = command.spawn().unwrap();
    wait_for("pip to start", || pip().is_some());
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(leftovers(), 1);
    let number = fs::read_to_string(&pid).unwrap();
    assert!(Command::new("kill").args(["-KILL", number.trim()]).status().unwrap().success());
    python(&place, "");
    done(fetching(&place).unwrap());
    assert_eq!(leftovers(), 0);
}
