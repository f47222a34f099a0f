"""Selections that are the same in every layer, or a view of what a selector keeps; and the keeping."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsespec.core.batch import Chosen, LayerKeys
from sparsespec.core.config import Geometry


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


class Kept:
    """What every seat's last refresh chose, on the device; a seat that has not been refreshed reads everything.

    Args:
        geometry: The sizes.
        k_max: Positions that a list may hold.

    Attributes:
        positions: [L, groups, seats, k_max] int32.
        counts: How many of each list count, [L, seats].
        tail_from: Where the tail of each seat begins, [seats].
    """

    def __init__(self, geometry: Geometry, k_max: int) -> None:
        g = geometry
        shape = (g.n_layers, g.groups, g.n_seats, k_max)
        self.positions = torch.zeros(shape, dtype=torch.int32, device=g.device)
        self.counts = torch.zeros((g.n_layers, g.n_seats), dtype=torch.int64, device=g.device)
        self.tail_from = torch.zeros(g.n_seats, dtype=torch.int64, device=g.device)

    def view(self) -> Stored:
        """Return the selection of all seats, which collects the scores of a step."""
        return Stored(self.positions, self.counts, self.tail_from, [])

    def forget(self, seats: Sequence[int]) -> None:
        """Let these seats read everything."""
        # one by one: a tensor of indices would have to be copied to the device, and waited for
        for seat in seats:
            self.counts[:, seat] = 0
            self.tail_from[seat].fill_(0)

    def refresh(self, seat: Tensor, fresh: Tensor, best: Tensor, count: Tensor, tail_from: Tensor) -> None:
        """Replace what the `fresh` rows [B] of `seat` [B] hold; the others keep theirs.

        Args:
            seat: Seat of each row.
            fresh: Whether the row was refreshed.
            best: Positions [L, groups, B, k_max].
            count: How many of them count, [B].
            tail_from: Where the tail begins, [B].
        """
        old = self.positions[:, :, seat]
        self.positions[:, :, seat] = torch.where(fresh[:, None], best.to(torch.int32), old)
        self.counts[:, seat] = torch.where(fresh, count, self.counts[:, seat])
        self.tail_from[seat] = torch.where(fresh, tail_from, self.tail_from[seat])
