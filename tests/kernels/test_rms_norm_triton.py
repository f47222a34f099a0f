"""Held against the reference in float64, with the error that the reference makes in the same dtype as the measure."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsespec.core.errors import BadOption, MissingPackage, UnknownName
from sparsespec.kernels.rms_norm import api, reference
from tests.kernels.launched import DEVICE, WHERE, launched, mutant, room

pytestmark = WHERE

ours = room("rms_norm")

EPS = 1e-2
SLACK = 2.0
"""How much larger than the reference's an error may be: the order of a sum is free, and a rounding may fall badly."""


def problem(
    seed: int, n: int, width: int, dtype: torch.dtype = torch.float32, apart: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Return x, residual and weight; rows are `apart` numbers apart, behind the end of the one before."""
    generator = torch.Generator().manual_seed(seed)
    real = lambda *shape: torch.randn(shape, generator=generator).to(dtype).to(DEVICE)  # noqa: E731
    # cut after the product, which would be as narrow as its factor, and a mutant could read behind its end
    x, residual = real(n, width + apart)[:, :width], (3 * real(n, width + 2 * apart))[:, :width]
    return x, residual, real(width)


def wide(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(x.cpu().double() for x in tensors)


def error(got: Tensor, want: Tensor) -> float:
    """Return the largest error of a number, as a share of the largest number of its row."""
    if not want.numel():
        return 0.0
    return float(((got.cpu().double() - want).abs() / want.abs().amax(-1, keepdim=True)).max())


@cache
def allowed(dtype: torch.dtype) -> float:
    """Return the error allowed in `dtype`: `SLACK` times the reference's own, measured on one fixed problem."""
    x, _, weight = problem(0, 64, 64, dtype)
    x, weight = x.cpu(), weight.cpu()
    measured = error(reference.rms_norm(x, weight, EPS), reference.rms_norm(*wide(x, weight), EPS))
    # a number can always be half a unit in the last place away from its truth
    return SLACK * max(measured, torch.finfo(dtype).eps / 2)


def check(p: tuple[Tensor, Tensor, Tensor], module: Any = None) -> bool:
    """Return whether both forms give what they should; with a module, a mutant's."""
    x, residual, weight = p
    kept = [one.clone() for one in p]
    if module:
        plain, (out, total) = module.rms_norm(x, weight, EPS), module.add_rms_norm(x, residual, weight, EPS)
    else:
        with launched(ours, "_rms_norm", api):
            plain = api.rms_norm(x, weight, EPS, impl="triton")
        with launched(ours, "_rms_norm", api):
            out, total = api.add_rms_norm(x, residual, weight, EPS, impl="triton")
    assert all(torch.equal(one, before) for one, before in zip(p, kept, strict=True))
    for got in (plain, out, total):
        assert got.shape == x.shape and got.dtype == x.dtype and got.is_contiguous()
    # the sum is one rounding of the true one: there is no other
    if not torch.equal(total.cpu(), (residual + x).cpu()) or not (plain.isfinite() & out.isfinite()).all():
        return False
    limit = allowed(x.dtype)
    found = [error(got, reference.rms_norm(*wide(of, weight), EPS)) for got, of in ((plain, x), (out, total))]
    return max(found) <= limit


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@settings(max_examples=30)
@given(
    seed=st.integers(0, 1000),
    n=st.integers(1, 5),
    width=st.sampled_from((1, 2, 33, 64, 576, 1025)),
    apart=st.sampled_from((0, 1, 7, 16)),
)
def test_errs_no_more_than_the_reference(dtype: torch.dtype, seed: int, n: int, width: int, apart: int) -> None:
    assert check(problem(seed, n, width, dtype, apart))


def test_the_sum_is_rounded_before_it_is_normed() -> None:
    x, residual, weight = problem(3, 64, 96, torch.float16)
    got, total = api.add_rms_norm(x, residual, weight, EPS, impl="triton")
    alike = api.rms_norm(total, weight, EPS, impl="triton")
    assert torch.equal(got, alike)
    # a number that rounds the other way is rare; without the rounding every fourth differs
    assert float((got.cpu() != reference.rms_norm(total.cpu(), weight.cpu(), EPS)).float().mean()) < 0.01


@pytest.mark.parametrize("shape", [(8,), (2, 3, 8), (0, 8), (3, 0), (2, 0, 8)], ids=str)
def test_any_number_of_axes(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    x, residual = (torch.randn(shape, generator=generator).to(DEVICE) for _ in range(2))
    weight = torch.randn(shape[-1], generator=generator).to(DEVICE)
    got = api.add_rms_norm(x, residual, weight, EPS, impl="triton")
    assert torch.equal(got.residual, residual + x)
    torch.testing.assert_close(got.out.cpu(), reference.rms_norm((residual + x).cpu(), weight.cpu(), EPS))
    assert torch.equal(api.rms_norm(got.residual, weight, EPS, impl="triton"), got.out)


@pytest.mark.parametrize("width", [33, 576])
def test_a_row_depends_neither_on_its_neighbours_nor_on_their_number(width: int) -> None:
    x, residual, weight = problem(4, 5, width)
    together = api.add_rms_norm(x, residual, weight, EPS, impl="triton")
    others, _, _ = problem(5, 5, width)
    for i in range(5):
        for rows in (slice(i, i + 1), slice(i, None)):
            some = api.add_rms_norm(x[rows], residual[rows], weight, EPS, impl="triton")
            assert torch.equal(some.out[0], together.out[i]) and torch.equal(some.residual[0], together.residual[i])
        mixed = others.clone()
        mixed[i] = x[i]
        among = api.add_rms_norm(mixed, residual, weight, EPS, impl="triton")
        assert torch.equal(among.out[i], together.out[i])


def test_a_row_that_is_not_finite_spoils_no_other() -> None:
    x, residual, weight = problem(4, 3, 33)
    want = api.add_rms_norm(x, residual, weight, EPS, impl="triton")
    x[1] = torch.nan
    got = api.add_rms_norm(x, residual, weight, EPS, impl="triton")
    assert got.out[1].isnan().all()
    assert torch.equal(got.out[::2], want.out[::2])


MUTANTS = {
    "mean over the block": ("0), WIDTH) + eps", "0), BLOCK) + eps"),
    "mean subtracted": ("tl.sum(a * a, 0)", "tl.sum(a * a, 0) - tl.sum(a, 0) * tl.sum(a, 0) / WIDTH"),
    "no epsilon": ("WIDTH) + eps)", "WIDTH))"),
    "no weight": ("a = a * scale * tl.load", "a = a * scale + 0 * tl.load"),
    "no square root": ("tl.sqrt_rn(", "("),
    "residual left out of the sum": ("a += tl.load(residual", "a += 0 * tl.load(residual"),
    "old residual returned": ("rounded = a.to(", "rounded = (a - tl.load(x + row * x_row + i, mask=inside)).to("),
    "rows of x taken for contiguous": ("x + row * x_row", "x + row * WIDTH"),
    "rows of the residual taken for those of x": ("residual + row * residual_row", "residual + row * x_row"),
    "last number left": ("mask=inside)\n\n", "mask=i < WIDTH - 1)\n\n"),
}


@pytest.mark.parametrize("name", [None, *MUTANTS])
def test_mutants_run_and_are_caught(name: str | None, tmp_path: Path) -> None:
    module: ModuleType = mutant(ours, tmp_path, MUTANTS[name]) if name else ours
    caught = []
    for seed in range(3):
        with launched(module, "_rms_norm", api):
            caught.append(not check(problem(seed, 3, 9, apart=2), module))
    assert all(caught) if name else not any(caught)


def test_a_sum_that_is_not_rounded_is_caught(tmp_path: Path) -> None:
    module: Any = mutant(ours, tmp_path, ("a = rounded.to(tl.float32)", "a += 0.0"))
    x, residual, weight = problem(3, 64, 96, torch.float16)
    got, total = module.add_rms_norm(x, residual, weight, EPS)
    assert float((got.cpu() != reference.rms_norm(total.cpu(), weight.cpu(), EPS)).float().mean()) > 0.05


BAD: dict[str, tuple[int, Any, str]] = {
    "type of x": (0, lambda x: x.double(), "weight must be torch.float64"),
    "type of residual": (1, lambda x: x.half(), "residual must be torch.float32 on .* as x is, got torch.float16"),
    "device of residual": (1, lambda x: x.to("meta"), "residual must be torch.float32 on"),
    "shape of residual": (1, lambda x: x[:1], r"residual must be \[3, 8\] as x is, got \[1, 8\]"),
    "shape of weight": (2, lambda x: x[:4], r"weight of shape \[8\], got \[4\]"),
    "type of weight": (2, lambda x: x.half(), "weight must be torch.float32"),
    "device of weight": (2, lambda x: x.to("meta"), "weight must be torch.float32 on"),
    "columns of x": (0, lambda x: x.t().contiguous().t(), r"x must be contiguous, or \[N, W\] with contiguous rows"),
    "columns of residual": (1, lambda x: x.t().contiguous().t(), "residual must be contiguous, or"),
    "strides of weight": (2, lambda x: x.repeat_interleave(2)[::2], "weight must be contiguous"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name: str) -> None:
    i, change, message = BAD[name]
    given: Any = list(problem(0, 3, 8))
    given[i] = change(given[i])
    with pytest.raises(BadOption, match=message):
        api.add_rms_norm(*given, EPS, impl="triton")


def test_rows_of_three_axes_apart_are_named() -> None:
    x = torch.ones(2, 3, 9, device=DEVICE)[..., :8]
    with pytest.raises(BadOption, match="x must be contiguous, or"):
        api.rms_norm(x, torch.ones(8, device=DEVICE), EPS, impl="triton")


def test_what_the_kernel_does_not_take_is_named() -> None:
    x = torch.ones(1, ours.WIDEST + 1, device=DEVICE)
    with pytest.raises(BadOption, match="takes rows of 65536 numbers or fewer, got 65537"):
        api.rms_norm(x, x[0], EPS, impl="triton")
    with pytest.raises(BadOption, match="takes x of float32"):
        api.rms_norm(x.double(), x[0].double(), EPS, impl="triton")


def test_unknown_and_missing_implementations_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    x, residual, weight = problem(0, 1, 2)
    with pytest.raises(UnknownName, match="did you mean 'triton'"):
        api.add_rms_norm(x, residual, weight, EPS, impl="tritom")
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "sparsespec.kernels.rms_norm.triton")
    monkeypatch.delattr("sparsespec.kernels.rms_norm.triton")
    with pytest.raises(MissingPackage, match=r"pip install 'sparsespec\[triton\]'"):
        api.rms_norm(x, weight, EPS, impl="triton")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("width", [576, 577, 4096, 5120, 16384])
def test_real_sizes(width: int, dtype: torch.dtype) -> None:
    for n, apart in ((1, 0), (64, 0), (300, 0), (64, 3)):
        assert check(problem(7, n, width, dtype, apart))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [576, 577, 4096])
def test_real_rows_do_not_depend_on_their_number_or_place(width: int, dtype: torch.dtype) -> None:
    x, residual, weight = problem(4, 600, width, dtype)
    together = api.add_rms_norm(x, residual, weight, EPS, impl="triton")
    for i in (0, 3, 599):
        # views that begin at odd addresses among them
        for rows in (slice(i, i + 1), slice(i, i + 64)):
            some = api.add_rms_norm(x[rows], residual[rows], weight, EPS, impl="triton")
            assert torch.equal(some.out, together.out[rows])
    apart = torch.cat((x, x[:, :3]), 1)[:, :width]
    assert torch.equal(api.add_rms_norm(apart, residual, weight, EPS, impl="triton").out, together.out)
    assert torch.equal(api.rms_norm(together.residual, weight, EPS, impl="triton"), together.out)


@pytest.mark.gpu
def test_a_captured_launch_follows_its_inputs() -> None:
    x, residual, weight = problem(0, 64, 4096, torch.bfloat16)
    api.add_rms_norm(x, residual, weight, EPS, impl="triton")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = api.add_rms_norm(x, residual, weight, EPS, impl="triton")
    for seed in (1, 2):
        for held, fresh in zip((x, residual, weight), problem(seed, 64, 4096, torch.bfloat16), strict=True):
            held.copy_(fresh)
        graph.replay()
        again = api.add_rms_norm(x, residual, weight, EPS, impl="triton")
        assert torch.equal(got.out, again.out) and torch.equal(got.residual, again.residual)
