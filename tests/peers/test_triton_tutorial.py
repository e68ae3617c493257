"""What of the comparison with Triton's tutorial needs no GPU."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import triton_tutorial

TUTORIAL = '''
"""A tutorial that shows a lot."""
import math

def floor(x):
    return math.floor(x)

def tuned(function):
    function.configs = [floor(1.5)]
    return function

@tuned
def matmul_kernel(x):
    return floor(x)

def benchmark(x=undefined):
    pass

undefined.run(show_plots=True)
'''


def test_only_the_tutorials_functions_are_run(tmp_path):
    file = tmp_path / "03-matrix-multiplication.py"
    file.write_text(TUTORIAL)
    example, kernel = triton_tutorial.tutorial_kernel(file)
    assert example is triton_tutorial.Product and kernel(2.5) == 2 and kernel.configs == [1]


def test_a_tutorial_of_another_kernel_is_refused_in_one_line(tmp_path):
    file = tmp_path / "01-vector-add.py"
    file.write_text("def add_kernel(x):\n    return x\n")
    with pytest.raises(SystemExit, match="01-vector-add.py: it defines neither matmul_kernel nor softmax_kernel"):
        triton_tutorial.tutorial_kernel(file)


def test_the_space_begins_with_the_tutorials_configs_and_has_their_neighbours_once():
    config = SimpleNamespace(
        kwargs={"BLOCK_SIZE_M": 128, "BLOCK_SIZE_N": 128, "BLOCK_SIZE_K": 64, "GROUP_SIZE_M": 8}, num_warps=8, num_stages=3
    )
    tutorials = [triton_tutorial.config_of(config)]
    space = triton_tutorial.Product.space(tutorials)
    assert space[0] == tutorials[0] and 300 < len(space) < 2000
    assert len({repr(sorted(one.items())) for one in space}) == len(space)
    assert {**tutorials[0], "GROUP_SIZE_M": 1} in space and {**tutorials[0], "BLOCK_SIZE_N": 256} in space


def test_the_softmax_has_the_tutorials_configs_with_any_number_of_programs_and_others():
    example = triton_tutorial.Softmax
    space = example.space(list(example.tutorials))
    assert len({repr(sorted(one.items())) for one in space}) == len(space) > 100
    assert {(one["num_warps"], one["num_stages"]) for one in space[:20]} == {(8, 2), (8, 4)}
    assert triton_tutorial.programs(example, {"rows": 100, "cols": 640}, {"PROGRAMS": 132}) == (100,)
    assert triton_tutorial.programs(example, {"rows": 5000, "cols": 640}, {"PROGRAMS": 132}) == (132,)


def test_a_launch_has_the_familys_arguments():
    made = triton_tutorial.launched(triton_tutorial.Product, lambda *extents: extents, {"m": 2, "n": 3, "k": 5})
    assert made == ((2, 5), (5, 3), (2, 3), 2, 3, 5, 5, 1, 3, 1, 3, 1)
    made = triton_tutorial.launched(triton_tutorial.Softmax, lambda *extents: extents, {"rows": 7, "cols": 9})
    assert made == ((7, 9), (7, 9), 9, 9, 7, 9)


def test_the_table_has_every_shape_and_their_mean():
    rows = [
        {"problem": {"m": 1, "n": 2, "k": 3}, "tuner_seconds": 2.0, "ours": {"median_us": 9.0}, "autotune": {"median_us": 10.0}},
        {"problem": {"m": 4, "n": 5, "k": 6}, "tuner_seconds": 3.0, "ours": {"error": "none"}, "autotune": {"median_us": 10.0}},
    ]
    text = triton_tutorial.markdown(rows, 12.0)
    assert "| 1×2×3 | 9.0 | 10.0 | 0.900 |" in text and "| 4×5×6 | none | 10.0 | – |" in text
    assert "0.900 in the geometric mean of 1 shapes; the sweep took 12.0 s, @triton.autotune 5.0 s" in text
