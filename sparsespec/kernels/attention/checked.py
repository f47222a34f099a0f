"""Looks at every index of an attention call before it is used: what a kernel itself cannot afford."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsespec.core.batch import AttentionRows, Chosen
from sparsespec.kernels.checks import check_within


def check_values(q: Tensor, k_pages: Tensor, rows: AttentionRows, chosen: Chosen | None) -> None:
    """Raise `BadOption`, naming the argument, for an index out of range; waits for the device."""
    n_pages, block_size = k_pages.shape[:2]
    n_seats, n_blocks = rows.table.shape
    room = n_blocks * block_size
    alive = rows.live > 0
    end = rows.start + rows.live
    check_within("rows.live", rows.live, 0, len(q))
    check_within("rows.seat", rows.seat, 0, n_seats - 1)
    check_within("rows.offset", rows.offset[alive], 0, len(q) - 1)
    check_within("rows.offset + rows.live", (rows.offset + rows.live)[alive], 1, len(q))
    check_within("rows.start", rows.start[alive], 0, room - 1)
    check_within("rows.start + rows.live", end[alive], 1, room)
    block = torch.arange(n_blocks, device=q.device)
    used = rows.table[rows.seat][alive][block * block_size < end[alive, None]]
    check_within("rows.table", used, 0, n_pages - 1)
    if chosen is None:
        return
    sparse = alive & rows.sparse
    seat, counts = rows.seat[sparse], chosen.counts[rows.seat[sparse]]
    check_within("chosen.counts", counts, 0, chosen.positions.shape[2])
    tail = chosen.tail_from[seat]
    check_within("chosen.tail_from", tail, 0, room - 1)
    check_within("rows.start - chosen.tail_from", rows.start[sparse] - tail, 0, room)
    held = torch.arange(chosen.positions.shape[2], device=q.device) < counts[:, None]
    positions = chosen.positions[:, seat][:, held]
    check_within("chosen.positions", positions, 0, room - 1)
    check_within("chosen.tail_from - chosen.positions", (tail[:, None].expand_as(held)[held] - positions), 1, room)
