"""Writes the K and V of a step into the paged cache, normed and rotated on the way.

The op also norms and rotates the queries, because the same pass over the projections can do all three.
"""

from __future__ import annotations

from torch import Tensor

from sparsespec.core.errors import unknown
from sparsespec.kernels.append_kv import reference

IMPLS = {"reference": reference.append_kv}


def append_kv(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    *,
    positions: Tensor,
    slots: Tensor,
    cos: Tensor,
    sin: Tensor,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
    eps: float,
    impl: str,
) -> Tensor:
    """Write k and v at `slots` and return the rotated queries, [N, Hq, D].

    Args:
        q: Queries [N, Hq, D], neither normed nor rotated.
        k: Keys [N, Hkv, D], likewise.
        v: Values [N, Hkv, D].
        k_pages: One layer's keys [pages, P, Hkv, D], written in place.
        v_pages: One layer's values, likewise.
        positions: Position of each token in its request, [N] int64.
        slots: page * P + offset of each token, [N] int64; dead tokens point into page 0 and may collide there.
        cos: Cosines of all positions, [M, D / 2].
        sin: Sines.
        q_norm: Weight of the query norm [D], or None.
        k_norm: Weight of the key norm [D], or None.
        eps: Epsilon of both norms.
        impl: Which implementation.
    """
    if impl not in IMPLS:
        raise unknown("append_kv implementation", impl, IMPLS)
    return IMPLS[impl](
        q,
        k,
        v,
        k_pages,
        v_pages,
        positions=positions,
        slots=slots,
        cos=cos,
        sin=sin,
        q_norm=q_norm,
        k_norm=k_norm,
        eps=eps,
    )
