"""Helion's own example kernels as families: what `helion_examples.py` has swept.

The kernels are those of the files in the folder that $HELION_EXAMPLES names, which is `examples/` of Helion's repository;
$HELION_KERNELS are some of them by their names in `EXAMPLES`, and $HELION_SHAPES says which of their shapes, as `FIRST:END`.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

# How a tensor is filled: 16-bit floats in [-1, 1), integers with any bits.
Shape = tuple[str, ...]


@dataclass(frozen=True)
class Example:
    """One kernel of the examples, and how it is called."""

    file: str
    kernel: str
    dims: tuple[str, ...]
    reads: dict[str, tuple[Shape, str]]
    returns: tuple[Shape, str]
    flops: str
    reference: Callable
    shapes: tuple[tuple[int, ...], ...]
    relative: float = 1e-2
    absolute: float = 1e-3

    @property
    def problems(self) -> list[dict[str, int]]:
        return [dict(zip(self.dims, shape)) for shape in self.shapes]


def _product(x, y):
    import torch

    return x.float() @ y.to(torch.bfloat16).float()


def _product_int4(x, packed):
    import torch

    low, high = (packed << 4) >> 4, packed >> 4
    return _product(x, torch.stack([low, high], dim=1).reshape(2 * packed.shape[0], packed.shape[1]))


def _attention(q, k, v):
    scores = q.float() @ k.float().transpose(1, 2) / q.shape[-1] ** 0.5
    return scores.softmax(-1) @ v.float()


_MKN = ("m", "n", "k")
EXAMPLES = {
    "matmul": Example(
        "matmul",
        "matmul",
        _MKN,
        {"x": (("m", "k"), "bf16"), "y": (("k", "n"), "bf16")},
        (("m", "n"), "bf16"),
        "2 * m * n * k",
        _product,
        ((2048, 2048, 2048), (16, 4096, 4096), (4096, 4096, 4096), (512, 8192, 2048), (1000, 3000, 1536), (128, 14336, 4096)),
        absolute=2e-2,
    ),
    "int4": Example(
        "int4_gemm",
        "matmul_bf16_int4",
        _MKN,
        {"x": (("m", "k"), "bf16"), "packed": (("k / 2", "n"), "i8")},
        (("m", "n"), "bf16"),
        "2 * m * n * k",
        _product_int4,
        ((16, 4096, 4096), (4, 7168, 8192), (64, 4096, 4096), (33, 3072, 2048), (256, 2048, 1024), (2, 14336, 4096)),
        absolute=2e-1,
    ),
    "int16": Example(
        "bf16xint16_gemm",
        "_bf16xint16_gemm",
        _MKN,
        {"x": (("m", "k"), "bf16"), "w": (("k", "n"), "i16")},
        (("m", "n"), "bf16"),
        "2 * m * n * k",
        _product,
        ((16, 4096, 4096), (2048, 2048, 2048), (256, 4096, 4096), (512, 1280, 1024), (64, 8192, 3072), (8192, 1280, 1024)),
        absolute=64.0,
    ),
    "softmax": Example(
        "softmax",
        "softmax_two_pass",
        ("rows", "cols"),
        {"x": (("rows", "cols"), "bf16")},
        (("rows", "cols"), "bf16"),
        "5 * rows * cols",
        lambda x: x.float().softmax(-1),
        ((4096, 2560), (8192, 32768), (65536, 1024), (16384, 3000), (512, 131072), (128, 4096)),
        absolute=1e-6,
    ),
    "softmax_whole": Example(
        "softmax",
        "softmax",
        ("rows", "cols"),
        {"x": (("rows", "cols"), "bf16")},
        (("rows", "cols"), "bf16"),
        "5 * rows * cols",
        lambda x: x.float().softmax(-1),
        ((4096, 2560), (8192, 32768), (65536, 1024), (16384, 3000), (2048, 16384), (128, 4096)),
        absolute=1e-6,
    ),
    "attention": Example(
        "attention",
        "attention",
        ("batch_heads", "q_seq", "kv_seq", "head_dim"),
        {
            "q": (("batch_heads", "q_seq", "head_dim"), "bf16"),
            "k": (("batch_heads", "kv_seq", "head_dim"), "bf16"),
            "v": (("batch_heads", "kv_seq", "head_dim"), "bf16"),
        },
        (("batch_heads", "q_seq", "head_dim"), "bf16"),
        "4 * batch_heads * q_seq * kv_seq * head_dim",
        _attention,
        (
            (64, 1024, 1024, 64),
            (32, 2048, 2048, 128),
            (96, 1536, 1536, 64),
            (16, 4096, 4096, 64),
            (128, 512, 512, 128),
            (24, 1000, 3000, 64),
        ),
        absolute=2e-3,
    ),
    "add": Example(
        "add",
        "add",
        ("rows", "cols"),
        {"x": (("rows", "cols"), "bf16"), "y": (("rows", "cols"), "bf16")},
        (("rows", "cols"), "bf16"),
        "rows * cols",
        lambda x, y: x.float() + y.float(),
        ((1024, 1024), (16384, 8192), (5000, 3000), (65536, 512), (333, 40960), (4096, 4096)),
        absolute=1e-6,
    ),
}


def kernel_of(example: Example):
    """The kernel, from the folder of examples."""
    folder = os.environ["HELION_EXAMPLES"]
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return getattr(importlib.import_module(example.file), example.kernel)


def family_name(name: str) -> str:
    """What the example's family is called: families that ship have the plain names."""
    return f"helion_{name}"


def family_of(name: str, first: int, end: int):
    """The family of an example, with these of its shapes."""
    import kernel_sweep as ks

    example = EXAMPLES[name]
    shape, dtype = example.returns
    returned = ks.writes("out", list(shape), dtype, relative=example.relative, absolute=example.absolute)
    return ks.HelionFamily(
        kernel_of(example),
        name=family_name(name),
        dims=example.dims,
        tensors=[*(ks.reads(tensor, list(shape), dtype) for tensor, (shape, dtype) in example.reads.items()), returned],
        problems=example.problems[first:end],
        reference=example.reference,
        flops=example.flops,
    )


if "HELION_KERNELS" in os.environ:
    first, end = map(int, os.environ["HELION_SHAPES"].split(":"))
    for name in os.environ["HELION_KERNELS"].split(","):
        globals()[family_name(name)] = family_of(name, first, end)
