from __future__ import annotations

import math
import random
import statistics
from collections import Counter

from sparsespec.core.plan import Phase, Row, StepPlan
from sparsespec.sched.staggered import Staggered
from sparsespec.testing.checks.drawn_views import BLANK, ViewRow, view_of
from sparsespec.testing.checks.stage import small_geometry

NEW = BLANK._replace(k=4, first_round=True)
FULL = BLANK._replace(k=4, d_lo=4, d_hi=4)


def bound(gain: float = 0.1, n_seats: int = 8) -> Staggered:
    part = Staggered(gain=gain)
    part.bind(small_geometry(n_seats=n_seats))
    return part


def seated(*rows: ViewRow) -> list[ViewRow]:
    return [row._replace(seat=i, arrival=i) for i, row in enumerate(rows)]


def phases(plan: StepPlan) -> list[str]:
    """Return the phases of rows by seat."""
    return [row.phase.name for row in sorted(plan.rows)]


def after(row: Row, old: ViewRow) -> ViewRow:
    """Return what a row is after its draft or verification."""
    if row.phase is Phase.DRAFT:
        return old._replace(d_lo=old.d_lo + 1, d_hi=old.d_hi + 1)
    return old._replace(d_lo=0, d_hi=0, first_round=False)


def play(part: Staggered, rows: list[ViewRow], steps: int) -> list[Counter[str]]:
    """Let every draft and verification succeed for sure; return how many rows of each phase each step had."""
    seen = []
    for step in range(steps):
        plan = part.plan(view_of(*rows, step=step))
        seen.append(Counter(row.phase.name for row in plan.rows))
        for row in plan.rows:
            rows[row.seat] = after(row, rows[row.seat])
    return seen


def test_requests_that_come_together_are_spread_over_the_round() -> None:
    seen = play(bound(), seated(*[NEW] * 5), 20)
    # five requests in rounds of four drafts and one verification: one verifies in each step
    assert all(step == {"DRAFT": 4, "VERIFY": 1} for step in seen)


def test_what_is_balanced_is_kv_and_not_rows() -> None:
    long = NEW._replace(n_lo=100, n_hi=100)
    rows = seated(long, NEW, NEW, NEW, NEW, NEW)
    part = bound()
    play(part, rows, 1)
    assert part.cut_[0] not in part.cut_[1:6]


def test_a_lone_request_drafts_whole_rounds_from_the_start() -> None:
    seen = play(bound(), seated(NEW), 10)
    assert [step["VERIFY"] for step in seen] == [0, 0, 0, 0, 1] * 2


def test_without_a_gain_to_reach_later_rounds_are_never_cut() -> None:
    rows = seated(*[NEW._replace(first_round=False, d_lo=3, d_hi=3)] * 3, FULL)
    early = bound().plan(view_of(*rows))
    never = bound(gain=math.inf).plan(view_of(*rows))
    assert phases(early) == ["VERIFY", "DRAFT", "DRAFT", "VERIFY"]
    assert phases(never) == ["DRAFT", "DRAFT", "DRAFT", "VERIFY"]


def test_a_round_is_cut_only_as_far_as_it_pays() -> None:
    # the next step verifies 300 and this one 100: one row moves, after which they weigh the same
    short = NEW._replace(first_round=False, d_lo=3, d_hi=3, n_lo=100, n_hi=100)
    full = FULL._replace(n_lo=100, n_hi=100)
    assert Counter(phases(bound().plan(view_of(*seated(short, short, short, full))))) == {
        "DRAFT": 2,
        "VERIFY": 2,
    }
    # the same hole, but each row to fill it would give up three drafts for a third of the gain
    far = short._replace(d_lo=1, d_hi=1)
    plan = bound(gain=1.0).plan(view_of(*seated(far, far, far, full)))
    assert Counter(phases(plan)) == {"DRAFT": 3, "VERIFY": 1}


def test_what_must_wait_for_nothing_else_is_not_counted() -> None:
    # a row that never drafts verifies in every step, so it leaves no hole in the others
    short = NEW._replace(first_round=False, d_lo=3, d_hi=3)
    plain = BLANK._replace(n_lo=1000, n_hi=1000)
    assert phases(bound().plan(view_of(*seated(short, short, FULL, plain)))).count("DRAFT") == 2


def test_steps_stay_level_as_requests_finish() -> None:
    kept, lost = (statistics.mean(spread(gain, seed) for seed in range(3)) for gain in (0.1, math.inf))
    assert kept < 0.15 < 0.3 < lost


def spread(gain: float, seed: int) -> float:
    """Return how much the KV verified per step deviates from its mean, after half of the rows have finished."""
    dice, part, rows, k = random.Random(seed), bound(gain, 64), dict[int, ViewRow](), 8
    for seat in range(64):
        n = dice.randint(1000, 12000)
        rows[seat] = NEW._replace(seat=seat, arrival=seat, n_lo=n, n_hi=n, k=k)
    loads: list[int] = []
    for step in range(100 + 10 * (k + 1)):
        if step >= 40 and len(rows) > 32:
            del rows[dice.choice(list(rows))]
        loads.append(0)
        for row in part.plan(view_of(*rows.values(), step=step)).rows:
            loads[-1] += rows[row.seat].n_hi * (row.phase is Phase.VERIFY)
            rows[row.seat] = after(row, rows[row.seat])
    steady = loads[-10 * (k + 1) :]
    return statistics.pstdev(steady) / statistics.mean(steady)


def test_a_seat_that_changes_hands_is_placed_anew() -> None:
    part = bound()
    play(part, seated(*[NEW] * 5), 1)
    cut = part.cut_.tolist()
    part.reset([1])
    assert part.cut_.tolist() == [cut[0], -1, *cut[2:]]


def test_rows_that_draft_nothing_verify_in_every_step() -> None:
    plain = BLANK._replace(guess=2, first_round=True)
    assert bound().plan(view_of(plain)).rows == (Row(0, Phase.VERIFY, 3, 0),)


def test_filling_goes_on_beside_the_others() -> None:
    rows = seated(BLANK._replace(to_prefill=300), NEW._replace(d_lo=4, d_hi=4, first_round=False))
    assert bound().plan(view_of(*rows)).rows == (Row(1, Phase.VERIFY, 5, 4), Row(0, Phase.PREFILL, 256, 0))
