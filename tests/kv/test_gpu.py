from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sparsespec.core.errors import ContractBroken
from sparsespec.core.plan import Phase, Placed, Row, StepPlan, draft_row, prefill_row, verify_row
from sparsespec.kv.gpu import GpuTier
from sparsespec.testing.checks.drawn_views import BLANK, ViewRow, view_of
from sparsespec.testing.checks.stage import small_geometry


def tier(num_gpu_blocks: int = 9, **sizes: Any) -> GpuTier:
    part = GpuTier()
    part.bind(small_geometry(num_gpu_blocks=num_gpu_blocks, block_size=4, **sizes))
    return part


def fill(part: GpuTier, *lengths: int) -> Placed:
    """Place the whole prompts of seats 0, 1, … in that order of arrival; a length is its positions."""
    rows = [BLANK._replace(seat=i, arrival=i, to_prefill=n, n_lo=n + 1, n_hi=n + 1) for i, n in enumerate(lengths)]
    view = view_of(*rows)
    return part.place(StepPlan(tuple(prefill_row(view, i, n) for i, n in enumerate(lengths) if n)), view)


def at(seat: int, n: int, **more: Any) -> ViewRow:
    return BLANK._replace(seat=seat, arrival=seat, n_lo=n, n_hi=n, **more)


@pytest.mark.parametrize(("positions", "pages"), [(1, 1), (4, 1), (5, 2), (8, 2), (32, 8)])
def test_a_prompt_gets_the_pages_of_its_positions(positions: int, pages: int) -> None:
    part = tier()
    placed = fill(part, positions)
    assert part.pages(0) == pages == len(placed.fresh)
    assert [(seat, block) for seat, block, _ in placed.table] == [(0, block) for block in range(pages)]
    assert part.free_pages() == 8 - pages


@pytest.mark.parametrize(
    ("row", "build", "pages"),
    [
        # tokens 9 … 12 at most, of which the last is the round's end: positions up to 11
        ({"k": 4, "d_lo": 0, "d_hi": 3, "guess": 2}, draft_row, 3),
        # positions up to n_hi - 1 + 4 = 16
        ({"k": 4, "d_lo": 4, "d_hi": 4, "n_hi": 13}, verify_row, 5),
    ],
)
def test_a_row_gets_pages_for_all_that_may_be_drafted_and_no_more(row: dict[str, int], build: Any, pages: int) -> None:
    part = tier()
    fill(part, 8)
    view = view_of(at(0, 9)._replace(**row))
    part.place(StepPlan((build(view, 0),)), view)
    assert part.pages(0) == pages


def test_rows_are_placed_oldest_first_whatever_the_order_of_the_plan() -> None:
    part = tier()
    view = view_of(at(2, 2), at(0, 2)._replace(arrival=5))
    placed = part.place(StepPlan((verify_row(view, 1), verify_row(view, 0))), view)
    assert [row.seat for row in placed.rows] == [2, 0]


# pages, positions that are filled, tokens then, tokens that are placed by seat; who runs, who is preempted, all pages
SCARCE: dict[
    str, tuple[int, tuple[int, ...], tuple[int, ...], dict[int, int], list[int], tuple[int, ...], list[int]]
] = {
    "the youngest are preempted until the older fits": (9, (12, 8, 8), (13, 9, 9), {0: 8}, [0], (2,), [5, 2, 0]),
    "who is preempted in a step does not run in it": (9, (16, 16), (17, 17), {0: 1, 1: 1}, [0], (1,), [5, 0]),
    "the younger starves rather than take from the older": (9, (16, 16), (16, 17), {0: 1, 1: 1}, [0], (), [4, 4]),
    # seat 1 needs 4 pages more, and all that is younger holds one
    "none is preempted in vain": (7, (16, 4, 4), (17, 5, 5), {1: 16}, [], (), [4, 1, 1]),
}


@pytest.mark.parametrize("name", SCARCE)
def test_pages_go_to_the_older(name: str) -> None:
    n_blocks, filled, tokens, wanted, run, preempted, pages = SCARCE[name]
    part = tier(num_gpu_blocks=n_blocks)
    fill(part, *filled)
    view = view_of(*(at(seat, n) for seat, n in enumerate(tokens)))
    placed = part.place(StepPlan(tuple(Row(seat, Phase.VERIFY, n, n - 1) for seat, n in wanted.items())), view)
    assert [row.seat for row in placed.rows] == run
    assert placed.preempted == preempted
    assert run or placed == Placed()
    assert [part.pages(seat) for seat in range(len(filled))] == pages


def test_pages_that_an_older_sample_shares_are_no_gain() -> None:
    part = tier(num_gpu_blocks=7)
    fill(part, 16)
    view = view_of(at(0, 17), at(1, 17, to_prefill=8))
    part.share(1, 0, 2)
    part.place(StepPlan((prefill_row(view, 1, 8),)), view)
    assert (part.pages(1), part.free_pages()) == (4, 0)
    placed = part.place(StepPlan((Row(0, Phase.VERIFY, 8, 7),)), view)
    # preempting seat 1 frees its own two pages, not the shared ones
    assert placed.preempted == (1,)
    assert (part.pages(0), part.free_pages(), part.shared_pages(1)) == (6, 0, 0)
    part.check()


def test_the_tail_behind_what_may_be_written_is_released() -> None:
    part = tier()
    fill(part, 24)
    part.commit(np.array([0]), np.array([13]))
    assert part.pages(0) == 4
    part.commit(np.array([0]), np.array([8]))
    assert (part.pages(0), part.free_pages()) == (2, 6)
    part.commit(np.array([3]), np.array([8]))
    part.check()


def test_many_tails_are_released_at_once_and_the_rest_is_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    part, released = tier(), list[int]()
    fill(part, 8, 4, 12, 8)
    original = part._release
    monkeypatch.setattr(part, "_release", lambda seat, keep: (released.append(seat), original(seat, keep)))
    part.commit(np.array([2, 0, 1]), np.array([5, 8, 0]))
    assert [part.pages(seat) for seat in range(4)] == [2, 0, 2, 2]
    # a seat that keeps all its pages costs no call
    assert released == [2, 1]
    part.check()


def test_pages_that_are_counted_wrong_are_seen() -> None:
    part = tier()
    fill(part, 8)
    part.check()
    part._n_held[0] = 1
    with pytest.raises(ContractBroken, match="counted as {0: 1}"):
        part.check()


def test_a_prompt_is_admitted_if_it_fits_now_and_anybody_on_an_empty_pool() -> None:
    part = tier()
    assert part.admit(0, 33, 40)
    part.forget(0)
    assert part.admit(0, 16, 40)
    fill(part, 16)
    assert not part.admit(1, 17, 40)
    assert part.admit(1, 8, 40)
    # what was promised is as good as taken
    assert not part.admit(2, 9, 40)
    assert part.admit(2, 8, 40)


def test_forgetting_and_resetting_leave_nothing() -> None:
    part = tier()
    fill(part, 8, 8)
    part.share(2, 0, 1)
    part.forget(0)
    assert (part.pages(0), part.free_pages()) == (0, 5)
    part.forget(2)
    part.forget(3)
    assert part.free_pages() == 6
    part.reset()
    assert (part.pages(1), part.free_pages()) == (0, 8)
    part.check()


def test_there_is_no_host_tier() -> None:
    part = tier()
    assert part.restore(view_of()) == Placed()
    assert part.away() == ()
    assert part.host_free_pages() == part.host_pages() == part.moving_pages() == 0
