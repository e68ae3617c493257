"""Kernels of Helion: one that multiplies, and one that adds, told by examples."""

import helion
import helion.language as hl
import kernel_sweep as ks
import torch


@helion.kernel(static_shapes=True)
def product(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    m, k = x.size()
    _, n = y.size()
    out = torch.empty([m, n], dtype=x.dtype, device=x.device)
    for rows, columns in hl.tile([m, n]):
        sums = hl.zeros([rows, columns], dtype=torch.float32)
        for step in hl.tile(k):
            sums = torch.addmm(sums, x[rows, step], y[step, columns])
        out[rows, columns] = sums.to(x.dtype)
    return out


@helion.kernel(static_shapes=True)
def shifted(x: torch.Tensor, by: float) -> torch.Tensor:
    out = torch.empty_like(x)
    for tile in hl.tile(x.size()):
        out[tile] = x[tile] + by
    return out


of_helion = ks.HelionFamily(
    product,
    dims=["m", "n", "k"],
    tensors=[ks.reads("x", ["m", "k"], "bf16"), ks.reads("y", ["k", "n"], "bf16"), ks.writes("out", ["m", "n"], "bf16")],
    problems=[{"m": 16, "n": 4096, "k": 1024}, {"m": 2048, "n": 2048, "k": 2048}],
    reference=lambda x, y: x.float() @ y.float(),
)


def examples():
    with torch._subclasses.FakeTensorMode():
        return [(torch.empty(rows, 640, dtype=torch.float32, device="cuda"), 2.0) for rows in (100, 3000)]


by_examples = ks.HelionFamily(shifted, examples=examples, reference=lambda x: x + 2.0)
