"""Ragged rows seen from their logit rows: who owns logit row t, and what is to be drawn from it.

`ChainRows` speaks of rows, the draw op of logit rows; this file turns one into the other with fixed shapes. It also
holds what `greedy` and `shared-noise` have in common: a candidate stands iff it is what was drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsespec.core.batch import Chained, ChainRows
from sparsespec.kernels.verify_chain.api import verify_chain


@dataclass(frozen=True, slots=True)
class LogitRows:
    """`ChainRows` per logit row. One that no row owns is not alive, and has temperature 0 so that it costs little."""

    row: Tensor  # [T] int64, the owner; 0 where not alive
    alive: Tensor  # [T] bool
    judges: Tensor  # [T] bool, there is a candidate for this position
    candidate: Tensor  # [T] int64, 0 where not judging
    position: Tensor  # [T] int64, of the token that the logits are the law of
    seed: Tensor  # [T] int64
    sample: Tensor  # [T] int64
    temperature: Tensor  # [T] float64
    top_k: Tensor  # [T] int64
    top_p: Tensor  # [T] float64
    min_p: Tensor  # [T] float64


def spread(rows: ChainRows, n_logits: int) -> LogitRows:
    """Return `rows` per logit row, T = `n_logits`."""
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
    return LogitRows(
        row=row,
        alive=alive,
        judges=judges,
        candidate=torch.where(judges, padded[row, offset.clamp(0, width - 1)], 0),
        position=torch.where(alive, rows.position[row] + offset, 0),
        seed=rows.seed[row],
        sample=rows.sample[row],
        temperature=torch.where(alive, rows.temperature[row], 0),
        top_k=rows.top_k[row],
        top_p=rows.top_p[row],
        min_p=rows.min_p[row],
    )


def match(draws: Tensor, at: LogitRows, rows: ChainRows) -> Chained:
    """Return what rows emit where a candidate stands iff it equals what was drawn from its logit row.

    Args:
        draws: [T] int64, one draw per logit row.
        at: `spread(rows, T)`.
        rows: The rows.
    """
    stands = at.judges & (draws == at.candidate)
    width = rows.candidates.shape[1] + 1
    return Chained(*verify_chain(draws, stands, rows.first, rows.count, width=width), laws=None)
