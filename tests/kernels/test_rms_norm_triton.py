"""What the Triton `rms_norm` promises beside an error no larger than the reference's: rounding and independence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsespec.kernels.rms_norm import api, reference
from sparsespec.testing.op_cases import kernel_ops
from sparsespec.testing.ops.rows import EPS
from tests.kernels.launched import DEVICE, WHERE, mutant, room

pytestmark = WHERE

ours = room("rms_norm")


def problem(seed: int, n: int, width: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    args = kernel_ops()["add_rms_norm"].make(seed, lead=(n,), width=width, dtype=dtype, device=DEVICE)
    return args["x"], args["residual"], args["weight"]


def share_that_differs(module: Any) -> float:
    """Return the share of numbers that are not the norm of the rounded sum."""
    x, residual, weight = problem(3, 64, 96, torch.float16)
    got, total = module.add_rms_norm(x, residual, weight, EPS)
    return float((got.cpu() != reference.rms_norm(total.cpu(), weight.cpu(), EPS)).float().mean())


def test_the_sum_is_rounded_before_it_is_normed(tmp_path: Path) -> None:
    # a number that rounds the other way is rare; without the rounding every fourth differs
    assert share_that_differs(ours) < 0.01
    assert share_that_differs(mutant(ours, tmp_path, ("a = rounded.to(tl.float32)", "a += 0.0"))) > 0.05
    x, residual, weight = problem(3, 64, 96, torch.float16)
    got, total = api.add_rms_norm(x, residual, weight, EPS, impl="triton")
    assert torch.equal(got, api.rms_norm(total, weight, EPS, impl="triton"))


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
