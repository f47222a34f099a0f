"""What `verify_inputs` and `per_logit_row` mean, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsespec.core.batch import Batch, VerifyInputs
from sparsespec.core.plan import Phase


def verify_inputs(batch: Batch, width: int) -> tuple[Tensor, ...]:
    """See `api.verify_inputs`; the fields of `VerifyInputs`."""
    state, seat, start = batch.state, batch.seat, batch.start
    columns = start[:, None] + 1 + torch.arange(width - 1, device=seat.device)
    columns = columns.clamp(max=state.tokens.shape[1] - 1)
    verifying, filling = batch.phase == Phase.VERIFY, batch.phase == Phase.PREFILL
    return (
        batch.offset,
        torch.where(filling, 0, batch.live) - 1,
        state.tokens[seat[:, None], columns],
        verifying & (batch.k > 0),
        (~verifying).to(torch.int64),
        start + 1,
        state.n_committed[seat],
        state.seed[seat],
        state.sample_index[seat],
        state.temperature[seat],
        state.top_k[seat],
        state.top_p[seat],
        state.min_p[seat],
    )


def per_logit_row(rows: VerifyInputs, n_logits: int) -> tuple[Tensor, ...]:
    """See `api.per_logit_row`; the fields of `LogitRows`."""
    width = rows.candidates.shape[1] + 1
    column = torch.arange(width, device=rows.first.device)
    # Logit rows that a row does not have are written to a place behind the last, which is cut off.
    index = torch.where(column <= rows.count[:, None], rows.first[:, None] + column, n_logits)
    line = torch.arange(len(rows.first), device=rows.first.device)[:, None].expand_as(index)
    owner = index.new_full((n_logits + 1,), -1)
    owner = owner.scatter_(0, index.flatten(), line.flatten())[:n_logits]
    alive, row = owner >= 0, owner.clamp(min=0)
    offset = torch.arange(n_logits, device=row.device) - rows.first[row]
    judges = alive & (offset < rows.count[row])
    padded = torch.nn.functional.pad(rows.candidates, (0, 1))
    return (
        row,
        alive,
        judges,
        torch.where(judges, padded[row, offset.clamp(0, width - 1)], 0),
        torch.where(alive, rows.position[row] + offset, 0),
        rows.seed[row],
        rows.sample_index[row],
        torch.where(alive, rows.temperature[row], 0),
        rows.top_k[row],
        rows.top_p[row],
        rows.min_p[row],
    )
