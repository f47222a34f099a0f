"""Chooses the positions with the highest scores, for all layers at once.

Pooling spreads a high score to its neighbours first: `pool=5` gives each position the maximum of the five around it.
"""

from __future__ import annotations

from torch import Tensor

from sparsespec.core.errors import BadOption
from sparsespec.kernels.implementations import implementation
from sparsespec.kernels.top_positions import reference

IMPLS = {"reference": reference}
LAZY = ("triton",)
"""Implementations that need an optional package, imported when asked for."""


def top_positions(scores: Tensor, below: Tensor, count: Tensor, k_max: int, *, pool: int = 1, impl: str) -> Tensor:
    """Return the `count[r]` best-scored positions below `below[r]`, ascending, [L, groups, R, k_max] int64.

    Args:
        scores: Scores [L, groups, R, S], higher is better; ties go to the lower position. May be a view, contiguous
            along S.
        below: First position that must not be chosen, [R] int64; at most S.
        count: Positions to choose, [R] int64, or [L, R] where layers differ; at most `below` and at most `k_max`.
            Entries behind them are 0.
        k_max: Width of the result.
        pool: Odd width of the maximum taken over neighbouring positions; 1 is off.
        impl: Which implementation.

    Raises:
        BadOption: if a shape or `pool` cannot work.
        MissingPackage: if `impl` needs a package that is not installed.
        UnknownName: if there is no such `impl`.
    """
    module = implementation("top_positions", impl, IMPLS, LAZY)
    if pool < 1 or pool % 2 == 0:
        raise BadOption(f"pool must be an odd number of positions, 1 or more, got {pool}")
    _check_shapes(scores, below, count)
    return module.top_positions(scores, below, count, k_max, pool)


def _check_shapes(scores: Tensor, below: Tensor, count: Tensor) -> None:
    if scores.dim() != 4:
        raise BadOption(f"scores must be [L, groups, R, S], got {list(scores.shape)}")
    layers, _, rows, _ = scores.shape
    if below.shape != (rows,):
        raise BadOption(f"below must be [{rows}], one number for each row of scores, got {list(below.shape)}")
    if count.shape not in ((rows,), (layers, rows)):
        raise BadOption(f"count must be [{rows}] or [{layers}, {rows}], got {list(count.shape)}")
