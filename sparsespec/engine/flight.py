"""A launched step on its way: which rows it carries, and the host buffers it brings along and lands in.

What it lands in holds a sentinel until the flight's event; reading it before is a bug that shows at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sparsespec.core.config import Geometry
from sparsespec.core.device import Event
from sparsespec.core.plan import Phase, Row
from sparsespec.core.result import RowResult
from sparsespec.engine.host import host_array
from sparsespec.engine.pack import N_COLUMNS
from sparsespec.engine.request import Request

SENTINEL = np.iinfo(np.int64).min
NO_IDS, NO_VALUES = np.zeros((0, 1), np.int64), np.zeros((0, 1), np.float64)
N_INTS, N_FLOATS = 7, 3
"""Columns of results: live, emitted, candidates, accepted, d, ended, finite; then the bits of the floats confidence,
kv_read, kv_full; then the tokens."""


def result_columns(geometry: Geometry) -> int:
    """Return how many numbers a row reports."""
    return N_INTS + N_FLOATS + row_width(geometry)


def row_width(geometry: Geometry) -> int:
    """Return the query tokens of the widest decoding row there can be."""
    return 1 + max(geometry.max_draft, geometry.max_guess)


class Buffers:
    """The host's end of one flight: a packed step, new entries of page tables, and results."""

    def __init__(self, geometry: Geometry) -> None:
        g = geometry
        self.packed = host_array((N_COLUMNS * g.n_seats,), 0, np.int64, g.device)
        self.table = host_array((g.n_seats * g.pages_per_seat, 3), 0, np.int64, g.device)
        self.results = host_array((g.n_seats, result_columns(g)), SENTINEL, np.int64, g.device)


@dataclass(slots=True, eq=False)
class Flight:
    """One launched step; `rows[j]` belongs to `requests[j]`, whoever sits in its seat by now. Decoding rows are first.

    Attributes:
        rows: The rows, in the order of the batch.
        requests: Whose they are.
        buffers: Its end of the copies, its own until it was heard.
        n_table: Entries that page tables gain.
        step: Number of the step.
        event: When it has landed.
        before: Launches since the last flight, whose trouble is this one's to report.
    """

    rows: tuple[Row, ...]
    requests: tuple[Request, ...]
    buffers: Buffers
    n_table: int
    step: int
    logprob_ids: npt.NDArray[np.int64] = field(
        default_factory=lambda: NO_IDS
    )  # [T, 1 + n] for the T logit rows, if asked for
    logprob_values: npt.NDArray[np.float64] = field(default_factory=lambda: NO_VALUES)
    event: Event | None = None
    before: tuple[Event, ...] = ()

    @classmethod
    def of(
        cls, rows: tuple[Row, ...], requests: tuple[Request, ...], buffers: Buffers, *, n_table: int, step: int,
        n_logits: int, device: str,
    ) -> Flight:  # fmt: skip
        """Return a flight whose results are the sentinel until they come from `device`."""
        buffers.results[: len(rows), :N_INTS] = SENTINEL
        prefill = Phase.PREFILL
        asked = [
            n
            for row, request in zip(rows, requests, strict=True)
            if (n := request.params.logprobs) is not None and row.phase is not prefill
        ]
        flight = cls(rows=rows, requests=requests, buffers=buffers, n_table=n_table, step=step)
        if asked:
            shape = (n_logits, 1 + max(asked))
            flight.logprob_ids = host_array(shape, SENTINEL, np.int64, device)
            flight.logprob_values = host_array(shape, np.nan, np.float64, device)
        return flight

    @property
    def wants_logprobs(self) -> bool:
        """Whether anybody aboard asked for log-probabilities."""
        return bool(self.logprob_ids.size)

    def results(self) -> list[tuple[Request, RowResult | None, bool]]:
        """Return, after the event, each decoding row's request, result and whether the device ended the round.

        The result is None where the row's logits were not finite.
        """
        prefill = Phase.PREFILL
        n = sum(row.phase is not prefill for row in self.rows)
        landed = self.buffers.results[:n]
        assert self.event is not None and not (landed[:, :N_INTS] == SENTINEL).any(), (
            "a flight was read before it landed"
        )
        ints = landed.tolist()
        floats = landed[:, N_INTS : N_INTS + N_FLOATS].view(np.float64).tolist()
        first, at, wanted = 0, N_INTS + N_FLOATS, self.wants_logprobs
        heard: list[tuple[Request, RowResult | None, bool]] = []
        for row, request, numbers, (confidence, kv_read, kv_full) in zip(
            self.rows, self.requests, ints, floats, strict=False
        ):
            seat, phase, n_query, k = row
            live, emitted, candidates, accepted, d, ended, finite = numbers[:N_INTS]
            assert 0 <= live <= n_query, f"{live} live queries in {row}"
            # positional, in the order of the fields: this line runs for every row of every step
            result = RowResult(
                seat,
                phase,
                live,
                tuple(numbers[at : at + emitted]),
                max(candidates, 0),
                accepted,
                d if ended else k,
                confidence,
                kv_read,
                kv_full,
                self._logprobs(request, row, first, emitted) if wanted else (),
            )
            heard.append((request, result if finite else None, bool(ended)))
            first += n_query
        return heard

    def _logprobs(
        self, request: Request, row: Row, first: int, emitted: int
    ) -> tuple[tuple[tuple[int, float], ...], ...]:
        asked = request.params.logprobs
        if asked is None or row.phase is not Phase.VERIFY:
            return ()
        ids = self.logprob_ids[first : first + emitted, : 1 + asked].tolist()
        values = self.logprob_values[first : first + emitted, : 1 + asked].tolist()
        return tuple(tuple(zip(i, v, strict=True)) for i, v in zip(ids, values, strict=True))
