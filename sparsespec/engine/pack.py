"""The only host-to-device copy of a step: a placed plan as one array of integers, and its unpacking on the device.

Rows that decode come first, then those that fill, then, where a graph wants all rows there are, those of seats that do
nothing in this step: they have no query tokens, and nothing changes for them. A row is in a step at most once, and so
is a seat, whatever the padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sparsespec.core.batch import Batch, State
from sparsespec.core.plan import Phase, Row
from sparsespec.engine.request import Request
from sparsespec.engine.shape import Shape

N_COLUMNS = 7  # seat, phase, n_query, k, offset, scored, stop_below (its bits)


def shape_of(rows: Sequence[Row]) -> Shape:
    """Return the sizes of a step of these rows."""
    prefill = Phase.PREFILL
    queries = sum(row.n_query for row in rows if row.phase is not prefill)
    return Shape(len(rows), sum(row.n_query for row in rows), queries)


def pack(rows: Sequence[Row], requests: Sequence[Request], want_scores: bool, into: npt.NDArray[np.int64]) -> None:
    """Write `rows`, decoding ones first, into `into` [N_COLUMNS, B]; the rest are idle seats."""
    n, n_rows = len(rows), into.shape[1]
    columns = into[:, :n]
    columns[:4] = list(zip(*rows, strict=True))  # the fields of a row, in their order
    columns[4] = np.cumsum(columns[2]) - columns[2]
    # the end of a request's first fill warms its selection up; recomputation scores nothing
    prefill, _, verify = Phase
    columns[5] = [
        want_scores
        and (row.phase is verify or (row.phase is prefill and request.first_fill and row.n_query == request.to_prefill))
        for row, request in zip(rows, requests, strict=True)
    ]
    stops = [request.round.stop_below if request.round else 0.0 for request in requests]
    columns[6] = np.array(stops, dtype=np.float64).view(np.int64)
    if n_rows > n:
        rest = into[:, n:]
        rest[:] = 0
        rest[0] = np.setdiff1d(np.arange(n_rows), columns[0])
        rest[4] = columns[2].sum()


def unpack(packed: Tensor, state: State, widest: int, step: int) -> Batch:
    """Return the batch of a packed step [N_COLUMNS, B], whose query tokens are still to be laid out.

    Its `live` is what a row can use at most, guesses not counted; no row has more than `widest` query tokens.
    """
    seat, phase, n_query, k, offset, scored, stop_bits = packed
    state.stop_below[seat] = stop_bits.view(torch.float64)
    c, d = state.c[seat], state.d[seat]
    drafting, filling = phase == Phase.DRAFT, phase == Phase.PREFILL
    start = torch.where(filling, state.filled[seat], torch.where(drafting, c - 1 + d, c - 1))
    can = ~drafting | ((d < k) & ~state.ended[seat])
    known = torch.where((phase == Phase.VERIFY) & (k > 0), 1 + d, 1)
    live = torch.where(filling, n_query, torch.where(can, known, 0))
    empty: Any = seat.new_zeros(0)
    return Batch(
        seat=seat,
        phase=phase,
        n_query=n_query,
        k=k,
        offset=offset,
        scored=scored.bool(),
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


def guess_room(batch: Batch) -> Tensor:
    """Return how many guesses each row can take, [B]: those behind drafts, or behind c where k = 0."""
    drafting = batch.phase == Phase.DRAFT
    d = batch.state.d[batch.seat]
    room = torch.minimum(batch.n_query - 1, torch.where(drafting, batch.k - d - 1, batch.n_query))
    takes = (drafting & (batch.live > 0)) | ((batch.phase == Phase.VERIFY) & (batch.k == 0))
    return torch.where(takes, room, 0).clamp(min=0)


def lay_out(batch: Batch, n_tokens: int, page_size: int) -> None:
    """Fill in the query tokens of a batch whose `start` and `live` are known; those behind the last row are dead."""
    state = batch.state
    index = torch.arange(n_tokens, device=batch.seat.device)
    ends = batch.offset + batch.n_query
    row_of = torch.searchsorted(ends, index, right=True).clamp(max=batch.n_rows - 1)
    index = index - batch.offset[row_of]
    alive = index < batch.live[row_of]
    positions = torch.where(alive, batch.start[row_of] + index, 0)
    seat = batch.seat[row_of]
    page = state.table[seat, positions // page_size]
    batch.row_of, batch.alive, batch.positions = row_of, alive, positions
    batch.tokens = torch.where(alive, state.tokens[seat, positions], 0)
    # dead queries write to page 0, which nobody owns
    batch.slots = torch.where(alive, page * page_size + positions % page_size, 0)
