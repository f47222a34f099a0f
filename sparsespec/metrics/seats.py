"""What speculation does for all running requests: the counts of `SpecMetrics`, kept as arrays over seats."""

from __future__ import annotations

from collections import Counter

import numpy as np

from sparsespec.core.plan import VERIFY
from sparsespec.core.result import RowResults
from sparsespec.core.view import Bools, Floats, Ints
from sparsespec.metrics.speculation import SpecMetrics

_COUNTS = (
    "num_verify_steps",
    "num_draft_steps",
    "num_spec_rounds",
    "num_draft_tokens",
    "num_accepted_tokens",
    "num_guess_tokens",
    "num_accepted_guesses",
    "num_preemptions",
    "num_recomputed_tokens",
    "kv_read_draft",
    "kv_full_draft",
    "kv_read",
    "kv_dense",
)


class SeatCounts:
    """Counts by seat, from when a request takes it until it leaves.

    Args:
        n_seats: Seats.
        most: Candidates that a VERIFY row may judge at most.
    """

    def __init__(self, n_seats: int, most: int) -> None:
        # whole numbers in float64 are exact far beyond what a request can count
        self._counts = {name: np.zeros(n_seats) for name in _COUNTS}
        self._histogram = np.zeros((n_seats, most + 1), dtype=np.int64)

    def clear(self, seat: int) -> None:
        """Begin at 0."""
        for column in self._counts.values():
            column[seat] = 0
        self._histogram[seat] = 0

    def preempted(self, seats: Ints) -> None:
        """Count that `seats` lost all pages."""
        self._counts["num_preemptions"][seats] += 1

    def recomputed(self, seats: Ints, tokens: Ints) -> None:
        """Count positions of `seats` that are filled again."""
        self._counts["num_recomputed_tokens"][seats] += tokens

    def add(self, results: RowResults, output: Ints) -> None:
        """Add rows that were collected [R], each of another seat; `output` [R] of their tokens became output."""
        seat, live = results.seat, results.live
        verify = results.phase == VERIFY
        draft = ~verify
        judged = verify & (results.n_candidates > 0)
        self._add(seat, "num_verify_steps", verify)
        self._add(seat, "num_draft_steps", draft & (live > 0))
        self._add(seat, "num_guess_tokens", draft * results.n_candidates)
        self._add(seat, "num_accepted_guesses", draft * results.n_accepted)
        self._add(seat, "num_spec_rounds", judged)
        self._add(seat, "num_draft_tokens", judged * results.n_candidates)
        self._add(seat, "num_accepted_tokens", judged * results.n_accepted)
        self._add(seat, "kv_read", results.kv_read)
        self._add(seat, "kv_read_draft", draft * results.kv_read)
        self._add(seat, "kv_full_draft", draft * results.kv_full)
        # dense decoding reads the context once per token: kv_full belongs to the row's last live query
        read = output * (results.kv_full - live + 1) + output * (output - 1) // 2
        self._add(seat, "kv_dense", verify * read)
        self._histogram[seat[judged], results.n_accepted[judged]] += 1

    def _add(self, seat: Ints, name: str, numbers: Bools | Ints | Floats) -> None:
        self._counts[name][seat] += numbers

    def write(self, seat: int, metrics: SpecMetrics) -> None:
        """Set the counts of `metrics` to what `seat` has counted; the output is for the caller to count."""
        for name, column in self._counts.items():
            value = column[seat].item()
            setattr(metrics, name, getattr(metrics, name) + (int(value) if name.startswith("num") else value))
        rounds = self._histogram[seat]
        metrics.acceptance_histogram += Counter({n: int(rounds[n]) for n in rounds.nonzero()[0].tolist()})
