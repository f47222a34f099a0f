"""Selections that are the same in every layer, or a view of what a selector keeps."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sparsespec.core.batch import Chosen, LayerKeys


@dataclass(slots=True)
class Stored:
    """A selection kept per layer: positions [L or 1, groups, seats, k_max], counts [L or 1, seats], tail_from [seats].

    Collects the scores of the step, one entry a layer, for the selector to reduce after settling.
    """

    positions: Tensor
    counts: Tensor
    tail_from: Tensor
    scores: list[Tensor]

    def at(self, layer: int, q: Tensor, keys: LayerKeys) -> Chosen:
        """Return the positions of `layer`."""
        stored = layer if len(self.positions) > 1 else 0
        return Chosen(self.positions[stored], self.counts[stored], self.tail_from)

    def see(self, layer: int, scores: Tensor) -> None:
        """Keep the scores of `layer`."""
        assert layer == len(self.scores), "scores arrive layer by layer"
        self.scores.append(scores)
