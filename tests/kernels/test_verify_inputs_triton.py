"""Held against the reference to the last bit: what verifiers judge in drawn steps, by rows and by logit rows."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsespec.core.batch import VerifyInputs
from sparsespec.core.errors import BadOption, ContractBroken, MissingPackage, UnknownName
from sparsespec.kernels.verify_inputs import api, reference
from tests.kernels.launched import DEVICE, WHERE, launched, mutant, poisoned, room
from tests.kernels.steps import CONTEXT, WIDTH, Step, differing, drawn_step, judged_batch, on

pytestmark = WHERE

ours: Any = room("verify_inputs")


def wrong(step: Step, module: Any, seed: int, width: int = WIDTH) -> list[str]:
    """Return what a module gathers and spreads otherwise than the reference."""
    batch = judged_batch(step, seed)
    want = VerifyInputs(*reference.verify_inputs(batch, width))
    # a narrower verifier judges fewer
    rows = replace(want, count=want.count.clamp(max=width - 1))
    shuffled = shuffle(rows, seed)
    spreads = [(each, step.n_logits + extra) for each in (rows, shuffled) for extra in (0, 3)]
    wanted = [api.LogitRows(*reference.spread(each, n)) for each, n in spreads]
    with poisoned():
        got = VerifyInputs(*module.verify_inputs(on(batch, DEVICE), width))
        gotten = [api.LogitRows(*module.spread(on(each, DEVICE), n)) for each, n in spreads]
    return differing((got, *gotten), (want, *wanted))


def shuffle(rows: VerifyInputs, seed: int) -> VerifyInputs:
    """Return the rows in another order, dead ones pointing anywhere."""
    order = torch.randperm(len(rows.first), generator=torch.Generator().manual_seed(seed))
    shuffled = VerifyInputs(*(getattr(rows, name)[order] for name in VerifyInputs.__slots__))
    return replace(shuffled, first=torch.where(shuffled.count < 0, 10_000, shuffled.first))


@settings(max_examples=30 if DEVICE == "cpu" else 200)
@given(seed=st.integers(0, 10**6), n_rows=st.integers(1, 9))
def test_rows_are_gathered_and_spread_as_the_reference_says(seed: int, n_rows: int) -> None:
    assert not wrong(drawn_step(seed, n_rows), ours, seed)


@pytest.mark.parametrize("n_rows", [1, 16, 17, 128, 129])
def test_many_rows(n_rows: int) -> None:
    assert not wrong(drawn_step(n_rows, n_rows), ours, 0)


def test_rows_without_candidates() -> None:
    step = drawn_step(1, 7)
    step.state.n_drafted.zero_()
    step.packed[2].clamp_(max=1)
    step.packed[4] = step.packed[2].cumsum(0) - step.packed[2]
    assert not wrong(step, ours, 0, width=1)


def test_candidates_near_the_end_of_the_token_array() -> None:
    step = drawn_step(2, 4)
    step.state.n_committed[:] = CONTEXT + 12
    assert not wrong(step, ours, 0)


MUTANTS = {
    "rows that fill are judged": ("tl.where(phase == _PREFILL, 0, live) - 1", "live - 1"),
    "guesses count as drawn": (
        "(tl.load(k_of + row, mask=mask, other=0) > 0)",
        "(tl.load(k_of + row, mask=mask, other=0) >= 0)",
    ),
    "levels swapped": ("tl.where(verifying, 0, 1)", "tl.where(verifying, 1, 0)"),
    "position of the first query": ("positions + row, start + 1", "positions + row, start"),
    "committed tokens by row": ("_copy(cs, row, c_of, seat", "_copy(cs, row, c_of, row"),
    "candidates begin with the first input": ("start[:, None] + 1 + j", "start[:, None] + j"),
    "the last candidate forgotten": ("(j < n_candidates)", "(j < n_candidates - 1)"),
    "the last logit row forgotten": ("(at[:, None] <= last", "(at[:, None] < last"),
    "the last logit row judges": ("offset < tl.load(counts + row)", "offset <= tl.load(counts + row)"),
    "all positions of a row alike": ("tl.load(positions + row) + offset", "tl.load(positions + row)"),
    "seed of the first row": ("_copy(seed_at, at, seeds, row", "_copy(seed_at, at, seeds, row * 0"),
    "nobody's rows are hot": ("temperatures, row, mask, alive)", "temperatures, row, mask, True)"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_run_and_are_caught(name: str, tmp_path: Path) -> None:
    module = mutant(ours, tmp_path, MUTANTS[name])
    assert any(wrong(drawn_step(seed, 6), module, seed) for seed in range(6)), name


def test_the_kernels_are_launched_and_nothing_is_no_launch() -> None:
    step = drawn_step(3, 5)
    batch = on(judged_batch(step, 0), DEVICE)
    with launched(ours, "_verify_inputs", api):
        rows = api.verify_inputs(batch, WIDTH, impl="triton")
    with launched(ours, "_spread", api):
        api.spread(rows, step.n_logits, impl="triton")
    assert api.spread(rows, 0, impl="triton").row.shape == (0,)


def test_bad_input_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = on(judged_batch(drawn_step(0, 3), 0), DEVICE)
    with pytest.raises(ContractBroken, match="at least one query token"):
        api.verify_inputs(batch, 0, impl="reference")
    rows = api.verify_inputs(batch, WIDTH, impl="reference")
    with pytest.raises(BadOption, match="candidates to be contiguous"):
        api.spread(replace(rows, candidates=rows.candidates[:, ::2]), 5, impl="triton")
    with pytest.raises(UnknownName, match="did you mean 'triton'"):
        api.spread(rows, 5, impl="tritom")
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "sparsespec.kernels.verify_inputs.triton")
    monkeypatch.delattr("sparsespec.kernels.verify_inputs.triton")
    with pytest.raises(MissingPackage, match=r"pip install 'sparsespec\[triton\]'"):
        api.verify_inputs(batch, WIDTH, impl="triton")


@pytest.mark.gpu
def test_a_captured_launch_follows_its_inputs() -> None:
    batch, n = on(judged_batch(drawn_step(0, 64), 0), DEVICE), 200

    def gather() -> tuple[Any, ...]:
        rows = api.verify_inputs(batch, WIDTH, impl="triton")
        return rows, api.spread(rows, n, impl="triton")

    gather()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = gather()
    for seed in (1, 2):
        fresh = judged_batch(drawn_step(seed, 64), seed)
        for name in ("seat", "phase", "k", "offset", "start", "live"):
            getattr(batch, name).copy_(getattr(fresh, name))
        for name in ("tokens", "c", "seed", "sample", "temperature", "top_k", "top_p", "min_p"):
            getattr(batch.state, name).copy_(getattr(fresh.state, name))
        graph.replay()
        want = VerifyInputs(*reference.verify_inputs(fresh, WIDTH))
        assert not differing(got, (want, api.LogitRows(*reference.spread(want, n))))
