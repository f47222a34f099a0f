"""What is counted in a run: parts of whole rounds, steps that launched, time that lay in no launch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.engine_load import Load
from bench.engine_meter import Clock, Tally, TimedCuda
from bench.engine_subjects import Subject


def tally(launched: list[int], tokens: list[int]) -> Tally:
    """Return a run of steps of a second each, which launched something or not."""
    one = Tally(step_seconds=[1.0] * len(launched), tokens=tokens, query_tokens=launched)
    one.empty = launched.count(0)
    return one


def test_a_step_that_launches_nothing_belongs_to_the_next() -> None:
    assert tally([1, 1, 0, 1, 0], [0] * 5).launched_seconds == [1, 1, 2]
    assert tally([1, 1, 0, 1, 0], [0] * 5).launched == 3


def test_parts_are_whole_rounds() -> None:
    # in lockstep a batch commits in the last of three steps, and is heard in one that launches nothing
    rounds = tally([4, 4, 12, 0] * 5 + [4], [0, 0, 0, 9] * 5 + [0])
    assert rounds.parts(1, 3) == [(36, 19.0)]
    assert [tokens for tokens, _ in rounds.parts(5, 3)] == [0, 9, 9, 9, 9]
    assert [seconds for _, seconds in rounds.parts(5, 3)] == [3, 4, 4, 4, 4]
    assert len(rounds.parts(9, 3)) == 5
    # too short for a round: all there is
    assert tally([4, 4], [1, 2]).parts(5, 3) == [(3, 2.0)]


def event(ms: float) -> Any:
    return SimpleNamespace(ms=ms, elapsed_time=lambda other: other.ms - ms)


def test_idle_is_what_lies_in_no_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    device = object.__new__(TimedCuda)
    device.spans = [(event(10), event(19)), (event(20), event(28)), (event(30), event(99))]
    assert device.idle_share() == pytest.approx(3 / 20)
    device.spans = device.spans[:1]
    assert device.idle_share() is None


def test_a_line_is_added_up_also_where_it_raises() -> None:
    def broken() -> None:
        raise ValueError

    clock, queue = Clock(), SimpleNamespace(view=broken)
    clock.start()
    clock.wrap(queue, "view", "view")
    with pytest.raises(ValueError):
        queue.view()
    assert clock.seconds["view"] > 0


def test_with_turnover_the_first_ones_stand_at_different_places() -> None:
    load = Load(8, (100, 200), (50, 50), 40, 10, 5, 60.0, 0, 0.0, True, False)
    lengths = load.lengths(Subject("dense"))
    assert len({output for _, output in lengths[:8]}) > 4
    assert {output for _, output in lengths[8:]} == {50}
    # enough that nobody is missed: eight requests at a token a step
    assert sum(output for _, output in lengths) >= 8 * (40 + 10 + 20)
    assert lengths == load.lengths(Subject("dense"))
