"""Lets plain decoding and several lengths take turns, from the same beginnings.

Every window begins with fresh requests, prompts and seeds being the same for all contenders of a run, so that all meet
the same text and the same acceptance. A length keeps what it has learned from one window of a cell to the
next, as if the requests had gone on.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.policies.lengths_stage import Stage, Start, Window
from sparsespec.benchmarks.load import PAGE
from sparsespec.benchmarks.report import Row
from sparsespec.core.config import Geometry
from sparsespec.core.plan import Lengths
from sparsespec.core.protocols import Length
from sparsespec.core.registry import make
from sparsespec.core.result import RowResults
from sparsespec.core.spec import PartSpec, preset
from sparsespec.core.view import Ints, View
from sparsespec.models.transformer import Transformer
from sparsespec.testing.simulated_acceptance import SimulatedAcceptance

DENSE = "dense"
OF = 8
"""Drafts of which so many are accepted, where acceptance is simulated."""


class Turns:
    """One of several lengths at a time; those that have no turn observe nothing."""

    needs: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset()

    def __init__(self, lengths: Sequence[str]) -> None:
        self.lengths = tuple(lengths)
        self._made: list[Length] = [make(PartSpec.of(text, "length")) for text in self.lengths]
        self._now = self._made[0]

    @property
    def max_draft(self) -> int:
        """Return the most of all."""
        return max(length.max_draft for length in self._made)

    @property
    def max_guess(self) -> int:
        """Return the most of all."""
        return max(length.max_guess for length in self._made)

    def bind(self, geometry: Geometry) -> None:
        """Let all learn the sizes."""
        self._seats = range(geometry.n_seats)
        for length in self._made:
            length.bind(geometry)

    def turn(self, i: int) -> None:
        """Let one of them propose from now on."""
        self._now = self._made[i]

    def forget(self) -> None:
        """Let all forget all seats."""
        for length in self._made:
            length.reset(self._seats)

    def reset(self, seats: Sequence[int]) -> None:
        """Forget nothing: the next request on a seat goes on with what was learned there."""

    def propose(self, view: View, index: Ints) -> Lengths:
        """Ask the one whose turn it is."""
        return self._now.propose(view, index)

    def observe(self, results: RowResults) -> None:
        """Tell the one whose turn it is."""
        self._now.observe(results)


@dataclass(frozen=True)
class Contest:
    """What all cells have in common.

    Attributes:
        preset: What the lengths are put into; plain decoding runs in its loop.
        lengths: The lengths that compete; the last one is judged.
        accepts: Means of accepted drafts to simulate, each with lengths of its own; (None,) simulates nothing.
        runs: Windows of each contender.
        warmup: Steps before a window.
        seconds: Length of a window, at most.
        seed: Of the requests.
        temperature: 0 is greedy.
    """

    preset: str
    lengths: tuple[str, ...]
    accepts: tuple[float | None, ...]
    runs: int
    warmup: int
    seconds: float
    seed: int
    temperature: float


class Arena:
    """Two engines for a batch size, of up to `most` tokens a request: one decodes plainly, one drafts.

    With `random` weights they share a pool, whose content does not matter.
    """

    def __init__(self, model: Transformer, contest: Contest, batch: int, most: int, *, random: bool) -> None:
        self.contest, self._stages = contest, list[Stage]()
        self.turns = Turns(contest.lengths * len(contest.accepts))
        held = {
            "max_num_seqs": batch,
            "max_model_len": most,
            "block_size": PAGE,
            "num_gpu_blocks": 1 + batch * -(-most // PAGE),
        }
        dense = {"loop": preset(contest.preset).spec.loop, **held}
        drafting: dict[str, Any] = {"length": self.turns, **held}
        if contest.accepts != (None,):
            drafting["verifier"] = SimulatedAcceptance(0.0)
        try:
            self._stages.append(Stage(model, DENSE, dense, random=random))
            pool = self._stages[0].engine.pool if random else None
            self._stages.append(Stage(model, contest.preset, drafting, random=random, pool=pool))
        except BaseException:
            self.close()
            raise

    def cell(self, prompts: Sequence[list[int]], room: int) -> list[Row]:
        """Return the figures of each of `accepts`; plain decoding is the same for all of them."""
        contest, n = self.contest, len(self.contest.lengths)
        self.turns.forget()
        for last in range(n - 1, n * len(contest.accepts), n):
            self._window(last, Start(prompts, room, contest.seed + contest.runs, contest.temperature))
        order = (None, *range(n * len(contest.accepts)))
        windows: dict[int | None, list[Window]] = {one: [] for one in order}
        for run in range(contest.runs):
            start = Start(prompts, room, contest.seed + run, contest.temperature)
            for one in (*order[run % len(order) :], *order[: run % len(order)]):
                windows[one].append(self._window(one, start))
        return [
            {
                "accept": accept,
                **judged(
                    {DENSE: windows[None], **{text: windows[n * i + j] for j, text in enumerate(contest.lengths)}}
                ),
            }
            for i, accept in enumerate(contest.accepts)
        ]

    def close(self) -> None:
        """Release both."""
        while self._stages:
            self._stages.pop().close()

    def _window(self, one: int | None, start: Start) -> Window:
        """Let plain decoding, or a length by its number, have its turn."""
        stage = self._stages[0 if one is None else 1]
        stage.clear()
        if one is not None:
            self.turns.turn(one)
            accept = self.contest.accepts[one // len(self.contest.lengths)]
            if accept is not None:
                stage.aim(accept, OF)
        window = stage.window(start, warmup=self.contest.warmup, seconds=self.contest.seconds)
        stage.clear()
        return window


def judged(windows: Mapping[str, Sequence[Window]]) -> Row:
    """Return the figures of each contender, and those of the last one over those of the best of the others."""
    figures = {name: _figures(each) for name, each in windows.items()}
    rates = {name: one["tokens_per_second"] for name, one in figures.items()}
    *others, last = rates
    better = max(others, key=lambda name: rates[name])
    return {"contenders": figures, "judged": last, "better": better, "ratio": rates[last] / rates[better]}


def _figures(windows: Sequence[Window]) -> Row:
    """Return the median of what windows yielded, and what their rounds were like together."""
    rounds, steps = sum(w.rounds for w in windows), sum(w.steps for w in windows)
    return {
        "tokens_per_second": statistics.median(w.rate for w in windows),
        "windows": [w.rate for w in windows],
        "step_ms": 1e3 * sum(w.seconds for w in windows) / steps,
        "steps": steps,
        "rounds": rounds,
        "drafted": sum(w.drafted for w in windows) / rounds,
        "accepted": sum(w.accepted for w in windows) / rounds,
        "plain": sum(w.plain for w in windows) / rounds,
        "context": sum(w.context for w in windows) / len(windows),
    }
