"""Copies between the tiers: the same bits come back, in the order that was asked for, and trouble is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsespec.core.plan import Move
from sparsespec.engine.lazy import LazyDevice
from sparsespec.kv import host_pool
from sparsespec.kv import mover as module
from sparsespec.kv.host_pool import HostPool
from sparsespec.kv.mover import PATIENCE, Mover
from sparsespec.kv.pool import KVPool
from sparsespec.kv.two_tiers import chunk_of
from sparsespec.testing.checks.stage import small_geometry

DTYPES = ("float64", "float32", "bfloat16", "float16")
N_HOST_PAGES = 200
INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16}


def begin(mover: Mover, moves: list[Move]) -> None:
    """Begin to copy beside nothing."""
    with mover.moving(moves):
        pass


class Stage:
    """A mover over a pool of random bits, NaNs of every payload among them."""

    def __init__(self, dtype: str = "float64", num_gpu_blocks: int = 100, device: LazyDevice | None = None) -> None:
        self.device = device or LazyDevice()
        self.geometry = small_geometry(num_gpu_blocks=num_gpu_blocks, dtype=dtype)
        self.pool = KVPool(self.geometry)
        self.mover = Mover(self.device, self.pool, self.geometry, N_HOST_PAGES)
        generator = torch.Generator().manual_seed(1)
        for bits in self.bits:
            info = torch.iinfo(bits.dtype)
            bits.random_(info.min, info.max, generator=generator)

    @property
    def bits(self) -> tuple[Tensor, Tensor]:
        """Keys and values as integers, [L, pages, P, Hkv, D]."""
        k, v = self.pool.k, self.pool.v
        kind = INTEGERS[k.element_size()]
        return k.view(kind), v.view(kind)

    def at(self, pages: Sequence[int]) -> Tensor:
        """Return a copy of what pages hold, [2, L, n, P, Hkv, D]."""
        return torch.stack(self.bits)[:, :, list(pages)]

    def move(self, pages: Sequence[int], host_pages: Sequence[int], *, out: bool) -> None:
        begin(self.mover, [Move(page, host_page, out) for page, host_page in zip(pages, host_pages, strict=True)])

    def end(self) -> list[Any]:
        return list(self.mover.ended(wait=True))

    def main(self, fn: Any) -> None:
        self.device.launch(fn)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_bits_come_back(dtype: str) -> None:
    stage = Stage(dtype)
    before = stage.at(range(100))
    pages, others = [3, 9, 4, 20], [50, 3, 61, 9]
    stage.move(pages, [7, 5, 6, 1], out=True)
    stage.move(others, [5, 1, 7, 6], out=False)
    assert all(error is None for _, error in stage.end())
    assert torch.equal(stage.at(others), before[:, :, [9, 20, 3, 4]])
    rest = sorted(set(range(100)) - set(others))
    assert torch.equal(stage.at(rest), before[:, :, rest])


@pytest.mark.parametrize(
    ("dtype", "first"),
    [("float64", 0x7FF0000000000001), ("float32", 0x7F800001), ("bfloat16", 0x7F81), ("float16", 0x7C01)],
)
def test_nan_keeps_its_payload(dtype: str, first: int) -> None:
    stage = Stage(dtype)
    payloads = (first + torch.arange(stage.bits[0][:, 5].numel())).to(stage.bits[0].dtype)
    stage.bits[0][:, 5] = payloads.view_as(stage.bits[0][:, 5])
    assert stage.pool.k[:, 5].isnan().all()
    stage.move([5], [1], out=True)
    stage.move([6], [1], out=False)
    stage.end()
    assert torch.equal(stage.bits[0][:, 6].flatten(), payloads)


STAGED = chunk_of(small_geometry())


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("n", [1, STAGED - 1, STAGED, STAGED + 1, 2 * STAGED + 3])
def test_any_number_of_pages_by_way_of_one_place(n: int, recorded: bool) -> None:
    stage = Stage(num_gpu_blocks=2 * n + 2)
    if recorded:
        stage.mover.rehearse()
    pages, host_pages = range(1, n + 1), range(1, n + 1)
    before = stage.at(pages)
    stage.move(pages, host_pages, out=True)
    stage.main(lambda: stage.pool.poison(list(pages)))
    ended = stage.end()
    assert [len(moves) for moves, _ in ended] == [STAGED] * (n // STAGED) + [n % STAGED] * (n % STAGED > 0)
    back = range(2 * n + 1, n + 1, -1)
    stage.move(back, host_pages, out=False)
    stage.end()
    assert torch.equal(stage.at(back), before)
    assert stage.mover._staged is not None
    assert [len(x) for x in stage.mover._staged] == [STAGED, STAGED + 1]


class Recorder(LazyDevice):
    """Writes down what it is asked to record."""

    def __init__(self) -> None:
        super().__init__()
        self.recorded: list[Any] = []

    def record(self, fn: Any) -> Any:
        self.recorded.append(fn)
        return super().record(fn)


@pytest.mark.parametrize("before_copies", [False, True])
def test_each_direction_is_recorded_once_and_replayed_with_other_pages(before_copies: bool) -> None:
    stage = Stage(device=(device := Recorder()))
    before = stage.at(range(100))
    if before_copies:
        stage.mover.rehearse()
    # fewer pages behind more: those behind the last do not move
    for pages, others in (((1, 2, 3), (11, 12, 13)), ((4, 5), (14, 15))):
        stage.move(pages, range(1, 1 + len(pages)), out=True)
        stage.move(others, range(1, 1 + len(pages)), out=False)
    assert [error for _, error in stage.end()] == [None] * 4
    assert len(device.recorded) == 2 * before_copies
    after = stage.at(range(100))
    assert torch.equal(after[:, :, 11:16], before[:, :, 1:6])
    assert torch.equal(after[:, :, 16:], before[:, :, 16:])
    # what copies left behind is copied by no rehearsal
    device.wait(device.launch(lambda: stage.pool.poison([14, 15])))
    kept = stage.at(range(100))
    stage.mover.rehearse()
    assert torch.equal(stage.at(range(100)), kept)
    assert len(device.recorded) == 2


PER_PIECE = 8


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_pool, "PIECE", PER_PIECE * small_geometry().page_bytes)


@pytest.mark.usefixtures("small_pieces")
def test_host_pages_lie_in_pieces_that_come_as_they_are_needed() -> None:
    stage = Stage()
    assert stage.mover.pinned == ({},)
    host_pages = [PER_PIECE - 2, PER_PIECE - 1, PER_PIECE, PER_PIECE + 1, 3 * PER_PIECE]
    before = stage.at(range(1, 6))
    stage.move(range(1, 6), host_pages, out=True)
    stage.move(range(11, 16), host_pages, out=False)
    stage.end()
    assert torch.equal(stage.at(range(11, 16)), before)
    (pieces,) = stage.mover.pinned
    assert sorted(pieces) == [0, 1, 3]  # type: ignore[arg-type]


def test_memory_is_locked_ahead_in_every_step_behind_its_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    stage, seen = Stage(), list[int]()
    monkeypatch.setattr(HostPool, "ahead", lambda self: seen.append(stage.mover.n_out))
    stage.move([1, 2], [1, 2], out=True)
    stage.move([], [], out=True)
    stage.end()
    stage.move([], [], out=True)
    assert seen == [1, 1, 0]


def test_nothing_is_rehearsed_where_nothing_is_ever_copied() -> None:
    stage = Stage()
    mover = Mover(stage.device, stage.pool, stage.geometry, 0)
    mover.rehearse()
    assert mover.memory == (None,)


@pytest.mark.parametrize(
    ("host_pages", "runs"),
    [([], []), ([4], [(4, 1)]), ([1, 2, 3], [(1, 3)]), ([1, 3, 4, 9], [(1, 1), (3, 2), (9, 1)])],
)
def test_neighbouring_host_pages_are_copied_at_once(host_pages: list[int], runs: list[tuple[int, int]]) -> None:
    assert module._runs(host_pages) == runs


def test_a_copy_out_waits_for_what_was_written_before_and_for_nothing_after() -> None:
    stage = Stage()
    stage.main(lambda: stage.pool.k[:, 2].fill_(1.0))
    stage.move([2], [1], out=True)
    stage.main(lambda: stage.pool.k[:, 2].fill_(2.0))
    (ended,) = stage.end()
    assert ended == ((Move(2, 1, True),), None)
    # what came later in the main stream has not run yet
    assert (stage.pool.k[:, 2] == 1.0).all()
    stage.move([3], [1], out=False)
    stage.end()
    assert (stage.pool.k[:, 3] == 1.0).all()


def test_a_copy_in_lands_behind_the_last_writes_of_the_request_that_had_the_page() -> None:
    stage = Stage()
    before = stage.at([2])
    stage.move([2], [1], out=True)
    stage.main(lambda: stage.pool.k[:, 7].fill_(3.0))
    stage.move([7], [1], out=False)
    stage.end()
    assert torch.equal(stage.at([7]), before)


def test_pages_that_leave_and_pages_that_come_in_one_step_do_not_mix() -> None:
    stage = Stage()
    before = stage.at(range(10))
    stage.move([1, 2], [1, 2], out=True)
    stage.end()
    begin(stage.mover, [Move(3, 3, True), Move(4, 4, True), Move(5, 1, False), Move(6, 2, False)])
    stage.move([7, 8], [4, 3], out=False)
    stage.end()
    assert torch.equal(stage.at([5, 6, 7, 8]), before[:, :, [1, 2, 4, 3]])


def test_copies_are_waited_for_when_patience_ends() -> None:
    stage = Stage()
    stage.move([1], [1], out=True)
    for _ in range(PATIENCE):
        assert list(stage.mover.ended(wait=False)) == []
    stage.move([2], [2], out=True)
    assert [moves for moves, _ in stage.mover.ended(wait=False)] == [(Move(1, 1, True),)]
    assert list(stage.mover.ended(wait=False)) == []
    assert [moves for moves, _ in stage.end()] == [(Move(2, 2, True),)]
    assert stage.end() == []


def test_copies_that_have_ended_are_heard_of_at_once_and_in_order() -> None:
    stage = Stage(device=LazyDevice(early=1.0))
    stage.move([1, 2], [1, 2], out=True)
    stage.move([3], [1], out=False)
    ended = [moves for moves, _ in stage.mover.ended(wait=False)]
    assert ended == [(Move(1, 1, True), Move(2, 2, True)), (Move(3, 1, False),)]


def test_trouble_is_told_with_the_pages_that_it_was_with(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()
    before = stage.at([2])
    real = HostPool.at

    def at(self: HostPool, first: int, n: int) -> list[Tensor]:
        if first == 1:
            raise RuntimeError("no memory that can be page-locked")
        return real(self, first, n)

    monkeypatch.setattr(HostPool, "at", at)
    stage.move([1], [1], out=True)
    stage.move([2], [2], out=True)
    stage.move([3], [2], out=False)
    (first, trouble), *others = stage.end()
    assert first == (Move(1, 1, True),)
    assert "page-locked" in str(trouble)
    assert [error for _, error in others] == [None, None]
    assert torch.equal(stage.at([3]), before)


def test_page_numbers_are_not_written_over_before_their_copy_has_ended() -> None:
    stage = Stage()
    before = stage.at(range(10))
    stage.move([1, 2], [1, 2], out=True)
    stage.move([3, 4], [3, 4], out=True)
    numbers = [trip.numbers for copy in stage.mover._copies for trip in copy.trips]
    assert numbers[0].data_ptr() != numbers[1].data_ptr()
    stage.end()
    begin(stage.mover, [Move(page + 4, page, False) for page in (1, 2, 3, 4)])
    stage.move([9], [9], out=True)
    _, again = (trip.numbers for copy in stage.mover._copies for trip in copy.trips)
    assert again.data_ptr() in {x.data_ptr() for x in numbers}
    stage.end()
    assert torch.equal(stage.at([5, 6, 7, 8]), before[:, :, 1:5])


def test_nothing_is_allocated_before_the_first_copy() -> None:
    stage = Stage()
    stage.move([], [], out=True)
    assert (stage.mover.memory, stage.mover.pinned, stage.end()) == ((None,), ({},), [])


def test_pages_that_come_back_are_not_poisoned() -> None:
    stage = Stage()
    mover = Mover(stage.device, stage.pool, replace(stage.geometry, checked=True), N_HOST_PAGES)
    stage.pool.k[:, 4], stage.pool.v[:, 4] = 1.0, 2.0
    begin(mover, [Move(4, 1, True)])
    list(mover.ended(wait=True))
    mover.fresh([4])
    begin(mover, [Move(6, 1, False)])
    list(mover.ended(wait=True))
    assert stage.pool.k[:, 4].isnan().all()
    assert (stage.pool.k[:, 6] == 1.0).all()
    assert (stage.pool.v[:, 6] == 2.0).all()
