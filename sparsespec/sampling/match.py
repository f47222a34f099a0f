"""What `greedy` and `shared-noise` have in common: a candidate is accepted iff it equals the sampled token."""

from __future__ import annotations

from torch import Tensor

from sparsespec.core.batch import VerifyInputs, VerifyOutput
from sparsespec.kernels.implementations import fastest
from sparsespec.kernels.verify_inputs.api import LogitRows
from sparsespec.kernels.verify_tokens.api import match_tokens


def match(sampled: Tensor, at: LogitRows, rows: VerifyInputs) -> VerifyOutput:
    """Return what rows emit where a candidate is accepted iff it equals the token sampled from its logit row.

    Args:
        sampled: [T] int64, one token per logit row.
        at: `per_logit_row(rows, T)`.
        rows: The rows.
    """
    width = rows.candidates.shape[1] + 1
    verified = match_tokens(sampled, at.candidate, rows.first, rows.count, width=width, impl=fastest(sampled))
    return VerifyOutput(*verified)
