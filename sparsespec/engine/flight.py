"""A launched step on its way: which rows it carries, and the host buffers its results will land in.

The buffers hold a sentinel until the flight's event; reading one before is a bug that shows at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sparsespec.core.device import Event
from sparsespec.core.plan import Phase, Row
from sparsespec.core.result import RowResult
from sparsespec.engine.host import host_array
from sparsespec.engine.request import Request

SENTINEL = np.iinfo(np.int64).min
N_INTS, N_FLOATS = 7, 3
"""Columns of the integer buffer before the tokens: live, emitted, candidates, accepted, d, ended, finite; and of the
float buffer: confidence, kv_read, kv_full."""


@dataclass(slots=True, eq=False)
class Flight:
    """One launched step; `rows[j]` belongs to `requests[j]`, whoever sits in its seat by now."""

    rows: tuple[Row, ...]
    requests: tuple[Request, ...]
    ints: npt.NDArray[np.int64]  # [R, N_INTS + n_query], decoding rows only
    floats: npt.NDArray[np.float64]  # [R, N_FLOATS]
    logprob_ids: npt.NDArray[np.int64]  # [T, 1 + n] for the T logit rows; empty unless asked for
    logprob_values: npt.NDArray[np.float64]
    event: Event | None = None
    before: tuple[Event, ...] = ()  # launches since the last flight, whose trouble is this one's to report
    decoding: tuple[int, ...] = field(default=())  # indices of DRAFT and VERIFY rows

    @classmethod
    def of(cls, rows: tuple[Row, ...], requests: tuple[Request, ...], device: str) -> Flight:
        """Return a flight whose buffers hold the sentinel, until results come from `device`."""
        decoding = tuple(j for j, row in enumerate(rows) if row.phase is not Phase.PREFILL)
        width = max((rows[j].n_query for j in decoding), default=0)
        asked = [n for j in decoding if (n := requests[j].params.logprobs) is not None]
        logits = sum(rows[j].n_query for j in decoding) if asked else 0
        columns = 1 + max(asked, default=0)
        return cls(
            rows=rows,
            requests=requests,
            ints=host_array((len(decoding), N_INTS + width), SENTINEL, np.int64, device),
            floats=host_array((len(decoding), N_FLOATS), np.nan, np.float64, device),
            logprob_ids=host_array((logits, columns), SENTINEL, np.int64, device),
            logprob_values=host_array((logits, columns), np.nan, np.float64, device),
            decoding=decoding,
        )

    def results(self) -> list[tuple[Request, RowResult | None, bool]]:
        """Return, after the event, each decoding row's request, result and whether the device ended the round.

        The result is None where the row's logits were not finite.
        """
        assert self.event is not None and not (self.ints[:, :N_INTS] == SENTINEL).any(), (
            "a flight was read before it landed"
        )
        first = 0
        heard: list[tuple[Request, RowResult | None, bool]] = []
        for r, j in enumerate(self.decoding):
            row, request = self.rows[j], self.requests[j]
            live, emitted, candidates, accepted, d, ended, finite = self.ints[r, :N_INTS].tolist()
            assert 0 <= live <= row.n_query, f"{live} live queries in {row}"
            result = RowResult(
                seat=row.seat,
                phase=row.phase,
                live=live,
                tokens=tuple(self.ints[r, N_INTS : N_INTS + emitted].tolist()),
                n_candidates=max(candidates, 0),
                n_accepted=accepted,
                k=d if ended else row.k,
                confidence=float(self.floats[r, 0]),
                kv_read=float(self.floats[r, 1]),
                kv_full=float(self.floats[r, 2]),
                logprobs=self._logprobs(request, row, first, emitted),
            )
            heard.append((request, result if finite else None, bool(ended)))
            first += row.n_query
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
