"""That the operators' references tell right from nearly right, and on a GPU, that the operators are right."""

import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from operators import E4M3, cases, described, wrong  # noqa: E402


def test_a_rounded_reference_is_right_and_one_without_the_last_of_its_inputs_is_not():
    names = set()
    for case in cases("cpu"):
        exact, allowed = case.exact(*case.inputs, **case.options)
        names.add(case.name)
        kinds = (torch.float32,) if case.name == "row_cross_entropy" else (torch.bfloat16, torch.float16, torch.float32)
        dtype = torch.bfloat16 if case.name == "matmul_fp8" else next(kind for kind in (case.inputs[0].dtype, *kinds) if kind in kinds)
        assert wrong(exact.to(dtype), exact, allowed) == 0, described(case)
        # The last column of the first input is zero: one of k, of a head, or of a row.
        first = case.inputs[0].clone()
        view = first.view(torch.uint8) if first.dtype == E4M3 else first
        view[..., -1] = 0
        other, _ = case.exact(first, *case.inputs[1:], **case.options)
        assert wrong(other.to(dtype), exact, allowed) > 0, described(case)
    assert names == {
        *("matmul", "matmul_int4", "matmul_int16", "matmul_fp4", "matmul_int4_group", "matmul_nvfp4", "matmul_mxfp4", "matmul_fp8"),
        *("attention", "row_softmax", "row_norm_rms", "row_norm_layer", "row_cross_entropy", "add"),
    }


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_every_operator_is_right_on_the_gpu():
    done = subprocess.run([sys.executable, Path(__file__).parent / "operators.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
