"""Runs one composition whose requests want more KV than there are pages, and records where pages are.

How long an output becomes is not known before, as in life: each may fill the context, and is ended at a length that was
drawn. The first requests are found in the middle of their outputs, as if the run had begun long ago.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

from sparsespec.benchmarks.entries import Entry
from sparsespec.benchmarks.load import PAGE, Load
from sparsespec.benchmarks.run import Bench
from sparsespec.core.plan import PREFILL
from sparsespec.engine.outputs import StepResult
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

    def lengths(self, entry: Entry) -> list[tuple[int, int]]:
        """Return (prompt tokens, output tokens); for the first `batch` the prompt holds their output so far."""
        draw, found = random.Random(self.seed), list[tuple[int, int]]()
        n = self.batch + self.batch * (1 + (self.warmup + self.steps) // self.output[0])
        for i in range(n):
            context, output = draw.randint(*self.context), draw.randint(*self.output)
            done = draw.randrange(output) if i < self.batch else 0
            found.append((context + done, output - done))
        return found

    def demand(self, entry: Entry) -> int:
        """Return the pages of the first `batch` requests at their ends."""
        return sum(-(-sum(one) // PAGE) for one in self.lengths(entry)[: self.batch])


@dataclass
class Watch:
    """Where pages were; by step, whether a request waited, how many rows ran, and whether prompts or copies began."""

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
        self._by_turns = by_turns
        # output tokens at which a request is ended, by its number
        self._ends_at = np.array([output for _, output in self.lengths])
        # by seat: the request that was counted last, and the one that lost its KV
        self._counted, self._lost = np.full(g.n_seats, -1), np.full(g.n_seats, -1)

    def most_tokens(self, context: int, output: int) -> int:
        """Return what the context has room for: how long an output becomes is not known."""
        return self.engine.geometry.max_model_len - context

    def step(self) -> StepResult:
        """Run one step, end requests with enough output, and look where pages are."""
        if self._by_turns and self.device.watching:
            self.device.without_side = is_without(len(self.watch.rows))
        result = super().step()
        self.device.without_side = False
        self._end_outputs()
        recomputed = self._note_lost(result)
        if self.device.watching:
            self._look(result, recomputed)
        return result

    def count(self, result: StepResult) -> None:
        """Count tokens by seat, from 0 for requests that are new there."""
        arrival = self.scheduler.arrival
        self.n_output[arrival != self._counted] = 0
        self._counted[:] = arrival
        super().count(result)

    def _end_outputs(self) -> None:
        numbers = self._counted[(self._counted >= 0) & (self.n_output >= self._ends_at[self._counted])]
        for number in numbers.tolist():
            self.engine.abort(number)
            self._ends_at[number] = self.engine.geometry.max_model_len

    def _look(self, result: StepResult, recomputed: int) -> None:
        info, watch = result.info, self.watch
        watch.pages.add(info)
        # a request whose pages are on the host waits for pages on the device
        watch.waits.append(bool(info.n_waiting or info.host_pages))
        watch.rows.append(len(info.placed.rows))
        watch.fills.append(bool((info.placed.rows.phase == PREFILL).any()))
        watch.begins.append(bool(info.moves))
        watch.preempted += len(info.placed.preempted)
        watch.recomputed += recomputed

    def _note_lost(self, result: StepResult) -> int:
        """Remember which requests lost their KV; return how many positions of such requests are filled again."""
        placed, arrival = result.info.placed, self.scheduler.arrival
        filling = placed.rows.phase == PREFILL
        seat = placed.rows.seat[filling]
        again = placed.rows.n_query[filling][self._lost[seat] == arrival[seat]]
        preempted = list(placed.preempted)
        self._lost[preempted] = arrival[preempted]
        return int(again.sum())


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

    The host decides, locks memory and launches in all turns alike: what differs is what the side stream does.
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
    # a kind that was seen on one side only cannot be compared
    seen = counts.min(1) > 0
    sums, counts = sums[seen], counts[seen]
    means = sums / counts
    weights = counts.sum(1) / counts.sum()
    return float((weights * (means[:, 0] - means[:, 1])).sum() / (sums[:, 1].sum() / counts[:, 1].sum()))
