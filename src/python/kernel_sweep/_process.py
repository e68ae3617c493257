"""Processes about the families that a file names: ``python -m kernel_sweep._process describe FILE NAME`` and ``… measure|compile FILE``.

``describe`` writes the family's manifest; ``measure`` answers the line protocol of the measuring process, whose device, stream,
flush and clock are the native half's, and which calls what is here in between; ``compile`` answers jobs, one JSON a line. Both do so
for any family of the file. Where ``$SWEEP_TEMPLATE`` names a template of processes (``_template.py``), it does the task in a copy of itself.
"""

import importlib.util
import json
import os
import sys
from pathlib import Path

from . import _arrays, _template


class Callee:
    """The kernels of a file's families, as the native half asks for them."""

    def __init__(self, module):
        self._module = module
        self._family = None
        self._ordinal = self._stream = None
        self._wrap = None
        self._problem = None
        self._built = {}
        self._current = None
        self._tensors = {}
        self._last, self._poisoned = [], []

    def open(self, ordinal, stream):
        """Kernels run on the GPU of that ordinal from now on, in its primary context and on that stream; on the host where there is none."""
        self._ordinal, self._stream = ordinal, stream
        if ordinal is None:
            return
        torch = sys.modules.get("torch")
        if torch is not None:
            torch.cuda.set_device(ordinal)
            torch.cuda.set_stream(torch.cuda.ExternalStream(stream))
        cupy = sys.modules.get("cupy")
        if cupy is not None:
            cupy.cuda.Device(ordinal).use()
            cupy.cuda.ExternalStream(stream).use()

    def prepare(self, name, dims, dtype):
        """The family of that name and its problem from now on. Tensors and kernels of the last one are dropped."""
        from .tuning import Problem, family_of

        self._family = family_of(self._module, name)
        self._wrap = _wrapper(self._family.arrays, self._ordinal)
        self._problem = Problem(dims, dtype)
        self._built.clear()
        self._tensors.clear()
        self._current, self._last, self._poisoned = None, [], []
        torch = sys.modules.get("torch")
        if self._ordinal is not None and torch is not None:
            torch.cuda.empty_cache()  # what the last problem took is the next one's

    def reference(self, inputs, outputs):
        """Writes what is right of each output."""
        given, written = self._all(inputs), self._all(outputs)
        arguments = self._family._arguments(given, written, with_written=False)
        results = _list(self._family._reference(self._problem)(*arguments))
        if len(results) != len(written):
            raise ValueError(f"it returns {len(results)} results, and the family has {len(written)} outputs")
        for target, result in zip(written, results):
            _arrays.write(target, result)
        self._tensors.clear()

    def build(self, config, made):
        """Makes a config's kernel the one that is called. ``made`` is the file of what came of compiling it ahead, if that was done."""
        key = (config, made)
        if key not in self._built:
            built = self._family._build(json.loads(config), self._problem, Path(made).read_bytes() if made else b"")
            if not callable(built):
                raise TypeError(f"it returns {type(built).__name__}, which cannot be called")
            self._built[key] = built
        self._current = self._built[key]
        self._last, self._poisoned = [], []

    def call(self, inputs, outputs, verifies):
        """Calls it; what it returns is copied to the outputs where that is to be verified."""
        family = self._family
        given, written = self._all(inputs), self._all(outputs)
        arguments = family._arguments(given, written, with_written=not family.returns)
        keywords = {"stream": self._stream} if family.takes_stream else {}
        if not family.returns:
            self._current(*arguments, **keywords)
            return
        self._last = []  # whose memory the next one may have
        results = _list(self._current(*arguments, **keywords))
        if verifies:
            if len(results) != len(written):
                raise ValueError(f"it returns {len(results)} results, and the family has {len(written)} outputs")
            for target, result in zip(written, results):
                _arrays.write(target, result)
        self._last = results

    def poison_returned(self, byte):
        """Fills what the last call returned with such bytes, and leaves that memory to the next one."""
        last, self._last, self._poisoned = self._last, [], []
        for result in last:
            if hasattr(result, "data_ptr") and result.is_contiguous():
                result.view(-1).view(sys.modules["torch"].uint8).fill_(byte)
                self._poisoned.append((result.data_ptr(), result.numel() * result.element_size()))

    def returned(self):
        """Where the last call's results lie, those that lie where some were poisoned."""
        places = [
            (result.data_ptr(), result.numel() * result.element_size()) for result in self._last if hasattr(result, "data_ptr")
        ]
        return [place for place in places if place in self._poisoned]

    def _all(self, arrays):
        return [self._tensor(address, dtype, shape) for address, dtype, shape in arrays]

    def _tensor(self, address, dtype, shape):
        tensor = self._tensors.get((address, dtype))
        if tensor is None:
            tensor = self._wrap(_arrays.Array(address, dtype, shape, self._ordinal))
            self._tensors[address, dtype] = tensor
        return tensor


def _list(results):
    return list(results) if isinstance(results, (tuple, list)) else [results]


def _wrapper(arrays, ordinal):
    if arrays is None:
        if ordinal is None:
            arrays = "torch" if "torch" in sys.modules else "numpy"
        else:
            arrays = "torch" if importlib.util.find_spec("torch") else "raw"
    if arrays == "torch":
        import torch

        if ordinal is not None and not torch.cuda.is_available():
            raise RuntimeError(
                f"torch {torch.__version__} in {sys.executable} has no CUDA: a torch with CUDA is needed to measure there"
            )
        return _arrays.for_torch
    if arrays == "numpy":
        import numpy  # noqa: F401: so that its absence is told here

        return _arrays.for_numpy
    return lambda array: array


def _private_streams():
    """The pipes of the protocol, by paths, where what a kernel prints or reads does not come between."""
    questions, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return f"/proc/self/fd/{questions}", f"/proc/self/fd/{answers}"


# What other work on this machine goes before, measuring most of all, where a process of Python has as much to do for a trial as the GPU.
_NICENESS = 10


def _answer_jobs(module, questions, answers):
    """Compiles ahead: the source of a job is a problem and a config, its options are the architecture and the family's name."""
    from .tuning import Problem, family_of

    os.nice(_NICENESS)
    with open(questions) as questions, open(answers, "w") as answers:
        for line in questions:
            job = json.loads(line)
            values = json.loads(job["source"])
            config, dtype = json.loads(values.pop("config")), values.pop("dtype")
            problem = Problem({name: int(extent) for name, extent in values.items()}, dtype)
            made, log = b"", ""
            try:
                arch, name = job["options"]
                made = family_of(module, name)._compile(config, problem, arch)
            except MemoryError as error:
                print(json.dumps({"Err": f"no memory to compile: {error}"}), file=answers, flush=True)
                continue
            except BaseException as error:
                lines = [part.strip() for part in str(error).splitlines() if part.strip()]
                log = f"error: {type(error).__name__}: {' '.join(lines)[:400]}"
            cubin = None if log else list(made or b"")
            print(json.dumps({"Ok": {"cubin": cubin, "entry": None, "log": log}}), file=answers, flush=True)


def answer(task, file, name=""):
    """Does a task about a file, or about the family of that name in it; returns the exit code."""
    questions, answers = _private_streams()
    from . import tuning

    try:
        module = tuning.load_module(file)
        if task == "describe":
            text = tuning.family_of(module, name).manifest()
            with open(answers, "w") as out:
                out.write(text)
            return 0
    except (tuning.FamilyError, ImportError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    except Exception as error:
        import traceback

        traceback.print_exc()
        print(f"{file}: {type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    if task == "compile":
        _answer_jobs(module, questions, answers)
        return 0
    from . import _native

    _native.measure(Callee(module), questions, answers)
    # What hangs in a driver at the end of the interpreter would hang here.
    sys.stderr.flush()
    os._exit(0)


def main():
    task, file, *name = sys.argv[1:]
    if task != "describe":
        _template.end_with_parent()
    template = os.environ.pop("SWEEP_TEMPLATE", None)
    code = None if template is None else _template.ask(template, [task, file, *name])
    return answer(task, file, *name) if code is None else code


if __name__ == "__main__":
    sys.exit(main())
