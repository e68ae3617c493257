"""Kernels of Helion: a ``@helion.kernel`` with the tensors it is called with is a family, whose space is Helion's own config spec."""

import functools
import logging
import os

from . import _helion_space as space
from ._expressions import is_expression, value_of
from .tuning import Family, FamilyError, Problem, reads, writes

_LEAST = (1, 0)
_NEEDED = f"Helion {'.'.join(map(str, _LEAST))} or later"
# Torch's names of our types.
_TYPES = {
    "bf16": "bfloat16",
    "f16": "float16",
    "f32": "float32",
    "f64": "float64",
    "fp8": "float8_e4m3fn",
    "i8": "int8",
    "u8": "uint8",
    "i16": "int16",
    "i32": "int32",
    "i64": "int64",
}


@functools.cache
def _import_helion():
    import importlib.metadata

    try:
        import helion
    except ImportError:
        raise ImportError(f"a family of Helion needs {_NEEDED} and torch: pip install helion") from None
    version = importlib.metadata.version("helion")
    if tuple(int(part) for part in version.split(".")[:2]) < _LEAST:
        raise ImportError(f"a family of Helion needs {_NEEDED}, and this is {version}")
    # Helion has a cache of Triton's for each GPU, but what one process compiles here is for all.
    os.environ.setdefault("TRITON_CACHE_DIR", os.path.join(os.path.expanduser("~"), ".triton", "cache"))
    # Of each config that does not compile it logs the kernel and a traceback: here that is one record.
    logging.getLogger("helion.runtime.kernel").setLevel(logging.CRITICAL)
    return helion


class HelionFamily(Family):
    """A ``@helion.kernel`` as a family.

    ``arguments`` are the kernel's: the name of a tensor, an expression of dims, or a constant; the tensors that it reads, in
    order, where they are left out. It returns what the tensors that it writes are compared with. The space is drawn from
    Helion's config spec of every problem, so that each config is one that Helion calls legal there: its default, the seeds of
    its own heuristics, block sizes with as many warps and stages as suit them, these with another knob changed, and ``draws``
    configs with all knobs at random. Where the block sizes cut dimensions of the family, the search begins with the tiles that
    promise most for each problem. Everything else is ``Family``'s. A GPU is needed: without one Helion has no config spec.

    In place of ``dims``, ``tensors`` and ``problems`` there may be ``examples``: a list of the kernel's arguments, each as it
    is called with, or a function that makes it. Extents that are alike in every example are one dimension (``d0``, ``d1``,
    …), and each example is a problem. An element of what it returns may then differ from the reference by ``relative`` and
    ``absolute``.
    """

    def __init__(self, kernel, *, arguments=None, examples=None, relative=1e-2, absolute=1e-2, draws=64, seed=0, **family):
        helion = _import_helion()
        if not isinstance(kernel, helion.Kernel):
            raise FamilyError(f"{kernel!r} is no @helion.kernel")
        self._kernel, self._draws, self._seed = kernel, draws, seed
        self._bound = {}
        if "space" in family or "default" in family:
            raise FamilyError("a family of Helion has the space of Helion's config spec: leave space and default out")
        self._returned = None
        if examples is not None:
            arguments, told = _of_examples(examples() if callable(examples) else examples)
            twice = [name for name in told if name in family]
            if twice:
                raise FamilyError(f"{', '.join(twice)}: the examples say that already")
            family |= told
            self._returned = (relative, absolute)
        family.setdefault("name", kernel.name)
        super().__init__(build=self._generated, compile=self._generated, returns=True, arrays="torch", space=[{}], **family)
        reads = [tensor.name for tensor in self.tensors if tensor.role != "out"]
        self._given = list(arguments) if arguments is not None else reads
        self._cut = None

    def _identities(self):
        import inspect

        return [inspect.getsource(self._kernel.fn)]

    def _kernel_fields(self):
        named = {tensor.name for tensor in self.tensors}
        return {
            "language": "helion",
            "kernel": self._kernel.name,
            "source": self._kernel.fn.__code__.co_filename,
            "arguments": [one if one in named else "" for one in self._given],
        }

    @functools.cached_property
    def _nowhere(self):
        """Where tensors are that have a shape and a type, and no memory."""
        from torch._subclasses.fake_tensor import FakeTensorMode

        return FakeTensorMode()

    def _arguments_of(self, problem):
        """Example arguments, whose contents are nothing in particular."""
        import torch

        def tensor(one):
            dtype = getattr(torch, _TYPES[problem.dtype if one.dtype == "dtype" else one.dtype])
            return torch.empty([value_of(extent, problem.dims) for extent in one.shape], dtype=dtype, device="cuda")

        named = {one.name: one for one in self.tensors}

        def argument(one):
            if isinstance(one, str) and one in named:
                return tensor(named[one])
            return value_of(one, problem.dims) if isinstance(one, str) and is_expression(one, problem.dims) else one

        return tuple(argument(one) for one in self._given)

    def _fake_arguments(self, problem):
        """Arguments that take no memory."""
        with self._nowhere:
            return self._arguments_of(problem)

    def _bind(self, problem):
        """The kernel for a problem, and arguments that take no memory."""
        key = (tuple(sorted(problem.dims.items())), problem.dtype)
        if key not in self._bound:
            import torch

            if not torch.cuda.is_available():
                raise FamilyError(f"{self.name}: Helion has a config spec only where there is a GPU, and torch sees none")
            arguments = self._fake_arguments(problem)
            # Helion takes extents of tensors that have no memory for constants. It has one kernel for all dynamic shapes, but what
            # its spec allows follows from the first.
            self._kernel.reset()
            is_static = self._kernel.settings.static_shapes
            self._bound[key] = (self._kernel.bind(arguments if is_static else self._arguments_of(problem)), arguments)
        return self._bound[key]

    def _host_part(self, compiled, arguments, launcher):
        """What a compiled kernel returns, whose launches the launcher gets: no tensor of it has memory."""
        with self._nowhere:
            return compiled(*arguments, _launcher=launcher)

    # The space.

    def manifest(self):
        self.default, self.space = self._drawn()
        if self._returned is not None:
            self.tensors = [tensor for tensor in self.tensors if tensor.role != "out"] + self._returns_of_examples()
        return super().manifest()

    def _returns_of_examples(self):
        """What the kernel returns, by its host's part alone: nothing is launched."""
        shapes, dtypes = [], []
        for problem in self.problems:
            bound, arguments = self._bind(Problem(problem, self.dtypes[0]))
            compiled = bound.compile_config(bound.config_spec.default_config(), allow_print=False)
            returned = self._host_part(compiled, arguments, lambda *_, **__: None)
            returned = list(returned) if isinstance(returned, (tuple, list)) else [returned]
            shapes.append([tuple(one.shape) for one in returned])
            dtypes = [_dtype_of(one) for one in returned]
        known = {tuple(problem[name] for problem in self.problems): name for name in self.dims}
        outputs = []
        for place, dtype in enumerate(dtypes):
            columns = zip(*(shape[place] for shape in shapes))
            extents = [known.get(tuple(column), column[0] if len(set(column)) == 1 else None) for column in columns]
            if None in extents:
                raise FamilyError(
                    f"{self.name}: an extent of result {place} is none of the arguments': say dims, tensors and problems in place of examples"
                )
            outputs.append(writes(f"result{place}", extents, dtype, relative=self._returned[0], absolute=self._returned[1]))
        return outputs

    def _drawn(self):
        """Helion's default of the first problem, and the configs of every problem's spec, each once."""
        bound = [self._bind(self._problem_of(problem))[0] for problem in self.problems]
        self._cut = space.cut_of([one.config_spec for one in bound], {name: [of[name] for of in self.problems] for name in self.dims})
        configs, default = {}, None
        share = max(1, self._draws // len(self.problems))
        for problem, one in zip(self.problems, bound):
            drawn = space.Space(one, self.tensors, self._cut, self._problem_of(problem).dims, self._seed)
            for config in drawn.configs(share):
                default = default or config
                configs.setdefault(repr(sorted(config.items())), config)
        return default, list(configs.values())

    def _problem_of(self, problem):
        return Problem({name: extent for name, extent in problem.items() if name in self.dims}, problem.get("dtype", self.dtypes[0]))

    def _model_fields(self):
        """How block sizes cut a problem, for the order in which configs are tried."""
        return space.model_fields(self.tensors, self._cut) if self._cut else {}

    # What processes ask of it.

    def _build(self, config, problem, made):
        compiled = self._loaded(made.decode() if made else self._generated(config, problem))
        arguments = self._fake_arguments(problem)
        # Compiled and loaded before it is called, so that what no GPU holds is refused here.
        self._host_part(compiled, arguments, functools.partial(_compiled_only, loads=True))
        places = [place for place, one in enumerate(self._given) if any(tensor.name == one for tensor in self.tensors)]
        order = [tensor.name for tensor in self.tensors if tensor.role != "out"]
        constants = list(arguments)
        if places == list(range(len(constants))) and [self._given[place] for place in places] == order:
            return compiled

        def call(*tensors):
            named = dict(zip(order, tensors))
            return compiled(
                *(
                    named.get(one, constants[place]) if isinstance(one, str) else constants[place]
                    for place, one in enumerate(self._given)
                )
            )

        return call

    def _compile(self, config, problem, _arch):
        """Compiles what Helion generates, and returns that: generating takes a process longer than to load it again."""
        generated = self._generated(config, problem)
        _, arguments = self._bind(problem)
        self._host_part(self._loaded(generated), arguments, functools.partial(_compiled_only, loads=False))
        return generated.encode()

    def _generated(self, config, problem):
        """The code that Helion generates."""
        bound, _ = self._bind(problem)
        return bound.to_triton_code(helion_config(config))

    def _loaded(self, generated):
        """The kernel that is called, of generated code."""
        from torch._inductor.codecache import PyCodeCache

        return getattr(PyCodeCache.load(generated), self._kernel.name)


def _dtype_of(tensor):
    """Our name of a tensor's type."""
    name = str(tensor.dtype).removeprefix("torch.")
    ours = next((ours for ours, theirs in _TYPES.items() if theirs == name), None)
    if ours is None:
        raise FamilyError(f"no family has tensors of {tensor.dtype}")
    return ours


def _of_examples(examples):
    """The arguments, and what a family is told, of examples of them: extents that are alike in all examples are one dimension."""
    examples = [tuple(example) for example in examples]
    if not examples or len({len(example) for example in examples}) != 1:
        raise FamilyError("examples are a list of one or more tuples of as many arguments each")
    names, arguments, tensors = {}, [], []
    for place, values in enumerate(zip(*examples)):
        if not hasattr(values[0], "shape"):
            if any(value != values[0] for value in values):
                raise FamilyError(f"argument {place} is no tensor, and not the same in every example")
            arguments.append(values[0])
            continue
        if len({len(value.shape) for value in values}) != 1 or len({value.dtype for value in values}) != 1:
            raise FamilyError(f"argument {place} has other dimensions or another type in another example")
        columns = zip(*(map(int, value.shape) for value in values))
        shape = [names.setdefault(column, f"d{len(names)}") for column in columns]
        tensors.append(reads(f"argument{place}", shape, _dtype_of(values[0])))
        arguments.append(f"argument{place}")
    if not tensors:
        raise FamilyError("the examples have no tensor")
    problems = [{name: column[place] for column, name in names.items()} for place in range(len(examples))]
    # What it returns is told where a GPU tells it; until then it is as the first argument.
    outputs = [writes("result0", tensors[0].shape, tensors[0].dtype)]
    return arguments, {
        "dims": list(names.values()),
        "tensors": tensors + outputs,
        "problems": problems,
        "dtypes": [tensors[0].dtype],
    }


def _compiled_only(kernel, grid, *given, loads, ptx_options=None, **options):
    """In place of a launch: compiles the kernel for tensors that begin where ours do, and launches nothing."""
    from triton.runtime.jit import MockTensor

    if ptx_options is not None:
        options["ptx_options"] = ptx_options
    options.setdefault("launch_cooperative_grid", False)  # as Helion's launcher says it, so that it finds what is compiled here
    given = [MockTensor(one.dtype) if hasattr(one, "data_ptr") else one for one in given]
    made = kernel.run(*given, grid=grid, warmup=True, **options)
    if loads and made is not None:
        made._init_handles()


def helion_config(config):
    """A served config as a ``helion.Config``."""
    return _import_helion().Config(**config)
