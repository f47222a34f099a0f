"""Line 8 of the round: what a flight reported goes to the requests it belongs to, and to whoever learns from it.

Trouble ends the request it belongs to and no other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sparsespec.core.errors import SparseSpecError
from sparsespec.core.plan import Phase
from sparsespec.core.result import RowResult
from sparsespec.core.view import Ints
from sparsespec.engine.desk import Desk
from sparsespec.engine.flight import Flight, Landed
from sparsespec.engine.parts import Parts
from sparsespec.engine.request import Request
from sparsespec.engine.roster import Roster
from sparsespec.engine.speaker import Speaker
from sparsespec.metrics.seats import SeatCounts


class Listener:
    """Takes flights in.

    Args:
        roster: What is known of each seat.
        counts: What speculation did for each.
        desk: Who sits there.
        speaker: Turns committed tokens into output.
        parts: Who observes results, and who releases pages.
        leave: Called with a request that ended by what it said.
        fail: Called with a request and what went wrong with it.
    """

    def __init__(
        self,
        roster: Roster,
        counts: SeatCounts,
        desk: Desk,
        speaker: Speaker,
        parts: Parts,
        *,
        leave: Callable[[Request], None],
        fail: Callable[[Request, Exception], None],
    ) -> None:
        self._roster, self._counts, self._desk, self._speaker, self._parts = roster, counts, desk, speaker, parts
        self._leave, self._fail = leave, fail

    def hear(self, flight: Flight, landed: Landed | Exception) -> list[RowResult]:
        """Take in a flight, the oldest unheard one, and return what its rows reported of requests that still run."""
        roster = self._roster
        sent = roster.unheard.popleft()
        if isinstance(landed, Exception):
            for request in (*flight.requests, *self._heirs(flight.requests)):
                self._fail(request, landed)
            return []
        heard = roster.number[sent.seat] == sent.number
        for j in (heard & ~landed.finite).nonzero()[0].tolist():
            self._fail(flight.requests[j], SparseSpecError("the model's logits were not finite"))
        heard &= landed.finite
        results = flight.results(landed, heard)
        who = [flight.requests[j] for j in heard.nonzero()[0].tolist()]
        roster.heard(sent, landed, heard)
        kept, ended = self._speak(who, results)
        # tokens behind a stop were trimmed: they count neither as output nor as what dense would have read
        self._counts.hear(
            sent.seat[heard],
            sent.verify[heard],
            landed.live[heard],
            landed.candidates[heard],
            landed.accepted[heard],
            landed.kv_read[heard],
            landed.kv_full[heard],
            kept,
        )
        for request in ended:
            self._leave(request)
        # a row that emitted less than it might have may hold pages that it needs no more
        self._teach(who, results, (landed.emitted < sent.n_query)[heard].tolist())
        return results

    def _speak(self, who: list[Request], results: list[RowResult]) -> tuple[Ints, list[Request]]:
        """Turn committed tokens into output; return how many of each row became that, and who ended by them."""
        kept: list[int] = []
        ended: list[Request] = []
        commit, draft = self._speaker.commit, Phase.DRAFT
        for request, result in zip(who, results, strict=True):
            said = len(request.output)
            if result.phase is not draft:
                try:
                    if commit(request, result):
                        ended.append(request)
                except Exception as error:
                    self._fail(request, error)
            kept.append(len(request.output) - said)
        return np.array(kept, dtype=np.int64), ended

    def _teach(self, who: list[Request], results: list[RowResult], short: list[bool]) -> None:
        """Let policies observe, and release pages behind what can be known of rows that came out `short`."""
        bounds, tiers = self._roster.bounds(), self._parts.tiers
        learners = (self._parts.length.observe, self._parts.scheduler.observe)
        for request, result, less in zip(who, results, short, strict=True):
            if request.finished:
                continue
            try:
                for observe in learners:
                    observe(result)
                if less:
                    seat = request.seat
                    tiers.commit(seat, int(bounds.n_hi[seat]), int(bounds.d_hi[seat]))
            except Exception as error:
                self._fail(request, error)

    def _heirs(self, aboard: Sequence[Request]) -> list[Request]:
        """Return samples that took over prompt pages which a flight that went wrong may have left unwritten."""
        groups, shared = {request.group for request in aboard}, self._parts.tiers.shared_pages
        return [other for other in self._desk.seated.values() if other.group in groups and shared(other.seat)]
