"""What `forward` makes of the ops: the plain loop's bits, and one implementation throughout."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sparsespec.kernels.linear.api import linear
from sparsespec.models import transformer
from sparsespec.models.config import FAMILIES
from sparsespec.models.tiny import tiny
from sparsespec.models.transformer import Transformer

TOKENS = torch.arange(7) * 5


def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Stand for attention: something of q, k and v."""
    group = q.shape[1] // k.shape[1]
    return q.tanh() * (layer + 1) + (k * v).repeat_interleave(group, dim=1)


def plain(model: Transformer, tokens: Tensor) -> Tensor:
    """Return what `forward` does, written with torch's own functions."""
    config, p, impl = model.config, model.parameters, model.linear_impl
    norm = lambda x, weight: F.rms_norm(x, weight.shape, weight, config.rms_eps)  # noqa: E731
    x = F.embedding(tokens, p.embed)
    for index, layer in enumerate(p.layers):
        qkv = linear(norm(x, layer.attn_norm), layer.qkv, layer.qkv_bias, impl=impl).unflatten(1, (-1, config.head_dim))
        heads = (config.n_heads, config.n_kv_heads, config.n_kv_heads)
        out = attend(index, *qkv.split(heads, dim=1)).flatten(1)
        x = x + linear(out, layer.o, layer.o_bias, impl=impl)
        gate, up = linear(norm(x, layer.mlp_norm), layer.gate_up, layer.gate_up_bias, impl=impl).chunk(2, -1)
        x = x + linear(F.silu(gate) * up, layer.down, layer.down_bias, impl=impl)
    return norm(x, p.norm)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_forward_gives_the_bits_of_the_plain_loop(family: str, dtype: str) -> None:
    model = tiny(family, n_layers=3, dtype=dtype)
    assert model.row_impl == "reference"
    assert torch.equal(model.forward(TOKENS, attend), plain(model, TOKENS))


def test_norms_and_gates_use_the_implementation_that_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    used = []

    def spy(op: Any) -> Any:
        def run(*args: Any, impl: str) -> Any:
            used.append((op.__name__, impl))
            return op(*args, impl="reference")

        return run

    for name in ("rms_norm", "add_rms_norm", "silu_mul"):
        monkeypatch.setattr(transformer, name, spy(getattr(transformer, name)))
    model = tiny(n_layers=2)
    model.row_impl = "another"
    model.forward(TOKENS, attend)
    layer = ["add_rms_norm", "silu_mul", "add_rms_norm"]
    assert used == [(name, "another") for name in ("rms_norm", *layer, *layer)]
