"""Attention of rows of all phases in one call, over the paged cache, with scores on request.

A row reads all its KV, or a selection and a tail. The op is planned once for a step and run for every layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from sparsespec.core.batch import AttentionRows, Chosen
from sparsespec.core.errors import BadOption, MissingPackage, unknown
from sparsespec.kernels.attention import reference

IMPLS = {"reference": reference.attention}
LAZY = ("triton",)
"""Implementations that need an optional package, imported when asked for."""


class Attended(NamedTuple):
    """What attention returns."""

    out: Tensor  # [N, Hq, D]
    lse: Tensor  # [N, Hq], natural logarithm of the sum of exp(scale * q·k); 0 at dead queries
    scores: Tensor | None  # [groups, B, S] float, None if no row is scored; S holds the longest row, or any row


def attention(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    rows: AttentionRows,
    *,
    scale: float,
    chosen: Chosen | None = None,
    impl: str,
) -> Attended:
    """Attend q [N, Hq, D] to the pages [pages, P, Hkv, D] of one layer; causal within a row.

    A query at position t of a dense row reads positions 0 … t. A query of a sparse row reads the chosen positions
    of its list (one list for Hkv / groups heads) and tail_from … t. Scores are softmax probabilities, averaged over
    a scored row's scored queries and over the heads of each group; positions that no scored query can see are 0.

    `reference` looks at the rows on the host. `triton` never does: its S is what the page table can hold, and scores
    are None only where `rows.ends` is (0, 0).

    Raises:
        BadOption: if a shape or type cannot work.
        MissingPackage: if `impl` needs a package that is not installed.
        UnknownName: if there is no such `impl`.
    """
    run = _implementation(impl)
    _check(q, k_pages, v_pages, rows, chosen)
    out, lse, scores = run(q, k_pages, v_pages, rows, scale=scale, chosen=chosen)
    return Attended(out, lse, scores)


def _check(q: Tensor, k_pages: Tensor, v_pages: Tensor, rows: AttentionRows, chosen: Chosen | None) -> None:
    n_heads, head_dim = q.shape[1:]
    for name, pages in (("k_pages", k_pages), ("v_pages", v_pages)):
        if pages.ndim != 4 or pages.shape[3] != head_dim or pages.shape != k_pages.shape:
            raise BadOption(f"{name} must be [pages, P, Hkv, {head_dim}], got {list(pages.shape)}")
        if pages.dtype != q.dtype or pages.device != q.device:
            raise BadOption(f"{name} must be {q.dtype} on {q.device} as q is, got {pages.dtype} on {pages.device}")
    n_kv_heads = k_pages.shape[2]
    if n_heads % n_kv_heads:
        raise BadOption(f"q must have a multiple of the {n_kv_heads} KV heads, got {n_heads} heads")
    if rows.groups < 1 or n_kv_heads % rows.groups:
        raise BadOption(f"groups must divide the {n_kv_heads} KV heads, got {rows.groups}")
    for name in ("seat", "offset", "start", "live", "sparse", "scored"):
        if getattr(rows, name).shape != rows.seat.shape:
            raise BadOption(f"rows.{name} must be [{len(rows.seat)}] as rows.seat is")
    if chosen is not None and len(chosen.positions) != rows.groups:
        raise BadOption(f"chosen.positions must hold {rows.groups} lists per seat, got {len(chosen.positions)}")


def _implementation(impl: str) -> Callable[..., Any]:
    if impl in IMPLS:
        return IMPLS[impl]
    if impl not in LAZY:
        raise unknown("attention implementation", impl, (*IMPLS, *LAZY))
    try:
        from sparsespec.kernels.attention import triton
    except ImportError as error:
        raise MissingPackage("attention with impl='triton' needs: pip install 'sparsespec[triton]'") from error
    return triton.attention
