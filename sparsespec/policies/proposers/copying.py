"""What proposers that copy from the text do alike: choose among matches, and write what came after one as guesses."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsespec.core.batch import State


def best_match(length: Tensor) -> tuple[Tensor, Tensor]:
    """Return, per row of match lengths [B, W] by last position, the position of the longest and its length.

    The newest of equals wins; without any match the position is 0 and the length 0.
    """
    width = length.shape[1]
    column = torch.arange(width, device=length.device)
    end = (length * width + column).masked_fill(length == 0, -1).argmax(1)
    return end, length.gather(1, end[:, None]).squeeze(1)


def copy_behind(state: State, seat: Tensor, known: Tensor, end: Tensor, count: Tensor, width: int) -> None:
    """Write `count[b]` tokens that follow position `end[b]` behind the `known[b]` tokens of a row, at most `width`."""
    tokens = state.tokens[seat]
    step = torch.arange(width, device=seat.device)
    last = tokens.shape[1] - 1
    guesses = tokens.gather(1, (end[:, None] + 1 + step).clamp(max=last))
    target = (known[:, None] + step).clamp(max=last)
    # columns at and behind count keep what they hold; the clamped ones are among those
    kept = tokens.gather(1, target)
    state.tokens[seat[:, None], target] = torch.where(step < count[:, None], guesses, kept)
