"""What the Triton `silu_mul` promises beside its error bound: rounding, limits, independence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sparsespec.kernels.silu_mul import api, reference
from sparsespec.testing.op_cases import kernel_ops
from tests.kernels.launched import DEVICE, WHERE, mutant, room

pytestmark = WHERE

ours = room("silu_mul")


def gate_up(seed: int, n: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return kernel_ops()["silu_mul"].make(seed, lead=(n,), width=width, dtype=dtype, device=DEVICE)["gate_up"]


def share_that_differs(module: Any) -> float:
    """Return the share of numbers that are rounded otherwise than the reference's."""
    x = gate_up(3, 64, 96, torch.float16)
    return float((module.silu_mul(x).cpu() != reference.silu_mul(x.cpu())).float().mean())


def test_silu_is_rounded_before_the_product(tmp_path: Path) -> None:
    # a number that rounds the other way is rare; without the rounding every fifth differs
    assert share_that_differs(ours) < 0.01
    assert share_that_differs(mutant(ours, tmp_path, (".to(out.dtype.element_ty).to(tl.float32)", ""))) > 0.05


def test_large_gates_close_or_pass() -> None:
    gate = torch.tensor([-1e4, -100.0, 0.0, 100.0, 1e4], device=DEVICE)
    # the interpreter's exponential says so where it goes to infinity
    with np.errstate(over="ignore"):
        got = api.silu_mul(torch.cat((gate, torch.full_like(gate, 2.0))), impl="triton")
    assert got.tolist() == [0.0, 0.0, 0.0, 200.0, 2e4]


@pytest.mark.parametrize("width", [33, 1536])
def test_a_row_depends_neither_on_its_neighbours_nor_on_their_number(width: int) -> None:
    x = gate_up(4, 5, width)
    together = api.silu_mul(x, impl="triton")
    for i in range(5):
        assert torch.equal(api.silu_mul(x[i : i + 1], impl="triton")[0], together[i])
        spoilt = torch.full_like(x, torch.nan)
        spoilt[i] = x[i]
        assert torch.equal(api.silu_mul(spoilt, impl="triton")[i], together[i])
