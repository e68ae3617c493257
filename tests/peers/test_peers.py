"""What of the comparison needs no GPU: a run with a fake timer and a fake sweep, targets, and the table."""

import contextlib
import itertools
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
import json
if "--random" in arguments:
    numel, types = 1000 + int(arguments["--seed"]), ["bf16", "f16", "f32"]
    drawn = [f"numel={{numel}} {{types[place % 3]}}" for place in range(int(arguments["--random"]))]
    print(json.dumps({{"problems": [{{"problem": problem}} for problem in drawn]}}))
    sys.exit(0)
problems = tomllib.load(open(arguments["--shapes"], "rb"))["problem"]
config = {{"block_sizes": [1]}}
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
def peers_that_are_fake(monkeypatch):
    def calls(_torch, work):
        if work.family == "attention":
            return {"cuDNN": lambda: 3.0, "flash": lambda: 2.0}
        if work.family == "row_softmax":
            return {"peer": lambda: 4.0, peers.COPY: lambda: 1.9}
        return {"peer": lambda: 1.0}

    monkeypatch.setattr(peers, "peer_calls", calls)
    monkeypatch.setattr(peers, "copy_terabytes_per_s", lambda *_: 4.0)
    monkeypatch.setattr(peers, "machine", lambda _: {"gpu": "fake"})


def run(sweep, *arguments):
    torch = SimpleNamespace(cuda=SimpleNamespace(empty_cache=lambda: None))
    return peers.run(peers.parse(["--sweep", str(sweep), *map(str, arguments)]), torch, Timer())


@pytest.fixture
def report(sweep, peers_that_are_fake):
    return run(sweep)


def rows_of(report, family):
    return [row for row in report["works"] if row["family"] == family]


def test_every_work_has_a_row_and_ratios_are_the_peer_over_ours(report):
    works = peers.read_works(peers.FAMILIES)
    assert [(row["family"], row["problem"]) for row in report["works"]] == [
        (work.family, dict(work.dimensions)) for work in works
    ]
    assert all(row["ratio"] == row["served_ratio"] == 2.0 and row["config"] for row in rows_of(report, "row_softmax"))
    assert all((row["peer"], row["copy_us"], row["copy_ratio"]) == ("peer", 19.0, 0.95) for row in rows_of(report, "row_softmax"))
    assert all(row["ratio"] == 0.5 and row["peer_passes_us"] == {"peer": [10.0, 10.0]} for row in rows_of(report, "matmul"))
    assert report["geomeans"]["elementwise"] == report["served_geomeans"]["elementwise"] == pytest.approx(0.5)


def test_a_family_that_fails_has_no_times_and_the_faster_peer_still_shows(report):
    rows = rows_of(report, "attention")
    assert all(row["ours_us"] is None and row["ratio"] is None and row["reached"] is None for row in rows)
    assert all((row["peer"], row["peer_us"], row["error"]) == ("flash", 20.0, "not measured") for row in rows)
    assert "attention" not in report["geomeans"]


def test_a_family_that_was_not_done_goes_on_with_what_the_others_left(monkeypatch):
    calls = []

    works = {family: peers.read_works([family]) for family in ("matmul", "elementwise")}

    def evaluate(_sweep, _gpu, family, _shapes, _output, _deadline, fresh):
        calls.append((family, fresh))
        done = family == "elementwise" or not fresh
        return [{"pick_us": 1.0 if done else None} for _ in works[family]]

    monkeypatch.setattr(peers, "evaluate", evaluate)
    found = peers.time_ours(None, "h200", works, peers.SHAPES, None, 100.0)
    assert len(found) == len(works["matmul"]) + len(works["elementwise"])
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
    assert "| matmul_int4 16 × 28672 × 8192 | 20.0 | peer | 10.0 | 0.50 | 0.50 | – | ≤ 45.0 µs ✓ |" in lines
    assert any("| 2.00 | 2.00 | 0.95 |" in line for line in lines if line.startswith("| row_softmax"))
    assert "| attention 1 × 4 × 16 × 16384 × 64 | – | flash | 20.0 | – | – | – | ≥ 1.20 × |" in lines
    json.dumps(peers.round_floats(report))


def test_other_shapes_files_and_random_shapes_have_no_aims(sweep, peers_that_are_fake, tmp_path):
    (tmp_path / "elementwise.toml").write_text('[[problem]]\nnumel = 4096\ndtype = "f32"\nfrom = "a model"\n')
    (row,) = run(sweep, "--family", "elementwise", "--shapes", tmp_path)["works"]
    assert (row["problem"], row["dtype"], row["ratio"]) == ({"numel": 4096}, "f32", 0.5) and "target" not in row
    report = run(sweep, "--family", "elementwise", "--random", 3, "--seed", 7)
    assert [row["problem"] for row in report["works"]] == [{"numel": 1007}] * 3
    assert [row["dtype"] for row in report["works"]] == ["bf16", "f16", "f32"], "of all types of the family"
    assert (report["random"], report["protocol"]) == ({"problems": 3, "seed": 7}, "cold-l2/2")
    assert all(row["served_ratio"] == 0.5 and "target" not in row for row in report["works"])
    for work in ("elementwise 1007", "elementwise 1007 f16", "elementwise 1007 f32"):
        assert f"| {work} | 20.0 | peer | 10.0 | 0.50 | 0.50 | – | – |" in peers.markdown(report)


def test_calls_take_turns_on_several_sets_of_tensors(monkeypatch):
    made = itertools.count()

    def calls(_torch, _work):
        number = next(made)
        return {"one": lambda: ("one", number), "other": lambda: ("other", number)}

    monkeypatch.setattr(peers, "peer_calls", calls)
    rotating = peers.rotating_calls(None, None)
    assert peers.SETS >= 4
    for name in ("one", "other"):
        assert [rotating[name]() for _ in range(peers.SETS + 1)] == [(name, turn % peers.SETS) for turn in range(peers.SETS + 1)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--sweep"),
        (["--sweep", "/nowhere"], "/nowhere"),
        (["--sweep", __file__, "--family", "conv"], "conv"),
        (["--sweep", __file__, "--random", "0"], "--random 0"),
        (["--sweep", __file__, "--shapes", "/nowhere"], "/nowhere: it holds no matmul.toml"),
        (["--sweep", __file__, "--shapes", "/nowhere", "--random", "3"], "not allowed with"),
    ],
)
def test_wrong_arguments_are_refused(arguments, said, capsys):
    with pytest.raises(SystemExit) as refused:
        peers.parse(arguments)
    assert refused.value.code == 2
    assert said in capsys.readouterr().err


def test_a_sample_that_the_gpu_did_not_wait_for_is_taken_again_and_each_is_flushed_by_reading():
    held = iter([True, True, False])
    queue = []

    class Event:
        def __init__(self, enable_timing):
            pass

        def record(self):
            queue.append("event")

        def query(self):
            return next(held)

        def synchronize(self):
            pass

        def elapsed_time(self, _end):
            return 0.005

    cuda = SimpleNamespace(Event=Event, synchronize=lambda: None, _sleep=lambda _: queue.append("hold"))

    def read(foreign, _axis, out):
        assert (foreign, out) == ("foreign", "sum")
        queue.append("read")

    sampler = peers.Sampler(SimpleNamespace(cuda=cuda, sum=read), "foreign", "sum", hold_cycles=100)
    assert sampler.sample_us(lambda: queue.append("call")) == pytest.approx(5.0)
    assert sampler.hold_cycles == 400
    assert queue == 3 * ["hold", "event", "read", "event", "call", "event"]


def test_the_energy_of_a_launch_is_that_of_a_while_over_its_launches(monkeypatch):
    clock = itertools.count(step=0.25)
    launches = []

    class Graph:
        def replay(self):
            launches.extend(["launch"] * peers.GRAPH_LAUNCHES)

    stream = SimpleNamespace(synchronize=lambda: None)
    cuda = SimpleNamespace(
        Stream=lambda: stream,
        stream=lambda _: contextlib.nullcontext(),
        CUDAGraph=Graph,
        graph=lambda _: contextlib.nullcontext(),
        synchronize=lambda: None,
    )
    nvml = SimpleNamespace(joules=lambda: 0.5 * len(launches))
    monkeypatch.setattr(peers.time, "monotonic", lambda: next(clock))
    calls = []
    assert peers.joules_a_launch(SimpleNamespace(cuda=cuda), nvml, lambda: calls.append(1)) == pytest.approx(0.5)
    assert len(calls) == peers.SETS + peers.GRAPH_LAUNCHES  # once each before the graph, and into it


def test_energy_stands_beside_the_times_of_what_can_be_called(report, monkeypatch):
    monkeypatch.setattr(peers, "served_call", lambda *_: "served")
    monkeypatch.setattr(peers, "joules_a_launch", lambda _torch, _nvml, call: 0.25 if call == "served" else 0.5)
    peers.add_joules(report["works"], peers.read_works(peers.FAMILIES), None, None, None)
    assert all(row["joules"] == {"served": 0.25, "peer": 0.5} for row in rows_of(report, "matmul"))
    assert not any("joules" in row for row in rows_of(report, "matmul_fp8"))
    lines = peers.markdown(report).splitlines()
    assert lines[0].endswith("| served, mJ | peer, mJ |") and {line.count("|") for line in lines[:40]} == {11}
    assert "| matmul_int4 16 × 28672 × 8192 | 20.0 | peer | 10.0 | 0.50 | 0.50 | – | ≤ 45.0 µs ✓ | 250.00 | 500.00 |" in lines


def test_variants_are_named_where_they_are(report):
    shapes = [line.split(" | ")[0] for line in peers.markdown(report).splitlines()]
    assert "| matmul_int4_group 16 × 8192 × 8192 group=64 zero_points=1" in shapes
    assert "| attention 1 × 32 × 4096 × 4096 × 128 kv_heads=8 causal=1" in shapes
