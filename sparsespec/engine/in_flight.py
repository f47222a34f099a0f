"""A launched step on its way, and what it brings back: the host's end of both copies.

Result buffers hold a sentinel until the step's event; reading them before is a bug that shows at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sparsespec.core.config import Geometry
from sparsespec.core.device import Event
from sparsespec.core.plan import VERIFY
from sparsespec.core.result import Logprobs, RowResults
from sparsespec.core.view import Bools, Floats, Ints
from sparsespec.engine.pack import PackedStep
from sparsespec.engine.transfer import host_array
from sparsespec.kernels.lay_out.api import N_COLUMNS

SENTINEL = np.iinfo(np.int64).min
NO_IDS, NO_VALUES = np.zeros((0, 1), np.int64), np.zeros((0, 1), np.float64)
N_INTS, N_FLOATS = 7, 3
"""Columns of results: live, emitted, candidates, accepted, n_drafted, ended, finite; then the bits of the floats
confidence, kv_read, kv_full; then the tokens."""


def result_columns(geometry: Geometry) -> int:
    """Return how many numbers a row reports."""
    return N_INTS + N_FLOATS + row_width(geometry)


def row_width(geometry: Geometry) -> int:
    """Return the query tokens of the widest decoding row there can be."""
    return 1 + max(geometry.max_draft, geometry.max_guess)


class Buffers:
    """The host's end of one step in flight: what is copied to the device at once, and results."""

    def __init__(self, geometry: Geometry) -> None:
        g = geometry
        # columns of rows, and behind them (seat, block, page) entries of page tables
        self.packed = host_array((N_COLUMNS * g.n_seats + 3 * g.n_seats * g.pages_per_seat,), 0, np.int64, g.device)
        self.results = host_array((g.n_seats, result_columns(g)), SENTINEL, np.int64, g.device)


@dataclass(frozen=True, slots=True, eq=False)
class StepOutput:
    """What a step brought back: columns [R] of its decoding rows, or the error that it ended in.

    The columns are views of the step's buffers, until they are used by another step.
    """

    packed: PackedStep
    live: Ints
    emitted: Ints
    candidates: Ints
    accepted: Ints
    k: Ints  # length of the round, lower than planned where the device ended it
    ended: Bools  # the device ended the round before its length
    finite: Bools  # the logits were finite
    confidence: Floats
    kv_read: Floats
    kv_full: Floats
    tokens: Ints  # [R, row width]; the first `emitted` of each row count
    logprob_ids: npt.NDArray[np.int64]
    logprob_values: npt.NDArray[np.float64]

    def results(self, rows: Bools) -> RowResults:
        """Return what the `rows` [R] reported."""
        decoding = self.packed.decoding
        return RowResults(
            seat=decoding.seat[rows],
            phase=decoding.phase[rows],
            live=self.live[rows],
            n_emitted=self.emitted[rows],
            tokens=self.tokens[rows],
            n_candidates=self.candidates[rows],
            n_accepted=self.accepted[rows],
            k=self.k[rows],
            confidence=self.confidence[rows],
            kv_read=self.kv_read[rows],
            kv_full=self.kv_full[rows],
            logprobs=self._logprobs(rows) if self.logprob_ids.size else (),
        )

    def _logprobs(self, rows: Bools) -> tuple[tuple[Logprobs, ...], ...]:
        packed = self.packed
        first = packed.columns[4]
        found: list[tuple[Logprobs, ...]] = []
        for i in rows.nonzero()[0].tolist():
            n, at = int(packed.n_logprobs[i]), int(first[i])
            if n < 0 or packed.rows.phase[i] != VERIFY:
                found.append(())
                continue
            here = slice(at, at + int(self.emitted[i]))
            ids, values = (x[here, : 1 + n].tolist() for x in (self.logprob_ids, self.logprob_values))
            found.append(tuple(tuple(zip(i, v, strict=True)) for i, v in zip(ids, values, strict=True)))
        return tuple(found)


@dataclass(frozen=True, slots=True, eq=False)
class FailedStep:
    """A step that ended in an error, which belongs to all its requests."""

    packed: PackedStep
    error: Exception


@dataclass(slots=True, eq=False)
class InFlightStep:
    """One launched step.

    Attributes:
        packed: What was launched.
        buffers: Its end of the copies, its own until it was collected.
        before: Launches since the step before, whose errors this one reports.
        event: When its results are there.
    """

    packed: PackedStep
    buffers: Buffers
    before: tuple[Event, ...] = ()
    event: Event | None = None
    # [T, 1 + n] for the T logit rows, if anybody asked
    logprob_ids: npt.NDArray[np.int64] = field(default_factory=lambda: NO_IDS)
    logprob_values: npt.NDArray[np.float64] = field(default_factory=lambda: NO_VALUES)

    def __post_init__(self) -> None:
        self.buffers.results[: self.packed.n_decoding, :N_INTS] = SENTINEL

    def ask_logprobs(self, n_logits: int, n: int, device: str) -> None:
        """Make room for the log-probabilities of each logit row's token and `n` others."""
        shape = (n_logits, 1 + n)
        self.logprob_ids = host_array(shape, SENTINEL, np.int64, device)
        self.logprob_values = host_array(shape, np.nan, np.float64, device)

    @property
    def wants_logprobs(self) -> bool:
        """Whether any of its requests asked for log-probabilities."""
        return bool(self.logprob_ids.size)

    def output(self) -> StepOutput:
        """Return, after the event, what the decoding rows reported."""
        n = self.packed.n_decoding
        rows, results = self.packed.rows[:n], self.buffers.results[:n]
        ints = results[:, :N_INTS]
        assert self.event is not None and not (ints == SENTINEL).any(), "a step was read before its event"
        live, emitted, candidates, accepted, n_drafted, ended, finite = ints.T
        assert ((live >= 0) & (live <= rows.n_query)).all(), f"{live.tolist()} live queries in {rows}"
        at = N_INTS + N_FLOATS
        confidence, kv_read, kv_full = results[:, N_INTS:at].view(np.float64).T
        return StepOutput(
            packed=self.packed,
            live=live,
            emitted=emitted,
            candidates=np.maximum(candidates, 0),
            accepted=accepted,
            k=np.where(ended != 0, n_drafted, rows.k),
            ended=ended != 0,
            finite=finite != 0,
            confidence=confidence,
            kv_read=kv_read,
            kv_full=kv_full,
            tokens=results[:, at:],
            logprob_ids=self.logprob_ids,
            logprob_values=self.logprob_values,
        )
