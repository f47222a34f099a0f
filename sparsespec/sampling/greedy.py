"""The null verifier: every token is the model's best one, and a draft stands iff it is."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsespec.core.batch import Chained, ChainRows
from sparsespec.core.config import Geometry
from sparsespec.kernels.draw.api import draw
from sparsespec.kernels.implementations import fastest
from sparsespec.sampling.spread import LogitRows, match, spread


class Greedy:
    """Argmax, ties to the lowest id; serves requests of temperature 0 only."""

    needs: frozenset[str] = frozenset()
    gives: frozenset[str] = frozenset({"capturable"})

    def bind(self, geometry: Geometry) -> None:
        """Allocate nothing."""

    def accepts(self, temperature: float) -> str | None:
        """Return None for temperature 0, else what to use."""
        if temperature == 0:
            return None
        return (
            f"verifier 'greedy' serves temperature 0 only, got {temperature}; "
            "use temperature=0 or verifier='shared-noise'"
        )

    def chain(self, logits: Tensor, rows: ChainRows, q: Tensor | None) -> Chained:
        """See `core.protocols.Verifier.chain`; `q` is not read."""
        at = spread(rows, len(logits))
        return match(self.draw(logits, at), at, rows)

    def draw(self, logits: Tensor, at: LogitRows) -> Tensor:
        """Return the best token of each logit row, [T] int64."""
        zero = torch.zeros_like(at.temperature)
        key = (at.seed, at.sample, at.position, torch.zeros_like(at.seed))
        return draw(logits, zero, at.top_k, at.top_p, at.min_p, *key, impl=fastest(logits))
