"""`silu_mul` against its formula in float64."""

from __future__ import annotations

import pytest
import torch

from sparsespec.core.errors import BadOption, UnknownName
from sparsespec.kernels.silu_mul.api import silu_mul


@pytest.mark.parametrize("n", [0, 1, 7])
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_gate_comes_first(n: int, dtype: str) -> None:
    kind = getattr(torch, dtype)
    x = (3 * torch.randn(n, 10, generator=torch.Generator().manual_seed(0))).to(kind)
    gate, up = x[:, :5].double(), x[:, 5:].double()
    out = silu_mul(x)
    assert (out.shape, out.dtype) == ((n, 5), kind)
    expected = gate / (1 + torch.exp(-gate)) * up
    torch.testing.assert_close(out.double(), expected, atol=1e-6, rtol=max(1e-6, 2 * torch.finfo(kind).eps))


def test_bad_calls() -> None:
    with pytest.raises(UnknownName, match="have: reference"):
        silu_mul(torch.ones(2, 4), impl="fast")
    with pytest.raises(BadOption, match="even last axis, gate then up, got 5"):
        silu_mul(torch.ones(2, 5))
