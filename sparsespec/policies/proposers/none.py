"""Proposer `none`: no guesses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsespec.core.batch import Outcome, State
from sparsespec.core.config import Geometry


class NoProposer:
    """Guesses nothing."""

    needs: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset({"capturable"})
    guesses = False

    def bind(self, geometry: Geometry) -> None:
        """Allocate nothing."""

    def reset(self, seats: Sequence[int]) -> None:
        """Forget nothing."""

    def propose(self, state: State, seat: Tensor, known: Tensor, room: Tensor) -> Tensor:
        """Return zeros."""
        return torch.zeros_like(room)

    def observe(self, outcome: Outcome) -> None:
        """Learn nothing."""
