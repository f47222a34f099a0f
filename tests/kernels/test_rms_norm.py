"""`rms_norm` against its formula in float64."""

from __future__ import annotations

import pytest
import torch

from sparsespec.core.errors import BadOption, UnknownName
from sparsespec.kernels.rms_norm.api import add_rms_norm, rms_norm


@pytest.mark.parametrize("shape", [(1, 8), (5, 33), (3, 4, 16), (0, 8)], ids=str)
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_rms_norm_is_the_formula(shape: tuple[int, ...], dtype: str) -> None:
    kind = getattr(torch, dtype)
    generator = torch.Generator().manual_seed(0)
    x = (3 * torch.randn(shape, generator=generator)).to(kind)
    weight = torch.randn(shape[-1], generator=generator).to(kind)
    wide = x.double()
    scale = (wide.square().mean(-1, keepdim=True) + 1e-2).rsqrt()
    out = rms_norm(x, weight, 1e-2)
    assert out.dtype == kind
    # one rounding at the end: half a unit in the last place, and a little for the sum
    bound = 0.51 if kind in (torch.bfloat16, torch.float16) else 8
    torch.testing.assert_close(
        out.double(), wide * scale * weight.double(), atol=1e-12, rtol=bound * torch.finfo(kind).eps
    )


@pytest.mark.parametrize("shape", [(1, 8), (5, 33), (3, 4, 16), (0, 8)], ids=str)
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_add_rms_norm_rounds_the_sum_and_then_norms_it(shape: tuple[int, ...], dtype: str) -> None:
    kind = getattr(torch, dtype)
    generator = torch.Generator().manual_seed(1)
    x, residual = (torch.randn(shape, generator=generator).to(kind) for _ in range(2))
    weight = torch.randn(shape[-1], generator=generator).to(kind)
    kept = x.clone(), residual.clone()
    got = add_rms_norm(x, residual, weight, 1e-2)
    assert torch.equal(got.residual, (x.double() + residual.double()).to(kind))
    assert torch.equal(got.out, rms_norm(got.residual, weight, 1e-2))
    assert torch.equal(x, kept[0]) and torch.equal(residual, kept[1])


def test_bad_calls() -> None:
    with pytest.raises(UnknownName, match="have: reference"):
        rms_norm(torch.ones(2, 4), torch.ones(4), 1e-6, impl="fast")
    with pytest.raises(BadOption, match=r"weight of shape \[4\], got \[3\]"):
        rms_norm(torch.ones(2, 4), torch.ones(3), 1e-6)
    with pytest.raises(BadOption, match=r"residual must be \[2, 4\] as x is, got \[4\]"):
        add_rms_norm(torch.ones(2, 4), torch.ones(4), torch.ones(4), 1e-6)
    with pytest.raises(BadOption, match="residual must be torch.float32 on cpu as x is, got torch.float64"):
        add_rms_norm(torch.ones(2, 4), torch.ones(2, 4).double(), torch.ones(4), 1e-6)
    with pytest.raises(BadOption, match="weight must be torch.float32 on cpu as x is, got torch.float16"):
        rms_norm(torch.ones(2, 4), torch.ones(4).half(), 1e-6)
