"""Lines 5 to 7 of the round: what one launch does on the device.

Everything here runs in stream order on device state, and nothing here is read by the host before the flight's event.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsespec.core.batch import State
from sparsespec.core.config import Geometry
from sparsespec.engine.checked import CheckedSelection, check_live
from sparsespec.engine.flight import Flight
from sparsespec.engine.pack import HostBatch, guess_room, lay_out, unpack
from sparsespec.engine.parts import Parts
from sparsespec.engine.runner import Model, chain_rows, forward
from sparsespec.engine.settle import report, settle


@torch.inference_mode()
def run_round(host: HostBatch, flight: Flight, *, model: Model, parts: Parts, state: State, geometry: Geometry) -> None:
    """Propose, select, forward, chain, settle, and copy the results into `flight`'s host buffers."""
    batch, rows = unpack(host, state)
    if parts.proposer.guesses:
        known = batch.start + 1
        guesses = parts.proposer.propose(state, batch.seat, known, guess_room(batch))
        batch.live = batch.live + guesses
    if geometry.checked:
        check_live(batch)
    lay_out(batch, host.n_tokens, geometry.page_size)

    choice = parts.selector.select(batch) if parts.selector.drafts else None
    if choice is not None and geometry.checked:
        choice = CheckedSelection(choice, batch)
    logits = forward(model, parts.attention, batch, choice, rows, host.n_logits)
    if logits is None:
        outcome, _ = settle(batch, rows, None, None, None)
    else:
        logits, finite = _finite(logits)
        judged = chain_rows(batch, rows, host.width)
        q = state.laws[batch.seat[rows]] if state.laws is not None else None
        chained = parts.verifier.chain(logits, judged, q)
        outcome, confidence = settle(batch, rows, judged, chained, logits)
        kv_read = parts.attention.read()[rows]
        report(flight, batch, rows, judged, chained, logits, finite, confidence, kv_read)
    if parts.selector.drafts:
        parts.selector.observe(outcome)
    if parts.proposer.guesses:
        parts.proposer.observe(outcome)


def _finite(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits with broken rows replaced by zeros, and which rows [T] were sound.

    A broken row costs its own request and no other: the verifier must not meet NaN.
    """
    finite = logits.amax(-1).isfinite()
    return torch.where(finite[:, None], logits, 0), finite
