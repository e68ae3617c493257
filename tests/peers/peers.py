#!/usr/bin/env python3
"""Times the kernels that this project serves beside those of PyTorch, on one GPU in one run.

    python3 tests/peers/peers.py --sweep target/release/sweep [--gpu h200] [--output output/h200/peers.json]
        [--shapes FOLDER | --random N [--seed S]] [--joules]

The works are those of `shapes/`, of another folder of shapes files, or random ones of the families' domains, which
`sweep evaluate --random` draws. It runs from any folder, needs PyTorch with CUDA and the `sweep` binary, and takes at most --seconds (300): the peers are
timed for at most a quarter of that before ours and as long again after, and what is left is dealt out to our families, by
how many works each has, as deadlines. What a family leaves goes to those after it, and what all leave to those that are not
done. A family that misses its deadline has no times, and the table says so.

Softmax and addition are also set beside a copy of as many bytes, `copy_us`: what the memory takes at that size, launch and
all.

Peers are torch.matmul (cuBLAS; for quantized weights in the type of their activations), for int4 with group scales also torch's
own kernel (_weight_int4pack_mm), torch._scaled_mm for 8-bit floats (cuBLASLt, with sums as exact as ours: no use_fast_accum),
scaled_dot_product_attention with each backend, torch.softmax and torch.add. Both sides use one protocol, `cold-l2/2`: hold the stream and read a foreign buffer of twice the L2
cache, which leaves that full of clean lines (a flush by writing leaves dirty ones, whose write-back the kernel would pay), event,
launch, event; the median counts. Tensors lie in SETS places, which take turns. Both sides are timed on a GPU under load, at the
clocks that its power limit leaves. Ours come from `sweep evaluate`, which searches the space of each shape and races the best
with what the document serves for it. Peers are timed before and after ours, and the times of both passes are kept, so that drift
shows.

With --joules the energy of a launch stands beside its time: what is served, called by kernel_sweep.ops, which has to be
installed, and the fastest peer, each launched back to back for JOULES_SECONDS, over which the GPU's own counter is read (NVML's
total energy consumption).

A Markdown table goes to stdout, everything to --output.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import itertools
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

SHAPES = Path(__file__).resolve().parent / "shapes"
VARIANTS = ("kv_heads", "causal", "window")
SCALES = ("scale_block", "group", "zero_points")
FAMILIES = [
    "matmul",
    "matmul_int4",
    "matmul_fp4",
    "matmul_int16",
    "matmul_int4_group",
    "matmul_nvfp4",
    "matmul_mxfp4",
    "matmul_fp8",
    "attention",
    "row_softmax",
    "elementwise",
]
PROTOCOL = "cold-l2/2"
SETS = 4
SAMPLES = 40
MIN_SAMPLES = 5
WARM_UP_SECONDS = 0.5
SETTLE_SECONDS = 1.0
LONG_US = 100.0
JOULES_SECONDS = 0.5
GRAPH_LAUNCHES = 16
COPY = "copy"  # the call that is no peer but the bound


@dataclass(frozen=True)
class Work:
    """One problem of one family."""

    family: str
    dimensions: tuple[tuple[str, int], ...]
    dtype: str = "bf16"

    def __getitem__(self, name: str) -> int:
        return dict(self.dimensions)[name]

    def variant(self, name: str, plain: int) -> int:
        """A dimension that only some problems of the family have."""
        return dict(self.dimensions).get(name, plain)

    @property
    def shape(self) -> str:
        """The sizes, of variants with their names."""
        named = [name for name, _ in self.dimensions if name in VARIANTS + SCALES]
        plain = " × ".join(str(value) for name, value in self.dimensions if name not in named)
        return " ".join([plain] + [f"{name}={self[name]}" for name in named])

    @property
    def is_decode(self) -> bool:
        return self.family == "attention" and self["q_seq"] != self["kv_seq"]

    @property
    def is_shared_decode(self) -> bool:
        """Few queries of heads that share keys: bound by reading keys and values once."""
        return self.is_decode and self["q_seq"] <= 16 and self.variant("kv_heads", self["heads"]) < self["heads"]

    @property
    def streamed_bytes(self) -> int:
        """The fewest bytes that a work bound by memory moves; of decoding those of keys and values alone."""
        if self.family == "attention":
            keys = min(self["kv_seq"], self.variant("window", self["kv_seq"]) + self["q_seq"] - 1)
            return 4 * self["batch"] * self.variant("kv_heads", self["heads"]) * keys * self["head_dim"]
        elements = 2 * self["rows"] * self["cols"] if self.family == "row_softmax" else 3 * self["numel"]
        return elements * (4 if self.dtype == "f32" else 2)


def read_works(families: list[str], shapes: Path = SHAPES) -> list[Work]:
    """The works of the families' shapes files."""
    works = []
    for family in families:
        for problem in tomllib.loads((shapes / f"{family}.toml").read_text())["problem"]:
            dtype = problem.pop("dtype", "fp8" if family == "matmul_fp8" else "bf16")
            problem.pop("from", None)
            works.append(Work(family, tuple(problem.items()), dtype))
    return works


def draw_shapes(sweep: Path, gpu: str, families: list[str], output: Path, count: int, seed: int, folder: Path) -> None:
    """Writes shapes files of the problems that `sweep evaluate --random` draws, which a budget of nothing lists."""
    for family in families:
        command = [sweep, "evaluate", "--gpu", gpu, "--family", family, "--random", str(count), "--seed", str(seed)]
        command += ["--output", output, "--json", "--budget", "1ms"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if not done.stdout.strip():
            raise SystemExit(f"{family}: sweep evaluate --random ended with {done.returncode}")
        lines = []
        for problem in json.loads(done.stdout)["problems"]:
            dimensions, dtype = problem["problem"].split()
            lines += ["[[problem]]", *dimensions.split(","), f'dtype = "{dtype}"']
        (folder / f"{family}.toml").write_text("\n".join(lines) + "\n")


# ---- The peers ----


@dataclass
class Sampler:
    """Times one call after another with cold caches on the current CUDA stream."""

    torch: object
    foreign: object
    sum: object
    hold_cycles: int = 20_000

    @classmethod
    def open(cls, torch) -> Sampler:
        l2_bytes = torch.cuda.get_device_properties(0).L2_cache_size
        foreign = torch.zeros(2 * l2_bytes // 4, dtype=torch.float32, device="cuda")
        sampler = cls(torch, foreign, torch.zeros((), dtype=torch.float32, device="cuda"))
        warm = time.monotonic() + WARM_UP_SECONDS
        while time.monotonic() < warm:  # clocks rise under load
            sampler.flush()
            torch.cuda.synchronize()
        return sampler

    def flush(self) -> None:
        """Leaves L2 full of foreign lines, clean but for the few bytes of a sum."""
        self.torch.sum(self.foreign, 0, out=self.sum)

    def sample_us(self, call: Callable[[], object]) -> float:
        """One sample; taken again, with the stream held longer, where the GPU did not wait for the host."""
        cuda = self.torch.cuda
        while True:
            held, start, end = (cuda.Event(enable_timing=True) for _ in range(3))
            cuda.synchronize()
            cuda._sleep(self.hold_cycles)
            held.record()
            self.flush()
            start.record()
            call()
            end.record()
            queued_in_time = not held.query()
            end.synchronize()
            if queued_in_time:
                return start.elapsed_time(end) * 1e3
            self.hold_cycles *= 2

    def median_us(self, call: Callable[[], object], deadline: float) -> float:
        """The median of SAMPLES samples, or of as many as the deadline leaves time for, and at least MIN_SAMPLES.

        What takes long brings the GPU to its power limit, where clocks fall. Ours are timed after a search has done so; a
        long call is therefore repeated for SETTLE_SECONDS before it counts.
        """
        for _ in range(SETS):
            call()
        if self.sample_us(call) > LONG_US:
            now = time.monotonic()
            settled = now + min(SETTLE_SECONDS, (deadline - now) / 2)
            while time.monotonic() < settled:
                self.sample_us(call)
        times: list[float] = []
        while len(times) < MIN_SAMPLES or (len(times) < SAMPLES and time.monotonic() < deadline):
            times.append(self.sample_us(call))
        return statistics.median(times)


def rotating_calls(torch, work: Work) -> dict[str, Callable[[], object]]:
    """The calls that do the work, by their names, each on SETS sets of tensors in turn: where they lie is nobody's luck."""

    def rotating(calls):
        turns = itertools.cycle(calls)
        return lambda: next(turns)()

    sets = [peer_calls(torch, work) for _ in range(SETS)]
    return {name: rotating([calls[name] for calls in sets]) for name in sets[0]}


def uniform(torch, work: Work, *shape: int):
    """A tensor of the work's type, filled as `sweep` fills it."""
    dtype = {"f32": torch.float32, "f16": torch.float16}.get(work.dtype, torch.bfloat16)
    return torch.empty(*shape, dtype=dtype, device="cuda").uniform_(-1, 1)


def peer_calls(torch, work: Work) -> dict[str, Callable[[], object]]:
    """The calls that do the work on one set of tensors; for work bound by memory also the copy that moves as many bytes."""

    def copy():
        source = torch.empty(work.streamed_bytes // 2, dtype=torch.int8, device="cuda")
        target = torch.empty_like(source)
        return lambda: target.copy_(source)

    tensor = functools.partial(uniform, torch, work)
    if work.family == "elementwise":
        x, y = tensor(work["numel"]), tensor(work["numel"])
        out = torch.empty_like(x)
        return {"torch.add": lambda: torch.add(x, y, out=out), COPY: copy()}
    if work.family == "row_softmax":
        x = tensor(work["rows"], work["cols"])
        return {"torch.softmax": lambda: torch.softmax(x, -1), COPY: copy()}
    if work.family == "attention":
        calls = attention_calls(torch, work, tensor)
        return calls | {COPY: copy()} if work.is_shared_decode else calls
    if work.family == "matmul_fp8":
        return scaled_calls(torch, work)
    a, b = tensor(work["m"], work["k"]), tensor(work["k"], work["n"])
    out = tensor(work["m"], work["n"])
    calls = {"cuBLAS": lambda: torch.matmul(a, b, out=out)}
    if work.family == "matmul_int4_group" and work.dtype == "bf16":
        calls |= int4_calls(torch, work, a)
    return calls


def int4_calls(torch, work: Work, a) -> dict[str, Callable[[], object]]:
    """Torch's own product with int4 weights in groups, where it takes the shape; it has a zero point for each scale."""
    n, k, group = work["n"], work["k"], work.variant("group", 128)
    if group == 0 or n % 64 or k % max(group, 128):
        return {}
    bytes_of_b = torch.randint(0, 256, (n, k // 2), dtype=torch.uint8, device="cuda")
    packed = torch._convert_weight_to_int4pack(bytes_of_b, 8)
    scales_and_zeros = torch.empty(k // group, n, 2, dtype=torch.bfloat16, device="cuda").uniform_(0.01, 0.1)
    return {"torch int4": lambda: torch._weight_int4pack_mm(a, packed, group, scales_and_zeros)}


def scaled_calls(torch, work: Work) -> dict[str, Callable[[], object]]:
    """The product of 8-bit floats, whose second operand is column-major, with scales as ours lie in memory."""
    m, n, k = work["m"], work["n"], work["k"]

    def operand(rows: int):
        return torch.empty(rows, k, dtype=torch.bfloat16, device="cuda").uniform_(-448, 448).to(torch.float8_e4m3fn)

    def scales(*shape: int):
        return torch.empty(shape, dtype=torch.float32, device="cuda").uniform_(2**-10, 2**-7)

    a, b = operand(m), operand(n).t()
    scale_block = dict(work.dimensions).get("scale_block", 0)
    if scale_block == 128:
        blocks_n, blocks_k = -(-n // 128), -(-k // 128)
        # cuBLASLt wants lines of whole fours.
        of_b = scales(blocks_n, -(-blocks_k // 4) * 4)[:, :blocks_k]
        of_a, of_b = scales(blocks_k, m).t(), of_b.t()
    elif scale_block == 1:
        of_a, of_b = scales(m, 1), scales(1, n)
    else:
        of_a, of_b = scales(), scales()
    return {"cuBLASLt": lambda: torch._scaled_mm(a, b, of_a, of_b, out_dtype=torch.bfloat16, use_fast_accum=False)}


def attention_calls(torch, work: Work, tensor) -> dict[str, Callable[[], object]]:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.attention.bias import causal_lower_right
    from torch.nn.functional import scaled_dot_product_attention

    kv_heads, q_seq, kv_seq = work.variant("kv_heads", work["heads"]), work["q_seq"], work["kv_seq"]
    q = tensor(work["batch"], work["heads"], q_seq, work["head_dim"])
    k, v = (tensor(work["batch"], kv_heads, kv_seq, work["head_dim"]) for _ in range(2))
    options = {"enable_gqa": True} if kv_heads < work["heads"] else {}
    if window := work.variant("window", 0):
        keys = torch.arange(kv_seq, device="cuda")
        ahead = torch.arange(kv_seq - q_seq, kv_seq, device="cuda")[:, None] - keys
        options["attn_mask"] = (ahead >= 0) & (ahead < window)
    elif work.variant("causal", 0):
        if q_seq == kv_seq:
            options["is_causal"] = True
        else:  # is_causal would begin where the sequences do
            options["attn_mask"] = causal_lower_right(q_seq, kv_seq)

    def attention():
        return scaled_dot_product_attention(q, k, v, **options)

    def with_backend(backend):
        def call():
            with sdpa_kernel(backend):
                return attention()

        return call

    calls = {"cuDNN": with_backend(SDPBackend.CUDNN_ATTENTION), "flash": with_backend(SDPBackend.FLASH_ATTENTION)}
    if work.is_decode or window:
        calls["torch default"] = attention
    return calls


def time_peers(works: list[Work], seconds: float, torch, sampler) -> dict[Work, dict[str, float]]:
    """Median times of every peer of every work. Works share `seconds` evenly, the rest going to those that follow."""
    end = time.monotonic() + seconds
    times: dict[Work, dict[str, float]] = {}
    for index, work in enumerate(works):
        key = peer_key(work)
        if key in times:
            continue
        share = (end - time.monotonic()) / (len(works) - index)
        calls = rotating_calls(torch, work)
        times[key] = {}
        for name, call in calls.items():
            try:
                times[key][name] = sampler.median_us(call, time.monotonic() + share / len(calls))
            except RuntimeError as error:  # a backend that does not take this shape
                print(f"{name} on {work.family} {work.shape}: {str(error).splitlines()[0]}", file=sys.stderr)
    return times


def peer_key(work: Work) -> Work:
    """Products with quantized weights share the peer of the plain one."""
    shares = work.family in ("matmul_int4", "matmul_fp4", "matmul_int16", "matmul_nvfp4", "matmul_mxfp4")
    return Work("matmul", work.dimensions, work.dtype) if shares else work


def copy_terabytes_per_s(torch, sampler) -> float:
    """What a copy of 512 MiB on the device moves, reads and writes together."""
    source = torch.empty(1 << 29, dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / sampler.median_us(lambda: target.copy_(source), time.monotonic() + 2) / 1e6


# ---- Energy ----


class Nvml:
    """The energy counter of the GPU that torch has first, in joules."""

    def __init__(self, torch):
        self._library = ctypes.CDLL("libnvidia-ml.so.1")
        self._device = ctypes.c_void_p()
        uuid = f"GPU-{torch.cuda.get_device_properties(0).uuid}".encode()
        self._checked(self._library.nvmlInit_v2())
        self._checked(self._library.nvmlDeviceGetHandleByUUID(uuid, ctypes.byref(self._device)))

    def joules(self) -> float:
        millijoules = ctypes.c_ulonglong()
        self._checked(self._library.nvmlDeviceGetTotalEnergyConsumption(self._device, ctypes.byref(millijoules)))
        return millijoules.value / 1e3

    @staticmethod
    def _checked(status: int) -> None:
        if status:
            raise RuntimeError(f"NVML answers {status}")


def joules_a_launch(torch, nvml, call: Callable[[], object]) -> float:
    """Of launches back to back, once the clocks have settled for as long as is measured.

    They are replayed from a graph, so that no kernel is too short for the host to keep the GPU busy. What fits into L2 stays there.
    """
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(SETS):
            call()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(GRAPH_LAUNCHES):
            call()

    def launch_for(seconds: float) -> int:
        launches, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:
            for _ in range(SETS):
                graph.replay()
            torch.cuda.synchronize()
            launches += SETS * GRAPH_LAUNCHES
        return launches

    launch_for(JOULES_SECONDS)
    before = nvml.joules()
    launches = launch_for(JOULES_SECONDS)
    return (nvml.joules() - before) / launches


def served_call(torch, ops, work: Work) -> Callable[[], object]:
    """What is served for the work, on one set of tensors."""

    tensor = functools.partial(uniform, torch, work)

    def whole(dtype, *shape: int):
        return torch.randint(0, 100, shape, device="cuda").to(dtype)

    if work.family == "elementwise":
        x, y = tensor(work["numel"]), tensor(work["numel"])
        return lambda: ops.add(x, y)
    if work.family == "row_softmax":
        x = tensor(work["rows"], work["cols"])
        return lambda: ops.row_softmax(x)
    if work.family == "attention":
        q = tensor(work["batch"], work["heads"], work["q_seq"], work["head_dim"])
        kv_heads = work.variant("kv_heads", work["heads"])
        k, v = (tensor(work["batch"], kv_heads, work["kv_seq"], work["head_dim"]) for _ in range(2))
        options = {"causal": bool(work.variant("causal", 0)), "window": work.variant("window", 0) or None}
        return lambda: ops.attention(q, k, v, **options)
    m, n, k = work["m"], work["n"], work["k"]
    a = tensor(m, k)
    if work.family == "matmul":
        b = tensor(k, n)
        return lambda: ops.matmul(a, b)
    if work.family == "matmul_int16":
        b = whole(torch.int16, k, n)
        return lambda: ops.matmul_int16(a, b)
    product, b = getattr(ops, work.family), whole(torch.uint8, -(-k // 2), n)
    scales = ()
    if work.family == "matmul_int4_group":
        scales = (tensor(-(-k // (work.variant("group", 128) or k)), n),)
    elif work.family == "matmul_nvfp4":
        scales = (whole(torch.uint8, -(-k // 16), n), torch.ones(1, device="cuda"))
    elif work.family == "matmul_mxfp4":
        scales = (whole(torch.uint8, -(-k // 32), n),)
    return lambda: product(a, b, *scales)


def add_joules(rows: list[dict], works: list[Work], torch, ops, nvml) -> None:
    """The energy of a launch of what is served and of the fastest peer, where both can be launched from Python."""
    for work, row in zip(works, rows, strict=True):
        if row["peer"] is None or work.family == "matmul_fp8" or work.variant("zero_points", 0):
            continue
        peer, served = peer_calls(torch, work)[row["peer"]], served_call(torch, ops, work)
        row["joules"] = {"served": joules_a_launch(torch, nvml, served), "peer": joules_a_launch(torch, nvml, peer)}


# ---- Ours ----


def time_ours(
    sweep: Path, gpu: str, works: dict[str, list[Work]], shapes: Path, output: Path, seconds: float
) -> dict[Work, dict]:
    """What `sweep evaluate` measured, by work. Families that were not done in the first round go on in the second."""
    end = time.monotonic() + seconds
    found: dict[Work, dict] = {}
    for fresh in (True, False):
        pending = [family for family in works if not all(found.get(work, {}).get("pick_us") for work in works[family])]
        for index, family in enumerate(pending):
            share = len(works[family]) / sum(len(works[other]) for other in pending[index:])
            deadline = (end - time.monotonic()) * share
            if fresh or deadline > 1.0:
                problems = evaluate(sweep, gpu, family, shapes, output, max(deadline, 1.0), fresh)
                # The report lists the problems in the order of the shapes file.
                found |= dict(zip(works[family], problems, strict=True)) if problems else {}
    return found


def evaluate(
    sweep: Path, gpu: str, family: str, shapes: Path, output: Path, deadline: float, fresh: bool
) -> list[dict]:
    """What `sweep evaluate` measures of one family within `deadline` seconds, anew or going on; nothing where it fails."""
    command = [sweep, "evaluate", "--allow-planned", "--gpu", gpu, "--family", family, "--shapes", shapes / f"{family}.toml"]
    command += ["--output", output, "--json", "--budget", f"{max(int(0.8 * deadline), 1)}s"]
    try:
        done = subprocess.run(
            command + ["--fresh"] * fresh, stdout=subprocess.PIPE, text=True, timeout=deadline, check=False
        )
    except subprocess.TimeoutExpired:
        print(f"{family}: not done within {deadline:.0f} s", file=sys.stderr)
        return []
    if not done.stdout.strip():
        print(f"{family}: sweep evaluate ended with {done.returncode}", file=sys.stderr)
        return []
    return json.loads(done.stdout)["problems"]


# ---- The comparison ----


def target_of(work: Work, copy_rate: float) -> tuple[str, float] | None:
    """What is aimed for with the works of SHAPES: `ratio`, the peer's time over ours, or `us`, a time."""
    if work.family in ("matmul_int4", "matmul_fp4") and work["m"] == 16:
        return ("us", 8.5 if work["n"] == 4096 else 45.0)
    if work.family == "matmul_int16" and work["m"] == 16:
        return ("us", 17.0)
    if work.family in ("matmul_int4_group", "matmul_nvfp4", "matmul_mxfp4"):
        return ("ratio", 2.5 if work["m"] <= 16 else 0.9)
    if work.is_shared_decode:
        return ("us", work.streamed_bytes / (0.85 * copy_rate) / 1e6)
    if work.family == "attention" and any(work.variant(name, 0) for name in VARIANTS):
        return ("ratio", 1.0)
    if work.family == "row_softmax":
        return ("us", work.streamed_bytes / (0.9 * copy_rate) / 1e6) if work.streamed_bytes > 64e6 else None
    ratios = {"matmul": 0.85, "matmul_fp8": 0.9, "attention": 1.2 if work.is_decode else 0.95, "elementwise": 1.0}
    return ("ratio", ratios.get(work.family, 0.8))


def compare(works: list[Work], before: dict, after: dict, ours: dict, copy_rate: float, aims: bool) -> list[dict]:
    """A row for each work, with what is aimed for where `aims`."""
    rows = []
    for work in works:
        passes = [times.get(peer_key(work), {}) for times in (before, after)]
        peers = {name: [times[name] for times in passes if name in times] for name in passes[0]}
        medians = {name: statistics.fmean(times) for name, times in peers.items() if times}
        copy_us = medians.pop(COPY, None)
        best = min(medians, key=medians.get, default=None)
        evaluated = ours.get(work, {})
        raced = {name: evaluated.get(f"{name}_us") for name in ("best", "pick")}
        winner = min((name for name in raced if raced[name]), key=raced.get, default="best")
        ours_us = raced[winner]
        row = {
            "family": work.family,
            "problem": dict(work.dimensions),
            "dtype": work.dtype,
            "config": evaluated.get(winner),
            "ours_us": ours_us,
            "served_from": evaluated.get("source"),
            "served_us": raced["pick"],
            "error": evaluated.get("error") if work in ours else "not measured",
            "peer": best,
            "peer_us": medians.get(best),
            "peer_passes_us": peers,
            "ratio": medians[best] / ours_us if best and ours_us else None,
            "served_ratio": medians[best] / raced["pick"] if best and raced["pick"] else None,
        }
        if copy_us:
            row["copy_us"] = copy_us
            row["copy_ratio"] = copy_us / ours_us if ours_us else None
        target = target_of(work, copy_rate) if aims else None
        if target:
            kind, value = target
            row["target"] = {kind: value}
            reached = row["ratio"] if kind == "ratio" else ours_us
            row["reached"] = None if reached is None else (reached >= value if kind == "ratio" else reached <= value)
        rows.append(row)
    return rows


def geomeans(rows: list[dict], of: str) -> dict[str, float]:
    """Of the peer's time over ours, by family and apart for variants: `ratio` over the best of the space, `served_ratio` over what
    is served."""
    ratios: dict[str, list[float]] = {}
    for row in rows:
        if row[of]:
            is_variant = any(name in row.get("problem", {}) for name in VARIANTS)
            ratios.setdefault(row["family"] + " variants" * is_variant, []).append(row[of])
    return {family: math.exp(statistics.fmean(map(math.log, values))) for family, values in ratios.items()}


def round_floats(value, places: int = 4):
    """The same data with short numbers."""
    if isinstance(value, float):
        return round(value, places)
    if isinstance(value, dict):
        return {key: round_floats(item, places) for key, item in value.items()}
    if isinstance(value, list):
        return [round_floats(item, places) for item in value]
    return value


def markdown(report: dict) -> str:
    """The table for people."""

    def number(value, places=2):
        return "–" if value is None else f"{value:.{places}f}"

    def aim(row):
        if "target" not in row:
            return "–"
        ((kind, value),) = row["target"].items()
        mark = {True: " ✓", False: " ✗", None: ""}[row["reached"]]
        return (f"≥ {value:.2f} ×" if kind == "ratio" else f"≤ {value:.1f} µs") + mark

    has_joules = any("joules" in row for row in report["works"])
    lines = [
        "| work | ours, µs | peer | peer, µs | peer / ours | peer / served | copy / ours | aim |"
        + " served, mJ | peer, mJ |" * has_joules,
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | --- |" + " ---: | ---: |" * has_joules,
    ]
    for row in report["works"]:
        shape = Work(row["family"], tuple(row["problem"].items())).shape
        work = f"{row['family']} {shape}" + (f" {row['dtype']}" if row["dtype"] not in ("bf16", "fp8") else "")
        cells = [work, number(row["ours_us"], 1), row["peer"] or "–", number(row["peer_us"], 1)]
        cells += [number(row["ratio"]), number(row["served_ratio"]), number(row.get("copy_ratio")), aim(row)]
        if has_joules:
            spent = row.get("joules", {})
            cells += [number(spent[side] * 1e3 if side in spent else None) for side in ("served", "peer")]
        lines.append("| " + " | ".join(cells) + " |")
    for of, name in (("ours", "geomeans"), ("served", "served_geomeans")):
        means = ", ".join(f"{family} {value:.2f}" for family, value in report[name].items())
        lines += ["", f"Geometric means of peer / {of}: {means or 'none'}."]
    lines += ["", f"Device copy: {report['copy_tb_per_s']:.2f} TB/s."]
    return "\n".join(lines)


def machine(torch) -> dict:
    """What the figures depend on."""

    def version(package: str) -> str | None:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return None

    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split()
    except OSError:
        driver = []
    return {
        "gpu": torch.cuda.get_device_name(0),
        "driver": driver[0] if driver else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cublas": version("nvidia-cublas"),
        "cudnn": torch.backends.cudnn.version(),
    }


def run(arguments: argparse.Namespace, torch, sampler) -> dict:
    """Peers, ours, peers; then the report."""
    with tempfile.TemporaryDirectory() as folder:
        shapes = arguments.shapes
        if arguments.random:
            shapes = Path(folder)
            asked = (arguments.sweep_output, arguments.random, arguments.seed)
            draw_shapes(arguments.sweep, arguments.gpu, arguments.family, *asked, shapes)
        return run_on(shapes, arguments, torch, sampler)


def run_on(shapes: Path, arguments: argparse.Namespace, torch, sampler) -> dict:
    """The same on the works of a folder of shapes files."""
    by_family = {family: read_works([family], shapes) for family in arguments.family}
    works = [work for works in by_family.values() for work in works]
    start = time.monotonic()
    copy_rate = copy_terabytes_per_s(torch, sampler)
    before = time_peers(works, arguments.seconds / 4, torch, sampler)
    torch.cuda.empty_cache()
    peers_seconds = time.monotonic() - start
    ours_seconds = arguments.seconds - peers_seconds - max(1.1 * peers_seconds, 1.0)
    ours = time_ours(arguments.sweep, arguments.gpu, by_family, shapes, arguments.sweep_output, ours_seconds)
    after = time_peers(works, arguments.seconds - (time.monotonic() - start), torch, sampler)
    rows = compare(works, before, after, ours, copy_rate, aims=shapes == SHAPES)
    if arguments.joules:
        from kernel_sweep import ops

        document = arguments.sweep_output / arguments.gpu / f"observed_heuristics_{arguments.gpu}.json"
        ops.use(document if document.is_file() else None)
        add_joules(rows, works, torch, ops, Nvml(torch))
    return {
        "schema": 1,
        "protocol": PROTOCOL,
        "machine": machine(torch),
        "random": {"problems": arguments.random, "seed": arguments.seed} if arguments.random else None,
        "copy_tb_per_s": copy_rate,
        "works": rows,
        "geomeans": geomeans(rows, "ratio"),
        "served_geomeans": geomeans(rows, "served_ratio"),
        "seconds": time.monotonic() - start,
    }


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Times the served kernels beside PyTorch's, on one GPU in one run.")
    parser.add_argument("--sweep", type=Path, required=True, help="the sweep binary")
    parser.add_argument("--gpu", default="h200", help="the GPU's short name (default: %(default)s)")
    parser.add_argument("--family", type=lambda text: text.split(","), default=FAMILIES, help="families, by commas")
    shapes = parser.add_mutually_exclusive_group()
    shapes.add_argument("--shapes", type=Path, default=SHAPES, help="folder that holds <family>.toml (default: shapes/)")
    shapes.add_argument("--random", type=int, metavar="N", help="in its place N problems of each family's domain")
    parser.add_argument("--seed", type=int, default=0, help="what --random draws by (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=300.0, help="most time it takes (default: %(default)s)")
    parser.add_argument("--joules", action="store_true", help="measure the energy of a launch as well, after all times")
    parser.add_argument("--output", type=Path, help="the report (default: output/<gpu>/peers.json)")
    parser.add_argument(
        "--sweep-output", type=Path, default=Path("output"), help="where sweep looks for its document (default: output)"
    )
    parsed = parser.parse_args(arguments)
    unknown = [family for family in parsed.family if family not in FAMILIES]
    if unknown:
        parser.error(f"no family '{unknown[0]}': there are {', '.join(FAMILIES)}")
    if parsed.random is not None and parsed.random < 1:
        parser.error(f"--random {parsed.random}: at least one problem")
    for family in parsed.family if parsed.random is None else []:
        if not (parsed.shapes / f"{family}.toml").is_file():
            parser.error(f"--shapes {parsed.shapes}: it holds no {family}.toml")
    if not parsed.sweep.is_file():
        parser.error(f"--sweep {parsed.sweep}: no such file")
    parsed.sweep = parsed.sweep.resolve()
    parsed.output = parsed.output or Path("output") / parsed.gpu / "peers.json"
    return parsed


def main() -> int:
    arguments = parse()
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed: pip install torch", file=sys.stderr)
        return 3
    if not torch.cuda.is_available():
        print("no CUDA GPU here", file=sys.stderr)
        return 3
    report = round_floats(run(arguments, torch, Sampler.open(torch)))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=2, sort_keys=True) + "\n")
    print(markdown(report))
    return 0 if all(row["ours_us"] and row["peer_us"] for row in report["works"]) else 4


if __name__ == "__main__":
    sys.exit(main())
