"""Kernels that Python calls, swept on the host, which is a real device: the clock is its own."""

import collections
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import kernel_sweep as ks
import pytest

# A race of a few rounds.
RACE = {"first_look": 1, "hopeless": 9.0, "choosing": [2] * 5, "far_behind": 9.0, "reporting": [2] * 5, "null_arm": False}
FAMILIES = Path(__file__).parent / "families"
NUMPY = FAMILIES / "numpy_kernels.py"


@pytest.fixture
def sweep(tmp_path):
    (tmp_path / "cache").mkdir(mode=0o700)

    def run(*arguments, **environment):
        environment = {**os.environ, "SWEEP_CACHE": str(tmp_path / "cache"), **environment}
        command = [sys.executable, "-m", "kernel_sweep", *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return run


def trials(folder, family):
    lines = (folder / "output" / "cpu" / "journal" / f"{family}.jsonl").read_text().splitlines()
    return [trial for trial in map(json.loads, lines) if trial["kind"] == "trial"]


def told(done):
    """The one line that says what is wrong."""
    return next(line for line in done.stderr.splitlines() if line.startswith("error:"))


def test_a_family_is_swept_served_and_taken_over_by_the_next_run(sweep, tmp_path):
    arguments = ["--family", f"{NUMPY}:scale", "--gpu", "cpu", "--json", "--quiet"]
    done = sweep(*arguments)
    assert done.returncode == 0, done.stderr
    assert {trial["status"] for trial in trials(tmp_path, "scale")} == {"ok"}
    assert {trial["stage"] for trial in trials(tmp_path, "scale")} >= {"screen", "final"}
    heuristics = ks.Heuristics.load(tmp_path / json.loads(done.stdout)["document"])
    assert heuristics.lookup("scale", dtype="f32", n=50_001).best in [{"step": 4096}, {"step": 65536}]
    again = json.loads(sweep(*arguments).stdout)
    assert again["statuses"] == {} and again["resumed"] > 0
    looked_up = sweep("lookup", "--gpu", "cpu", "--family", "scale", "--shape", "n=20000", "--dtype", "f32", "--json")
    assert looked_up.returncode == 0 and "step" in looked_up.stdout
    derived = sweep("derive", "--gpu", "cpu", "--family", f"{NUMPY}:scale")
    assert derived.returncode == 0, derived.stderr
    evaluated = sweep("evaluate", "--gpu", "cpu", "--family", f"{NUMPY}:scale", "--random", "2")
    assert evaluated.returncode == 0, evaluated.stderr


def test_each_problem_is_a_bucket_of_its_own_where_no_bins_are_said(sweep, tmp_path):
    done = sweep("--family", f"{NUMPY}:split", "--gpu", "cpu", "--quiet")
    assert done.returncode == 0, done.stderr
    heuristics = ks.Heuristics.load(tmp_path / "output/cpu/observed_heuristics_cpu.json")
    served = [heuristics.lookup("split", dtype="f32", n=n).best["for"] for n in (1000, 10_000)]
    assert served == ["few", "many"]


def test_where_the_time_is_short_each_problem_is_served_by_what_was_tried_and_the_next_run_tries_the_rest(sweep, tmp_path):
    arguments = ["--family", f"{NUMPY}:slowly", "--gpu", "cpu", "--json", "--quiet"]
    # Twelve seconds for each of two problems, so that no machine tries all of one; beside that, a race of milliseconds and a
    # trial of a quarter of a second are short.
    done = sweep(*arguments, "--budget", "14s")
    assert done.returncode == 0, done.stderr
    heuristics = ks.Heuristics.load(tmp_path / "output/cpu/observed_heuristics_cpu.json")
    assert all(heuristics.lookup("slowly", dtype="f32", n=n).best["place"] != 0 for n in (1000, 10_000))
    hasty = trials(tmp_path, "slowly")
    finals = [trial for trial in hasty if trial["stage"] == "final"]
    assert {trial["problem"]["n"] for trial in finals} == {1000, 10_000} and all(trial.get("cut") for trial in finals)
    assert len({(trial["problem"]["n"], trial["config"]["place"]) for trial in hasty}) < 96
    assert sweep(*arguments).returncode == 0
    screened = collections.Counter(
        (trial["problem"]["n"], trial["config"]["place"]) for trial in trials(tmp_path, "slowly") if trial["stage"] == "screen"
    )
    # The default is slow enough that others race with it.
    others = {tried: times for tried, times in screened.items() if tried[1] != 0}
    assert len(screened) == 96 and set(others.values()) == {1}, "all that the first run left out, and nothing twice"
    last = trials(tmp_path, "slowly")[len(hasty) :]
    assert not any(trial.get("cut") for trial in last) and {"final"} <= {trial["stage"] for trial in last}
    assert json.loads(sweep(*arguments).stdout)["statuses"] == {}, "and that is whole"


def test_families_of_one_file_share_its_processes(sweep, tmp_path):
    kernels = tmp_path / "kernels.py"
    starts = tmp_path / "starts"
    kernels.write_text(f"import sys\nopen({str(starts)!r}, 'a').write(sys.argv[1] + ' ')\n" + NUMPY.read_text())
    done = sweep("--family", f"{kernels}:scale,{kernels}:split", "--gpu", "cpu", "--json", "--quiet")
    assert done.returncode == 0, done.stderr
    assert {trial["status"] for family in ("scale", "split") for trial in trials(tmp_path, family)} == {"ok"}
    assert sorted(starts.read_text().split()) == ["describe", "describe", "measure"]


def installed(folder, package, version, text):
    """A package in a folder as pip leaves one."""
    (folder / package).mkdir(parents=True)
    (folder / package / "__init__.py").write_text(text + "\n")
    (folder / f"{package}-{version}.dist-info").mkdir()
    (folder / f"{package}-{version}.dist-info" / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
    )


@pytest.fixture(params=["by themselves", "copies", "copies that cannot go on"])
def processes(request, tmp_path):
    """How a family's processes start: what its file says for that, their environment, and what is so of how often they import what
    takes long."""
    if request.param == "by themselves":
        return "", {}, lambda: True
    told = tmp_path / "imported"
    # A copy is another process than the one that imported it.
    is_lost = "os.getpid() != imported_by" if request.param == "copies that cannot go on" else "False"
    for package, text in (
        ("triton", f"open({str(told)!r}, 'a').write('x')"),
        ("torch", f"import os, types\nimported_by = os.getpid()\ncuda = types.SimpleNamespace(_is_in_bad_fork=lambda: {is_lost})"),
    ):
        installed(tmp_path / "packages", package, "9.9.9", text)
    path = os.pathsep.join([str(tmp_path / "packages"), os.environ.get("PYTHONPATH", "")])
    says = "import torch, triton  # TritonFamily\n"
    return says, {"PYTHONPATH": path}, lambda: (len(told.read_text()) == 1) == (is_lost == "False")


def test_every_fault_is_one_record_and_the_sweep_goes_on(sweep, tmp_path, processes):
    says, environment, imports_as_often = processes
    kernels = tmp_path / "kernels.py"
    kernels.write_text(says + NUMPY.read_text().replace('name="faulty"', 'name="faulty", arrays="numpy"'))
    done = sweep("--family", f"{kernels}:faulty", "--gpu", "cpu", "--trial-deadline", "3s", "--quiet", **environment)
    assert done.returncode == 0, done.stderr
    failed = [trial for trial in trials(tmp_path, "faulty") if trial["status"] != "ok"]
    of_fault = collections.defaultdict(list)
    for trial in failed:
        of_fault[trial["config"]["fault"]].append((trial["status"], trial["error"]))
    assert {fault: [status for status, _ in records] for fault, records in of_fault.items()} == {
        "build raises": ["compile_failed"],
        "builds nothing": ["compile_failed"],
        "raises": ["compile_failed"],
        "hangs": ["timeout"],
        "exits": ["crashed"],
        "aborts": ["crashed"],
        "wrong": ["wrong"],
        "changes its input": ["wrong"],
    }
    errors = {fault: records[0][1] for fault, records in of_fault.items()}
    assert errors["build raises"] == "build raised ValueError: no such step"
    assert errors["raises"] == "the callable raised RuntimeError: thrown"
    assert errors["changes its input"] == "it changes its input x"
    assert "column 19999" in errors["wrong"] and "exit status: 7" in errors["exits"]
    served = ks.Heuristics.load(tmp_path / "output/cpu/observed_heuristics_cpu.json").lookup("faulty", dtype="f32", n=20_000)
    assert served.best["fault"] == "none"
    assert imports_as_often()


def test_a_callable_may_return_its_outputs_and_update_a_tensor(sweep, tmp_path):
    done = sweep("--family", f"{NUMPY}:returning", "--gpu", "cpu", "--quiet")
    assert done.returncode == 0, done.stderr
    statuses = {trial["config"]["way"]: trial["status"] for trial in trials(tmp_path, "returning")}
    assert statuses == {"add": "ok", "multiply": "ok", "forgets": "wrong"}


def test_a_manifest_beside_the_file_says_the_rest(sweep, tmp_path):
    if sys.version_info < (3, 11):
        pytest.importorskip("tomli", reason="TOML is read with Python 3.11 or tomli: pip install tomli")
    done = sweep("--family", FAMILIES / "described.py", "--gpu", "cpu", "--quiet")
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "output/cpu/observed_heuristics_cpu.json").read_text())
    assert "short" in document["fallbacks"]["described"]


def test_other_code_is_measured_anew_and_a_comment_changes_none(sweep, tmp_path):
    text = NUMPY.read_text()
    copy = tmp_path / "kernels.py"
    arguments = ["--family", "kernels.py:scale", "--gpu", "cpu", "--json", "--quiet"]
    copy.write_text(text)
    assert json.loads(sweep(*arguments).stdout)["statuses"]["ok"] > 0
    copy.write_text("# A note.\n" + text)
    assert json.loads(sweep(*arguments).stdout)["statuses"] == {}
    copy.write_text(text.replace("numpy.multiply(x[", "numpy.multiply(1 * x["))
    assert json.loads(sweep(*arguments).stdout)["statuses"]["ok"] > 0


def test_tune_returns_a_document_and_tells_of_every_trial(tmp_path, monkeypatch):
    (tmp_path / "cache").mkdir(mode=0o700)
    monkeypatch.setenv("SWEEP_CACHE", str(tmp_path / "cache"))
    family = ks.tuning.load(NUMPY, "scale")
    seen = []
    heuristics = ks.tune(family, gpu="cpu", output=tmp_path / "output", progress=seen.append)
    assert isinstance(heuristics, ks.Heuristics) and heuristics.classes == ["scale"]
    assert seen == trials(tmp_path, "scale")
    again = []
    ks.tune(f"{NUMPY}:scale", gpu="cpu", output=tmp_path / "output", progress=again.append)
    assert again == []
    with pytest.raises(ks.TuneError, match="no family other: it has scale"):
        ks.tune(f"{NUMPY}:other", gpu="cpu", output=tmp_path / "output")
    with pytest.raises(ks.TuneError, match="no config was seen to work: 1 compile_failed; the last error: .*RuntimeError: thrown"):
        ks.tune(f"{NUMPY}:hopeless", gpu="cpu", output=tmp_path / "other")
    with pytest.raises(ks.TuneError, match="no h200 on this machine"):
        ks.tune(family, gpu="h200", output=tmp_path / "output")


def test_what_is_wrong_with_a_family_is_told_in_one_line(sweep):
    def of(family, **environment):
        done = sweep("--family", family, "--gpu", "cpu", **environment)
        assert done.returncode == 2, done.stderr
        return told(done)

    assert "needs a_package_that_nobody_has" in of(FAMILIES / "needs_more.py")
    assert "build is 3, which cannot be called" in of(FAMILIES / "strange.py")
    assert "has the families scale, faulty, hopeless" in of(NUMPY)
    assert "there is no file nothing.py" in of("nothing.py:scale")
    assert "SWEEP_PYTHON" in of(f"{NUMPY}:scale", SWEEP_PYTHON="/nowhere/python")
    # A Python without the package: isolated, it sees no site-packages.
    bare = of(f"{NUMPY}:scale", SWEEP_PYTHON=str(FAMILIES / "bare_python"))
    assert "install the wheel" in bare


def test_the_line_protocol_is_answered_by_a_process_of_python(tmp_path):
    """Spoken to line by line, as the tool does it: `src/worker/protocol.rs` defines what is said."""
    command = [sys.executable, "-m", "kernel_sweep._process", "measure", str(NUMPY), "faulty"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path)

    def ask(**request):
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    def arm(fault):
        return {"config": {"step": 4096, "fault": fault}, "program": None, "anchor": False}

    assert ask(ask="open", address="cpu", support=None) == {"reply": "opened"}
    refused = ask(ask="race", arms=[arm("none")], plan=RACE, seed=1)
    assert refused["results"]["verdicts"] == [{"verdict": "refused", "error": "no problem is prepared"}]
    x = {"name": "x", "element": "f32", "shape": [5000], "fill": {"Uniform": {"magnitude": 1.0}}, "file": None, "offset_bytes": 0}
    callable = {"file": str(NUMPY), "name": "faulty", "identity": "any"}
    task = {
        "name": "faulty n=5000",
        "inputs": [x],
        "awkward": None,
        "outputs": [{**x, "name": "y", "fill": "Nothing"}],
        "wanted": [{"file": None, "tolerance": {"relative": 1e-6, "absolute": 0.0}}],
        "host": None,
        "call": {"callable": callable, "dims": {"n": 5000}, "dtype": "f32"},
    }
    assert ask(ask="prepare", task=task, seed=7, reference=None)["reply"] == "prepared"
    raced = ask(ask="race", arms=[arm("none"), arm("build raises"), arm("wrong")], plan=RACE, seed=1)
    assert raced["reply"] == "race"
    assert [verdict["verdict"] for verdict in raced["results"]["verdicts"]] == ["timed", "unbuilt", "wrong"]
    assert ask(ask="control", known_good=arm("none")) == {"reply": "sound"}
    process.stdin.close()
    assert process.wait(10) == 0


def test_triton_is_compiled_ahead_without_a_gpu(sweep):
    pytest.importorskip("triton", reason="Triton's wheel is not installed: pip install triton, to compile its kernels ahead")
    done = sweep(
        "compile",
        "--gpu",
        "h200",
        "--family",
        f"{FAMILIES / 'triton_kernels.py'}:triton_add",
        "--json",
        TRITON_CACHE_DIR="triton",
    )
    if "no NVRTC" in done.stderr or "NVRTC" in done.stderr and not done.stdout:
        pytest.skip("no NVRTC at hand")
    counts = json.loads(done.stdout)["families"]["triton_add"]
    assert (counts["compiled"], counts["failed"]) == (2, 1), done.stderr


def test_a_served_config_is_tritons_own():
    triton = pytest.importorskip("triton", reason="Triton's wheel is not installed: pip install triton")
    family = ks.tuning.load(FAMILIES / "triton_kernels.py", "triton_add")
    made = ks.triton_config({"BLOCK": 256, "num_warps": 4}, family, {"n": 4096})
    assert isinstance(made, triton.Config) and made.all_kwargs() == {
        "BLOCK": 256,
        "TWICE": False,
        "num_warps": 4,
        "num_stages": 3,
        "num_ctas": 1,
    }
    template = {"template": {"BLOCK": 1024, "num_warps": 8}}
    document = {
        "schema_version": 2,
        "rules": [],
        "fallbacks": {"triton_add": {"all": template}},
        "policy": described_policy(family),
    }
    served = ks.triton_configs(ks.Heuristics.loads(json.dumps(document)), family)
    assert [config.kwargs["BLOCK"] for config in served] == [1024]


def described_policy(family):
    return {"families": {family.name: {"dims": family.dims, "dtypes": family.dtypes, "groups": [{"name": "all"}]}}}


def test_the_command_is_on_the_path():
    command = shutil.which("sweep", path=str(Path(sys.executable).parent))
    if command is None:
        pytest.skip("the package is not installed as a wheel here")
    assert "sweep" in subprocess.run([command, "--version"], capture_output=True, text=True).stdout


def test_a_package_that_is_missing_or_too_old_is_told_in_one_line(sweep, tmp_path):
    for package, family in (("triton", "TritonFamily(None, arguments=[], grid=[1])"), ("helion", "HelionFamily(None)")):
        path = tmp_path / f"of_{package}.py"
        path.write_text(f"import kernel_sweep as ks\nfamily = ks.{family}\n")
        # A package of that name that cannot be imported, and one of long ago.
        for version, wanted in ((None, f"pip install {package}"), ("0.1.0", "and this is 0.1.0")):
            folder = tmp_path / f"{package}-{version}"
            installed(folder, package, version, "raise ImportError" if version is None else f"__version__ = '{version}'")
            done = sweep(
                "--family", path, "--gpu", "cpu", PYTHONPATH=os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
            )
            assert done.returncode == 2 and "or later" in told(done) and wanted in told(done), done.stderr
