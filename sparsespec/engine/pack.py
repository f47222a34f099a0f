"""The only host-to-device copy of a step: a placed plan as one array of integers, and its unpacking on the device.

Buffers form a ring of lag + 1, because a launched step may still be waiting to read its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sparsespec.core.batch import Batch, State
from sparsespec.core.config import Geometry
from sparsespec.core.plan import Phase, Placed
from sparsespec.engine.host import host_array
from sparsespec.engine.request import Request

N_COLUMNS = 7  # seat, phase, n_query, k, offset, scored, stop_below (its bits)


@dataclass(frozen=True, slots=True)
class HostBatch:
    """A packed step and the sizes that the host knows."""

    buffer: npt.NDArray[np.int64]
    n_rows: int
    n_tokens: int
    n_table: int
    n_decoding: int  # DRAFT and VERIFY rows
    n_logits: int  # query tokens of those rows: their logits are wanted
    width: int  # query tokens of the widest of them; 0 without any
    step: int


class Ring:
    """Host buffers for packed steps, used in turn."""

    def __init__(self, geometry: Geometry, lag: int) -> None:
        # of each row: its columns, its number among the decoding ones, and the pages it may gain
        size = geometry.n_seats * (N_COLUMNS + 1 + 3 * geometry.pages_per_seat)
        self._buffers = [host_array((size,), 0, np.int64, geometry.device) for _ in range(lag + 1)]
        self._next = 0

    def pack(self, placed: Placed, requests: tuple[Request, ...], want_scores: bool, step: int) -> HostBatch:
        """Write `placed` into the next buffer; `requests[j]` owns `placed.rows[j]`."""
        buffer = self._buffers[self._next]
        self._next = (self._next + 1) % len(self._buffers)
        rows, n = placed.rows, len(placed.rows)
        columns = buffer[: N_COLUMNS * n].reshape(N_COLUMNS, n)
        offset = 0
        decoding: list[int] = []
        for j, (row, request) in enumerate(zip(rows, requests, strict=True)):
            stop_below = request.round.stop_below if request.round else 0.0
            filling = row.phase is Phase.PREFILL
            # the end of a request's first fill warms its selection up; recomputation scores nothing
            scored = row.phase is Phase.VERIFY or (filling and request.first_fill and row.n_query == request.to_prefill)
            columns[:6, j] = (
                row.seat,
                row.phase,
                row.n_query,
                row.k,
                offset,
                want_scores and scored,
            )
            columns[6, j] = np.float64(stop_below).view(np.int64)
            if not filling:
                decoding.append(j)
            offset += row.n_query
        tail = buffer[N_COLUMNS * n :]
        tail[: len(decoding)] = decoding
        tail[len(decoding) :][: 3 * len(placed.table)] = np.array(placed.table, dtype=np.int64).reshape(-1)
        queries = [rows[j].n_query for j in decoding]
        return HostBatch(
            buffer=buffer,
            n_rows=n,
            n_tokens=offset,
            n_table=len(placed.table),
            n_decoding=len(decoding),
            n_logits=sum(queries),
            width=max(queries, default=0),
            step=step,
        )


def unpack(host: HostBatch, state: State) -> tuple[Batch, Tensor]:
    """Upload a packed step, enter its pages into the tables, and find where each row starts.

    Returns:
        The batch, whose `live` is what a row can use at most, guesses not counted; its query tokens are still to be
        laid out. And the indices of its decoding rows, [R].
    """
    n, device = host.n_rows, state.c.device
    first_entry = N_COLUMNS * n + host.n_decoding
    size = first_entry + 3 * host.n_table
    packed = torch.from_numpy(host.buffer[:size]).to(device, copy=True, non_blocking=True)
    seat, phase, n_query, k, offset, scored, stop_bits = packed[: N_COLUMNS * n].view(N_COLUMNS, n)
    if host.n_table:
        entry_seat, block, page = packed[first_entry:].view(-1, 3).T
        state.table[entry_seat, block] = page
    state.stop_below[seat] = stop_bits.view(torch.float64)
    c, d = state.c[seat], state.d[seat]
    drafting, filling = phase == Phase.DRAFT, phase == Phase.PREFILL
    start = torch.where(filling, state.filled[seat], torch.where(drafting, c - 1 + d, c - 1))
    can = ~drafting | ((d < k) & ~state.ended[seat])
    known = torch.where((phase == Phase.VERIFY) & (k > 0), 1 + d, 1)
    live = torch.where(filling, n_query, torch.where(can, known, 0))
    empty = seat.new_zeros(0)
    batch = Batch(
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
        step=host.step,
    )
    return batch, packed[N_COLUMNS * n : first_entry]


def guess_room(batch: Batch) -> Tensor:
    """Return how many guesses each row can take, [B]: those behind drafts, or behind c where k = 0."""
    drafting = batch.phase == Phase.DRAFT
    d = batch.state.d[batch.seat]
    room = torch.minimum(batch.n_query - 1, torch.where(drafting, batch.k - d - 1, batch.n_query))
    takes = (drafting & (batch.live > 0)) | ((batch.phase == Phase.VERIFY) & (batch.k == 0))
    return torch.where(takes, room, 0).clamp(min=0)


def lay_out(batch: Batch, n_tokens: int, page_size: int) -> None:
    """Fill in the query tokens of a batch whose `start` and `live` are known."""
    state = batch.state
    row_of = torch.repeat_interleave(batch.n_query, output_size=n_tokens)
    index = torch.arange(n_tokens, device=batch.seat.device) - batch.offset[row_of]
    alive = index < batch.live[row_of]
    positions = torch.where(alive, batch.start[row_of] + index, 0)
    seat = batch.seat[row_of]
    page = state.table[seat, positions // page_size]
    batch.row_of, batch.alive, batch.positions = row_of, alive, positions
    batch.tokens = torch.where(alive, state.tokens[seat, positions], 0)
    # dead queries write to page 0, which nobody owns
    batch.slots = torch.where(alive, page * page_size + positions % page_size, 0)
