"""Which of the configs that Helion's config spec allows are worth a trial, and how their block sizes cut a problem."""

import contextlib
import functools
import hashlib
import itertools
import math
import random
import re
from typing import NamedTuple

from ._expressions import value_of

_NAME = re.compile(r"[A-Za-z_]\w*")
# Bytes of an element; what is not here is of the problem's type, and taken for this many.
_BYTES = {"bf16": 2, "f16": 2, "f32": 4, "f64": 8, "fp8": 1, "i8": 1, "u8": 1, "i16": 2, "i32": 4, "i64": 8}
_ELEMENT_BYTES = 2
# A thread's registers beside its part of a tile.
_OTHER_REGISTERS = 40
# Elements that a thread has in registers: fewer leave it idle, more have no room. Where tensor cores multiply, those of the sums; else those
# of the largest block of a tensor.
_ELEMENTS, _SUMS = (4, 128), (2, 192)
_WARPS = (1, 2, 4, 8, 16, 32)
# Of the numbers of warps that suit a tile, how many are tried where tensor cores multiply: the fewest, whose instructions are the largest.
_MOST_WARPS = 3
# How many steps of a loop are on their way, to tensor cores or elsewhere, and what they may take of a multiprocessor's shared memory.
_STAGES_OF_PRODUCTS, _STAGES, _MOST_SHARED_BYTES = (1, 2, 3, 4), (1, 3), 200 << 10
# What a block of a product has at least and at most, and in steps at most and at least; and any block.
_LEAST_MULTIPLIED, _MOST_MULTIPLIED, _MOST_STEP, _LEAST_STEP, _MOST_BLOCK = 16, 256, 1024, 32, 8192
# Tiles, with their warps and stages, of a problem.
_MOST_TILES = 600
# At random, so many times as many are drawn as are wanted, since many hold more than a program can.
_DRAWS = 8


class Cut(NamedTuple):
    """What a block size cuts."""

    dim: str
    #: How many of the dimension's elements one of the block stands for.
    times: int
    #: Whether in steps of one program.
    is_step: bool


def cut_of(specs, columns):
    """What each block size cuts of a family's dimensions, by their extents in each problem; nothing where that cannot be told."""
    blocks = [[(block.size_hint, block.block_id not in spec.grid_block_ids) for block in spec.block_sizes] for spec in specs]
    if len({tuple(is_step for _, is_step in of_one) for of_one in blocks}) != 1:
        return None
    cut = []
    for place, (_, is_step) in enumerate(blocks[0]):
        extents = [of_one[place][0] for of_one in blocks]
        found = [
            Cut(name, column[0] // extents[0], is_step)
            for name, column in columns.items()
            if all(whole == part * (column[0] // extents[0]) for whole, part in zip(column, extents))
            and name not in [other.dim for other in cut]
        ]
        if not found:
            return None
        cut.append(min(found, key=lambda one: one.times))
    return cut


def model_fields(tensors, cut):
    """How block sizes cut a problem, in a manifest's words."""
    block = {one.dim: f"{one.times} * block_sizes[{place}]" for place, one in enumerate(cut)}
    steps = [one.dim for one in cut if one.is_step]

    def block_of(tensor):
        return " * ".join(_NAME.sub(lambda name: f"({block.get(name[0], name[0])})", f"({extent})") for extent in tensor.shape)

    loaded = [
        f"{block_of(tensor)} * {_BYTES.get(tensor.dtype, 'element_bytes')}"
        for tensor in tensors
        if tensor.role != "out" and (not steps or any(name in steps for name in _NAME.findall(" ".join(map(str, tensor.shape)))))
    ]
    held = block_of(next(tensor for tensor in tensors if tensor.role != "in"))
    return {
        "tiles": {name: block[name] for name in block if name not in steps},
        "steps": {name: block[name] for name in steps},
        "registers": f"min(255, {_OTHER_REGISTERS} + {held} / (32 * num_warps))",
        "stage_bytes": " + ".join(loaded) or "0",
    }


class Space:
    """The space of a kernel that is bound to one problem."""

    def __init__(self, bound, tensors, cut, dims, seed):
        from helion.autotuner.config_generation import ConfigGeneration

        self._spec = bound.config_spec
        overrides = bound.kernel.settings.autotune_config_overrides or None
        self._generation = ConfigGeneration(self._spec, overrides=overrides)
        self._layout, self._default = self._generation._key_to_flat_indices, self._generation.default_flat()
        self._ids = [block.block_id for block in self._spec.block_sizes]
        self._products = self._spec.matmul_facts
        self._fewest, self._most = _SUMS if self._products else _ELEMENTS
        self._tensors, self._cut, self._dims, self._seed = tensors, cut, dims, seed

    def configs(self, count):
        """Configs, each once: the default first, then Helion's own seeds, tiles, these with another knob changed, and ``count`` with every
        knob at random."""
        generation = self._generation
        with _remembering(self._spec, "supports_config_key"):
            plain = self._spec.default_config().config
            seeds = [flat for flat, _ in generation.seed_flat_config_pairs(lambda *_: None)]
            tiles = self._known([self._default, *seeds, *self._tiles()], plain)
            others = [tile | changed for changed in self._other_knobs(plain) for tile in tiles]
            state = random.getstate()
            try:
                random.seed(f"{self._seed} {self._dims}")
                at_random = self._known([generation.random_flat() for _ in range(_DRAWS * count)], plain)
            finally:
                random.setstate(state)
            configs = tiles + others + [config for config in at_random if self._is_held(config)][:count]
        return list({repr(sorted(config.items())): config for config in configs}.values())

    def _known(self, flats, plain):
        """What Helion makes of flat configs; what it refuses itself is none."""
        configs = []
        for flat in flats:
            with contextlib.suppress(Exception):
                configs.append(_from_helion(self._generation.unflatten(list(flat)).config, plain))
        return configs

    def _tiles(self):
        """The default with other block sizes and loops, and with as many warps and stages as suit them."""
        generation, layout = self._generation, self._layout
        blocks, loops = layout["block_sizes"][0], layout.get("reduction_loops", ([], False))[0]
        has_steps = bool(loops) or any(block_id not in self._spec.grid_block_ids for block_id in self._ids)
        stages = layout.get("num_stages", ([], False))[0] if has_steps else []
        sizes_of = [self._sizes(place, generation.flat_spec[flat]) for place, flat in enumerate(blocks + loops)]
        tiles = []
        for sizes in itertools.product(*sizes_of):
            if not self._suits_tensor_cores(sizes):
                continue
            elements, step_bytes = self._held(sizes)
            warps = [warps for warps in _WARPS if self._fewest <= elements / (32 * warps) <= self._most]
            depths = _STAGES_OF_PRODUCTS if self._products else _STAGES
            depths = [depth for depth in depths if depth * step_bytes <= _MOST_SHARED_BYTES] if stages else [None]
            for of_warps, depth in itertools.product(warps[:_MOST_WARPS] if self._products else warps, depths):
                tile = list(self._default)
                for flat, value in (*zip(blocks + loops, sizes), (generation.num_warps_index, of_warps)):
                    tile[flat] = value
                for flat in stages:
                    tile[flat] = depth
                tiles.append(tile)
        # The same of every problem, as far as they suit it.
        return sorted(tiles, key=lambda tile: hashlib.sha256(f"{self._seed} {tile}".encode()).digest())[:_MOST_TILES]

    def _sizes(self, place, fragment):
        """The powers of two that a block size or a loop may be; a loop as long as what is reduced is none."""
        sizes = [1 << power for power in range(31) if fragment.low <= 1 << power <= fragment.high]
        is_block = place < len(self._ids)
        if not (self._products and is_block):
            return [size for size in sizes if size <= _MOST_BLOCK] or sizes[:1]
        # Tensor cores fill as many rows and columns anyway.
        least = min(_LEAST_MULTIPLIED, fragment.high)
        most = _MOST_MULTIPLIED if self._ids[place] in self._spec.grid_block_ids else _MOST_STEP
        return [size for size in sizes if least <= size <= most] or sizes[:1]

    def _held(self, sizes):
        """Elements that a program holds in registers with these blocks and loops, and what a step of it loads."""
        if self._products:
            of_block = dict(zip(self._ids, sizes))
            elements = sum(_extent(product, "m", of_block) * _extent(product, "n", of_block) for product in self._products)
            return elements, sum(_step_bytes(product, of_block) for product in self._products)
        if not self._cut:
            return math.prod(sizes), 0
        of_block = {one.dim: min(one.times * size, self._dims[one.dim]) for one, size in zip(self._cut, sizes)}
        blocks = [math.prod(value_of(extent, self._dims | of_block) for extent in tensor.shape) for tensor in self._tensors]
        # What is multiplied along all axes and summed along one: Triton has tensor cores do it where they can, else all of it is held.
        if any(size < _LEAST_MULTIPLIED for size in of_block.values()):
            blocks.append(math.prod(of_block.values()))
        loaded = [
            block * _BYTES.get(tensor.dtype, _ELEMENT_BYTES) for block, tensor in zip(blocks, self._tensors) if tensor.role != "out"
        ]
        return max(blocks), sum(loaded)

    def _is_held(self, config):
        """Whether a program has the registers and the shared memory for a config."""
        elements, step_bytes = self._held([*config["block_sizes"], *(size for size in config.get("reduction_loops", []) if size)])
        return elements <= self._most * 32 * config["num_warps"] and config.get("num_stages", 1) * step_bytes <= _MOST_SHARED_BYTES

    def _suits_tensor_cores(self, sizes):
        """Whether a step along k is no shorter than it need be."""
        of_block = dict(zip(self._ids, sizes))

        def suits(product):
            whole = self._spec.block_sizes.block_id_lookup(product.k_block_id).size_hint
            return _extent(product, "k", of_block) >= min(_LEAST_STEP, whole)

        return all(suits(product) for product in self._products if product.k_block_id in of_block)

    def _other_knobs(self, plain):
        """What another knob that is changed adds to a config, each by itself, and those that go together."""
        from helion.autotuner.config_fragment import ListOf

        together, changes = {}, []
        for knob, value in _OTHERWISE.items():
            flat = list(self._default)
            for place in self._layout.get(knob, ([], False))[0]:
                fragment = self._generation.flat_spec[place]
                flat[place] = [value] * fragment.length if isinstance(fragment, ListOf) else value
            changed = {name: of_knob for known in self._known([flat], plain) for name, of_knob in known.items() if name not in _SAID}
            changes.append(changed)
            if knob in ("indexing", "l2_groupings"):
                together |= changed
        return [change for change in [*changes, together] if change]


# By knob, what it is changed to beside its default, where it has one value for all that the kernel does.
_OTHERWISE = {
    "indexing": "tensor_descriptor",
    "l2_groupings": 8,
    "loop_orders": [1, 0],
    "pid_type": "persistent_interleaved",
    "load_eviction_policies": "first",
    "flatten_loops": True,
}
# Knobs that every config says, also as they are by default.
_SAID = ("block_sizes", "num_warps", "num_stages", "reduction_loops")


@contextlib.contextmanager
def _remembering(whole, name):
    """What a method says of the same arguments is asked once: this one is asked of every knob, for every config, twice."""
    setattr(whole, name, functools.cache(getattr(whole, name)))
    try:
        yield
    finally:
        delattr(whole, name)


def _extent(product, axis, of_block):
    """What a program has of a product along m, n or k: its block, or all of it."""
    return of_block.get(getattr(product, f"{axis}_block_id"), getattr(product, f"static_{axis}")) or 1


def _step_bytes(product, of_block):
    rows = _extent(product, "m", of_block) * product.lhs_dtype.itemsize + _extent(product, "n", of_block) * product.rhs_dtype.itemsize
    return rows * _extent(product, "k", of_block)


def _from_helion(config, plain):
    """A config as ours: knobs that are as they are by default are left out, but for those that say most."""

    def listed(value):
        return [listed(item) for item in value] if isinstance(value, (list, tuple)) else value

    kept = {name: listed(value) for name, value in config.items() if name in _SAID or value != plain.get(name)}
    return {name: value for name, value in kept.items() if value is not None and value != []}
