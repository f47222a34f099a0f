"""Held against the reference to the last bit: rows and tokens of drawn steps of all phases."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsespec.core.errors import BadOption, ContractBroken, MissingPackage, UnknownName
from sparsespec.core.plan import Phase
from sparsespec.kernels.lay_out import api, reference
from tests.kernels.launched import DEVICE, WHERE, launched, mutant, poisoned, room
from tests.kernels.steps import CONTEXT, PAGE, Step, batch_of, differing, drawn_step, guessed, on

pytestmark = WHERE

ours: Any = room("lay_out")


def rows_and_tokens(step: Step, module: Any, seed: int, block_size: int = PAGE) -> tuple[Any, ...]:
    """Return what a module lays out of a step, and the seats behind it."""
    laid = api.LaidRows(*module.lay_out_rows(step.packed, step.state))
    batch = guessed(batch_of(step, laid), laid.room, seed)
    tokens = api.LaidTokens(*module.lay_out_tokens(batch, step.n_tokens, block_size))
    return laid, tokens, step.state


def wrong(step: Step, module: Any, seed: int, block_size: int = PAGE) -> list[str]:
    want = rows_and_tokens(on(step, "cpu"), reference, seed, block_size)
    with poisoned():
        got = rows_and_tokens(on(step, DEVICE), module, seed, block_size)
    return differing(got, want)


@settings(max_examples=40 if DEVICE == "cpu" else 200)
@given(seed=st.integers(0, 10**6), n_rows=st.integers(1, 9), block_size=st.sampled_from((1, 3, 4, 16)))
def test_a_step_is_laid_out_as_the_reference_says(seed: int, n_rows: int, block_size: int) -> None:
    step = drawn_step(seed, n_rows, block_size=block_size)
    assert not wrong(step, ours, seed, block_size)


@pytest.mark.parametrize("n_rows", [1, 127, 128, 129])
def test_many_rows(n_rows: int) -> None:
    for seed in range(2):
        assert not wrong(drawn_step(seed, n_rows), ours, seed)


def test_the_drawn_steps_hold_every_kind_of_row() -> None:
    seen = set()
    for seed in range(20):
        step = drawn_step(seed, 9)
        laid, tokens, _ = rows_and_tokens(step, reference, seed)
        _, phase, n_query, k = step.packed[:4]
        live, draft = laid.live, phase == Phase.DRAFT
        seen |= {"idle"} if (n_query == 0).any() else set()
        seen |= {"dead draft"} if (draft & (live == 0)).any() else set()
        seen |= {"guesses"} if (laid.room > 0)[draft].any() else set()
        seen |= {"guesses to verify"} if (laid.room > 0)[(phase == Phase.VERIFY) & (k == 0)].any() else set()
        seen |= {"dead queries"} if (live < n_query)[phase == Phase.VERIFY].any() else set()
        seen |= {"padding"} if step.n_tokens > n_query.sum() else set()
        seen |= {"holes"} if (step.state.table == 0).any() else set()
        assert (tokens.positions < CONTEXT).all() and (tokens.slots[~tokens.alive] == 0).all()
        assert (tokens.slots[tokens.alive] >= PAGE).all()
    assert len(seen) == 7


MUTANTS = {
    "draft starts one early": ("drafting, c - 1 + d, c - 1", "drafting, c - 2 + d, c - 1"),
    "prefill starts at c": ("tl.where(filling, filled,", "tl.where(filling, c,"),
    "ended rounds go on": ("(d >= k) | ended", "(d >= k)"),
    "one draft too many": ("(d >= k)", "(d > k)"),
    "verify forgets the first token": ("(k > 0), 1 + d, 1)", "(k > 0), d, 1)"),
    "a guess too many": ("k - d - 1, n_query", "k - d, n_query"),
    "rounds without drafts take no guesses": ("| (verifying & (k == 0))", "| (verifying & (k < 0))"),
    "a row's number for its seat": ("tl.load(packed + row, mask=mask, other=0)", "row"),
    "stop_below of the row's number": ("stop_of + seat", "stop_of + row"),
    "scores of everybody": ("other=0) != 0, mask=mask)\n    # floats", "other=0) >= 0, mask=mask)\n    # floats"),
    "a token belongs to the row that ended": ("end[None, :] <= at", "end[None, :] < at"),
    "every query lives": ("alive = (index < tl.load(lives + row))", "alive = (index < tl.load(n_queries + row))"),
    "a page too far": ("position // PAGE, mask", "position // PAGE + 1, mask"),
    "row for seat in the table": ("table + seat * table_seat", "table + row * table_seat"),
    "start of the page": ("page * PAGE + position % PAGE", "page * PAGE"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_run_and_are_caught(name: str, tmp_path: Path) -> None:
    module = mutant(ours, tmp_path, MUTANTS[name])
    assert any(wrong(drawn_step(seed, 6), module, seed) for seed in range(12)), name


def test_the_kernels_are_launched_and_nothing_is_no_launch() -> None:
    step = on(drawn_step(3, 5), DEVICE)
    with launched(ours, "_lay_out_rows", api):
        laid = api.lay_out_rows(step.packed, step.state, impl="triton")
    batch = batch_of(step, laid)
    with launched(ours, "_lay_out_tokens", api):
        api.lay_out_tokens(batch, step.n_tokens, PAGE, impl="triton")
    assert api.lay_out_tokens(batch, 0, PAGE, impl="triton").tokens.shape == (0,)
    assert api.lay_out_rows(step.packed[:, :0].contiguous(), step.state, impl="triton").start.shape == (0,)


def test_bad_input_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    step = on(drawn_step(0, 3), DEVICE)
    with pytest.raises(ContractBroken, match=r"a packed step must be \[7, B\], got \[3, 7\]"):
        api.lay_out_rows(step.packed.T, step.state, impl="triton")
    with pytest.raises(BadOption, match="packed to be contiguous"):
        api.lay_out_rows(step.packed[:, ::2], step.state, impl="triton")
    with pytest.raises(UnknownName, match="did you mean 'triton'"):
        api.lay_out_rows(step.packed, step.state, impl="tritom")
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "sparsespec.kernels.lay_out.triton")
    monkeypatch.delattr("sparsespec.kernels.lay_out.triton")
    with pytest.raises(MissingPackage, match=r"pip install 'sparsespec\[triton\]'"):
        api.lay_out_rows(step.packed, step.state, impl="triton")


@pytest.mark.gpu
def test_a_captured_launch_follows_its_inputs() -> None:
    step = on(drawn_step(0, 64), DEVICE)
    page, n = PAGE, step.n_tokens
    rows_and_tokens(step, ours, 0)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        laid = api.lay_out_rows(step.packed, step.state, impl="triton")
        tokens = api.lay_out_tokens(batch_of(step, laid), n, page, impl="triton")
    for seed in (1, 2):
        fresh = drawn_step(seed, 64)
        step.packed.copy_(fresh.packed)
        for name in ("tokens", "c", "d", "filled", "ended", "stop_below", "table"):
            getattr(step.state, name).copy_(getattr(fresh.state, name))
        graph.replay()
        want = api.LaidRows(*reference.lay_out_rows(fresh.packed, fresh.state))
        want = (want, api.LaidTokens(*reference.lay_out_tokens(batch_of(fresh, want), n, page)))
        assert not differing((laid, tokens), want)
