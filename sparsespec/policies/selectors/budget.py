"""How many positions a list may read, and the checks of the options that say so; shared by all selectors."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsespec.core.errors import BadOption


def check_budget(
    budget: float, min_budget: int, *, names: tuple[str, str] = ("budget", "min_budget"), whole: str = "context"
) -> None:
    """Raise `BadOption` unless `budget` is a share of the `whole` and `min_budget` a number of tokens."""
    if not 0 < budget <= 1:
        raise BadOption(f"{names[0]} is the share of the {whole} a draft reads, in (0, 1], got {budget}")
    if min_budget < 1:
        raise BadOption(f"{names[1]} is a number of tokens, 1 or more, got {min_budget}")


def check_groups(groups: int | str, n_kv_heads: int) -> int:
    """Return how many groups a layer has: a number that divides `n_kv_heads`, or one per KV head for "heads"."""
    number = n_kv_heads if groups == "heads" else groups
    if not isinstance(number, int) or number < 1 or n_kv_heads % number:
        raise BadOption(
            f"groups must divide the {n_kv_heads} KV heads of the model, or be 'heads' (one list per KV head), "
            f"got {groups!r}"
        )
    return number


def allowed(n_committed: Tensor, budget: float, min_budget: int) -> Tensor:
    """Return how many positions below the newest of `n_committed` tokens a list may read (int64, any shape)."""
    context = n_committed - 1
    share = torch.ceil(context.to(torch.float64) * budget).to(torch.int64)
    return torch.minimum(context, share.clamp(min=min_budget))
