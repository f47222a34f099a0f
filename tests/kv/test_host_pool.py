"""Host pages: memory that comes in pieces as it is needed, and is unlocked when it is needed no more."""

from __future__ import annotations

import gc
import threading
from dataclasses import replace
from typing import Any
from weakref import ref

import pytest
import torch
from torch import Tensor

from sparsespec.kv import host_pool as module
from sparsespec.kv.host_pool import AHEAD, HostPool, mapped
from sparsespec.testing.checks.stage import small_geometry

PER_PIECE = 8
N_HOST_PAGES = 20 * PER_PIECE - 1
ON_GPU = replace(small_geometry(), device="cuda")


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE", PER_PIECE * small_geometry().page_bytes)


def test_a_run_is_cut_where_pieces_end() -> None:
    pool = HostPool(small_geometry(), N_HOST_PAGES)
    parts = pool.at(PER_PIECE - 3, PER_PIECE + 5)
    assert [len(part) for part in parts] == [3, PER_PIECE, 2]
    assert parts[0].shape[1:] == (2, 2, 4, 2, 4)
    # the same host pages are the same memory
    assert pool.at(PER_PIECE - 1, 1)[0].data_ptr() == parts[0][2].data_ptr()
    assert pool.at(5, 0) == []


def test_mapped_memory_is_there_zero_and_where_a_huge_page_may_begin() -> None:
    x = mapped((3, 5, 7), torch.bfloat16)
    assert x.shape == (3, 5, 7)
    assert x.dtype == torch.bfloat16
    assert not x.any()
    assert x.data_ptr() % (2 << 20) == 0


class Runtime:
    """Stands for CUDA's; locks what it is told to, by address."""

    def __init__(self) -> None:
        self.locked: dict[int, int] = {}
        self.answer = 0
        self.waited_for: list[torch.device] = []

    def cudaHostRegister(self, address: int, n_bytes: int, flags: int) -> int:
        if not self.answer:
            self.locked[address] = n_bytes
        return self.answer

    def cudaHostUnregister(self, address: int) -> None:
        assert self.waited_for, "memory was unlocked while copies may run"
        del self.locked[address]


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    def check(answer: int) -> None:
        if answer:
            raise RuntimeError("out of memory")

    found = Runtime()
    monkeypatch.setattr(torch.cuda, "cudart", lambda: found)
    monkeypatch.setattr(torch.cuda, "check_error", check)
    monkeypatch.setattr(torch.cuda, "synchronize", found.waited_for.append)
    return found


def test_pieces_are_made_ahead_and_unlocked_at_the_end(monkeypatch: pytest.MonkeyPatch, runtime: Runtime) -> None:
    made: list[Tensor] = []

    def watched(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        assert threading.current_thread() is not threading.main_thread()
        made.append(mapped(shape, dtype))
        return made[-1]

    monkeypatch.setattr(module, "mapped", watched)
    pool = HostPool(ON_GPU, N_HOST_PAGES)
    assert not made
    (first,) = pool.at(0, 1)
    assert runtime.locked == {first.data_ptr(): pool.pieces[0].nbytes}
    pool._coming[-1].result()
    assert len(made) == 1 + AHEAD
    pool.at(PER_PIECE, 2 * PER_PIECE)
    assert sorted(runtime.locked) == sorted(piece.data_ptr() for piece in pool.pieces.values())
    assert len(runtime.locked) == 3
    del pool
    gc.collect()
    assert not runtime.locked
    assert runtime.waited_for == [torch.device("cuda")]


def test_a_pool_that_its_own_thread_collects_is_unlocked_too(runtime: Runtime) -> None:
    pool, dropped = HostPool(ON_GPU, N_HOST_PAGES), threading.Event()
    pool.at(0, 1)
    assert runtime.locked
    collected = pool._thread.submit(lambda: dropped.wait(10) and gc.collect())
    pool.itself = pool  # type: ignore[attr-defined]
    gc.disable()
    try:
        del pool
        dropped.set()
        assert collected.result(10)
    finally:
        gc.enable()
    assert not runtime.locked


def test_an_error_is_raised_where_a_piece_is_needed_and_the_next_call_asks_for_it_again(
    monkeypatch: pytest.MonkeyPatch, runtime: Runtime
) -> None:
    def scarce(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        raise OSError("Cannot allocate memory")

    pool = HostPool(ON_GPU, N_HOST_PAGES)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="Cannot allocate"):
        patch.setattr(module, "mapped", scarce)
        pool.at(0, 1)
    for future in pool._coming:
        future.exception()
    pool._coming.clear()
    runtime.answer = 2
    told: list[Any] = []
    monkeypatch.setattr(torch, "zeros", lambda n, device: told.append(device))
    with pytest.raises(RuntimeError, match="out of memory"):
        pool.at(0, 1)
    assert not pool.pieces
    assert told == [torch.device("cuda")]
    runtime.answer = 0
    pool.at(0, 1)
    assert sorted(pool.pieces) == [0]


def test_pieces_are_locked_ahead_one_at_a_time_once_their_pages_are_there(
    monkeypatch: pytest.MonkeyPatch, runtime: Runtime
) -> None:
    pages_are_there = threading.Event()

    def slow(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        assert pages_are_there.wait(10)
        return mapped(shape, dtype)

    pool = HostPool(ON_GPU, N_HOST_PAGES)
    pool.ahead()
    assert not pool.pieces  # nothing was needed yet
    pool.at(0, 2 * PER_PIECE)
    pool._coming[-1].result()
    for n in range(3, 3 + AHEAD):
        pool.ahead()
        assert sorted(pool.pieces) == list(range(n))
        assert len(runtime.locked) == n
    pool.ahead()
    assert len(pool.pieces) == 2 + AHEAD
    # these are there already, and make room for others
    monkeypatch.setattr(module, "mapped", slow)
    pool.at(2 * PER_PIECE, PER_PIECE)
    assert len(pool.pieces) == 2 + AHEAD
    pool.ahead()
    assert len(pool.pieces) == 2 + AHEAD
    pages_are_there.set()
    pool._coming[-1].result()
    pool.ahead()
    assert sorted(pool.pieces) == list(range(3 + AHEAD))


@pytest.mark.parametrize("n_host_pages", [3 * PER_PIECE - 1, 3 * PER_PIECE])
def test_no_more_is_locked_than_there_are_host_pages_for(runtime: Runtime, n_host_pages: int) -> None:
    pool = HostPool(ON_GPU, n_host_pages)
    pool.at(1, 1)
    pool._coming[-1].result()
    for _ in range(2 * AHEAD):
        pool.ahead()
    assert len(pool.pieces) == len(runtime.locked) == (3 if n_host_pages < 3 * PER_PIECE else 4)
    pool.at(n_host_pages, 1)
    assert len(pool.pieces) == len(runtime.locked)


def test_an_error_ahead_is_raised_only_where_the_piece_is_needed(
    monkeypatch: pytest.MonkeyPatch, runtime: Runtime
) -> None:
    pool = HostPool(ON_GPU, N_HOST_PAGES)
    pool.at(0, 1)
    pool._coming[-1].result()
    runtime.answer = 2
    monkeypatch.setattr(torch, "zeros", lambda n, device: None)
    for _ in range(2 * AHEAD):
        pool.ahead()
    assert sorted(pool.pieces) == [0]
    with pytest.raises(RuntimeError, match="out of memory"):
        pool.at(PER_PIECE, 1)
    runtime.answer = 0
    pool.at(PER_PIECE, 1)
    assert sorted(pool.pieces) == [0, 1]


@pytest.mark.gpu
def test_pieces_are_locked_until_the_pool_is_gone() -> None:
    pool = HostPool(ON_GPU, N_HOST_PAGES)
    (part,) = pool.at(3, 2)
    assert part.is_pinned()
    on_device = torch.randn(part.shape, dtype=part.dtype, device="cuda")
    part.copy_(on_device, non_blocking=True)
    torch.cuda.synchronize()
    assert torch.equal(part, on_device.cpu())
    # to lock what is locked already is an error, and nobody else's
    locked = pool.pieces[0]
    with pytest.raises(RuntimeError), pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "mapped", lambda *_: locked)
        pool._coming.clear()
        pool.at(PER_PIECE, 1)
    assert int(torch.ones(1, device="cuda").add_(1)) == 2
    gone = ref(pool)
    del pool
    gc.collect()
    assert gone() is None
    assert not part.is_pinned()
