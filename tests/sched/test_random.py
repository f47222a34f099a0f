from __future__ import annotations

from collections import Counter
from itertools import pairwise

from sparsespec.core.plan import Phase
from sparsespec.sched.random import RandomScheduler
from sparsespec.testing.checks.drawn_views import BLANK, view_of

NEW = BLANK._replace(k=8, first_round=True)


def drafts_at(d: int, n: int, seed: int = 0) -> list[bool]:
    rows = [NEW._replace(seat=i, arrival=i, d_lo=d, d_hi=d) for i in range(n)]
    phases = {row.seat: row.phase for row in RandomScheduler(seed=seed).plan(view_of(*rows)).rows}
    return [phases[i] is Phase.DRAFT for i in range(n)]


def test_first_rounds_end_anywhere_and_stay_ended() -> None:
    by_length = [drafts_at(d, 90) for d in range(9)]
    lengths = Counter(sum(column) for column in zip(*by_length, strict=True))
    assert set(lengths) == set(range(9))
    for earlier, later in pairwise(by_length):
        assert all(a or not b for a, b in zip(earlier, later, strict=True))
    assert not any(by_length[8])


def test_later_rounds_are_whole() -> None:
    rows = [NEW._replace(seat=i, arrival=i, first_round=False, d_lo=7, d_hi=7) for i in range(30)]
    assert {row.phase for row in RandomScheduler().plan(view_of(*rows)).rows} == {Phase.DRAFT}


def test_another_seed_spreads_otherwise() -> None:
    assert drafts_at(4, 60, seed=1) != drafts_at(4, 60, seed=2)
