from collections.abc import Sequence
from typing import Any

from .tuning import Config, Family

class HelionFamily(Family):
    """A ``@helion.kernel`` as a family, whose space is Helion's own config spec; what is not here is ``Family``'s."""

    def __init__(
        self, kernel: Any, *, arguments: Sequence[Any] | None = None, draws: int = 400, seed: int = 0, **family: Any
    ) -> None: ...

def helion_config(config: Config) -> Any:
    """A served config as a ``helion.Config``."""
