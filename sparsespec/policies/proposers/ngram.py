"""Proposer `ngram`: what followed the last time the newest few tokens stood in this request.

Source: prompt lookup decoding (Saxena, 2023), as vLLM's `ngram` method has it. It reads tokens on the device and
needs no forward pass, so its guesses cost next to nothing where text repeats itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsespec.core.batch import Outcome, State
from sparsespec.core.config import Geometry
from sparsespec.core.errors import BadOption
from sparsespec.policies.proposers.copying import best_match, copy_behind


class Ngram:
    """Finds the longest match, the newest among equals, and copies what came after it.

    Args:
        max_ngram: Longest tail of known tokens that is compared.
        min_ngram: Shortest match that counts.
    """

    needs: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset({"capturable"})
    guesses = True

    def __init__(self, max_ngram: int = 4, min_ngram: int = 2) -> None:
        if not 1 <= min_ngram <= max_ngram:
            raise BadOption(
                f"ngram needs 1 <= min_ngram <= max_ngram, got min_ngram={min_ngram}, max_ngram={max_ngram}"
            )
        self.max_ngram, self.min_ngram = max_ngram, min_ngram

    def bind(self, geometry: Geometry) -> None:
        """Learn the sizes."""
        self._width = geometry.max_guess

    def reset(self, seats: Sequence[int]) -> None:
        """Forget nothing: all it knows is in the token array."""

    def propose(self, state: State, seat: Tensor, known: Tensor, room: Tensor) -> Tensor:
        """Write guesses behind `known` tokens and return how many, 0 … room."""
        tokens = state.tokens[seat]
        end, length = self._longest_match(tokens, known)
        count = torch.minimum(room, known - 1 - end)
        count = torch.where(length >= self.min_ngram, count, 0).clamp(min=0)
        copy_behind(state, seat, known, end, count, self._width)
        return count

    def observe(self, outcome: Outcome) -> None:
        """Learn nothing."""

    def _longest_match(self, tokens: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Return, per row, the last position of the best earlier match and its length (0: none)."""
        width = tokens.shape[1]
        column = torch.arange(width, device=tokens.device)
        matches = column < (known - 1)[:, None]
        length = torch.zeros_like(tokens)
        for back in range(self.max_ngram):
            newest = tokens.gather(1, (known - 1 - back).clamp(min=0)[:, None])
            equal = torch.zeros_like(matches)
            equal[:, back:] = tokens[:, : width - back] == newest
            matches = matches & equal & (known > back)[:, None]
            length += matches
        return best_match(length)
