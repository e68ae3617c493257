"""That the layer's ways compute one thing, on the host, with our operators as torch would compute them."""

import pytest

torch = pytest.importorskip("torch")

from llama_layer import Ours, Sizes, Torch, Weights, check, deviation, in_f32, layer, pack, problem, unpack  # noqa: E402

SMALL = Sizes(hidden=128, heads=8, kv_heads=2, head=16, inner=192)
F = torch.nn.functional


class AsTorchWould:
    """Our operators by their contracts."""

    def __init__(self):
        self.calls = []

    def matmul_int4_group(self, a, b, scales):
        self.calls.append("matmul_int4_group")
        values = unpack(b)
        groups = [values[first : first + 128] * row.float() for first, row in zip(range(0, len(values), 128), scales)]
        assert len(scales) == -(-len(values) // 128) and a.is_contiguous() and scales.dtype == a.dtype
        return (a.float() @ torch.cat(groups).to(a.dtype).float()).to(a.dtype)

    def attention(self, q, k, v, causal):
        self.calls.append(f"attention {causal}")
        assert q.shape[1] == 4 * k.shape[1], "queries share keys"
        assert all(tensor.is_contiguous() for tensor in (q, k, v))
        k, v = (tensor.repeat_interleave(4, dim=1) for tensor in (k, v))
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)

    def row_norm_rms(self, x, weight):
        self.calls.append("row_norm_rms")
        assert x.is_contiguous() and x.dtype == weight.dtype
        wide = x.float()
        return (wide * (wide.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * weight.float()).to(x.dtype)

    def add(self, x, y):
        self.calls.append("add")
        return x + y


def test_the_low_nibble_is_the_even_row():
    values = torch.tensor([[1, -8], [-1, 7], [3, 0], [0, -3]], dtype=torch.int32)
    assert pack(values).view(torch.uint8).tolist() == [[0xF1, 0x78], [0x03, 0xD0]]
    assert torch.equal(unpack(pack(values)), values.float())


def test_a_weight_is_its_value_times_its_groups_scale():
    weights = Weights(SMALL, "cpu")
    plain, values, scales = weights.plain("down", torch.float32), unpack(weights.packed["down"]), weights.scales["down"]
    assert plain.shape == (192, 128) and scales.shape == (2, 128) and scales.dtype == torch.bfloat16
    for row, column in [(0, 0), (127, 5), (128, 5), (191, 127)]:
        assert plain[row, column] == values[row, column] * scales[row // 128, column].float()


@pytest.mark.parametrize(("batch", "length", "before"), [(3, 1, 40), (1, 33, 0)])
def test_ours_and_torchs_compute_the_same_layer(batch, length, before):
    weights = Weights(SMALL, "cpu")
    x, cache = problem(SMALL, batch, length, before, "cpu")
    exact = in_f32(weights, SMALL, x, cache, before == 0)
    stand_in = AsTorchWould()
    errors = {}
    for which, parts in [("ours", Ours(weights, stand_in)), ("torch", Torch(weights))]:
        errors[which] = deviation(layer(parts, SMALL, weights.norms, x, cache, before == 0), exact)
        assert errors[which]["finite"] and errors[which]["relative"] < 0.02, errors
        check("small", which, errors)
    counts = {name: stand_in.calls.count(name) for name in stand_in.calls}
    assert counts == {"matmul_int4_group": 7, f"attention {before == 0}": 1, "row_norm_rms": 2, "add": 2}
    other = Torch(Weights(SMALL, "cpu", seed=5))
    errors["other weights"] = deviation(layer(other, SMALL, weights.norms, x, cache, before == 0), exact)
    with pytest.raises(SystemExit, match="other weights is off by"):
        check("small", "other weights", errors)


def test_ours_is_refused_where_it_is_much_further_off_than_torchs():
    near, far = ({"relative": relative, "worst_element": 0.1, "finite": True} for relative in (0.004, 0.02))
    check("small", "ours", {"ours": far})
    with pytest.raises(SystemExit, match="torch's is by"):
        check("small", "torch", {"ours": far, "torch": near})
