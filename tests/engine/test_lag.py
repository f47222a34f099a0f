"""Loops: what lag costs, who sits out, and that nobody reads what has not landed."""

from __future__ import annotations

from typing import Any

import pytest

from sparsespec.core.loops import LOOPS as NUMBERS
from sparsespec.core.loops import Loop
from sparsespec.core.plan import Phase
from sparsespec.engine.in_flight import N_INTS, SENTINEL
from sparsespec.engine.lazy import LazyDevice
from tests.engine.running import (
    EVERY,
    LOOPS,
    NGRAM,
    SPARSE,
    Known,
    add,
    compose,
    finish,
    greedy,
    prompt_of,
    requests_of,
    sampled,
    until,
)


def _steps(name: str, **changes: Any) -> int:
    engine, steps = compose(loop=name, **changes), list[object]()
    add(engine, greedy(15))
    finish(engine, greedy(15), steps.append)
    return len(steps)


def test_a_loop_is_two_numbers() -> None:
    assert {"sync": Loop(0, False), "delayed": Loop(1, True), "resident": Loop(1, False)} == NUMBERS


@pytest.mark.parametrize("name", ["delayed", "resident"])
def test_lag_costs_dense_decoding_one_step(name: str) -> None:
    assert _steps("sync") == 1 + 15
    assert _steps(name) == 1 + 15 + 1


def test_only_a_loop_that_sits_out_waits_for_uncertain_rows() -> None:
    sync, delayed, resident = (_steps(name, **NGRAM) for name in LOOPS)
    assert sync <= resident <= sync + 3
    assert delayed > 1.5 * sync


@pytest.mark.parametrize("name", EVERY)
def test_a_row_of_unknown_outcome_sits_out_and_a_known_one_does_not(name: str) -> None:
    engine = compose(loop=name, **SPARSE)
    add(engine, sampled(14), 2)
    before: dict[int, Any] = {}
    followed = {"certain": 0, "uncertain": 0}

    def look(result: Any) -> None:
        now = {row.seat: row for row in result.info.placed.rows}
        for seat, row in before.items():
            verified = row.phase is Phase.VERIFY and row.n_query > 1
            followed["uncertain" if verified else "certain"] += seat in now
        before.clear()
        before.update({seat: row for seat, row in now.items() if row.phase is not Phase.PREFILL})

    finish(engine, sampled(14), look)
    assert followed["certain"] > 0
    assert (followed["uncertain"] == 0) == (name == "delayed")


def test_bounds_hold_what_was_collected_and_what_is_in_flight() -> None:
    engine = compose(loop="resident", **SPARSE)
    request = engine.add(prompt_of(20), sampled(14))
    (waiting,) = requests_of(engine, request)
    who = Known(engine, waiting)
    until(engine, lambda _: any(s.phase is Phase.VERIFY for s in who.in_flight))
    (sent,) = who.in_flight
    assert (who.bounds.n_lo, who.bounds.n_hi) == (who.n_committed + 1, who.n_committed + sent.n_query)
    assert (who.bounds.d_lo, who.bounds.d_hi) == (0, 0)
    until(engine, lambda _: [s.phase for s in who.in_flight] == [Phase.DRAFT])
    assert (who.bounds.n_lo, who.bounds.n_hi) == (who.n_committed, who.n_committed)
    assert (who.bounds.d_lo, who.bounds.d_hi) == (who.n_drafted + 1, who.n_drafted + 1)


@pytest.mark.parametrize("name", EVERY)
def test_as_many_steps_are_in_flight_as_the_loop_lags(name: str) -> None:
    lag = NUMBERS[name].lag
    engine = compose(loop=name, **SPARSE)
    assert len(engine._executor._ring) == lag + 1
    engine.add(prompt_of(20), sampled(8))
    out = list[int]()
    finish(engine, sampled(8), lambda _: out.append(len(engine._executor.in_flight)))
    assert max(out) == lag
    assert out[-1] == 0


@pytest.mark.parametrize("name", ["delayed", "resident"])
def test_a_step_holds_the_sentinel_until_its_event_and_asserts_if_read(name: str) -> None:
    engine = compose(loop=name, **SPARSE)
    engine.add(prompt_of(20), sampled(8, logprobs=1))
    until(engine, lambda _: any(step.wants_logprobs for step in engine._executor._in_flight))
    step = engine._executor._in_flight[0]
    assert step.event is not None
    assert (step.buffers.results[0, :N_INTS] == SENTINEL).all()
    assert (step.logprob_ids == SENTINEL).all()
    with pytest.raises(AssertionError, match="before its event"):
        step.output()
    engine._device.wait(step.event)
    output = step.output()
    (result,) = output.results(output.finite)
    assert step.packed.number.tolist() == [0]
    assert result.live == 1
    assert not output.ended.any()


class Watched(LazyDevice):
    """Keeps the events of its launches."""

    def __init__(self) -> None:
        super().__init__()
        self.events = list[Any]()

    def launch(self, fn: Any, stream: Any = "main", after: Any = ()) -> Any:
        self.events.append(super().launch(fn, stream, after))
        return self.events[-1]


@pytest.mark.parametrize("name", EVERY)
def test_a_step_returns_without_waiting_for_its_own_launch_where_the_loop_lags(name: str) -> None:
    device = Watched()
    engine = compose(loop=name, device=device, **SPARSE)
    engine.add(prompt_of(20), sampled(8))
    pending = list[bool]()

    def look(result: Any) -> None:
        if result.info.placed.rows:
            pending.append(not device.poll(device.events[-1]))

    finish(engine, sampled(8), look)
    assert set(pending) == {name != "sync"}


@pytest.mark.parametrize(
    ("name", "early"),
    [*(pytest.param(name, 0.5, marks=pytest.mark.slow) for name in LOOPS), ("resident", 0.3), ("resident", 1.0)],
)
def test_when_launches_run_changes_nothing(name: str, early: float) -> None:
    engine = compose(loop=name, device=LazyDevice(early, seed=4), num_gpu_blocks=16, **SPARSE)
    add(engine, sampled(8), length=17)
    finish(engine, sampled(8))
