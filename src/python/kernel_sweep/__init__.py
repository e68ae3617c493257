"""Which config should this kernel run with, on this shape, on this GPU?

    heuristics = kernel_sweep.Heuristics.builtin("h200")
    answer = heuristics.lookup("matmul_fp4", m=16, n=4096, k=4096)
    config = helion.Config(**answer.best)
"""

from ._native import Answer, Heuristics, __version__, builtins

__all__ = ["Answer", "Heuristics", "__version__", "builtins"]
