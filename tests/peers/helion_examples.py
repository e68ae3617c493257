#!/usr/bin/env python3
"""Times Helion's own example kernels with the configs that a sweep serves, beside those that Helion's `quick` autotuner finds.

    python3 tests/peers/helion_examples.py --examples EXAMPLES [--kernel matmul,int4] [--shapes 0:5] [--gpu h200]
        [--output helion.json] [--until 500]

EXAMPLES is the folder of that name in Helion's repository, of the version that is installed. Helion tunes every shape of every kernel,
each with an empty cache; one sweep of all of them then gets, for each shape, --share (a fifth) of the time that the shape took which was
tuned the soonest, the sweep's start with it. The two configs found for a shape are timed in turn in one run, on the same tensors and by
the protocol of `peers.py`, and what they return is compared with the reference. The report is written after each step, and a later run
with the same --output goes on where that ended, with what was found before; with --tune-only it ends when all shapes are tuned. After
--until seconds nothing is begun that is not likely to be done by then.

To use two GPUs, run it twice: each with its own CUDA_VISIBLE_DEVICES, --kernel, --output and --sweep-output, and half of the cores
(taskset), since both tuners compile on all that they may.

A Markdown table goes to stdout. It ends with 4 where a kernel failed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import helion_families
from peers import PROTOCOL, SETS, Sampler, machine

KERNELS = ["matmul", "int4", "int16", "softmax", "attention", "add"]
# What a sweep takes beside its budget, seen on an H200's host: describing the family, starting its processes, writing the document.
START_SECONDS = 33.0
SAMPLES = 60
COMPARING_SECONDS = 4.0


def tensors_of(torch, example, dims: dict[str, int]) -> list:
    """One set of the kernel's arguments, filled as a sweep fills them."""
    from kernel_sweep._expressions import value_of

    def tensor(shape, dtype):
        extents = [int(value_of(extent, dims)) for extent in shape]
        if dtype == "bf16":
            return torch.empty(extents, dtype=torch.bfloat16, device="cuda").uniform_(-1, 1)
        of_dtype = {"i8": torch.int8, "i16": torch.int16}[dtype]
        limits = torch.iinfo(of_dtype)
        return torch.randint(limits.min, limits.max + 1, extents, dtype=of_dtype, device="cuda")

    return [tensor(*one) for one in example.reads.values()]


def tuned_by_helion(kernel, arguments) -> tuple[dict, float]:
    """What its autotuner finds, and the seconds that it took."""
    kernel.reset()
    start = time.monotonic()
    config = kernel.bind(tuple(arguments)).autotune(tuple(arguments), force=True)
    return dict(config.config), time.monotonic() - start


def swept(names: list[str], first: int, end: int, gpu: str, seconds: float, output: Path) -> dict:
    """What a sweep of these shapes of some kernels has served for each, and the seconds that it took with all that it needs."""
    import kernel_sweep as ks

    os.environ |= {"HELION_KERNELS": ",".join(names), "HELION_SHAPES": f"{first}:{end}"}
    start = time.monotonic()
    families = ",".join(f"{helion_families.__file__}:{helion_families.family_name(name)}" for name in names)
    document = ks.tune(families, gpu=gpu, budget=max(1.0, seconds - START_SECONDS), output=output, fresh=True)
    seconds = time.monotonic() - start
    shapes: dict[str, dict] = {}
    for name, place in itertools.product(names, range(first, end)):
        example = helion_families.EXAMPLES[name]
        dtype = next(iter(example.reads.values()))[1]
        answer = document.lookup(helion_families.family_name(name), dtype=dtype, **example.problems[place])
        shapes.setdefault(name, {})[str(place)] = {"config": answer.best, "source": answer.source}
    return {"seconds": seconds, "shapes": shapes}


def compared(torch, sampler, example, kernel, sets: list, configs: dict[str, dict]) -> dict[str, dict]:
    """By whose it is: the median time of a config, or what is wrong with it."""
    from kernel_sweep import helion_config

    reference = example.reference(*sets[0])
    found: dict[str, dict] = {}
    calls = {}
    bound = kernel.bind(tuple(sets[0]))
    for whose, config in configs.items():
        try:
            compiled = bound.compile_config(helion_config(config), allow_print=False)
            error = (compiled(*sets[0]).float() - reference).abs() - example.relative * reference.abs()
            allowed = example.absolute + 2.0**-8 * float(reference.abs().max())
            if not float(error.max()) <= allowed:
                raise ValueError(f"it is off by {float(error.max())} more than its share")
        except Exception as error:  # any of Helion's, Triton's and CUDA's
            found[whose] = {"error": told(error)}
            continue
        turns = itertools.cycle(sets)
        calls[whose] = lambda compiled=compiled, turns=turns: compiled(*next(turns))
    del reference
    for call in calls.values():
        for _ in range(SETS):
            call()
    for whose, of_one in sampled_in_turn(sampler, calls).items():
        found[whose] = {"median_us": statistics.median(of_one), "samples": len(of_one)}
    return found


def sampled_in_turn(sampler, calls: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """By whose it is: samples of each call, which take turns in any order."""
    times: dict[str, list[float]] = {whose: [] for whose in calls}
    end = time.monotonic() + COMPARING_SECONDS
    while calls and len(next(iter(times.values()))) < SAMPLES and time.monotonic() < end:
        for whose in random.sample(list(calls), len(calls)):
            times[whose].append(sampler.sample_us(calls[whose]))
    return times


class Run:
    """A run of some kernels, whose report is written as it comes."""

    def __init__(self, arguments, torch, sampler):
        self.arguments, self.torch, self.sampler = arguments, torch, sampler
        self.works = list(itertools.product(arguments.kernel, range(arguments.first, arguments.end)))
        self.start = time.monotonic()
        # By kernel and shape, what Helion found; what one sweep found; and what the two come to.
        self.tuned: dict[str, dict[str, dict]] = {}
        self.served: dict = {}
        self.rows: list[dict] = []
        if arguments.output.is_file():
            report = json.loads(arguments.output.read_text())
            self.tuned, self.served, self.rows = report["tuned"], report["served"], report["rows"]

    def has(self, seconds: float) -> bool:
        """Whether so much time is left."""
        return time.monotonic() - self.start + seconds < self.arguments.until

    def go(self) -> None:
        """Tunes, sweeps and compares, as far as the time goes."""
        for name, place in self.works:
            tuned = self.tuned.setdefault(name, {})
            if str(place) not in tuned:
                if not self.has(max((one["seconds"] for one in tuned.values()), default=60.0)):
                    return
                tuned[str(place)] = self.tune(name, place)
                self.write()
        if self.arguments.tune_only:
            return
        # A sweep that failed is made again, and so is one of other works.
        shapes = self.served.get("shapes", {})
        if not all(str(place) in shapes.get(name, {}) for name, place in self.works):
            of_a_shape = self.arguments.share * min(self.tuned[name][str(place)]["seconds"] for name, place in self.works)
            seconds = (self.arguments.seconds or of_a_shape) * len(self.works)
            if not self.has(seconds):
                return
            self.served = self.sweep(seconds)
            self.rows = [row for row in self.rows if (row["kernel"], row["shape"]) not in self.works]
            self.write()
        for name, place in self.works:
            is_done = any((row["kernel"], row["shape"]) == (name, place) for row in self.rows)
            if not is_done and self.has(2 * COMPARING_SECONDS):
                self.compare(name, place)

    def tune(self, name: str, place: int) -> dict:
        example = helion_families.EXAMPLES[name]
        arguments = tensors_of(self.torch, example, example.problems[place])
        start = time.monotonic()
        try:
            config, seconds = tuned_by_helion(helion_families.kernel_of(example), arguments)
        except Exception as error:
            return {"error": told(error), "seconds": time.monotonic() - start}
        return {"config": config, "seconds": seconds}

    def sweep(self, seconds: float) -> dict:
        arguments = self.arguments
        try:
            return swept(arguments.kernel, arguments.first, arguments.end, arguments.gpu, seconds, arguments.sweep_output)
        except Exception as error:
            print(f"the sweep failed: {error}", file=sys.stderr)
            return {"seconds": seconds, "shapes": {}}

    def compare(self, name: str, place: int) -> None:
        example = helion_families.EXAMPLES[name]
        kernel, dims = helion_families.kernel_of(example), example.problems[place]
        theirs = self.tuned[name][str(place)]
        ours = self.served["shapes"].get(name, {}).get(str(place), {"config": None, "source": "none"})
        configs = {"helion": theirs.get("config"), "ours": ours["config"]}
        configs = {whose: config for whose, config in configs.items() if config is not None}
        sets = [tensors_of(self.torch, example, dims) for _ in range(SETS)]
        kernel.reset()
        row = {"kernel": name, "shape": place, "problem": dims, "source": ours["source"], "configs": configs}
        row |= {"tuner_seconds": theirs["seconds"], "sweep_seconds": self.served["seconds"] / len(self.works)}
        row |= compared(self.torch, self.sampler, example, kernel, sets, configs)
        if "error" in theirs:
            row["helion"] = {"error": theirs["error"]}
        self.rows.append(row)
        self.write()
        print(line(row), file=sys.stderr, flush=True)

    def write(self) -> None:
        report = {"protocol": PROTOCOL, "machine": machine(self.torch), "versions": versions()}
        report |= {"tuned": self.tuned, "served": self.served, "rows": self.rows}
        self.arguments.output.parent.mkdir(parents=True, exist_ok=True)
        partial = self.arguments.output.with_suffix(".partial")
        partial.write_text(json.dumps(report, indent=2) + "\n")
        partial.replace(self.arguments.output)


def told(error: Exception) -> str:
    """What went wrong, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def versions() -> dict[str, str]:
    from importlib.metadata import version

    return {package: version(package) for package in ("helion", "triton", "torch")}


def ratio(row: dict) -> float | None:
    """Our time by Helion's."""
    ours, theirs = row.get("ours", {}).get("median_us"), row.get("helion", {}).get("median_us")
    return ours / theirs if ours and theirs else None


def geomean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values)) if values else math.nan


def line(row: dict) -> str:
    def time_of(whose):
        found = row.get(whose, {})
        return f"{found['median_us']:.1f}" if "median_us" in found else found.get("error", "none")

    def number(value, form):
        return format(value, form) if value is not None else "–"

    dims = ", ".join(f"{name} {extent}" for name, extent in row["problem"].items())
    tuner, sweep = row.get("tuner_seconds"), row.get("sweep_seconds")
    cells = [row["kernel"], dims, time_of("ours"), time_of("helion"), number(ratio(row), ".3f"), number(sweep, ".1f")]
    cells += [number(tuner, ".1f"), number(sweep / tuner if tuner and sweep else None, ".2f")]
    return "| " + " | ".join(cells) + " |"


def markdown(rows: list[dict]) -> str:
    """The table, and what it comes to."""
    head = ["kernel", "shape", "served µs", "Helion quick µs", "ratio", "sweep s a shape", "Helion quick s", "of its time"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *map(line, rows)]
    for name in dict.fromkeys(row["kernel"] for row in rows):
        ratios = [one for one in (ratio(row) for row in rows if row["kernel"] == name) if one]
        lines.append(f"\n{name}: {geomean(ratios):.3f} in the geometric mean of {len(ratios)} shapes")
    ratios = [one for one in map(ratio, rows) if one]
    lines.append(f"\nall: {geomean(ratios):.3f} of {len(ratios)} shapes, {failures(rows)} failed")
    return "\n".join(lines)


def failures(rows: list[dict]) -> int:
    """Shapes for which nothing that works was served."""
    return sum("median_us" not in row.get("ours", {}) for row in rows)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Times swept configs of Helion's examples beside its quick autotuner's.")
    parser.add_argument("--examples", type=Path, required=True, help="the folder of Helion's examples")
    parser.add_argument("--kernel", type=lambda text: text.split(","), default=KERNELS, help="kernels, by commas")
    parser.add_argument("--shapes", default="0:5", help="which shapes of each, FIRST:END (default: %(default)s)")
    parser.add_argument("--gpu", default="h200", help="the GPU's short name (default: %(default)s)")
    parser.add_argument("--share", type=float, default=0.2, help="of its tuner's least time, for a shape (default: %(default)s)")
    parser.add_argument("--seconds", type=float, help="in its place, seconds for a shape")
    parser.add_argument("--tune-only", action="store_true", help="have its tuner find all that it finds, and no more")
    parser.add_argument("--until", type=float, default=math.inf, help="most seconds that it takes")
    parser.add_argument("--output", type=Path, default=Path("helion.json"), help="the report (default: %(default)s)")
    parser.add_argument("--sweep-output", type=Path, help="where sweeps write (default: a folder that is deleted)")
    parsed = parser.parse_args(arguments)
    for name in parsed.kernel:
        if name not in helion_families.EXAMPLES:
            parser.error(f"no kernel '{name}': there are {', '.join(helion_families.EXAMPLES)}")
        file = parsed.examples / f"{helion_families.EXAMPLES[name].file}.py"
        if not file.is_file():
            parser.error(f"--examples {parsed.examples}: it holds no {file.name}")
    first, colon, end = parsed.shapes.partition(":")
    if not (colon and first.isdigit() and end.isdigit() and int(first) < int(end)):
        parser.error(f"--shapes {parsed.shapes}: it is FIRST:END, such as 0:5")
    parsed.first = int(first)
    parsed.end = min(int(end), *(len(helion_families.EXAMPLES[name].shapes) for name in parsed.kernel))
    if parsed.first >= parsed.end:
        parser.error(f"--shapes {parsed.shapes}: a kernel has no more than {parsed.end}")
    return parsed


def run(arguments: argparse.Namespace, torch, sampler) -> list[dict]:
    """The rows, kernel by kernel."""
    run = Run(arguments, torch, sampler)
    run.go()
    return run.rows


def main() -> int:
    arguments = parse()
    for package in ("torch", "helion", "kernel_sweep"):
        try:
            __import__(package)
        except ImportError:
            print(f"{package} is not installed", file=sys.stderr)
            return 3
    import torch

    if not torch.cuda.is_available():
        print("no CUDA GPU here", file=sys.stderr)
        return 3
    with tempfile.TemporaryDirectory() as scratch:
        # Before the kernels are imported, whose settings these become. No tuner knows what another run found.
        os.environ |= {
            "HELION_EXAMPLES": str(arguments.examples.resolve()),
            "HELION_AUTOTUNE_EFFORT": "quick",
            "HELION_AUTOTUNE_PROGRESS_BAR": "0",
            "HELION_AUTOTUNE_LOG_LEVEL": "ERROR",
            "HELION_CACHE_DIR": f"{scratch}/helion",
        }
        arguments.sweep_output = arguments.sweep_output or Path(scratch) / "sweep"
        rows = run(arguments, torch, Sampler.open(torch))
    print(markdown(rows))
    return 4 if failures(rows) else 0


if __name__ == "__main__":
    sys.exit(main())
