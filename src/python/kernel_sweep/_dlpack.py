"""Reads what a DLPack capsule says of a tensor (``dlpack.h``; the capsule without a version, which is what is given unless another is asked for)."""

import ctypes


class _DType(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("dtype", _DType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


_CUDA = 2
# Codes of signed and unsigned integers, floats, bfloats, E4M3 and E8M0, with their bits, as __cuda_array_interface__ has them: it has no
# name for eight-bit floats but bytes.
_TYPES = {
    **{(0, 8): "|i1", (0, 16): "<i2", (0, 64): "<i8", (1, 8): "|u1"},
    **{(2, 16): "<f2", (2, 32): "<f4", (4, 16): "<V2", (10, 8): "|u1", (14, 8): "|u1"},
}

_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype = ctypes.c_void_p
_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]


class View:
    """A tensor's ``__cuda_array_interface__``, for one that has ``__dlpack__`` alone. Keeps the capsule, and so the tensor."""

    def __init__(self, array, stream):
        device_type = int(array.__dlpack_device__()[0])
        if device_type != _CUDA:
            raise ValueError(f"a tensor is on a device of DLPack's type {device_type}, and kernels run on a CUDA GPU")
        # The protocol has no stream 0: 1 is the legacy default stream.
        self._capsule = array.__dlpack__(stream=stream or 1)
        tensor = _Tensor.from_address(_pointer(self._capsule, b"dltensor"))
        kind = (tensor.dtype.code, tensor.dtype.bits)
        if kind not in _TYPES or tensor.dtype.lanes != 1:
            raise ValueError(f"no kernel takes a tensor of DLPack's type {kind[0]} of {kind[1]} bits")
        size = tensor.dtype.bits // 8
        strides = tuple(size * tensor.strides[axis] for axis in range(tensor.ndim)) if tensor.strides else None
        self.__cuda_array_interface__ = {
            "version": 3,
            "shape": tuple(tensor.shape[axis] for axis in range(tensor.ndim)),
            "typestr": _TYPES[kind],
            "data": ((tensor.data or 0) + tensor.byte_offset, False),
            "strides": strides,
        }
