"""Implements `lay_out` for a GPU: one launch for the rows of a step, and one for its tokens.

A token finds its row by counting the rows that end before it, a few dozen comparisons at once; so sizes that change
with every step compile nothing anew. In the kernels `c` is `n_committed`, `d` is `n_drafted`, and `computed` is
`n_computed` of a seat.
"""

# Triton's kernels are no Python that a type checker could follow.
# pyright: reportMissingParameterType=false, reportIndexIssue=false, reportAttributeAccessIssue=false
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsespec.core.batch import Batch, State
from sparsespec.core.plan import Phase
from sparsespec.kernels.checks import check_launch

ROWS = 128
"""Rows that a program takes, or that a token is compared with at once."""
TOKENS = 32
"""Tokens of a program."""

_PREFILL = tl.constexpr(int(Phase.PREFILL))
_DRAFT = tl.constexpr(int(Phase.DRAFT))
_VERIFY = tl.constexpr(int(Phase.VERIFY))


@triton.jit(do_not_specialize=["n_rows"])
def _lay_out_rows(
    packed, c_of, d_of, computed_of, ended_of, stop_of, starts, lives, rooms, scoreds, n_rows, ROWS: tl.constexpr
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    mask = row < n_rows
    seat = tl.load(packed + row, mask=mask, other=0)
    phase = tl.load(packed + n_rows + row, mask=mask, other=0)
    n_query = tl.load(packed + 2 * n_rows + row, mask=mask, other=0)
    k = tl.load(packed + 3 * n_rows + row, mask=mask, other=0)
    tl.store(scoreds + row, tl.load(packed + 5 * n_rows + row, mask=mask, other=0) != 0, mask=mask)
    # floats by their bits, on both sides
    tl.store(stop_of + seat, tl.load(packed + 6 * n_rows + row, mask=mask, other=0), mask=mask)
    c = tl.load(c_of + seat, mask=mask, other=1)
    d = tl.load(d_of + seat, mask=mask, other=0)
    computed = tl.load(computed_of + seat, mask=mask, other=0)
    ended = tl.load(ended_of + seat, mask=mask, other=0) != 0
    drafting, filling, verifying = phase == _DRAFT, phase == _PREFILL, phase == _VERIFY
    start = tl.where(filling, computed, tl.where(drafting, c - 1 + d, c - 1))
    stuck = drafting & ((d >= k) | ended)
    known = tl.where(verifying & (k > 0), 1 + d, 1)
    takes = (drafting & (stuck == 0)) | (verifying & (k == 0))
    room = tl.minimum(n_query - 1, tl.where(drafting, k - d - 1, n_query))
    tl.store(starts + row, start, mask=mask)
    tl.store(lives + row, tl.where(filling, n_query, tl.where(stuck, 0, known)), mask=mask)
    tl.store(rooms + row, tl.maximum(tl.where(takes, room, 0), 0), mask=mask)


@triton.jit(do_not_specialize=["n_rows", "n_tokens"])
def _lay_out_tokens(
    seats, offsets, n_queries, starts, lives, known, table,
    tokens, positions, row_of, alives, slots, n_rows, n_tokens, tokens_seat, table_seat,
    PAGE: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    mask = at < n_tokens
    row = tl.zeros([TOKENS], tl.int32)
    for first in range(0, n_rows, ROWS):
        rows = first + tl.arange(0, ROWS)
        there = rows < n_rows
        end = tl.load(offsets + rows, mask=there, other=0) + tl.load(n_queries + rows, mask=there, other=0)
        before = (end[None, :] <= at[:, None]) & there[None, :]
        row += tl.sum(before.to(tl.int32), 1)
    row = tl.minimum(row, n_rows - 1)
    index = at - tl.load(offsets + row)
    alive = (index < tl.load(lives + row)) & mask
    position = tl.where(alive, tl.load(starts + row) + index, 0)
    seat = tl.load(seats + row)
    token = tl.load(known + seat * tokens_seat + position, mask=alive, other=0)
    page = tl.load(table + seat * table_seat + position // PAGE, mask=alive, other=0)
    tl.store(tokens + at, token, mask=mask)
    tl.store(positions + at, position, mask=mask)
    tl.store(row_of + at, row, mask=mask)
    tl.store(alives + at, alive, mask=mask)
    # dead queries write to page 0, which belongs to no request
    tl.store(slots + at, tl.where(alive, page * PAGE + position % PAGE, 0), mask=mask)


def lay_out_rows(packed: Tensor, state: State) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `kernels/lay_out/api.py`; everything contiguous."""
    seats = (state.n_committed, state.n_drafted, state.n_computed, state.ended, state.stop_below)
    names = ("n_committed", "n_drafted", "n_computed", "ended", "stop_below")
    _check({"packed": packed, **dict(zip(names, seats, strict=True))})
    n_rows = packed.shape[1]
    start, live, room = torch.empty((3, n_rows), dtype=torch.int64, device=packed.device)
    scored = torch.empty(n_rows, dtype=torch.bool, device=packed.device)
    if n_rows:
        _lay_out_rows[(triton.cdiv(n_rows, ROWS),)](
            packed, *seats[:-1], state.stop_below.view(torch.int64), start, live, room, scored, n_rows, ROWS=ROWS
        )
    return start, live, room, scored


def lay_out_tokens(batch: Batch, n_tokens: int, block_size: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See `kernels/lay_out/api.py`; everything contiguous."""
    rows = {name: getattr(batch, name) for name in ("seat", "offset", "n_query", "start", "live")}
    known, table = batch.state.tokens, batch.state.table
    _check({**rows, "tokens": known, "table": table})
    tokens, positions, row_of, slots = torch.empty((4, n_tokens), dtype=torch.int64, device=known.device)
    alive = torch.empty(n_tokens, dtype=torch.bool, device=known.device)
    if n_tokens:
        _lay_out_tokens[(triton.cdiv(n_tokens, TOKENS),)](
            *rows.values(), known, table, tokens, positions, row_of, alive, slots,
            batch.n_rows, n_tokens, known.shape[1], table.shape[1],
            PAGE=block_size, TOKENS=TOKENS, ROWS=ROWS,
        )  # fmt: skip
    return tokens, positions, row_of, alive, slots


def _check(parts: dict[str, Tensor]) -> None:
    check_launch("lay_out", parts, compiled=isinstance(_lay_out_rows, triton.JITFunction))
