"""Lines 5 to 7 of the round: what one launch does on the device.

Everything here runs in stream order on device state, and nothing here is read by the host before the flight's event.
What lies between the copy to the device and the copy back is the same for every step of a shape, so with `graphs` it
is recorded when a shape is first met, and done again from the record afterwards.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sparsespec.core.batch import Batch, State
from sparsespec.core.config import Geometry
from sparsespec.core.device import Device
from sparsespec.core.protocols import Selection
from sparsespec.engine.checked import CheckedSelection, check_live
from sparsespec.engine.flight import Flight, result_columns, row_width
from sparsespec.engine.host import land, upload
from sparsespec.engine.pack import N_COLUMNS, lay_out, unpack
from sparsespec.engine.parts import Parts
from sparsespec.engine.runner import Model, forward
from sparsespec.engine.settle import fill, report_logprobs, settle
from sparsespec.engine.shape import SHORT, Shape
from sparsespec.engine.state import enter_pages
from sparsespec.kernels.chain_rows.api import chain_rows
from sparsespec.kernels.implementations import fastest


class Rounds:
    """The rounds of one engine.

    Args:
        device: Records where rounds are recorded.
        model: The model.
        parts: What is plugged in.
        state: What the seats hold.
        geometry: The sizes.
        graphs: Whether to record; steps must then have the shapes of `engine/shape.py`, with all rows.
    """

    def __init__(
        self, device: Device, model: Model, parts: Parts, state: State, geometry: Geometry, *, graphs: bool
    ) -> None:
        self._device, self._model, self._parts, self._state, self._geometry = device, model, parts, state, geometry
        self.graphs = graphs
        self._recorded: dict[Shape, Callable[[], object]] = {}
        n_rows = geometry.n_seats if graphs else 0
        # where the records read and write
        self._packed = torch.zeros((N_COLUMNS, n_rows), dtype=torch.int64, device=geometry.device)
        self._results = torch.zeros((n_rows, result_columns(geometry)), dtype=torch.int64, device=geometry.device)

    @property
    def memory(self) -> tuple[Tensor, Tensor]:
        """What records read and write besides the state."""
        return self._packed, self._results

    @torch.inference_mode()
    def run(self, flight: Flight, shape: Shape) -> None:
        """Do what `flight` brought along, and copy its results into its buffers."""
        host = flight.buffers
        if flight.n_table:
            enter_pages(self._state, upload(host.table[: flight.n_table], self._geometry.device))
        packed = upload(host.packed[: N_COLUMNS * shape.n_rows], self._geometry.device).view(N_COLUMNS, shape.n_rows)
        if not self.graphs or flight.wants_logprobs:
            results = self._round(packed, shape, flight)
        else:
            self._packed.copy_(packed)
            self._replay(shape)
            results = self._results
        if results is not None:
            land(results, host.results[: shape.n_rows])

    @torch.inference_mode()
    def rehearse(self, shape: Shape) -> None:
        """Record a shape before it is met, by a step in which nobody does anything."""
        self._packed.zero_()
        self._packed[0] = torch.arange(shape.n_rows, device=self._packed.device)
        self._replay(shape)

    def _replay(self, shape: Shape) -> None:
        if shape in self._recorded:
            self._recorded[shape]()
            return
        # once for real, which compiles and allocates what is not there yet
        self._do(shape)
        self._recorded[shape] = self._device.record(lambda: self._do(shape))

    def _do(self, shape: Shape) -> None:
        results = self._round(self._packed, shape)
        if results is not None:
            self._results.copy_(results)

    def _round(self, packed: Tensor, shape: Shape, flight: Flight | None = None) -> Tensor | None:
        """Propose, select, forward, chain, settle; return the results of all rows, None if no row draws."""
        parts, state, geometry = self._parts, self._state, self._geometry
        decodes = shape.n_logits == shape.n_tokens
        widest = max(SHORT, row_width(geometry)) if decodes else shape.n_tokens
        batch, room = unpack(packed, state, widest, 0 if flight is None else flight.step)
        if parts.proposer.guesses:
            known = batch.start + 1
            guesses = parts.proposer.propose(state, batch.seat, known, room)
            batch.live = batch.live + guesses
        if geometry.checked:
            check_live(batch)
        lay_out(batch, shape.n_tokens, geometry.page_size)
        # a selector selects before it observes, also where nobody asks it
        choice = self._choice(batch)
        logits = forward(self._model, parts.attention, batch, None if shape.plain else choice, shape.n_logits)
        if logits is None:
            results, outcome = None, fill(batch)
        else:
            logits, peak = _drawable(logits)
            judged = chain_rows(batch, row_width(geometry), impl=fastest(batch.seat))
            q = state.draft_logits[batch.seat] if state.draft_logits is not None else None
            chained = parts.verifier.chain(logits, judged, q)
            outcome, results = settle(batch, judged, chained, logits, peak, parts.attention.read())
            if flight is not None and flight.wants_logprobs:
                report_logprobs(flight, judged, chained, logits)
        if parts.selector.drafts:
            parts.selector.observe(outcome)
        if parts.proposer.guesses:
            parts.proposer.observe(outcome)
        return results

    def _choice(self, batch: Batch) -> Selection | None:
        if not self._parts.selector.drafts:
            return None
        choice = self._parts.selector.select(batch)
        return CheckedSelection(choice, batch) if self._geometry.checked else choice


def _drawable(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits that a verifier can draw from, and the best one of each row [T], not finite where a row is broken.

    A broken row costs its own request and no other: the reference must not meet NaN, the GPU's kernels may.
    """
    peak = logits.amax(-1)
    if fastest(logits) == "triton":
        return logits, peak
    return torch.where(peak.isfinite()[:, None], logits, 0), peak
