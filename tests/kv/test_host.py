"""The tier manager `host`, one decision at a time: which request leaves, when, how much of it, and which comes back."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sparsespec.core.config import Geometry
from sparsespec.core.errors import ContractBroken
from sparsespec.kv.host import HostTier
from sparsespec.kv.two_tiers import CHUNK_BYTES, chunk_of
from sparsespec.testing.checks.stage import small_geometry
from sparsespec.testing.checks.watched_tiers import OnHost
from tests.kv.scene import Scene

LIMITS = (64, 64, 40, 20)


@pytest.mark.parametrize(("victim", "seat"), [("newest", 3), ("shortest", 2), ("longest_remaining", 1)])
def test_the_rule_says_which_request_gives_way(victim: str, seat: int) -> None:
    scene = Scene(4, 5, 2, 3, limits=LIMITS, victim=victim)
    placed = scene.step(s0=3)
    # one page is lacking; it is on its way, so the request that needs it waits
    assert [move.out for move in placed.moves] == [True]
    assert (scene.away, placed.rows, placed.preempted) == ({seat}, (), ())
    scene.land()
    assert [row.seat for row in scene.step(s0=3).rows] == [0]
    scene.end()


@pytest.mark.parametrize("victim", ["newest", "shortest", "longest_remaining"])
def test_the_oldest_never_leaves(victim: str) -> None:
    scene = Scene(2, 6, 6, limits=(64, 30, 30), victim=victim, size=8.0)
    for _ in range(9):
        scene.step(s1=2, s2=2)
        scene.land()
        assert 0 not in scene.away
    scene.end()


def test_the_tail_leaves_first_in_chunks() -> None:
    scene = Scene(4, 5, 5, victim="newest", chunk=2)
    tables = {seat: list(table) for seat, table in scene.tiers.tables.items()}
    begun = [[move.page for move in scene.step(s0=8).moves] for _ in range(4)]
    pages = tables[2][::-1] + tables[1][::-1]
    # 2 pages are free and 6 are wanted: the youngest leaves whole, then the next, and no more than is wanted
    assert begun == [pages[:2], pages[2:4], pages[4:6], []]
    assert scene.away == {1, 2}
    scene.land()
    assert len(scene.step(s0=8).table) == 8
    scene.end()


def test_spilling_starts_at_the_low_mark_and_ends_at_the_high_one() -> None:
    scene = Scene(10, 6, room=20, low=0.1, high=0.3, chunk=2)
    # 4 free pages are between the marks, and 2 are not below the lower one
    assert scene.step(s0=1).moves == scene.step(s0=1).moves == ()
    assert scene.free == 2
    begun = [len(scene.step(s0=1).moves)]
    while scene.copies:
        scene.land()
        begun.append(len(scene.step().moves))
    # 1 is left, of which 6 shall be: those that are leaving count
    assert begun == [2, 2, 1, 0]
    assert scene.free == 6
    # and from there to the lower mark none leaves
    assert scene.step(s0=2).moves == scene.step(s0=2).moves == ()
    scene.end()


def test_the_request_that_left_first_returns_first_whichever_is_older() -> None:
    scene = Scene(2, 5, 6, room=14, limits=(64, 64, 30), victim="longest_remaining")
    scene.grow(s0=2)
    assert scene.away == {1}
    scene.part.victim = "newest"
    scene.grow(s0=8)
    assert list(scene.part._out) == [1, 2]
    scene.forget(0)
    begun = scene.restore()
    assert {seat for seat, _, _ in begun.table} == {1}
    scene.land()
    assert scene.away == {2}
    scene.end()


def test_none_returns_without_room_for_a_round_of_all() -> None:
    scene = Scene(8, 5, room=14)
    scene.grow(s0=2)
    assert scene.away == {1}
    assert (scene.free, scene.part.host_pages()) == (0, 1)
    # a round is 2 pages at most, for each of two, and one page is missing
    for free, back in ((0, 0), (4, 0), (5, 1)):
        scene.shrink(0, free - scene.free)
        assert len(scene.restore().moves) == back
    scene.end()


@pytest.mark.parametrize(("chunk", "fewest"), [(2, 2), (9, 4)])
def test_none_returns_by_few_pages_while_others_run(chunk: int, fewest: int) -> None:
    for free in range(6):
        scene = Scene(8, 6, room=20, high=0.2, chunk=chunk)
        scene.grow(s0=12)
        assert (scene.away, scene.part.host_pages(), scene.free) == ({1}, 6, 0)
        # the high mark is 4, and so is a round of two
        scene.shrink(0, 4 + free)
        assert not scene.step().moves
        assert len(scene.restore().moves) == (min(free, chunk) if free >= fewest else 0)
        scene.land()
        if free < fewest:
            scene.forget(0)
            assert len(scene.restore().moves) == min(6, chunk)
        scene.end()


def test_the_last_pages_return_however_few() -> None:
    scene = Scene(8, 6, room=20, high=0.2)
    scene.grow(s0=12)
    scene.shrink(0, 8)
    assert not scene.step().moves
    assert len(scene.restore().moves) == 4
    scene.shrink(0, 1)
    assert not scene.restore().moves
    scene.shrink(0, 1)
    assert len(scene.restore().moves) == 2
    scene.land()
    assert scene.away == set()
    scene.end()


def test_chunks_are_of_so_many_bytes_as_copies_may_take() -> None:
    page = Geometry(1, 1, 1, 1, 1, 1, 1, 1, 1, "float16").page_bytes
    for layers, pages in ((1, 128), (CHUNK_BYTES // page // 16, 16), (CHUNK_BYTES // page + 1, 1)):
        assert chunk_of(Geometry(layers, 1, 1, 1, 1, 1, 1, 1, 1, "float16")) == pages


def test_a_high_mark_that_cannot_be_exceeded_keeps_no_request_out() -> None:
    scene = Scene(1, 12, room=20, high=0.5)
    scene.grow(s0=10)
    assert scene.away == {1}
    scene.shrink(0, 10)
    scene.step()
    assert scene.restore().moves
    scene.end()


def test_where_none_runs_the_first_returns_with_whatever_room_there_is() -> None:
    scene = Scene(1, 3, 6, room=12, high=0.34, size=0.6)
    scene.grow(s1=3)
    scene.grow(s1=4)
    assert (scene.away, scene.free) == ({2}, 0)
    # the host is full before the high mark, 4, is reached
    scene.grow(s0=1)
    assert (scene.away, scene.part.host_free_pages(), scene.free) == ({1, 2}, 0, 1)
    assert not scene.restore().moves
    scene.forget(0)
    assert len(scene.restore().moves) == scene.free + 3 == 3
    scene.end()


def test_a_chunk_is_what_copies_may_take_unless_told_otherwise() -> None:
    for chunk in (None, 3):
        tier = HostTier(chunk=chunk)
        tier.bind(small_geometry())
        assert tier._chunk == (chunk or chunk_of(small_geometry()))


def test_none_returns_while_others_leave() -> None:
    scene = Scene(6, 4, 6, room=20, low=0.2, high=0.6, chunk=3)
    scene.step(s0=1)
    assert scene.away == {2}
    assert scene.part._easing
    assert not scene.restore().moves
    scene.end()


def test_what_is_leaving_comes_back_only_when_it_has_left() -> None:
    scene = Scene(4, 4, room=8)
    scene.step(s0=1)
    scene.forget(0)
    assert (scene.away, scene.restore().moves) == ({1}, ())
    scene.land()
    (back,) = scene.restore().moves
    assert not back.out
    assert scene.away == {1}
    scene.land()
    assert scene.away == set()
    scene.end()


def test_a_shared_page_leaves_once_with_all_that_share_it_and_comes_back_for_all() -> None:
    scene = Scene(2, 4, 0, room=10)
    tables = scene.tiers.tables
    scene.share(2, owner=1, pages=3)
    scene.step(s2=1)
    own = [tables[2][3], tables[1][3]]
    # 2 pages are lacking: each leaves with the one that is its own
    assert [move.page for move in scene.step(s0=5).moves] == own
    scene.grow(s0=5)
    assert scene.away == {1, 2}
    shared = tables[1][:3]
    (move,) = scene.step(s0=1).moves
    assert move.page == shared[2]
    assert tables[1][:3] == tables[2][:3] == [*shared[:2], OnHost(move.host_page)]
    assert scene.part.host_pages() == 3
    scene.land()
    scene.forget(0)
    assert {(seat, block) for seat, block, _ in scene.restore().table} == {(2, 2), (1, 2), (2, 3)}
    assert tables[1][:3] == tables[2][:3]
    scene.land()
    assert scene.away == {1}
    scene.end()


def leaving(scene: Scene) -> None:
    scene.step(s0=6)


def out(scene: Scene) -> None:
    leaving(scene)
    scene.land()


def coming_back(scene: Scene) -> None:
    out(scene)
    scene.shrink(0, 1)
    assert scene.restore().moves


STATES: tuple[Callable[[Scene], None], ...] = (leaving, out, coming_back)


def brought_to(state: Callable[[Scene], None]) -> Scene:
    scene = Scene(4, 4, 6)
    state(scene)
    assert scene.away == {2}
    return scene


@pytest.mark.parametrize("state", STATES)
def test_a_request_that_is_forgotten_leaves_nothing_wherever_it_is(state: Callable[[Scene], None]) -> None:
    scene = brought_to(state)
    copied = {move.page for move in scene.copies}
    scene.forget(2)
    assert copied.isdisjoint(scene.part._book._free), "a page is free that a copy is busy with"
    assert scene.part.host_pages() == 0
    assert scene.free == 16 - scene.tiers.pages(0) - 4 - len(copied)
    scene.land()
    assert scene.free == 16 - scene.tiers.pages(0) - 4
    scene.end()


@pytest.mark.parametrize("state", STATES)
def test_the_tail_is_released_wherever_it_is(state: Callable[[Scene], None]) -> None:
    scene = brought_to(state)
    copied = {move.page for move in scene.copies}
    # 4 of its 6 pages have left
    scene.shrink(2, 4)
    assert copied.isdisjoint(scene.part._book._free), "a page is free that a copy is busy with"
    assert scene.part.host_pages() == 0
    scene.land()
    assert scene.free == 16 - scene.tiers.pages(0) - 4 - 2
    scene.restore()
    assert scene.away == set()
    scene.end()


@pytest.mark.parametrize("state", STATES)
def test_a_host_page_of_a_block_that_is_on_the_device_is_seen(state: Callable[[Scene], None]) -> None:
    part = brought_to(state).part
    part.check()
    (seat, block), page = part._host_table.popitem()
    part._host_table[seat - 1, block] = page
    with pytest.raises(ContractBroken, match="not on the device"):
        part.check()


@pytest.mark.parametrize("state", STATES)
def test_a_copy_that_fails_costs_the_request_its_pages(state: Callable[[Scene], None]) -> None:
    scene = brought_to(state)
    failing = bool(scene.copies)
    scene.land(failed=True)
    placed = scene.step()
    assert placed.preempted == ((2,) if failing else ())
    assert [scene.tiers.pages(seat) > 0 for seat in range(3)] == [True, True, not failing]
    assert scene.away == (set() if failing else {2})
    scene.end()


def test_a_copy_that_fails_costs_all_that_share_the_page_and_no_other() -> None:
    scene = Scene(2, 4, 0, 3, room=13, limits=(64, 60, 60, 16), victim="longest_remaining")
    scene.share(2, owner=1, pages=3)
    scene.step(s2=1)
    # a page of each alone, and one of both
    assert len(scene.step(s0=6).moves) == 3
    assert scene.away == {1, 2}
    scene.land(2)
    scene.land(failed=True)
    assert set(scene.step().preempted) == {1, 2}
    assert [scene.tiers.pages(seat) for seat in range(4)] == [2, 0, 0, 3]
    scene.end()


@pytest.mark.parametrize("failed", [False, True])
def test_no_request_shares_what_a_failed_copy_has_spoilt(failed: bool) -> None:
    scene = brought_to(coming_back)
    while any(isinstance(entry, OnHost) for entry in scene.tiers.tables[2]):
        scene.land()
        scene.shrink(0, 1)
        scene.restore()
    scene.land(failed=failed)
    # all its pages are there again, and one of them holds anything
    assert scene.away == ({2} if failed else set())
    assert scene.step().preempted == ((2,) if failed else ())
    assert scene.away == set()
    scene.end()


def test_with_a_full_host_the_youngest_is_computed_again() -> None:
    scene = Scene(4, 4, 6, size=0.2)
    assert scene.part.host_free_pages() == 3
    scene.step(s0=6)
    assert (scene.part.host_free_pages(), len(scene.copies)) == (0, 3)
    scene.land()
    placed = scene.step(s0=6)
    assert placed.preempted == (2,)
    assert [row.seat for row in placed.rows] == [0]
    assert scene.part.host_pages() == 0
    scene.end()


def test_a_request_that_is_wholly_out_is_not_preempted_in_vain() -> None:
    scene = Scene(4, 6, 4, size=0.25)
    scene.grow(s0=6)
    assert (scene.away, scene.part.host_free_pages(), scene.free) == ({2}, 0, 0)
    # the youngest has no page that could be taken
    assert scene.step(s0=1).preempted == (1,)
    assert scene.part.host_pages() == 4
    scene.end()


def test_a_request_that_is_out_waits_for_pages_that_copies_hold_for_none() -> None:
    scene = Scene(1, 6, 2, room=9, limits=(64, 64, 20), victim="longest_remaining")
    scene.grow(s0=1)
    scene.grow(s2=2)
    scene.grow(s0=7)
    assert list(scene.part._out) == [1, 2]
    scene.forget(0)
    assert len(scene.restore().moves) == 6
    scene.forget(1)
    assert len(scene.restore().moves) == 3
    # nothing is free until the copies for requests that have gone have ended
    assert (scene.free, scene.restore().preempted) == (0, ())
    scene.land()
    assert len(scene.restore().moves) == 1
    scene.end()


def test_a_request_without_pages_waits_behind_one_that_is_out() -> None:
    scene = Scene(4, 6, 6)
    assert not scene.part.admit(3, 9, 20), "where no page is free none is admitted"
    scene.shrink(2, 3)
    assert scene.part.admit(3, 9, 20)
    scene.n[3] = 9
    scene.step(s0=3)
    assert scene.away == set()
    scene.step(s0=1)
    assert scene.away == {2, 3}
    scene.land()
    scene.shrink(0, 6)
    assert not scene.part.admit(4, 1, 20), "while a request is out none is admitted"
    assert scene.restore().moves
    assert scene.away == {2}
    assert scene.part.admit(4, 1, 20)
    scene.land()
    assert scene.away == set()
    scene.part.forget(4)
    scene.end()
