"""What a policy on the host may see: numpy arrays over the rows that may run, and a few scalars.

Nothing else reaches a scheduler or a length policy, so a policy can be replayed, simulated and tested without an
engine. Counts are bounds where results are still unheard: `n_lo ≤ c ≤ n_hi` and `d_lo ≤ d ≤ d_hi`. The view holds no
token and no logit: what was drafted cannot steer who runs, which keeps sampled `rejection` lossless.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Index = npt.NDArray[np.int64 | np.bool_]
"""Rows of a view, by number or one truth value each."""
Floats = npt.NDArray[np.float64]


class RowView(NamedTuple):
    """One row of the view as plain numbers; the fields are those of `View`."""

    seat: int
    arrival: int
    to_prefill: int
    n_lo: int
    n_hi: int
    d_lo: int
    d_hi: int
    k: int
    guess: int
    first_round: bool
    starved: bool
    must_verify: bool
    pages: int
    shared_pages: int
    accepted_mean: float
    confidence: float
    waiting_since: int
    running: int


@dataclass(frozen=True, slots=True)
class View:
    """The rows that may run in this step, oldest first."""

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
    pages: Ints  #: pages held
    shared_pages: Ints  #: pages among them that another sample of the prompt filled
    accepted_mean: Floats  #: accepted drafts per heard round that drafted; NaN before the first
    confidence: Floats  #: top-1 probability of the newest heard draft; NaN before
    waiting_since: Ints  #: step of the last placed row
    running: Ints  #: requests on seats in this step, those that may not run among them; the same for every row
    step: int  #: number of this step
    free_pages: int  #: pages that nobody holds
    host_free_pages: int  #: pages that the host tier could take
    page_size: int  #: tokens per page
    max_batch: int  #: requests that run at once
    lag: int  #: steps that the host hears late

    def __len__(self) -> int:
        return len(self.seat)

    def row(self, i: int) -> RowView:
        """Return row `i` as plain numbers."""
        return RowView(*(getattr(self, name)[i].item() for name in RowView._fields))

    def rows(self, index: Index) -> list[RowView]:
        """Return the rows at `index` as plain numbers."""
        columns: Any = (getattr(self, name)[index].tolist() for name in RowView._fields)
        return list(map(RowView._make, zip(*columns, strict=True)))

    def find(self, seats: Ints) -> Ints:
        """Return the row of each of `seats`, -1 for those that are not in the view."""
        row_of = np.full(max(self.seat.max(initial=0), abs(seats).max(initial=0)) + 1, -1)
        row_of[self.seat] = np.arange(len(self.seat))
        return np.where(seats < 0, -1, row_of[seats])


_DTYPES: dict[str, type] = {"Ints": np.int64, "Bools": np.bool_, "Floats": np.float64}
_COLUMNS = tuple(_DTYPES[str(f.type)] for f in fields(View) if str(f.type) in _DTYPES)


def build_view(
    rows: Sequence[RowView],
    *,
    step: int,
    free_pages: int,
    host_free_pages: int,
    page_size: int,
    max_batch: int,
    lag: int,
) -> View:
    """Stack `rows` (oldest first) into a `View`."""
    values: Any = zip(*rows, strict=True) if rows else ((),) * len(_COLUMNS)
    columns: list[Any] = [np.array(column, dtype=dtype) for column, dtype in zip(values, _COLUMNS, strict=True)]
    return View(
        *columns,
        step=step,
        free_pages=free_pages,
        host_free_pages=host_free_pages,
        page_size=page_size,
        max_batch=max_batch,
        lag=lag,
    )
