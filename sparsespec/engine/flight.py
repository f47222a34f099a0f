"""A launched step on its way: which rows it carries, and the host buffers it brings along and lands in.

What it lands in holds a sentinel until the flight's event; reading it before is a bug that shows at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import compress, repeat
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sparsespec.core.config import Geometry
from sparsespec.core.device import Event
from sparsespec.core.plan import PHASES, Phase, Row, Rows
from sparsespec.core.result import RowResult
from sparsespec.core.view import Bools, Floats, Ints
from sparsespec.engine.host import host_array
from sparsespec.engine.request import Request
from sparsespec.kernels.lay_out.api import N_COLUMNS

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


class Landed(NamedTuple):
    """What the decoding rows of a flight reported, columns [R]; views of its buffers, until they are launched again."""

    live: Ints
    emitted: Ints
    candidates: Ints
    accepted: Ints
    k: Ints
    ended: Bools
    finite: Bools
    confidence: Floats
    kv_read: Floats
    kv_full: Floats
    tokens: Ints  # [R, row width]; the first `emitted` of each row count


@dataclass(slots=True, eq=False)
class Flight:
    """One launched step; row j belongs to `requests[j]`, whoever sits in its seat by now. Decoding rows are first.

    Attributes:
        rows: The rows, in the order of the batch.
        n_decoding: How many of them decode.
        requests: Whose they are.
        buffers: Its end of the copies, its own until it was heard.
        n_table: Entries that page tables gain.
        step: Number of the step.
        event: When it has landed.
        before: Launches since the last flight, whose trouble is this one's to report.
    """

    rows: Rows
    n_decoding: int
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

    def __post_init__(self) -> None:
        self.buffers.results[: self.n_decoding, :N_INTS] = SENTINEL

    def ask_logprobs(self, n_logits: int, n: int, device: str) -> None:
        """Make room for the log-probabilities of each logit row's token and `n` others."""
        shape = (n_logits, 1 + n)
        self.logprob_ids = host_array(shape, SENTINEL, np.int64, device)
        self.logprob_values = host_array(shape, np.nan, np.float64, device)

    @property
    def wants_logprobs(self) -> bool:
        """Whether anybody aboard asked for log-probabilities."""
        return bool(self.logprob_ids.size)

    def landed(self) -> Landed:
        """Return, after the event, what the decoding rows reported."""
        rows, results = self.rows[: self.n_decoding], self.buffers.results[: self.n_decoding]
        ints = results[:, :N_INTS]
        assert self.event is not None and not (ints == SENTINEL).any(), "a flight was read before it landed"
        live, emitted, candidates, accepted, d, ended, finite = ints.T
        assert ((live >= 0) & (live <= rows.n_query)).all(), f"{live.tolist()} live queries in {rows}"
        at = N_INTS + N_FLOATS
        confidence, kv_read, kv_full = results[:, N_INTS:at].view(np.float64).T
        return Landed(
            live,
            emitted,
            np.maximum(candidates, 0),
            accepted,
            np.where(ended != 0, d, rows.k),
            ended != 0,
            finite != 0,
            confidence,
            kv_read,
            kv_full,
            results[:, at:],
        )

    def results(self, landed: Landed, heard: Bools) -> list[RowResult]:
        """Return one by one what the `heard` [R] among the decoding rows reported."""
        rows = self.rows[: self.n_decoding].take(heard)
        columns: Any = (column[heard] for column in landed)
        few = Landed(*columns)
        emitted = few.emitted.tolist()
        logprobs: Any = repeat(())
        if self.wants_logprobs:
            first = (self.rows.n_query.cumsum() - self.rows.n_query)[: self.n_decoding][heard]
            aboard = compress(self.requests, heard)
            logprobs = map(self._logprobs, aboard, rows, first.tolist(), emitted)
        # positional, in the order of the fields: this runs for every row of every step
        fields: Any = zip(
            rows.seat.tolist(),
            [PHASES[phase] for phase in rows.phase.tolist()],
            few.live.tolist(),
            [tuple(row[:n]) for row, n in zip(few.tokens.tolist(), emitted, strict=True)],
            few.candidates.tolist(),
            few.accepted.tolist(),
            few.k.tolist(),
            few.confidence.tolist(),
            few.kv_read.tolist(),
            few.kv_full.tolist(),
            logprobs,
            strict=False,
        )
        return list(map(RowResult._make, fields))

    def _logprobs(
        self, request: Request, row: Row, first: int, emitted: int
    ) -> tuple[tuple[tuple[int, float], ...], ...]:
        asked = request.params.logprobs
        if asked is None or row.phase is not Phase.VERIFY:
            return ()
        ids = self.logprob_ids[first : first + emitted, : 1 + asked].tolist()
        values = self.logprob_values[first : first + emitted, : 1 + asked].tolist()
        return tuple(tuple(zip(i, v, strict=True)) for i, v in zip(ids, values, strict=True))
