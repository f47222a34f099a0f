"""What `lay_out` means, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsespec.core.batch import Batch, State
from sparsespec.core.plan import Phase


def lay_out_rows(packed: Tensor, state: State) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `api.lay_out_rows`."""
    seat, phase, n_query, k, _, scored, stop_bits = packed
    state.stop_below[seat] = stop_bits.view(torch.float64)
    c, d = state.n_committed[seat], state.n_drafted[seat]
    drafting, filling, verifying = (phase == which for which in (Phase.DRAFT, Phase.PREFILL, Phase.VERIFY))
    start = torch.where(filling, state.n_computed[seat], torch.where(drafting, c - 1 + d, c - 1))
    can = ~drafting | ((d < k) & ~state.ended[seat])
    known = torch.where(verifying & (k > 0), 1 + d, 1)
    live = torch.where(filling, n_query, torch.where(can, known, 0))
    takes = (drafting & can) | (verifying & (k == 0))
    room = torch.minimum(n_query - 1, torch.where(drafting, k - d - 1, n_query))
    return start, live, torch.where(takes, room, 0).clamp(min=0), scored.bool()


def lay_out_tokens(batch: Batch, n_tokens: int, block_size: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See `api.lay_out_tokens`."""
    state = batch.state
    index = torch.arange(n_tokens, device=batch.seat.device)
    ends = batch.offset + batch.n_query
    row_of = torch.searchsorted(ends, index, right=True).clamp(max=batch.n_rows - 1)
    index = index - batch.offset[row_of]
    alive = index < batch.live[row_of]
    positions = torch.where(alive, batch.start[row_of] + index, 0)
    seat = batch.seat[row_of]
    page = state.table[seat, positions // block_size]
    tokens = torch.where(alive, state.tokens[seat, positions], 0)
    # dead queries write to page 0, which belongs to no request
    slots = torch.where(alive, page * block_size + positions % block_size, 0)
    return tokens, positions, row_of, alive, slots
