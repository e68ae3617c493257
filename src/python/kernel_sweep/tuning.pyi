"""Families of kernels that Python calls: what they are, and how they are tuned."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, Literal

from . import Heuristics

Config = Mapping[str, Any]
"""A config: knobs by name."""
Trial = dict[str, Any]
"""A trial as the journal has it: ``problem``, ``config``, ``status``, and ``time_us`` or ``error``."""

class FamilyError(ValueError):
    """A family that cannot be: the message says what is wrong with it, in one line."""

class TuneError(RuntimeError):
    """A tuning run that failed: the message is the tool's."""

class Problem:
    """What a kernel is built for: dimensions by name, and the type of the first tensor. ``problem["n"]`` is a dimension."""

    dims: Mapping[str, int]
    dtype: str
    def __init__(self, dims: Mapping[str, int], dtype: str) -> None: ...
    def __getitem__(self, name: str) -> int: ...

class Tensor:
    """A tensor of a family; see ``reads``, ``writes`` and ``updates``."""

    name: str
    role: Literal["in", "out", "inout"]
    shape: tuple[str | int, ...]
    dtype: str

def reads(
    name: str,
    shape: Sequence[str | int],
    dtype: str = "dtype",
    *,
    fill: str | None = None,
    awkward: str | None = None,
    alignment: int | None = None,
) -> Tensor:
    """A tensor that the kernel reads and must not change."""

def writes(
    name: str,
    shape: Sequence[str | int],
    dtype: str = "dtype",
    *,
    relative: float = 1e-3,
    absolute: float = 1e-3,
    alignment: int | None = None,
) -> Tensor:
    """A tensor that the kernel writes, and by how much an element may differ from its reference before it is rounded."""

def updates(
    name: str,
    shape: Sequence[str | int],
    dtype: str = "dtype",
    *,
    relative: float = 1e-3,
    absolute: float = 1e-3,
    fill: str | None = None,
    alignment: int | None = None,
) -> Tensor:
    """A tensor that the kernel reads and writes in place."""

class Family:
    """A kernel with everything that it takes to tune it."""

    name: str
    dims: list[str]
    dtypes: list[str]
    tensors: list[Tensor]
    problems: list[dict[str, Any]]
    def __init__(
        self,
        *,
        build: Callable[..., Callable[..., Any]],
        reference: Callable[..., Any],
        name: str | None = None,
        dims: Sequence[str] | None = None,
        tensors: Sequence[Tensor] | None = None,
        space: Mapping[str, Sequence[Any]] | Sequence[Config] | None = None,
        problems: Sequence[Mapping[str, Any]] | None = None,
        default: Config | None = None,
        dtypes: Sequence[str] | None = None,
        toml: str | PathLike[str] | None = None,
        domain: Mapping[str, Mapping[str, int]] | None = None,
        random: Mapping[str, int] | None = None,
        flops: str | int | None = None,
        bytes: str | int | None = None,
        bins: Mapping[str, Mapping[str, Any]] | None = None,
        groups: Sequence[Mapping[str, str]] | None = None,
        require: Iterable[tuple[str, str]] = (),
        exclude: Iterable[tuple[str, str]] = (),
        compile: Callable[[dict[str, Any], Problem, str], Any] | None = None,
        returns: bool = False,
        arrays: Literal["torch", "numpy", "raw"] | None = None,
        sources: Sequence[str | PathLike[str]] = (),
    ) -> None: ...
    def manifest(self) -> str:
        """The family as a manifest."""

    def identity(self) -> str:
        """Changes with whatever makes it another kernel."""

    def place(self) -> tuple[str, str]:
        """The file that names it, and its name there."""

def load(file: str | PathLike[str], name: str = "") -> Family:
    """The family of that name in a file; the only one where no name is given."""

def tune(
    family: Family | str,
    *,
    gpu: str = "auto",
    budget: float | None = None,
    output: str | PathLike[str] = "output",
    fresh: bool = False,
    seed: int | None = None,
    devices: str | Sequence[int] | None = None,
    trial_deadline: float | None = None,
    progress: Callable[[Trial], Any] | None = None,
) -> Heuristics:
    """Sweeps a family and returns the document. ``TuneError`` with the tool's message where it fails.

    ``family`` is a ``Family`` or ``"FILE.py:NAME"``, ``budget`` is in seconds, and ``output`` is the folder of journals and
    documents: what is in it already is not measured again, unless ``fresh``. ``progress`` is called with each trial, from
    another thread.
    """

def product(**axes: Sequence[Any]) -> list[dict[str, Any]]:
    """Every config of these knobs' values, as a list that can be filtered and added to."""
