"""One forward of the model over a batch, and the rows it hands to the verifier.

The model meets its KV only through the attention backend, so this file knows neither pages nor selections.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from sparsespec.core.batch import Batch, ChainRows
from sparsespec.core.plan import Phase
from sparsespec.core.protocols import Attention, AttentionSide, Selection


class Model(AttentionSide, Protocol):
    """What the engine needs of a model: tokens to hidden states, hidden states to logits."""

    def forward(self, tokens: Tensor, attend: Callable[[int, Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """Return the final hidden states [N, hidden] of tokens [N]."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Return logits [T, V]."""
        ...


def forward(model: Model, attention: Attention, batch: Batch, choice: Selection | None, n_logits: int) -> Tensor | None:
    """Run the model over `batch` and return the logits of its first `n_logits` queries, [T, V]; None if T is 0."""
    attention.plan(batch, choice)
    hidden = model.forward(batch.tokens, attention.run)
    return model.logits(hidden[:n_logits]) if n_logits else None


def chain_rows(batch: Batch, width: int) -> ChainRows:
    """Return what the verifier judges: each decoding row's candidates are its own inputs behind the first.

    Rows that fill are dead here. `width` is the most query tokens of a decoding row.
    """
    state, seat, start = batch.state, batch.seat, batch.start
    columns = start[:, None] + 1 + torch.arange(width - 1, device=seat.device)
    columns = columns.clamp(max=state.tokens.shape[1] - 1)
    verifying, filling = batch.phase == Phase.VERIFY, batch.phase == Phase.PREFILL
    return ChainRows(
        first=batch.offset,
        count=torch.where(filling, 0, batch.live) - 1,
        candidates=state.tokens[seat[:, None], columns],
        drawn=verifying & (batch.k > 0),
        level=(~verifying).to(torch.int64),
        position=start + 1,
        c=state.c[seat],
        seed=state.seed[seat],
        sample=state.sample[seat],
        temperature=state.temperature[seat],
        top_k=state.top_k[seat],
        top_p=state.top_p[seat],
        min_p=state.min_p[seat],
    )
