from __future__ import annotations

import pytest

from sparsespec.core.plan import Phase, Row
from sparsespec.sched.lockstep import Lockstep
from sparsespec.testing.checks.drawn_views import BLANK, ViewRow, view_of

DRAFTING = BLANK._replace(k=4, d_lo=2, d_hi=2)
FULL = BLANK._replace(k=4, d_lo=4, d_hi=4)
FILLING = BLANK._replace(to_prefill=7)


def plan(*rows: ViewRow, chunk: int = 256) -> tuple[Row, ...]:
    seated = [row._replace(seat=i, arrival=i) for i, row in enumerate(rows)]
    return tuple(sorted(Lockstep(chunk).plan(view_of(*seated)).rows))  # by seat


PLANS: dict[str, tuple[tuple[ViewRow, ...], tuple[Row, ...]]] = {
    "full rows wait while another drafts": ((FULL, DRAFTING), (Row(1, Phase.DRAFT, 1, 4),)),
    "all verify together": (
        (FULL, FULL, BLANK),
        (Row(0, Phase.VERIFY, 5, 4), Row(1, Phase.VERIFY, 5, 4), Row(2, Phase.VERIFY, 1, 0)),
    ),
    "nobody waits for who starves": (
        (FULL, DRAFTING._replace(starved=True)),
        (Row(0, Phase.VERIFY, 5, 4), Row(1, Phase.DRAFT, 1, 4)),
    ),
    "who owes a verify does not draft": ((DRAFTING._replace(must_verify=True),), (Row(0, Phase.VERIFY, 3, 4),)),
    "guesses go into drafts": ((DRAFTING._replace(k=8, guess=3),), (Row(0, Phase.DRAFT, 4, 8),)),
    "few of them at the end": ((DRAFTING._replace(guess=3),), (Row(0, Phase.DRAFT, 2, 4),)),
    "or straight into verify": ((BLANK._replace(guess=3),), (Row(0, Phase.VERIFY, 4, 0),)),
    "a verify has room for its drafts": ((BLANK._replace(k=6, d_lo=6, d_hi=6),), (Row(0, Phase.VERIFY, 7, 6),)),
    "for all that there may be": (
        (BLANK._replace(k=6, d_lo=1, d_hi=5, must_verify=True),),
        (Row(0, Phase.VERIFY, 6, 6),),
    ),
    "nothing for an empty view": ((), ()),
}


@pytest.mark.parametrize("name", PLANS)
def test_rows_draft_and_verify_together(name: str) -> None:
    rows, expected = PLANS[name]
    assert plan(*rows) == expected


def test_filling_shares_a_chunk_oldest_first_beside_the_decoding_rows() -> None:
    rows = plan(FILLING, DRAFTING, FILLING, FILLING, chunk=10)
    assert rows == (Row(0, Phase.PREFILL, 7, 0), Row(1, Phase.DRAFT, 1, 4), Row(2, Phase.PREFILL, 3, 0))
