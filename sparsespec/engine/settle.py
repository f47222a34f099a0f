"""Line 7 of the round, on the device: accept, roll back, write tokens, and gather what the host is to hear.

Runs in the step's stream in every loop, so the next step may be launched before the host has heard this one. All rows
of a batch take part; those that decode change, and for the others every formula gives what is there already.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsespec.core.batch import Batch, Chained, ChainRows, Outcome
from sparsespec.core.plan import Phase
from sparsespec.engine.flight import Flight
from sparsespec.engine.host import land
from sparsespec.kernels.draw.api import logprobs, top_probability
from sparsespec.kernels.implementations import fastest


def settle(
    batch: Batch, judged: ChainRows | None, chained: Chained | None, logits: Tensor | None
) -> tuple[Outcome, Tensor]:
    """Move every row's state forward; returns the outcome and the confidence of each row [B]."""
    state = batch.state
    drafted = state.d[batch.seat]
    filling = batch.phase == Phase.PREFILL
    state.filled[batch.seat] += torch.where(filling, batch.n_query, 0)
    if judged is None or chained is None or logits is None:
        nothing = torch.zeros_like(batch.seat)
        return Outcome(batch, nothing, drafted), nothing.to(torch.float64)
    _write_tokens(batch, judged, chained)
    if chained.laws is not None and state.laws is not None:
        _keep_laws(batch, judged, chained, drafted)
    newest = (judged.first + chained.emitted - 1).clamp(min=0, max=len(logits) - 1)
    confidence = top_probability(logits[newest], impl=fastest(logits)).to(torch.float64)
    _advance(batch, chained.emitted, confidence)
    return Outcome(batch, chained.emitted, drafted), confidence


def _write_tokens(batch: Batch, judged: ChainRows, chained: Chained) -> None:
    """Write what each row emitted behind its first query; nothing else in the token array changes."""
    tokens, seat = batch.state.tokens, batch.seat[:, None]
    step = torch.arange(chained.tokens.shape[1], device=tokens.device)
    columns = (judged.position[:, None] + step).clamp(max=tokens.shape[1] - 1)
    written = step < chained.emitted[:, None]
    tokens[seat, columns] = torch.where(written, chained.tokens, tokens[seat, columns])


def _keep_laws(batch: Batch, judged: ChainRows, chained: Chained, drafted: Tensor) -> None:
    """Remember the law that each new draft was drawn from."""
    laws, all_laws = batch.state.laws, chained.laws
    assert laws is not None and all_laws is not None
    drafting = batch.phase == Phase.DRAFT
    for j in range(chained.tokens.shape[1]):
        fresh = (drafting & (j < chained.emitted)).nonzero().squeeze(1)
        laws[batch.seat[fresh], drafted[fresh] + j] = all_laws[judged.first[fresh] + j].to(laws.dtype)


def _advance(batch: Batch, emitted: Tensor, confidence: Tensor) -> None:
    state, seat = batch.state, batch.seat
    drafting, verifying = batch.phase == Phase.DRAFT, batch.phase == Phase.VERIFY
    d, ended = state.d[seat], state.ended[seat]
    state.d[seat] = torch.where(drafting, d + emitted, torch.where(verifying, 0, d))
    c = state.c[seat] + torch.where(verifying, emitted, 0)
    state.c[seat] = c
    state.filled[seat] = torch.where(verifying, c - 1, state.filled[seat])
    low = (emitted > 0) & (confidence < state.stop_below[seat])
    state.ended[seat] = torch.where(drafting, ended | low, ended & ~verifying)


def report(
    batch: Batch, judged: ChainRows, chained: Chained, finite: Tensor, confidence: Tensor, kv_read: Tensor
) -> Tensor:
    """Return what the host hears of each row, int64 [B, columns] in the order of `engine/flight.py`."""
    state, seat, live = batch.state, batch.seat, batch.live
    owner = batch.row_of[: len(finite)]
    broken = torch.zeros_like(live).index_add_(0, owner, (~finite).to(torch.int64))
    columns = (
        live,
        chained.emitted,
        judged.count,
        chained.accepted,
        state.d[seat],
        state.ended[seat],
        broken == 0,
    )
    drafting, runs = batch.phase == Phase.DRAFT, live > 0
    floats = (
        torch.where(drafting & runs, confidence, torch.nan),
        torch.where(runs, kv_read, 0),
        torch.where(runs, batch.start + live, 0),
    )
    bits = torch.stack([x.to(torch.float64) for x in floats], 1).view(torch.int64)
    return torch.cat((torch.stack([x.to(torch.int64) for x in columns], 1), bits, chained.tokens), 1)


def report_logprobs(flight: Flight, judged: ChainRows, chained: Chained, logits: Tensor) -> None:
    """Copy the log-probabilities of what was emitted into the flight's host buffers."""
    column = torch.arange(chained.tokens.shape[1], device=logits.device)
    # tokens behind what a row emitted go to a place behind the last, which is cut off
    place = torch.where(column < chained.emitted[:, None], judged.first[:, None] + column, len(logits))
    chosen = torch.zeros(len(logits) + 1, dtype=torch.int64, device=logits.device)
    chosen = chosen.scatter_(0, place.flatten(), chained.tokens.flatten())[:-1]
    n = flight.logprob_ids.shape[1] - 1
    ids, values, chosen_values = logprobs(logits, chosen, n, impl="reference")
    land(torch.cat((chosen[:, None], ids), 1), flight.logprob_ids)
    land(torch.cat((chosen_values[:, None], values), 1).to(torch.float64), flight.logprob_values)
