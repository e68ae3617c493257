"""What of the comparison with Helion needs no GPU: the order of a run, what it keeps, and the table."""

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import helion_examples
from helion_families import EXAMPLES


@pytest.fixture
def examples(tmp_path):
    folder = tmp_path / "examples"
    folder.mkdir()
    for example in EXAMPLES.values():
        (folder / f"{example.file}.py").touch()
    return folder


@pytest.fixture
def fakes(monkeypatch):
    """Tuners that take a fake clock's time, and a comparison that finds ours a tenth faster."""
    clock, log = SimpleNamespace(now=0.0), []

    def tuned(_kernel, _arguments):
        clock.now += 50.0
        return {"block_sizes": [16]}, 50.0

    def swept(names, first, end, _gpu, seconds, _output):
        clock.now += seconds
        log.append((names, first, end, seconds))
        answer = {"source": "measured", "config": {"block_sizes": [32]}}
        return {"seconds": seconds, "shapes": {name: {str(place): answer for place in range(first, end)} for name in names}}

    def compared(_torch, _sampler, _example, _kernel, _sets, configs):
        return {whose: {"median_us": 10.0 - (whose == "ours"), "samples": 1} for whose in configs}

    monkeypatch.setattr(helion_examples.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(helion_examples, "tuned_by_helion", tuned)
    monkeypatch.setattr(helion_examples, "swept", swept)
    monkeypatch.setattr(helion_examples, "compared", compared)
    monkeypatch.setattr(helion_examples, "tensors_of", lambda *_: [])
    monkeypatch.setattr(helion_examples, "machine", lambda _: {"gpu": "fake"})
    monkeypatch.setattr(helion_examples, "versions", dict)
    kernel = SimpleNamespace(reset=lambda: None)
    monkeypatch.setattr(helion_examples.helion_families, "kernel_of", lambda _: kernel)
    return SimpleNamespace(clock=clock, sweeps=log)


def arguments(examples, tmp_path, *more):
    output = ["--output", str(tmp_path / "report.json"), "--sweep-output", str(tmp_path / "sweep")]
    return helion_examples.parse(["--examples", str(examples), *output, *more])


def test_helion_tunes_every_shape_and_a_sweep_gets_a_fifth_of_that_for_all_of_them(examples, tmp_path, fakes):
    rows = helion_examples.run(arguments(examples, tmp_path, "--kernel", "matmul,add", "--shapes", "1:4"), None, None)
    assert [(row["kernel"], row["shape"]) for row in rows] == [(name, shape) for name in ("matmul", "add") for shape in (1, 2, 3)]
    assert fakes.sweeps == [(["matmul", "add"], 1, 4, 60.0)]
    assert all(row["sweep_seconds"] == 10.0 and row["configs"]["ours"] == {"block_sizes": [32]} for row in rows)
    text = helion_examples.markdown(rows)
    assert "| matmul | m 16, n 4096, k 4096 | 9.0 | 10.0 | 0.900 | 10.0 | 50.0 | 0.20 |" in text
    assert "all: 0.900 of 6 shapes, 0 failed" in text


@pytest.mark.parametrize(("until", "rows_until_then"), [(100, 0), (210, 0), (235, 0), (250, 4)])
def test_a_run_that_ends_in_time_is_gone_on_with(examples, tmp_path, fakes, until, rows_until_then):
    options = ("--kernel", "matmul,int4", "--shapes", "0:2")
    cut = helion_examples.run(arguments(examples, tmp_path, *options, "--until", str(until)), None, None)
    assert len(cut) == rows_until_then and fakes.clock.now <= until
    assert json.loads((tmp_path / "report.json").read_text())["rows"] == cut
    whole = helion_examples.run(arguments(examples, tmp_path, *options), None, None)
    assert [(row["kernel"], row["shape"]) for row in whole] == [("matmul", 0), ("matmul", 1), ("int4", 0), ("int4", 1)]
    assert whole[: len(cut)] == cut
    assert fakes.clock.now == 4 * 50.0 + 40.0, "what was found is known"


def test_what_fails_on_either_side_is_told_and_ours_is_counted(examples, tmp_path, fakes, monkeypatch):
    def raises(*_):
        raise RuntimeError("no config\nworks")

    add = arguments(examples, tmp_path, "--kernel", "add", "--shapes", "0:1")
    with monkeypatch.context() as failing:
        failing.setattr(helion_examples, "swept", raises)
        rows = helion_examples.run(add, None, None)
    assert helion_examples.failures(rows) == 1 and helion_examples.ratio(rows[0]) is None
    assert "| add | rows 1024, cols 1024 | none | 10.0 | – |" in helion_examples.markdown(rows)
    again = helion_examples.run(add, None, None)
    assert helion_examples.failures(again) == 0 and len(again) == 1, "a sweep that failed is made again"
    monkeypatch.setattr(helion_examples, "tuned_by_helion", raises)
    rows = helion_examples.run(arguments(examples, tmp_path, "--kernel", "int4", "--shapes", "0:1"), None, None)
    assert "RuntimeError: no config works" in helion_examples.line(rows[-1])


def test_every_example_has_five_shapes_of_its_dims_within_memory():
    for name, example in EXAMPLES.items():
        assert len(set(example.shapes)) >= 5, name
        for problem in example.problems:
            assert list(problem) == list(example.dims), name
            assert all(math.prod(pair) < 2**31 for pair in zip(problem.values(), list(problem.values())[1:])), name


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--kernel", "nothing"], "no kernel 'nothing'"),
        (["--shapes", "3"], "FIRST:END"),
        (["--shapes", "7:9"], "no more than"),
        (["--examples", "/nowhere"], "holds no matmul.py"),
    ],
)
def test_what_is_wrong_on_the_command_line_is_told(examples, tmp_path, capsys, options, told):
    with pytest.raises(SystemExit):
        arguments(examples, tmp_path, *options)
    assert told in capsys.readouterr().err
