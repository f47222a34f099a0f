from __future__ import annotations

import pytest

from sparsespec.core.errors import BadOption
from sparsespec.core.plan import Phase, Row
from sparsespec.sched.lockstep import Lockstep
from sparsespec.testing.checks.drawn_views import BLANK, ViewRow, view_of

DRAFTING = BLANK._replace(k=4, d_lo=2, d_hi=2)
FULL = BLANK._replace(k=4, d_lo=4, d_hi=4)
FILLING = BLANK._replace(to_prefill=7)


def plan(*rows: ViewRow, chunk: int = 256) -> tuple[Row, ...]:
    seated = [row._replace(seat=i, arrival=i) for i, row in enumerate(rows)]
    return tuple(sorted(Lockstep(chunk).plan(view_of(*seated)).rows))  # by seat


def test_full_rows_wait_while_another_drafts() -> None:
    assert plan(FULL, DRAFTING) == (Row(1, Phase.DRAFT, 1, 4),)


def test_all_verify_together() -> None:
    assert plan(FULL, FULL, BLANK) == (
        Row(0, Phase.VERIFY, 5, 4),
        Row(1, Phase.VERIFY, 5, 4),
        Row(2, Phase.VERIFY, 1, 0),
    )


def test_nobody_waits_for_who_starves() -> None:
    starving = DRAFTING._replace(starved=True)
    assert plan(FULL, starving) == (Row(0, Phase.VERIFY, 5, 4), Row(1, Phase.DRAFT, 1, 4))


def test_a_row_that_owes_a_verify_does_not_draft() -> None:
    assert plan(DRAFTING._replace(must_verify=True)) == (Row(0, Phase.VERIFY, 3, 4),)


def test_guesses_go_into_drafts_or_straight_into_verify() -> None:
    assert plan(DRAFTING._replace(k=8, guess=3)) == (Row(0, Phase.DRAFT, 4, 8),)
    assert plan(DRAFTING._replace(guess=3)) == (Row(0, Phase.DRAFT, 2, 4),)
    assert plan(BLANK._replace(guess=3)) == (Row(0, Phase.VERIFY, 4, 0),)


def test_a_verify_has_room_for_all_that_may_be_drafted() -> None:
    assert plan(BLANK._replace(k=6, d_lo=6, d_hi=6)) == (Row(0, Phase.VERIFY, 7, 6),)
    assert plan(BLANK._replace(k=6, d_lo=1, d_hi=5, must_verify=True)) == (Row(0, Phase.VERIFY, 6, 6),)


def test_filling_shares_a_chunk_oldest_first_beside_the_decoding_rows() -> None:
    rows = plan(FILLING, DRAFTING, FILLING, FILLING, chunk=10)
    assert rows == (Row(0, Phase.PREFILL, 7, 0), Row(1, Phase.DRAFT, 1, 4), Row(2, Phase.PREFILL, 3, 0))


def test_an_empty_view_gets_an_empty_plan() -> None:
    assert plan() == ()


def test_a_chunk_of_nothing_raises() -> None:
    with pytest.raises(BadOption, match="1 or more"):
        Lockstep(0)
