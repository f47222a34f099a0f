"""Copies that fail, memory that cannot be had: it costs time, and is told."""

from __future__ import annotations

import logging

import pytest
from torch import Tensor

from sparsespec.engine.engine import Engine
from sparsespec.engine.outputs import StepResult
from sparsespec.kv.host_pool import HostPool
from sparsespec.kv.mover import Trip
from tests.engine.pressure import PARAMS, TIGHT, ask, tight
from tests.engine.running import EVERY, LOOPS, Done, add, finish, sampled
from tests.quick import quick_last


def _serve(engine: Engine, caplog: pytest.LogCaptureFixture) -> tuple[Done, int]:
    """Run four requests to their ends, all of them right; return them and how often trouble was told."""
    ask(engine)
    with caplog.at_level(logging.WARNING):
        done = finish(engine, PARAMS)
    assert len(done) == 4
    told = [record.getMessage() for record in caplog.records if "computed again" in record.getMessage()]
    assert len(told) == engine._executor.n_failed_copies
    return done, len(told)


@pytest.mark.parametrize("loop", EVERY)
@pytest.mark.parametrize("times", quick_last([1, 1000, 3]))
def test_memory_that_cannot_be_pinned_costs_time_only(
    times: int, loop: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine, left, real = tight(loop=loop), times, HostPool.at

    def at(self: HostPool, first: int, n: int) -> list[Tensor]:
        nonlocal left
        left -= 1
        if left >= 0:
            raise RuntimeError("CUDA error: out of memory")
        return real(self, first, n)

    monkeypatch.setattr(HostPool, "at", at)
    done, told = _serve(engine, caplog)
    assert told == min(times, told) > 0
    assert "out of memory" in caplog.text
    metrics = [completion.metrics for completion in done.values()]
    assert sum(m.num_preemptions for m in metrics) > 0
    assert sum(m.num_recomputed_tokens for m in metrics) > 0
    # the oldest never leaves, so nothing can happen to it
    assert done[0, 0].metrics.num_preemptions == 0


@pytest.mark.parametrize("loop", EVERY)
@pytest.mark.parametrize("out", quick_last([False, True]))
@pytest.mark.parametrize("at", quick_last([3, 1]))
def test_a_copy_that_fails_costs_time_only(
    at: int, out: bool, loop: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = tight(loop=loop)
    real, count = engine._executor._mover._through, 0

    def through(trip: Trip) -> None:
        nonlocal count
        count += trip.out is out
        if trip.out is out and count == at:
            raise RuntimeError("an uncorrectable error")
        real(trip)

    monkeypatch.setattr(engine._executor._mover, "_through", through)
    done, told = _serve(engine, caplog)
    assert told == 1
    assert "an uncorrectable error" in caplog.text
    assert 1 <= sum(completion.metrics.num_preemptions for completion in done.values()) <= 2


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
def test_samples_survive_copies_that_fail(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tight(loop=loop, max_num_seqs=5, num_gpu_blocks=24)
    real, count = engine._executor._mover._copy, 0

    def copy(trips: list[Trip], error: Exception | None) -> None:
        nonlocal count
        count += 1
        real(trips, error)
        if count % 3 == 0:
            raise RuntimeError("an uncorrectable error")

    monkeypatch.setattr(engine._executor._mover, "_copy", copy)
    params = sampled(14, n=3)
    add(engine, params, length=21)
    finish(engine, params)
    assert engine._executor.n_failed_copies > 1


@pytest.mark.parametrize("loop", EVERY)
def test_with_a_full_host_some_are_computed_again(loop: str) -> None:
    engine = tight("host(size=0.2,low=0.0,high=0.0)", loop)
    full = 0

    def look(result: StepResult) -> None:
        nonlocal full
        full += engine._parts.tiers.host_free_pages() == 0
        assert result.info.host_pages <= int(0.2 * (TIGHT - 1))

    ask(engine)
    done = finish(engine, PARAMS, look)
    assert full
    assert sum(completion.metrics.num_recomputed_tokens for completion in done.values()) > 0
