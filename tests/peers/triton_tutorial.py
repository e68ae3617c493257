#!/usr/bin/env python3
"""Times Triton's tutorial kernels with the configs that a sweep serves, beside what `@triton.autotune` chooses.

    python3 tests/peers/triton_tutorial.py --tutorial 03-matrix-multiplication.py [--gpu h200] [--seconds 10] [--output triton.json]

The tutorial is that file, or 02-fused-softmax.py, of `python/tutorials/` in Triton's repository; only its functions are run, not what
it shows. The product is under `@triton.autotune` there. The softmax has eight warps and two or four stages there, by the GPU's shared
memory, and as many programs as fit: `@triton.autotune` has both to choose from here. The sweep has --seconds for each shape. The two
configs found for a shape are launched on the same tensors, by the protocol of `peers.py`, in turn. The report is written after each
shape. A Markdown table goes to stdout. It ends with 4 where a shape failed.
"""

from __future__ import annotations

import argparse
import ast
import functools
import itertools
import json
import os
import random
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

FAMILY = "triton_tutorial"


class Product:
    """`matmul_kernel` of the tutorial, of contiguous matrices in f16."""

    kernel = "matmul_kernel"
    dims = ("m", "n", "k")
    shapes = ((2048, 2048, 2048), (4096, 4096, 4096), (16, 4096, 4096), (512, 8192, 2048), (1000, 3000, 1536), (128, 14336, 4096))
    dtype = "f16"
    constants = {"ACTIVATION": ""}
    arguments = ("a", "b", "c", "m", "n", "k", "k", 1, "n", 1, "n", 1)
    grid = "cdiv(m, BLOCK_SIZE_M) * cdiv(n, BLOCK_SIZE_N)"
    flops = "2 * m * n * k"
    blocks = ("BLOCK_SIZE_M", "BLOCK_SIZE_N", "BLOCK_SIZE_K")

    @classmethod
    def space(cls, tutorial: list[dict]) -> list[dict]:
        """The tutorial's configs, and others of their knobs in any order."""
        others = []
        for m, n, k, group, warps, stages in itertools.product(
            (16, 32, 64, 128, 256), (32, 64, 128, 256), (32, 64, 128), (1, 8), (2, 4, 8), (3, 4, 5)
        ):
            sums = m * n / (32 * warps)
            if 4 <= sums <= 128 and 2 * (m + n) * k * stages <= 220 << 10:
                blocks = dict(zip(cls.blocks, (m, n, k)))
                others.append({**blocks, "GROUP_SIZE_M": group, "num_warps": warps, "num_stages": stages})
        return shuffled_after(tutorial, others)

    @classmethod
    def tensors(cls, ks) -> list:
        """The kernel's."""
        return [
            ks.reads("a", ["m", "k"], cls.dtype),
            ks.reads("b", ["k", "n"], cls.dtype),
            ks.writes("c", ["m", "n"], cls.dtype, relative=1e-2, absolute=2e-2),
        ]

    @staticmethod
    def reference(a, b):
        return a.float() @ b.float()

    @staticmethod
    def autotuned(triton, kernel):
        """The kernel under `@triton.autotune`."""
        return kernel

    @staticmethod
    def worked_out(triton, kernel, arguments: tuple, meta: dict) -> dict[str, int]:
        """What the tutorial's launch works out beside."""
        return {}


class Softmax:
    """`softmax_kernel` of the tutorial, of contiguous rows in f32."""

    kernel = "softmax_kernel"
    dims = ("rows", "cols")
    shapes = ((4096, 256), (4096, 1024), (1823, 781), (4096, 3000), (4096, 8192), (65536, 512))
    dtype = "f32"
    constants = {"BLOCK_SIZE": "next_power_of_2(cols)"}
    arguments = ("y", "x", "cols", "cols", "rows", "cols")
    grid = "min(rows, PROGRAMS)"
    flops = "5 * rows * cols"
    tutorials = tuple({"num_warps": 8, "num_stages": stages} for stages in (2, 4))

    @classmethod
    def space(cls, tutorial: list[dict]) -> list[dict]:
        """The tutorial's configs, and others of their knobs in any order, each with so many programs."""
        programs = [132 * each for each in (1, 2, 3, 4, 6, 8, 12, 16, 32, 512)]
        counted = [{**config, "PROGRAMS": count} for config in tutorial for count in programs]
        others = [
            {"num_warps": warps, "num_stages": stages, "PROGRAMS": count}
            for warps, stages, count in itertools.product((1, 2, 4, 8, 16), (1, 2, 3, 4), programs)
        ]
        return shuffled_after(counted, others)

    @classmethod
    def tensors(cls, ks) -> list:
        """The kernel's."""
        return [
            ks.reads("x", ["rows", "cols"], cls.dtype),
            ks.writes("y", ["rows", "cols"], cls.dtype, relative=1e-4, absolute=1e-7),
        ]

    @staticmethod
    def reference(x):
        return x.float().softmax(-1)

    @classmethod
    def autotuned(cls, triton, kernel):
        """The kernel under `@triton.autotune`."""
        configs = [triton.Config({}, **config) for config in cls.tutorials]
        return triton.autotune(configs=configs, key=["n_rows", "n_cols"])(kernel)

    @classmethod
    def worked_out(cls, triton, kernel, arguments: tuple, meta: dict) -> dict[str, int]:
        """What the tutorial's launch works out beside: as many programs as a GPU holds. Launches do not tell their warps."""
        warps = cls.tutorials[0]["num_warps"]
        return {"PROGRAMS": cls.held(triton, kernel, arguments, warps, meta["num_stages"], meta["BLOCK_SIZE"])}

    @staticmethod
    @functools.cache
    def held(triton, kernel, arguments: tuple, warps: int, stages: int, block: int) -> int:
        """How many programs a GPU holds by their registers and shared memory; the tutorial works it out for each launch."""
        compiled = kernel.warmup(*arguments, grid=(1,), num_warps=warps, num_stages=stages, BLOCK_SIZE=block)
        compiled._init_handles()
        limits = triton.runtime.driver.active.utils.get_device_properties(0)
        of_registers = limits["max_num_regs"] // (compiled.n_regs * limits["warpSize"] * warps)
        resident = min(of_registers, limits["max_shared_mem"] // max(1, compiled.metadata.shared))
        return limits["multiprocessor_count"] * max(1, resident)


def programs(example, dims: dict[str, int], knobs: dict) -> tuple[int]:
    """The programs of a launch."""
    from kernel_sweep._expressions import value_of

    return (value_of(example.grid, {**dims, **knobs}),)


def launched(example, tensor: Callable, dims: dict[str, int]) -> tuple:
    """One set of the kernel's arguments, of tensors that are made by their extents."""
    import kernel_sweep as ks
    from kernel_sweep._expressions import value_of

    made = {one.name: tensor(*(value_of(extent, dims) for extent in one.shape)) for one in example.tensors(ks)}
    return tuple(made[one] if one in made else value_of(one, dims) for one in example.arguments)


def shuffled_after(first: list[dict], others: list[dict]) -> list[dict]:
    """Both, each config once."""
    random.Random(0).shuffle(others)
    return [*first, *(config for config in others if config not in first)]


def tutorial_kernel(file: Path):
    """A tutorial's kernel and what it is here, by the tutorial's imports and functions alone."""
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
    for example in (Product, Softmax):
        if hasattr(module, example.kernel):
            return example, getattr(module, example.kernel)
    sys.exit(f"--tutorial {file}: it defines neither {Product.kernel} nor {Softmax.kernel}")


def config_of(config) -> dict:
    """A `triton.Config` as one of ours."""
    return {**config.kwargs, "num_warps": config.num_warps, "num_stages": config.num_stages}


def family_of(example, kernel):
    """The tutorial's kernel as a family."""
    import kernel_sweep as ks
    import triton

    return ks.TritonFamily(
        kernel,
        name=FAMILY,
        dims=example.dims,
        dtypes=[example.dtype],
        tensors=example.tensors(ks),
        arguments=example.arguments,
        constexprs=example.constants,
        grid=[example.grid],
        space=example.space([config_of(config) for config in example.autotuned(triton, kernel).configs]),
        problems=[dict(zip(example.dims, shape)) for shape in example.shapes],
        reference=example.reference,
        flops=example.flops,
    )


if "TRITON_TUTORIAL" in os.environ:
    family = family_of(*tutorial_kernel(Path(os.environ["TRITON_TUTORIAL"])))


def compared(torch, sampler, example, kernel, dims: dict[str, int], served: dict | None) -> dict:
    """The median times of both, the config that `@triton.autotune` chose and the seconds that it took."""
    import triton
    from helion_examples import sampled_in_turn, told
    from kernel_sweep._expressions import value_of
    from peers import SETS

    def tensor(*shape):
        dtype = {"f16": torch.float16, "f32": torch.float32}[example.dtype]
        return torch.empty(*shape, dtype=dtype, device="cuda").uniform_(-1, 1)

    sets = [launched(example, tensor, dims) for _ in range(SETS)]
    constants = {name: value_of(value, dims) for name, value in example.constants.items()}
    tuned = example.autotuned(triton, kernel)

    def tutorials(meta):
        return programs(example, dims, {**meta, **example.worked_out(triton, tuned.fn, sets[0], meta)})

    start = time.monotonic()
    tuned[tutorials](*sets[0], **constants)
    row = {"tuner_seconds": time.monotonic() - start, "autotune": {"config": config_of(tuned.best_config)}}
    grids = {"autotune": tutorials({**constants, **row["autotune"]["config"]})}
    if served is not None:
        row["ours"] = {"config": served}
        grids["ours"] = programs(example, dims, served)
    calls = {}
    for whose, grid in grids.items():
        turns = itertools.cycle(sets)
        given = {name: value for name, value in row[whose]["config"].items() if name != "PROGRAMS"}

        def call(turns=turns, grid=grid, given=given):
            tuned.fn.run(*next(turns), grid=grid, warmup=False, **constants, **given)

        try:
            call()
            torch.cuda.synchronize()
            calls[whose] = call
        except Exception as error:
            row[whose]["error"] = told(error)
    for whose, of_one in sampled_in_turn(sampler, calls).items():
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
    parser = argparse.ArgumentParser(description="Times Triton's tutorial kernels, swept, beside @triton.autotune.")
    parser.add_argument("--tutorial", type=Path, required=True, help="03-matrix-multiplication.py or 02-fused-softmax.py of Triton's")
    parser.add_argument("--gpu", default="h200", help="the GPU's short name (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="the sweep's for each shape (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("triton.json"), help="the report (default: %(default)s)")
    arguments = parser.parse_args()
    import kernel_sweep as ks
    import torch
    from peers import PROTOCOL, Sampler, machine

    os.environ["TRITON_TUTORIAL"] = str(arguments.tutorial.resolve())
    example, kernel = tutorial_kernel(arguments.tutorial)
    with tempfile.TemporaryDirectory() as scratch:
        start = time.monotonic()
        budget = arguments.seconds * len(example.shapes)
        document = ks.tune(f"{Path(__file__).resolve()}:{FAMILY}", gpu=arguments.gpu, budget=budget, output=Path(scratch))
        sweep_seconds = time.monotonic() - start
    sampler, rows = Sampler.open(torch), []
    for shape in example.shapes:
        dims = dict(zip(example.dims, shape))
        served = document.lookup(FAMILY, dtype=example.dtype, **dims).best
        rows.append({"problem": dims, **compared(torch, sampler, example, kernel, dims, served)})
        report = {"protocol": PROTOCOL, "machine": machine(torch), "sweep_seconds": sweep_seconds, "rows": rows}
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(report, indent=2) + "\n")
    print(markdown(rows, sweep_seconds))
    return 0 if all("median_us" in row.get("ours", {}) for row in rows) else 4


if __name__ == "__main__":
    sys.exit(main())
