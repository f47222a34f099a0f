"""Which drafts stood: by their place in the round, and by the context at which they were judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from sparsespec.core.plan import Phase
from sparsespec.engine.outputs import StepResult

WIDTH = 64
"""Tokens of context that are not told apart."""


@dataclass(frozen=True, slots=True)
class Stood:
    """How many drafts were judged somewhere, and how many of them stood.

    Attributes:
        at: The draft's place in its round from 1 on, or the least context of 64 that are counted together.
    """

    at: int
    judged: int
    stood: int


@dataclass(slots=True)
class Rounds:
    """Counts judged drafts, as a watcher of an engine's steps."""

    _by_position: Counter[tuple[int, bool]] = field(default_factory=Counter[tuple[int, bool]])
    _by_context: Counter[tuple[int, bool]] = field(default_factory=Counter[tuple[int, bool]])

    def __call__(self, result: StepResult) -> None:
        """Count what a step heard of rounds that judged drafts."""
        for row in result.info.heard:
            if row.phase is not Phase.VERIFY or not row.n_candidates:
                continue
            context = int(row.kv_full) // WIDTH * WIDTH
            for place in range(1, row.n_candidates + 1):
                # a draft behind one that fell falls with it
                self._by_position[place, place <= row.n_accepted] += 1
            self._by_context[context, True] += row.n_accepted
            self._by_context[context, False] += row.n_candidates - row.n_accepted

    @property
    def by_position(self) -> tuple[Stood, ...]:
        """Return a count for each place in a round, first drafts first."""
        return tuple(_stood(self._by_position))

    @property
    def by_context(self) -> tuple[Stood, ...]:
        """Return a count for each 64 tokens of context, shortest first."""
        return tuple(_stood(self._by_context))


def _stood(counts: Counter[tuple[int, bool]]) -> Iterator[Stood]:
    for at in sorted({at for at, _ in counts}):
        stood = counts[at, True]
        yield Stood(at, stood + counts[at, False], stood)
