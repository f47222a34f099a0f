"""Lengths that learn, on streams made by hand: what they propose while drafts stand, fall, and stand again."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest

from sparsespec.core.cost import CostModel
from sparsespec.core.errors import BadOption, UnknownName
from sparsespec.core.params import SamplingParams
from sparsespec.core.plan import Lengths, Phase
from sparsespec.core.result import RowResult
from sparsespec.core.view import RowView
from sparsespec.engine.engine import Engine
from sparsespec.models.tiny import tiny
from sparsespec.policies.lengths.confidence import Confidence
from sparsespec.policies.lengths.cost import Cost, Situation
from sparsespec.policies.lengths.ema import Ema
from sparsespec.policies.lengths.fixed import Fixed
from sparsespec.policies.lengths.table import Table
from sparsespec.testing.checks.drawn_views import BLANK
from sparsespec.testing.checks.stage import small_geometry

DENSE = Lengths(0, 0)


def verified(accepted: int, judged: int, *, k: int | None = None, seat: int = 0) -> RowResult:
    """Return a verification of `judged` candidates, of which `accepted` stood."""
    return RowResult(
        seat=seat,
        phase=Phase.VERIFY,
        live=judged + 1,
        tokens=(0,) * (accepted + 1),
        n_candidates=judged,
        n_accepted=accepted,
        k=judged if k is None else k,
        confidence=float("nan"),
        kv_read=1000.0,
        kv_full=1000.0,
    )


def drafted(share: float, n: int = 1) -> RowResult:
    """Return a DRAFT row that read a share of its context and drew `n` tokens."""
    return verified(n - 1, n - 1, k=8)._replace(phase=Phase.DRAFT, kv_read=1000.0 * share)


def bound(part: Any, n_seats: int = 64, **sizes: Any) -> Any:
    pages = {"n_seats": n_seats, "max_context": 40960, "n_pages": 2}
    part.bind(small_geometry(max_draft=part.max_draft, max_guess=part.max_guess, **(pages | sizes)))
    part.reset(range(n_seats))
    return part


def stream(part: Any, stands: Callable[[int], int], rounds: int, *, running: int = 1) -> Iterator[Lengths]:
    """Yield what `part` proposes to seat 0 in each round, of which `stands(candidates)` are accepted."""
    for step in range(rounds):
        lengths = part.propose(BLANK._replace(n_lo=4000, n_hi=4000, waiting_since=step, running=running))
        yield lengths
        for _ in range(lengths.draft):
            part.observe(drafted(0.05))
        judged = lengths.draft or lengths.guess
        part.observe(verified(stands(judged), judged, k=lengths.draft))


def chain(chance: float, dice: random.Random) -> Callable[[int], int]:
    """Return a function that lets each candidate stand with `chance`, once those before it did."""

    def stands(judged: int) -> int:
        return next((i for i in range(judged) if dice.random() >= chance), judged)

    return stands


def test_confidence_leaves_it_to_the_device_where_a_round_ends() -> None:
    part = Confidence(draft=6, stop_below=0.25, guess=2)
    assert part.propose(BLANK) == Lengths(6, 2, 0.25)
    assert (part.max_draft, part.max_guess) == (6, 2)


def test_ema_shrinks_while_drafts_fall_and_grows_while_they_stand() -> None:
    part = bound(Ema(most=6, least=2, memory=0.5))
    falling = [lengths.draft for lengths in stream(part, lambda judged: 0, 8)]
    assert falling == [6, 5, 4, 3, 2, 2, 2, 2]
    standing = [lengths.draft for lengths in stream(part, lambda judged: judged, 9)]
    # the mean must first climb from 0 over `grow`
    assert standing == [2, 2, 2, 3, 4, 5, 6, 6, 6]


def test_ema_stands_still_between_its_thresholds() -> None:
    part = bound(Ema(most=9, least=1, memory=0.0, grow=0.9, shrink=0.4))
    part.observe(verified(1, 6))
    assert part.propose(BLANK).draft == 8
    for accepted in (3, 4, 5, 3, 5):
        part.observe(verified(accepted, 6))
        assert part.propose(BLANK).draft == 8
    one = bound(Ema(most=9, least=1, memory=0.0, grow=0.55, shrink=0.54))
    moved = set[int]()
    for accepted in (3, 4, 3, 4, 3):
        one.observe(verified(accepted, 6))
        moved.add(one.propose(BLANK).draft)
    assert len(moved) > 1, "without room between the thresholds it moves all the time"


def test_ema_learns_neither_from_rounds_without_drafts_nor_growth_from_short_ones() -> None:
    part = bound(Ema(most=6, least=2, memory=0.0, guess=3))
    part.observe(verified(0, 6))
    assert part.propose(BLANK) == Lengths(5, 3)
    part.observe(verified(0, 3, k=0))
    part.observe(verified(0, 0, k=5))
    part.observe(drafted(0.1))
    part.observe(verified(2, 2, k=5))
    assert part.propose(BLANK) == Lengths(5, 3)
    assert part.propose(BLANK._replace(seat=1)) == Lengths(6, 3), "each seat has its own"


def test_a_table_is_looked_up_by_batch_and_context() -> None:
    part = Table(batch=[1, 2, 64], context=[100, 1000], draft=[[0, 3], [4, 5], [6, 7]], guess=[[1, 0], [0, 0], [0, 2]])
    assert (part.max_draft, part.max_guess) == (7, 2)
    bound(part, max_context=1000)

    def asked(running: int, n: int) -> Lengths:
        return part.propose(BLANK._replace(n_lo=n, n_hi=n, running=running))

    assert asked(1, 100) == Lengths(0, 1)
    assert asked(1, 101) == Lengths(3, 0)
    assert asked(2, 100) == Lengths(4, 0)
    assert asked(3, 1000) == Lengths(7, 2)


def test_a_table_without_guesses_makes_none() -> None:
    part = Table(batch=[64], context=[40960], draft=[[5]])
    assert part.max_guess == 0
    assert bound(part).propose(BLANK) == Lengths(5, 0)


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ({"n_seats": 9}, "ends at a batch of 8 and the engine has max_batch=9; add to the table, or lower max_batch"),
        ({"max_context": 101}, "ends at a context of 100 and the engine has max_context=101"),
    ],
)
def test_a_table_that_does_not_cover_the_engine_is_refused_when_it_is_bound(sizes: dict[str, int], says: str) -> None:
    part = Table(batch=[8], context=[100], draft=[[4]])
    part.bind(_covering())
    with pytest.raises(BadOption, match=says):
        part.bind(_covering(**sizes))


def _covering(**sizes: int) -> Any:
    return small_geometry(**{"n_seats": 8, "max_context": 100, "n_pages": 2} | sizes)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch": [8, 8, 9, 10]}, "rising list"),
        ({"batch": []}, "rising list"),
        ({"context": [0, 1, 2, 3]}, "1 or more"),
        ({"draft": [[1]]}, "4 rows, one a batch, of 4 numbers"),
        ({"draft": [[1], [1], [1], [1]]}, "4 rows, one a batch, of 4 numbers"),
        ({"draft": [[1, 1, 1, -1]] * 4}, "0 or more"),
        ({"guess": 3}, "4 rows"),
        ({"guess": [3, 3, 3, 3]}, "lists of whole numbers"),
    ],
)
def test_a_table_that_is_none_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(BadOption, match=says):
        Table(**options)


def test_cost_drafts_where_it_pays_and_the_further_the_longer_the_context() -> None:
    part = bound(Cost())
    found = [part.best(Situation(64, context, 0.9, 0.05, 1.0))[0].draft for context in (256, 2048, 8192, 32768)]
    assert found == sorted(found)
    assert found[1] >= 2
    assert found[-1] > found[1]
    assert part.best(Situation(1, 256, 0.9, 0.05, 1.0))[0] == DENSE


def test_cost_expects_of_a_round_what_the_steps_of_it_cost() -> None:
    part, model = bound(Cost()), CostModel.load("h100-qwen3-8b")
    batch, context, k, chance, share = 64, 4096, 4, 0.8, 0.05
    yields = 1 + sum(chance**i for i in range(1, k + 1))
    tokens, kv = batch * (2 * k + 1) / (k + 1), batch * context * model.kv_token_bytes
    step = model.step(tokens, tokens, kv / (k + 1), k * share * kv / (k + 1))
    at = Situation(batch, context, chance, share, 1.0)
    assert part.rate(Lengths(k, 0), at) == pytest.approx(batch * yields / ((k + 1) * step))
    assert part.rate(DENSE, at) == pytest.approx(batch / model.step(batch, batch, kv, 0))
    # guesses that stand spare forwards
    assert part.rate(Lengths(k, 1), at._replace(stride=2.0)) > part.rate(Lengths(k, 1), at)


def test_cost_stops_where_drafts_never_stand_and_tries_again_now_and_then() -> None:
    part = bound(Cost(probe=10))
    found = list(stream(part, lambda judged: 0, 60, running=64))
    assert found[0].draft > 0, "at first it believes in drafts"
    first = found.index(DENSE)
    assert first < 20
    tries = [i for i, lengths in enumerate(found) if i > first and lengths != DENSE]
    assert tries
    assert all(b - a == 11 for a, b in pairwise(tries))
    assert all(found[i].draft == 1 for i in tries), "the cheapest round that tries"


def test_cost_takes_up_drafting_when_the_text_becomes_easy_again() -> None:
    part = bound(Cost(probe=10))
    list(stream(part, lambda judged: 0, 60, running=64))
    found = list(stream(part, lambda judged: judged, 60, running=64))
    drafting = [lengths.draft for lengths in found[-20:]]
    assert min(drafting) >= 4


@pytest.mark.parametrize("chance", [0.5, 0.8, 0.95])
def test_cost_settles_near_the_best_length_of_its_chance(chance: float) -> None:
    part = bound(Cost(memory=0.97))
    best = part.best(Situation(64, 4096, chance, 0.05, 1.0))[0].draft
    found = list(stream(part, chain(chance, random.Random(1)), 120, running=64))
    mean = sum(lengths.draft for lengths in found[40:]) / len(found[40:])
    assert abs(mean - best) < 1.5


def test_cost_of_guesses_alone_stops_too_where_the_proposer_finds_nothing() -> None:
    part = bound(Cost(draft=0, guess=4, probe=10))
    found: list[Lengths] = []
    for step in range(400):
        found.append(part.propose(BLANK._replace(n_hi=500, waiting_since=step, running=64)))
        part.observe(verified(0, 0, k=0))
    assert found[0].guess > 0
    assert all(lengths.draft == 0 for lengths in found)
    assert sum(lengths == DENSE for lengths in found[-50:]) >= 40


def test_cost_learns_what_drafts_read() -> None:
    lean, greedy = bound(Cost()), bound(Cost())
    for part, share in ((lean, 0.03), (greedy, 0.9)):
        for _ in range(20):
            part.observe(drafted(share))
            part.observe(verified(3, 4))
    row = BLANK._replace(n_hi=8000, running=64)
    assert lean.propose(row).draft > greedy.propose(row).draft


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Ema(least=0), "1 <= least <= most"),
        (lambda: Ema(memory=1.0), "weight of earlier rounds"),
        (lambda: Ema(grow=0.4, shrink=0.5), "shrink < grow"),
        (lambda: Confidence(draft=0), "fixed\\(draft=0,guess=4\\)"),
        (lambda: Confidence(stop_below=0.0), "'fixed' never stops early"),
        (lambda: Cost(draft=0), "not both 0"),
        (lambda: Cost(memory=1.0), "in \\[0, 1\\)"),
        (lambda: Cost(probe=0), "1 or more"),
        (lambda: Cost(costs="none.json"), "cannot be read"),
    ],
)
def test_an_option_that_cannot_work_raises(make: Callable[[], object], says: str) -> None:
    with pytest.raises(BadOption, match=says):
        make()


def test_costs_that_nobody_measured_raise() -> None:
    with pytest.raises(UnknownName, match="did you mean 'h100-qwen3-8b'"):
        Cost(costs="h100-qwen3")


def test_a_length_is_told_how_many_requests_are_seated() -> None:
    told: list[tuple[int, int]] = []

    class Listening(Fixed):
        def propose(self, row: RowView) -> Lengths:
            told.append((row.arrival, row.running))
            return super().propose(row)

    engine = Engine.compose(tiny(), selector="window(min_budget=8)", length=Listening(2), max_batch=3)
    for i, n in enumerate((4, 12, 20, 28)):
        engine.add([i, 1, 2], SamplingParams(temperature=0.0, max_tokens=n, ignore_eos=True))
    while engine.has_work:
        engine.step()
    engine.close()
    # three seats until the last one waiting has taken a free one, then fewer as requests end
    assert told[:3] == [(0, 3), (1, 3), (2, 3)]
    assert [running for _, running in told] == sorted((running for _, running in told), reverse=True)
    assert told[-1] == (3, 1)
