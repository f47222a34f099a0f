"""Ragged rows seen from their logit rows: who owns logit row t, and what is to be drawn from it.

`VerifyInputs` speaks of rows, the draw op of logit rows; `spread` turns one into the other. This file also holds what
`greedy` and `shared-noise` have in common: a candidate stands iff it is what was drawn.
"""

from __future__ import annotations

from torch import Tensor

from sparsespec.core.batch import VerifyInputs, VerifyOutput
from sparsespec.kernels.implementations import fastest
from sparsespec.kernels.verify_inputs.api import LogitRows
from sparsespec.kernels.verify_inputs.api import spread as spread_rows
from sparsespec.kernels.verify_tokens.api import match_tokens


def spread(rows: VerifyInputs, n_logits: int) -> LogitRows:
    """Return `rows` per logit row, T = `n_logits`."""
    return spread_rows(rows, n_logits, impl=fastest(rows.first))


def match(draws: Tensor, at: LogitRows, rows: VerifyInputs) -> VerifyOutput:
    """Return what rows emit where a candidate stands iff it equals what was drawn from its logit row.

    Args:
        draws: [T] int64, one draw per logit row.
        at: `spread(rows, T)`.
        rows: The rows.
    """
    width = rows.candidates.shape[1] + 1
    verified = match_tokens(draws, at.candidate, rows.first, rows.count, width=width, impl=fastest(draws))
    return VerifyOutput(*verified)
