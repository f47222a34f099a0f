"""The KV pool itself: keys and values of all layers, in pages of the device.

Only launched functions touch it. Which request holds which page is the tier manager's business (`kv/paged.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsespec.core.batch import float_type
from sparsespec.core.config import Geometry
from sparsespec.core.errors import BadOption


def pool_bytes(geometry: Geometry) -> int:
    """Return the bytes of keys and values together."""
    return geometry.num_gpu_blocks * geometry.page_bytes


class KVPool:
    """Keys and values.

    Attributes:
        kv: Both, [2, L, pages, P, Hkv, D].
        k: The keys, [L, pages, P, Hkv, D], a view.
        v: The values, likewise.
    """

    def __init__(self, geometry: Geometry) -> None:
        g = geometry
        shape = (2, g.n_layers, g.num_gpu_blocks, g.block_size, g.n_kv_heads, g.head_dim)
        try:
            # not zeros: that would touch gigabytes, and what was never written is never read
            self.kv: Tensor = torch.empty(shape, dtype=float_type(g.dtype), device=g.device)
        except RuntimeError as error:
            raise BadOption(
                f"the KV pool of {g.num_gpu_blocks} pages takes {pool_bytes(g) / 2**30:.3g} GiB, more than {g.device} "
                "has; lower num_gpu_blocks, or max_num_seqs and max_model_len from which it follows"
            ) from error
        # page 0 is written by dead queries only, and must be finite before the first of them
        self.kv[:, :, 0] = 0
        self.k, self.v = self.kv

    @property
    def n_bytes(self) -> int:
        """Bytes of keys and values together."""
        return self.kv.nbytes

    def poison(self, pages: Sequence[int]) -> None:
        """Fill `pages` with NaN, so that reading what was never written shows."""
        index = torch.tensor(pages, dtype=torch.int64, device=self.kv.device)
        self.kv[:, :, index] = torch.nan
