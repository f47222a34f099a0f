"""The KV pools themselves: keys and values of all layers, in pages; one on the device, and one in the host's memory.

Only launched functions touch it. Which page belongs to whom is the tier manager's business (`kv/gpu.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsespec.core.batch import float_type
from sparsespec.core.config import Geometry
from sparsespec.core.errors import BadOption

PIECE = 16 << 20
"""Bytes that the host's pool gains at a time. Page-locking takes 0.4 ms per MB and holds launches up, so it is done
as it is needed, and a little at a time; torch rounds what is locked up to a power of two."""


def pool_bytes(geometry: Geometry) -> int:
    """Return the bytes of keys and values together."""
    return geometry.n_pages * geometry.page_bytes


class KVPool:
    """Keys and values, [L, pages, P, Hkv, D] each."""

    def __init__(self, geometry: Geometry) -> None:
        g = geometry
        shape = (g.n_layers, g.n_pages, g.page_size, g.n_kv_heads, g.head_dim)
        try:
            # not zeros: that would touch gigabytes, and what was never written is never read
            self.k: Tensor = torch.empty(shape, dtype=float_type(g.dtype), device=g.device)
            self.v: Tensor = torch.empty_like(self.k)
        except RuntimeError as error:
            raise BadOption(
                f"the KV pool of {g.n_pages} pages takes {pool_bytes(g) / 2**30:.3g} GiB, more than {g.device} has; "
                "lower n_pages, or max_batch and max_context from which it follows"
            ) from error
        # page 0 is written by dead queries only, and must be finite before the first of them
        self.k[:, 0] = 0
        self.v[:, 0] = 0

    @property
    def n_bytes(self) -> int:
        """Bytes of keys and values together."""
        return 2 * self.k.numel() * self.k.element_size()

    def poison(self, pages: Sequence[int]) -> None:
        """Fill `pages` with NaN, so that reading what was never written shows."""
        index = torch.tensor(pages, dtype=torch.int64, device=self.k.device)
        self.k[:, index] = torch.nan
        self.v[:, index] = torch.nan


class HostPool:
    """Slots for pages in the host's memory, page-locked for a GPU: keys and values of all layers in one piece each."""

    def __init__(self, geometry: Geometry) -> None:
        g = geometry
        self._slots = max(1, PIECE // g.page_bytes)
        self._shape = (self._slots, 2, g.n_layers, g.page_size, g.n_kv_heads, g.head_dim)
        self._dtype, self._pinned = float_type(g.dtype), g.device != "cpu"
        self.pieces: dict[int, Tensor] = {}

    def at(self, first: int, n: int) -> list[Tensor]:
        """Return slots `first` … `first + n - 1` [n, 2, L, P, Hkv, D], in as many parts as they lie in."""
        parts: list[Tensor] = []
        while n:
            piece, start = divmod(first, self._slots)
            if piece not in self.pieces:
                self.pieces[piece] = torch.empty(self._shape, dtype=self._dtype, pin_memory=self._pinned)
            end = min(start + n, self._slots)
            parts.append(self.pieces[piece][start:end])
            first, n = first + end - start, n - (end - start)
        return parts
