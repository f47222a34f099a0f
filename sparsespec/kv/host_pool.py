"""Host pages: page-locked memory of the host, so that a GPU's copies run beside its rounds; taken as it is needed.

While memory is locked nothing can be launched, and most of the time that takes is spent on finding memory and clearing
it, which needs no lock. So a thread does that ahead, with huge pages where the system has them. What is left is 1 to
2 ms for a piece, of 24 on the same machine where torch does all at once; and that is spent ahead too, or a copy would
begin when the round beside which it should run is over. The thread calls nothing of CUDA: to lock memory while another
thread records a graph would spoil the graph.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from collections import deque
from collections.abc import MutableMapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from sparsespec.core.batch import float_type
from sparsespec.core.config import Geometry
from sparsespec.kv.two_tiers import CHUNK_BYTES

PIECE = 16 << 20
"""Bytes that the pool gains at a time."""
AHEAD = 2 * -(-CHUNK_BYTES // PIECE)
"""Pieces that are made before they are needed, once one was needed: enough for two copies."""
_PORTABLE = 1
"""Locked for all devices, whichever is current."""
_HUGE = 2 << 20
"""Bytes of a huge page, and where one may begin."""


class HostPool:
    """Keys and values of all layers, in host pages that are numbered from 0.

    Args:
        geometry: What a page is.
        n_host_pages: The highest host page; no memory is locked for others but the rest of the last piece.

    Attributes:
        pieces: The memory there is, by number.
    """

    def __init__(self, geometry: Geometry, n_host_pages: int) -> None:
        g = geometry
        self._per_piece = max(1, PIECE // g.page_bytes)
        self._shape = (self._per_piece, 2, g.n_layers, g.block_size, g.n_kv_heads, g.head_dim)
        self._dtype, self._device = float_type(g.dtype), torch.device(g.device)
        self._n_pieces, self._wanted = 1 + n_host_pages // self._per_piece, 0
        self.pieces: dict[int, Tensor] = {}
        self._coming = deque[Future[Tensor]]()
        if self._device.type == "cuda":
            self._thread = ThreadPoolExecutor(1, "host-pages")
            weakref.finalize(self, _let_go, self._thread, self.pieces, self._device, os.getpid())

    def at(self, first: int, n: int) -> list[Tensor]:
        """Return host pages `first` … `first + n - 1` [n, 2, L, P, Hkv, D], one part for each piece they lie in."""
        self._order(-(-(first + n) // self._per_piece))
        parts: list[Tensor] = []
        while n:
            piece, start = divmod(first, self._per_piece)
            if piece not in self.pieces:
                self.pieces[piece] = self._made()
            end = min(start + n, self._per_piece)
            parts.append(self.pieces[piece][start:end])
            first, n = first + end - start, n - (end - start)
        return parts

    def ahead(self) -> None:
        """Lock a piece that will be needed, if its memory was found; to be called when no launch waits."""
        if self._coming and self._coming[0].done():
            lacking = next(piece for piece in range(self._wanted) if piece not in self.pieces)
            # `at` tries again when it needs the piece, and raises what is wrong
            with suppress(OSError, RuntimeError):
                self.pieces[lacking] = self._made()

    def _order(self, n_pieces: int) -> None:
        """Let memory be found for the first `n_pieces`, and for those that may be needed next."""
        self._wanted = max(self._wanted, min(n_pieces + AHEAD, self._n_pieces))
        while self._device.type == "cuda" and len(self.pieces) + len(self._coming) < self._wanted:
            self._coming.append(self._thread.submit(mapped, self._shape, self._dtype))

    def _made(self) -> Tensor:
        """Return a new piece; raises what went wrong while it was made."""
        if self._device.type != "cuda":
            return torch.empty(self._shape, dtype=self._dtype)
        piece = self._coming.popleft().result()
        try:
            torch.cuda.check_error(_runtime().cudaHostRegister(piece.data_ptr(), piece.nbytes, _PORTABLE))
        except RuntimeError:
            # CUDA would report it again at the next launch, whatever that is, so it is taken here
            with suppress(RuntimeError):
                torch.zeros(1, device=self._device)
            raise
        return piece


def mapped(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return zeros in memory that is mapped already, in huge pages if the system has any.

    Raises:
        OSError: There is not enough memory.
    """
    n_bytes = torch.Size(shape).numel() * dtype.itemsize
    area = mmap.mmap(-1, n_bytes + _HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for advice in ("MADV_HUGEPAGE", "MADV_DONTFORK"):
        with suppress(OSError, AttributeError):  # a system that knows no such thing does without
            area.madvise(getattr(mmap, advice))
    first = -torch.frombuffer(area, dtype=torch.uint8).data_ptr() % _HUGE
    # memory that begins where it is locked, or torch would not take it for locked
    piece = torch.frombuffer(area, dtype=torch.uint8, count=n_bytes, offset=first)
    # not torch's way to write zeros, which would wake threads that compete with the one that launches
    ctypes.memset(piece.data_ptr(), 0, n_bytes)
    return piece.view(dtype).view(shape)


def _let_go(
    thread: ThreadPoolExecutor, pieces: MutableMapping[int, Tensor], device: torch.device, process: int
) -> None:
    """Unlock everything, once no copy reads or writes it; a forked process leaves that to the one that locked."""
    # this may be that thread itself, if it was the one to collect garbage
    thread.shutdown(wait=False, cancel_futures=True)
    if not pieces or os.getpid() != process:
        return
    try:
        torch.cuda.synchronize(device)
    finally:
        for piece in pieces.values():
            _runtime().cudaHostUnregister(piece.data_ptr())
        pieces.clear()


def _runtime() -> Any:
    """Return CUDA's runtime, which has no types."""
    return torch.cuda.cudart()  # pyright: ignore[reportUnknownVariableType]
