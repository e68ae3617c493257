"""Kernels of Helion: a ``@helion.kernel`` with the tensors it is called with is a family, whose space is Helion's own config spec."""

import functools
import random

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
    return helion


class HelionFamily(Family):
    """A ``@helion.kernel`` as a family.

    ``arguments`` are the kernel's: the name of a tensor, an expression of dims, or a constant; the tensors that it reads, in
    order, where they are left out. It returns what the tensors that it writes are compared with. The space is drawn from
    Helion's config spec of every problem, so that each config is one that Helion calls legal there: its default, the seeds of
    its own heuristics, ``draws`` configs of block sizes, warps and stages about these, and as many of all its knobs at
    random. Everything else is ``Family``'s. A GPU is needed: without one Helion has no config spec.

    In place of ``dims``, ``tensors`` and ``problems`` there may be ``examples``: a list of the kernel's arguments, each as it
    is called with, or a function that makes it. Extents that are alike in every example are one dimension (``d0``, ``d1``,
    …), and each example is a problem. An element of what it returns may then differ from the reference by ``relative`` and
    ``absolute``.
    """

    def __init__(self, kernel, *, arguments=None, examples=None, relative=1e-2, absolute=1e-2, draws=400, seed=0, **family):
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
        super().__init__(build=self._compiled, compile=self._compile_ahead, returns=True, arrays="torch", space=[{}], **family)
        reads = [tensor.name for tensor in self.tensors if tensor.role != "out"]
        self._given = list(arguments) if arguments is not None else reads
        self._space = None

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

    def _arguments_of(self, problem):
        """Example arguments: tensors of the problem's shapes, whose contents are nothing in particular."""
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

    def _bind(self, problem):
        key = (tuple(sorted(problem.dims.items())), problem.dtype)
        if key not in self._bound:
            import torch

            if not torch.cuda.is_available():
                raise FamilyError(f"{self.name}: Helion has a config spec only where there is a GPU, and torch sees none")
            arguments = self._arguments_of(problem)
            self._bound[key] = (self._kernel.bind(arguments), arguments)
        return self._bound[key]

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
            returned = compiled(*arguments, _launcher=lambda *_, **__: None)
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
        configs, default = {}, None
        share = max(1, self._draws // len(self.problems))
        for place, problem in enumerate(self.problems):
            dims = {name: extent for name, extent in problem.items() if name in self.dims}
            bound, _ = self._bind(Problem(dims, problem.get("dtype", self.dtypes[0])))
            drawn = _draw(bound, share, random.Random(f"{self._seed} {place}"))
            default = default or drawn[0]
            for config in drawn:
                configs.setdefault(repr(sorted(config.items())), config)
            self._bound.clear()  # and its tensors
        return default, list(configs.values())

    # What processes ask of it.

    def _compiled(self, config, problem):
        helion = _import_helion()
        bound, arguments = self._bind(problem)
        compiled = bound.compile_config(helion.Config(**config), allow_print=False)
        places = [place for place, one in enumerate(self._given) if any(tensor.name == one for tensor in self.tensors)]
        order = [tensor.name for tensor in self.tensors if tensor.role != "out"]
        constants = list(arguments)
        # Compiled and loaded before it is called, so that what no GPU holds is refused here.
        _launched(compiled, arguments, loads=True)
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

    def _compile_ahead(self, config, problem, _arch):
        helion = _import_helion()
        bound, arguments = self._bind(problem)
        _launched(bound.compile_config(helion.Config(**config), allow_print=False), arguments, loads=False)


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


def _launched(compiled, arguments, loads):
    """Runs the host's part of a compiled kernel, whose launches compile and launch nothing."""

    def launcher(kernel, grid, *given, ptx_options=None, **options):
        if ptx_options is not None:
            options["ptx_options"] = ptx_options
        made = kernel.run(*given, grid=grid, warmup=True, **options)
        if loads and made is not None:
            made._init_handles()

    compiled(*arguments, _launcher=launcher)


# Knobs that drawn tiles may have otherwise than by default, the same for all that they are a list of, and how often.
_KNOBS_OF_ALL = ("indexing", "pid_type", "l2_groupings", "loop_orders")
_OTHERWISE = 0.3
# A thread's elements of a tile, as powers of two: those of a product are counted along all three.
_ELEMENTS = (3, 12)


def _draw(bound, count, draw):
    """Configs of a bound kernel's spec: the default first, then the seeds, the drawn tiles, and those with every knob at random."""
    from helion.autotuner.config_generation import ConfigGeneration

    settings = bound.kernel.settings
    generation = ConfigGeneration(bound.config_spec, overrides=settings.autotune_config_overrides or None)
    flats = [generation.default_flat(), *(flat for flat, _ in generation.seed_flat_config_pairs(lambda *_: None))]
    shape = [
        place
        for place, fragment in enumerate(generation.flat_spec)
        if place in generation.block_size_indices or place == generation.num_warps_index or _is_stages(generation, place)
    ]
    layout = generation._key_to_flat_indices
    others = [layout[key][0] for key in _KNOBS_OF_ALL if layout.get(key, ([], False))[0]]
    state = random.getstate()
    try:
        random.seed(draw.random())
        bases = list(flats)
        for _ in range(count):
            flat = list(draw.choice(bases))
            for place in shape:
                flat[place] = generation.flat_spec[place].random()
            for places in others:
                if draw.random() < _OTHERWISE:
                    value = generation.flat_spec[places[0]].random()
                    for place in places:
                        flat[place] = value
            generation.shrink_config(flat, 2 ** draw.randint(*_ELEMENTS))
            flats.append(flat)
        flats += [generation.random_flat() for _ in range(count)]
    finally:
        random.setstate(state)
    configs = {}
    for flat in flats:
        try:
            config = generation.unflatten(list(flat))
        except Exception:
            continue  # what Helion itself refuses is none
        config = _from_helion(config.config)
        configs.setdefault(repr(sorted(config.items())), config)
    return list(configs.values())


def _is_stages(generation, place):
    places, _ = generation._key_to_flat_indices.get("num_stages", ([], False))
    return place in places


def _from_helion(config):
    """A config as ours: what is none is left out."""

    def plain(value):
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    return {name: plain(value) for name, value in config.items() if value is not None and value != []}


def helion_config(config):
    """A served config as a ``helion.Config``."""
    return _import_helion().Config(**config)
