"""Which config should this kernel run with, on this shape, on this GPU?

    heuristics = kernel_sweep.Heuristics.builtin("h200")
    answer = heuristics.lookup("matmul_fp4", m=16, n=4096, k=4096)
    config = helion.Config(**answer.best)

kernel_sweep.ops runs what is served; kernel_sweep.tune tunes kernels that Python calls.
"""

from ._native import Answer, Heuristics, __version__, builtins

_TUNING = ("Family", "FamilyError", "Problem", "Tensor", "TuneError", "product", "reads", "tune", "updates", "writes")
_TRITON = ("TritonFamily", "triton_config", "triton_configs")
_HELION = ("HelionFamily", "helion_config")

__all__ = ["Answer", "Heuristics", "__version__", "builtins", *_TUNING, *_TRITON, *_HELION]


def __getattr__(name):
    # Imported when it is asked for: operators import torch where that is installed, and a lookup needs none of it.
    import importlib

    if name in ("ops", "tuning"):
        return importlib.import_module(f".{name}", __name__)
    for names, module in ((_TUNING, ".tuning"), (_TRITON, "._triton"), (_HELION, "._helion")):
        if name in names:
            return getattr(importlib.import_module(module, __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
