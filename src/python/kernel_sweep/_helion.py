"""Kernels of Helion: a ``@helion.kernel`` with the tensors it is called with is a family, whose space is Helion's own config spec."""

import contextlib
import functools
import itertools
import logging
import math
import os
import random
import re

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
        super().__init__(build=self._compiled, compile=self._compile_ahead, returns=True, arrays="torch", space=[{}], **family)
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

    def _bind(self, problem):
        """The kernel for a problem, and arguments that take no memory."""
        key = (tuple(sorted(problem.dims.items())), problem.dtype)
        if key not in self._bound:
            import torch

            if not torch.cuda.is_available():
                raise FamilyError(f"{self.name}: Helion has a config spec only where there is a GPU, and torch sees none")
            with self._nowhere:
                arguments = self._arguments_of(problem)
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
        configs, default, blocks = {}, None, []
        share = max(1, self._draws // len(self.problems))
        for place, problem in enumerate(self.problems):
            dims = {name: extent for name, extent in problem.items() if name in self.dims}
            bound, _ = self._bind(Problem(dims, problem.get("dtype", self.dtypes[0])))
            blocks.append(_blocks_of(bound.config_spec))
            for config in _draw(bound, share, random.Random(f"{self._seed} {place}")):
                default = default or config
                configs.setdefault(repr(sorted(config.items())), config)
        self._cut = self._cut_of(blocks)
        return default, list(configs.values())

    def _cut_of(self, blocks):
        """Which dimension each block size cuts, how many of its elements an element of the block stands for, and whether in steps;
        nothing where that cannot be told. ``blocks`` has for each problem the extents and whether they are steps."""
        if len({tuple(is_step for _, is_step in of_one) for of_one in blocks}) != 1:
            return None
        columns = {name: [problem[name] for problem in self.problems] for name in self.dims}
        cut = []
        for place, (_, is_step) in enumerate(blocks[0]):
            extents = [of_one[place][0] for of_one in blocks]
            found = [
                (name, column[0] // extents[0])
                for name, column in columns.items()
                if all(whole == part * (column[0] // extents[0]) for whole, part in zip(column, extents))
                and name not in [other for other, _, _ in cut]
            ]
            if not found:
                return None
            cut.append((*min(found, key=lambda one: one[1]), is_step))
        return cut

    def _model_fields(self):
        """How block sizes cut a problem, for the order in which configs are tried."""
        if not self._cut:
            return {}
        block = {name: f"{times} * block_sizes[{place}]" for place, (name, times, _) in enumerate(self._cut)}
        is_step = {name: step for name, _, step in self._cut}
        of_steps = []
        for tensor in self.tensors:
            extents = [f"({extent})" for extent in tensor.shape]
            names = set(_NAME.findall(" ".join(extents)))
            if tensor.role != "out" and (not any(is_step.values()) or any(is_step.get(name) for name in names)):
                extents = [_NAME.sub(lambda name: f"({block.get(name[0], name[0])})", extent) for extent in extents]
                of_steps.append(" * ".join([*extents, str(_BYTES.get(tensor.dtype, "element_bytes"))]))
        tile = " * ".join(f"({block[name]})" for name in block if not is_step[name]) or "1"
        return {
            "tiles": {name: block[name] for name in block if not is_step[name]},
            "steps": {name: block[name] for name in block if is_step[name]},
            "registers": f"min(255, {_OTHER_REGISTERS} + {tile} / (32 * num_warps))",
            "stage_bytes": " + ".join(of_steps) or "0",
        }

    # What processes ask of it.

    def _compiled(self, config, problem):
        bound, arguments = self._bind(problem)
        compiled = bound.compile_config(helion_config(config), allow_print=False)
        places = [place for place, one in enumerate(self._given) if any(tensor.name == one for tensor in self.tensors)]
        order = [tensor.name for tensor in self.tensors if tensor.role != "out"]
        constants = list(arguments)
        # Compiled and loaded before it is called, so that what no GPU holds is refused here.
        self._host_part(compiled, arguments, functools.partial(_compiled_only, loads=True))
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
        bound, arguments = self._bind(problem)
        compiled = bound.compile_config(helion_config(config), allow_print=False)
        self._host_part(compiled, arguments, functools.partial(_compiled_only, loads=False))


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


_NAME = re.compile(r"[A-Za-z_]\w*")
# Bytes of an element; what is not here is of the problem's type.
_BYTES = {"bf16": 2, "f16": 2, "f32": 4, "f64": 8, "fp8": 1, "i8": 1, "u8": 1, "i16": 2, "i32": 4, "i64": 8}
# A thread's registers beside its part of a tile.
_OTHER_REGISTERS = 40
# Elements that a thread has in registers: fewer leave it idle, more have no room. Where tensor cores multiply, those of the sums;
# else those along all axes, reduced ones too.
_ELEMENTS, _SUMS = (8, 32), (4, 128)
_WARPS = (1, 2, 4, 8, 16)
# How many steps are on their way to tensor cores, and what they may take of a multiprocessor's shared memory.
_STAGES, _SHARED_BYTES = (3, 4), (8 << 10, 200 << 10)
# What a block of a product has at least and at most, and in steps at least; and any block.
_LEAST_MULTIPLIED, _MOST_MULTIPLIED, _LEAST_STEP, _MOST_BLOCK = 16, 256, 32, 8192
# Tiles, with their warps and stages, of a problem.
_MOST_TILES = 200


def _blocks_of(spec):
    """The extent that each block size cuts, and whether in steps of one program."""
    return [(block.size_hint, block.block_id not in spec.grid_block_ids) for block in spec.block_sizes]


def _draw(bound, count, draw):
    """Configs of a bound kernel's spec: the default first, then the seeds, tiles, these with another knob changed, and ``count``
    with every knob at random."""
    from helion.autotuner.config_generation import ConfigGeneration

    spec = bound.config_spec
    overrides = bound.kernel.settings.autotune_config_overrides or None
    generation = ConfigGeneration(spec, overrides=overrides)
    default = generation.default_flat()
    state = random.getstate()
    try:
        random.seed(draw.random())
        at_random = [generation.random_flat() for _ in range(count)]
    finally:
        random.setstate(state)
    tiles = _tiles(spec, generation, draw)
    flats = [default, *(flat for flat, _ in generation.seed_flat_config_pairs(lambda *_: None)), *tiles]
    flats += [other for tile in tiles for other in _with_another_knob(generation, tile)]
    plain = spec.default_config().config
    configs = {}
    with _remembering(spec, "supports_config_key"):
        for flat in flats + at_random:
            try:
                config = generation.unflatten(list(flat))
            except Exception:
                continue  # what Helion itself refuses is none
            config = _from_helion(config.config, plain)
            configs.setdefault(repr(sorted(config.items())), config)
    return list(configs.values())


@contextlib.contextmanager
def _remembering(whole, name):
    """What a method says of the same arguments is asked once: this one is asked of every knob, for every config, twice."""
    setattr(whole, name, functools.cache(getattr(whole, name)))
    try:
        yield
    finally:
        delattr(whole, name)


def _tiles(spec, generation, draw):
    """The default with other block sizes and loops, and with as many warps and stages as suit them."""
    layout = generation._key_to_flat_indices
    blocks, loops = layout["block_sizes"][0], layout.get("reduction_loops", ([], False))[0]
    ids = [block.block_id for block in spec.block_sizes]
    has_steps = bool(loops) or any(block_id not in spec.grid_block_ids for block_id in ids)
    stages = layout.get("num_stages", ([], False))[0] if has_steps else []
    products = spec.matmul_facts
    fewest, most = _SUMS if products else _ELEMENTS
    depths = (None,) if not stages else _STAGES if products else (1, 3)
    sizes_of = [_sizes(generation.flat_spec[place], products and place in blocks) for place in blocks + loops]
    tiles = []
    for sizes in itertools.product(*sizes_of):
        elements, step_bytes = math.prod(sizes), 0
        if products:
            of_block = dict(zip(ids, sizes))
            if not all(_suits_tensor_cores(spec, product, of_block) for product in products):
                continue
            elements = max(_extent(product, "m", of_block) * _extent(product, "n", of_block) for product in products)
            step_bytes = sum(_step_bytes(product, of_block) for product in products)
        for warps in [warps for warps in _WARPS if fewest <= elements / (32 * warps) <= most][-2:]:
            for depth in depths:
                if products and stages and not _SHARED_BYTES[0] <= depth * step_bytes <= _SHARED_BYTES[1]:
                    continue
                tile = generation.default_flat()
                for place, value in (*zip(blocks + loops, sizes), (generation.num_warps_index, warps)):
                    tile[place] = value
                for place in stages:
                    tile[place] = depth
                tiles.append(tile)
    draw.shuffle(tiles)
    return tiles[:_MOST_TILES]


def _sizes(fragment, multiplies):
    """The powers of two that a block size or a loop may be; a loop as long as what is reduced is none."""
    sizes = [1 << power for power in range(31) if fragment.low <= 1 << power <= fragment.high]
    if not multiplies:
        return [size for size in sizes if size <= _MOST_BLOCK] or sizes[:1]
    # Tensor cores fill as many rows and columns anyway.
    least = min(_LEAST_MULTIPLIED, fragment.high)
    return [size for size in sizes if least <= size <= _MOST_MULTIPLIED] or sizes[:1]


def _extent(product, axis, of_block):
    """What a program has of a product along m, n or k: its block, or all of it."""
    return of_block.get(getattr(product, f"{axis}_block_id"), getattr(product, f"static_{axis}")) or 1


def _suits_tensor_cores(spec, product, of_block):
    """Whether a step along k is no shorter than it need be."""
    if product.k_block_id not in of_block:
        return True
    whole = spec.block_sizes.block_id_lookup(product.k_block_id).size_hint
    return _extent(product, "k", of_block) >= min(_LEAST_STEP, whole)


def _step_bytes(product, of_block):
    rows = _extent(product, "m", of_block) * product.lhs_dtype.itemsize + _extent(product, "n", of_block) * product.rhs_dtype.itemsize
    return rows * _extent(product, "k", of_block)


# By knob, what it is changed to beside its default, where it has one value for all that the kernel does.
_OTHERWISE = {
    "indexing": ["tensor_descriptor"],
    "l2_groupings": [8],
    "pid_type": ["persistent_interleaved"],
    "load_eviction_policies": ["first"],
    "flatten_loops": [True],
}


def _with_another_knob(generation, flat):
    """The config with one other knob changed, and with all that go together."""
    from helion.autotuner.config_fragment import ListOf

    layout, all_changed = generation._key_to_flat_indices, list(flat)
    for knob, values in _OTHERWISE.items():
        for value in values:
            changed = list(flat)
            for place in layout.get(knob, ([], False))[0]:
                fragment = generation.flat_spec[place]
                changed[place] = [value] * fragment.length if isinstance(fragment, ListOf) else value
                if knob in ("indexing", "l2_groupings"):
                    all_changed[place] = changed[place]
            if changed != flat:
                yield changed
    yield all_changed


def _from_helion(config, plain):
    """A config as ours: knobs that are as they are by default are left out, but for those that say most."""

    def listed(value):
        return [listed(item) for item in value] if isinstance(value, (list, tuple)) else value

    said = ("block_sizes", "num_warps", "num_stages", "reduction_loops")
    kept = {name: listed(value) for name, value in config.items() if name in said or value != plain.get(name)}
    return {name: value for name, value in kept.items() if value is not None and value != []}


def helion_config(config):
    """A served config as a ``helion.Config``."""
    return _import_helion().Config(**config)
