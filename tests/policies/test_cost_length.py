"""Length `cost`, on streams made by hand: where it drafts, how far, when it tries, and what it takes others for."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sparsespec.core.cost import CostModel
from sparsespec.core.plan import Lengths
from sparsespec.core.view import View
from sparsespec.policies.lengths.cost import Cost, Situation, unpacked
from sparsespec.testing.checks.drawn_views import BLANK, view_of
from tests.policies.streams import bound, drafted, observe, propose, stream, verified, verify

DENSE = Lengths(0, 0)


def test_cost_drafts_where_it_pays_and_the_further_the_longer_the_context() -> None:
    part = bound(Cost())
    found = [part.best(Situation(64, context, 0.9, 0.05, 1.0)) for context in (256, 2048, 8192, 32768)]
    assert found == sorted(found)
    assert found[1] >= 2
    assert found[-1] > found[1]
    assert part.best(Situation(1, 256, 0.9, 0.05, 1.0)) == 0


def test_cost_expects_of_a_round_what_the_steps_of_it_cost() -> None:
    part, model = bound(Cost()), CostModel.load("h100-qwen3-8b")
    batch, context, k, chance, share = 64, 4096, 4, 0.8, 0.05
    yields = 1 + sum(chance**i for i in range(1, k + 1))
    tokens, kv = batch * (2 * k + 1) / (k + 1), batch * context * model.kv_token_bytes
    step = model.step(tokens, tokens, kv / (k + 1), k * share * kv / (k + 1))
    at = Situation(batch, context, chance, share, 1.0)
    assert part.rates(at)[k] == pytest.approx(batch * yields / ((k + 1) * step))
    assert part.rates(at)[0] == pytest.approx(batch / model.step(batch, batch, kv, 0))
    # guesses that are accepted spare forwards
    guessing = bound(Cost(guess=1))
    assert guessing.rates(at._replace(stride=2.0))[k] > guessing.rates(at)[k]


@pytest.mark.parametrize("options", [{}, {"guess": 3}, {"draft": 0, "guess": 4}])
def test_many_situations_are_judged_as_one_is(options: dict[str, Any]) -> None:
    part, dice = bound(Cost(**options)), random.Random(0)
    many = [
        Situation(
            dice.choice((1, 9, 200)), dice.randint(32, 40000), dice.random(), dice.random(), dice.choice((1.0, 1.7))
        )
        for _ in range(50)
    ]
    columns = Situation(*map(np.array, zip(*many, strict=True)))
    np.testing.assert_allclose(part.rates(columns), np.stack([part.rates(at) for at in many]), rtol=1e-14)
    assert part.best(columns).tolist() == [int(part.best(at)) for at in many]


def test_situations_come_back_from_what_they_are_remembered_by() -> None:
    part, seat = bound(Cost(guess=2)), np.arange(2)
    row = BLANK._replace(n_hi=40000)
    part.propose(view_of(row, row._replace(seat=1), num_running=64), seat)
    observe(part, drafted(0.07, 3), drafted(1.0, seat=1), verified(1, 7), verified(5, 5, seat=1))
    at: Any = unpacked(part._packed(64, np.array([17, 33333]), seat))
    assert at.batch.tolist() == [64, 64]
    assert at.context.tolist() == [32, 32768]  # known by their first bits
    # 1 of 2 and 5 of 5 candidates that were tried, beside 10 of all requests, of which 84 % were
    assert at.chance.tolist() == [0.78, 0.89]
    assert at.share.tolist() == [0.07, 1.0]
    assert at.stride.tolist() == [2.0, 1.0]


def test_cost_stops_where_drafts_are_never_accepted_and_tries_again_now_and_then() -> None:
    part = bound(Cost(probe=10))
    found = list(stream(part, lambda judged: 0, 60, running=64))
    assert found[0].draft > 0, "at first it believes in drafts"
    first = found.index(DENSE)
    assert first < 10
    tries = [i for i, lengths in enumerate(found) if i > first and lengths != DENSE]
    assert tries == [10, 20, 30, 40, 50]
    assert all(found[i].draft == 1 for i in tries), "the cheapest round that tries"


def test_cost_lets_all_requests_try_in_the_same_step() -> None:
    part = bound(Cost(probe=10))
    # the second one comes later, and is taken for one like the first
    streams = (
        stream(part, lambda judged: 0, 60, running=64),
        stream(part, lambda judged: 0, 43, running=64, seat=1, since=17),
    )
    found = [[step for step, lengths in enumerate(one) if lengths != DENSE] for one in streams]
    assert found[0][-5:] == [10, 20, 30, 40, 50]
    assert [17 + i for i in found[1]] == [20, 30, 40, 50]


def test_cost_asks_its_model_of_a_plain_row_only_when_it_may_try() -> None:
    part = bound(Cost(probe=10))
    list(stream(part, lambda judged: 0, 35, running=64))
    asked, honest = list[int](), part._choose

    def choose(view: View, *rest: Any) -> Any:
        asked.append(view.step)
        return honest(view, *rest)

    part._choose = choose
    list(stream(part, lambda judged: 0, 25, running=64, since=35))
    # the step after a try says whether it changed anything
    assert asked == [40, 41, 50, 51]


def test_cost_never_tries_where_speculation_loses_even_if_all_drafts_are_accepted() -> None:
    part = bound(Cost(probe=5))
    assert set(stream(part, lambda judged: judged, 40, running=1)) == {DENSE}
    # ... and tries at once where it could win, though what it assumes at first is that it does not
    assert part.best(Situation(12, 4000, 0.8, 0.1, 1.0)) == 0
    assert next(stream(bound(Cost(probe=5)), lambda judged: judged, 1, running=12)) != DENSE


def test_cost_takes_a_new_request_for_one_like_those_before_it() -> None:
    hard, easy = bound(Cost()), bound(Cost())
    for part, chance in ((hard, 0.3), (easy, 0.95)):
        list(stream(part, verify(chance, random.Random(0)), 60, running=64))

    def asked(seat: int) -> list[int]:
        row = BLANK._replace(seat=seat, n_hi=4000)
        return [int(propose(part, row, step=61, running=64).draft) for part in (hard, easy)]

    assert asked(1)[0] + 3 <= asked(1)[1]
    for part in (hard, easy):
        part.reset([0])
    assert asked(0) == asked(2) == asked(1), "a request that leaves takes nothing along that others go by"
    for part in (hard, easy):
        part.reset(range(64))
    assert asked(1)[0] == asked(1)[1]


def test_one_bad_round_of_a_request_weighs_little_beside_what_others_had() -> None:
    part = bound(Cost())
    list(stream(part, verify(0.95, random.Random(0)), 60, running=64))
    *_, after = stream(part, lambda judged: 0, 2, running=64, seat=1, since=61)
    assert after.draft >= 3
    *_, after_many = stream(part, lambda judged: 0, 30, running=64, seat=1, since=63)
    assert after_many.draft <= 1


def test_cost_wants_a_margin_before_it_speculates() -> None:
    at = Situation(64, 2048, 0.75, 0.1, 1.0)
    part = bound(Cost(margin=0.0))
    best = part.best(at)
    wins = part.rates(at)[best] / part.rates(at)[0] - 1
    assert wins > 0
    assert bound(Cost(margin=0.9 * wins)).best(at) == best
    assert bound(Cost(margin=1.1 * wins)).best(at) == 0


def test_cost_takes_up_drafting_when_the_text_becomes_easy_again() -> None:
    part = bound(Cost(probe=10))
    list(stream(part, lambda judged: 0, 60, running=64))
    found = list(stream(part, lambda judged: judged, 60, running=64, since=60))
    drafting = [lengths.draft for lengths in found[-20:]]
    assert min(drafting) >= 4


@pytest.mark.parametrize("chance", [0.5, 0.8, 0.95])
def test_cost_settles_near_the_best_length_of_its_chance(chance: float) -> None:
    part = bound(Cost(memory=0.97))
    best = part.best(Situation(64, 4096, chance, 0.05, 1.0))
    found = list(stream(part, verify(chance, random.Random(1)), 120, running=64))
    mean = sum(lengths.draft for lengths in found[40:]) / len(found[40:])
    assert abs(mean - best) < 1.5


def test_cost_of_guesses_alone_stops_too_where_the_proposer_finds_nothing() -> None:
    part = bound(Cost(draft=0, guess=4, probe=10))
    found: list[Lengths] = []
    for step in range(400):
        found.append(propose(part, BLANK._replace(n_hi=500), step=step, running=64))
        observe(part, verified(0, 0, k=0))
    assert found[0].guess > 0
    assert all(lengths.draft == 0 for lengths in found)
    assert sum(lengths == DENSE for lengths in found[-50:]) >= 40


def test_cost_learns_what_drafts_read() -> None:
    lean, greedy = bound(Cost()), bound(Cost())
    row = BLANK._replace(n_hi=8000)
    for part, share in ((lean, 0.03), (greedy, 0.9)):
        propose(part, row, running=64)
        for _ in range(20):
            observe(part, drafted(share))
            observe(part, verified(3, 4))
    assert propose(lean, row, running=64).draft > propose(greedy, row, running=64).draft


def test_results_of_a_step_count_together_as_one_by_one() -> None:
    together, single, dice = bound(Cost(guess=2)), bound(Cost(guess=2)), random.Random(0)
    view, seats = view_of(*(BLANK._replace(seat=seat, n_hi=8000) for seat in range(64))), np.arange(64)
    for step in range(20):
        for part in (together, single):
            part.propose(replace(view, step=step), seats)
        results = [
            drafted(dice.random(), dice.randint(1, 3), seat=seat)
            if dice.random() < 0.5
            else verified(dice.randint(0, 5), 5, seat=seat)
            for seat in dice.sample(range(64), dice.randint(1, 64))
        ]
        observe(together, *results)
        for result in results:
            observe(single, result)
        for many, one in zip(together._counts, single._counts, strict=True):
            assert many.all == pytest.approx(one.all, rel=1e-12)
            np.testing.assert_array_equal(many.own, one.own)
    assert together._collected == single._collected > 100
