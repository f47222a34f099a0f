"""`linear`: both implementations give the product, for any number of rows and threads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from sparsespec.core.errors import BadOption, UnknownName
from sparsespec.kernels.linear.api import linear


@pytest.fixture(params=[1, 2], ids=["1-thread", "2-threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("n", [0, 1, 2, 4, 5, 33, 600])
@pytest.mark.parametrize("shape", [(24, 16), (16, 24), (1, 8)], ids=str)
@pytest.mark.parametrize("has_bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("impl", ["reference", "cpu"])
def test_linear_is_the_product(n: int, shape: tuple[int, int], has_bias: bool, impl: str) -> None:
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n, shape[1], generator=generator)
    weight = torch.randn(shape, generator=generator)
    bias = torch.randn(shape[0], generator=generator) if has_bias else None
    before = [t.clone() for t in (x, weight)]
    expected = x.double() @ weight.double().t() + (0 if bias is None else bias)
    out = linear(x, weight, bias, impl=impl)
    assert out.is_contiguous()
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(x, before[0])
    assert torch.equal(weight, before[1])


def test_bad_calls() -> None:
    with pytest.raises(UnknownName, match="did you mean 'cpu'"):
        linear(torch.ones(1, 2), torch.ones(3, 2), impl="gpu")
    with pytest.raises(BadOption, match=r"x of width 2 for weight \[3, 2\], got 4"):
        linear(torch.ones(1, 4), torch.ones(3, 2))
