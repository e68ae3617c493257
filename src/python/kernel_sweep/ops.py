"""What is served, run: operators on tensors of torch's, or on anything with ``__cuda_array_interface__`` or ``__dlpack__``.

    from kernel_sweep import ops
    c = ops.matmul_int4(a, b)                # a: bf16 [..., k], b: packed bytes [k / 2, n]; on torch's current stream
    ops.matmul(a, b, out=c)                  # into a tensor that is there

Each operator looks its shape up in the document of the GPU that its tensors are on, at the shape's first call, which also compiles
the kernel (or takes it from the cache, or from a bundle that :func:`use` named) and loads it. The calls after it launch alone: they
check their tensors, wait for nothing and, but for the output and what scratch a kernel needs, allocate nothing.

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
    "matmul",
    "matmul_fp4",
    "matmul_int16",
    "matmul_int4",
    "matmul_int4_group",
    "matmul_mxfp4",
    "matmul_nvfp4",
    "row_softmax",
    "use",
]


def use(path: Any) -> None:
    """Takes answers from another document, or from a bundle of ``sweep bundle``, with which nothing is compiled any more; with
    ``None`` from the documents built in again, each for its GPU.

    ``OSError`` where the file cannot be opened, ``ValueError`` where it is neither or was altered.
    """
    _native.use_file(path)


def matmul(a: Any, b: Any, *, out: Any = None, stream: Any = None) -> Any:
    """A · B in bf16 or f16: A [..., k], B [k, n]."""
    return _call("matmul", "matmul", (a, b), out, stream)


def matmul_int4(a: Any, b: Any, *, out: Any = None, stream: Any = None) -> Any:
    """A · B, where a byte of B [k / 2, n] is two signed 4-bit weights along k, the low nibble first; A bf16 [..., k]."""
    return _call("matmul_int4", "matmul_int4", (a, b), out, stream)


def matmul_fp4(a: Any, b: Any, *, out: Any = None, stream: Any = None) -> Any:
    """A · B, where a byte of B [k / 2, n] is two E2M1 weights along k, the low nibble first; A bf16 [..., k]."""
    return _call("matmul_fp4", "matmul_fp4", (a, b), out, stream)


def matmul_int16(a: Any, b: Any, *, out: Any = None, stream: Any = None) -> Any:
    """A · B, where B [k, n] is 16-bit integers, rounded to bf16; A bf16 [..., k]."""
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


def attention(
    q: Any, k: Any, v: Any, *, causal: bool = False, window: int | None = None, out: Any = None, stream: Any = None
) -> Any:
    """softmax(Q Kᵀ / √head_dim) V in bf16: [batch, heads, sequence, head_dim], where K and V may have a part of Q's heads.

    With ``causal`` a query sees the keys up to its own, as both sequences end together; with ``window`` as well, that many of
    them, its own among these. A query before the first key gives zeros.
    """
    if window is not None and (window < 1 or not causal):
        raise ValueError(f"window = {window}: a window is of one key or more, and needs causal=True")
    return _call("attention", "attention", (q, k, v), out, stream, (bool(causal), window or 0))


def row_softmax(x: Any, *, out: Any = None, stream: Any = None) -> Any:
    """Softmax over the last axis, of bf16 or f32."""
    return _call("row_softmax", "row_softmax", (x,), out, stream)


def add(x: Any, y: Any, *, out: Any = None, stream: Any = None) -> Any:
    """X + Y of one shape, bf16 or f32."""
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
    if out is None:
        out = first.new_empty(_output_shape(inputs))
    device = first.get_device()
    stream = torch._C._cuda_getCurrentRawStream(device)

    def scratch(count):
        return torch.empty(count, dtype=torch.uint8, device=first.device)

    _native.launch_torch(family, inputs, out, device, stream, scratch, *options)
    return out


def _output_shape(inputs):
    """That of two tensors' product, where the second is a matrix of another shape; else the first's."""
    first = inputs[0].shape
    if len(inputs) >= 2 and len(inputs[1].shape) == 2 and inputs[1].shape != first:
        return (*first[:-1], inputs[1].shape[1])
    return first


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

    def _register(name, family, parameters, output_shape, check, options=()):
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
            check(*inputs[:tensors])
            return inputs[0].new_empty(output_shape(*inputs[:tensors]))

        def fake_out(*inputs, out):
            check(*inputs[:tensors])
            shape = tuple(output_shape(*inputs[:tensors]))
            torch._check(len(out.shape) == len(shape), lambda: f"{name}: out has another number of dimensions")
            for extent, wanted in zip(out.shape, shape):
                torch._check(extent == wanted, lambda: f"{name}: out must be {shape}")
            torch._check(out.dtype == inputs[0].dtype, lambda: f"{name}: out must be {inputs[0].dtype}")

        _LIBRARY.impl(name, launch, "CUDA")
        _LIBRARY.impl(name + "_out", launch_out, "CUDA")
        torch.library.register_fake(f"kernel_sweep::{name}", fake, lib=_LIBRARY)
        torch.library.register_fake(f"kernel_sweep::{name}_out", fake_out, lib=_LIBRARY)

    def _register_product(name, weights, weights_a_row, family=None, others=()):
        def check(a, b, *rest):
            torch._check(
                a.dtype in (torch.bfloat16, torch.float16),
                lambda: f"{name}: a must be torch.bfloat16 or torch.float16, and is {a.dtype}",
            )
            wanted = weights or (a.dtype,)
            torch._check(b.dtype in wanted, lambda: f"{name}: b must be {wanted[0]}, and is {b.dtype}")
            torch._check(b.dim() == 2 and a.dim() >= 1, lambda: f"{name}: a [..., k] and b of two dimensions")
            torch._check(
                a.shape[-1] == weights_a_row * b.shape[0],
                lambda: f"{name}: a has rows of {a.shape[-1]}, and b {weights_a_row} * {b.shape[0]}",
            )

            for scales in rest[:1]:
                torch._check(scales.dim() == 2, lambda: f"{name}: scales of two dimensions")
                torch._check(scales.shape[1] == b.shape[1], lambda: f"{name}: scales of as many columns as b")

        _register(name, family or name, ("a", "b", *others), lambda a, b, *_: (*a.shape[:-1], b.shape[1]), check)

    _register_product("matmul", (), 1)
    _register_product("matmul_int16", (torch.int16,), 1)
    _register_product("matmul_int4", (torch.int8, torch.uint8), 2)
    _register_product("matmul_fp4", (torch.int8, torch.uint8), 2)
    _register_product("matmul_int4_group", (torch.int8, torch.uint8), 2, others=("scales",))
    _register_product("matmul_int4_group_zeros", (torch.int8, torch.uint8), 2, "matmul_int4_group", ("scales", "zeros"))
    _register_product("matmul_nvfp4", (torch.int8, torch.uint8), 2, others=("scales", "tensor_scale"))
    _register_product("matmul_mxfp4", (torch.int8, torch.uint8), 2, others=("scales",))

    def _check_attention(q, k, v):
        for tensor in (q, k, v):
            torch._check(tensor.dtype == torch.bfloat16, lambda: "attention: q, k and v must be torch.bfloat16")
            torch._check(tensor.dim() == 4, lambda: "attention: [batch, heads, sequence, head_dim] each")
        for place in (0, 3):
            torch._check(q.shape[place] == k.shape[place], lambda: "attention: q and k differ in more than lengths and heads")
        torch._check(q.shape[1] % k.shape[1] == 0, lambda: "attention: the heads of k must divide those of q")
        for place in range(4):
            torch._check(k.shape[place] == v.shape[place], lambda: "attention: k and v differ")

    def _check_floats(x, *others):
        torch._check(x.dtype in (torch.bfloat16, torch.float32), lambda: f"bfloat16 or float32, and not {x.dtype}")
        for other in others:
            torch._check(other.dtype == x.dtype, lambda: "x and y must be of one type")
            torch._check(other.dim() == x.dim(), lambda: "x and y must be of one shape")
            for one, two in zip(x.shape, other.shape):
                torch._check(one == two, lambda: "x and y must be of one shape")

    _mask = ("bool causal=False", "int window=0")
    _register("attention", "attention", ("q", "k", "v"), lambda q, k, v: q.shape, _check_attention, _mask)
    _register("row_softmax", "row_softmax", ("x",), lambda x: x.shape, _check_floats)
    _register("add", "elementwise", ("x", "y"), lambda x, y: x.shape, _check_floats)
