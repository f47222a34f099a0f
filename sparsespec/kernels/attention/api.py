"""Attention of rows of all phases in one call, over the paged cache, with scores on request.

A row reads all its KV, or a selection and a tail. The op is planned once for a step and run for every layer.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sparsespec.core.batch import AttentionRows, Chosen
from sparsespec.core.errors import BadOption
from sparsespec.kernels.attention import reference
from sparsespec.kernels.attention.checked import check_values
from sparsespec.kernels.checks import check_kind
from sparsespec.kernels.implementations import implementation

IMPLS = {"reference": reference}
LAZY = ("triton",)
"""Implementations that need an optional package, imported when asked for."""
INTEGERS = (torch.int64, torch.int32)
INTEGER_NAMES = " or ".join(str(kind) for kind in INTEGERS)


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
    checked: bool = False,
) -> Attended:
    """Attend q [N, Hq, D] to the pages [pages, P, Hkv, D] of one layer; causal within a row.

    A query at position t of a dense row reads positions 0 … t. A query of a sparse row reads the chosen positions
    of its list (one list for Hkv / groups heads) and tail_from … t. Scores are softmax probabilities, averaged over
    a scored row's scored queries and over the heads of each group; positions that no scored query can see are 0.

    `reference` looks at the rows on the host. `triton` never does: its S is what the page table can hold, and scores
    are None only where `rows.ends` is (0, 0).

    `checked` looks at every index before anything is read, so that one out of range is an error with a name instead of
    an illegal access. It waits for the device, so it is off by default and cannot be recorded in a CUDA graph.

    Raises:
        BadOption: if a shape or type cannot work, or a value where `checked`.
        MissingPackage: if `impl` needs a package that is not installed.
        UnknownName: if there is no such `impl`.
    """
    module = implementation("attention", impl, IMPLS, LAZY)
    _check(q, k_pages, v_pages)
    _check_rows(q, k_pages, rows)
    if chosen is not None:
        _check_chosen(q, rows, chosen)
    if checked:
        check_values(q, k_pages, rows, chosen)
    out, lse, scores = module.attention(q, k_pages, v_pages, rows, scale=scale, chosen=chosen)
    return Attended(out, lse, scores)


def _check(q: Tensor, k_pages: Tensor, v_pages: Tensor) -> None:
    if q.ndim != 3:
        raise BadOption(f"q must be [N, Hq, D], got {list(q.shape)}")
    n_heads, head_dim = q.shape[1:]
    for name, pages in (("k_pages", k_pages), ("v_pages", v_pages)):
        if pages.ndim != 4 or pages.shape[3] != head_dim or pages.shape != k_pages.shape:
            raise BadOption(f"{name} must be [pages, P, Hkv, {head_dim}], got {list(pages.shape)}")
        check_kind(name, pages, pages.dtype == q.dtype, q.dtype, q.device)
    n_kv_heads = k_pages.shape[2]
    if n_heads % n_kv_heads:
        raise BadOption(f"q must have a multiple of the {n_kv_heads} KV heads, got {n_heads} heads")


def _check_rows(q: Tensor, k_pages: Tensor, rows: AttentionRows) -> None:
    n_kv_heads = k_pages.shape[2]
    if rows.groups < 1 or n_kv_heads % rows.groups:
        raise BadOption(f"groups must divide the {n_kv_heads} KV heads, got {rows.groups}")
    if rows.table.ndim != 2:
        raise BadOption(f"rows.table must be [seats, blocks], got {list(rows.table.shape)}")
    for name in ("seat", "offset", "start", "live", "sparse", "scored", "table"):
        x = getattr(rows, name)
        if name != "table" and x.shape != rows.seat.shape:
            raise BadOption(f"rows.{name} must be [{len(rows.seat)}] as rows.seat is, got {list(x.shape)}")
        if name in ("sparse", "scored"):
            check_kind(f"rows.{name}", x, x.dtype == torch.bool, torch.bool, q.device)
        else:
            check_kind(f"rows.{name}", x, x.dtype in INTEGERS, INTEGER_NAMES, q.device)


def _check_chosen(q: Tensor, rows: AttentionRows, chosen: Chosen) -> None:
    seats = rows.table.shape[0]
    if chosen.positions.ndim != 3 or chosen.positions.shape[:2] != (rows.groups, seats):
        raise BadOption(
            f"chosen.positions must be [{rows.groups}, {seats}, k_max], {rows.groups} lists per seat, "
            f"got {list(chosen.positions.shape)}"
        )
    for name in ("counts", "tail_from"):
        if getattr(chosen, name).shape != (seats,):
            raise BadOption(f"chosen.{name} must be [{seats}], got {list(getattr(chosen, name).shape)}")
    for name, x in chosen._asdict().items():
        check_kind(f"chosen.{name}", x, x.dtype in INTEGERS, INTEGER_NAMES, q.device)
