"""A kernel of Triton, with a config that no GPU holds."""

import kernel_sweep as ks
import triton
import triton.language as tl


@triton.jit
def add_kernel(x, y, out, n, BLOCK: tl.constexpr, TWICE: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    sum = tl.load(x + at, mask=at < n) + tl.load(y + at, mask=at < n)
    tl.store(out + at, sum * 2 if TWICE else sum, mask=at < n)


triton_add = ks.TritonFamily(
    add_kernel,
    name="triton_add",
    dims=["n"],
    dtypes=["bf16"],
    tensors=[ks.reads("x", ["n"]), ks.reads("y", ["n"]), ks.writes("out", ["n"], relative=1e-2, absolute=1e-6)],
    arguments=["x", "y", "out", "n"],
    grid=["cdiv(n, BLOCK)"],
    constexprs={"TWICE": False},
    # Triton takes powers of two alone.
    space=[{"BLOCK": 256, "num_warps": 4}, {"BLOCK": 1024, "num_warps": 8}, {"BLOCK": 1000, "num_warps": 4}],
    problems=[{"n": 4096}],
    reference=lambda x, y: x.float() + y.float(),
)
