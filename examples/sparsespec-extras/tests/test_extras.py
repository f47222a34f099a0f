"""The two parts, judged by sparsespec's own checks and by what they promise beyond them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sparsespec_extras.aimd import Aimd
from sparsespec_extras.logsparse import LogSparse

from sparsespec import LLM, SamplingParams, SparseSpecError, make
from sparsespec.core.plan import Phase
from sparsespec.core.result import RowResult, RowResults
from sparsespec.testing import check_length, check_selector
from sparsespec.testing.checks.drawn_views import BLANK, view_of

PROMPT = [(7 * i * i + 3 * i) % 61 for i in range(150)]
LOGSPARSE = "logsparse(budget=0.1,min_budget=12,sinks=2)"


@pytest.mark.parametrize(
    "spec", ["logsparse", LOGSPARSE, "logsparse(min_budget=3,sinks=0,recent=0.0)", "logsparse(min_budget=5,recent=1)"]
)
def test_logsparse_is_a_selector(spec: str) -> None:
    check_selector(spec)


@pytest.mark.parametrize("spec", ["aimd", "aimd(first=1,most=1)", "aimd(first=3,most=9,add=0.5,cut=0.7)"])
def test_aimd_is_a_length_policy(spec: str) -> None:
    check_length(spec)


def chosen(n_tokens: int, **options: float) -> tuple[list[int], int]:
    """Return the positions that a request of `n_tokens` reads, and where its tail begins."""
    part = LogSparse(**options)  # type: ignore[arg-type]
    part.bind(SimpleNamespace(max_model_len=1000, device="cpu"))  # type: ignore[arg-type]
    choice = part.select(SimpleNamespace(state=SimpleNamespace(n_committed=torch.tensor([n_tokens]))))  # type: ignore[arg-type]
    positions, counts, tail_from = choice.at(0, torch.empty(0), None)  # type: ignore[arg-type]
    return positions[0, 0, : int(counts[0])].tolist(), int(tail_from[0])


def test_gaps_grow_with_the_distance() -> None:
    positions, tail_from = chosen(801, budget=0.05, min_budget=8, sinks=4)
    assert positions[:4] == [0, 1, 2, 3]
    assert (len(positions), tail_from) == (4 + 18, 800 - 18)
    spread = positions[4:]
    gaps = [b - a for a, b in zip(spread, [*spread[1:], tail_from], strict=True)]
    assert spread[0] == 4
    assert gaps[-1] == 1
    assert gaps == sorted(gaps, reverse=True)


@pytest.mark.parametrize("n_tokens", [1, 2, 3, 9, 10, 50, 1000])
def test_the_budget_is_spent_exactly(n_tokens: int) -> None:
    for options in ({"min_budget": 8}, {"min_budget": 8, "recent": 0.0}, {"budget": 1.0, "min_budget": 4}):
        positions, tail_from = chosen(n_tokens, **options)
        allowed = min(n_tokens - 1, max(int(options["min_budget"]), -(-(n_tokens - 1) // 20)))
        if options.get("budget") == 1.0:
            allowed = n_tokens - 1
        assert len(set(positions)) + n_tokens - 1 - tail_from == allowed
        assert all(0 <= p < tail_from for p in positions)


def row(accepted: int, candidates: int, *, seat: int = 0, k: int = 8, phase: Phase = Phase.VERIFY) -> RowResult:
    """Return a row of which some candidates were accepted."""
    tokens = (0,) * (accepted + 1)
    return RowResult(seat, phase, candidates + 1, tokens, candidates, accepted, k, float("nan"), 1.0, 1.0)


def window(part: Aimd, seat: int = 0) -> int:
    (draft,) = np.asarray(part.propose(view_of(BLANK._replace(seat=seat)), np.array([0])).draft)
    return int(draft)


def bound(**options: float) -> Aimd:
    part = Aimd(**options)  # type: ignore[arg-type]
    part.bind(SimpleNamespace(n_seats=3))  # type: ignore[arg-type]
    return part


def test_the_window_grows_by_addition_and_shrinks_by_multiplication() -> None:
    part, seen = bound(first=4, most=6), []
    for accepted, candidates in [(4, 4), (5, 5), (6, 6), (2, 6), (0, 3), (0, 1), (0, 1), (1, 1)]:
        part.observe(RowResults.of([row(accepted, candidates)]))
        seen.append(window(part))
    assert seen == [5, 6, 6, 3, 1, 1, 1, 2]


def test_short_rounds_drafts_and_guesses_teach_nothing() -> None:
    part = bound(first=4)
    for result in (row(2, 2), row(1, 2, phase=Phase.DRAFT), row(0, 3, k=0), row(0, 0)):
        part.observe(RowResults.of([result]))
    assert window(part) == 4


def test_seats_do_not_share_a_window() -> None:
    part = bound(first=4)
    part.observe(RowResults.of([row(0, 4, seat=1), row(4, 4, seat=2)]))
    assert (window(part, 0), window(part, 1), window(part, 2)) == (4, 2, 5)
    part.reset([1])
    assert window(part, 1) == 4


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("selector/logsparse(sinks=200)", "between 0 and min_budget = 128"),
        ("selector/logsparse(recent=2)", "in [0, 1], got 2"),
        ("selector/logsparse(budget=0)", "in (0, 1], got 0"),
        ("length/aimd(first=9,most=8)", "1 <= first <= most"),
        ("length/aimd(add=0)", "above 0, got 0"),
        ("length/aimd(cut=1)", "in (0, 1), got 1"),
    ],
)
def test_options_that_cannot_work_are_refused(spec: str, says: str) -> None:
    with pytest.raises(SparseSpecError) as error:
        make(spec)
    assert says in str(error.value)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("loop", ["sync", "delayed"])
def test_outputs_are_those_of_dense_decoding(temperature: float, loop: str) -> None:
    params = SamplingParams(temperature=temperature, max_tokens=40, seed=3)
    with LLM("tiny", "dense") as dense, LLM("tiny", selector=LOGSPARSE, length="aimd", loop=loop) as llm:
        ((expected,), (output,)) = dense.generate(PROMPT, params), llm.generate(PROMPT, params)
    assert output.outputs[0].token_ids == expected.outputs[0].token_ids
    # an equality in which nothing was rejected would prove nothing
    assert output.metrics.num_rejected_tokens > 0
    assert output.metrics.draft_kv_share < 0.5
