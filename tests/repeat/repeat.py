#!/usr/bin/env python3
"""Do repeated sweeps agree, and is a planted slowdown found?

Sweeps two families so many times on one GPU, a few problems each, and compares every pair of documents: none may exit with 5.
Then a kernel that spins for 5 % of its time on the problems of one bucket is swept and compared with each: every time the bucket
must be SLOW. Last, two nights from the first document: one with the same kernels, one with the spinning one, which only the
races of old cubins against new ones can tell apart for sure.

Needs a GPU, the binary, and this repository's folders sweeps/ and kernels/; no compiler, no package:

    python3 tests/repeat/repeat.py [--sweep target/release/sweep] [--work FOLDER] [--sweeps 10]
"""

import argparse
import collections
import itertools
import json
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
FAMILIES = ["row_softmax", "elementwise"]
# The problems of one bucket, all in one fallback group.
PLANTED = [(4096, 7168), (4096, 5120), (3072, 7168), (3584, 6144), (4096, 6144)]
PLANTED_BUCKET = ("rows_bin <=4096", "cols_bin <=8192")
PROBLEMS = {
    "row_softmax": [
        {"rows": rows, "cols": cols}
        for rows, cols in PLANTED
        + [(64, 1024), (128, 1000), (256, 768)]
        + [(16384, 1024), (12288, 768), (9000, 1000)]
        + [(8192, 2048), (6144, 1536), (5000, 2000)]
        + [(2048, 16384), (1024, 12288), (1500, 16000)]
        + [(4096, 32768), (3072, 32000), (4096, 30000)]
    ],
    "elementwise": [
        {"numel": numel}
        for numel in [1000, 2048, 3000, 4096]
        + [8192, 16384, 40000, 65536]
        + [131072, 262144, 524288, 1000000]
        + [2097152, 4194304, 8388608, 16000000]
        + [33554432, 67108864, 100000000, 134217728]
    ],
}


def reduced_plan(family):
    """The family's plan with these problems in place of its own."""
    tables = re.split(r"(?m)^(?=\[)", (REPOSITORY / "sweeps" / f"{family}.toml").read_text())
    kept = "".join(table for table in tables if not re.match(r"\[\[(space\.cpu\.)?problem\]\]|\[random\]", table))
    problems = "".join(
        "\n[[problem]]\n" + "".join(f"{name} = {size}\n" for name, size in problem.items()) + 'from = "repeated sweeps"\n'
        for problem in PROBLEMS[family]
    )
    return kept + problems


def folder_with_plans(folder):
    (folder / "sweeps").mkdir(parents=True, exist_ok=True)
    for family in FAMILIES:
        (folder / "sweeps" / f"{family}.toml").write_text(reduced_plan(family))
    return folder


def spinning(documents, slowdown):
    """The softmax kernel, spinning at its end for a share of what the planted problems take by these documents."""
    cases = []
    for rows, cols in PLANTED:
        name = f"rows={rows},cols={cols} bf16"
        times = [us for document in documents for us in [served_us(document, name)] if us]
        if not times:
            sys.exit(f"no document has a time of {name}")
        # Cycles at the clock that H100 and H200 keep under such loads.
        cycles = round(statistics.median(times) * slowdown * 1980)
        cases.append(f"rows == {rows} && cols == {cols} ? {cycles}LL : ")
    source = (REPOSITORY / "kernels" / "row_softmax.cu").read_text()
    at = source.rfind("    softmax_tiles(x, y, rows, cols")
    if at < 0:
        sys.exit("kernels/row_softmax.cu no longer ends with softmax_tiles(x, y, rows, cols, …): plant the slowdown elsewhere")
    end = source.index("\n", at) + 1
    spin = (
        f"    const long long spin = {''.join(cases)}0LL;\n"
        # The programs of the last wave, so that it is paid once.
        "    if (spin > 0 && blockIdx.x + 132 >= gridDim.x) {\n"
        "        const long long until = clock64() + spin;\n"
        "        while (clock64() < until) {}\n"
        "    }\n"
    )
    return source[:end] + spin + source[end:]


def served_us(document, name):
    model = document["models"].get("row_softmax", {"dims": [], "problems": {}})
    shapes = [(dtype, text.split()[0].split(",")) for dtype, texts in model["problems"].items() for text in texts]
    named = [",".join(f"{dim}={extent}" for dim, extent in zip(model["dims"], extents)) for _, extents in shapes]
    names = [f"{shape} {dtype}" for shape, (dtype, _) in zip(named, shapes)]
    for entry in document["rules"] + list(document["fallbacks"].get("row_softmax", {}).values()):
        for problem, us, *_ in entry["source"].get("problems", []):
            # A problem that the model does not list has its name there.
            own = names[problem] if isinstance(problem, int) else problem
            if entry.get("kernel_class", "row_softmax") == "row_softmax" and own == name:
                return us
    return None


def run(command, cwd, accept=(0,)):
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    if done.returncode not in accept:
        sys.exit(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done


def sweep(program, cwd, output):
    """By the same seed each time, as nights are swept."""
    run([program, "--gpu", "auto", "--family", ",".join(FAMILIES), "--output", output, "--json"], cwd)
    return document_in(output)


def document_in(output):
    found = list(output.glob("*/observed_heuristics_*.json"))
    if len(found) != 1:
        sys.exit(f"{output}: {len(found)} documents")
    return found[0]


def diff(program, old, new):
    done = run([program, "diff", "--json", old, new], None, accept=(0, 5))
    return done.returncode, json.loads(done.stdout)


def nightly(program, cwd, output):
    command = [program, "nightly", "--gpu", "auto", "--family", ",".join(FAMILIES), "--output", output, "--json"]
    done = run(command, cwd, accept=(0, 5))
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


def planted_entry(told):
    """What became of the planted bucket: by its rule, or as a part of its group's fallback."""
    entries = [entry for entry in told["entries"] if entry["class"] == "row_softmax"]
    named = [entry for entry in entries if all(part in entry["place"] + (entry.get("bucket") or "") for part in PLANTED_BUCKET)]
    return named[0] if named else next(entry for entry in entries if entry["place"] == "square")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", type=pathlib.Path, default=REPOSITORY / "target/release/sweep", help="the binary")
    parser.add_argument("--work", type=pathlib.Path, help="where to work; a new temporary folder unless given")
    parser.add_argument("--sweeps", type=int, default=10, help="how many sweeps to compare")
    parser.add_argument("--slowdown", type=float, default=0.05, help="share of its time that the planted kernel spins")
    options = parser.parse_args()
    program = options.sweep.resolve()
    work = (options.work or pathlib.Path(tempfile.mkdtemp(prefix="repeat-"))).resolve()
    base = folder_with_plans(work / "base")
    # Sources in place of those built in, comments and all: the kernels' identities are the same.
    planted = folder_with_plans(work / "planted")
    shutil.copytree(REPOSITORY / "kernels", planted / "kernels", dirs_exist_ok=True)

    documents = []
    for turn in range(options.sweeps):
        documents.append(sweep(program, base, work / f"sweep{turn}"))
        print(f"sweep {turn + 1} of {options.sweeps}: {documents[-1]}", file=sys.stderr)

    exits, flips, flagged, statuses = collections.Counter(), [], [], collections.Counter()
    for (one, old), (other, new) in itertools.combinations(enumerate(documents), 2):
        code, told = diff(program, old, new)
        exits[code] += 1
        flips.append(told["calibration"]["false_alarms"])
        statuses.update(entry["status"] for entry in told["entries"])
        for what in told["entries"] + told["classes"]:
            if what["regression"]:
                flagged.append(f"{one} → {other}: {what['class']} {what.get('place', 'as a whole')} {what.get('ratio')}")

    loaded = [json.loads(document.read_text()) for document in documents]
    (planted / "kernels" / "row_softmax.cu").write_text(spinning(loaded, options.slowdown))
    slow = sweep(program, planted, work / "planted_sweep")
    found = []
    for at, document in enumerate(documents):
        code, told = diff(program, document, slow)
        entry = planted_entry(told)
        others = [entry["place"] for entry in told["entries"] if entry["regression"]]
        found.append((at, code, entry["status"], entry.get("ratio"), entry.get("deviations"), len(others)))

    nights = []
    for name, folder in [("same kernels", base), ("planted", planted)]:
        output = work / f"night {name}"
        shutil.copytree(documents[0].parents[1], output, dirs_exist_ok=True)
        if folder == base:
            shutil.rmtree(output / documents[0].parent.name / "journal")
        code, report = nightly(program, folder, output)
        nights.append((name, code, report))

    print(f"\n{options.sweeps} sweeps of {', '.join(FAMILIES)}, {sum(exits.values())} pairs")
    print("exit   pairs")
    for code, pairs in sorted(exits.items()):
        print(f"{code:4}   {pairs}")
    print("entries of all pairs: " + ", ".join(f"{count} {status}" for status, count in sorted(statuses.items())))
    print(f"false alarms by sign flips: {statistics.mean(flips):.4f} of nights (largest of a pair {max(flips):.4f})")
    for line in flagged:
        print(f"  false alarm {line}")
    print(f"\nplanted: {options.slowdown:.0%} in {', '.join(PLANTED_BUCKET)}")
    print("sweep  exit  status     new/old  deviations  regressions")
    for at, code, status, ratio, deviations, others in found:
        print(f"{at:5}  {code:4}  {status:9}  {ratio or 0:7.3f}  {deviations or 0:10.1f}  {others:11}")
    print("\nnight         exit  what was raced")
    for name, code, report in nights:
        raced = [
            f"{confirmation['class']} {confirmation.get('place', 'as a whole')}: documents {confirmation['documents']:.3f}, "
            f"raced {confirmation.get('ratio') or 0:.3f}, {confirmation['finding']}"
            for confirmation in report["confirmations"]
        ]
        print(f"{name:12}  {code:4}  {'; '.join(raced) or 'nothing'}")
    caught = sum(code == 5 and status == "SLOW" for _, code, status, *_ in found)
    right = exits[5] == 0 and caught == len(found) and [code for _, code, _ in nights] == [0, 5]
    print(f"\n{exits[5]} of {sum(exits.values())} pairs exit 5; the planted bucket is SLOW in {caught} of {len(found)}: "
          + ("as it should be" if right else "NOT as it should be"))
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
