"""What a policy on the host may see: numpy columns over the rows that may run, and two scalars.

Nothing else reaches a scheduler or a length policy, so a policy can be replayed, simulated and tested without an
engine. Counts are bounds while results are in flight: `n_lo ≤ n_committed ≤ n_hi` and `d_lo ≤ n_drafted ≤ d_hi`. The
view holds no token and no logit: what was drafted cannot steer which rows run, so that sampled `rejection` stays
lossless.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Index = npt.NDArray[np.int64 | np.bool_]
"""Rows of a view, by number or one truth value each."""
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class View:
    """The rows that may run in this step, oldest first; each column is [B]."""

    seat: Ints  #: place in all per-request arrays
    arrival: Ints  #: number of the request; smaller is older
    to_prefill: Ints  #: positions still to fill before the row may decode
    n_lo: Ints  #: committed tokens, at least
    n_hi: Ints  #: committed tokens, at most
    d_lo: Ints  #: drafted tokens of the present round, at least
    d_hi: Ints  #: drafted tokens of the present round, at most
    k: Ints  #: tokens this round drafts at most; 0 while the row is being filled
    guess: Ints  #: guesses each forward of this round takes at most
    first_round: Bools  #: no VERIFY of this request has been planned yet
    starved: Bools  #: dropped for want of pages, and not placed since
    must_verify: Bools  #: drafts are known and their KV is lost, so VERIFY comes next, no DRAFT
    num_running: int  #: requests on seats in this step, those that may not run among them
    step: int  #: number of this step

    def __len__(self) -> int:
        return len(self.seat)

    def find(self, seats: Ints) -> Ints:
        """Return the row of each of `seats`, -1 for those that are not in the view."""
        row_of = np.full(max(self.seat.max(initial=0), abs(seats).max(initial=0)) + 1, -1)
        row_of[self.seat] = np.arange(len(self.seat))
        return np.where(seats < 0, -1, row_of[seats])

    def describe(self, i: int) -> str:
        """Return row `i` as text, for error messages."""
        return ", ".join(f"{name}={getattr(self, name)[i].item()}" for name in COLUMNS)


COLUMNS = tuple(f.name for f in fields(View) if f.name not in ("num_running", "step"))
"""Names of the columns."""
