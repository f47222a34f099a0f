"""The sizes that a step is compiled for: what a CUDA graph fixes, and what the host pads a step to.

Sizes are fine where decoding steps lie, because every token more costs GEMM time, and coarse where prefill does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

LOGIT_STEPS = ((16, 4), (128, 8), (256, 16), (512, 32))
"""(up to, in steps of): sizes of the decoding part of a step; above, in steps of 64."""
COARSE = 64
SHORT = 32
"""A prefill part of up to so many tokens lies among those of decoding rows, and gets logits that are not used."""
PREFILL_LEAST = 64
"""Longer prefill parts are powers of two from here on."""


class StepShape(NamedTuple):
    """Rows and query tokens of a launched step; decoding rows are among the first `n_logits` tokens.

    A `plain` one is a step of an engine that drafts in which no row drafts or judges drafts: the selector has no
    part in it, and it costs what it costs an engine without one.
    """

    n_rows: int
    n_tokens: int
    n_logits: int
    plain: bool = False


def padded(shape: StepShape, n_rows: int) -> StepShape:
    """Return the smallest shape of a graph that holds `shape`, with all `n_rows` rows."""
    filling = shape.n_tokens - shape.n_logits
    if shape.n_logits and filling <= SHORT:
        # the rest of a prompt costs what as many tokens of decoding rows do, and there is a graph for those
        n = _rounded(shape.n_tokens)
        return StepShape(n_rows, n, n, shape.plain)
    n_logits = _rounded(shape.n_logits)
    if filling:
        # beside a prefill a few tokens more cost nothing, and there are fewer graphs
        n_logits = -(-n_logits // COARSE) * COARSE
        filling = max(PREFILL_LEAST, 1 << (filling - 1).bit_length())
    return StepShape(n_rows, n_logits + filling, n_logits)


def decoding_shapes(n_rows: int, width: int, *, plain: bool = False) -> Iterator[StepShape]:
    """Yield the shapes of all steps with at most a short prefill: `n_rows` rows of up to `width` tokens decode.

    The largest comes first. Plain steps have no prefill.
    """
    n = _rounded(n_rows * width + (0 if plain else SHORT))
    while n:
        yield StepShape(n_rows, n, n, plain)
        n = max((m for m in range(max(0, n - COARSE), n) if _rounded(m) == m), default=0)


def _rounded(n: int) -> int:
    step = next((step for most, step in LOGIT_STEPS if n <= most), COARSE)
    return -(-n // step) * step
