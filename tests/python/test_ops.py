"""What is served, launched from Python, with a stand-in for the driver (`tests/standin/libcuda.c`). Each test's body runs in a process
of its own, whose loader finds the stand-in."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

# What the bodies begin with: tensors that are addresses of nothing, and what was recorded.
PRELUDE = """
import functools, json, os
import kernel_sweep
from kernel_sweep import ops

MEMORY = 16 << 40
SIZES = {"<V2": 2, "<f4": 4, "|i1": 1, "|u1": 1, "<i2": 2}

class Array:
    def __init__(self, shape, typestr="<V2", place=1, address=None, strides=None, read_only=False, **more):
        address = MEMORY + (place << 32) if address is None else address
        self.__cuda_array_interface__ = {
            "shape": tuple(shape), "typestr": typestr, "data": (address, read_only), "strides": strides, "version": 3, **more,
        }

def calls():
    path = os.environ["STANDIN_RECORD"]
    lines = open(path).read().splitlines() if os.path.exists(path) else []
    open(path, "w").close()
    return [json.loads(line) for line in lines]

def launches():
    return [call for call in calls() if call["call"] == "cuLaunchKernelEx"]

def refused(kind, told, call, *arguments, **keywords):
    try:
        call(*arguments, **keywords)
    except kind as error:
        assert told in str(error), f"'{error}' does not say '{told}'"
        assert "\\n" not in str(error)
    else:
        raise AssertionError(f"nothing was raised that says '{told}'")
"""


@pytest.fixture(scope="session")
def driver(tmp_path_factory):
    folder = tmp_path_factory.mktemp("standin")
    compiler = ["cc", "-shared", "-fPIC", "-O1", "-o", folder / "libcuda.so", ROOT / "tests/standin/libcuda.c"]
    try:
        subprocess.run(compiler, check=True)
    except FileNotFoundError:
        pytest.skip("no cc here to build the stand-in driver with")
    return folder


def run(body, folder, tmp_path, **environment):
    environment = {
        **os.environ,
        **({"LD_LIBRARY_PATH": str(folder)} if folder else {}),
        "STANDIN_RECORD": str(tmp_path / "record.jsonl"),
        **environment,
    }
    command = [sys.executable, "-c", PRELUDE + textwrap.dedent(body)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    if "there is no NVRTC here" in done.stderr:
        pytest.skip("no NVRTC at hand")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_operator_launches_its_kernel_and_nothing_else_the_second_time(driver, tmp_path):
    body = """
    bf16, byte, int16 = "<V2", "|i1", "<i2"
    cases = [
        (ops.matmul, [([16, 512], bf16), ([512, 256], bf16)], ([16, 256], bf16), "gemm"),
        (ops.matmul_int4, [([2, 8, 512], bf16), ([256, 256], byte)], ([2, 8, 256], bf16), "gemm"),
        (ops.matmul_fp4, [([512], bf16), ([256, 256], "|u1")], ([256], bf16), "gemm"),
        (ops.matmul_int16, [([16, 512], bf16), ([512, 256], int16)], ([16, 256], bf16), "gemm"),
        (ops.attention, [([1, 8, 64, 64], bf16)] + 2 * [([1, 8, 128, 64], bf16)], ([1, 8, 64, 64], bf16), "attention"),
        (ops.row_softmax, [([4, 2, 300], "<f4")], ([4, 2, 300], "<f4"), "row_softmax"),
        (ops.add, 2 * [([3, 1000], bf16)], ([3, 1000], bf16), "elementwise"),
    ]
    grouped = [([1, 8, 64, 64], bf16)] + 2 * [([1, 2, 128, 64], bf16)]
    masked = functools.partial(ops.attention, causal=True, window=50)
    cases += [(operator, grouped, ([1, 8, 64, 64], bf16), "attention") for operator in (ops.attention, masked)]
    f16, f32, int64 = "<f2", "<f4", "<i8"
    a, b = ([2, 8, 512], bf16), ([256, 384], byte)
    c = ([2, 8, 384], bf16)
    cases += [
        (ops.matmul, [([16, 512], f16), ([512, 256], f16)], ([16, 256], f16), "gemm"),
        (ops.matmul_int4_group, [a, b, ([4, 384], bf16)], c, "gemm"),
        (ops.matmul_int4_group, [a, b, ([16, 384], bf16), ([16, 384], "|u1")], c, "gemm"),
        (ops.matmul_nvfp4, [a, b, ([32, 384], "|u1"), ([1], f32)], c, "gemm"),
        (ops.matmul_nvfp4, [a, b, ([32, 384], "|u1"), ([], f32)], c, "gemm"),
        (ops.matmul_mxfp4, [a, b, ([16, 384], "|u1")], c, "gemm"),
        (ops.attention, [([1, 8, 64, 64], f16)] + 2 * [([1, 8, 128, 64], f16)], ([1, 8, 64, 64], f16), "attention"),
        (ops.row_softmax, [([4, 300], f16)], ([4, 300], f16), "row_softmax"),
        (ops.add, 2 * [([3, 1000], f16)], ([3, 1000], f16), "elementwise"),
        (ops.row_cross_entropy, [([2, 8, 1000], bf16), ([2, 8], int64)], ([2, 8], f32), "row_cross_entropy"),
    ]
    for kind in (bf16, f16, f32):
        rows, columns = ([2, 8, 4096], kind), ([4096], kind)
        cases += [
            (ops.row_norm_rms, [rows, columns], rows, "row_norm"),
            (ops.row_norm_layer, [rows, columns, columns], rows, "row_norm"),
        ]
    # B lies column after column, and so do the scales of blocks of A.
    a, b = ([2, 8, 512], "|u1"), ([512, 384], "|u1", (1, 512))
    cases += [
        (ops.matmul_fp8, [a, b, ([], f32), ([1], f32)], c, "gemm"),
        (ops.matmul_fp8, [a, b, ([2, 8, 1], f32), ([1, 384], f32)], c, "gemm"),
        (ops.matmul_fp8, [a, b, ([16], f32), ([384], f32)], c, "gemm"),
        (ops.matmul_fp8, [a, b, ([16, 4], f32, (4, 64)), ([3, 4], f32)], c, "gemm"),
    ]
    for operator, inputs, (shape, kind), function in cases:
        given = [
            Array(shape, kind, place, strides=strides[0] if strides else None)
            for place, (shape, kind, *strides) in enumerate(inputs, 1)
        ]
        out = Array(shape, kind, 9)
        assert operator(*given, out=out) is out
        first = launches()
        assert operator(*given, out=out, stream=7) is out
        # Where a kernel has scratch, its launches wait for each other.
        told = calls()
        second = [call for call in told if call["call"] == "cuLaunchKernelEx"]
        others = {call["call"] for call in told} - {"cuLaunchKernelEx"}
        assert len(second) == 1 and others <= {"cuStreamWaitEvent", "cuEventRecord"}, told
        assert first[0]["function"].startswith(function), first
        assert (first[0]["stream"], second[0]["stream"]) == (0, 7)
        addresses = {word["map"] if isinstance(word, dict) else word for word in second[0]["parameters"]}
        for tensor in [*given, out]:
            assert tensor.__cuda_array_interface__["data"][0] in addresses, (operator, second)
        assert first[0]["parameters"] == second[0]["parameters"] and first[0]["grid"] == second[0]["grid"]
    """
    run(body, driver, tmp_path)


def test_tensors_that_fit_no_kernel_are_refused(driver, tmp_path):
    body = """
    a, b, c = Array([16, 512], place=1), Array([512, 256], place=2), Array([16, 256], place=3)
    refused(TypeError, "need out=", ops.matmul, a, b)
    refused(ValueError, "A [..., k] and B [k, n]", ops.matmul, a, Array([500, 256]), out=c)
    refused(ValueError, "A [..., k] and B [k / 2, n]", ops.matmul_int4, a, Array([512, 256], "|i1"), out=c)
    refused(ValueError, "out must be Bf16 [16, 256]", ops.matmul, a, b, out=Array([16, 255], place=3))
    refused(ValueError, "out must be Bf16 [16, 256]", ops.matmul, a, b, out=Array([16, 256], "<f4", place=3))
    refused(ValueError, "its first tensor must be bf16 or f16", ops.matmul, Array([16, 512], "<i2"), b, out=c)
    refused(ValueError, "matmul comes in bf16 and f16 only", ops.matmul, Array([16, 512], "<f4"), b, out=Array([16, 256], "<f4", 3))
    refused(ValueError, "no kernel takes an array of <f8", ops.matmul, Array([16, 512], "<f8"), b, out=c)
    refused(ValueError, "not contiguous", ops.matmul, a, Array([512, 256], strides=(2, 1024)), out=c)
    refused(ValueError, "in no GPU's own memory", ops.matmul, Array([16, 512], address=0x1000), b, out=c)
    refused(ValueError, "dimension m = 0", ops.matmul, Array([0, 512]), b, out=Array([0, 256]))
    refused(ValueError, "read-only", ops.matmul, a, b, out=Array([16, 256], place=3, read_only=True))
    refused(ValueError, "Q, K and V of four dimensions", ops.attention, a, a, a, out=c)
    refused(ValueError, "which are the same", ops.add, a, b, out=c)
    rows = Array([16, 512], place=4)
    refused(ValueError, "X [..., cols] and WEIGHT [cols]", ops.row_norm_rms, a, Array([511], place=2), out=rows)
    refused(ValueError, "WEIGHT [cols] and BIAS [cols]", ops.row_norm_layer, a, Array([512], place=2), Array([1, 512], place=3), out=rows)
    targets, loss = Array([16], "<i8", place=2), Array([16], "<f4", place=3)
    refused(ValueError, "TARGETS [...], one a row", ops.row_cross_entropy, a, Array([15], "<i8", place=2), out=loss)
    refused(ValueError, "out must be F32 [16]", ops.row_cross_entropy, a, targets, out=Array([16], place=3))
    fp8 = Array([16, 512], "|u1"), Array([512, 256], "|u1", place=2, strides=(1, 512))
    one = Array([1], "<f4", place=5)
    of_rows, of_columns = Array([16, 1], "<f4", place=5), Array([1, 256], "<f4", place=6)
    row_major = Array([512, 256], "|u1", place=2)
    refused(ValueError, "is not column-major: give the .t()", ops.matmul_fp8, fp8[0], row_major, one, one, out=c)
    for scales in ((of_rows, one), (one, of_columns), (of_columns, of_rows), (Array([16, 4], "<f4", place=5, strides=(4, 64)), of_columns)):
        refused(ValueError, "and their scales: one each", ops.matmul_fp8, *fp8, *scales, out=c)
    of_blocks = Array([16, 4], "<f4", place=5), Array([2, 4], "<f4", place=6)
    refused(ValueError, "is not column-major", ops.matmul_fp8, *fp8, *of_blocks, out=c)
    refused(ValueError, "out must be Bf16 [16, 256]", ops.matmul_fp8, *fp8, one, one, out=Array([16, 256], "<f2", place=3))
    refused(ValueError, "matmul_fp8 comes in fp8 only", ops.matmul_fp8, a, fp8[1], one, one, out=Array([16, 256], "<V2", place=3))
    refused(ValueError, "none of a kernel's", ops.row_softmax, Array([1] * 9), out=Array([1] * 9))
    refused(TypeError, "neither __cuda_array_interface__ nor __dlpack__", ops.matmul, 1, b, out=c)
    assert launches() == []
    ops.matmul(a, b, out=c)
    refused(ValueError, "is not aligned to 16 bytes", ops.matmul, Array([16, 512], address=MEMORY + 2), b, out=c)
    refused(ValueError, "C lies over A", ops.matmul, a, b, out=Array([16, 256], place=1))
    refused(ValueError, "B is in the memory of GPU 1", ops.matmul, a, Array([512, 256], address=17 << 40), out=c)
    refused(ValueError, "B i8", ops.matmul_int4, a, Array([256, 256], "<i2", place=2), out=c)
    assert len(launches()) == 1
    # What differs in types alone is seen once the kernel is prepared.
    refused(ValueError, "WEIGHT bf16 [512], and this is f32", ops.row_norm_rms, a, Array([512], "<f4", place=2), out=rows)
    refused(ValueError, "TARGETS i64 [16], and this is i16", ops.row_cross_entropy, a, Array([16], "<i2", place=2), out=loss)
    refused(ValueError, "a_scales f32 [1], and this is bf16", ops.matmul_fp8, *fp8, Array([1], place=5), one, out=c)
    refused(ValueError, "scales bf16 [4, 256], and this is f16", ops.matmul_int4_group, a, Array([256, 256], "|i1", place=2), Array([4, 256], "<f2", place=5), out=c)
    assert launches() == []
    # Strides that say nothing else than the shape are fine, and so is a read-only input.
    ops.matmul(Array([16, 512], strides=(1024, 2), read_only=True), b, out=c)
    """
    run(body, driver, tmp_path, STANDIN_COUNT="2")


def test_products_of_two_scaled_operands_are_launched_by_a_document_that_has_them(driver, tmp_path):
    config = {"block_sizes": [64, 64, 64], "mma": "mma_sync", "num_stages": 3, "num_warps": 4, "pid_type": "flat", "l2_groupings": [8], "split_k": 1}
    groups = {group: {"template": config} for group in ("small_m", "small_n", "small_k", "balanced", "rect")}
    deep = {**config, "block_sizes": [64, 64, 128]}
    deep = {group: {"template": deep} for group in groups}
    document = {"schema_version": 2, "rules": [], "fallbacks": {"matmul_nvfp4_nvfp4": groups, "matmul_mxfp8": deep}}
    (tmp_path / "own.json").write_text(json.dumps(document))
    body = """
    byte, f16, f32 = "|u1", "<f2", "<f4"
    mx = [Array([2, 8, 512], byte, 1), Array([512, 384], byte, 2, strides=(1, 512))]
    mx += [Array([1, 4, 32, 16], byte, 3), Array([3 * 4 * 512], byte, 4)]
    nv = [Array([2, 8, 256], byte, 1), Array([256, 384], byte, 2, strides=(1, 256))]
    nv += [Array([1, 8, 32, 16], byte, 3), Array([3 * 8 * 512], byte, 4), Array([1], f32, 5), Array([], f32, 6)]
    out, half = Array([2, 8, 384], place=9), Array([2, 8, 384], f16, place=9)
    ops.use("own.json")
    for operator, inputs in ((ops.matmul_mxfp8, mx), (ops.matmul_nvfp4_nvfp4, nv)):
        images = []
        for result in (out, half):
            assert operator(*inputs, out=result) is result
            (launch,) = launches()
            assert launch["function"].startswith("gemm_block_scaled"), launch
            for tensor in [*inputs, result]:
                assert tensor.__cuda_array_interface__["data"][0] in launch["parameters"], (operator, launch)
            images.append(launch["image"])
        assert images[0] != images[1], "a result in f16 is another kernel's"
        short = Array([3 * 4 * 512 - 512], byte, 4)
        refused(ValueError, "512 bytes each", operator, *inputs[:3], short, *inputs[4:], out=out)
        refused(ValueError, "comes in bf16 and f16 only", operator, *inputs, out=Array([2, 8, 384], f32, place=9))
        row_major = Array(inputs[1].__cuda_array_interface__["shape"], byte, 2)
        refused(ValueError, "not column-major", operator, inputs[0], row_major, *inputs[2:], out=out)
    """
    run(body, driver, tmp_path)


def test_arrays_on_one_gpu_open_no_other(driver, tmp_path):
    body = """
    second = [Array([1000], place=place, address=(17 << 40) + (place << 32)) for place in (1, 2, 3)]
    ops.add(second[0], second[1], out=second[2])
    retained = [call["call"] for call in calls()].count("cuDevicePrimaryCtxRetain")
    assert retained == 1, retained
    first = [Array([1000], place=place) for place in (1, 2, 3)]
    refused(ValueError, "in the memory of GPU 0", ops.add, second[0], first[1], out=second[2])
    assert [call["call"] for call in calls()].count("cuDevicePrimaryCtxRetain") == 0
    ops.add(first[0], first[1], out=first[2])
    assert len(launches()) == 1
    """
    run(body, driver, tmp_path, STANDIN_COUNT="2")


def test_many_shapes_are_served_and_what_is_forgotten_is_prepared_again(driver, tmp_path):
    body = """
    def add(n):
        ops.add(Array([n], place=1), Array([n], place=2), out=Array([n], place=3))

    def count(name, told):
        return [call["call"] for call in told].count(name)

    # Shapes whose kernels have scratch of their own: those used longest ago go, and so does their scratch, but no code.
    q, out = Array([1, 8, 1, 128], place=1), Array([1, 8, 1, 128], place=4)

    def attend(keys):
        ops.attention(q, Array([1, 8, keys, 128], place=2), Array([1, 8, keys, 128], place=3), out=out)

    attend(16384)
    calls()
    for step in range(1, 1100):
        add(8 * step)
    told = calls()
    assert count("cuLaunchKernelEx", told) == 1099 and count("cuModuleUnload", told) == 0
    assert count("cuEventDestroy_v2", told) == 1 and count("cuMemFree_v2", told) > 0, "the one with scratch went"
    attend(16384)
    assert count("cuEventCreate", calls()) == 1, "it is prepared again"
    ops.forget()
    told = calls()
    assert count("cuModuleUnload", told) > 1 and count("cuEventDestroy_v2", told) == 1
    add(1000)
    told = calls()
    assert count("cuModuleLoadData", told) == 1 and count("cuLaunchKernelEx", told) == 1
    """
    run(body, driver, tmp_path)


def test_a_launch_is_on_the_stream_that_is_given_or_said(driver, tmp_path):
    body = """
    class Stream:
        ptr = 11

    out = Array([1000], place=3)
    for stream, said, wanted in [(None, {}, 0), (None, {"stream": 5}, 5), (None, {"stream": None}, 0), (Stream(), {"stream": 5}, 11), (7, {}, 7)]:
        ops.add(Array([1000], place=1, **said), Array([1000], place=2), out=out, stream=stream)
        assert launches()[-1]["stream"] == wanted
    """
    run(body, driver, tmp_path)


def test_a_dlpack_capsule_is_as_good(driver, tmp_path):
    body = """
    import ctypes
    from kernel_sweep._dlpack import _Tensor

    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]

    class Exported:
        def __init__(self, shape, place, code=4, bits=16, device=2, strides=None):
            self.shape = (ctypes.c_int64 * len(shape))(*shape)
            self.strides = strides and (ctypes.c_int64 * len(shape))(*strides)
            self.tensor = _Tensor(data=MEMORY + (place << 32), device_type=device, ndim=len(shape), shape=self.shape, byte_offset=64)
            if strides:
                self.tensor.strides = self.strides
            self.tensor.dtype.code, self.tensor.dtype.bits, self.tensor.dtype.lanes = code, bits, 1
            self.device = device
            self.streams = []

        def __dlpack_device__(self):
            return (self.device, 0)

        def __dlpack__(self, stream=None):
            self.streams.append(stream)
            return new(ctypes.addressof(self.tensor), b"dltensor", None)

    x, y, out = Exported([2, 500], 1), Exported([2, 500], 2, strides=[500, 1]), Exported([2, 500], 3)
    ops.add(x, y, out=out, stream=9)
    (launch,) = launches()
    assert launch["parameters"][:3] == [MEMORY + (place << 32) + 64 for place in (1, 2, 3)]
    assert x.streams == [9] and launch["stream"] == 9
    refused(ValueError, "not contiguous", ops.add, Exported([2, 500], 1, strides=[1, 2]), y, out=out)
    halves = [Exported([2, 500], place, code=2) for place in (1, 2, 3)]
    ops.add(halves[0], halves[1], out=halves[2])
    ops.row_cross_entropy(x, Exported([2], 2, code=0, bits=64), out=Exported([2], 3, code=2, bits=32))
    numbers = [Exported([16, 512], 1, code=10, bits=8), Exported([512, 256], 2, code=10, bits=8, strides=[1, 512])]
    ops.matmul_fp8(*numbers, Exported([1], 4, code=2, bits=32), Exported([1], 5, code=2, bits=32), out=Exported([16, 256], 3))
    assert len(launches()) == 3
    refused(ValueError, "of 64 bits", ops.add, Exported([2, 500], 1, code=2, bits=64), y, out=out)
    refused(ValueError, "run on a CUDA GPU", ops.add, Exported([2, 500], 1, device=1), y, out=out)
    """
    run(body, driver, tmp_path)


def test_another_document_is_taken_and_what_is_none_refused(driver, tmp_path):
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "broken.bundle").write_bytes(b"kernel_sweep bundle 1\n" + bytes(100))
    only = {"block_sizes": [2048], "mma": "simt", "num_warps": 4, "pid_type": "flat"}
    fallbacks = {"elementwise": {group: {"template": only} for group in ("tiny", "mid", "huge")}}
    (tmp_path / "own.json").write_text(json.dumps({"schema_version": 2, "rules": [], "fallbacks": fallbacks}))
    body = """
    x, y, out = (Array([100_000], place=place) for place in (1, 2, 3))
    refused(OSError, "nothing.json", ops.use, "nothing.json")
    refused(ValueError, "broken.json", ops.use, "broken.json")
    refused(ValueError, "a hash does not fit", ops.use, "broken.bundle")
    ops.use("own.json")
    ops.add(x, y, out=out)
    assert launches()[0]["grid"] == [49, 1, 1], "blocks of 2048"
    refused(ValueError, "it answers nothing", ops.row_softmax, Array([16, 64]), out=Array([16, 64], place=2))
    ops.use(None)
    ops.row_softmax(Array([16, 64]), out=Array([16, 64], place=2))
    assert len(launches()) == 1
    """
    run(body, driver, tmp_path)


def test_what_the_machine_lacks_is_told(driver, tmp_path):
    body = """
    x, y, out = (Array([1000], place=place) for place in (1, 2, 3))
    refused(KIND, TOLD, ops.add, x, y, out=out)
    """

    def told(kind, text, folder=driver, **environment):
        run(f"KIND, TOLD = {kind}, {text!r}\n" + textwrap.dedent(body), folder, tmp_path, **environment)

    told("ValueError", "no built-in heuristics for 'NVIDIA L4'", STANDIN_NAME="NVIDIA L4")
    told("RuntimeError", "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803)", STANDIN_INIT="803")
    told("ValueError", "SWEEP_NVRTC", SWEEP_NVRTC="/nowhere")
    told("RuntimeError", "CUDA_ERROR_ILLEGAL_ADDRESS (700)", STANDIN_FAULT="cuLaunchKernelEx:700")
    if not any(Path(place).exists() for place in ("/usr/lib/x86_64-linux-gnu/libcuda.so.1", "/usr/lib64/libcuda.so.1")):
        told("RuntimeError", "there is no CUDA driver here", folder=None)


def test_a_new_shape_is_refused_while_a_graph_is_captured(driver, tmp_path):
    body = """
    x, y, out = (Array([1000], place=place) for place in (1, 2, 3))
    refused(RuntimeError, "call it once before", ops.add, x, y, out=out, stream=9)
    assert launches() == []
    ops.add(x, y, out=out)
    ops.add(x, y, out=out, stream=9)
    assert [call["stream"] for call in launches()] == [0, 9]
    """
    run(body, driver, tmp_path, STANDIN_CAPTURING="9")


def test_threads_and_many_calls_leave_nothing_behind(driver, tmp_path):
    body = """
    import threading, tracemalloc

    x, y, out = (Array([1000], place=place) for place in (1, 2, 3))
    ops.add(x, y, out=out)
    del os.environ["STANDIN_RECORD"]

    def many(count):
        for _ in range(count):
            ops.add(x, y, out=out)

    threads = [threading.Thread(target=many, args=(10_000,)) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    tracemalloc.start()
    many(100)
    before = tracemalloc.get_traced_memory()[0]
    many(60_000)
    assert tracemalloc.get_traced_memory()[0] - before < 4096
    """
    run(body, driver, tmp_path)


TORCH = """
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

bf16 = torch.bfloat16
"""


def test_torch_knows_what_the_operators_make(tmp_path):
    pytest.importorskip("torch")
    body = TORCH + """
with FakeTensorMode():
    def on_gpu(*shape, dtype=bf16):
        return torch.empty(shape, dtype=dtype, device="cuda")

    a, b = on_gpu(2, 8, 512), on_gpu(256, 384, dtype=torch.int8)
    for operator in (ops.matmul_int4, torch.ops.kernel_sweep.matmul_int4, ops.matmul_fp4):
        c = operator(a, b)
        assert (tuple(c.shape), c.dtype, c.device.type) == ((2, 8, 384), bf16, "cuda")
    out = on_gpu(2, 8, 384)
    assert ops.matmul_int4(a, b, out=out) is out
    assert tuple(ops.matmul(a, on_gpu(512, 16)).shape) == (2, 8, 16)
    assert tuple(ops.matmul_int16(a, on_gpu(512, 16, dtype=torch.int16)).shape) == (2, 8, 16)
    q, k = on_gpu(1, 8, 64, 128), on_gpu(1, 8, 300, 128)
    assert ops.attention(q, k, k).shape == q.shape
    shared = on_gpu(1, 2, 300, 128)
    assert ops.attention(q, shared, shared, causal=True, window=64).shape == q.shape
    refused(RuntimeError, "must divide", ops.attention, q, on_gpu(1, 3, 300, 128), on_gpu(1, 3, 300, 128))
    refused(ValueError, "needs causal=True", ops.attention, q, k, k, window=64)
    assert ops.row_softmax(on_gpu(3, 4, dtype=torch.float32)).dtype == torch.float32
    halves = on_gpu(1, 8, 64, 128, dtype=torch.float16)
    assert ops.attention(halves, halves, halves).dtype == torch.float16
    refused(RuntimeError, "one type", ops.attention, halves, k, k)
    for dtype in (bf16, torch.float16, torch.float32):
        x, vector = on_gpu(2, 8, 512, dtype=dtype), on_gpu(512, dtype=dtype)
        for y in (ops.row_norm_rms(x, vector), ops.row_norm_layer(x, vector, vector), ops.row_softmax(x), ops.add(x, x)):
            assert (y.shape, y.dtype) == (x.shape, dtype)
        loss = ops.row_cross_entropy(x, on_gpu(2, 8, dtype=torch.int64))
        assert (tuple(loss.shape), loss.dtype) == ((2, 8), torch.float32)
        refused(RuntimeError, "and is (511,)", ops.row_norm_rms, x, on_gpu(511, dtype=dtype))
        refused(RuntimeError, "must be torch.int64", ops.row_cross_entropy, x, on_gpu(2, 8, dtype=torch.int32))
        refused(RuntimeError, "targets must be", ops.row_cross_entropy, x, on_gpu(2, 7, dtype=torch.int64))
        refused(RuntimeError, "out must be torch.float32", ops.row_cross_entropy, x, on_gpu(2, 8, dtype=torch.int64), out=on_gpu(2, 8))
    refused(RuntimeError, "must be torch.bfloat16", ops.row_norm_rms, a, on_gpu(512, dtype=torch.float32))
    scales, zeros = on_gpu(4, 384), on_gpu(4, 384, dtype=torch.uint8)
    for c in (ops.matmul_int4_group(a, b, scales), ops.matmul_int4_group(a, b, scales, zeros)):
        assert (tuple(c.shape), c.dtype) == ((2, 8, 384), bf16)
    refused(RuntimeError, "scales must be torch.bfloat16", ops.matmul_int4_group, a, b, on_gpu(4, 384, dtype=torch.float32))
    refused(RuntimeError, "zeros must be torch.int8 or torch.uint8", ops.matmul_int4_group, a, b, scales, scales)
    e4m3, f32 = torch.float8_e4m3fn, torch.float32
    a8, b8 = on_gpu(2, 8, 512, dtype=e4m3), on_gpu(384, 512, dtype=e4m3).t()
    one, blocks = on_gpu(1, dtype=f32), on_gpu(6144, dtype=torch.uint8)
    c = ops.matmul_fp8(a8, b8, one, one)
    assert (tuple(c.shape), c.dtype) == ((2, 8, 384), bf16)
    refused(RuntimeError, "must be torch.float8_e4m3fn", ops.matmul_fp8, a, b8, one, one)
    refused(RuntimeError, "a_scales must be torch.float32", ops.matmul_fp8, a8, b8, blocks, one)
    refused(RuntimeError, "out must be torch.bfloat16, and", ops.matmul_fp8, a8, b8, one, one, out=on_gpu(2, 8, 384, dtype=torch.float16))
    assert ops.matmul_mxfp8(a8, b8, blocks, blocks).dtype == bf16
    half = on_gpu(2, 8, 384, dtype=torch.float16)
    assert ops.matmul_mxfp8(a8, b8, blocks, blocks, out=half) is half
    a4, b4 = on_gpu(2, 8, 256, dtype=torch.uint8), on_gpu(384, 256, dtype=torch.uint8).t()
    assert tuple(ops.matmul_nvfp4_nvfp4(a4, b4, blocks, blocks, one, one).shape) == (2, 8, 384)
    refused(RuntimeError, "b_factor must be torch.float32", ops.matmul_nvfp4_nvfp4, a4, b4, blocks, blocks, one, blocks)
    assert ops.add(a, a).shape == a.shape
    refused(RuntimeError, "a has rows of 512", ops.matmul, a, b.to(bf16))
    refused(RuntimeError, "b must be torch.int8", ops.matmul_int4, a, b.to(bf16))
    refused(RuntimeError, "k and v differ", ops.attention, q, k, q)
    refused(RuntimeError, "out must be", ops.matmul_int4, a, b, out=on_gpu(2, 8, 385))
    refused(RuntimeError, "y must be (2, 8, 512), and is (2, 8, 511)", ops.add, a, on_gpu(2, 8, 511))
refused(ValueError, "a tensor is on cpu", ops.add, torch.zeros(8), torch.zeros(8))
refused(RuntimeError, "has no gradient", ops.add, torch.zeros(8, requires_grad=True), torch.zeros(8))
refused(TypeError, "torch.cuda.stream", ops.add, torch.zeros(8), torch.zeros(8), stream=3)
"""
    run(body, None, tmp_path)


def test_torch_compiles_a_function_with_them_into_one_graph(tmp_path):
    pytest.importorskip("torch")
    body = TORCH + """
graphs = []

def backend(graph, example_inputs):
    graphs.append([str(node.target) for node in graph.graph.nodes if node.op == "call_function"])
    return graph

@torch.compile(fullgraph=True, backend=backend, dynamic=True)
def layer(a, b, c, weight):
    x = ops.matmul_int4(a, b)
    ops.add(x, x, out=c)
    return ops.row_softmax(ops.row_norm_rms(c, weight))

a, b = torch.empty(16, 512, dtype=bf16, device="meta"), torch.empty(256, 384, dtype=torch.int8, device="meta")
c, weight = (torch.empty(*shape, dtype=bf16, device="meta") for shape in ((16, 384), (384,)))
assert tuple(layer(a, b, c, weight).shape) == (16, 384)
assert graphs == [["kernel_sweep.matmul_int4", "kernel_sweep.add_out", "kernel_sweep.row_norm_rms", "kernel_sweep.row_softmax"]], graphs
"""
    run(body, None, tmp_path)
