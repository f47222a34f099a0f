from __future__ import annotations

import random

import numpy as np
import pytest

from sparsespec.core.errors import ContractBroken
from sparsespec.core.plan import (
    Phase,
    Row,
    Rows,
    StepPlan,
    can_draft,
    check_plan,
    draft_row,
    draft_rows,
    drafters,
    verify_row,
    verify_rows,
)
from sparsespec.core.view import View
from sparsespec.testing.checks.drawn_views import draw_view


def views(n: int = 200) -> list[View]:
    dice = random.Random(0)
    return [draw_view(dice, 8, step) for step in range(n)]


def test_many_rows_are_built_as_one_is() -> None:
    for view in views():
        can = [can_draft(view, i) for i in range(len(view))]
        assert drafters(view).tolist() == can
        assert draft_rows(view, drafters(view)) == [draft_row(view, i) for i in range(len(view)) if can[i]]
        index = np.arange(len(view))[::-1]
        assert verify_rows(view, index) == [verify_row(view, i) for i in index]


def test_rows_read_like_a_tuple() -> None:
    rows = tuple(Row(seat, Phase(seat % 3), 1 + seat, 2 * seat) for seat in range(5))
    many = Rows(rows)
    assert many == rows == tuple(many)
    assert (many[0], many[-1], many[1:3], len(many), repr(many)) == (rows[0], rows[-1], rows[1:3], 5, repr(rows))
    assert rows[3] in many
    assert many.take(many.n_query > 3) == rows[3:]
    assert Rows() == StepPlan().rows == ()
    assert StepPlan(rows[:2], many[2:]).rows == rows
    with pytest.raises(IndexError):
        many[5]


def test_rows_hold_plain_integers() -> None:
    for view in views(20):
        for row in (*draft_rows(view, drafters(view)), *verify_rows(view, view.to_prefill == 0)):
            assert isinstance(row.phase, Phase)
            assert {type(x) for x in (row.seat, row.n_query, row.k)} == {int}


@pytest.mark.parametrize("change", [{"n_query": 1}, {"k": 1}, {"seat": 50}, {"seat": -50}, {"phase": None}])
def test_a_row_that_no_builder_makes_is_refused(change: dict[str, int | None]) -> None:
    for view in views(50):
        decoding = view.to_prefill == 0
        for row in (*draft_rows(view, drafters(view)), *verify_rows(view, decoding)):
            check_plan(StepPlan((row,)), view)
            wrong = row._replace(**{name: by and getattr(row, name) + by for name, by in change.items()})
            with pytest.raises(ContractBroken):
                check_plan(StepPlan((wrong,)), view)


def test_nobody_is_planned_twice() -> None:
    for view in views(50):
        rows = verify_rows(view, view.to_prefill == 0)
        if rows:
            with pytest.raises(ContractBroken, match="twice"):
                check_plan(StepPlan((*rows, Row(*rows[0]))), view)
