from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from sparsespec.core import registry
from sparsespec.core.errors import BadOption
from sparsespec.core.plan import Phase
from sparsespec.testing import Chaos, Erratic, check_length, check_scheduler, register_adversaries
from sparsespec.testing.checks.drawn_views import BLANK, draw_view, view_of


def test_registering_twice_changes_nothing() -> None:
    register_adversaries()
    register_adversaries()
    assert registry.lookup("scheduler", "chaos") is Chaos
    assert registry.lookup("length", "erratic") is Erratic


WAYS = ({"idle": 0.9}, {"early": 0.9, "chunk": 1}, {"idle": 0.0, "early": 0.0})


@pytest.mark.parametrize("options", [{}, *(pytest.param(options, marks=pytest.mark.slow) for options in WAYS)])
def test_chaos_is_a_scheduler(options: dict[str, float]) -> None:
    check_scheduler(Chaos(**options), examples=5)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("options", [{}, {"max_guess": 3, "stop": 1.0}, {"max_draft": 0, "max_guess": 2}])
def test_erratic_is_a_length_policy(options: dict[str, float]) -> None:
    check_length(Erratic(**options))  # pyright: ignore[reportArgumentType]


def test_chaos_does_everything_that_is_legal() -> None:
    chaos, dice, seen = Chaos(idle=0.3, early=0.3), random.Random(0), Counter[str]()
    for step in range(300):
        view = draw_view(dice, step=step)
        plan = chaos.plan(view)
        seats = view.seat.tolist()
        seen["left out"] += len(plan.rows) < len(view)
        seen["shuffled"] += [row.seat for row in plan.rows] != [s for s in seats if s in {r.seat for r in plan.rows}]
        for row in plan.rows:
            i = seats.index(row.seat)
            seen[row.phase.name] += 1
            could = not view.must_verify[i] and view.d_lo[i] < view.k[i]
            seen["early"] += row.phase is Phase.VERIFY and bool(could)
            seen["part"] += row.phase is Phase.PREFILL and bool(row.n_query < view.to_prefill[i])
    for what in ("left out", "shuffled", "PREFILL", "DRAFT", "VERIFY", "early", "part"):
        assert seen[what] >= 10, seen


def test_chaos_repeats_itself_by_step_and_seed() -> None:
    views = [draw_view(random.Random(i), step=i) for i in range(20)]
    plans = [[Chaos(seed=seed).plan(view) for view in views] for seed in (1, 1, 2)]
    assert plans[0] == plans[1] != plans[2]


def test_erratic_changes_its_mind_within_its_promise() -> None:
    erratic = Erratic(max_draft=5, max_guess=3, stop=0.5)
    view = view_of(*(BLANK._replace(n_lo=n, arrival=a) for n in range(60) for a in range(3)))
    draft, guess, stop_below = map(np.asarray, erratic.propose(view, np.arange(len(view))))
    assert set(draft.tolist()) == set(range(6))
    assert set(guess.tolist()) == set(range(4))
    assert stop_below.any()
    assert not stop_below.all()


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (Chaos, {"idle": 1.0}),
        (Chaos, {"early": -0.1}),
        (Chaos, {"chunk": 0}),
        (Erratic, {"max_draft": -1}),
        (Erratic, {"max_guess": -1}),
        (Erratic, {"stop": 2}),
    ],
)
def test_an_option_that_cannot_work_raises(make: type, options: dict[str, float]) -> None:
    with pytest.raises(BadOption, match=r"in \[0, 1|or more|numbers of tokens"):
        make(**options)
