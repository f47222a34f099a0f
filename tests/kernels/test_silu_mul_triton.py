"""Held against the reference in float64, with the error that the reference makes in the same dtype as the measure."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsespec.core.errors import BadOption, MissingPackage, UnknownName
from sparsespec.kernels.silu_mul import api, reference
from tests.kernels.launched import DEVICE, WHERE, launched, mutant, room

pytestmark = WHERE

ours = room("silu_mul")

SLACK = 2.0
"""How much larger than the reference's an error may be: a GPU's exponential is off by a few units in the last place."""


def problem(seed: int, n: int, width: int, dtype: torch.dtype = torch.float32, apart: int = 0) -> Tensor:
    """Return [n, 2 * width]; rows are `apart` numbers apart, behind the end of the one before."""
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(n, 2 * width + apart, generator=generator)).to(dtype).to(DEVICE)[:, : 2 * width]


def error(got: Tensor, gate_up: Tensor) -> float:
    """Return the largest error of a number, as a share of the largest number of its row."""
    want = reference.silu_mul(gate_up.cpu().double())
    return float(((got.cpu().double() - want).abs() / want.abs().amax(-1, keepdim=True)).max())


@cache
def allowed(dtype: torch.dtype) -> float:
    """Return the error allowed in `dtype`: `SLACK` times the reference's own, measured on one fixed problem."""
    x = problem(0, 64, 64, dtype).cpu()
    # a number can always be half a unit in the last place away from its truth
    return SLACK * max(error(reference.silu_mul(x), x), torch.finfo(dtype).eps / 2)


def check(x: Tensor, module: Any = None) -> bool:
    """Return whether the result is within the allowed error; with a module, a mutant's."""
    kept = x.clone()
    with launched(module or ours, "_silu_mul", api):
        got = module.silu_mul(x) if module else api.silu_mul(x, impl="triton")
    assert torch.equal(x, kept)
    assert got.shape == (len(x), x.shape[1] // 2) and got.dtype == x.dtype and got.is_contiguous()
    return bool(got.isfinite().all()) and error(got, x) <= allowed(x.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@settings(max_examples=30)
@given(
    seed=st.integers(0, 1000),
    n=st.integers(1, 4),
    width=st.sampled_from((1, 2, 33, 64, 1024, 1536)),
    apart=st.sampled_from((0, 1, 7, 16)),
)
def test_errs_no_more_than_the_reference(dtype: torch.dtype, seed: int, n: int, width: int, apart: int) -> None:
    assert check(problem(seed, n, width, dtype, apart))


def test_silu_is_rounded_before_the_product() -> None:
    x = problem(3, 64, 96, torch.float16)
    got = api.silu_mul(x, impl="triton").cpu()
    # a number that rounds the other way is rare; without the rounding every fifth differs
    assert float((got != reference.silu_mul(x.cpu())).float().mean()) < 0.01


@pytest.mark.parametrize("shape", [(8,), (2, 3, 8), (0, 8), (3, 0), (2, 0, 8)], ids=str)
def test_any_number_of_axes(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    torch.testing.assert_close(api.silu_mul(x, impl="triton").cpu(), reference.silu_mul(x.cpu()))


def test_large_gates_close_or_pass() -> None:
    gate = torch.tensor([-1e4, -100.0, 0.0, 100.0, 1e4], device=DEVICE)
    # the interpreter's exponential says so where it goes to infinity
    with np.errstate(over="ignore"):
        got = api.silu_mul(torch.cat((gate, torch.full_like(gate, 2.0))), impl="triton")
    assert got.tolist() == [0.0, 0.0, 0.0, 200.0, 2e4]


@pytest.mark.parametrize("width", [33, 1536])
def test_a_row_depends_neither_on_its_neighbours_nor_on_their_number(width: int) -> None:
    x = problem(4, 5, width)
    together = api.silu_mul(x, impl="triton")
    for i in range(5):
        assert torch.equal(api.silu_mul(x[i : i + 1], impl="triton")[0], together[i])
        spoilt = torch.full_like(x, torch.nan)
        spoilt[i] = x[i]
        assert torch.equal(api.silu_mul(spoilt, impl="triton")[i], together[i])


MUTANTS = {
    "up comes first": ("tl.exp(-gate)", "tl.exp(-up)"),
    "the other way round": ("div_rn(gate", "div_rn(up"),
    "sigmoid": ("div_rn(gate", "div_rn(1.0 + 0 * gate"),
    "exponential of the gate": ("tl.exp(-gate)", "tl.exp(gate)"),
    "up left out": ("(silu * up)", "(silu + 0 * up)"),
    "rows taken for contiguous": ("row * stride", "row * 2 * WIDTH"),
    "first block only": ("tl.program_id(1) * BLOCK", "tl.program_id(1) * 0"),
    "last number left": ("mask=inside)\n\n", "mask=i < WIDTH - 1)\n\n"),
}


@pytest.mark.parametrize("name", [None, *MUTANTS])
def test_mutants_run_and_are_caught(name: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module: ModuleType = mutant(ours, tmp_path, MUTANTS[name]) if name else ours
    monkeypatch.setattr(module, "BLOCK", 8)
    caught = [not check(problem(seed, 3, 19, apart=3), module) for seed in range(3)]
    assert all(caught) if name else not any(caught)


def test_a_silu_that_is_not_rounded_is_caught(tmp_path: Path) -> None:
    module: Any = mutant(ours, tmp_path, (".to(out.dtype.element_ty).to(tl.float32)", ""))
    x = problem(3, 64, 96, torch.float16)
    assert float((module.silu_mul(x).cpu() != reference.silu_mul(x.cpu())).float().mean()) > 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:, :7], "silu_mul needs an even last axis, gate then up, got 7"),
        (lambda x: x.double(), "takes gate_up of float32, float16 or bfloat16, got torch.float64"),
        (lambda x: x.t().contiguous().t(), r"gate_up must be contiguous, or \[N, 2 \* I\] with contiguous rows"),
        (lambda x: x.view(1, 2, 16)[..., :8], "gate_up must be contiguous, or"),
    ],
)
def test_bad_input_is_named(change: Any, message: str) -> None:
    with pytest.raises(BadOption, match=message):
        api.silu_mul(change(problem(0, 2, 8)), impl="triton")


def test_unknown_and_missing_implementations_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    x = problem(0, 1, 2)
    with pytest.raises(UnknownName, match="did you mean 'triton'"):
        api.silu_mul(x, impl="tritom")
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "sparsespec.kernels.silu_mul.triton")
    monkeypatch.delattr("sparsespec.kernels.silu_mul.triton")
    with pytest.raises(MissingPackage, match=r"pip install 'sparsespec\[triton\]'"):
        api.silu_mul(x, impl="triton")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("width", [1536, 1537, 12288])
def test_real_sizes(width: int, dtype: torch.dtype) -> None:
    for n, apart in ((1, 0), (64, 0), (300, 0), (64, 3)):
        assert check(problem(7, n, width, dtype, apart))


@pytest.mark.gpu
def test_a_captured_launch_follows_its_inputs() -> None:
    x = problem(0, 64, 12288, torch.bfloat16)
    api.silu_mul(x, impl="triton")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = api.silu_mul(x, impl="triton")
    for seed in (1, 2):
        x.copy_(problem(seed, 64, 12288, torch.bfloat16))
        graph.replay()
        assert torch.equal(got, api.silu_mul(x, impl="triton"))
