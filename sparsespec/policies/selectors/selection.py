"""Selections that are the same in every layer, or a view of what a selector keeps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
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

    def stacked(self) -> Tensor:
        """Return the scores of all layers, [L, groups, B, S]: without a copy where they lie evenly in one buffer."""
        first, *rest = self.scores
        step = rest[0].storage_offset() - first.storage_offset() if rest else first.numel()
        whole = first.untyped_storage()
        for j, layer in enumerate(self.scores):
            at, strides = layer.storage_offset(), layer.stride()
            evenly = at == first.storage_offset() + j * step and strides == first.stride()
            if step <= 0 or not evenly or layer.untyped_storage().data_ptr() != whole.data_ptr():
                return torch.stack(self.scores)
        return first.as_strided((len(self.scores), *first.shape), (step, *first.stride()))
