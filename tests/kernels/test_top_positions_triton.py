"""Held against the reference bit for bit: in the interpreter on small lists, on a GPU on real ones."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsespec.core.errors import BadOption, MissingPackage, UnknownName
from sparsespec.kernels.top_positions import api, reference
from tests.kernels.launched import DEVICE, WHERE, launched, mutant, room

pytestmark = WHERE

ours = room("top_positions")

Problem = tuple[Tensor, Tensor, Tensor, int, int]


@pytest.fixture(autouse=True)
def _few_blocks() -> object:
    """Let lists of some dozen scores span several blocks where the interpreter runs."""
    with pytest.MonkeyPatch.context() as patch:
        if DEVICE == "cpu":
            patch.setattr(ours, "WRITE_BLOCK", 16)
            patch.setattr(ours, "STREAMED_BLOCK", 16)
            patch.setattr(ours, "LARGEST_BLOCK", 32)
        yield


def scores_of(kind: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """Return scores: probabilities, a few values that tie often, or numbers of all kinds."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "probabilities":
        return torch.softmax(3 * torch.randn(shape, generator=generator), -1)
    if kind == "rising":
        return torch.arange(float(shape[-1])).expand(shape).contiguous()
    if kind == "zeros":
        return torch.zeros(shape) * torch.randint(-1, 2, shape, generator=generator)
    if kind == "ties":
        few = torch.tensor([0.0, -0.0, 0.25, 0.25, 1.0])
        return few[torch.randint(0, 5, shape, generator=generator)]
    odd = torch.tensor([torch.inf, -torch.inf, torch.nan, -torch.nan, -0.0, 0.0, 1e-40, -1e-40])
    pick = torch.randint(0, 24, shape, generator=generator)
    return torch.where(pick < 8, odd[pick % 8], torch.randn(shape, generator=generator))


def problem(kind: str, shape: tuple[int, int, int, int], k_max: int, pool: int, seed: int, layered: bool) -> Problem:
    layers, _, rows, length = shape
    generator = torch.Generator().manual_seed(seed + 1)
    below = torch.randint(0, length + 1, (rows,), generator=generator)
    if seed % 3 == 0:
        below[-1] = length
    share = torch.rand((layers, rows) if layered else (rows,), generator=generator)
    # the full budget now and then, so that nothing is left over
    count = torch.minimum(((share * 1.2).clamp(max=1) * below).round().to(torch.int64), torch.tensor(k_max))
    return scores_of(kind, shape, seed), below, count, k_max, pool


def yardstick(given_problem: Problem) -> Tensor:
    """Return what the reference gives on a CPU in float64: sorting on a GPU need not order -0 and NaN alike."""
    scores, below, count, k_max, pool = (x.cpu() if torch.is_tensor(x) else x for x in given_problem)
    return reference.top_positions(scores.double(), below, count, k_max, pool)


def run(given_problem: Problem, module: ModuleType = ours) -> Tensor:
    """Return what the kernel of `module` gives, on the CPU."""
    scores, below, count, k_max, pool = given_problem
    return module.top_positions(scores.to(DEVICE), below.to(DEVICE), count.to(DEVICE), k_max, pool).cpu()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@settings(max_examples=40)
@given(
    kind=st.sampled_from(("probabilities", "ties", "odd")),
    shape=st.tuples(st.integers(1, 2), st.integers(1, 2), st.integers(1, 2), st.integers(0, 40)),
    k_max=st.integers(1, 44),
    pool=st.sampled_from((1, 3, 5)),
    seed=st.integers(0, 1000),
    layered=st.booleans(),
)
def test_is_the_reference_bit_for_bit(
    dtype: torch.dtype,
    kind: str,
    shape: tuple[int, int, int, int],
    k_max: int,
    pool: int,
    seed: int,
    layered: bool,
) -> None:
    scores, below, count, k_max, pool = problem(kind, shape, k_max, pool, seed, layered)
    scores = scores.to(dtype)
    want = yardstick((scores, below, count, k_max, pool))
    on = [x.to(DEVICE) for x in (scores, below, count)]
    with launched(ours, "_top_positions", api):
        got = api.top_positions(*on, k_max, pool=pool, impl="triton")
    assert torch.equal(got.cpu(), want)


def test_takes_views_of_wider_buffers() -> None:
    wide = scores_of("probabilities", (2, 3, 4, 48), 5).to(DEVICE)
    below, count = torch.tensor([20, 7], device=DEVICE), torch.tensor([6, 7], device=DEVICE)
    for view in (wide[:, 1:, ::2, :24], wide[:, :2, 1:3, 3:26]):
        got = api.top_positions(view, below, count, 9, impl="triton")
        assert torch.equal(got.cpu(), yardstick((view, below, count, 9, 1)))


def test_a_broken_promise_about_counts_does_not_write_elsewhere() -> None:
    scores = scores_of("probabilities", (1, 1, 2, 8), 1).to(DEVICE)
    got = api.top_positions(
        scores, torch.tensor([90, 3]).to(DEVICE), torch.tensor([70, 5]).to(DEVICE), 4, impl="triton"
    )
    assert got.shape == (1, 1, 2, 4)
    assert got[0, 0, 1].tolist() == [0, 1, 2, 0]


KINDS = ("probabilities", "ties", "odd", "rising", "zeros")
MUTANTS = {
    "wrong mask bound": ("tl.load(below_of + row), length", "tl.load(below_of + row) + 1, length"),
    "pool shifted by one": ("(shift - POOL // 2)", "(shift + 1 - POOL // 2)"),
    "minus zero below zero": ("tl.where(bits == _LOWEST, 0, key)", "key"),
    "NaN ordered by its sign": (
        "tl.where((bits & _HIGHEST) > _INFINITY, _HIGHEST, key)",
        "tl.maximum(key, _LOWEST + 1)",
    ),
    "one position too few": ("(count_of + layer * count_stride + row)", "(count_of + layer * count_stride + row) - 1"),
    "ties to the higher position": (
        """        index = above_seen + (before >> 16) + tl.minimum(ties_before, need)
        tl.store(out + index, at.to(tl.int64), mask=above | (tie & (ties_before < need)))
""",
        """        spare = tl.sum(tie.to(tl.int32)) - need
        index = above_seen + (before >> 16) + tl.maximum(ties_before - spare, 0)
        tl.store(out + index, at.to(tl.int64), mask=above | (tie & (ties_before >= spare)))
""",
    ),
    "ties counted anew in each block": ("ties_seen + (before & 0xFFFF)", "(before & 0xFFFF)"),
    "places counted anew in each block": ("above_seen += total >> 16", "above_seen = total >> 16"),
}


@pytest.mark.parametrize("name", [None, *MUTANTS])
def test_mutants_run_and_are_caught(name: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # what a mutant leaves unwritten is a position too: it must be caught by being wrong
    monkeypatch.setattr(torch, "empty", torch.zeros)
    module = mutant(ours, tmp_path, MUTANTS[name]) if name else ours
    # that mutant counts the ties of a block
    monkeypatch.setattr(module, "WRITE_BLOCK", 64 if name == "ties to the higher position" else 16)
    monkeypatch.setattr(module, "LARGEST_BLOCK", 1024)
    caught = 0
    for seed, kind in enumerate(KINDS):
        scores = scores_of(kind, (1, 1, 2, 37), seed)
        drawn = scores, torch.tensor([33, 20]), torch.tensor([18, 7]), 20, 1 if kind == "zeros" else 3
        got = run(drawn, module)
        assert ((got >= 0) & (got < 37)).all(), "a mutant must give positions that a list can hold"
        caught += not torch.equal(got, yardstick(drawn))
    assert bool(caught) == bool(name), f"{name}: {caught} of {len(KINDS)} problems differ"


@pytest.mark.parametrize("kind", ["random", "zeros"])
def test_counts_of_the_longest_list_in_registers_do_not_overflow(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    length = 32768
    monkeypatch.setattr(ours, "LARGEST_BLOCK", length)
    monkeypatch.setattr(ours, "WRITE_BLOCK", 2048)
    scores = torch.rand(1, 1, 3, length, generator=torch.Generator().manual_seed(0)) * (kind == "random")
    counts = torch.tensor([1, length - 1, length])
    drawn = scores, torch.full_like(counts, length), counts, length, 1
    assert torch.equal(run(drawn), yardstick(drawn))


def test_bad_input_is_named() -> None:
    x = torch.rand(1, 1, 2, 8, device=DEVICE)
    n = torch.tensor([2, 2], device=DEVICE)
    with pytest.raises(BadOption, match="scores of float32"):
        api.top_positions(x.double(), n, n, 2, impl="triton")
    with pytest.raises(BadOption, match="scores must be contiguous"):
        api.top_positions(x.transpose(-1, -2).contiguous().transpose(-1, -2), n, n, 2, impl="triton")
    with pytest.raises(BadOption, match="below must be contiguous int64"):
        api.top_positions(x, n.int(), n, 2, impl="triton")
    with pytest.raises(BadOption, match=r"count must be \[2\] or \[1, 2\]"):
        api.top_positions(x, n, n[:1], 2, impl="triton")
    with pytest.raises(BadOption, match="scores must be "):
        api.top_positions(x[0], n, n, 2, impl="triton")
    with pytest.raises(UnknownName, match="did you mean 'triton'"):
        api.top_positions(x, n, n, 2, impl="tritom")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "sparsespec.kernels.top_positions.triton")
    monkeypatch.delattr("sparsespec.kernels.top_positions.triton")
    n = torch.tensor([1])
    with pytest.raises(MissingPackage, match=r"pip install 'sparsespec\[triton\]'"):
        api.top_positions(torch.rand(1, 1, 1, 4), n, n, 1, impl="triton")


@pytest.mark.gpu
@pytest.mark.parametrize("pool", [1, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("length", [511, 8192, 20001, 40000])
def test_real_sizes(length: int, dtype: torch.dtype, pool: int) -> None:
    for kind in ("probabilities", "ties", "odd"):
        scores, below, count, k_max, pool = problem(kind, (2, 2, 4, length), length // 2, pool, length, True)
        scores = scores.to(dtype)
        want = yardstick((scores, below, count, k_max, pool))
        on = [x.to(DEVICE) for x in (scores, below, count)]
        with launched(ours, "_top_positions", api):
            got = api.top_positions(*on, k_max, pool=pool, impl="triton")
        assert torch.equal(got.cpu(), want), f"{kind} scores"


@pytest.mark.gpu
def test_a_captured_launch_follows_its_inputs() -> None:
    k_max = 50
    on = [x.to(DEVICE) for x in problem("probabilities", (3, 2, 4, 1000), k_max, 1, 3, False)[:3]]
    api.top_positions(*on, k_max, impl="triton")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = api.top_positions(*on, k_max, impl="triton")
    for seed in range(3):
        fresh = problem("ties", (3, 2, 4, 1000), k_max, 1, seed, False)[:3]
        for x, y in zip(on, fresh, strict=True):
            x.copy_(y)
        graph.replay()
        assert torch.equal(got.cpu(), yardstick((*on, k_max, 1)))
