"""What is served, run: operators on tensors of torch's, or on anything with ``__cuda_array_interface__`` or ``__dlpack__``.

    from kernel_sweep import ops
    c = ops.matmul_int4(a, b)                # a: bf16 [..., k], b: packed bytes [k / 2, n]; on torch's current stream
    ops.matmul(a, b, out=c)                  # into a tensor that is there

Each operator looks its shape up in the document of the GPU that its tensors are on, at the shape's first call, which also compiles
the kernel (or takes it from the cache, or from a bundle that :func:`use` named) and loads it. The calls after it launch alone: they
check their tensors, wait for nothing and, but for the output and what scratch a kernel needs, allocate nothing.

The 1,024 shapes of a GPU that were used last stay prepared (of objects that are not torch's, as many as have a gigabyte of scratch
together); any other is prepared again at its next call, without compiling. The code of kernels stays loaded, so a CUDA graph may be
replayed whatever was called since. Code is as much as the document has configs for, and no more; :func:`forget` gives it back.

Where torch is installed, the same operators are ``torch.ops.kernel_sweep.*``, with fake implementations: a direct call becomes one
of these under ``torch.compile``. A CUDA graph may hold either, once each shape was called before. They have no gradients.

Objects that are not torch's need ``out=``, and run on ``stream=`` (a handle, or an object with ``.ptr`` or ``.cuda_stream``); without,
on the stream that their ``__cuda_array_interface__`` names, else on the default one.
"""

from typing import Any

from . import _native

try:
    import torch
except ImportError:  # torch is optional
    torch = None

__all__ = [
    "add",
    "attention",
    "forget",
    "matmul",
    "matmul_fp4",
    "matmul_fp8",
    "matmul_int16",
    "matmul_int4",
    "matmul_int4_group",
    "matmul_mxfp4",
    "matmul_mxfp8",
    "matmul_nvfp4",
    "matmul_nvfp4_nvfp4",
    "row_cross_entropy",
    "row_norm_layer",
    "row_norm_rms",
    "row_softmax",
    "use",
]


def use(path: Any) -> None:
    """Takes answers from another document, or from a bundle of ``sweep bundle``, with which nothing is compiled any more; with
    ``None`` from the documents built in again, each for its GPU.

    ``OSError`` where the file cannot be opened, ``ValueError`` where it is neither or was altered.
    """
    _native.use_file(path)


def forget() -> None:
    """Gives back all that was prepared: kernels, the scratch that they own, and their code. It waits for what runs on the GPU. Call it
    only once no CUDA graph that holds an operator is replayed any more, and while none is captured: such a graph would run code that is
    gone. What is called again is prepared again."""
    _native.forget()


def matmul(a: Any, b: Any, *, out: Any = None, stream: Any = None) -> Any:
    """A · B in bf16 or f16: A [..., k], B [k, n]."""
    return _call("matmul", "matmul", (a, b), out, stream)


def matmul_int4(a: Any, b: Any, *, out: Any = None, stream: Any = None) -> Any:
    """A · B, where a byte of B [k / 2, n] is two signed 4-bit weights along k, the low nibble first; A [..., k] in
    bf16 or f16."""
    return _call("matmul_int4", "matmul_int4", (a, b), out, stream)


def matmul_fp4(a: Any, b: Any, *, out: Any = None, stream: Any = None) -> Any:
    """A · B, where a byte of B [k / 2, n] is two E2M1 weights along k, the low nibble first; A [..., k] in bf16 or f16."""
    return _call("matmul_fp4", "matmul_fp4", (a, b), out, stream)


def matmul_int16(a: Any, b: Any, *, out: Any = None, stream: Any = None) -> Any:
    """A · B, where B [k, n] is 16-bit integers, rounded to A's type; A [..., k] in bf16 or f16."""
    return _call("matmul_int16", "matmul_int16", (a, b), out, stream)


def matmul_int4_group(a: Any, b: Any, scales: Any, zeros: Any = None, *, out: Any = None, stream: Any = None) -> Any:
    """A · B, where a byte of B [k / 2, n] is two 4-bit weights along k, the low nibble first, with a scale of A's type for each 32, 64
    or 128 of them or for all along k, [g, n]: signed, or with zero points, a byte each of the same shape, unsigned less these."""
    if zeros is None:
        return _call("matmul_int4_group", "matmul_int4_group", (a, b, scales), out, stream)
    return _call("matmul_int4_group_zeros", "matmul_int4_group", (a, b, scales, zeros), out, stream)


def matmul_nvfp4(a: Any, b: Any, scales: Any, tensor_scale: Any, *, out: Any = None, stream: Any = None) -> Any:
    """A · B, where a byte of B [k / 2, n] is two E2M1 weights along k, the low nibble first, with the bytes of an E4M3 scale for each
    16 of them, [k / 16, n], and one f32 scale for all, [1]."""
    return _call("matmul_nvfp4", "matmul_nvfp4", (a, b, scales, tensor_scale), out, stream)


def matmul_mxfp4(a: Any, b: Any, scales: Any, *, out: Any = None, stream: Any = None) -> Any:
    """A · B, where a byte of B [k / 2, n] is two E2M1 weights along k, the low nibble first, with the byte of an E8M0 scale for each 32
    of them, [k / 32, n]."""
    return _call("matmul_mxfp4", "matmul_mxfp4", (a, b, scales), out, stream)


def matmul_fp8(a: Any, b: Any, a_scales: Any, b_scales: Any, *, out: Any = None, stream: Any = None) -> Any:
    """A · B of E4M3 numbers times f32 scales, in bf16: A [..., k]; B [k, n], column-major as ``torch._scaled_mm`` takes it, the ``.t()``
    of a contiguous [n, k].

    The scales are one each ([1]); one a row of A ([m, 1] or [m]) and one a column of B ([1, n] or [n]); or one for 128 of k of a row of A
    ([m, ⌈k / 128⌉], column-major too) and one for 128 columns by 128 of k of B ([⌈n / 128⌉, ⌈k / 128⌉]).
    """
    return _call("matmul_fp8", "matmul_fp8", (a, b, a_scales, b_scales), out, stream)


def matmul_mxfp8(a: Any, b: Any, a_scales: Any, b_scales: Any, *, out: Any = None, stream: Any = None) -> Any:
    """A · B of E4M3 numbers that have an E8M0 scale for each 32 along k, in bf16, or in f16 where ``out`` is: A [..., k]; B [k, n],
    column-major.

    The scales of A and of B lie in whole blocks of 512 bytes, each of 128 rows by four groups, as cuBLAS and ``torch._scaled_mm`` have
    them: [⌈rows / 128⌉, ⌈k / 128⌉, 32, 16], or anything of as many bytes.
    """
    return _call("matmul_mxfp8", "matmul_mxfp8", (a, b, a_scales, b_scales), out, stream)


def matmul_nvfp4_nvfp4(
    a: Any, b: Any, a_scales: Any, b_scales: Any, a_factor: Any, b_factor: Any, *, out: Any = None, stream: Any = None
) -> Any:
    """A · B of E2M1 numbers, two a byte along k, the low nibble first, that have an E4M3 scale for each 16 along k and one f32 factor
    each, [1]; in bf16, or in f16 where ``out`` is: A [..., k / 2]; B [k / 2, n], column-major. Scales as in :func:`matmul_mxfp8`,
    [⌈rows / 128⌉, ⌈k / 64⌉, 32, 16]."""
    inputs = (a, b, a_scales, b_scales, a_factor, b_factor)
    return _call("matmul_nvfp4_nvfp4", "matmul_nvfp4_nvfp4", inputs, out, stream)


def attention(
    q: Any, k: Any, v: Any, *, causal: bool = False, window: int | None = None, out: Any = None, stream: Any = None
) -> Any:
    """softmax(Q Kᵀ / √head_dim) V in bf16 or f16: [batch, heads, sequence, head_dim], where K and V may have a part of Q's heads.

    With ``causal`` a query sees the keys up to its own, as both sequences end together; with ``window`` as well, that many of
    them, its own among these. A query before the first key gives zeros.
    """
    if window is not None and (window < 1 or not causal):
        raise ValueError(f"window = {window}: a window is of one key or more, and needs causal=True")
    return _call("attention", "attention", (q, k, v), out, stream, (bool(causal), window or 0))


def row_softmax(x: Any, *, out: Any = None, stream: Any = None) -> Any:
    """Softmax over the last axis, of bf16, f16 or f32."""
    return _call("row_softmax", "row_softmax", (x,), out, stream)


def row_norm_rms(x: Any, weight: Any, *, out: Any = None, stream: Any = None) -> Any:
    """x / √(mean(x²) + 1e-6) · weight over the last axis, of bf16, f16 or f32; a weight a column, of x's type."""
    return _call("row_norm_rms", "row_norm_rms", (x, weight), out, stream)


def row_norm_layer(x: Any, weight: Any, bias: Any, *, out: Any = None, stream: Any = None) -> Any:
    """(x - mean) / √(variance + 1e-5) · weight + bias over the last axis, of bf16, f16 or f32; both a column each, of x's type."""
    return _call("row_norm_layer", "row_norm_layer", (x, weight, bias), out, stream)


def row_cross_entropy(x: Any, targets: Any, *, out: Any = None, stream: Any = None) -> Any:
    """log(sum(exp(x))) - x[target] over the last axis, in f32: the loss of each row of logits [..., cols] in bf16, f16 or f32, by the
    int64 index of its target, [...]. A target that is no column (torch's -100) has loss 0."""
    return _call("row_cross_entropy", "row_cross_entropy", (x, targets), out, stream)


def add(x: Any, y: Any, *, out: Any = None, stream: Any = None) -> Any:
    """X + Y of one shape, bf16, f16 or f32."""
    return _call("add", "elementwise", (x, y), out, stream)


def _call(name, family, inputs, out, stream, options=()):
    if torch is None or not isinstance(inputs[0], torch.Tensor):
        return _call_on_arrays(family, inputs, out, stream, options)
    if stream is not None:
        raise TypeError("torch's tensors run on torch's current stream: call it within torch.cuda.stream(...)")
    if torch.compiler.is_compiling() or type(inputs[0]) not in _PLAIN:
        operators = torch.ops.kernel_sweep
        if out is None:
            return getattr(operators, name)(*inputs, *options)
        getattr(operators, name + "_out")(*inputs, *options, out=out)
        return out
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        raise RuntimeError(f"kernel_sweep.ops.{name} has no gradient: call it under torch.no_grad(), or detach its tensors")
    return _launch(family, inputs, out, options)


def _launch(family, inputs, out, options=()):
    """Launches on real tensors of torch's."""
    first = inputs[0]
    if not first.is_cuda:
        raise ValueError(f"a tensor is on {first.device}, and kernels run on a CUDA GPU")
    if out is None and family in _RESULTS:
        out = _empty_output(family, inputs)
    device = first.get_device()
    stream = torch._C._cuda_getCurrentRawStream(device)
    return _native.launch_torch(family, inputs, out, device, stream, _scratch, *options)


def _scratch(beside, count):
    return torch.empty(count, dtype=torch.uint8, device=beside.device)


def _empty_output(family, inputs):
    """A new tensor for what an operator makes of these."""
    first = inputs[0]
    shape = first.shape
    if family.startswith("matmul"):
        shape = (*shape[:-1], *inputs[1].shape[-1:])
    elif family == "row_cross_entropy":
        shape = shape[:-1]
    if family in _RESULTS:
        return first.new_empty(shape, dtype=_RESULTS[family][0])
    return first.new_empty(shape)


def _call_on_arrays(family, inputs, out, stream, options=()):
    if out is None:
        raise TypeError("tensors that are not torch's need out=, which the result is written to")
    if stream is None:
        stream = _stream_of(inputs[0])
    elif not isinstance(stream, int):
        stream = getattr(stream, "cuda_stream", None) or getattr(stream, "ptr", 0)
    views = tuple(_with_interface(tensor, stream) for tensor in inputs)
    _native.launch_arrays(family, views, _with_interface(out, stream), stream, *options)
    return out


def _stream_of(array):
    """The stream that an array says to be in order with."""
    interface = getattr(array, "__cuda_array_interface__", None) or {}
    return interface.get("stream") or 0


def _with_interface(array, stream):
    """The array itself, or what its DLPack capsule says of it."""
    if hasattr(array, "__cuda_array_interface__"):
        return array
    if hasattr(array, "__dlpack__"):
        from ._dlpack import View

        return View(array, stream)
    raise TypeError(f"{type(array).__name__} has neither __cuda_array_interface__ nor __dlpack__")


if torch is not None:
    _PLAIN = (torch.Tensor, torch.nn.Parameter)
    _LIBRARY = torch.library.Library("kernel_sweep", "DEF")
    # What an operator may make, where that is not of its first tensor's type; the first without out=.
    _RESULTS = {
        "matmul_fp8": (torch.bfloat16,),
        "matmul_mxfp8": (torch.bfloat16, torch.float16),
        "matmul_nvfp4_nvfp4": (torch.bfloat16, torch.float16),
        "row_cross_entropy": (torch.float32,),
    }

    def _of_types(name, what, tensor, dtypes):
        def told():
            return f"{name}: {what} must be {' or '.join(map(str, dtypes))}, and is {tensor.dtype}"

        torch._check(tensor.dtype in dtypes, told)

    def _alike(name, shape, wanted, what):
        """That a shape is the one that is wanted, extent by extent, some of which may not be known yet."""
        torch._check(len(shape) == len(wanted), lambda: f"{name}: {what} must be of {len(wanted)} dimensions")
        for extent, other in zip(shape, wanted):
            torch._check(extent == other, lambda: f"{name}: {what} must be {tuple(wanted)}, and is {tuple(shape)}")

    def _register(name, family, parameters, check, options=()):
        """An operator, its like with out=, and what they make of tensors without contents. ``options`` follow its tensors."""
        tensors = len(parameters)
        arguments = ", ".join([f"Tensor {parameter}" for parameter in parameters] + list(options))
        tags = (torch.Tag.pt2_compliant_tag,)
        _LIBRARY.define(f"{name}({arguments}) -> Tensor", tags=tags)
        _LIBRARY.define(f"{name}_out({arguments}, *, Tensor(a!) out) -> ()", tags=tags)

        def launch(*inputs):
            return _launch(family, inputs[:tensors], None, inputs[tensors:])

        def launch_out(*inputs, out):
            _launch(family, inputs[:tensors], out, inputs[tensors:])

        def fake(*inputs):
            check(name, *inputs[:tensors])
            return _empty_output(family, inputs)

        def fake_out(*inputs, out):
            check(name, *inputs[:tensors])
            _alike(name, out.shape, _empty_output(family, inputs).shape, "out")
            _of_types(name, "out", out, _RESULTS.get(family, (inputs[0].dtype,)))

        _LIBRARY.impl(name, launch, "CUDA")
        _LIBRARY.impl(name + "_out", launch_out, "CUDA")
        torch.library.register_fake(f"kernel_sweep::{name}", fake, lib=_LIBRARY)
        torch.library.register_fake(f"kernel_sweep::{name}_out", fake_out, lib=_LIBRARY)

    def _types(*names):
        """Types by their names, of which an older torch lacks some."""
        return tuple(getattr(torch, name) for name in names if hasattr(torch, name))

    _HALVES = (torch.bfloat16, torch.float16)
    _FLOATS = (*_HALVES, torch.float32)
    _BYTES = (torch.int8, torch.uint8)
    _E2M1 = _BYTES + _types("float4_e2m1fn_x2")
    _E4M3 = _types("float8_e4m3fn")
    _E4M3_SCALES = _BYTES + _E4M3
    _E8M0_SCALES = _BYTES + _types("float8_e8m0fnu")

    def _check_inner(name, a, b, weights_a_row):
        torch._check(b.dim() == 2 and a.dim() >= 1, lambda: f"{name}: a [..., k] and b of two dimensions")
        torch._check(
            a.shape[-1] == weights_a_row * b.shape[0],
            lambda: f"{name}: a has rows of {a.shape[-1]}, and b {weights_a_row} * {b.shape[0]}",
        )

    def _register_product(name, weights, weights_a_row, family=None, others=(), scales=()):
        """A product of activations in bf16 or f16 with weights of these types, with scales of these where there are any; of no type said,
        the activations'."""

        def check(name, a, b, *rest):
            _of_types(name, "a", a, _HALVES)
            _of_types(name, "b", b, weights or (a.dtype,))
            _check_inner(name, a, b, weights_a_row)
            if rest:
                torch._check(rest[0].dim() == 2, lambda: f"{name}: scales of two dimensions")
                torch._check(rest[0].shape[1] == b.shape[1], lambda: f"{name}: scales of as many columns as b")
                _of_types(name, "scales", rest[0], scales or (a.dtype,))
            for other, parameter in zip(rest[1:], others[1:]):
                if parameter == "zeros":
                    _of_types(name, parameter, other, _BYTES)
                    _alike(name, other.shape, rest[0].shape, parameter)
                else:
                    _of_types(name, parameter, other, (torch.float32,))

        _register(name, family or name, ("a", "b", *others), check)

    _register_product("matmul", (), 1)
    _register_product("matmul_int16", (torch.int16,), 1)
    _register_product("matmul_int4", _BYTES, 2)
    _register_product("matmul_fp4", _E2M1, 2)
    _register_product("matmul_int4_group", _BYTES, 2, others=("scales",))
    _register_product("matmul_int4_group_zeros", _BYTES, 2, "matmul_int4_group", ("scales", "zeros"))
    _register_product("matmul_nvfp4", _E2M1, 2, others=("scales", "tensor_scale"), scales=_E4M3_SCALES)
    _register_product("matmul_mxfp4", _E2M1, 2, others=("scales",), scales=_E8M0_SCALES)

    def _register_scaled(name, numbers, scales, factors=()):
        """A product of operands that are of one type, and both scaled."""

        def check(name, a, b, a_scales, b_scales, *others):
            for what, tensor in (("a", a), ("b", b)):
                _of_types(name, what, tensor, numbers)
            _check_inner(name, a, b, 1)
            for what, tensor in (("a_scales", a_scales), ("b_scales", b_scales)):
                _of_types(name, what, tensor, scales)
            for what, tensor in zip(factors, others):
                _of_types(name, what, tensor, (torch.float32,))

        _register(name, name, ("a", "b", "a_scales", "b_scales", *factors), check)

    _register_scaled("matmul_fp8", _E4M3, (torch.float32,))
    _register_scaled("matmul_mxfp8", _E4M3, _E8M0_SCALES)
    _register_scaled("matmul_nvfp4_nvfp4", _E2M1, _E4M3_SCALES, ("a_factor", "b_factor"))

    def _check_attention(name, q, k, v):
        for what, tensor in (("q", q), ("k", k), ("v", v)):
            _of_types(name, what, tensor, _HALVES)
            torch._check(tensor.dtype == q.dtype, lambda: f"{name}: q, k and v must be of one type")
            torch._check(tensor.dim() == 4, lambda: f"{name}: [batch, heads, sequence, head_dim] each")
        for place in (0, 3):
            torch._check(q.shape[place] == k.shape[place], lambda: f"{name}: q and k differ in more than lengths and heads")
        torch._check(q.shape[1] % k.shape[1] == 0, lambda: f"{name}: the heads of k must divide those of q")
        for place in range(4):
            torch._check(k.shape[place] == v.shape[place], lambda: f"{name}: k and v differ")

    def _check_floats(name, x, *vectors):
        """X, and vectors that have its rows' length and its type."""
        _of_types(name, "x", x, _FLOATS)
        for vector in vectors:
            _of_types(name, "what comes with x", vector, (x.dtype,))
            _alike(name, vector.shape, x.shape[-1:], "what comes with x")

    def _check_add(name, x, y):
        _of_types(name, "x", x, _FLOATS)
        _of_types(name, "y", y, (x.dtype,))
        _alike(name, y.shape, x.shape, "y")

    def _check_cross_entropy(name, x, targets):
        _of_types(name, "x", x, _FLOATS)
        _of_types(name, "targets", targets, (torch.int64,))
        _alike(name, targets.shape, x.shape[:-1], "targets")

    _mask = ("bool causal=False", "int window=0")
    _register("attention", "attention", ("q", "k", "v"), _check_attention, _mask)
    _register("row_softmax", "row_softmax", ("x",), _check_floats)
    _register("row_norm_rms", "row_norm_rms", ("x", "weight"), _check_floats)
    _register("row_norm_layer", "row_norm_layer", ("x", "weight", "bias"), _check_floats)
    _register("row_cross_entropy", "row_cross_entropy", ("x", "targets"), _check_cross_entropy)
    _register("add", "elementwise", ("x", "y"), _check_add)
