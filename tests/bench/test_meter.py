"""What is counted in a run: parts of whole rounds, steps that launched, time that lay in no launch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sparsespec.benchmarks.entries import Entry
from sparsespec.benchmarks.load import Load
from sparsespec.benchmarks.meter import LINES, Tally, TimedCuda, TimedLazy
from sparsespec.benchmarks.result import host_times
from sparsespec.core.plan import Phase, Placed, Row, Rows
from sparsespec.core.result import RowResult, RowResults
from sparsespec.engine.outputs import StepInfo, StepResult, StepSeconds


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


def outcome(phase: Phase, live: int, n_candidates: int, n_accepted: int, kv_read: float, kv_full: float) -> RowResult:
    return RowResult(0, phase, live, (), n_candidates, n_accepted, 8, 0.0, kv_read, kv_full)


def test_columns_of_a_step_are_added_up() -> None:
    rows = RowResults.of(
        [
            outcome(Phase.DRAFT, 1, 0, 0, 10.0, 100.0),
            outcome(Phase.DRAFT, 0, 0, 0, 0.0, 50.0),
            outcome(Phase.VERIFY, 4, 3, 2, 90.0, 90.0),
            outcome(Phase.VERIFY, 4, 3, 3, 70.0, 70.0),
            outcome(Phase.VERIFY, 1, 0, 0, 30.0, 30.0),
        ]
    )
    placed = Placed(Rows([Row(0, Phase.DRAFT, 1, 3), Row(1, Phase.VERIFY, 4, 3)]), preempted=(5,))
    seconds = StepSeconds(view=1, plan=2, place=3, launch=4, collect=15, process=6, waited=10)
    info = StepInfo(0, placed=placed, collected=rows, n_output=8, n_running=2, seconds=seconds)
    one = Tally()
    for _ in range(2):
        one.add(StepResult((), False, info), 0.5)
    one.add(StepResult((), False, StepInfo(1)), 0.25)
    assert (one.step_seconds, one.tokens, one.query_tokens) == ([0.5, 0.5, 0.25], [8, 8, 0], [5, 5, 0])
    assert (one.rows, one.running, one.empty, one.preempted, one.launched) == (4, 4, 1, 2, 2)
    # a DRAFT row that ran no query is no forward
    assert (one.drafts, one.verifications, one.rounds, one.accepted) == (2, 6, 4, 10)
    assert (one.kv_read, one.kv_verify, one.kv_drafts, one.kv_drafts_full) == (400, 380, 20, 300)
    assert one.mean_acceptance_length == 1 + 10 / 4
    assert Tally().mean_acceptance_length is None
    assert one.host_seconds == dict(zip(LINES, (2, 4, 6, 8, 10, 12), strict=True))
    # a launched step's: the third step launched nothing
    assert host_times(one)["all"] == pytest.approx(1e3 * seconds.host)
    assert host_times(one)["waiting"] == pytest.approx(1e4)


def test_what_is_left_out_of_the_side_stream_is_not_run() -> None:
    device, ran = TimedLazy(), list[str]()
    device.without_side = True
    device.wait(device.launch(lambda: ran.append("main")))
    device.wait(device.launch(lambda: ran.append("left out"), "side"))
    device.without_side = False
    device.wait(device.launch(lambda: ran.append("side"), "side"))
    assert ran == ["main", "side"]


def test_with_turnover_the_first_ones_stand_at_different_places() -> None:
    load = Load(8, (100, 200), (50, 50), 40, 10, 5, 60.0, 0, 0.0, True, False)
    lengths = load.lengths(Entry("dense"))
    assert len({output for _, output in lengths[:8]}) > 4
    assert {output for _, output in lengths[8:]} == {50}
    # enough that nobody is missed: eight requests at a token a step
    assert sum(output for _, output in lengths) >= 8 * (40 + 10 + 20)
    assert lengths == load.lengths(Entry("dense"))
