"""Which drafts were accepted: by their position in the round, and by the context at which they were verified."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from sparsespec.core.plan import Phase
from sparsespec.engine.outputs import StepResult

WIDTH = 64
"""Contexts are counted in bins of so many tokens."""


@dataclass(frozen=True, slots=True)
class Acceptance:
    """How many drafts were verified somewhere, and how many of them were accepted.

    Attributes:
        at: The draft's position in its round, from 1 on; or the first context length of a bin of 64.
    """

    at: int
    verified: int
    accepted: int


@dataclass(slots=True)
class AcceptanceCounter:
    """Counts verified and accepted drafts, as a watcher of an engine's steps."""

    _by_position: Counter[tuple[int, bool]] = field(default_factory=Counter[tuple[int, bool]])
    _by_context: Counter[tuple[int, bool]] = field(default_factory=Counter[tuple[int, bool]])

    def __call__(self, result: StepResult) -> None:
        """Count the rounds with drafts whose results a step collected."""
        for row in result.info.collected:
            if row.phase is not Phase.VERIFY or not row.n_candidates:
                continue
            context = int(row.kv_full) // WIDTH * WIDTH
            for position in range(1, row.n_candidates + 1):
                # a draft behind a rejected one is rejected with it
                self._by_position[position, position <= row.n_accepted] += 1
            self._by_context[context, True] += row.n_accepted
            self._by_context[context, False] += row.n_candidates - row.n_accepted

    @property
    def by_position(self) -> tuple[Acceptance, ...]:
        """Return a count for each position in a round, first drafts first."""
        return tuple(_acceptance(self._by_position))

    @property
    def by_context(self) -> tuple[Acceptance, ...]:
        """Return a count for each bin of contexts, shortest first."""
        return tuple(_acceptance(self._by_context))


def _acceptance(counts: Counter[tuple[int, bool]]) -> Iterator[Acceptance]:
    for at in sorted({at for at, _ in counts}):
        accepted = counts[at, True]
        yield Acceptance(at, accepted + counts[at, False], accepted)
