"""Attention as its definition reads, one query, head and key at a time in Python floats; what kernels are held against.

It shares nothing with any implementation, and is far too slow for anything but a test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Vector = Sequence[float]


@dataclass(frozen=True, slots=True)
class Read:
    """What one query head gets.

    Attributes:
        out: The weighted mean of the values.
        lse: Natural logarithm of the sum of exp(scale * q·k).
        probability: Position to its weight.
    """

    out: list[float]
    lse: float
    probability: dict[int, float]


def attend_plainly(q: Vector, keys: dict[int, Vector], values: dict[int, Vector], scale: float) -> Read:
    """Return the attention of one query head over `keys` and `values` by position."""
    logits = {t: scale * math.fsum(a * b for a, b in zip(q, key, strict=True)) for t, key in keys.items()}
    top = max(logits.values())
    total = math.fsum(math.exp(x - top) for x in logits.values())
    lse = top + math.log(total)
    probability = {t: math.exp(x - lse) for t, x in logits.items()}
    out = [math.fsum(probability[t] * values[t][j] for t in keys) for j in range(len(q))]
    return Read(out, lse, probability)


def rotate_plainly(x: Vector, cos: Vector, sin: Vector) -> list[float]:
    """Return x with dimension i turned against dimension i + D / 2."""
    half = len(x) // 2
    first = [x[i] * cos[i] - x[half + i] * sin[i] for i in range(half)]
    return first + [x[half + i] * cos[i] + x[i] * sin[i] for i in range(half)]


def norm_plainly(x: Vector, weight: Vector | None, eps: float) -> list[float]:
    """Return x over its root mean square, times `weight`; x itself without a weight."""
    if weight is None:
        return list(x)
    root = math.sqrt(math.fsum(a * a for a in x) / len(x) + eps)
    return [a / root * w for a, w in zip(x, weight, strict=True)]


def scored_queries(live: int, ends: tuple[int, int]) -> list[int]:
    """Return which of `live` queries are scored: the first ends[0] and the last ends[1] of them, each once."""
    first, last = ends
    return [j for j in range(live) if j < first or j >= live - last]
