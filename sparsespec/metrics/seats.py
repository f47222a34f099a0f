"""What speculation does for all running requests: the counts of `SpecMetrics`, kept as arrays over seats."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from sparsespec.core.plan import VERIFY
from sparsespec.core.result import RowResults
from sparsespec.core.view import Ints
from sparsespec.metrics.speculation import SpecMetrics

_BY_ROW = (
    "num_verify_steps",
    "num_draft_steps",
    "num_guess_tokens",
    "num_accepted_guesses",
    "num_spec_rounds",
    "num_draft_tokens",
    "num_accepted_tokens",
    "kv_read",
    "kv_read_draft",
    "kv_full_draft",
    "kv_dense",
)
"""What every collected row adds to, in the order in which `SeatCounts` computes it."""
_COUNTS = (*_BY_ROW, "num_preemptions", "num_recomputed_tokens")
_STEPS = 16
"""Steps that are added up at once."""


class SeatCounts:
    """Counts by seat, from when a request takes it until it leaves.

    Args:
        n_seats: Seats.
        most: Candidates that a VERIFY row may judge at most.
    """

    def __init__(self, n_seats: int, most: int) -> None:
        # whole numbers in float64 are exact far beyond what a request can count
        self._counts = np.zeros((len(_COUNTS), n_seats))
        self._histogram = np.zeros((n_seats, most + 1), dtype=np.int64)
        self._pending: list[tuple[RowResults, Ints]] = []

    def clear(self, seat: int) -> None:
        """Begin at 0."""
        self._fold()
        self._counts[:, seat] = 0
        self._histogram[seat] = 0

    def preempted(self, seats: Ints) -> None:
        """Count that `seats` lost all pages."""
        self._counts[_COUNTS.index("num_preemptions"), seats] += 1

    def recomputed(self, seats: Ints, tokens: Ints) -> None:
        """Count positions of `seats` that are filled again."""
        self._counts[_COUNTS.index("num_recomputed_tokens"), seats] += tokens

    def add(self, results: RowResults, output: Ints) -> None:
        """Add rows that were collected [R], each of another seat; `output` [R] of their tokens became output."""
        # many steps are added up at once: numpy takes as long for one as for all of them
        self._pending.append((results, output))
        if len(self._pending) >= _STEPS:
            self._fold()

    def write(self, seat: int, metrics: SpecMetrics) -> None:
        """Add what `seat` has counted to `metrics`; the output is for the caller to count."""
        self._fold()
        for name, value in zip(_COUNTS, self._counts[:, seat].tolist(), strict=True):
            setattr(metrics, name, getattr(metrics, name) + (int(value) if name.startswith("num") else value))
        rounds = self._histogram[seat]
        metrics.acceptance_histogram += Counter({n: int(rounds[n]) for n in rounds.nonzero()[0].tolist()})

    def _fold(self) -> None:
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        steps, output = [results for results, _ in pending], np.concatenate([kept for _, kept in pending])

        def all_of(name: str) -> Any:
            return np.concatenate([getattr(results, name) for results in steps])

        seat, live, candidates, accepted = map(all_of, ("seat", "live", "n_candidates", "n_accepted"))
        kv_read, kv_full = all_of("kv_read"), all_of("kv_full")
        verify = all_of("phase") == VERIFY
        draft = ~verify
        judged = verify & (candidates > 0)
        # dense decoding reads the context once per token: kv_full belongs to the row's last live query
        dense = output * (kv_full - live + 1) + output * (output - 1) // 2
        by_row = (
            verify,
            draft & (live > 0),
            draft * candidates,
            draft * accepted,
            judged,
            judged * candidates,
            judged * accepted,
            kv_read,
            draft * kv_read,
            draft * kv_full,
            verify * dense,
        )
        for i, numbers in enumerate(by_row):
            self._counts[i] += np.bincount(seat, weights=numbers, minlength=self._counts.shape[1])
        np.add.at(self._histogram, (seat[judged], accepted[judged]), 1)
