"""The arithmetic of what speculation did, on rows made by hand, and on an engine that must agree with them."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from sparsespec.core.plan import Phase
from sparsespec.core.result import RowResult, RowResults
from sparsespec.metrics.seats import SeatCounts
from sparsespec.metrics.speculation import SpecMetrics
from tests.engine.running import COMPOSITIONS, EVERY, add, compose, run, sampled


def draft(
    live: int = 1, tokens: int = 1, guesses: int = 0, accepted: int = 0, read: float = 8, full: float = 30
) -> Any:
    return RowResult(0, Phase.DRAFT, live, (5,) * tokens, guesses, accepted, 4, 0.5, read, full)


def verify(c: int, drafts: int, accepted: int) -> RowResult:
    """Return a VERIFY row of `drafts` candidates behind `c` committed tokens."""
    full = float(c + drafts)
    return RowResult(0, Phase.VERIFY, 1 + drafts, (5,) * (accepted + 1), drafts, accepted, 4, math.nan, full, full)


def metrics_of(*results: RowResult, n_output: int | None = None) -> SpecMetrics:
    """Count results one after the other on one seat of two; `n_output` tokens of each are output."""
    counts, metrics = SeatCounts(2, 8), SpecMetrics()
    for result in results:
        output = len(result.tokens) if n_output is None else n_output
        counts.add(RowResults.of([result._replace(seat=1)]), np.array([output]))
    counts.write(1, metrics)
    return metrics


def test_nothing_collected_has_no_ratios() -> None:
    metrics = SpecMetrics()
    for ratio in ("mean_acceptance_length", "draft_acceptance_rate", "draft_kv_share", "kv_share"):
        assert math.isnan(getattr(metrics, ratio))
        assert metrics.to_dict()[ratio] is None
    assert metrics.num_rejected_tokens == 0


def test_plain_decoding_reads_what_dense_decoding_reads() -> None:
    metrics = metrics_of(*(verify(c, 0, 0) for c in range(10, 15)))
    assert metrics.kv_read == metrics.kv_dense == 10 + 11 + 12 + 13 + 14
    assert metrics.kv_share == 1
    assert metrics.num_verify_steps == 5
    assert metrics.num_spec_rounds == metrics.num_draft_tokens == 0
    assert not metrics.acceptance_histogram
    assert math.isnan(metrics.mean_acceptance_length)


def test_a_round_counts_its_drafts_those_that_stood_and_what_was_read() -> None:
    metrics = metrics_of(draft(read=8, full=30), draft(read=9, full=31), verify(30, 2, 1))
    assert (metrics.num_draft_steps, metrics.num_verify_steps, metrics.num_spec_rounds) == (2, 1, 1)
    assert (metrics.num_draft_tokens, metrics.num_accepted_tokens, metrics.num_rejected_tokens) == (2, 1, 1)
    assert metrics.acceptance_histogram == {1: 1}
    assert metrics.mean_acceptance_length == 2
    assert metrics.draft_acceptance_rate == 0.5
    assert metrics.draft_kv_share == 17 / 61
    # one read of 32 positions verified two tokens, which dense decoding reads 30 and 31 positions for
    assert metrics.kv_read == 8 + 9 + 32
    assert metrics.kv_dense == 30 + 31
    assert metrics.kv_share == 49 / 61


def test_a_verify_row_that_judged_nothing_is_no_round() -> None:
    metrics = metrics_of(verify(10, 3, 3), verify(14, 0, 0), verify(15, 4, 0))
    assert metrics.num_verify_steps == 3
    assert metrics.num_spec_rounds == 2
    assert metrics.acceptance_histogram == {3: 1, 0: 1}
    assert metrics.mean_acceptance_length == 1 + 3 / 2
    assert metrics.draft_acceptance_rate == 3 / 7


def test_guesses_of_a_draft_row_are_not_drafts() -> None:
    metrics = metrics_of(draft(live=4, tokens=3, guesses=3, accepted=2), verify(30, 3, 1))
    assert (metrics.num_guess_tokens, metrics.num_accepted_guesses) == (3, 2)
    assert (metrics.num_draft_tokens, metrics.num_accepted_tokens) == (3, 1)


def test_a_dead_row_counts_for_nothing() -> None:
    assert metrics_of(draft(live=0, tokens=0, read=0, full=0)) == SpecMetrics()


def test_addition_adds_everything_and_changes_neither() -> None:
    a = metrics_of(draft(), verify(30, 1, 1))
    b = metrics_of(draft(), draft(), verify(40, 2, 0), verify(41, 2, 1))
    a.num_output_tokens, b.num_output_tokens, b.num_preemptions = 2, 3, 4
    before = a.to_dict(), b.to_dict()
    both = a + b
    assert (a.to_dict(), b.to_dict()) == before
    assert both.acceptance_histogram == {1: 2, 0: 1}
    assert both.num_draft_tokens == 5
    assert (both.num_output_tokens, both.num_preemptions) == (5, 4)
    assert both.kv_read == a.kv_read + b.kv_read
    assert both.to_dict() == (b + a).to_dict()
    assert (a + SpecMetrics()).to_dict() == a.to_dict()
    assert sum([a, b], SpecMetrics()).to_dict() == both.to_dict()


def test_a_round_without_acceptance_survives_addition() -> None:
    none = metrics_of(verify(30, 2, 0))
    assert (none + none).acceptance_histogram == {0: 2}


def test_a_dictionary_is_plain_strict_json_in_a_fixed_order() -> None:
    for metrics in (SpecMetrics(), metrics_of(verify(30, 3, 2), verify(33, 3, 0))):
        named = metrics.to_dict()
        again = json.loads(json.dumps(named, allow_nan=False))
        assert again.keys() == named.keys()
        assert {int(k): v for k, v in again["acceptance_histogram"].items()} == named["acceptance_histogram"]
    assert list(named["acceptance_histogram"]) == [0, 2]
    assert named["mean_acceptance_length"] == 2


@pytest.mark.parametrize("loop", EVERY)
@pytest.mark.parametrize("composition", COMPOSITIONS)
def test_what_an_engine_counts_adds_up(composition: str, loop: str) -> None:
    engine = compose(loop=loop, **COMPOSITIONS[composition])
    add(engine, sampled(12), 2)
    for completion in run(engine).values():
        m = completion.metrics
        assert m.num_output_tokens == 12 == m.num_verify_steps + m.num_accepted_tokens
        assert sum(m.acceptance_histogram.values()) == m.num_spec_rounds
        assert sum(k * n for k, n in m.acceptance_histogram.items()) == m.num_accepted_tokens
        assert m.kv_dense == sum(range(20, 32))
        if composition == "dense":
            assert m.kv_share == 1
            assert m.num_draft_tokens == 0
        if composition == "full":
            assert m.draft_kv_share == 1
            assert m.draft_acceptance_rate == 1
        if composition == "sparse":
            assert m.draft_kv_share < 0.6
            assert m.num_rejected_tokens > 0
