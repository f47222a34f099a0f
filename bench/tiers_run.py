"""Runs one composition whose requests want more KV than there are pages, and writes down where pages are.

How much a request will say is not known before, as in life: each may say as much as the context holds, and is ended at
a length that was drawn. The first requests are found in the middle of what they say, as if the run had begun long ago.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

from bench.engine_fill import Inside
from bench.engine_load import PAGE, Load
from bench.engine_run import Bench
from bench.engine_subjects import Subject
from sparsespec.core.plan import Phase
from sparsespec.engine.outputs import StepResult
from sparsespec.kv.mover import Mover
from sparsespec.metrics.pages import PageMetrics

TURN = 20
"""Steps with copies, and as many without."""
FELT = 4
"""First steps of a turn, in which what was launched in the turn before may still run."""
PAUSE = 3
"""Median steps, above which a step's length is no longer its own doing."""


@dataclass(frozen=True)
class Pressed(Load):
    """Requests at all points of their outputs."""

    def lengths(self, subject: Subject) -> list[tuple[int, int]]:
        """Return (prompt tokens, output tokens); for the first `batch` the prompt holds what they have said already."""
        draw, found = random.Random(self.seed), list[tuple[int, int]]()
        n = self.batch + self.batch * (1 + (self.warmup + self.steps) // self.output[0])
        for i in range(n):
            context, output = draw.randint(*self.context), draw.randint(*self.output)
            done = draw.randrange(output) if i < self.batch else 0
            found.append((context + done, output - done))
        return found

    def demand(self, subject: Subject) -> int:
        """Return the pages of the first `batch` requests at their ends."""
        return sum(-(-sum(one) // PAGE) for one in self.lengths(subject)[: self.batch])


@dataclass
class Watch:
    """Where pages were, and by step whether anybody waited, how many rows ran, and whether prompts or copies began."""

    pages: PageMetrics
    waits: list[bool] = field(default_factory=list[bool])
    rows: list[int] = field(default_factory=list[int])
    fills: list[bool] = field(default_factory=list[bool])
    begins: list[bool] = field(default_factory=list[bool])
    preempted: int = 0
    recomputed: int = 0


class PressedBench(Bench):
    """A bench that watches pages; with `by_turns`, every other turn leaves copies out, and nothing else differs."""

    def __init__(self, *args: Any, by_turns: bool) -> None:
        super().__init__(*args)
        g = self.engine.geometry
        self.watch = Watch(PageMetrics(g.num_gpu_blocks - 1, g.page_bytes))
        self._refilled: dict[int, int] = {}  # requests, by seat
        self._inside = Inside.of(self.engine)
        self._mover = LeavesOut(self._inside.mover) if by_turns else None

    def most_tokens(self, context: int, output: int) -> int:
        """Return what the context has room for: nobody knows what a request will say."""
        return self.engine.geometry.max_model_len - context

    def step(self) -> StepResult:
        """Run one step, end who has said enough, and look where pages are."""
        if self._mover and self.device.watching:
            self._mover.left_out = is_without(len(self.watch.rows))
        result = super().step()
        for event in result.events:
            if self.left[event.request_id] <= 0 and event.completion is None:
                self.engine.abort(event.request_id)
        if self.device.watching:
            self._look(result)
        else:
            self._note(result)
        return result

    def _look(self, result: StepResult) -> None:
        info, watch = result.info, self.watch
        watch.pages.add(info)
        watch.waits.append(bool(info.n_waiting or self._inside.parts.tiers.away()))
        watch.rows.append(len(info.placed.rows))
        watch.fills.append(bool((info.placed.rows.phase == Phase.PREFILL).any()))
        watch.begins.append(bool(info.moves))
        watch.preempted += len(info.placed.preempted)
        watch.recomputed += self._note(result)

    def _note(self, result: StepResult) -> int:
        """Remember who lost its KV; return how many positions are filled again."""
        placed, number, again = result.info.placed, self._inside.table.number, 0
        for row in placed.rows:
            if row.phase is Phase.PREFILL and self._refilled.get(row.seat, -1) == number[row.seat]:
                again += row.n_query
        self._refilled.update((seat, int(number[seat])) for seat in placed.preempted)
        return again


class LeavesOut:
    """Lets a mover say that copies have ended that it never made, and lock nothing, while they are `left_out`."""

    def __init__(self, mover: Mover) -> None:
        self.left_out = False
        trips = mover._trips
        mover._trips = lambda moves: [] if self.left_out else trips(moves)
        ahead = mover._host.ahead
        mover._host.ahead = lambda: None if self.left_out else ahead()


def is_without(step: int) -> bool:
    """Say whether copies are left out in a measured step."""
    return step // TURN % 2 == 1


def cost_of_copies(
    step_seconds: Sequence[float], fills: Sequence[bool], begins: Sequence[bool]
) -> tuple[float, float] | None:
    """Return by what share steps are longer with copies than without, and the standard error; None for too few.

    A step in which copies begin decides about them too, whether they are made or not, and chance gives a turn more or
    fewer of these: so steps are compared with those of their kind, in which copies begin, or did in the step before, or
    neither, and a difference is weighed by how many are of that kind. Steps that fill prompts are left out, and those
    behind them. A longer step than `PAUSE` usual ones counts as that many: a machine pauses for others too. Steps side
    by side are alike, so the error is what leaving out one pair of turns after the other says (a jackknife).

    Memory is locked in turns with copies only, and theirs is what that takes; turns without launch a copy of nothing.
    """
    n_pairs = len(step_seconds) // (2 * TURN)
    # by pair of turns, kind, and whether copies are left out: seconds, and steps
    sums, counts = np.zeros((2, n_pairs, 3, 2))
    longest = PAUSE * median(step_seconds)
    for i in range(1, 2 * TURN * n_pairs):
        if not (fills[i] or fills[i - 1] or i % TURN < FELT):
            cell = i // (2 * TURN), 0 if begins[i] else 1 if begins[i - 1] else 2, int(is_without(i))
            sums[cell] += min(step_seconds[i], longest)
            counts[cell] += 1
    if n_pairs < 2 or ((counts[:, 0] > 0).sum(0) < 2).any():
        return None
    all_sums, all_counts = sums.sum(0), counts.sum(0)
    rest = [_share(all_sums - sums[i], all_counts - counts[i]) for i in range(n_pairs)]
    return _share(all_sums, all_counts), float(np.std(rest) * (n_pairs - 1) ** 0.5)


def _share(sums: Any, counts: Any) -> float:
    """Return the weighed difference of seconds with copies and without, over those without; all [kind, without]."""
    # of a kind that was seen on one side only nothing can be said
    seen = counts.min(1) > 0
    sums, counts = sums[seen], counts[seen]
    means = sums / counts
    weights = counts.sum(1) / counts.sum()
    return float((weights * (means[:, 0] - means[:, 1])).sum() / (sums[:, 1].sum() / counts[:, 1].sum()))
