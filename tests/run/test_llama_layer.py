"""That the layer's three ways compute one thing, on the host, with our operators as torch would compute them."""

import pytest

torch = pytest.importorskip("torch")

from llama_layer import Ours, Sizes, Torch, Weights, deviation, layer, pack, problem  # noqa: E402

SMALL = Sizes(hidden=128, heads=8, kv_heads=2, head=16, inner=192)


class AsTorchWould:
    """Our operators by their contracts."""

    calls = []

    def matmul_int4(self, a, b):
        self.calls.append("matmul_int4")
        codes = b.view(torch.uint8).to(torch.int32)
        values = torch.stack([codes & 15, codes >> 4], dim=1).reshape(-1, b.shape[1])
        values = torch.where(values > 7, values - 16, values)
        return (a.float() @ values.float()).to(torch.bfloat16)

    def attention(self, q, k, v):
        self.calls.append("attention")
        assert q.shape[:2] == k.shape[:2], "as many heads of queries as of keys"
        return torch.nn.functional.scaled_dot_product_attention(q, k, v)

    def add(self, x, y):
        self.calls.append("add")
        return x + y


def test_the_low_nibble_is_the_even_row():
    values = torch.tensor([[1, -8], [-1, 7], [3, 0], [0, -3]], dtype=torch.int32)
    assert pack(values).view(torch.uint8).tolist() == [[0xF1, 0x78], [0x03, 0xD0]]


@pytest.mark.parametrize(("batch", "length", "before"), [(3, 1, 40), (1, 33, 0)])
def test_ours_and_torchs_compute_the_same_layer(batch, length, before):
    weights = Weights(SMALL, "cpu")
    x, context = problem(SMALL, batch, length, before, "cpu")
    in_f32 = [tensor.float() for tensor in context] if context else None
    exact = layer(Torch(weights, torch.float32), SMALL, weights.norms, x.float(), in_f32, before == 0)
    stand_in = AsTorchWould()
    for parts in (Torch(weights), Ours(weights, stand_in)):
        error = deviation(layer(parts, SMALL, weights.norms, x, context, before == 0), exact)
        assert error["finite"] and error["relative"] < 0.02, error
    assert stand_in.calls.count("matmul_int4") >= 7
    other = deviation(layer(Torch(Weights(SMALL, "cpu", seed=5)), SMALL, weights.norms, x, context, before == 0), exact)
    assert other["relative"] > 0.1, "other weights make another layer"
