"""The wheel as its users meet it."""

import json
import threading
from importlib import metadata, resources
from pathlib import Path

import kernel_sweep
import pytest
from kernel_sweep import Heuristics

EXAMPLE = Path(__file__).parent.parent / "data" / "observed_heuristics_example.json"
MODEL = EXAMPLE.with_name("observed_heuristics_model.json")
SHAPE = {"m": 16, "n": 4096, "k": 4096}


class Tensor:
    """Anything with a shape and a dtype."""

    def __init__(self, shape, dtype):
        self.shape = shape
        self.dtype = dtype


@pytest.fixture
def heuristics():
    return Heuristics.load(EXAMPLE)


def helion_config(**knobs):
    """Stands for `helion.Config`, which takes knobs as keywords."""
    return knobs


def test_a_rule_answers_with_ranked_plain_dicts(heuristics):
    answer = heuristics.lookup("matmul_fp4", **SHAPE)
    assert (answer.source, answer.rule_index, answer.family) == ("rule", 1, "matmul_fp4")
    assert answer.shape_bucket["m_bin"] == "<=16"
    assert answer.evidence == {"ratio": 0.73}
    assert len(answer) == 2 and list(answer) == answer.configs
    assert answer[0] is answer.best and answer[-1]["block_sizes"] == [16, 64, 128] and len(answer[:1]) == 1
    assert helion_config(**answer.best) == {
        "block_sizes": [16, 64, 64],
        "l2_groupings": [1],
        "num_stages": 4,
        "num_warps": 4,
        "pid_type": "flat",
    }
    assert all(type(config) is dict for config in answer)
    assert json.loads(json.dumps(answer.configs)) == answer.configs


def test_answers_share_nothing(heuristics):
    heuristics.lookup("matmul_fp4", **SHAPE).best.clear()
    assert heuristics.lookup("matmul_fp4", **SHAPE).best["num_warps"] == 4


def test_a_fallback_answers_where_no_bucket_is_equal(heuristics):
    answer = heuristics.lookup("matmul_fp4", m=17, n=4096, k=4096)
    assert (answer.source, answer.group, answer.rule_index) == ("fallback", "small_m", None)
    assert answer.best["alpha"] == 0.123456789
    assert repr(answer).startswith("Answer(fallback small_m, configs=[{")


def test_nothing_is_an_empty_answer(heuristics):
    answer = heuristics.lookup("row_norm_rms", rows=4, cols=4)
    assert (answer.source, answer.best, answer.evidence, answer.configs) == ("none", None, None, [])
    assert not answer


def test_a_class_of_the_document_alone_is_known_by_its_dtype(heuristics):
    assert heuristics.lookup("conv2d", dtype="f32").rule_index == 2
    assert "conv2d" in heuristics.classes and "conv2d" in repr(heuristics)


def test_a_model_answers_the_exact_shape_and_type():
    heuristics = Heuristics.load(MODEL)
    measured = heuristics.lookup("matmul", **SHAPE)
    assert (measured.source, measured.measured_us, measured.predicted_us) == ("measured", [17.98, 18.3], None)
    assert measured.best["split_k"] == 4 and measured.evidence is None
    for name in ("torch.float16", "torch.half", "half", "float16", "f16"):
        half = heuristics.lookup("matmul", dtype=name, **SHAPE)
        assert (half.source, half.best["split_k"], half.measured_us) == ("rule", 8, None)
    tensors = [Tensor((15, 4104), "torch.bfloat16"), Tensor((4104, 4096), "torch.bfloat16")]
    predicted = heuristics.lookup_tensors(tensors, "matmul")
    assert (predicted.source, predicted.rule_index, len(predicted.predicted_us)) == ("model", None, len(predicted))
    assert predicted.predicted_us == sorted(predicted.predicted_us)
    without = Heuristics.load(MODEL, disabled_models=True)
    assert without.lookup("matmul", **SHAPE).source == "rule"


def test_without_a_dtype_a_family_is_asked_in_one_that_it_comes_in():
    h200 = Heuristics.builtin("h200")
    product = {"m": 16, "n": 4096, "k": 4096}
    for family, dtype in [("matmul_fp8", "fp8"), ("matmul", "bf16")]:
        asked = h200.lookup(family, dtype=dtype, **product)
        assert h200.lookup(family, **product).configs == asked.configs != []
    with pytest.raises(ValueError, match="matmul_fp8 does not run bf16"):
        h200.lookup("matmul_fp8", dtype="bf16", **product)


def test_an_answer_is_explained(heuristics):
    explained = Heuristics.load(MODEL).explain("matmul", **SHAPE)
    assert [one["source"] for one in explained["considered"]] == ["measured", "rule", "model", "fallback"]
    assert explained["why"] == "measured for this very shape and type" and explained["aligned"] is True
    assert explained["considered"][1]["regret"]["geomean"] == 1.01
    plain = heuristics.explain("matmul_fp4", m=17, n=4096, k=4096)
    assert plain["nearest"]["rule_index"] == 1 and "why" not in plain
    with pytest.raises(ValueError, match="needs dimension 'k'"):
        heuristics.explain("matmul", m=1, n=2)


@pytest.mark.parametrize(
    ("family", "dimensions", "message"),
    [
        ("mamtul", SHAPE, "'mamtul' is no family"),
        ("matmul", {"m": 1, "n": 2}, "needs dimension 'k'"),
        ("matmul", SHAPE | {"rows": 3}, "no dimension 'rows'"),
        ("matmul", SHAPE | {"m": 0}, "m = 0"),
        ("matmul_int4", SHAPE | {"k": 3}, "k = 3"),
        ("matmul", SHAPE | {"m": -1}, "m = -1"),
        ("attention", {"batch": 1 << 40, "heads": 1 << 40, "q_seq": 1, "kv_seq": 1, "head_dim": 64}, "more elements"),
        ("conv2d", {"dtype": "f32", "m": 4}, "no dimension 'm'"),
        ("matmul", SHAPE | {"dtype": "b16"}, "'b16' is no data type"),
        ("matmul", SHAPE | {"dtype": "torch.bfloat17"}, "is no data type"),
        ("matmul", SHAPE | {"dtype": ""}, "'' is no data type"),
        ("matmul", SHAPE | {"dtype": "f32"}, "matmul does not run f32"),
        ("matmul_fp4", SHAPE | {"dtype": "torch.int8"}, "matmul_fp4 does not run i8"),
        ("conv2d", {"dtype": "bf16"}, "conv2d does not run bf16: the type of its first tensor is one of f32"),
    ],
)
def test_bad_questions_are_value_errors(heuristics, family, dimensions, message):
    with pytest.raises(ValueError, match=message):
        heuristics.lookup(family, **dimensions)


def test_dimensions_are_integers(heuristics):
    with pytest.raises(TypeError):
        heuristics.lookup("matmul", m=1.5, n=2, k=2)
    with pytest.raises(OverflowError):
        heuristics.lookup("matmul", m=1 << 70, n=2, k=2)


def test_tensors_of_any_library_are_taken(heuristics):
    first, packed = Tensor((16, 4096), "torch.bfloat16"), Tensor([2048, 4096], "torch.int8")
    assert heuristics.lookup_tensors([first, packed], "matmul_fp4").rule_index == 1
    assert heuristics.lookup_tensors((tensor for tensor in (first, 7, packed)), "matmul_fp4").rule_index == 1
    facts = {"traits": ["matmul"], "block_rank": 3}
    classified = heuristics.lookup_tensors([first, packed], kernel_source="decode_e2m1(b)", **facts)
    assert (classified.family, classified.rule_index) == ("matmul_fp4", 1)
    assert heuristics.lookup_tensors([first, first], traits=["softmax"]).family is None
    unknown = heuristics.lookup_tensors([])
    assert (unknown.family, unknown.source, unknown.shape_bucket) == (None, "none", {})
    with pytest.raises(TypeError):
        heuristics.lookup_tensors([Tensor(["m"], "torch.bfloat16")])
    with pytest.raises(TypeError):
        heuristics.lookup_tensors(5)


BF16, INT8 = "torch.bfloat16", "torch.int8"


@pytest.mark.parametrize(
    ("family", "tensors", "message"),
    [
        ("matmul", [((16, 4096), BF16), ((4095, 4096), BF16)], "here .4096, n."),
        ("matmul", [((16, 4096), BF16), ((64, 4096), BF16)], "it would fit transposed"),
        ("matmul", [((16, 4096), BF16), ((4096, 64), INT8)], "B .k, n. is bfloat16"),
        ("matmul", [((16, 4096), BF16)], "tensor 1 of its arguments is missing: B"),
        ("matmul", [((16, 4096), "torch.float32"), ((4096, 64), "torch.float32")], "matmul does not run f32"),
        ("matmul", [((16, 4096), "torch.bfloat17"), ((4096, 64), BF16)], "is no data type"),
        ("matmul", [((-1, 4096), BF16), ((4096, 64), BF16)], "every extent must be positive"),
        ("matmul_fp4", [((16, 4096), BF16), ((4096, 64), INT8)], "it would fit packed"),
        ("matmul_int16", [((16, 4096), BF16), ((4096, 64), BF16)], "is int16"),
        ("attention", [((1, 8, 16, 64), BF16), ((1, 3, 16, 64), BF16), ((1, 3, 16, 64), BF16)], "K .batch"),
        ("row_norm_rms", [((16, 4096), BF16), ((4095,), BF16)], "weights of as many as cols"),
        ("elementwise", [((16, 4096), BF16), ((16, 1), BF16)], "a tensor of the first one's shape"),
        ("mamtul", [((16, 4096), BF16)], "'mamtul' is no family"),
    ],
)
def test_tensors_that_do_not_fit_are_value_errors(heuristics, family, tensors, message):
    with pytest.raises(ValueError, match=message):
        heuristics.lookup_tensors([Tensor(*tensor) for tensor in tensors], family)


def test_a_tensor_says_both_its_shape_and_its_dtype(heuristics):
    class Half:
        shape = (16, 4096)

    with pytest.raises(ValueError, match="argument 0 has a shape and no dtype"):
        heuristics.lookup_tensors([Half()], "row_softmax")


def test_numpy_arrays_are_taken(heuristics):
    numpy = pytest.importorskip("numpy")
    first, packed = numpy.zeros((16, 4096), numpy.float16), numpy.zeros((2048, 4096), numpy.int8)
    assert heuristics.lookup_tensors([first, packed], "matmul_fp4").rule_index == 1
    rows = numpy.zeros((2048, 8192), numpy.float16)
    assert heuristics.lookup_tensors([rows], "row_softmax").shape_bucket["cols_bin"] == "<=8192"
    assert heuristics.lookup("conv2d", dtype=rows.astype("float32").dtype).rule_index == 2
    assert heuristics.lookup("matmul_fp4", m=numpy.int64(16), n=4096, k=4096).rule_index == 1


def test_torch_tensors_are_taken(heuristics):
    torch = pytest.importorskip("torch")
    first = torch.empty((16, 4096), dtype=torch.bfloat16, device="meta")
    packed = torch.empty((2048, 4096), dtype=torch.int8, device="meta")
    assert heuristics.lookup_tensors([first, packed], "matmul_fp4").rule_index == 1
    assert heuristics.lookup("conv2d", dtype=torch.float32).rule_index == 2


def test_options_switch_off_and_cap():
    def configs(**options):
        return Heuristics.load(str(EXAMPLE), **options).lookup("matmul_fp4", **SHAPE).configs

    assert len(configs(max_configs=1)) == 1
    assert configs(max_configs=0) == configs(disabled=True) == configs(disabled_classes=["matmul_fp4"]) == []
    assert len(configs(disabled_classes=["matmul"])) == 2
    with pytest.raises(TypeError):
        configs(disabled_classes="matmul")


def test_documents_are_loaded_from_text(heuristics):
    text = EXAMPLE.read_text()
    for json_text in (text, text.encode()):
        assert Heuristics.loads(json_text).classes == heuristics.classes


def test_what_cannot_be_loaded_says_why(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.json"):
        Heuristics.load("/nowhere.json")
    broken = tmp_path / "broken.json"
    broken.write_text('{"schema_version": 2,\n "rules": [}')
    with pytest.raises(ValueError, match="broken.json: broken JSON.*line 2 column 12"):
        Heuristics.load(broken)
    with pytest.raises(ValueError, match="schema_version is 3"):
        Heuristics.loads('{"schema_version": 3}')
    with pytest.raises(ValueError, match="no built-in heuristics for 'gtx9999'"):
        Heuristics.builtin("gtx9999")


def test_every_built_in_document_loads():
    for gpu in kernel_sweep.builtins():
        assert Heuristics.builtin(gpu).classes
        assert Heuristics.builtin(f"NVIDIA {gpu.upper()}").classes == Heuristics.builtin(gpu).classes


def test_threads_share_heuristics(heuristics):
    found = []

    def ask():
        found.extend(heuristics.lookup("matmul_fp4", **SHAPE).rule_index for _ in range(100))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [1] * 400


def test_the_package_is_typed_and_documented():
    package = resources.files(kernel_sweep)
    assert package.joinpath("py.typed").is_file()
    stubs = package.joinpath("__init__.pyi").read_text()
    for kind in (kernel_sweep.Heuristics, kernel_sweep.Answer):
        assert kind.__module__ == "kernel_sweep"
        members = [name for name in vars(kind) if not name.startswith("_")]
        assert members and [name for name in members if f"def {name}(" not in stubs] == []
    assert Heuristics.lookup.__doc__ and kernel_sweep.__version__ == metadata.version("kernel-sweep")
