"""Selectors that break one promise each, and the sentence that says which."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from sparsespec.core.batch import Batch, Chosen, Outcome
from sparsespec.policies.selectors.pillar import Pillar
from sparsespec.policies.selectors.selection import Stored
from sparsespec.policies.selectors.window import Window
from sparsespec.testing import check_selector
from tests.testing.caught import caught


class Small(Window):
    def __init__(self, budget: float = 0.2, min_budget: int = 8, sinks: int = 4) -> None:
        super().__init__(budget, min_budget, sinks)


class LatePillar(Pillar):
    def __init__(self, budget: float = 0.2, min_budget: int = 4) -> None:
        super().__init__(budget, min_budget)


class Unsorted(Small):
    def bind(self, geometry: Any) -> None:
        super().bind(geometry)
        self._positions = self._positions.flip(-1)


class Doubled(Small):
    def bind(self, geometry: Any) -> None:
        super().bind(geometry)
        self._positions = torch.zeros_like(self._positions)


class TailTooLate(Small):
    def select(self, batch: Batch) -> Stored:
        stored = super().select(batch)
        assert isinstance(stored, Stored)
        stored.tail_from = batch.state.n_committed + 0
        return stored


class OverBudget(Small):
    def select(self, batch: Batch) -> Stored:
        stored = super().select(batch)
        assert isinstance(stored, Stored)
        stored.tail_from = (stored.tail_from - 1).clamp(min=0)
        stored.counts = torch.minimum(stored.counts, stored.tail_from)
        return stored


class Overlapping(Small):
    def select(self, batch: Batch) -> Stored:
        stored = super().select(batch)
        assert isinstance(stored, Stored)
        stored.counts = stored.counts.clamp(min=1)
        stored.tail_from = torch.zeros_like(stored.tail_from)
        return stored


class TailByLayer(Small):
    provides: frozenset[str] = frozenset()  # what it does wrong, it does by looking

    def select(self, batch: Batch) -> Any:
        return _TailByLayer(super().select(batch))


class _TailByLayer:
    def __init__(self, stored: Any) -> None:
        self.stored = stored

    def at(self, layer: int, q: Any, keys: Any) -> Chosen:
        chosen = self.stored.at(layer, q, keys)
        return chosen._replace(tail_from=(chosen.tail_from + layer).clamp(max=int(chosen.tail_from.max())))


class Floats(Small):
    def bind(self, geometry: Any) -> None:
        super().bind(geometry)
        self._positions = self._positions.to(torch.float32)


class Meddling(Small):
    def observe(self, outcome: Outcome) -> None:
        outcome.batch.state.n_computed += 1


class WritesInSelect(Small):
    def select(self, batch: Batch) -> Any:
        batch.state.n_drafted.zero_()
        return super().select(batch)


class Peeking(Small):
    """Looks how long the contexts are, and says that it does not."""

    def select(self, batch: Batch) -> Any:
        batch.state.n_committed.max().item()
        return super().select(batch)


class Dicing(Small):
    """Keeps a longer tail every other time."""

    times = itertools.count()

    def select(self, batch: Batch) -> Stored:
        stored = super().select(batch)
        assert isinstance(stored, Stored)
        if next(self.times) % 2:
            stored.tail_from = batch.state.n_committed - 1
        return stored


class Eager(Small):
    def __init__(self, budget: float = 0.2, min_budget: int = 8) -> None:
        super().__init__(budget, min_budget)
        self.table = torch.zeros(4)


class Rounding(Small):
    def __init__(self, budget: float = 0.25, min_budget: int = 8) -> None:
        super().__init__(round(budget / 2, 3), min_budget, 0)


class ThreeLists(Small):
    def num_groups(self, n_kv_heads: int) -> int:
        return 3


class Undeclared(Small):
    needs = frozenset({"scores"})


class Rejected(LatePillar):
    """Chooses among all positions that were scored, those of rejected drafts included."""

    provides: frozenset[str] = frozenset()  # what it does wrong, it does by looking

    def observe(self, outcome: Outcome) -> None:
        super().observe(outcome)
        batch = outcome.batch
        rows = (batch.scored & (batch.live > 0)).nonzero().squeeze(1)
        if self._step is not None and self._step.scores and len(rows):
            seat = batch.seat[rows]
            best = torch.stack(self._step.scores)[:, :, rows].argmax(-1, keepdim=True)
            self._kept.positions[:, :, seat, :1] = best.to(torch.int32)
            self._kept.counts[:, seat] = self._kept.counts[:, seat].clamp(max=1)


class Forgetful(LatePillar):
    def reset(self, seats: Sequence[int]) -> None:
        super().reset(range(len(self._kept.tail_from)))


class Remembering(LatePillar):
    def reset(self, seats: Sequence[int]) -> None:
        pass


class SparseFromTheStart(LatePillar):
    def select(self, batch: Batch) -> Stored:
        stored = super().select(batch)
        assert isinstance(stored, Stored)
        unscored = (stored.tail_from == 0) & (stored.counts[0] == 0)
        stored.tail_from = torch.where(unscored, batch.state.n_committed - 1, stored.tail_from)
        return stored


BROKEN: dict[type, str] = {
    Unsorted: "distinct and ascending",
    Doubled: "distinct and ascending",
    TailTooLate: "is not among 0 … c - 1",
    OverBudget: "its budget is",
    Overlapping: "not all below tail_from",
    TailByLayer: "not the same in all layers",
    Floats: "no integers",
    Meddling: "observe changed state.n_computed",
    WritesInSelect: "select changed state.n_drafted",
    Peeking: "cannot be captured",
    Dicing: "changed its choice",
    Eager: "allocates table; that is for bind",
    Rounding: "does not come back from its spec",
    ThreeLists: "does not divide",
    Undeclared: "does not fit needs",
    Rejected: "below tail_from|distinct",
    Forgetful: "changed its choice",
    Remembering: "was never scored",
    SparseFromTheStart: "was never scored",
}


@pytest.mark.parametrize("part", BROKEN, ids=lambda part: part.__name__)
def test_a_broken_promise_is_caught(part: type) -> None:
    caught(check_selector, part(), BROKEN[part])


@pytest.mark.parametrize("part", [Small, LatePillar])
def test_their_sound_base_passes(part: type) -> None:
    check_selector(part(), examples=2)
