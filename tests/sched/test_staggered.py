from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from sparsespec.core.errors import BadOption
from sparsespec.core.plan import Phase, Row
from sparsespec.core.view import RowView
from sparsespec.sched.staggered import Staggered
from sparsespec.testing.checks.drawn_views import BLANK, view_of
from sparsespec.testing.checks.stage import small_geometry

NEW = replace(BLANK, k=4, first_round=True)


def bound() -> Staggered:
    part = Staggered()
    part.bind(small_geometry(n_seats=8))
    return part


def seated(*rows: RowView) -> list[RowView]:
    return [replace(row, seat=i, arrival=i) for i, row in enumerate(rows)]


def play(part: Staggered, rows: list[RowView], steps: int) -> list[Counter[str]]:
    """Let every draft and verification succeed for sure; return how many rows of each phase each step had."""
    seen = []
    for step in range(steps):
        plan = part.plan(view_of(*rows, step=step, n_seats=8))
        seen.append(Counter(row.phase.name for row in plan.rows))
        for row in plan.rows:
            old = rows[row.seat]
            if row.phase is Phase.DRAFT:
                rows[row.seat] = replace(old, d_lo=old.d_lo + 1, d_hi=old.d_hi + 1)
            else:
                rows[row.seat] = replace(old, d_lo=0, d_hi=0, first_round=False)
    return seen


def test_requests_that_come_together_are_spread_over_the_round() -> None:
    seen = play(bound(), seated(*[NEW] * 5), 20)
    # five requests in rounds of four drafts and one verification: one verifies in each step
    assert all(step == {"DRAFT": 4, "VERIFY": 1} for step in seen)


def test_what_is_balanced_is_kv_and_not_rows() -> None:
    long = replace(NEW, n_lo=100, n_hi=100)
    rows = seated(long, NEW, NEW, NEW, NEW, NEW)
    part = bound()
    play(part, rows, 1)
    alone = part._cut[0]
    assert [part._cut[seat] for seat in range(1, 6)].count(alone) == 0


def test_a_lone_request_drafts_whole_rounds_from_the_start() -> None:
    seen = play(bound(), seated(NEW), 10)
    assert [step["VERIFY"] for step in seen] == [0, 0, 0, 0, 1] * 2


def test_later_rounds_are_never_cut() -> None:
    rows = seated(*[NEW] * 3)
    part = bound()
    play(part, rows, 30)
    for row in seated(*[replace(NEW, first_round=False, d_lo=3, d_hi=3)] * 3):
        assert part.plan(view_of(row)).rows[0].phase is Phase.DRAFT


def test_a_seat_that_changes_hands_is_placed_anew() -> None:
    part = bound()
    play(part, seated(*[NEW] * 5), 1)
    cut = part._cut.copy()
    part.reset([1])
    assert part._cut == {seat: wait for seat, wait in cut.items() if seat != 1}


def test_rows_that_draft_nothing_verify_in_every_step() -> None:
    plain = replace(BLANK, guess=2, first_round=True)
    assert bound().plan(view_of(plain)).rows == (Row(0, Phase.VERIFY, 3, 0),)


def test_filling_goes_on_beside_the_others() -> None:
    rows = seated(replace(BLANK, to_prefill=300), replace(NEW, d_lo=4, d_hi=4, first_round=False))
    assert bound().plan(view_of(*rows)).rows == (Row(1, Phase.VERIFY, 5, 4), Row(0, Phase.PREFILL, 256, 0))


def test_a_chunk_of_nothing_raises() -> None:
    with pytest.raises(BadOption, match="1 or more"):
        Staggered(-3)
