"""What `verify_tokens` means: the leading accepted candidates, and the token sampled behind them."""

from __future__ import annotations

import torch
from torch import Tensor


def verify_tokens(
    sampled: Tensor, is_accepted: Tensor, first: Tensor, count: Tensor, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """See `api.verify_tokens`."""
    column = torch.arange(width, device=sampled.device)
    # Columns behind a row's last logit row point anywhere legal; the masks below hide what they find.
    index = (first[:, None] + column).clamp_(0, max(len(sampled) - 1, 0))
    candidate = column < count[:, None]
    if len(sampled) == 0:
        sampled, is_accepted = sampled.new_zeros(1), is_accepted.new_zeros(1)
    accepted = (is_accepted[index] & candidate).cumprod(1).sum(1)
    emitted = torch.where(count < 0, 0, accepted + 1)
    tokens = torch.where(column < emitted[:, None], sampled[index], 0)
    return tokens, emitted, accepted


def match_tokens(
    sampled: Tensor, candidate: Tensor, first: Tensor, count: Tensor, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """See `api.match_tokens`."""
    return verify_tokens(sampled, sampled == candidate, first, count, width)
