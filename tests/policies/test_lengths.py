"""Lengths on streams made by hand: what they propose while drafts are accepted and while they are not."""

from __future__ import annotations

from typing import Any

import pytest

from sparsespec.core.errors import BadOption
from sparsespec.core.params import SamplingParams
from sparsespec.core.plan import Lengths
from sparsespec.core.view import Ints, View
from sparsespec.engine.engine import Engine
from sparsespec.models.tiny import tiny
from sparsespec.policies.lengths.confidence import Confidence
from sparsespec.policies.lengths.ema import Ema
from sparsespec.policies.lengths.fixed import Fixed
from sparsespec.policies.lengths.table import Table
from sparsespec.policies.lengths.zero import Zero
from sparsespec.testing.checks.drawn_views import BLANK
from sparsespec.testing.checks.stage import small_geometry
from tests.policies.streams import bound, drafted, observe, propose, stream, verified


@pytest.mark.parametrize(
    ("part", "lengths"),
    [
        (Zero(), Lengths(0, 0)),
        (Fixed(draft=5, guess=2), Lengths(5, 2, 0.0)),
        # it leaves it to the device where a round ends
        (Confidence(draft=6, stop_below=0.25, guess=2), Lengths(6, 2, 0.25)),
    ],
)
def test_a_length_that_learns_nothing_proposes_the_same_in_every_round(part: Any, lengths: Lengths) -> None:
    assert propose(part) == lengths
    assert (part.max_draft, part.max_guess) == lengths[:2]


def test_ema_shrinks_while_drafts_are_rejected_and_grows_while_they_are_accepted() -> None:
    part = bound(Ema(most=6, least=2, memory=0.5))
    shrinking = [lengths.draft for lengths in stream(part, lambda judged: 0, 8)]
    assert shrinking == [6, 5, 4, 3, 2, 2, 2, 2]
    growing = [lengths.draft for lengths in stream(part, lambda judged: judged, 9)]
    # the mean must first climb from 0 over `grow`
    assert growing == [2, 2, 2, 3, 4, 5, 6, 6, 6]


def test_ema_stands_still_between_its_thresholds() -> None:
    part = bound(Ema(most=9, least=1, memory=0.0, grow=0.9, shrink=0.4))
    observe(part, verified(1, 6))
    assert propose(part).draft == 8
    for accepted in (3, 4, 5, 3, 5):
        observe(part, verified(accepted, 6))
        assert propose(part).draft == 8
    one = bound(Ema(most=9, least=1, memory=0.0, grow=0.55, shrink=0.54))
    moved = set[int]()
    for accepted in (3, 4, 3, 4, 3):
        observe(one, verified(accepted, 6))
        moved.add(int(propose(one).draft))
    assert len(moved) > 1, "without room between the thresholds it moves all the time"


def test_ema_learns_neither_from_rounds_without_drafts_nor_growth_from_short_ones() -> None:
    part = bound(Ema(most=6, least=2, memory=0.0, guess=3))
    observe(part, verified(0, 6))
    assert propose(part) == Lengths(5, 3)
    observe(part, verified(0, 3, k=0))
    observe(part, verified(0, 0, k=5))
    observe(part, drafted(0.1))
    observe(part, verified(2, 2, k=5))
    assert propose(part) == Lengths(5, 3)
    assert propose(part, BLANK._replace(seat=1)) == Lengths(6, 3), "each seat has its own"


def test_a_table_is_looked_up_by_batch_and_context() -> None:
    part = Table(batch=[1, 2, 64], context=[100, 1000], draft=[[0, 3], [4, 5], [6, 7]], guess=[[1, 0], [0, 0], [0, 2]])
    assert (part.max_draft, part.max_guess) == (7, 2)
    bound(part, max_model_len=1000)

    def asked(running: int, n: int) -> Lengths:
        return propose(part, BLANK._replace(n_lo=n, n_hi=n), running=running)

    assert asked(1, 100) == Lengths(0, 1)
    assert asked(1, 101) == Lengths(3, 0)
    assert asked(2, 100) == Lengths(4, 0)
    assert asked(3, 1000) == Lengths(7, 2)


def test_a_table_without_guesses_makes_none() -> None:
    part = Table(batch=[64], context=[40960], draft=[[5]])
    assert part.max_guess == 0
    assert propose(bound(part)) == Lengths(5, 0)


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        (
            {"n_seats": 9},
            "ends at a batch of 8 and the engine has max_num_seqs=9; add to the table, or lower max_num_seqs",
        ),
        ({"max_model_len": 101}, "ends at a context of 100 and the engine has max_model_len=101"),
    ],
)
def test_a_table_that_does_not_cover_the_engine_is_refused_when_it_is_bound(sizes: dict[str, int], says: str) -> None:
    part = Table(batch=[8], context=[100], draft=[[4]])
    part.bind(_covering())
    with pytest.raises(BadOption, match=says):
        part.bind(_covering(**sizes))


def _covering(**sizes: int) -> Any:
    return small_geometry(**{"n_seats": 8, "max_model_len": 100, "num_gpu_blocks": 2} | sizes)


def test_a_length_is_told_how_many_requests_are_seated() -> None:
    told: list[tuple[int, int]] = []

    class Listening(Fixed):
        def propose(self, view: View, index: Ints) -> Lengths:
            told.extend((arrival, view.num_running) for arrival in view.arrival[index].tolist())
            return super().propose(view, index)

    engine = Engine.compose(tiny(), selector="window(min_budget=8)", length=Listening(2), max_num_seqs=3)
    for i, n in enumerate((4, 12, 20, 28)):
        engine.add([i, 1, 2], SamplingParams(temperature=0.0, max_tokens=n, ignore_eos=True))
    while engine.has_work:
        engine.step()
    engine.close()
    # three seats until the last one waiting has taken a free one, then fewer as requests end
    assert told[:3] == [(0, 3), (1, 3), (2, 3)]
    assert [running for _, running in told] == sorted((running for _, running in told), reverse=True)
    assert told[-1] == (3, 1)
