"""Selectors that break one promise each, and the sentence that says which."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsespec.core.batch import Batch, Chosen, Outcome
from sparsespec.policies.selectors.pillar import Pillar
from sparsespec.policies.selectors.selection import Stored
from sparsespec.policies.selectors.window import Window
from sparsespec.testing import check_selector
from tests.testing.caught import caught, variant


class Small(Window):
    def __init__(self, budget: float = 0.2, min_budget: int = 8, sinks: int = 4) -> None:
        super().__init__(budget, min_budget, sinks)


class LatePillar(Pillar):
    def __init__(self, budget: float = 0.2, min_budget: int = 4) -> None:
        super().__init__(budget, min_budget)


def positioned(name: str, change: Callable[[Tensor], Tensor]) -> type:
    """Return a window whose positions are `change` of the sound ones."""

    def bind(self: Any, geometry: Any) -> None:
        Small.bind(self, geometry)
        self._positions = change(self._positions)

    return variant(name, Small, bind=bind)


def storing(name: str, change: Callable[[Stored, Batch], object], base: type = Small) -> type:
    """Return a selector that changes what it stores of a sound choice."""

    def select(self: Any, batch: Batch) -> Stored:
        stored = base.select(self, batch)
        assert isinstance(stored, Stored)
        change(stored, batch)
        return stored

    return variant(name, base, select=select)


def tail_too_late(stored: Stored, batch: Batch) -> None:
    stored.tail_from = batch.state.n_committed + 0


def over_budget(stored: Stored, batch: Batch) -> None:
    stored.tail_from = (stored.tail_from - 1).clamp(min=0)
    stored.counts = torch.minimum(stored.counts, stored.tail_from)


def overlapping(stored: Stored, batch: Batch) -> None:
    stored.counts = stored.counts.clamp(min=1)
    stored.tail_from = torch.zeros_like(stored.tail_from)


TIMES = itertools.count()


def dicing(stored: Stored, batch: Batch) -> None:
    """Keep a longer tail every other time."""
    if next(TIMES) % 2:
        stored.tail_from = batch.state.n_committed - 1


def sparse_from_the_start(stored: Stored, batch: Batch) -> None:
    unscored = (stored.tail_from == 0) & (stored.counts[0] == 0)
    stored.tail_from = torch.where(unscored, batch.state.n_committed - 1, stored.tail_from)


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


class WritesInSelect(Small):
    def select(self, batch: Batch) -> Any:
        batch.state.n_drafted.zero_()
        return super().select(batch)


class Peeking(Small):
    """Looks how long the contexts are, and says that it does not."""

    def select(self, batch: Batch) -> Any:
        batch.state.n_committed.max().item()
        return super().select(batch)


class Eager(Small):
    def __init__(self, budget: float = 0.2, min_budget: int = 8) -> None:
        super().__init__(budget, min_budget)
        self.table = torch.zeros(4)


class Rounding(Small):
    def __init__(self, budget: float = 0.25, min_budget: int = 8) -> None:
        super().__init__(round(budget / 2, 3), min_budget, 0)


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


BROKEN: dict[type, str] = {
    positioned("Unsorted", lambda positions: positions.flip(-1)): "distinct and ascending",
    positioned("Doubled", torch.zeros_like): "distinct and ascending",
    storing("TailTooLate", tail_too_late): "is not among 0 … c - 1",
    storing("OverBudget", over_budget): "its budget is",
    storing("Overlapping", overlapping): "not all below tail_from",
    TailByLayer: "not the same in all layers",
    positioned("Floats", Tensor.float): "no integers",
    variant(
        "Meddling", Small, observe=lambda self, outcome: outcome.batch.state.n_computed.add_(1)
    ): "observe changed state.n_computed",
    WritesInSelect: "select changed state.n_drafted",
    Peeking: "cannot be captured",
    storing("Dicing", dicing): "changed its choice",
    Eager: "allocates table; that is for bind",
    Rounding: "does not come back from its spec",
    variant("ThreeLists", Small, num_groups=lambda self, n_kv_heads: 3): "does not divide",
    variant("Undeclared", Small, needs=frozenset({"scores"})): "does not fit needs",
    Rejected: "below tail_from|distinct",
    variant(
        "Forgetful", LatePillar, reset=lambda self, _: Pillar.reset(self, range(len(self._kept.tail_from)))
    ): "changed its choice",
    variant("Remembering", LatePillar, reset=lambda self, seats: None): "was never scored",
    storing("SparseFromTheStart", sparse_from_the_start, LatePillar): "was never scored",
}


@pytest.mark.parametrize("part", BROKEN, ids=lambda part: part.__name__)
def test_a_broken_promise_is_caught(part: type) -> None:
    caught(check_selector, part(), BROKEN[part])


@pytest.mark.parametrize("part", [Small, LatePillar])
def test_their_sound_base_passes(part: type) -> None:
    check_selector(part(), examples=2)
