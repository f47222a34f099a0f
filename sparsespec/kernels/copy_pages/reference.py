"""Defines `copy_pages` in plain torch, for any dtype."""

from __future__ import annotations

from torch import Tensor


def copy_pages(source: Tensor, target: Tensor, pairs: Tensor, count: Tensor) -> None:
    """See `kernels/copy_pages/api.py`; it looks at the count on the host."""
    pages, places = pairs[: int(count)].unbind(1)
    target[:, places] = source[:, pages]
