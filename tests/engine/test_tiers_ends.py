"""Whoever ends while its KV is on its way, wherever it is, leaves nothing behind and costs nobody else."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from sparsespec.core.plan import Phase
from sparsespec.engine.engine import Engine
from sparsespec.engine.outputs import StepResult
from tests.engine.pressure import HOST, PARAMS, STATES, TIGHT, ask, tight, where
from tests.engine.running import (
    EVERY,
    LOOPS,
    Known,
    assert_dense,
    assert_empty,
    finish,
    oracle,
    prompt_of,
    requests_of,
    run,
    said,
    sampled,
    until,
)
from tests.quick import quick_last


@pytest.mark.parametrize("loop", EVERY)
@pytest.mark.parametrize("state", quick_last(STATES))
def test_abort_in_any_state_leaves_nothing_behind(state: str, loop: str) -> None:
    engine = tight(loop=loop)
    ask(engine)
    victim = list[int]()

    def reached(_: StepResult) -> bool:
        victim[:] = [r.group for seat, r in engine._table.requests.items() if where(engine, seat) == state]
        return bool(victim)

    done = until(engine, reached)
    known = said(engine, requests_of(engine, victim[0])[0])
    engine.abort(victim[0])
    done |= run(engine)
    assert_empty(engine)
    ended = done.pop((victim[0], 0))
    assert (ended.finish_reason, ended.token_ids) == ("abort", known)
    assert known == oracle(ended, PARAMS)[: len(known)]
    assert len(done) == 3
    for completion in done.values():
        assert_dense(completion, PARAMS)


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("state", STATES)
def test_the_last_one_aborted_leaves_nothing_behind(state: str, loop: str) -> None:
    engine = tight(loop=loop)
    ask(engine, 3)
    until(engine, lambda _: any(where(engine, seat) == state for seat in engine._table.requests))
    for request in range(3):
        engine.abort(request)
    # the copies under way are still to be heard of
    run(engine)
    assert_empty(engine)
    ask(engine)
    finish(engine, PARAMS)


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["delayed", "resident"])
@pytest.mark.parametrize("reason", ["stop", "length"])
def test_who_ends_by_what_it_says_may_be_anywhere(reason: str, loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Counter[str]()
    real = Engine._leave

    def leave(self: Engine, request: Any) -> None:
        found[where(self, request.seat)] += 1
        real(self, request)

    monkeypatch.setattr(Engine, "_leave", leave)
    for seed in range(4):
        engine = tight(HOST.replace("chunk=2", "chunk=64"), loop, 0.5, seed)
        part: Any = engine._parts.tiers
        marks = part._low, part._high

        def press(result: StepResult, engine: Engine = engine, marks: tuple[int, int] = marks) -> None:
            # all but the oldest must leave whenever what somebody is about to say is not known yet
            about = [row.phase for r in engine._table.requests.values() for row in Known(engine, r).in_flight]
            now = result.info.step % 2 and Phase.VERIFY in about
            engine._parts.tiers._low, engine._parts.tiers._high = (TIGHT, TIGHT) if now else marks

        stops = tuple(range(0, 60, 4)) if reason == "stop" else ()
        params = [sampled(6 + 2 * i, stop_token_ids=stops) for i in range(4)]
        for shift, wish in enumerate(params):
            engine.add(prompt_of(12, shift + seed), wish)
        for (request, _), completion in run(engine, press).items():
            assert_dense(completion, params[request])
        assert_empty(engine)
    assert found["here"]
    assert found["leaving"] + found["out"]


@pytest.mark.parametrize("drop", ["reset", "close"])
@pytest.mark.parametrize("state", quick_last(["leaving", "coming back"]))
def test_copies_under_way_end_before_their_engine_begins_anew(drop: str, state: str) -> None:
    engine = tight(early=0.0)
    ask(engine)
    until(engine, lambda _: any(where(engine, seat) == state for seat in engine._table.requests))
    device: Any = engine._device
    assert device._queues["side"]
    getattr(engine, drop)()
    assert not device._queues["side"]
    if drop == "reset":
        ask(engine)
        finish(engine, PARAMS)
