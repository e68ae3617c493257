"""Families of Helion on an H200 that is not there: what a GPU is not needed for, with the real Helion and Triton."""

import collections
import sys
import types
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch, to bind kernels of Helion")
triton = pytest.importorskip("triton", reason="Triton is not installed: pip install triton, to compile kernels of Helion")
pytest.importorskip("helion", reason="Helion is not installed: pip install helion, to draw configs from its specs")

FILE = Path(__file__).parent / "families" / "helion_kernels.py"
H200 = types.SimpleNamespace(
    name="NVIDIA H200",
    major=9,
    minor=0,
    multi_processor_count=132,
    total_memory=150 << 30,
    shared_memory_per_block_optin=232448,
    max_threads_per_multi_processor=2048,
    regs_per_multiprocessor=65536,
    warp_size=32,
)


class Driver:
    """Triton's, of a GPU that compiles and launches nothing."""

    utils = types.SimpleNamespace(get_device_properties=lambda _: {"multiprocessor_count": 132, "max_shared_mem": 232448})

    def get_current_target(self):
        return triton.backends.compiler.GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, _device=0):
        return 0

    def get_active_torch_device(self):
        return torch.device("cuda", 0)

    def get_device_interface(self):
        return torch.cuda


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    """The families of the file."""
    patch = pytest.MonkeyPatch()
    for name, value in {
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "get_device_properties": H200,
        "get_device_capability": (9, 0),
        "get_device_name": H200.name,
    }.items():
        patch.setattr(torch.cuda, name, lambda *_, value=value, **__: value)
    from torch._dynamo.device_interface import CudaInterface

    # Torch's compiler has these by other names, since it was imported.
    for interface in (CudaInterface, CudaInterface.Worker):
        patch.setattr(interface, "get_device_properties", staticmethod(lambda *_: H200))
    patch.setattr(torch._subclasses.fake_tensor, "init_gpu_context", lambda *_: None)
    patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
    patch.setattr(triton.runtime.driver, "_active", Driver())
    from kernel_sweep import tuning

    yield {name: tuning.load(FILE, name) for name in ("of_helion", "by_examples")}
    patch.undo()


@pytest.fixture
def described(families):
    """A family by its name, with the manifest that it writes of itself."""

    def of(name):
        tomllib = sys.modules.get("tomllib") or pytest.importorskip("tomllib", reason="Python 3.11 reads TOML")
        return families[name], tomllib.loads(families[name].manifest())

    return of


def test_the_space_has_helions_default_and_tiles_that_suit_each_problem(described):
    family, manifest = described("of_helion")
    configs = manifest["space"]["gpu"]["configs"]
    assert manifest["space"]["gpu"]["default"] == configs[0] and 1000 < len(configs) < 10_000
    assert len({repr(sorted(config.items())) for config in configs}) == len(configs)
    tiles = collections.Counter(tuple(config["block_sizes"]) for config in configs)
    assert (16, 32, 128) in tiles and (128, 128, 64) in tiles and max(tiles.values()) < len(configs) / 10
    # Each other knob by itself, a list of it with one entry for each use of a tensor.
    changed = [config for config in configs if config.keys() - {"block_sizes", "num_warps", "num_stages"}]
    assert any(config.get("indexing") == ["tensor_descriptor"] * 3 for config in changed)
    assert any(config.get("load_eviction_policies") == ["first", "first"] for config in changed)
    assert any("" in config.get("load_eviction_policies", []) for config in changed), "a policy that is none"
    # A product's sums, two bytes of each operand a step, and no more than a program has registers and shared memory for.
    for config in configs:
        (m, n, k), warps = config["block_sizes"], config["num_warps"]
        assert m * n <= 192 * 32 * warps and config["num_stages"] * (m + n) * k * 2 <= 200 << 10, config
    # All that Helion calls legal.
    for problem in manifest["problem"]:
        from kernel_sweep import helion_config
        from kernel_sweep.tuning import Problem

        spec = family._bind(Problem(problem, "bf16"))[0].config_spec
        spec.normalize(helion_config(configs[0]))


def test_the_manifest_says_how_blocks_cut_problems(described):
    _, manifest = described("of_helion")
    assert manifest["model"]["tiles"] == {"m": "1 * block_sizes[0]", "n": "1 * block_sizes[1]"}
    assert manifest["model"]["steps"] == {"k": "1 * block_sizes[2]"}


def test_examples_tell_shapes_results_and_what_is_no_tensor(described):
    family, manifest = described("by_examples")
    assert manifest["family"]["dims"] == ["d0", "d1"] and manifest["family"]["dtypes"] == ["f32"]
    assert manifest["problem"] == [{"d0": 100, "d1": 640}, {"d0": 3000, "d1": 640}]
    out = manifest["tensor"][1]
    assert out["role"] == "out" and out["shape"] == ["d0", "d1"] and out["dtype"] == "f32"


@pytest.mark.parametrize("name", ["of_helion", "by_examples"])
def test_configs_compile_ahead_with_no_memory_for_tensors(described, name, monkeypatch):
    from kernel_sweep.tuning import Problem

    family, manifest = described(name)
    configs = manifest["space"]["gpu"]["configs"]
    problem = manifest["problem"][-1]
    for config in configs[:: max(1, len(configs) // 3)][:3]:
        # TOML has no null: "whole" stands for it.
        config = {knob: [None if item == "whole" else item for item in value] if isinstance(value, list) else value
                  for knob, value in config.items()}  # fmt: skip
        made = family._compile(config, Problem(problem, manifest["family"]["dtypes"][0]), "sm_90a")
        # What is made of it is called without asking Helion again.
        asked = []
        family._bind = asked.append
        assert callable(family._loaded(made.decode())) and b"triton.jit" in made
        monkeypatch.setattr("kernel_sweep._helion._compiled_only", lambda *_, **__: None)
        assert callable(family._build({}, Problem(problem, manifest["family"]["dtypes"][0]), made)) and not asked
        del family._bind
        monkeypatch.undo()
    with pytest.raises(Exception, match="block_sizes"):
        family._compile({"block_sizes": [7], "num_warps": 4}, Problem(problem, manifest["family"]["dtypes"][0]), "sm_90a")
