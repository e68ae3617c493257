"""Which config should this kernel run with, on this shape, on this GPU?

    heuristics = kernel_sweep.Heuristics.builtin("h200")
    answer = heuristics.lookup("matmul_fp4", m=16, n=4096, k=4096)
    config = helion.Config(**answer.best)

kernel_sweep.ops runs what is served.
"""

from ._native import Answer, Heuristics, __version__, builtins

__all__ = ["Answer", "Heuristics", "__version__", "builtins"]


def __getattr__(name):
    # Imported when it is asked for: it imports torch, where that is installed.
    if name == "ops":
        import importlib

        return importlib.import_module(".ops", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
