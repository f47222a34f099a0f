"""Chooses the positions with the highest scores, for all layers at once.

Pooling spreads a high score to its neighbours first: `pool=5` gives each position the maximum of the five around it.
"""

from __future__ import annotations

from torch import Tensor

from sparsespec.core.errors import BadOption, unknown
from sparsespec.kernels.top_positions import reference

IMPLS = {"reference": reference.top_positions}


def top_positions(scores: Tensor, below: Tensor, count: Tensor, k_max: int, *, pool: int = 1, impl: str) -> Tensor:
    """Return the `count[r]` best-scored positions below `below[r]`, ascending, [L, groups, R, k_max] int64.

    Args:
        scores: Scores [L, groups, R, S], higher is better; ties go to the lower position.
        below: First position that must not be chosen, [R] int64; at most S.
        count: Positions to choose, [R] int64, at most `below` and at most `k_max`; entries behind them are 0.
        k_max: Width of the result.
        pool: Odd width of the maximum taken over neighbouring positions; 1 is off.
        impl: Which implementation.
    """
    if impl not in IMPLS:
        raise unknown("top_positions implementation", impl, IMPLS)
    if pool < 1 or pool % 2 == 0:
        raise BadOption(f"pool must be an odd number of positions, 1 or more, got {pool}")
    return IMPLS[impl](scores, below, count, k_max, pool)
