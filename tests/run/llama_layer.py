"""A layer of Llama-3-8B's shape by our operators, beside torch and torch.compile, on the GPU that is here.

    python tests/run/llama_layer.py --json llama_layer.json

A decode step (some sequences, one token each, on a context) and a prefill (one sequence), each captured in a CUDA graph: by
kernel_sweep.ops, by the same under torch.compile, by torch in bf16 (cuBLAS, scaled_dot_product_attention), and by torch.compile with
max-autotune. Weights are int4 with a bf16 scale for each 128 along k; torch multiplies the bf16 weights that these stand for. So all
compute the same numbers but for rounding: each is compared, element by element, with the layer in f32, and the run fails where ours
is more than twice as far from it as torch's. Times are of graph replays, each after L2 was read full; medians of --samples, all in
turn. What is not ours in our layer (silu(gate) * up, writing to the cache, copies) torch does.

Beside it, what a call costs the host: torch's and ours, queued without waiting.

Progress goes to stderr with the seconds since the start; the figures are written after each case, so that a run that is cut leaves what
it has.
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
# Weights along k that share a scale.
GROUP = 128
# That of ops.row_norm_rms.
EPSILON = 1e-6
START = time.monotonic()


def say(text):
    print(f"{time.monotonic() - START:7.1f} s  {text}", file=sys.stderr, flush=True)


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


def unpack(packed):
    """The int4 values again, as f32."""
    codes = packed.view(torch.uint8).to(torch.int32)
    values = torch.stack([codes & 15, codes >> 4], dim=1).reshape(-1, packed.shape[1])
    return torch.where(values > 7, values - 16, values).float()


class Weights:
    """Random int4 weights, packed, with their scales, [groups, n], and norms of ones about."""

    def __init__(self, sizes, device, seed=0):
        generator = torch.Generator(device).manual_seed(seed)

        def random(*shape):
            return torch.rand(shape, generator=generator, device=device)

        self.packed, self.scales = {}, {}
        for name, (k, n) in sizes.products().items():
            values = torch.randint(-8, 8, (k, n), generator=generator, device=device, dtype=torch.int32)
            self.packed[name] = pack(values)
            # The root mean square of the values is 4.6; with scales about this a product keeps its rows' size.
            scales = (0.5 + random(-(-k // GROUP), n)) / (4.6 * math.sqrt(k))
            self.scales[name] = scales.to(torch.bfloat16)
        self.norms = [(0.9 + 0.2 * random(sizes.hidden)).to(torch.bfloat16) for _ in range(2)]

    def plain(self, name, dtype):
        """The weights that the packed ones stand for, rounded to a type; in f32 they are exact."""
        values = unpack(self.packed[name])
        scales = self.scales[name].float().repeat_interleave(GROUP, dim=0)[: values.shape[0]]
        return (values * scales).to(dtype)


class Torch:
    """The layer's parts by torch, in the type of its inputs."""

    def __init__(self, weights, dtype=torch.bfloat16):
        self.weights = {name: weights.plain(name, dtype) for name in weights.packed}

    def product(self, x, name):
        return x @ self.weights[name]

    def attention(self, q, k, v, causal):
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)

    def norm(self, x, weight):
        return F.rms_norm(x, x.shape[-1:], weight.to(x.dtype), EPSILON)

    def add(self, x, y):
        return x + y


class Ours:
    """The layer's parts by our operators, which take tensors that are contiguous."""

    def __init__(self, weights, ops):
        self.ops, self.packed, self.scales = ops, weights.packed, weights.scales

    def product(self, x, name):
        return self.ops.matmul_int4_group(x, self.packed[name], self.scales[name])

    def attention(self, q, k, v, causal):
        return self.ops.attention(q.contiguous(), k.contiguous(), v.contiguous(), causal=causal)

    def norm(self, x, weight):
        return self.ops.row_norm_rms(x, weight)

    def add(self, x, y):
        return self.ops.add(x, y)


def layer(parts, sizes, norms, x, cache, causal):
    """The layer on x [batch, length, hidden]. `cache` is keys and values of what came before with room for those of x behind it,
    [batch, kv_heads, …, head], or None, where x is all there is. No rotary embedding: it is no part of what is compared."""
    batch, length, _ = x.shape

    def heads(name, rows):
        return parts.product(rows, name).view(batch, length, -1, sizes.head).transpose(1, 2)

    rows = parts.norm(x, norms[0])
    q, k, v = (heads(name, rows) for name in "qkv")
    if cache is not None:
        for whole, new in zip(cache, (k, v)):
            whole[:, :, -length:].copy_(new)
        k, v = cache
    attended = parts.attention(q, k, v, causal)
    x = parts.add(x, parts.product(attended.transpose(1, 2).reshape(batch, length, -1), "o"))
    rows = parts.norm(x, norms[1])
    gated = F.silu(parts.product(rows, "gate")) * parts.product(rows, "up")
    return parts.add(x, parts.product(gated, "down"))


def problem(sizes, batch, length, before, device, seed=1):
    generator = torch.Generator(device).manual_seed(seed)

    def random(*shape):
        return torch.randn(shape, generator=generator, device=device).to(torch.bfloat16)

    x = random(batch, length, sizes.hidden)
    cache = [random(batch, sizes.kv_heads, before + length, sizes.head) for _ in range(2)] if before else None
    return x, cache


def in_f32(weights, sizes, x, cache, causal):
    """The layer's result in f32, from the very same weights and inputs."""
    # Matrix products in f32 proper, not in TF32.
    torch.backends.cuda.matmul.allow_tf32 = False
    cache = [tensor.float() for tensor in cache] if cache else None
    return layer(Torch(weights, torch.float32), sizes, weights.norms, x.float(), cache, causal)


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


def run_case(name, sizes, weights, ops, batch, length, before, samples, compile_mode):
    """The figures of one case."""
    x, cache = problem(sizes, batch, length, before, "cuda")
    causal = before == 0
    ours, plain = Ours(weights, ops), Torch(weights)
    calls = {"ours": (layer, ours), "torch": (layer, plain)}
    if compile_mode != "none":
        # What the other case compiled is not to make this one's sizes dynamic.
        torch.compiler.reset()
        compiled = torch.compile(layer, mode=compile_mode, dynamic=False)
        calls |= {"ours, torch.compile": (compiled, ours), "torch.compile": (compiled, plain)}
    with torch.no_grad():
        exact = in_f32(weights, sizes, x, cache, causal)
        graphs, errors = {}, {}
        for which, (function, parts) in calls.items():
            graph, result = captured(lambda: function(parts, sizes, weights.norms, x, cache, causal))
            graph.replay()
            torch.cuda.synchronize()
            graphs[which], errors[which] = graph, deviation(result, exact)
            say(f"{name}: {which} is captured, off by {errors[which]['relative']:.2e}, by {errors[which]['worst_element']:.2e} at worst")
            check(name, which, errors)
        times = times_us(graphs, samples)
    say(f"{name}: " + ", ".join(f"{which} {time_us:.1f} us" for which, time_us in times.items()))
    return {
        "case": name,
        "batch": batch,
        "tokens": length,
        "context": before,
        "compile_mode": compile_mode,
        "times_us": times,
        "errors": errors,
    }


def check(case, which, errors):
    """Ends the run where a result is not what the layer makes: all are in bf16, so they err alike."""
    error, by_torch = errors[which], errors.get("torch", errors[which])
    is_near = error["relative"] < 0.05 and error["relative"] <= 2 * by_torch["relative"]
    if not (error["finite"] and is_near and errors["ours"]["relative"] <= 2 * by_torch["relative"]):
        sys.exit(f"{case}: {which} is off by {error}, where torch's is by {by_torch}")


def host_us(ops, calls=20_000):
    """What a call costs the host, queued without waiting: a product so small that the GPU keeps up."""
    a, b = (torch.randn(64, 64, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)
    weight = b[0].clone()
    packed, scales = torch.zeros(32, 64, device="cuda", dtype=torch.int8), torch.ones(1, 64, device="cuda", dtype=torch.bfloat16)
    ways = {
        "torch.matmul": lambda: torch.matmul(a, b),
        "torch.matmul out=": lambda: torch.matmul(a, b, out=out),
        "ops.matmul": lambda: ops.matmul(a, b),
        "ops.matmul out=": lambda: ops.matmul(a, b, out=out),
        "torch.ops.kernel_sweep.matmul": lambda: torch.ops.kernel_sweep.matmul(a, b),
        "ops.matmul_int4_group": lambda: ops.matmul_int4_group(a, packed, scales),
        "ops.row_norm_rms": lambda: ops.row_norm_rms(a, weight),
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
    parser.add_argument(
        "--compile-mode",
        default="max-autotune-no-cudagraphs",
        metavar="MODE",
        help="of torch.compile, whose autotuning may take minutes; none to leave torch.compile out (default: %(default)s)",
    )
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("there is no CUDA GPU here that torch can use")
    from kernel_sweep import ops

    if arguments.use:
        ops.use(arguments.use)
    sizes = Sizes()
    weights = Weights(sizes, "cuda")
    say("the weights are made")
    figures = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cases": [],
    }

    def write():
        if arguments.json:
            with open(arguments.json, "w") as file:
                json.dump(figures, file, indent=1)
                file.write("\n")

    figures["host_us"] = host_us(ops)
    say("host time of a call: " + ", ".join(f"{name} {time_us:.2f} us" for name, time_us in figures["host_us"].items()))
    write()
    for name, batch, length, before in [
        ("decode", arguments.batch, 1, arguments.context),
        ("prefill", 1, arguments.prefill, 0),
    ]:
        case = run_case(name, sizes, weights, ops, batch, length, before, arguments.samples, arguments.compile_mode)
        figures["cases"].append(case)
        write()
        print(f"{case['case']}: {case['batch']} sequences of {case['tokens']} tokens on {case['context']}")
        for which, time_us in case["times_us"].items():
            error = case["errors"][which]
            print(f"  {which:19} {time_us:9.1f} us   error {error['relative']:.2e}, worst element {error['worst_element']:.2e}")
    print("host time of a call: " + ", ".join(f"{name} {time_us:.2f} us" for name, time_us in figures["host_us"].items()))


if __name__ == "__main__":
    main()
