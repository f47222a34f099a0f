"""Looks at every index of an attention call before it is used: what a kernel itself cannot afford."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsespec.core.batch import AttentionRows, Chosen
from sparsespec.core.errors import BadOption
from sparsespec.kernels.checks import check_within


def check_row_values(n_tokens: int, pool: Tensor, rows: AttentionRows) -> None:
    """Raise `BadOption`, naming the argument, for an index of the rows out of range; waits for the device."""
    n_pages, block_size = pool.shape[:2]
    n_seats, n_blocks = rows.table.shape
    room = n_blocks * block_size
    alive = rows.live > 0
    end = rows.start + rows.live
    check_within("rows.live", rows.live, 0, n_tokens)
    check_within("rows.seat", rows.seat, 0, n_seats - 1)
    check_within("rows.offset", rows.offset[alive], 0, n_tokens - 1)
    check_within("rows.offset + rows.live", (rows.offset + rows.live)[alive], 1, n_tokens)
    check_within("rows.start", rows.start[alive], 0, room - 1)
    check_within("rows.start + rows.live", end[alive], 1, room)
    block = torch.arange(n_blocks, device=pool.device)
    used = rows.table[rows.seat][alive][block * block_size < end[alive, None]]
    check_within("rows.table", used, 0, n_pages - 1)


def check_chosen_values(rows: AttentionRows, chosen: Chosen | None, block_size: int) -> None:
    """Raise `BadOption`, naming the argument, for a chosen index out of range; waits for the device."""
    sparse = (rows.live > 0) & rows.sparse
    if chosen is None:
        if bool(sparse.any()):
            raise BadOption("rows.sparse must be False in every row where there is no selection")
        return
    room = rows.table.shape[1] * block_size
    seat, counts = rows.seat[sparse], chosen.counts[rows.seat[sparse]]
    check_within("chosen.counts", counts, 0, chosen.positions.shape[2])
    tail = chosen.tail_from[seat]
    check_within("chosen.tail_from", tail, 0, room - 1)
    check_within("rows.start - chosen.tail_from", rows.start[sparse] - tail, 0, room)
    held = torch.arange(chosen.positions.shape[2], device=seat.device) < counts[:, None]
    positions = chosen.positions[:, seat][:, held]
    check_within("chosen.positions", positions, 0, room - 1)
    check_within("chosen.tail_from - chosen.positions", (tail[:, None].expand_as(held)[held] - positions), 1, room)
