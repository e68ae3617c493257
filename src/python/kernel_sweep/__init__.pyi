"""Which config should this kernel run with, on this shape, on this GPU?

    heuristics = kernel_sweep.Heuristics.builtin("h200")
    answer = heuristics.lookup("matmul_fp4", m=16, n=4096, k=4096)
    config = helion.Config(**answer.best)

kernel_sweep.ops runs what is served; kernel_sweep.tune tunes kernels that Python calls.
"""

from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from typing import Any, Literal, final, overload

from . import ops as ops
from . import tuning as tuning
from ._helion import HelionFamily as HelionFamily
from ._helion import helion_config as helion_config
from ._triton import TritonFamily as TritonFamily
from ._triton import triton_config as triton_config
from ._triton import triton_configs as triton_configs
from .tuning import Family as Family
from .tuning import FamilyError as FamilyError
from .tuning import Problem as Problem
from .tuning import Tensor as Tensor
from .tuning import TuneError as TuneError
from .tuning import product as product
from .tuning import reads as reads
from .tuning import tune as tune
from .tuning import updates as updates
from .tuning import writes as writes

__version__: str

def builtins() -> list[str]:
    """The names of the GPUs whose document is built in."""

@final
class Heuristics:
    """A document of observed heuristics, ready to be asked; may be shared between threads.

    Options of every way to load one: ``max_configs`` is the most configs an answer holds (``None``: all),
    ``disabled_classes`` are answered nothing, ``disabled_models`` answers from rules and fallbacks alone, and ``disabled``
    answers nothing at all.
    """

    @staticmethod
    def load(
        path: str | PathLike[str],
        *,
        max_configs: int | None = None,
        disabled_classes: Sequence[str] = (),
        disabled_models: bool = False,
        disabled: bool = False,
    ) -> Heuristics:
        """Loads a document from a file. ``OSError`` where it cannot be opened, ``ValueError`` where it is no document."""

    @staticmethod
    def loads(
        json: str | bytes,
        *,
        max_configs: int | None = None,
        disabled_classes: Sequence[str] = (),
        disabled_models: bool = False,
        disabled: bool = False,
    ) -> Heuristics:
        """Loads a document from its JSON text. ``ValueError`` where it is no document."""

    @staticmethod
    def builtin(
        gpu: str,
        *,
        max_configs: int | None = None,
        disabled_classes: Sequence[str] = (),
        disabled_models: bool = False,
        disabled: bool = False,
    ) -> Heuristics:
        """Loads the document built in for a GPU, by its short name (``"h200"``) or the driver's name for the device
        (``torch.cuda.get_device_name()``). ``ValueError`` where there is none."""

    def lookup(self, family: str, *, dtype: object | None = None, **dimensions: int) -> Answer:
        """The configs for a family, or another class of the document, at exactly these dimensions.

        The dimensions are ``m n k`` (``k`` in unpacked elements) for matmul, matmul_int4, matmul_int16, matmul_fp4,
        matmul_nvfp4, matmul_mxfp4, matmul_nvfp4_nvfp4 and matmul_mxfp8; the same for matmul_int4_group, and where they are not plain ``group`` (32 or 64 weights along k
        that share a scale in place of 128, 0 for all) and ``zero_points`` (1);
        ``batch heads q_seq kv_seq head_dim`` for attention; ``rows cols`` for row_softmax; ``numel`` for elementwise.
        ``dtype`` is that of the first tensor, of the last two products that of the result, by its exact name or as its library
        has it: ``"bf16"``, ``torch.float32``;
        without it bf16, or the first that the family comes in where it has no bf16.

        ``ValueError`` where the family or type is unknown, the family does not run the type, or a dimension is missing, unknown or
        not positive; ``TypeError`` where one is no integer, ``OverflowError`` where 64 bits do not hold it.
        """

    def explain(self, family: str, *, dtype: object | None = None, **dimensions: int) -> dict[str, Any]:
        """Why :meth:`lookup` answers so, as ``sweep lookup --explain --json`` says it: the answer's own fields, and, where
        the class has a fitted model, ``considered`` (what was measured for the shape, and what the model, the rule and the
        fallback say: configs, expected times, regret on problems left out) and ``why``.
        """

    def lookup_tensors(
        self,
        tensors: Iterable[Any],
        family: str | None = None,
        *,
        traits: Sequence[str] = (),
        block_rank: int = 0,
        has_reduction: bool = False,
        has_split_k: bool = False,
        kernel_source: str | None = None,
    ) -> Answer:
        """The configs for a kernel with these arguments: anything with ``.shape`` and ``.dtype``, in order. Arguments without
        them, such as numbers, are passed over.

        Without ``family`` the kernel is classified by its arguments and by what is known of its body: ``traits``
        (``"matmul"``, ``"reduction"``, ``"sum_reduction"``, ``"exp"``, ``"softmax"``, ``"cross_entropy"``,
        ``"attention_reduction"``), the number of its tiled dimensions, whether it reduces one of them in a loop of its own
        or splits k, and its source, which tells int4 weights from fp4. One that fits no class is answered nothing.

        ``ValueError`` where the arguments fit no kernel: a type of no known name or that the class does not run, an extent that is
        not positive, inner sizes that disagree, a weight laid out the other way round.
        """

    @property
    def classes(self) -> list[str]:
        """The classes that the document holds rules, fallbacks or a model for."""

@final
class Answer:
    """Ranked configs and where they came from. It is a sequence of its configs."""

    @property
    def configs(self) -> list[dict[str, Any]]:
        """The configs, best first, each a dict of knobs: ``helion.Config(**config)``."""

    @property
    def best(self) -> dict[str, Any] | None:
        """The best config, if there is any."""

    @property
    def source(self) -> Literal["measured", "rule", "model", "fallback", "none"]:
        """What answered: measurements of this very shape and type, a rule of its bucket, the class's fitted model, the
        fallback of its group, or nothing."""

    @property
    def rule_index(self) -> int | None:
        """The rule's index in the document."""

    @property
    def family(self) -> str | None:
        """The class asked for; ``None`` where a kernel fits none."""

    @property
    def shape_bucket(self) -> dict[str, str]:
        """The bucket looked for, label by field."""

    @property
    def group(self) -> str | None:
        """The fallback group, whether or not it was asked."""

    @property
    def evidence(self) -> dict[str, Any] | None:
        """What was measured to trust the answer: the ``validation`` of the rule or fallback."""

    @property
    def measured_us(self) -> list[float] | None:
        """The configs' medians in microseconds, where they were measured for this very shape and type."""

    @property
    def predicted_us(self) -> list[float] | None:
        """The times expected of the configs in microseconds, where the model answered."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[dict[str, Any]]: ...
    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
