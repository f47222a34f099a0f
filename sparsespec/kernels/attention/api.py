"""Attention of rows of all phases in one call, over the paged cache, with scores on request.

A row reads all its KV, or a selection and a tail. The op is planned once for a step and run for every layer.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from sparsespec.core.batch import AttentionRows, Chosen
from sparsespec.core.errors import unknown
from sparsespec.kernels.attention import reference

IMPLS = {"reference": reference.attention}


class Attended(NamedTuple):
    """What attention returns."""

    out: Tensor  # [N, Hq, D]
    lse: Tensor  # [N, Hq], natural logarithm of the sum of exp(scale * q·k); 0 at dead queries
    scores: Tensor | None  # [groups, B, S] float, None if no row is scored


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
    """
    if impl not in IMPLS:
        raise unknown("attention implementation", impl, IMPLS)
    out, lse, scores = IMPLS[impl](q, k_pages, v_pages, rows, scale=scale, chosen=chosen)
    return Attended(out, lse, scores)
