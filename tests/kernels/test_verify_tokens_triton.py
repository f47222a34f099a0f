"""Held against the reference to the last bit: chains of drawn steps, and of rows in any order with gaps between."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsespec.core.batch import VerifyInputs
from sparsespec.core.errors import BadOption, ContractBroken, MissingPackage, UnknownName
from sparsespec.kernels.verify_inputs import reference as verify_inputs
from sparsespec.kernels.verify_tokens import api, reference
from tests.kernels.launched import DEVICE, WHERE, launched, mutant, poisoned, room
from tests.kernels.steps import WIDTH, differing, drawn_step, draws_of, judged_batch, on

pytestmark = WHERE

ours: Any = room("verify_tokens")

Chains = tuple[Tensor, Tensor, Tensor, Tensor]
"""Draws, candidates, first and count."""


def chains(seed: int, n_rows: int) -> Chains:
    """Return the chains of a drawn step."""
    step = drawn_step(seed, n_rows)
    rows = VerifyInputs(*verify_inputs.verify_inputs(judged_batch(step, seed), WIDTH))
    draws = draws_of(rows, step.n_logits, seed)
    candidate = verify_inputs.spread(rows, step.n_logits)[3]
    return draws, candidate, rows.first, rows.count


def ragged(counts: list[int], seed: int, gap: int) -> Chains:
    """Return chains with these counts, in another order than their logit rows, with unowned ones between."""
    generator = torch.Generator().manual_seed(seed)
    count = torch.tensor(counts, dtype=torch.int64)
    size = count + 1 + gap
    n = int(size.sum())
    draws, other = torch.randint(0, 9, (2, n), generator=generator)
    candidate = torch.where(torch.rand(n, generator=generator) < 0.7, draws, other)
    order = torch.randperm(len(counts), generator=generator)
    first = torch.where(count < 0, 10_000, size.cumsum(0) - size)
    return draws, candidate, first[order], count[order]


def wrong(given: Chains, module: Any, width: int = WIDTH) -> list[str]:
    draws, candidate, first, count = given
    # behind a row's candidates verdicts may be anything
    is_accepted = draws == candidate
    want = reference.match_tokens(*given, width), reference.verify_tokens(draws, is_accepted, first, count, width)
    with poisoned():
        draws, candidate, is_accepted, first, count = on((draws, candidate, is_accepted, first, count), DEVICE)
        got = (
            module.match_tokens(draws, candidate, first, count, width),
            module.verify_tokens(draws, is_accepted, first, count, width),
        )
    return differing(got, want)


@settings(max_examples=40 if DEVICE == "cpu" else 300)
@given(
    counts=st.lists(st.integers(-1, 7), min_size=1, max_size=9),
    seed=st.integers(0, 10**6),
    gap=st.integers(0, 2),
    wider=st.integers(0, 3),
)
def test_chains_are_judged_as_the_reference_judges(counts: list[int], seed: int, gap: int, wider: int) -> None:
    assert not wrong(ragged(counts, seed, gap), ours, max(counts) + 1 + wider + (max(counts) < 0))


@pytest.mark.parametrize("n_rows", [1, 5, 16, 17, 128])
def test_chains_of_drawn_steps(n_rows: int) -> None:
    for seed in range(4):
        assert not wrong(chains(seed, n_rows), ours)


def test_dead_rows_alone_have_no_logits() -> None:
    assert not wrong(ragged([-1, -1], 0, 0), ours, 1)


MUTANTS = {
    "the first that falls is skipped": ("tl.where(stands, WIDTH, column", "tl.where(stands, WIDTH, 1 + column"),
    "all that stand count": ("tl.min(tl.where(stands, WIDTH, column[None, :]), 1)", "tl.sum(stands.to(tl.int32), 1)"),
    "nothing is drawn behind": ("count < 0, 0, accepted + 1", "count < 0, 0, accepted"),
    "the row before is judged": ("[:, None] + column[None, :]\n", "[:, None] + column[None, :] - 1\n"),
    "dead rows emit": ("count < 0, 0,", "count < -1, 0,"),
    "logits of the row's number": ("tl.load(firsts + row, mask=mask, other=0)", "row"),
    "tokens behind what was emitted": ("column[None, :] < emitted[:, None], drawn", "column[None, :] < WIDTH, drawn"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_run_and_are_caught(name: str, tmp_path: Path) -> None:
    module = mutant(ours, tmp_path, MUTANTS[name])
    assert any(wrong(ragged([2, 0, -1, 5, 3], seed, 1), module) for seed in range(8)), name


@pytest.mark.parametrize("op", ["verify_tokens", "match_tokens"])
def test_the_kernel_is_launched(op: str) -> None:
    draws, candidate, first, count = on(chains(0, 5), DEVICE)
    verdict = candidate if op == "match_tokens" else draws == candidate
    with launched(ours, "_verify_tokens", api):
        getattr(api, op)(draws, verdict, first, count, width=WIDTH, impl="triton")
    none = first[:0]
    assert getattr(api, op)(draws, verdict, none, none, width=1, impl="triton").tokens.shape == (0, 1)


def test_bad_input_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    draws, candidate, first, count = on(chains(0, 6), DEVICE)
    with pytest.raises(ContractBroken, match="match_tokens needs shapes"):
        api.match_tokens(draws, candidate[1:], first, count, width=WIDTH, impl="triton")
    with pytest.raises(BadOption, match="first to be contiguous"):
        api.match_tokens(draws, candidate, first[::2], count[::2], width=WIDTH, impl="triton")
    with pytest.raises(UnknownName, match="did you mean 'triton'"):
        api.match_tokens(draws, candidate, first, count, width=WIDTH, impl="tritom")
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "sparsespec.kernels.verify_tokens.triton")
    monkeypatch.delattr("sparsespec.kernels.verify_tokens.triton")
    with pytest.raises(MissingPackage, match=r"pip install 'sparsespec\[triton\]'"):
        api.match_tokens(draws, candidate, first, count, width=WIDTH, impl="triton")


@pytest.mark.gpu
def test_a_captured_launch_follows_its_inputs() -> None:
    counts = [5, -1, 0, 3, 2] * 20
    inputs = on(ragged(counts, 0, 1), DEVICE)
    api.match_tokens(*inputs, width=WIDTH, impl="triton")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = api.match_tokens(*inputs, width=WIDTH, impl="triton")
    for seed in (1, 2):
        fresh = ragged(counts, seed, 1)
        for old, new in zip(inputs, fresh, strict=True):
            old.copy_(new)
        graph.replay()
        assert not differing(tuple(got), tuple(reference.match_tokens(*fresh, WIDTH)))
