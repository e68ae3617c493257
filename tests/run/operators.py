"""Every operator of kernel_sweep.ops on the GPU that is here, against torch in f64, element by element.

    python tests/run/operators.py [--use FILE]

Each case is called directly, into out=, as a torch operator, through torch.compile, and in a CUDA graph that is replayed on other
contents. Prints a line a case and ends at the first that is wrong. Without a document for the GPU, --use names one, or a bundle.
"""

import argparse
import sys
from collections import namedtuple

import torch

from llama_layer import pack, say, unpack

BF16, F16, F32, E4M3 = torch.bfloat16, torch.float16, torch.float32, torch.float8_e4m3fn
# What rounding to a type comes to, as a share of the number.
ROUNDING = {BF16: 2.0**-8, F16: 2.0**-11, F32: 2.0**-22}
E2M1 = [sign * value for sign in (1, -1) for value in (0, 0.5, 1, 1.5, 2, 3, 4, 6)]

# An operator by its name, its tensors and options; `exact` gives of the tensors the result in f64, and by how much an element may differ
# before it is rounded.
Case = namedtuple("Case", "name operator inputs options exact")


def wrong(found, exact, allowed):
    """How many elements are wrong, those that are not finite where they should be among them."""
    limits = torch.finfo(found.dtype)
    room = allowed + ROUNDING[found.dtype] * exact.abs() + limits.smallest_normal * limits.eps
    is_right = (found.double() - exact).abs() <= room
    return int((~is_right).sum())


def product(a, b, share=2.0**-11, rounding=0.0):
    """A · B in f64, and a share of what its terms' sizes come to: of sums of random signs they are the larger part by far.

    Weights that are rounded before they are multiplied err by up to half of `rounding` of themselves, 0.68 of that in the root mean
    square at most, independently; no sum of a billion is six times as far off as that comes to.
    """
    return a @ b, share * (a.abs() @ b.abs()) + 6 * 0.68 * rounding / 2 * (a.square() @ b.square()).sqrt()


def e2m1(packed):
    codes = packed.view(torch.uint8).to(torch.int64)
    table = torch.tensor(E2M1, dtype=torch.float64, device=packed.device)
    return table[torch.stack([codes & 15, codes >> 4], dim=1)].reshape(-1, packed.shape[1])


def spread(scales, group, rows):
    """A row of scales for each row of weights."""
    return scales.double().repeat_interleave(group, dim=0)[:rows]


def e8m0(codes):
    return torch.exp2(codes.double() - 127)


class Inputs:
    """Random tensors of every kind, the same each time."""

    def __init__(self, device, seed=0):
        self.device = device
        self.generator = torch.Generator(device).manual_seed(seed)

    def floats(self, *shape, dtype=BF16):
        return torch.randn(shape, generator=self.generator, device=self.device).to(dtype)

    def positive(self, *shape, dtype=F32):
        return (0.5 + torch.rand(shape, generator=self.generator, device=self.device)).to(dtype)

    def whole(self, least, most, *shape, dtype=torch.uint8):
        whole = torch.randint(least, most + 1, shape, generator=self.generator, device=self.device, dtype=torch.int32)
        return whole.to(dtype)


def products(make):
    # Rows that the copy engine takes, and rows that it does not.
    shapes = [((16,), 384, 512, (BF16, F16)), ((2, 5), 1000, 130, (BF16,))]
    for leading, n, k, dtypes in shapes:
        for dtype in dtypes:
            a = make.floats(*leading, k, dtype=dtype)
            b, packed = make.floats(k, n, dtype=dtype), make.whole(0, 255, k // 2, n).view(torch.int8)

            def case(name, *weights, decode, rounding=0.0, a=a):
                return Case(
                    name, name, (a, *weights), {}, lambda a, *weights: product(a.double(), decode(*weights), rounding=rounding)
                )

            yield case("matmul", b, decode=lambda b: b.double())
            yield case("matmul_int4", packed, decode=lambda b: unpack(b).double())
            yield case("matmul_fp4", packed, decode=e2m1)
            # Small ones, so that f16 holds the sums.
            yield case("matmul_int16", make.whole(-90, 90, k, n, dtype=torch.int16), decode=lambda b: b.double())
            for group in (32, 128, k):
                scales = make.positive(-(-k // group), n, dtype=dtype)
                zeros = make.whole(0, 15, *scales.shape)

                def scaled(b, scales, zeros=None, group=group):
                    values = unpack(b).double()
                    if zeros is not None:
                        values = (values % 16) - spread(zeros, group, len(values))
                    return values * spread(scales, group, len(values))

                yield case("matmul_int4_group", packed, scales, decode=scaled, rounding=ROUNDING[dtype])
                yield case("matmul_int4_group", packed, scales, zeros, decode=scaled, rounding=ROUNDING[dtype])
            scales = make.positive(-(-k // 16), n).to(E4M3)

            def nvfp4(b, scales, factor):
                values = e2m1(b)
                return values * spread(scales.view(E4M3), 16, len(values)) * factor.double()

            factor = make.positive(1)
            yield case("matmul_nvfp4", packed, scales, factor, decode=nvfp4)
            yield case("matmul_nvfp4", packed, scales.view(torch.uint8), factor, decode=nvfp4)

            def mxfp4(b, scales):
                values = e2m1(b)
                return values * spread(e8m0(scales), 32, len(values))

            yield case("matmul_mxfp4", packed, make.whole(124, 129, -(-k // 32), n), decode=mxfp4)


def fp8_products(make):
    for leading, n, k in [((16,), 384, 512), ((2, 5), 1000, 136)]:
        m = torch.Size(leading).numel()
        a, b = make.floats(*leading, k, dtype=E4M3), make.floats(n, k, dtype=E4M3).t()
        k_blocks, n_blocks = -(-k // 128), -(-n // 128)

        def exact(a, b, a_scales, b_scales, leading=leading, n=n, k=k):
            rows = a.double().reshape(-1, k)
            if a_scales.numel() == 1 or a_scales.shape[-1] == 1:
                rows, columns = rows * a_scales.double().reshape(-1, 1), b.double() * b_scales.double().reshape(1, -1)
            else:
                rows = rows * a_scales.double().repeat_interleave(128, dim=1)[:, :k]
                of_b = b_scales.double().repeat_interleave(128, dim=0)[:n].repeat_interleave(128, dim=1)[:, :k]
                columns = b.double() * of_b.t()
            # Hopper's tensor cores keep some 14 bits of a sum of these.
            return tuple(tensor.reshape(*leading, n) for tensor in product(rows, columns, 2.0**-9))

        for a_scales, b_scales in [
            (make.positive(1), make.positive(1)),
            (make.positive(*leading, 1), make.positive(1, n)),
            (make.positive(k_blocks, m).t(), make.positive(n_blocks, k_blocks)),
        ]:
            yield Case("matmul_fp8", "matmul_fp8", (a, b, a_scales, b_scales), {}, exact)


def attentions(make):
    def exact(q, k, v, causal=False, window=None):
        shared = q.shape[1] // k.shape[1]
        q, k, v = q.double(), *(tensor.double().repeat_interleave(shared, dim=1) for tensor in (k, v))
        scores = q @ k.transpose(2, 3) / q.shape[3] ** 0.5
        if causal:
            own = torch.arange(q.shape[2], device=q.device)[:, None] + k.shape[2] - q.shape[2]
            key = torch.arange(k.shape[2], device=q.device)[None]
            seen = (key <= own) & (key > own - (window or k.shape[2] + q.shape[2]))
            scores = scores.masked_fill(~seen, -torch.inf)
        weights = torch.softmax(scores, dim=-1).nan_to_num(0)
        # Weights are rounded to bf16, as a rule by half of its steps: of sums of random signs none comes to more than eight times as much.
        return weights @ v, 2.0**-6 * (weights.square() @ v.square()).sqrt() + 2.0**-12 * (weights @ v.abs())

    for dtype in (BF16, F16):
        for heads, kv_heads, q_seq, kv_seq, head_dim, options in [
            (8, 8, 64, 128, 64, {}),
            (8, 2, 1, 4096, 128, {}),
            (8, 2, 300, 300, 128, {"causal": True}),
            (4, 2, 77, 333, 72, {"causal": True, "window": 50}),
            (2, 1, 130, 60, 64, {"causal": True}),
        ]:
            q = make.floats(2, heads, q_seq, head_dim, dtype=dtype)
            k, v = (make.floats(2, kv_heads, kv_seq, head_dim, dtype=dtype) for _ in range(2))
            yield Case("attention", "attention", (q, k, v), options, exact)


def rows(make):
    def softmax(x):
        exact = torch.softmax(x.double(), dim=-1)
        return exact, 2.0**-14 * exact

    def rms(x, weight):
        x = x.double()
        exact = x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * weight.double()
        return exact, 2.0**-14 * exact.abs()

    def layer(x, weight, bias):
        x = x.double()
        scaled = (x - x.mean(-1, keepdim=True)) * (x.var(-1, correction=0, keepdim=True) + 1e-5).rsqrt() * weight.double()
        return scaled + bias.double(), 2.0**-14 * (scaled.abs() + bias.double().abs() + 1)

    def loss(x, targets):
        exact = torch.nn.functional.cross_entropy(x.double().flatten(0, -2), targets.flatten(), reduction="none")
        exact = exact.reshape(targets.shape)
        return exact, 2.0**-16 * (exact.abs() + 1)

    def add(x, y):
        return x.double() + y.double(), torch.zeros_like(x, dtype=torch.float64)

    for dtype in (BF16, F16, F32):
        for shape in [(2, 8, 1001), (3, 50_000)]:
            x, y = make.floats(*shape, dtype=dtype), make.floats(*shape, dtype=dtype)
            weight, bias = (make.floats(shape[-1], dtype=dtype) for _ in range(2))
            targets = make.whole(0, shape[-1] - 1, *shape[:-1], dtype=torch.int64)
            targets.view(-1)[0] = -100
            # The last column weighs enough to be missed.
            logits = x.clone()
            logits[..., -1] = 8
            yield Case("row_softmax", "row_softmax", (x,), {}, softmax)
            yield Case("row_norm_rms", "row_norm_rms", (x, weight), {}, rms)
            yield Case("row_norm_layer", "row_norm_layer", (x, weight, bias), {}, layer)
            yield Case("row_cross_entropy", "row_cross_entropy", (logits, targets), {}, loss)
            yield Case("add", "add", (x, y), {}, add)


def cases(device):
    make = Inputs(device)
    for kind in (products, fp8_products, attentions, rows):
        yield from kind(make)


def described(case):
    inputs = ", ".join(f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}" for tensor in case.inputs)
    return f"{case.name}({inputs}{''.join(f', {name}={value}' for name, value in case.options.items())})"


def ways(case, ops):
    """The case's result by each way of calling the operator."""
    operator = getattr(ops, case.operator)
    yield "directly", operator(*case.inputs, **case.options)
    result = operator(*case.inputs, **case.options)
    out = torch.zeros_like(result)
    operator(*case.inputs, **case.options, out=out)
    yield "into out=", out
    # Compiled without kernels of its own: what is tested is that the operator stays as it is.
    torch.compiler.reset()
    compiled = torch.compile(lambda *inputs: operator(*inputs, **case.options), fullgraph=True, backend="aot_eager", dynamic=False)
    yield "through torch.compile", compiled(*case.inputs)
    given = [tensor.clone() for tensor in case.inputs]
    given[0].zero_()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        replayed = operator(*given, **case.options)
    given[0].copy_(case.inputs[0])
    graph.replay()
    yield "in a graph", replayed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--use", metavar="FILE", help="document or bundle to answer, in place of the GPU's own")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("there is no CUDA GPU here that torch can use")
    from kernel_sweep import ops

    if arguments.use:
        ops.use(arguments.use)
    count = 0
    with torch.no_grad():
        for case in cases("cuda"):
            exact, allowed = case.exact(*case.inputs, **case.options)
            for way, found in ways(case, ops):
                torch.cuda.synchronize()
                mistakes = wrong(found, exact, allowed)
                if found.shape != exact.shape or mistakes:
                    sys.exit(f"{described(case)} {way}: {mistakes} of {exact.numel()} elements are wrong")
            count += 1
            say(described(case))
    print(f"{count} cases, each in four ways: all elements are right")


if __name__ == "__main__":
    main()
