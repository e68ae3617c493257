"""A layer of Llama-3-8B's shape by our operators, beside torch and torch.compile, on the GPU that is here.

    python tests/run/llama_layer.py --json llama_layer.json

A decode step (some sequences, one token each, on a context) and a prefill (one sequence), each captured in a CUDA graph: by
kernel_sweep.ops with int4 weights, by torch in bf16 (cuBLAS, scaled_dot_product_attention), and by torch.compile with max-autotune.
All three have the same weights, int4 values times a power of two, so that they compute the same numbers but for rounding: each is
compared, element by element, with the layer in f32. Where there is no operator of ours (a causal mask, a norm) torch's is called, and
the output says so. Times are of graph replays, each after L2 was read full; medians of --samples, the three in turn.

Beside it, what a call costs the host: torch.matmul, ops.matmul and torch.ops.kernel_sweep.matmul, queued without waiting.
"""

import argparse
import json
import math
import statistics
import sys
import time

import torch
import torch.nn.functional as F

HIDDEN, HEADS, KV_HEADS, HEAD, INNER = 4096, 32, 8, 128, 14336
EPSILON = 1e-5


class Sizes:
    """The layer's extents; smaller ones are for trying this out."""

    def __init__(self, hidden=HIDDEN, heads=HEADS, kv_heads=KV_HEADS, head=HEAD, inner=INNER):
        self.hidden, self.heads, self.kv_heads, self.head, self.inner = hidden, heads, kv_heads, head, inner

    def products(self):
        """Rows and columns of the seven weights, [k, n]."""
        queries, keys = self.heads * self.head, self.kv_heads * self.head
        return {
            "q": (self.hidden, queries),
            "k": (self.hidden, keys),
            "v": (self.hidden, keys),
            "o": (queries, self.hidden),
            "gate": (self.hidden, self.inner),
            "up": (self.hidden, self.inner),
            "down": (self.inner, self.hidden),
        }


def pack(values):
    """int4 values [k, n], two a byte along k, the low nibble first: [k / 2, n]."""
    low, high = values[0::2] & 15, values[1::2] & 15
    return (low | high << 4).to(torch.uint8).view(torch.int8).contiguous()


class Weights:
    """Random int4 weights, packed and as bf16 with their scale, and norms of ones about."""

    def __init__(self, sizes, device, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.packed, self.plain, self.scale = {}, {}, {}
        for name, (k, n) in sizes.products().items():
            values = torch.randint(-8, 8, (k, n), generator=generator, dtype=torch.int32)
            # The root mean square of the values is 4.6; with this scale a product keeps its rows' size. A power of two is exact.
            scale = 2.0 ** -round(math.log2(4.6 * math.sqrt(k)))
            self.packed[name] = pack(values).to(device)
            self.plain[name] = (values * scale).to(torch.bfloat16).to(device)
            self.scale[name] = scale
        self.norms = [
            (1 + 0.1 * torch.randn(sizes.hidden, generator=generator)).to(torch.bfloat16).to(device) for _ in range(2)
        ]


class Torch:
    """The layer's parts by torch, in the type of its inputs."""

    def __init__(self, weights, dtype=torch.bfloat16):
        self.plain = {name: plain.to(dtype) for name, plain in weights.plain.items()}

    def product(self, x, name):
        return x @ self.plain[name]

    def attention(self, q, k, v, causal):
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)

    def norm(self, x, weight):
        return F.rms_norm(x, x.shape[-1:], weight.to(x.dtype), EPSILON)

    def add(self, x, y):
        return x + y


class Ours:
    """The layer's parts by our operators, and by torch's where there is none."""

    def __init__(self, weights, ops):
        self.ops, self.packed, self.scale = ops, weights.packed, weights.scale
        self.others = Torch(weights)
        self.by_torch = set()

    def product(self, x, name):
        return self.ops.matmul_int4(x * self.scale[name], self.packed[name])

    def attention(self, q, k, v, causal):
        if causal:
            self.by_torch.add("causal attention")
            return self.others.attention(q, k, v, causal)
        # Queries that share keys are rows of one head.
        batch, heads, length, head = q.shape
        groups = heads // k.shape[1]
        grouped = q.reshape(batch, k.shape[1], groups * length, head).contiguous()
        return self.ops.attention(grouped, k, v).view(batch, heads, length, head)

    def norm(self, x, weight):
        self.by_torch.add("the norms")
        return self.others.norm(x, weight)

    def add(self, x, y):
        return self.ops.add(x, y)


def layer(parts, sizes, norms, x, context, causal):
    """The layer on x [batch, length, hidden]. `context` is keys and values of what came before, [batch, kv_heads, …, head], or
    None, where x is all there is. No rotary embedding: it is no part of what is compared."""
    batch, length, _ = x.shape

    def heads(name, rows):
        return parts.product(rows, name).view(batch, length, -1, sizes.head).transpose(1, 2)

    rows = parts.norm(x, norms[0])
    q, k, v = (heads(name, rows) for name in "qkv")
    if context is not None:
        k, v = (torch.cat(pair, dim=2) for pair in zip(context, (k, v)))
    attended = parts.attention(q.contiguous(), k.contiguous(), v.contiguous(), causal)
    x = parts.add(x, parts.product(attended.transpose(1, 2).reshape(batch, length, -1), "o"))
    rows = parts.norm(x, norms[1])
    gated = F.silu(parts.product(rows, "gate")) * parts.product(rows, "up")
    return parts.add(x, parts.product(gated, "down"))


def problem(sizes, batch, length, before, device, seed=1):
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(shape, generator=generator).to(torch.bfloat16).to(device)

    x = random(batch, length, sizes.hidden)
    context = [random(batch, sizes.kv_heads, before, sizes.head) for _ in range(2)] if before else None
    return x, context


def deviation(found, exact):
    """How far a result is from the one in f32: over the norm of all, and the worst element over the root mean square."""
    difference = found.float() - exact
    return {
        "relative": (difference.norm() / exact.norm()).item(),
        "worst_element": (difference.abs().max() / exact.square().mean().sqrt()).item(),
        "finite": bool(torch.isfinite(found).all()),
    }


def captured(call):
    """A CUDA graph of the call, which was made before on a stream of its own; and its result."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()
    return graph, result


def times_us(graphs, samples):
    """Medians of replays, one of each in turn, each after L2 was read full of other lines."""
    l2 = torch.cuda.get_device_properties(0).L2_cache_size
    lines = torch.zeros(2 * l2 // 4, dtype=torch.int32, device="cuda")
    taken = {name: [] for name in graphs}
    for turn in range(samples + 5):
        for name, graph in graphs.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            lines.sum()
            torch.cuda._sleep(200_000)  # the host is ahead when the replay begins
            start.record()
            graph.replay()
            end.record()
            torch.cuda.synchronize()
            if turn >= 5:
                taken[name].append(1e3 * start.elapsed_time(end))
    return {name: statistics.median(times) for name, times in taken.items()}


def run_case(name, sizes, weights, ops, batch, length, before, samples):
    x, context = problem(sizes, batch, length, before, "cuda")
    causal = before == 0

    def call(parts):
        return lambda: layer(parts, sizes, weights.norms, x, context, causal)

    ours, plain = Ours(weights, ops), Torch(weights)
    compiled = torch.compile(layer, mode="max-autotune-no-cudagraphs")
    calls = {
        "ours": call(ours),
        "torch": call(plain),
        "torch.compile": lambda: compiled(plain, sizes, weights.norms, x, context, causal),
    }
    with torch.no_grad():
        # Matrix products in f32 proper, not in TF32.
        torch.backends.cuda.matmul.allow_tf32 = False
        in_f32 = [tensor.float() for tensor in context] if context else None
        exact = layer(Torch(weights, torch.float32), sizes, weights.norms, x.float(), in_f32, causal)
        graphs, errors = {}, {}
        for which, made in calls.items():
            graph, result = captured(made)
            graph.replay()
            torch.cuda.synchronize()
            graphs[which], errors[which] = graph, deviation(result, exact)
        times = times_us(graphs, samples)
    return {
        "case": name,
        "batch": batch,
        "tokens": length,
        "context": before,
        "times_us": times,
        "errors": errors,
        "by_torch_in_ours": sorted(ours.by_torch),
    }


def host_us(ops, calls=20_000):
    """What a call costs the host, queued without waiting: a product so small that the GPU keeps up."""
    a, b = (torch.randn(64, 64, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)
    ways = {
        "torch.matmul": lambda: torch.matmul(a, b),
        "torch.matmul out=": lambda: torch.matmul(a, b, out=out),
        "ops.matmul": lambda: ops.matmul(a, b),
        "ops.matmul out=": lambda: ops.matmul(a, b, out=out),
        "torch.ops.kernel_sweep.matmul": lambda: torch.ops.kernel_sweep.matmul(a, b),
    }
    taken = {name: [] for name in ways}
    with torch.no_grad():
        for _ in range(7):
            for name, way in ways.items():
                for _ in range(100):
                    way()
                torch.cuda.synchronize()
                start = time.perf_counter()
                for _ in range(calls // 10):
                    way()
                taken[name].append(1e6 * (time.perf_counter() - start) / (calls // 10))
                torch.cuda.synchronize()
    return {name: statistics.median(times) for name, times in taken.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="write all figures here")
    parser.add_argument("--samples", type=int, default=50, help="replays that count, of each")
    parser.add_argument("--use", metavar="FILE", help="document or bundle to answer, in place of the GPU's own")
    parser.add_argument("--batch", type=int, default=16, help="sequences of the decode step")
    parser.add_argument("--context", type=int, default=4095, help="tokens before it")
    parser.add_argument("--prefill", type=int, default=2048, help="tokens of the prefill")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("there is no CUDA GPU here that torch can use")
    from kernel_sweep import ops

    if arguments.use:
        ops.use(arguments.use)
    sizes = Sizes()
    weights = Weights(sizes, "cuda")
    figures = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cases": [
            run_case("decode", sizes, weights, ops, arguments.batch, 1, arguments.context, arguments.samples),
            run_case("prefill", sizes, weights, ops, 1, arguments.prefill, 0, arguments.samples),
        ],
        "host_us": host_us(ops),
    }
    for case in figures["cases"]:
        print(f"{case['case']}: {case['batch']} sequences of {case['tokens']} tokens on {case['context']}")
        for name, time_us in case["times_us"].items():
            error = case["errors"][name]
            print(f"  {name:14} {time_us:9.1f} us   error {error['relative']:.2e}, worst element {error['worst_element']:.2e}")
        if case["by_torch_in_ours"]:
            print(f"  by torch within ours: {', '.join(case['by_torch_in_ours'])}")
    print("host time of a call: " + ", ".join(f"{name} {time_us:.2f} us" for name, time_us in figures["host_us"].items()))
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(figures, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
