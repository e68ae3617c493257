"""Memory of the device as tensors of Python: for torch, for numpy, or for whatever reads DLPack or ``__cuda_array_interface__``."""

import ctypes

from ._dlpack import _Tensor

_CPU, _CUDA = 1, 2
# DLPack's code and bits, and numpy's type, of each of ours. There is no fp8 in either: its bytes are, and torch looks at them again.
_TYPES = {
    "bf16": (4, 16, "<V2"),
    "f16": (2, 16, "<f2"),
    "f32": (2, 32, "<f4"),
    "f64": (2, 64, "<f8"),
    "fp8": (1, 8, "|u1"),
    "i8": (0, 8, "|i1"),
    "u8": (1, 8, "|u1"),
    "i16": (0, 16, "<i2"),
    "i32": (0, 32, "<i4"),
    "i64": (0, 64, "<i8"),
}

_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]


class _Managed(ctypes.Structure):
    # The manager's context and the deleter are null: the memory is the device's, and outlives what is made of it.
    _fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


class Array:
    """A contiguous tensor at an address: of GPU ``ordinal``, or of the host where there is none."""

    def __init__(self, address, dtype, shape, ordinal=None):
        code, bits, typestr = _TYPES[dtype]
        self.dtype, self.shape, self._ordinal = dtype, tuple(shape), ordinal
        self._shape = (ctypes.c_int64 * len(shape))(*shape)
        self._managed = _Managed()
        tensor = self._managed.tensor
        tensor.data, tensor.ndim, tensor.shape = address, len(shape), self._shape
        tensor.device_type, tensor.device_id = (_CPU, 0) if ordinal is None else (_CUDA, ordinal)
        tensor.dtype.code, tensor.dtype.bits, tensor.dtype.lanes = code, bits, 1
        interface = {"shape": self.shape, "typestr": typestr, "data": (address, False), "strides": None, "version": 3}
        if ordinal is None:
            self.__array_interface__ = interface
        else:
            self.__cuda_array_interface__ = interface

    def __dlpack_device__(self):
        return (self._managed.tensor.device_type, self._managed.tensor.device_id)

    def __dlpack__(self, *, stream=None, **_):
        # Whoever asks is called on the stream that the memory is used on.
        return _new_capsule(ctypes.addressof(self._managed), b"dltensor", None)


# What torch's tensors are described by, which it looks at when it frees them, whenever that is. A process has a few hundred.
_KEPT = []


def for_torch(array):
    """An array as torch has it."""
    import torch

    _KEPT.append(array)
    tensor = torch.from_dlpack(array)
    return tensor.view(torch.float8_e4m3fn) if array.dtype == "fp8" else tensor


def for_numpy(array):
    """An array of the host as numpy has it."""
    import numpy

    if array.dtype not in ("bf16", "fp8"):
        return numpy.asarray(array)
    try:
        import ml_dtypes
    except ImportError:
        raise ImportError(
            f"numpy has no {array.dtype}: install ml_dtypes, or torch and say arrays='torch' in the family"
        ) from None
    kind = ml_dtypes.bfloat16 if array.dtype == "bf16" else ml_dtypes.float8_e4m3fn
    return numpy.asarray(array).view(kind)


def write(target, result):
    """Copies a result into a tensor of ours of the same shape."""
    if tuple(result.shape) != tuple(target.shape):
        raise ValueError(f"a result has the shape {tuple(result.shape)}, and its tensor {tuple(target.shape)}")
    if hasattr(target, "copy_"):
        import torch

        target.copy_(result if isinstance(result, torch.Tensor) else torch.as_tensor(result))
    else:
        target[...] = result
