"""Exports, by those who read them: Helion and vLLM where they are installed, and Python itself."""

import importlib.util
import json
import subprocess
import sys
import types
from pathlib import Path

import pytest

FAMILIES = Path(__file__).parent / "families"
ROWS = [(64, 1024, "few"), (4096, 1024, "many"), (4096, 8192, "many")]
CONFIGS = {
    "few": {
        "block_sizes": [1],
        "indexing": ["pointer", "tensor_descriptor"],
        "num_stages": 2,
        "num_warps": 4,
        "reduction_loops": [None],
    },
    "many": {
        "block_sizes": [4],
        "maxnreg": 64,
        "num_warps": 8,
        "pid_type": "xyz",
        "range_flattens": [None, True],
        "reduction_loops": [2048],
    },
}


class Tensor:
    """What a key looks at of a tensor."""

    def __init__(self, *shape, dtype="torch.bfloat16"):
        self.shape, self.dtype = shape, dtype

    def numel(self):
        product = 1
        for extent in self.shape:
            product *= extent
        return product


# A kernel of that name, and configs that it takes.
KERNELS = """
import helion
import helion.language as hl
import torch


@helion.experimental.aot_kernel()
def softmax(x: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(x)
    for tile in hl.tile(x.size(0)):
        out[tile, :] = torch.softmax(x[tile, :], dim=1)
    return out
"""
RUNNABLE = {
    "few": {"block_sizes": [1], "num_warps": 2, "reduction_loops": [None]},
    "many": {"block_sizes": [4], "num_warps": 8, "reduction_loops": [256]},
}


@pytest.fixture
def export(tmp_path, request):
    # As a sweep on a GPU would leave it: the manifest that a family of Helion writes of itself, and a document.
    (tmp_path / "softmax.toml").write_text((FAMILIES / "of_helion.toml").read_text())
    configs = getattr(request, "param", CONFIGS)
    described = {
        "dims": ["rows", "cols"],
        "dtypes": ["bf16"],
        "groups": [{"name": "few", "when": "rows <= 64"}, {"name": "many"}],
    }
    document = {
        "schema_version": 2,
        "policy": {"families": {"of_helion": described}},
        "rules": [],
        "fallbacks": {"of_helion": {name: {"template": config} for name, config in configs.items()}},
    }
    (tmp_path / "document.json").write_text(json.dumps(document))

    def run(target, family="softmax.toml", *more):
        document = () if family == "matmul" else ("--heuristics", "document.json")
        command = [
            sys.executable,
            "-m",
            "kernel_sweep",
            "export",
            "--gpu",
            "h200",
            "--family",
            family,
            "--to",
            target,
            "-o",
            "out",
            *document,
            *more,
        ]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    return run


def loaded(path):
    spec = importlib.util.spec_from_file_location("heuristic", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_helions_heuristics_answer_every_problem_and_the_nearest_for_others(export, tmp_path):
    done = export("helion-aot")
    assert done.returncode == 0, done.stderr
    path = tmp_path / "out" / "_helion_aot_softmax_kernels_cuda_sm90.py"
    module = loaded(path)
    for rows, cols, group in ROWS:
        x = Tensor(rows, cols)
        assert module.autotune_softmax(x) == CONFIGS[group]
        assert module.autotune_softmax(Tensor(2, rows // 2, cols)) == CONFIGS[group], "rows may be flattened"
    assert module.key_softmax(Tensor(63, 1000)) == module.key_softmax(Tensor(64, 1024))
    assert (
        module.key_softmax(Tensor(5000, 9000)) == module.key_softmax(Tensor(4096, 8192)) != module.key_softmax(Tensor(64, 1024))
    )
    assert module.autotune_softmax(Tensor(64, 1024, dtype="torch.float32")) == CONFIGS["few"], "there is no other type"


def test_helion_itself_finds_and_reads_its_heuristics(export, tmp_path, monkeypatch):
    pytest.importorskip("helion", reason="Helion is not installed: pip install helion, to read exports by their reader")
    assert export("helion-aot").returncode == 0
    import helion
    from helion.autotuner import aot_cache

    hardware = types.SimpleNamespace(device_kind="cuda", get_compatible_compute_ids=lambda: ["sm90", "sm80"])
    monkeypatch.setattr(aot_cache, "get_hardware_info", lambda: hardware)
    monkeypatch.setenv("HELION_HEURISTIC_DIR", str(tmp_path / "out"))
    aot_cache.clear_heuristic_cache()
    found = aot_cache.find_heuristic_file("/somewhere/softmax_kernels.py", "softmax")
    assert found is not None and found.name == "_helion_aot_softmax_kernels_cuda_sm90.py"
    kernel = types.SimpleNamespace(name="softmax", __code__=types.SimpleNamespace(co_filename="/somewhere/softmax_kernels.py"))
    cache = aot_cache.AOTAutotuneCache.__new__(aot_cache.AOTAutotuneCache)
    cache.kernel = types.SimpleNamespace(kernel=kernel)
    cache.args = (Tensor(4096, 8192),)
    monkeypatch.setattr(cache, "_find_heuristic_file", lambda: found, raising=False)
    monkeypatch.setattr(cache, "_extract_shape_features", lambda args: {"shape": list(args[0].shape)}, raising=False)
    read = cache._get_heuristic_config()
    assert read == helion.Config(**CONFIGS["many"])
    # Its ahead-of-time compiler takes the list of configs out of the function's text.
    configs = aot_cache.AOTAutotuneCache._parse_configs_from_autotune(loaded_as(found), "softmax")
    assert configs == [CONFIGS["few"], CONFIGS["many"]]


def loaded_as(path):
    module = loaded(path)
    sys.modules["heuristic"] = module
    return module


@pytest.mark.parametrize("export", [RUNNABLE], indirect=True)
def test_a_kernel_of_helion_runs_with_what_was_exported(export, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch", reason="torch is not installed, to run a kernel of Helion with")
    pytest.importorskip("helion", reason="Helion is not installed: pip install helion, to read exports by their reader")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU here, to run a kernel of Helion on")
    from helion.autotuner.aot_cache import AOTAutotuneCache

    done = export("helion-aot")
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv("HELION_HEURISTIC_DIR", str(tmp_path / "out"))
    AOTAutotuneCache.clear_caches()
    path = tmp_path / "softmax_kernels.py"
    path.write_text(KERNELS)
    softmax = loaded(path).softmax
    for rows, cols, group in [*ROWS, (50, 900, "few"), (5000, 2000, "many")]:
        x = torch.randn(rows, cols, dtype=torch.bfloat16, device="cuda")
        torch.testing.assert_close(softmax(x), torch.softmax(x, dim=1))
        ran = softmax.bind((x,))._config
        assert {name: ran.config[name] for name in RUNNABLE[group]} == RUNNABLE[group], f"{rows}x{cols} ran with {ran}"


def test_seeds_are_what_helions_settings_take(export, tmp_path):
    assert export("helion-seeds").returncode == 0
    seeds = json.loads((tmp_path / "out" / "softmax.json").read_text())
    assert seeds == [CONFIGS["few"], CONFIGS["many"]]
    helion = pytest.importorskip("helion", reason="Helion is not installed: pip install helion, to read exports by their reader")
    from helion.autotuner.base_search import normalize_autotune_seed_configs

    read = normalize_autotune_seed_configs(types.SimpleNamespace(autotune_seed_configs=seeds))
    assert read == tuple(helion.Config(**config) for config in CONFIGS.values())


def test_seeds_of_kernels_of_ours_leave_out_what_helion_refuses_and_say_so(export, tmp_path):
    done = export("helion-seeds", "matmul", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)["kernels"]["matmul"]
    assert report["left_out"]["mma"] > 0 and sum(report["refused"].values()) > 0
    seeds = json.loads((tmp_path / "out" / "matmul.json").read_text())
    assert len(seeds) == report["configs"] == len({json.dumps(seed) for seed in seeds})
    for seed in seeds:
        assert "mma" not in seed and "split_k" not in seed
        assert all(size & (size - 1) == 0 for size in seed["block_sizes"])


def test_what_is_run_as_it_stands_is_not_exported_of_other_kernels(export):
    for target in ("helion-aot", "vllm-helion"):
        done = export(target, "matmul")
        assert done.returncode == 2 and "--to helion-seeds" in done.stderr, done.stderr


def test_vllms_configs_have_a_default_and_every_problem(export, tmp_path):
    assert export("vllm-helion").returncode == 0
    path = tmp_path / "out" / "softmax" / "nvidia_h200.json"
    entries = json.loads(path.read_text())
    assert entries[0] == {"key": {}, "config": CONFIGS["many"]}, "served for two problems of three"
    assert entries[1:] == [{"key": {"rows": rows, "cols": cols}, "config": CONFIGS[group]} for rows, cols, group in ROWS]
    pytest.importorskip("vllm", reason="vLLM is not installed, so that its own reader is not asked")
    from vllm.kernels.helion.case_key import CaseKey
    from vllm.kernels.helion.config_manager import ConfigManager

    ConfigManager.reset_instance()
    read = ConfigManager(base_dir=tmp_path / "out").get_platform_configs("softmax", "nvidia_h200")
    assert dict(read[CaseKey({"rows": 64, "cols": 1024})]) == CONFIGS["few"]
    assert dict(read[CaseKey.default()]) == CONFIGS["many"]
