"""Families of kernels that Python calls: what they are, and how they are tuned.

    import numpy, kernel_sweep as ks

    def build(config):
        def scale(x, y):
            step = config["step"]
            for first in range(0, x.size, step):
                numpy.multiply(x[first : first + step], 2, out=y[first : first + step])
        return scale

    scale = ks.Family(
        name="scale",
        dims=["n"],
        tensors=[ks.reads("x", ["n"], "f32"), ks.writes("y", ["n"], "f32")],
        space={"step": [256, 4096, 65536]},
        problems=[{"n": 100_000}, {"n": 1_000_000}],
        build=build,
        reference=lambda x: 2 * x,
    )

``sweep --family FILE.py:scale`` sweeps it, and so does ``kernel_sweep.tune(scale)``. The file is imported by every process that
measures or compiles, so what is not to run there belongs under ``if __name__ == "__main__":``.
"""

import ast
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import inspect
import itertools
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

# What can change how a kernel is compiled. Their versions are part of its identity, where they are loaded.
_COMPILERS = ("torch", "triton", "helion", "numpy", "cupy", "numba")


class FamilyError(ValueError):
    """A family that cannot be: the message says what is wrong with it, in one line."""


class TuneError(RuntimeError):
    """A tuning run that failed: the message is the tool's."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """What a kernel is built for: dimensions by name, and the type of the first tensor. ``problem["n"]`` is a dimension."""

    dims: dict
    dtype: str

    def __getitem__(self, name):
        return self.dims[name]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor of a family; see ``reads``, ``writes`` and ``updates``."""

    name: str
    role: str
    shape: tuple
    dtype: str
    fill: "str | None" = None
    awkward: "str | None" = None
    tolerance: "tuple[float, float] | None" = None
    alignment: "int | None" = None


def reads(name, shape, dtype="dtype", *, fill=None, awkward=None, alignment=None):
    """A tensor that the kernel reads and must not change."""
    return Tensor(name, "in", tuple(shape), dtype, fill, awkward, None, alignment)


# Of what a sum in f32 explains, several times over; integers must be equal.
_RELATIVE, _ABSOLUTE = 1e-3, 1e-3


def writes(name, shape, dtype="dtype", *, relative=_RELATIVE, absolute=_ABSOLUTE, alignment=None):
    """A tensor that the kernel writes. An element may differ from its reference by so much before it is rounded to the
    tensor's type: a share of the reference, and so much in any case. Integers must be equal."""
    return Tensor(name, "out", tuple(shape), dtype, None, None, (relative, absolute), alignment)


def updates(name, shape, dtype="dtype", *, relative=_RELATIVE, absolute=_ABSOLUTE, fill=None, alignment=None):
    """A tensor that the kernel reads and writes in place. On a GPU its type is the one that references are in: f32, f64 or an
    integer."""
    return Tensor(name, "inout", tuple(shape), dtype, fill, None, (relative, absolute), alignment)


class Family:
    """A kernel with everything that it takes to tune it.

    ``dims`` are the names of a problem's dimensions, ``tensors`` what the kernel is called with, in order, whose shapes are
    expressions of dims (``"k / 2"``). ``space`` lists every knob's values, or the configs themselves; ``default`` is the
    config that nothing served may be slower than, the first one where it is left out. ``problems`` are the dimensions to
    measure. ``build(config)`` or ``build(config, problem)`` returns what is called with the tensors; where ``returns`` is
    true it is called with those that it reads, and returns those that it writes. ``reference`` is called with those that are
    read, and returns what is right of those that are written; it may take ``problem`` by that name. A callable with a keyword
    ``stream`` is given the handle of the stream to launch on; torch's and CuPy's current stream are set to it.

    ``compile(config, problem, arch)``, where there is one, compiles a config ahead, in a process that may have no GPU.
    ``arrays`` says what tensors are: ``"torch"``, ``"numpy"`` or ``"raw"``, which is an object with ``__dlpack__`` and
    ``__cuda_array_interface__``. ``bins`` and ``groups`` are the document's, as in a manifest; without bins each problem is a
    bucket of its own. ``toml`` names a manifest beside the file that says all of this but the callables.
    """

    def __init__(
        self,
        *,
        build,
        reference,
        name=None,
        dims=None,
        tensors=None,
        space=None,
        problems=None,
        default=None,
        dtypes=None,
        toml=None,
        domain=None,
        random=None,
        flops=None,
        bytes=None,
        bins=None,
        groups=None,
        require=(),
        exclude=(),
        compile=None,
        returns=False,
        arrays=None,
        sources=(),
    ):
        self._file = _calling_file()
        self._globals = _calling_globals()
        self._build_of, self._reference_of, self._compile_of = build, reference, compile
        self.returns, self.arrays, self.sources = returns, arrays, tuple(sources)
        if arrays not in (None, "torch", "numpy", "raw"):
            raise FamilyError(f"arrays is {arrays!r}: it is 'torch', 'numpy' or 'raw'")
        for what, given in (("build", build), ("reference", reference)):
            if not callable(given):
                raise FamilyError(f"{what} is {given!r}, which cannot be called")
        self.takes_stream = False
        self._toml = None
        if toml is not None:
            said = {"dims": dims, "tensors": tensors, "space": space, "problems": problems}
            twice = [what for what, given in said.items() if given is not None]
            if twice:
                raise FamilyError(f"{', '.join(twice)}: said here and in {toml}")
            self._toml = _read_toml(Path(self._file).parent / toml)
            self.name, self.tensors = _of_toml(self._toml, toml)
            return
        missing = [
            what
            for what, given in (("name", name), ("dims", dims), ("tensors", tensors), ("space", space), ("problems", problems))
            if not given
        ]
        if missing:
            raise FamilyError(f"a family needs {', '.join(missing)}")
        self.name, self.dims, self.tensors, self.problems = (
            name,
            list(dims),
            list(tensors),
            [dict(problem) for problem in problems],
        )
        self.dtypes = list(dtypes or _dtypes_of(self.problems, self.tensors))
        self.space, self.default = space, default
        self.domain, self.random = domain or _domain_of(self.dims, self.problems), random
        self.flops, self.bytes, self.groups = flops, bytes, groups or []
        self.bins = _bins_of(self.dims, self.problems) if bins is None else dict(bins)
        self.require, self.exclude = list(require), list(exclude)

    # What processes ask of it.

    def _build(self, config, problem, _made):
        """What is called; ``_made`` is what ``_compile`` returned where the config was compiled ahead, else nothing."""
        built = _with_problem(self._build_of, config, problem)
        self.takes_stream = _takes(built, "stream")
        return built

    def _reference(self, problem):
        takes_problem = _takes(self._reference_of, "problem")
        return (lambda *tensors: self._reference_of(*tensors, problem=problem)) if takes_problem else self._reference_of

    def _compile(self, config, problem, arch):
        """Compiles a config ahead, and returns bytes for ``_build`` where there is something to tell it."""
        if self._compile_of is not None:
            self._compile_of(config, problem, arch)
        return b""

    def _compiles(self):
        return self._compile_of is not None

    def _arguments(self, given, written, with_written):
        """The tensors in the family's order: those that are read, and those that are written too, where they are asked for."""
        given, written = iter(given), iter(written)
        arguments = []
        for tensor in self.tensors:
            one = next(given) if tensor.role == "in" else next(written)
            if with_written or tensor.role != "out":
                arguments.append(one)
        return arguments

    def _identities(self):
        """What else than the family's own file makes it this kernel."""
        return []

    def _kernel_fields(self):
        """What is to be said of the kernel in the manifest: its language, name, file and arguments."""
        return {}

    def _model_fields(self):
        """What is to be said of how configs cut problems, in the manifest's words."""
        return {}

    def identity(self):
        """Changes with whatever makes it another kernel: the code of its file and of ``sources``, and the versions of what
        compiles it."""
        parts = [_code_of(self._file), *(_code_of(Path(self._file).parent / source) for source in self.sources)]
        versions = [f"python {platform.python_version()}"]
        for package in _COMPILERS:
            if package in sys.modules:
                versions.append(f"{package} {importlib.metadata.version(package)}")
        parts += versions + [str(part) for part in self._identities()]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

    def place(self):
        """The file that names it, and its name there."""
        names = [name for name, value in self._globals.items() if value is self]
        if not names:
            raise FamilyError(f"family {self.name} has no name in {self._file}: give it one at the top of the file")
        return self._file, names[0]

    def manifest(self):
        """The family as a manifest."""
        callable_table = _table(
            "callable",
            {
                "file": str(self._file),
                "name": self.place()[1],
                "identity": self.identity(),
                "compiles": self._compiles(),
                **self._kernel_fields(),
            },
        )
        if self._toml is not None:
            return f"{self._toml['text']}\n\n{callable_table}"
        knobs = sorted({knob for config in self._configs() for knob in config} | set(self.default or {}))
        flops = self.flops if self.flops is not None else " * ".join(f"({extent})" for extent in _output(self.tensors).shape) or 1
        family = {
            "name": self.name,
            "dims": self.dims,
            "dtypes": self.dtypes,
            "knobs": knobs,
            "flops": flops,
            "bytes": self.bytes,
            "domain": self.domain,
            "bins": self.bins or None,
            "groups": self.groups or None,
            "require": [{"holds": holds, "reason": reason} for holds, reason in self.require] or None,
        }
        parts = [_table("family", family)]
        for tensor in self.tensors:
            fields = {
                "name": tensor.name,
                "role": tensor.role,
                "dtype": tensor.dtype,
                "shape": list(tensor.shape),
                "fill": tensor.fill,
                "awkward": tensor.awkward,
                "alignment": tensor.alignment,
            }
            if tensor.tolerance is not None and not _is_integer(tensor.dtype):
                fields["tolerance"] = {"relative": float(tensor.tolerance[0]), "absolute": float(tensor.tolerance[1])}
            parts.append(_table("tensor", fields, of_many=True))
        parts.append(callable_table)
        if model := self._model_fields():
            parts.append(_table("model", model))
        for kind in ("gpu", "cpu"):
            parts.append(self._space_table(kind))
        parts += [_table("problem", problem, of_many=True) for problem in self.problems]
        if self.random:
            parts.append(_table("random", self.random))
        return "\n".join(parts)

    def _configs(self):
        if isinstance(self.space, dict):
            return [{knob: values[0] for knob, values in self.space.items() if knob != "block_sizes"} | self._first_blocks()]
        return self.space

    def _first_blocks(self):
        return {"block_sizes": [values[0] for values in self.space["block_sizes"]]} if "block_sizes" in self.space else {}

    def _space_table(self, kind):
        default = self.default or self._configs()[0]
        exclude = [{"when": when, "reason": reason} for when, reason in self.exclude] or None
        if isinstance(self.space, dict):
            return _table(f"space.{kind}", {"default": default, "axes": self.space, "exclude": exclude})
        return _table(f"space.{kind}", {"default": default, "configs": list(self.space), "exclude": exclude})


def load(file, name=""):
    """The family of that name in a file; the only one where no name is given."""
    return family_of(load_module(file), name)


def load_module(file):
    """A file as a module; where that imports what is not here, the error says so."""
    path = Path(file)
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    module_name = path.stem
    spec = importlib.util.spec_from_file_location(module_name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(f"{file} needs {error.name}, which {sys.executable} does not have: install it there") from None
    return module


def family_of(module, name):
    """The family of that name in a module; the only one where the name is empty."""
    file = module.__spec__.origin
    families = {key: value for key, value in vars(module).items() if isinstance(value, Family)}
    known = ", ".join(families) or "none"
    if name:
        found = [value for key, value in families.items() if key == name or value.name == name]
    else:
        found = list(families.values())
    if not found:
        raise FamilyError(
            f"{file} has no family {name}: it has {known}"
            if name
            else f"{file} has no family: make a kernel_sweep.Family at its top"
        )
    if len(found) > 1 and not name:
        raise FamilyError(f"{file} has the families {known}: name one, {file}:{next(iter(families))}")
    return found[0]


def tune(
    family,
    *,
    gpu="auto",
    budget=None,
    output="output",
    fresh=False,
    seed=None,
    devices=None,
    trial_deadline=None,
    progress=None,
):
    """Sweeps a family and returns the document as ``Heuristics``.

    ``family`` is a ``Family`` or ``"FILE.py:NAME"``. ``gpu`` is as the tool's ``--gpu``, ``budget`` in seconds, ``output``
    the folder of journals and documents: what is in it already is not measured again, unless ``fresh``. ``progress`` is
    called with each trial as the journal has it, from another thread. Raises ``TuneError`` with the tool's message where it
    fails.
    """
    from . import Heuristics

    place = family if isinstance(family, str) else ":".join(map(str, family.place()))
    command = [
        sys.executable,
        "-m",
        "kernel_sweep",
        "--family",
        place,
        "--gpu",
        gpu,
        "--output",
        os.fspath(output),
        "--quiet",
        "--json",
    ]
    if budget is not None:
        command += ["--budget", f"{max(1, round(budget))}s"]
    if seed is not None:
        command += ["--seed", str(seed)]
    if devices is not None:
        command += ["--devices", devices if isinstance(devices, str) else ",".join(map(str, devices))]
    if trial_deadline is not None:
        command += ["--trial-deadline", f"{max(1, round(trial_deadline))}s"]
    if fresh:
        command.append("--fresh")
    with tempfile.TemporaryFile("w+") as told:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=told, text=True)
        over = threading.Event()
        watcher = None
        if progress is not None:
            watcher = threading.Thread(target=_watch, args=(Path(output), _journals(Path(output)), over, progress), daemon=True)
            watcher.start()
        try:
            answer = process.communicate()[0]
        except BaseException:
            process.terminate()
            process.wait()
            raise
        finally:
            over.set()
            if watcher is not None:
                watcher.join()
        told.seek(0)
        lines = [line.strip() for line in told if line.strip()]
    _UNWORKABLE = 4
    if process.returncode not in (0, _UNWORKABLE):
        said = next((line for line in reversed(lines) if line.startswith("error:")), lines[-1] if lines else "")
        raise TuneError(said.removeprefix("error:").strip() or f"the tool ended with {process.returncode}")
    summary = json.loads(answer)
    if not summary["resumed"] and not summary["statuses"].get("ok"):
        raise TuneError(f"no config was seen to work: {_told(summary)}")
    return Heuristics.load(summary["document"])


def _told(summary):
    """What became of a sweep's trials, and the last error among them."""
    statuses = ", ".join(f"{count} {status}" for status, count in summary["statuses"].items() if count)
    lines = (line for journal in summary["journals"] for line in Path(journal).read_text().splitlines())
    errors = [error for error in (json.loads(line).get("error") for line in lines) if error]
    within = f"none was tried in {summary['wall_s']:.0f} s; the budget may be too short"
    return (statuses or within) + (f"; the last error: {errors[-1]}" if errors else "")


def _journals(output):
    """The journals of a folder, and how long each is."""
    return {path: path.stat().st_size for path in output.glob("*/journal/*.jsonl")}


def _watch(output, known, over, progress):
    """Tells of the lines that journals get."""
    while True:
        last = over.wait(0.1)
        for path in output.glob("*/journal/*.jsonl"):
            begun = known.get(path, 0)
            if path.stat().st_size < begun:
                begun = 0  # it was set aside, and another begun
            with open(path, "rb") as journal:
                journal.seek(begun)
                text = journal.read()
            whole = text[: text.rfind(b"\n") + 1]
            known[path] = begun + len(whole)
            for line in whole.splitlines():
                record = json.loads(line)
                if record.get("kind") == "trial":
                    progress(record)
        if last:
            return


# The manifest's text.


def _toml_value(value):
    if value is None:
        return '"whole"'  # there is no null in TOML
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(key)} = {_toml_value(item)}" for key, item in value.items() if item is not None) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    raise FamilyError(f"{value!r} is no number, text, list or table")


def _key(key):
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", str(key)) else json.dumps(str(key))


def _table(name, fields, of_many=False):
    head = f"[[{name}]]" if of_many else f"[{name}]"
    lines = [f"{_key(key)} = {_toml_value(value)}" for key, value in fields.items() if value is not None]
    return "\n".join([head, *lines, ""])


# What is taken from what is said.


def _is_integer(dtype):
    return dtype[:1] in "iu"


def _output(tensors):
    outputs = [tensor for tensor in tensors if tensor.role != "in"]
    if not outputs:
        raise FamilyError("no tensor is written: say which with writes() or updates()")
    return outputs[0]


def _dtypes_of(problems, tensors):
    named = list(dict.fromkeys(problem["dtype"] for problem in problems if "dtype" in problem))
    if named:
        return named
    first = tensors[0].dtype
    return ["f32"] if first == "dtype" else [first]


def _domain_of(dims, problems):
    def domain(name):
        extents = [problem[name] for problem in problems if name in problem]
        if len(extents) < len(problems):
            raise FamilyError(f"a problem has no {name}: {problems}")
        return {"least": min(extents), "most": max(extents)}

    return {name: domain(name) for name in dims}


# Each problem is a bucket of its own by as many bounds as this; with more of them, models serve exact shapes.
_MOST_BOUNDS = 32


def _bins_of(dims, problems):
    """A bin for each dimension that varies, with the problems' extents as its bounds: what is best for one problem is served
    there and below."""
    extents = {name: sorted({problem[name] for problem in problems}) for name in dims}
    return {f"{name}_bin": {"of": name, "bounds": bounds} for name, bounds in extents.items() if 1 < len(bounds) <= _MOST_BOUNDS}


def _read_toml(path):
    try:
        import tomllib
    except ImportError:
        try:
            import tomli as tomllib
        except ImportError:
            raise ImportError(f"{path} is read with Python 3.11 or tomli: install tomli in {sys.executable}") from None
    try:
        text = path.read_text()
        return {"text": text, "said": tomllib.loads(text)}
    except OSError as error:
        raise FamilyError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise FamilyError(f"{path}: {error}") from None


def _of_toml(toml, name):
    said = toml["said"]
    for wrong in ("kernel", "callable"):
        if wrong in said:
            raise FamilyError(f"{name} has a [{wrong}], and what runs is said in Python")
    if "name" not in said.get("family", {}):
        raise FamilyError(f"{name} has no [family] with a name")
    tensors = [Tensor(one["name"], one["role"], tuple(one["shape"]), one["dtype"]) for one in said.get("tensor", [])]
    return said["family"]["name"], tensors


def _code_of(file):
    """A file's code without comments and layout, which make no other kernel."""
    text = Path(file).read_text()
    try:
        return ast.dump(ast.parse(text))
    except SyntaxError:
        return text


def _calling_frame():
    frame = inspect.currentframe()
    here = os.path.dirname(__file__)
    while frame is not None and os.path.dirname(frame.f_code.co_filename) == here:
        frame = frame.f_back
    return frame


def _calling_file():
    return os.path.abspath(_calling_frame().f_code.co_filename)


def _calling_globals():
    return _calling_frame().f_globals


def _takes(function, name):
    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False


def _with_problem(function, config, problem):
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return function(config)
    positional = [
        one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD) and one.default is one.empty
    ]
    return function(config, problem) if len(positional) > 1 else function(config)


def product(**axes):
    """Every config of these knobs' values, as a list that can be filtered and added to."""
    names = list(axes)
    return [dict(zip(names, values)) for values in itertools.product(*axes.values())]
