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


def forward(
    model: Model,
    attention: Attention,
    batch: Batch,
    choice: Selection | None,
    rows: Tensor,
    n_logits: int,
) -> Tensor | None:
    """Run the model over `batch` and return the logits of the `n_logits` queries of `rows`, [T, V]; None if T is 0."""
    attention.plan(batch, choice)
    hidden = model.forward(batch.tokens, attention.run)
    if not n_logits:
        return None
    if n_logits < len(hidden):
        hidden = hidden[_queries(batch, rows, n_logits)]
    return model.logits(hidden)


def _queries(batch: Batch, rows: Tensor, n: int) -> Tensor:
    """Return which of the step's query tokens belong to `rows`, [n]."""
    n_query = batch.n_query[rows]
    first = batch.offset[rows] - (n_query.cumsum(0) - n_query)
    return torch.arange(n, device=rows.device) + torch.repeat_interleave(first, n_query, output_size=n)


def chain_rows(batch: Batch, rows: Tensor, width: int) -> ChainRows:
    """Return what the verifier judges: each decoding row's candidates are its own inputs behind the first.

    Args:
        batch: The step.
        rows: Indices of its DRAFT and VERIFY rows, [R].
        width: Query tokens of the widest of them.
    """
    state, seat = batch.state, batch.seat[rows]
    n_query, start = batch.n_query[rows], batch.start[rows]
    columns = start[:, None] + 1 + torch.arange(width - 1, device=seat.device)
    columns = columns.clamp(max=state.tokens.shape[1] - 1)
    verifying = batch.phase[rows] == Phase.VERIFY
    return ChainRows(
        first=n_query.cumsum(0) - n_query,
        count=batch.live[rows] - 1,
        candidates=state.tokens[seat[:, None], columns],
        drawn=verifying & (batch.k[rows] > 0),
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
