"""The tier manager `reserve`: a request that is in can grow to the end, and one that could not stays out."""

from __future__ import annotations

from sparsespec.core.plan import Phase, Row, StepPlan, prefill_row
from sparsespec.kv.reserve import ReserveTier
from sparsespec.testing.checks.drawn_views import BLANK, view_of
from sparsespec.testing.checks.stage import small_geometry
from sparsespec.testing.checks.watched_tiers import WatchedTiers


def tier(room: int = 8) -> ReserveTier:
    part = ReserveTier()
    part.bind(small_geometry(num_gpu_blocks=room + 1, block_size=4))
    return part


def test_every_request_is_counted_at_its_worst() -> None:
    part = tier()
    # the last token is never fed back: 17 tokens have 16 positions
    assert part.admit(0, 1, 17)
    assert not part.admit(1, 1, 18)
    assert part.admit(1, 16, 17)
    assert not part.admit(2, 1, 2)


def test_a_request_that_leaves_makes_room_for_as_much_as_it_might_have_taken() -> None:
    part = tier()
    assert part.admit(0, 1, 17)
    assert part.admit(1, 1, 17)
    part.forget(0)
    part.forget(0)
    assert not part.admit(0, 1, 18)
    assert part.admit(0, 1, 17)


def test_pages_are_handed_out_as_they_are_needed() -> None:
    part = tier()
    assert part.admit(0, 5, 29)
    assert (part.pages(0), part.free_pages()) == (0, 8)
    view = view_of(BLANK._replace(to_prefill=4, n_lo=5, n_hi=5))
    part.place(StepPlan((prefill_row(view, 0, 4),)), view)
    assert (part.pages(0), part.free_pages()) == (1, 7)


def test_none_is_preempted_when_all_grow_to_the_end() -> None:
    part = tier(room=12)
    watched = WatchedTiers(part, 13, 4)
    n = {seat: 2 for seat in range(3) if part.admit(seat, 2, 17)}
    assert len(n) == 3
    for _ in range(15):
        view = view_of(*(BLANK._replace(seat=s, arrival=s, n_lo=n[s], n_hi=n[s]) for s in n))
        placed = watched.place(StepPlan(tuple(Row(s, Phase.VERIFY, 1, 0) for s in n)), view)
        assert (len(placed.rows), placed.preempted) == (3, ())
        for seat in n:
            n[seat] += 1
    assert set(n.values()) == {17}
    assert part.free_pages() == 0


def test_samples_that_share_are_counted_as_if_they_did_not() -> None:
    part = tier()
    for seat in (0, 1):
        assert part.admit(seat, 9, 17)
    view = view_of(BLANK._replace(to_prefill=8, n_lo=9, n_hi=9))
    part.place(StepPlan((prefill_row(view, 0, 8),)), view)
    part.share(1, 0, 1)
    assert part.free_pages() == 6
    assert not part.admit(2, 1, 2)


def test_resetting_forgets_what_was_reserved() -> None:
    part = tier()
    assert part.admit(0, 1, 33)
    part.reset()
    assert part.admit(1, 1, 33)
    part.check()
