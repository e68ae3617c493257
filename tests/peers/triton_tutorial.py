#!/usr/bin/env python3
"""Times the product of Triton's tutorial with the configs that a sweep serves, beside what its `@triton.autotune` chooses.

    python3 tests/peers/triton_tutorial.py --tutorial 03-matrix-multiplication.py [--gpu h200] [--seconds 10] [--output triton.json]

The tutorial is the file of that name in `python/tutorials/` of Triton's repository; only its functions are run, not what it shows.
The sweep has --seconds for each shape. Both are launched on the same tensors, by the protocol of `peers.py`, in turn. The report is
written after each shape. A Markdown table goes to stdout. It ends with 4 where a shape failed.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import json
import os
import random
import statistics
import sys
import tempfile
import time
import types
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

DIMS = ("m", "n", "k")
SHAPES = ((2048, 2048, 2048), (4096, 4096, 4096), (16, 4096, 4096), (512, 8192, 2048), (1000, 3000, 1536), (128, 14336, 4096))
BLOCKS = ("BLOCK_SIZE_M", "BLOCK_SIZE_N", "BLOCK_SIZE_K")
FAMILY = "triton_tutorial"
SAMPLES = 60
COMPARING_SECONDS = 4.0


def tutorial_kernel(file: Path):
    """`matmul_kernel` of the tutorial under its `@triton.autotune`, by its imports and functions alone."""
    tree = ast.parse(file.read_text())
    kept = [
        part
        for part in tree.body
        if isinstance(part, (ast.Import, ast.ImportFrom)) or isinstance(part, ast.FunctionDef) and part.name != "benchmark"
    ]
    module = types.ModuleType("triton_tutorial_kernels")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module
    exec(compile(ast.Module(kept, []), str(file), "exec"), module.__dict__)
    return module.matmul_kernel


def space(tutorial: list[dict]) -> list[dict]:
    """The tutorial's configs, and others of their knobs in any order."""
    others = []
    for m, n, k, group, warps, stages in itertools.product(
        (16, 32, 64, 128, 256), (32, 64, 128, 256), (32, 64, 128), (1, 8), (2, 4, 8), (3, 4, 5)
    ):
        sums = m * n / (32 * warps)
        if 4 <= sums <= 128 and 2 * (m + n) * k * stages <= 220 << 10:
            blocks = dict(zip(BLOCKS, (m, n, k)))
            others.append({**blocks, "GROUP_SIZE_M": group, "num_warps": warps, "num_stages": stages})
    random.Random(0).shuffle(others)
    return [*tutorial, *(config for config in others if config not in tutorial)]


def config_of(config) -> dict:
    """A `triton.Config` as one of ours."""
    return {**config.kwargs, "num_warps": config.num_warps, "num_stages": config.num_stages}


def family_of(kernel):
    """The tutorial's kernel as a family."""
    import kernel_sweep as ks

    return ks.TritonFamily(
        kernel,
        name=FAMILY,
        dims=DIMS,
        dtypes=["f16"],
        tensors=[
            ks.reads("a", ["m", "k"], "f16"),
            ks.reads("b", ["k", "n"], "f16"),
            ks.writes("c", ["m", "n"], "f16", relative=1e-2, absolute=2e-2),
        ],
        arguments=["a", "b", "c", "m", "n", "k", "k", 1, "n", 1, "n", 1],
        constexprs={"ACTIVATION": ""},
        grid=["cdiv(m, BLOCK_SIZE_M) * cdiv(n, BLOCK_SIZE_N)"],
        space=space([config_of(config) for config in kernel.configs]),
        problems=[dict(zip(DIMS, shape)) for shape in SHAPES],
        reference=lambda a, b: a.float() @ b.float(),
        flops="2 * m * n * k",
    )


if "TRITON_TUTORIAL" in os.environ:
    family = family_of(tutorial_kernel(Path(os.environ["TRITON_TUTORIAL"])))


def compared(torch, sampler, kernel, dims: dict[str, int], served: dict | None) -> dict:
    """The median times of both, the config that `@triton.autotune` chose and the seconds that it took."""
    from peers import SETS

    m, n, k = dims.values()

    def tensor(*shape):
        return torch.empty(*shape, dtype=torch.float16, device="cuda").uniform_(-1, 1)

    sets = [(tensor(m, k), tensor(k, n), tensor(m, n)) for _ in range(SETS)]

    def arguments(a, b, c):
        return a, b, c, m, n, k, a.stride(0), a.stride(1), b.stride(0), b.stride(1), c.stride(0), c.stride(1)

    def grid(meta):
        return (-(-m // meta["BLOCK_SIZE_M"]) * -(-n // meta["BLOCK_SIZE_N"]),)

    start = time.monotonic()
    kernel[grid](*arguments(*sets[0]), ACTIVATION="")
    row = {"tuner_seconds": time.monotonic() - start, "autotune": {"config": config_of(kernel.best_config)}}
    if served is not None:
        row["ours"] = {"config": served}
    calls = {}
    for whose in row.keys() & {"ours", "autotune"}:
        turns = itertools.cycle(sets)

        def call(turns=turns, config=row[whose]["config"]):
            kernel.fn.run(*arguments(*next(turns)), grid=grid, warmup=False, ACTIVATION="", **config)

        try:
            call()
            torch.cuda.synchronize()
            calls[whose] = call
        except Exception as error:
            row[whose]["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    times = {whose: [] for whose in calls}
    end = time.monotonic() + COMPARING_SECONDS
    while calls and len(next(iter(times.values()))) < SAMPLES and time.monotonic() < end:
        for whose in random.sample(list(calls), len(calls)):
            times[whose].append(sampler.sample_us(calls[whose]))
    for whose, of_one in times.items():
        row[whose]["median_us"] = statistics.median(of_one)
    return row


def markdown(rows: list[dict], sweep_seconds: float) -> str:
    """The table, and what it comes to."""
    from helion_examples import geomean

    lines = ["| shape | served µs | autotune µs | ratio |", "|---|---|---|---|"]
    ratios = []
    for row in rows:
        ours, theirs = (row.get(whose, {}).get("median_us") for whose in ("ours", "autotune"))
        shape = "×".join(map(str, row["problem"].values()))
        if ours and theirs:
            ratios.append(ours / theirs)
            lines.append(f"| {shape} | {ours:.1f} | {theirs:.1f} | {ratios[-1]:.3f} |")
        else:
            lines.append(f"| {shape} | {ours or 'none'} | {theirs or 'none'} | – |")
    tuner = sum(row["tuner_seconds"] for row in rows)
    told = f"{geomean(ratios):.3f} in the geometric mean of {len(ratios)} shapes"
    return "\n".join([*lines, "", f"{told}; the sweep took {sweep_seconds:.1f} s, @triton.autotune {tuner:.1f} s"])


def main() -> int:
    parser = argparse.ArgumentParser(description="Times Triton's tutorial product, swept, beside its own @triton.autotune.")
    parser.add_argument("--tutorial", type=Path, required=True, help="03-matrix-multiplication.py of Triton's tutorials")
    parser.add_argument("--gpu", default="h200", help="the GPU's short name (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="the sweep's for each shape (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("triton.json"), help="the report (default: %(default)s)")
    arguments = parser.parse_args()
    import kernel_sweep as ks
    import torch
    from peers import PROTOCOL, Sampler, machine

    os.environ["TRITON_TUTORIAL"] = str(arguments.tutorial.resolve())
    with tempfile.TemporaryDirectory() as scratch:
        start = time.monotonic()
        budget = arguments.seconds * len(SHAPES)
        document = ks.tune(f"{Path(__file__).resolve()}:{FAMILY}", gpu=arguments.gpu, budget=budget, output=Path(scratch))
        sweep_seconds = time.monotonic() - start
    kernel, sampler, rows = tutorial_kernel(arguments.tutorial), Sampler.open(torch), []
    for shape in SHAPES:
        dims = dict(zip(DIMS, shape))
        served = document.lookup(FAMILY, dtype="f16", **dims).best
        rows.append({"problem": dims, **compared(torch, sampler, kernel, dims, served)})
        report = {"protocol": PROTOCOL, "machine": machine(torch), "sweep_seconds": sweep_seconds, "rows": rows}
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(report, indent=2) + "\n")
    print(markdown(rows, sweep_seconds))
    return 0 if all("median_us" in row.get("ours", {}) for row in rows) else 4


if __name__ == "__main__":
    sys.exit(main())
