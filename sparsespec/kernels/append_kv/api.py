"""Writes the K and V of a step into the paged cache, normed and rotated on the way.

The op also norms and rotates the queries, because the same pass over the projections can do all three.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsespec.core.errors import BadOption
from sparsespec.kernels.append_kv import reference
from sparsespec.kernels.checks import check_kind, check_within
from sparsespec.kernels.implementations import implementation

IMPLS = {"reference": reference}
LAZY = ("triton",)
"""Implementations that need an optional package, imported when asked for."""


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
    checked: bool = False,
) -> Tensor:
    """Write k and v at `slots` and return the rotated queries, [N, Hq, D].

    Args:
        q: Queries [N, Hq, D], neither normed nor rotated; q, k and v may be views of one projection.
        k: Keys [N, Hkv, D], likewise.
        v: Values [N, Hkv, D].
        k_pages: One layer's keys [pages, P, Hkv, D], written in place.
        v_pages: One layer's values, likewise.
        positions: Position of each token in its request, [N] int64.
        slots: page * P + offset of each token, [N] int64; dead tokens point into page 0 and may collide there.
        cos: Cosines of all positions, [M, D / 2].
        sin: Sines.
        q_norm: Weight of the query norm [D], or None.
        k_norm: Weight of the key norm [D]; None where q_norm is.
        eps: Epsilon of both norms.
        impl: Which implementation.
        checked: Whether to look at every position and slot first; that waits for the device, so no CUDA graph takes it.

    Raises:
        BadOption: if a shape, type or device cannot work, only one of the norms is given, or `checked` found something.
        MissingPackage: if `impl` needs a package that is not installed.
        UnknownName: if there is no such `impl`.
    """
    module = implementation("append_kv", impl, IMPLS, LAZY)
    _check_shapes(q, k, v, k_pages, v_pages)
    _check_tables(q, positions, slots, cos, sin)
    _check_norms(q, q_norm, k_norm)
    if checked:
        _check_values(positions, slots, cos, k_pages)
    return module.append_kv(
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


def _check_shapes(q: Tensor, k: Tensor, v: Tensor, k_pages: Tensor, v_pages: Tensor) -> None:
    if q.ndim != 3:
        raise BadOption(f"q must be [N, Hq, D], got {list(q.shape)}")
    n, _, head_dim = q.shape
    if head_dim % 2:
        raise BadOption(f"q must have an even head dimension to be rotated, got {head_dim}")
    if k.ndim != 3 or k.shape != (n, k.shape[1], head_dim) or v.shape != k.shape:
        raise BadOption(f"k and v must both be [{n}, Hkv, {head_dim}] beside q, got {list(k.shape)}, {list(v.shape)}")
    for name, pages in (("k_pages", k_pages), ("v_pages", v_pages)):
        if pages.ndim != 4 or pages.shape[2:] != k.shape[1:] or pages.shape != k_pages.shape:
            raise BadOption(f"{name} must be [pages, P, {k.shape[1]}, {head_dim}] as k is, got {list(pages.shape)}")
    for name, x in (("k", k), ("v", v), ("k_pages", k_pages), ("v_pages", v_pages)):
        check_kind(name, x, x.dtype == q.dtype, q.dtype, q.device)


def _check_tables(q: Tensor, positions: Tensor, slots: Tensor, cos: Tensor, sin: Tensor) -> None:
    for name, x in (("positions", positions), ("slots", slots)):
        if x.shape != q.shape[:1]:
            raise BadOption(f"{name} must be [{q.shape[0]}], one number for each token of q, got {list(x.shape)}")
        check_kind(name, x, x.dtype == torch.int64, "int64", q.device)
    for name, x in (("cos", cos), ("sin", sin)):
        if x.shape != (cos.shape[0], q.shape[-1] // 2):
            raise BadOption(f"{name} must be [M, {q.shape[-1] // 2}], half of q's head dimension, got {list(x.shape)}")
        check_kind(name, x, x.is_floating_point(), "floats", q.device)


def _check_norms(q: Tensor, q_norm: Tensor | None, k_norm: Tensor | None) -> None:
    if (q_norm is None) != (k_norm is None):
        raise BadOption("q_norm and k_norm must both be given or both be None")
    for name, x in (("q_norm", q_norm), ("k_norm", k_norm)):
        if x is None:
            continue
        if x.shape != q.shape[-1:]:
            raise BadOption(f"{name} must be [{q.shape[-1]}], a weight for each number of a head, got {list(x.shape)}")
        check_kind(name, x, x.is_floating_point(), "floats", q.device)


def _check_values(positions: Tensor, slots: Tensor, cos: Tensor, k_pages: Tensor) -> None:
    check_within("positions", positions, 0, len(cos) - 1)
    check_within("slots", slots, 0, k_pages.shape[:2].numel() - 1)
