"""Kernels of Triton: a ``@triton.jit`` function with its arguments, constexprs and grid is a family."""

import functools
import json

from ._expressions import is_expression, value_of
from .tuning import Family, FamilyError, Problem

# The first version whose functions can be compiled for a GPU that is not there as it is done here.
_LEAST = (3, 4)
_NEEDED = f"Triton {'.'.join(map(str, _LEAST))} or later"
# Launch options of Triton; every other knob is a constexpr.
_OPTIONS = ("num_warps", "num_stages", "num_ctas", "maxnreg")
# Triton's names of our types.
_TYPES = {
    "bf16": "bfloat16",
    "f16": "float16",
    "f32": "float32",
    "f64": "float64",
    "fp8": "float8e4nv",
    "i8": "int8",
    "u8": "uint8",
    "i16": "int16",
    "i32": "int32",
    "i64": "int64",
}


@functools.cache
def _import_triton():
    try:
        import triton
    except ImportError:
        raise ImportError(f"a family of Triton needs {_NEEDED}: pip install triton") from None
    version = tuple(int(part) for part in triton.__version__.split(".")[:2])
    if version < _LEAST:
        raise ImportError(f"a family of Triton needs {_NEEDED}, and this is {triton.__version__}")
    return triton


class TritonFamily(Family):
    """A ``@triton.jit`` function as a family.

    ``arguments`` are the function's, in order, up to its constexprs: the name of a tensor, an expression of dims (``"k"``,
    ``"n // 2"``), or a number. ``constexprs`` gives the constexprs that are no knobs, each as an expression of dims and
    knobs, or a constant. ``grid`` is as Triton's: a tuple, whose items may be expressions of dims, constexprs and knobs, or a
    function of all these by name. Knobs are constexprs by their names, and ``num_warps``, ``num_stages``, ``num_ctas`` and
    ``maxnreg``. Everything else is ``Family``'s. Configs are compiled ahead in parallel processes, which need no GPU;
    Triton's own cache keeps what they make.
    """

    def __init__(self, kernel, *, arguments, grid, constexprs=None, **family):
        triton = _import_triton()
        while not isinstance(kernel, triton.JITFunction):
            inner = getattr(kernel, "fn", None)
            if inner is None:
                raise FamilyError(f"{kernel!r} is no @triton.jit function")
            kernel = inner  # under @triton.autotune or @triton.heuristics
        self._kernel, self._given, self._grid = kernel, list(arguments), grid
        self._constants = dict(constexprs or {})
        family.setdefault("name", kernel.fn.__name__)
        super().__init__(build=self._launcher, compile=self._compile_ahead, **family)
        known = [tensor.name for tensor in self.tensors]
        strange = [name for name in self._constants if name not in kernel.arg_names]
        if strange:
            raise FamilyError(f"constexpr {strange[0]!r} is no argument of {kernel.fn.__name__} ({', '.join(kernel.arg_names)})")
        unknown = [one for one in self._given if isinstance(one, str) and one not in known and not is_expression(one, self.dims)]
        if unknown:
            raise FamilyError(
                f"argument {unknown[0]!r} is no tensor ({', '.join(known)}) and no expression of {', '.join(self.dims)}"
            )

    def _identities(self):
        return [self._kernel.cache_key]

    def _kernel_fields(self):
        return {"language": "triton", "kernel": self._kernel.fn.__name__}

    def _meta(self, config, problem):
        """The constexprs, and what the grid and expressions may name."""
        options = {name: config[name] for name in _OPTIONS if name in config}
        taken = self._kernel.arg_names
        constexprs = {name: value for name, value in config.items() if name not in _OPTIONS and name in taken}
        names = {**problem.dims, **config}
        for name, value in self._constants.items():
            constexprs[name] = value_of(value, names)
        return constexprs, options, {**names, **constexprs}

    def _grid_of(self, meta):
        grid = self._grid(meta) if callable(self._grid) else tuple(value_of(axis, meta) for axis in self._grid)
        return tuple(int(axis) for axis in grid)

    def _scalars(self, problem):
        return [one if not isinstance(one, str) or self._is_tensor(one) else value_of(one, problem.dims) for one in self._given]

    def _is_tensor(self, name):
        return any(tensor.name == name for tensor in self.tensors)

    def _launcher(self, config, problem):
        constexprs, options, meta = self._meta(config, problem)
        grid, given = self._grid_of(meta), self._scalars(problem)
        places = {tensor.name: place for place, tensor in enumerate(self.tensors)}
        order = [places[one] if isinstance(one, str) else None for one in given]
        # What a GPU cannot hold is refused here, and not at the first launch.
        self._compiled(config, problem)._init_handles()
        kernel = self._kernel

        def launch(*tensors):
            arguments = [given[index] if place is None else tensors[place] for index, place in enumerate(order)]
            kernel.run(*arguments, grid=grid, warmup=False, **constexprs, **options)

        return launch

    def _compiled(self, config, problem):
        """Compiled for tensors that begin where ours do, on the active driver's target."""
        from triton import language
        from triton.runtime.jit import MockTensor

        constexprs, options, meta = self._meta(config, problem)
        types = {tensor.name: problem.dtype if tensor.dtype == "dtype" else tensor.dtype for tensor in self.tensors}
        arguments = [
            MockTensor(getattr(language, _TYPES[types[one]])) if isinstance(one, str) else one for one in self._scalars(problem)
        ]
        return self._kernel.warmup(*arguments, grid=self._grid_of(meta), **constexprs, **options)

    def _compile_ahead(self, config, problem, arch):
        triton = _import_triton()
        triton.runtime.driver.set_active(_NoGpu(arch))
        self._compiled(config, problem)


class _NoGpu:
    """A driver that names the target, and has no device."""

    def __init__(self, arch):
        from triton.backends.compiler import GPUTarget

        capability = int("".join(letter for letter in arch if letter.isdigit()))
        self._target = GPUTarget("cuda", capability, 32)

    def get_current_target(self):
        return self._target

    def get_current_device(self):
        return 0

    def get_current_stream(self, _device=0):
        return 0


def triton_config(config, family=None, problem=None):
    """A served config as a ``triton.Config``, ready for a launch or for ``@triton.autotune``. With the ``TritonFamily`` and the problem, a dict of
    dims, it has the constexprs that follow from them too."""
    triton = _import_triton()
    options = {name: config[name] for name in _OPTIONS if name in config}
    if family is None:
        return triton.Config({name: value for name, value in config.items() if name not in _OPTIONS}, **options)
    dims = dict(problem or {})
    dtype = dims.pop("dtype", family.dtypes[0])
    constexprs, options, _ = family._meta(config, Problem(dims, dtype))
    options |= {name: value for name, value in constexprs.items() if name in _OPTIONS}
    return triton.Config({name: value for name, value in constexprs.items() if name not in _OPTIONS}, **options)


def triton_configs(heuristics, family, problems=None):
    """What is served for problems, each once, as ``triton.Config``: the pruned list of ``@triton.autotune``. They are the ``TritonFamily``'s
    problems where none are given."""
    configs = {}
    for problem in family.problems if problems is None else problems:
        dims = {name: extent for name, extent in problem.items() if name != "dtype"}
        for config in heuristics.lookup(family.name, dtype=problem.get("dtype", family.dtypes[0]), **dims):
            made = triton_config(config, family, problem)
            configs.setdefault(json.dumps(made.all_kwargs(), sort_keys=True, default=str), made)
    return list(configs.values())
