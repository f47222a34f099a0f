"""The only host-to-device copy of a step: a placed plan as one array of integers, and its unpacking on the device.

Rows that decode come first, then those that fill, then, where a graph wants all rows there are, those of seats that do
nothing in this step: they have no query tokens, and nothing changes for them. A row is in a step at most once, and so
is a seat, whatever the padding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from sparsespec.core.batch import Batch, State
from sparsespec.core.plan import Phase, Rows
from sparsespec.core.view import Ints
from sparsespec.engine.roster import Roster
from sparsespec.engine.shape import Shape
from sparsespec.kernels.implementations import fastest
from sparsespec.kernels.lay_out.api import N_COLUMNS, lay_out_rows, lay_out_tokens


def ordered(rows: Rows) -> tuple[Rows, int]:
    """Return `rows`, decoding ones first and otherwise as they are, and how many of them decode."""
    filling = rows.phase == Phase.PREFILL
    return rows.take(filling.argsort(kind="stable")), len(rows) - int(filling.sum())


def shape_of(rows: Rows, n_decoding: int, *, may_draft: bool) -> Shape:
    """Return the sizes of a step of these rows, in an engine that drafts or does not."""
    plain = may_draft and n_decoding == len(rows) and not rows.k.any()
    return Shape(len(rows), int(rows.n_query.sum()), int(rows.n_query[:n_decoding].sum()), plain)


def pack(rows: Rows, roster: Roster, want_scores: bool, into: Ints) -> None:
    """Write `rows`, decoding ones first, into `into` [N_COLUMNS, B]; the rest are idle seats."""
    assert len(into) == N_COLUMNS
    n, n_rows = len(rows), into.shape[1]
    seat, phase, n_query, k = rows.table
    columns = into[:, :n]
    columns[:4] = rows.table
    columns[4] = n_query.cumsum() - n_query
    # the end of a request's first fill warms its selection up; recomputation scores nothing
    warms = (phase == Phase.PREFILL) & roster.first_fill[seat] & (n_query == roster.to_prefill[seat])
    # who decodes plainly may do so for long: choosing anew for each token would cost more than it is worth
    columns[5] = want_scores & (warms | ((phase == Phase.VERIFY) & (k > 0)))
    columns[6] = roster.stop_below[seat].view(np.int64)
    if n_rows > n:
        rest = into[:, n:]
        rest[:] = 0
        rest[0] = np.setdiff1d(np.arange(n_rows), seat)
        rest[4] = n_query.sum()


def unpack(packed: Tensor, state: State, widest: int, step: int) -> tuple[Batch, Tensor]:
    """Return the batch of a packed step [N_COLUMNS, B], its tokens still to be laid out, and the room for guesses [B].

    Its `live` is what a row can use at most, guesses not counted; no row has more than `widest` query tokens.
    """
    seat, phase, n_query, k, offset, _, _ = packed
    start, live, room, scored = lay_out_rows(packed, state, impl=fastest(packed))
    empty: Any = seat.new_empty(0)
    batch = Batch(
        seat=seat,
        phase=phase,
        n_query=n_query,
        k=k,
        offset=offset,
        scored=scored,
        start=start,
        live=live,
        tokens=empty,
        positions=empty,
        row_of=empty,
        alive=empty.bool(),
        slots=empty,
        state=state,
        widest=widest,
        step=step,
    )
    return batch, room


def lay_out(batch: Batch, n_tokens: int, page_size: int) -> None:
    """Fill in the query tokens of a batch whose `start` and `live` are known; those behind the last row are dead."""
    laid = lay_out_tokens(batch, n_tokens, page_size, impl=fastest(batch.seat))
    batch.tokens, batch.positions, batch.row_of, batch.alive, batch.slots = laid
