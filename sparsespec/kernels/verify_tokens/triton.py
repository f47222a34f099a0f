"""Implements `verify_tokens` and `match_tokens` for a GPU, in one launch."""

# Triton's kernels are no Python that a type checker could follow.
# pyright: reportMissingParameterType=false, reportIndexIssue=false, reportAttributeAccessIssue=false
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsespec.kernels.checks import check_launch

ROWS = 16
"""Rows of a program."""


@triton.jit(do_not_specialize=["n_rows", "n_logits"])
def _verify_tokens(
    tokens_of, verdicts, firsts, counts, tokens, emitteds, accepteds, n_rows, n_logits, width,
    MATCH: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """With `MATCH`, verdicts are tokens, and one that equals the sampled token is accepted."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    mask = row < n_rows
    count = tl.load(counts + row, mask=mask, other=-1)
    column = tl.arange(0, WIDTH)
    at = tl.load(firsts + row, mask=mask, other=0)[:, None] + column[None, :]
    owned = (column[None, :] <= count[:, None]) & (at >= 0) & (at < n_logits)
    sampled = tl.load(tokens_of + at, mask=owned, other=0)
    verdict = tl.load(verdicts + at, mask=owned, other=0)
    is_accepted = (verdict == sampled) if MATCH else (verdict != 0)
    is_accepted = is_accepted & owned & (column[None, :] < count[:, None])
    # the first that is rejected; where none is, the place behind the last candidate
    accepted = tl.maximum(tl.minimum(tl.min(tl.where(is_accepted, WIDTH, column[None, :]), 1), count), 0)
    emitted = tl.where(count < 0, 0, accepted + 1)
    tl.store(accepteds + row, accepted, mask=mask)
    tl.store(emitteds + row, emitted, mask=mask)
    token = tl.where(column[None, :] < emitted[:, None], sampled, 0)
    tl.store(tokens + row[:, None] * width + column[None, :], token, mask=mask[:, None] & (column < width)[None, :])


def verify_tokens(
    sampled: Tensor, is_accepted: Tensor, first: Tensor, count: Tensor, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """See `kernels/verify_tokens/api.py`; everything contiguous."""
    return _launch(sampled, is_accepted, first, count, width, match=False)


def match_tokens(
    sampled: Tensor, candidate: Tensor, first: Tensor, count: Tensor, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """See `kernels/verify_tokens/api.py`; everything contiguous."""
    return _launch(sampled, candidate, first, count, width, match=True)


def _launch(
    sampled: Tensor, verdicts: Tensor, first: Tensor, count: Tensor, width: int, *, match: bool
) -> tuple[Tensor, Tensor, Tensor]:
    parts = {"sampled": sampled, "candidate" if match else "is_accepted": verdicts, "first": first, "count": count}
    check_launch("verify_tokens", parts, compiled=isinstance(_verify_tokens, triton.JITFunction))
    n_rows = len(first)
    tokens = torch.empty((n_rows, width), dtype=torch.int64, device=sampled.device)
    emitted, accepted = torch.empty((2, n_rows), dtype=torch.int64, device=sampled.device)
    if n_rows:
        _verify_tokens[(triton.cdiv(n_rows, ROWS),)](
            *parts.values(), tokens, emitted, accepted, n_rows, len(sampled), width,
            MATCH=match, ROWS=ROWS, WIDTH=triton.next_power_of_2(width),
        )  # fmt: skip
    return tokens, emitted, accepted
