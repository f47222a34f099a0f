"""Proposer `suffix`: what followed the longest earlier match of the text's end, and more of it after longer matches.

Source: SuffixDecoding (arXiv 2411.04975), which guesses the more tokens the longer the match is. It keeps a suffix tree
of this and of earlier outputs on the host, and follows the most frequent continuations; here a request is matched with
its own prompt and output only, the newest of equally long matches is copied, and all of it is device work with shapes
that are fixed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sparsespec.core.batch import PAD_TOKENS, Outcome, State
from sparsespec.core.config import Geometry
from sparsespec.core.errors import BadOption
from sparsespec.policies.proposers.copying import best_match, copy_behind

# odd numbers of 64 bits, as int64 holds them; products and sums wrap modulo 2**64
_BASE, _FIRST, _SECOND = -7046029254386353131, -4658895280553007687, -7723592293110705685


class Suffix:
    """Finds the longest match of up to `max_match` tokens; `factor` × its length is how much is copied at most.

    Matches of all lengths are compared by sums over tokens (a rolling hash modulo 2**64), by bisection: O(M log
    max_match) operations a row and B × M numbers of memory, however long the matches are. Two texts with equal sums
    would be a wrong guess, which the verification rejects as any other.

    Args:
        max_match: Longest match that is told from shorter ones.
        min_match: Shortest match that counts.
        factor: Guesses per token of the match, rounded down: after a short match few guesses are made.
    """

    needs: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset({"capturable"})
    guesses = True

    def __init__(self, max_match: int = 64, min_match: int = 2, factor: float = 1.0) -> None:
        if not 1 <= min_match <= max_match:
            raise BadOption(
                f"suffix needs 1 <= min_match <= max_match, got min_match={min_match}, max_match={max_match}"
            )
        if not 1 <= factor * max_match < math.inf:
            raise BadOption(
                f"factor is a number of guesses per matched token, and max_match={max_match} tokens must yield a guess "
                f"or more, got {factor}"
            )
        self.max_match, self.min_match, self.factor = max_match, min_match, factor

    def bind(self, geometry: Geometry) -> None:
        """Allocate the powers of the base, one for each column of the token array."""
        self._width = geometry.max_guess
        base = torch.full((geometry.max_model_len + PAD_TOKENS,), _BASE, dtype=torch.int64, device=geometry.device)
        base[0] = 1
        self._powers = base.cumprod(0)

    def reset(self, seats: Sequence[int]) -> None:
        """Forget nothing: all it knows is in the token array."""

    def propose(self, state: State, seat: Tensor, known: Tensor, room: Tensor) -> Tensor:
        """Write guesses behind `known` tokens and return how many, 0 … room."""
        end, length = best_match(self._lengths(state.tokens[seat], known))
        worth = (length.to(torch.float64) * self.factor).to(torch.int64)
        count = torch.minimum(torch.minimum(room, worth), known - 1 - end)
        count = torch.where(length >= self.min_match, count, 0).clamp(min=0)
        copy_behind(state, seat, known, end, count, self._width)
        return count

    def observe(self, outcome: Outcome) -> None:
        """Learn nothing."""

    def _lengths(self, tokens: Tensor, known: Tensor) -> Tensor:
        """Return how many tokens up to each position equal the last ones [B, W], 0 … `max_match`; 0 from the last on.

        Where the newest n tokens match, so do the newest n - 1: so the length is found bit by bit.
        """
        mixed = (tokens + 1) * _FIRST
        mixed = (mixed ^ (mixed >> 29)) * _SECOND
        # sums[:, i] is of the first i tokens; a later text is weighted with higher powers
        sums = torch.nn.functional.pad((mixed * self._powers).cumsum(1), (1, 0))
        column = torch.arange(tokens.shape[1], device=tokens.device)
        end = known[:, None]
        shift = self._powers[(end - 1 - column).clamp(min=0)]
        here, there = sums[:, 1:], sums.gather(1, end)
        most = torch.where(column < end - 1, column + 1, 0).clamp(max=self.max_match)
        length = torch.zeros_like(tokens)
        for bit in reversed(range(self.max_match.bit_length())):
            longer = length + (1 << bit)
            mine = here - sums.gather(1, (column + 1 - longer).clamp(min=0))
            newest = there - sums.gather(1, (end - longer).clamp(min=0))
            length = torch.where((longer <= most) & (mine * shift == newest), longer, length)
        return length
