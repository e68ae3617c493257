from collections.abc import Callable, Mapping, Sequence
from typing import Any

from . import Heuristics
from .tuning import Config, Family

class TritonFamily(Family):
    """A ``@triton.jit`` function as a family; what is not here is ``Family``'s."""

    def __init__(
        self,
        kernel: Any,
        *,
        arguments: Sequence[Any],
        grid: Sequence[str | int] | Callable[[dict[str, Any]], Sequence[int]],
        constexprs: Mapping[str, Any] | None = None,
        **family: Any,
    ) -> None: ...

def triton_config(config: Config, family: TritonFamily | None = None, problem: Mapping[str, Any] | None = None) -> Any:
    """A served config as a ``triton.Config``, ready for a launch or for ``@triton.autotune``."""

def triton_configs(
    heuristics: Heuristics, family: TritonFamily, problems: Sequence[Mapping[str, Any]] | None = None
) -> list[Any]:
    """What is served for problems, each once, as ``triton.Config``: the pruned list of ``@triton.autotune``."""
