"""A selector on a stage: seats with known counts, and scores made by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsespec.core.batch import Chosen, LayerKeys, Outcome
from sparsespec.core.plan import Phase
from sparsespec.testing.checks.stage import RowAt, batch_of, small_geometry, state_of


class Staged:
    """One bound selector, its state, and the two things that happen to it."""

    def __init__(self, part: Any, **sizes: Any) -> None:
        sizes = {"groups": part.num_groups(2), "scored": part.scored} | sizes
        self.part, self.geometry = part, small_geometry(**sizes)
        self.state = state_of(self.geometry, torch.Generator().manual_seed(0))
        part.bind(self.geometry)
        part.reset(range(self.geometry.n_seats))

    def keys(self, *at: tuple[int, ...], dim: Any = slice(None)) -> Tensor:
        """Return keys of 0, but for 5 in each head at its positions of seat 0, in all dimensions or in one."""
        g = self.geometry
        keys = torch.zeros(g.num_gpu_blocks, g.block_size, g.n_kv_heads, g.head_dim, dtype=torch.float64)
        for head, positions in enumerate(at):
            for t in positions:
                keys[int(self.state.table[0, t // g.block_size]), t % g.block_size, head, dim] = 5.0
        return keys

    def settle(self, c: int, emitted: int, scores: Any, *, live: int = 0, phase: Phase = Phase.VERIFY) -> None:
        """Settle a scored row of seat 0 that leaves `c` committed; scores [S] or [groups, S], alike in all layers."""
        start = c - emitted - 1
        if phase is Phase.PREFILL:
            start, live = 0, c - 1
        live = live or emitted
        row = RowAt(0, phase, live, start, live, k=4, scored=True)
        batch = batch_of(self.geometry, self.state, [row])
        choice = self.part.select(batch)
        table = torch.as_tensor(scores, dtype=torch.float32).expand(self.geometry.groups, -1)
        for layer in range(self.geometry.n_layers):
            choice.see(layer, table[:, None] * (1 + layer))
        self.state.n_committed[0] = c
        self.part.observe(Outcome(batch, torch.tensor([emitted]), torch.tensor([0])))

    def chosen(self, layer: int = 0, *, c: int | None = None, q: Any = None, keys: Any = None) -> Chosen:
        """Return what a DRAFT of seat 0 reads."""
        if c is not None:
            self.state.n_committed[0] = c
        c = int(self.state.n_committed[0])
        batch = batch_of(self.geometry, self.state, [RowAt(0, Phase.DRAFT, 1, c - 1, 1, k=4)])
        g = self.geometry
        q = torch.zeros(1, g.n_heads, g.head_dim, dtype=torch.float64) if q is None else q
        return self.part.select(batch).at(layer, q, LayerKeys(keys, batch))

    def lists(self, layer: int = 0, **more: Any) -> tuple[list[list[int]], int]:
        """Return the lists of positions of seat 0, and where its tail starts."""
        chosen = self.chosen(layer, **more)
        return chosen.positions[:, 0, : int(chosen.counts[0])].tolist(), int(chosen.tail_from[0])


def guesses(part: Any, text: list[int], room: int = 4) -> list[int]:
    """Return what is guessed behind `text`, in seat 2; the columns behind it hold 9s, of which none may be read."""
    geometry = small_geometry()
    part.bind(geometry)
    state = state_of(geometry, torch.Generator().manual_seed(1))
    state.tokens[2] = 9
    state.tokens[2, : len(text)] = torch.tensor(text)
    count = int(part.propose(state, torch.tensor([2]), torch.tensor([len(text)]), torch.tensor([room]))[0])
    return state.tokens[2, len(text) : len(text) + count].tolist()
