"""What of the comparison needs no GPU: a run with a fake timer and a fake sweep, targets, and the table."""

import json
import stat
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import peers

FAKE_SWEEP = """#!{python}
import sys, tomllib
arguments = dict(zip(sys.argv[2:], sys.argv[3:]))
if arguments["--family"] == "attention": sys.exit(1)
problems = tomllib.load(open(arguments["--shapes"], "rb"))["problem"]
config = {{"block_sizes": [1]}}
import json
print(json.dumps({{"problems": [{{"pick": config, "source": "rule", "pick_us": 20.0}} for _ in problems]}}))
"""


class Timer:
    """Every call takes ten times as long as it says."""

    def median_us(self, call, _deadline):
        return 10.0 * call()


@pytest.fixture
def sweep(tmp_path):
    path = tmp_path / "sweep"
    path.write_text(FAKE_SWEEP.format(python=sys.executable))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def report(sweep, monkeypatch):
    def calls(_torch, work):
        if work.family == "attention":
            return {"cuDNN": lambda: 3.0, "flash": lambda: 2.0}
        if work.family == "row_softmax":
            return {"peer": lambda: 4.0, peers.COPY: lambda: 1.9}
        return {"peer": lambda: 1.0}

    monkeypatch.setattr(peers, "peer_calls", calls)
    monkeypatch.setattr(peers, "copy_terabytes_per_s", lambda *_: 4.0)
    monkeypatch.setattr(peers, "machine", lambda _: {"gpu": "fake"})
    torch = SimpleNamespace(cuda=SimpleNamespace(empty_cache=lambda: None))
    return peers.run(peers.parse(["--sweep", str(sweep)]), torch, Timer())


def rows_of(report, family):
    return [row for row in report["works"] if row["family"] == family]


def test_every_work_has_a_row_and_ratios_are_the_peer_over_ours(report):
    works = peers.read_works(peers.FAMILIES)
    assert [(row["family"], row["problem"]) for row in report["works"]] == [
        (work.family, dict(work.dimensions)) for work in works
    ]
    assert all(row["ratio"] == 2.0 and row["config"] for row in rows_of(report, "row_softmax"))
    assert all((row["peer"], row["copy_us"], row["copy_ratio"]) == ("peer", 19.0, 0.95) for row in rows_of(report, "row_softmax"))
    assert all(row["ratio"] == 0.5 and row["peer_passes_us"] == {"peer": [10.0, 10.0]} for row in rows_of(report, "matmul"))
    assert report["geomeans"]["elementwise"] == pytest.approx(0.5)


def test_a_family_that_fails_has_no_times_and_the_faster_peer_still_shows(report):
    rows = rows_of(report, "attention")
    assert all(row["ours_us"] is None and row["ratio"] is None and row["reached"] is None for row in rows)
    assert all((row["peer"], row["peer_us"], row["error"]) == ("flash", 20.0, "not measured") for row in rows)
    assert "attention" not in report["geomeans"]


def test_a_family_that_was_not_done_goes_on_with_what_the_others_left(monkeypatch):
    calls = []

    def evaluate(_sweep, _gpu, family, _output, _deadline, fresh):
        calls.append((family, fresh))
        done = family == "elementwise" or not fresh
        return {work: {"pick_us": 1.0 if done else None} for work in peers.read_works([family])}

    monkeypatch.setattr(peers, "evaluate", evaluate)
    found = peers.time_ours(None, "h200", ["matmul", "elementwise"], None, 100.0)
    assert calls == [("matmul", True), ("elementwise", True), ("matmul", False)]
    assert all(work["pick_us"] == 1.0 for work in found.values())


def test_targets_are_met_or_not(report):
    reached = {(row["family"], *row["problem"].values()): row.get("reached") for row in report["works"]}
    assert reached["matmul_int4", 16, 28672, 8192] is True  # 20 of 45 us
    assert reached["matmul_int4", 16, 4096, 4096] is False  # 20 of 8.5 us
    assert reached["elementwise", 1 << 20] is False  # half as fast
    assert reached["row_softmax", 8192, 32768] is True  # 1.07 GB in 20 us


def test_the_table_has_a_line_for_each_work(report):
    lines = peers.markdown(report).splitlines()
    assert len([line for line in lines if line.startswith("|")]) == 2 + len(report["works"])
    assert "| matmul_int4 16 × 28672 × 8192 | 20.0 | peer | 10.0 | 0.50 | – | ≤ 45.0 µs ✓ |" in lines
    assert any("| 2.00 | 0.95 |" in line for line in lines if line.startswith("| row_softmax"))
    assert "| attention 1 × 4 × 16 × 16384 × 64 | – | flash | 20.0 | – | – | ≥ 1.20 × |" in lines
    json.dumps(peers.round_floats(report))


@pytest.mark.parametrize("arguments", [["--sweep", "/nowhere"], ["--sweep", __file__, "--family", "conv"], []])
def test_wrong_arguments_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as refused:
        peers.parse(arguments)
    assert refused.value.code == 2
    assert arguments[-1:] == [] or arguments[-1] in capsys.readouterr().err


def test_a_sample_that_the_gpu_did_not_wait_for_is_taken_again():
    held = iter([True, True, False])

    class Event:
        def __init__(self, enable_timing):
            pass

        def record(self):
            pass

        def query(self):
            return next(held)

        def synchronize(self):
            pass

        def elapsed_time(self, _end):
            return 0.005

    cuda = SimpleNamespace(Event=Event, synchronize=lambda: None, _sleep=lambda _: None)
    sampler = peers.Sampler(SimpleNamespace(cuda=cuda), SimpleNamespace(zero_=lambda: None), hold_cycles=100)
    assert sampler.sample_us(lambda: None) == pytest.approx(5.0)
    assert sampler.hold_cycles == 400
