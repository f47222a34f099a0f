"""The sizes that a launched round is compiled for: what a CUDA graph fixes, and what the host pads a step to.

Sizes are fine where decoding steps lie, because every token more costs GEMM time, and coarse where prefill does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

LOGIT_STEPS = ((16, 4), (128, 8), (256, 16), (512, 32))
"""(up to, in steps of): sizes of the decoding part of a step; above, in steps of 64."""
COARSE = 64
PREFILL_LEAST = 64
"""Prefill parts are powers of two from here on."""


class Shape(NamedTuple):
    """Rows and query tokens of a launched round; the first `n_logits` tokens belong to decoding rows."""

    n_rows: int
    n_tokens: int
    n_logits: int


def padded(shape: Shape, n_rows: int) -> Shape:
    """Return the smallest shape of a graph that holds `shape`, with all `n_rows` rows."""
    filling = shape.n_tokens - shape.n_logits
    n_logits = _rounded(shape.n_logits)
    if filling:
        # beside a prefill a few tokens more cost nothing, and there are fewer graphs
        n_logits = -(-n_logits // COARSE) * COARSE
        filling = max(PREFILL_LEAST, 1 << (filling - 1).bit_length())
    return Shape(n_rows, n_logits + filling, n_logits)


def decoding_shapes(n_rows: int, width: int) -> Iterator[Shape]:
    """Yield the shapes of all steps without prefill, the largest first: `n_rows` rows of up to `width` tokens."""
    n = _rounded(n_rows * width)
    while n:
        yield Shape(n_rows, n, n)
        n = max((m for m in range(max(0, n - COARSE), n) if _rounded(m) == m), default=0)


def _rounded(n: int) -> int:
    step = next((step for most, step in LOGIT_STEPS if n <= most), COARSE)
    return -(-n // step) * step
